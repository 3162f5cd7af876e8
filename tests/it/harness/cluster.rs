//! Three nats-servers that are one.

use async_nats::jetstream::stream;

use super::{NatsServer, Streams, eventually, free_port};

/// A cluster on loopback, each node with a store of its own.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<NatsServer>,
}

impl Cluster {
    /// One that takes streams with three replicas.
    pub(crate) async fn start() -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        let mut nodes = Vec::with_capacity(ports.len());
        for (n, port) in ports.into_iter().enumerate() {
            let config = format!(
                "server_name: n{n}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
            );
            nodes.push(NatsServer::with_config(&config).await);
        }
        let cluster = Self { nodes };
        let streams = cluster.streams().await;
        eventually("the cluster takes streams", async || {
            let config =
                stream::Config { name: "TRY".to_owned(), num_replicas: 3, ..Default::default() };
            streams.js.create_stream(config).await.ok()?;
            streams.js.delete_stream("TRY").await.ok()
        })
        .await;
        cluster
    }

    pub(crate) fn url(&self, node: usize) -> String {
        self.nodes[node].url()
    }

    /// A connection of the test's own, which finds its way to whoever is there.
    pub(crate) async fn streams(&self) -> Streams {
        self.nodes[0].streams().await
    }

    pub(crate) async fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9().await;
    }

    pub(crate) async fn up(&mut self, node: usize) {
        self.nodes[node].up().await;
    }

    /// The node that leads a stream.
    pub(crate) async fn leader(&self, stream: &str) -> usize {
        let streams = self.streams().await;
        eventually(&format!("{stream} has a leader"), async || {
            let stream = streams.js.get_stream(stream).await.ok()?;
            let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
            leader.strip_prefix('n')?.parse().ok()
        })
        .await
    }

    /// Waits until every node has all of these streams.
    pub(crate) async fn whole(&self, names: &[&str]) {
        let streams = self.streams().await;
        for name in names {
            eventually(&format!("every node has {name}"), async || {
                let stream = streams.js.get_stream(*name).await.ok()?;
                let cluster = stream.cached_info().cluster.as_ref()?;
                let current = cluster.replicas.iter().filter(|replica| replica.current);
                (cluster.leader.is_some() && current.count() == 2).then_some(())
            })
            .await;
        }
    }
}
