//! A private server and the streams that contenders read from and write to.

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Config,
};

use super::{
    components,
    it::harness::{NatsServer, Site, Streams},
    processes::children,
};

pub(crate) struct Bench {
    pub(crate) server: NatsServer,
    pub(crate) server_pid: u32,
    pub(crate) streams: Streams,
    /// Manifests and functions.
    pub(crate) site: Site,
    /// A component that does what the subject says: `nothing`, `echo`.
    pub(crate) component: std::path::PathBuf,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let me = std::process::id();
        let before = children(me);
        let server = NatsServer::start().await;
        let server_pid = children(me).into_iter().find(|pid| !before.contains(pid));
        let server_pid = server_pid.expect("the server is a child of the bench");
        let streams = server.streams().await;
        Self { server, server_pid, streams, site: Site::new(), component: components::conform() }
    }

    pub(crate) async fn create(&self, name: &str, subject: &str) {
        let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
        let config = Config { name, subjects, ..Config::default() };
        self.streams.js.create_stream(config).await.expect("the stream is made");
    }

    pub(crate) async fn delete(&self, stream: &str) {
        self.streams.js.delete_stream(stream).await.expect("the stream goes");
    }

    /// The durable of a contender that does not make its own, as wide as Pelton makes its.
    pub(crate) async fn consumer(&self, stream: &str, durable: &str, from: DeliverPolicy) {
        let config = pull::Config {
            durable_name: Some(durable.to_owned()),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: from,
            max_ack_pending: 4096,
            ..pull::Config::default()
        };
        let stream = self.streams.js.get_stream(stream).await.expect("the stream is there");
        stream.create_consumer(config).await.expect("the consumer is made");
    }

    /// Removes what a run has left, so that the next one finds the server as this one did.
    pub(crate) async fn tidy(&self, stream: &str, durables: &[String], owned: &str) {
        let source = self.streams.js.get_stream(stream).await.expect("the stream is there");
        for durable in durables {
            source.delete_consumer(durable).await.expect("the consumer goes");
        }
        let mut names = Vec::new();
        let mut all = self.streams.js.stream_names();
        while let Some(name) = futures_util::TryStreamExt::try_next(&mut all).await.expect("names")
        {
            names.push(name);
        }
        let owned = owned.to_uppercase();
        for name in names {
            if name.trim_start_matches("KV_").starts_with(&format!("{owned}_")) {
                self.delete(&name).await;
            }
        }
    }
}

/// A JSON event of so many bytes; there are 1,000 different orders.
pub(crate) fn event(number: usize, size: usize) -> String {
    let head = format!(r#"{{"order":"o-{:03}","item":""#, number % 1000);
    let pad = size.saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", "x".repeat(pad))
}
