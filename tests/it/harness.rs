//! What every integration test stands on: a folder, a nats-server, runners, and looks at what
//! they did. Everything is cleaned up by drop; a test that fails shows the logs.

mod cluster;
mod nats_server;
mod patience;
mod proxy;
mod runner;
mod scrape;
mod site;
mod streams;
mod verb;

pub(crate) use cluster::Cluster;
pub(crate) use nats_server::{NatsServer, free_port};
pub(crate) use patience::{PATIENCE, eventually};
pub(crate) use proxy::Proxy;
pub(crate) use runner::Runner;
pub(crate) use scrape::Scrape;
pub(crate) use site::Site;
pub(crate) use streams::{Letter, Streams};
pub(crate) use verb::{outcome, printed, told, verb};

/// How many events the tests under load send.
pub(crate) fn load() -> usize {
    std::env::var("PELTON_TEST_EVENTS")
        .map_or(2_000, |count| count.parse().expect("PELTON_TEST_EVENTS is a number"))
}
