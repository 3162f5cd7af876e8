//! Runs functions on NATS JetStream events: at least once, with retries, dead letters and metrics.

pub mod event;
pub mod handler;
pub mod manifest;
pub mod metrics;
pub mod runtime;
pub mod settle;
pub mod source;
