//! Runs functions on NATS JetStream events: at least once, with retries, dead letters and metrics.

pub mod binding;
pub mod cloudevents;
pub mod event;
pub mod handler;
pub mod letter;
pub mod manifest;
pub mod metrics;
pub mod nats;
pub mod observer;
pub mod outputs;
pub mod settle;
pub mod shutdown;
pub mod source;
pub mod subject;
