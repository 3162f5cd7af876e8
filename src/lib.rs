//! Runs functions on NATS JetStream events: at least once, with retries, dead letters and metrics.

pub mod admin;
pub mod binding;
pub mod cloudevents;
pub mod deferral;
pub mod duration;
mod embed;
pub mod event;
pub mod handler;
pub mod key;
pub mod keyvalue;
pub mod letter;
pub mod manifest;
pub mod membership;
pub mod metrics;
pub mod nats;
pub mod observer;
pub mod outputs;
pub mod ownership;
mod panics;
pub mod partition;
pub mod redrive;
pub mod replay;
pub mod runner;
pub mod runtime;
pub mod settle;
pub mod shutdown;
pub mod source;
pub mod state;
pub mod subject;
pub mod telemetry;

pub use embed::{Builder, Error, Pelton};
pub use shutdown::Shutdown;
