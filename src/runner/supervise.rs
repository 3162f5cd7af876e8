//! One binding with everything around it: its source opened, its leases extended, and opened again
//! when the source gave up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tracing::error;

use super::Runner;
use crate::{
    binding::{Binding, Health},
    handler::Handler,
    keyvalue::Buckets,
    manifest,
    nats::{Connection, NatsBuckets, NatsLedger, NatsSink, NatsSource, Provisioned},
    runtime::{self, BuildError, Surroundings},
    settle::backoff,
    shutdown::Shutdown,
};

/// How long to wait before a source that gave up is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// How long a source must have worked to be trusted again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The waits between tries to start a function before its first event.
const WARM_UP_MIN: Duration = Duration::from_millis(250);
const WARM_UP_MAX: Duration = Duration::from_secs(30);

/// What is known of a running binding.
#[derive(Debug, Clone)]
pub struct BindingStatus {
    /// Its name.
    pub name: String,
    /// How its function's first start went.
    pub start: watch::Receiver<Start>,
    /// Why its function cannot be called, while it cannot.
    pub degraded: watch::Receiver<Option<String>>,
    /// Why no events can be had, while they cannot.
    pub blocked: watch::Receiver<Option<String>>,
}

/// How the first start of a function went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// Not known yet.
    #[default]
    Pending,
    /// It took this long.
    Ready(Duration),
    /// It failed, and is tried again and again.
    Failed(String),
}

pub(super) struct Supervised {
    binding: Arc<Binding<NatsSink, NatsLedger>>,
    connection: Connection,
    provisioned: Arc<Provisioned>,
    blocked: watch::Sender<Option<String>>,
    start: Arc<watch::Sender<Start>>,
}

impl Supervised {
    pub(super) fn build(
        runner: &Runner,
        connection: &Connection,
        provisioned: &Arc<Provisioned>,
        spec: &manifest::Binding,
        function: &manifest::Function,
    ) -> Result<Self, BuildError> {
        let buckets: Arc<dyn Buckets> = Arc::new(NatsBuckets::new(connection.clone()));
        let surroundings = Surroundings {
            launcher: &runner.launcher,
            natives: &runner.natives,
            buckets: Some(&buckets),
        };
        let workers = runner.metrics.workers(&function.name);
        let handler = runtime::build_with(&surroundings, function, spec.concurrency, workers)?;
        let metrics = runner.metrics.binding(&spec.name);
        let manifest = &runner.manifest;
        let binding = Binding {
            name: manifest.name.clone(),
            spec: spec.clone(),
            consumer: format!("{}-{}", manifest.name, spec.name),
            dead_letter_subject: manifest.dead_letter.subject.clone(),
            handler,
            sink: NatsSink::new(connection.clone()),
            ledger: provisioned.ledger(connection, manifest, spec),
            health: Health::new(&spec.name, metrics.up.clone()),
            metrics,
            all_metrics: Arc::clone(&runner.metrics),
            observer: runner.observer.clone(),
            quarantine: Semaphore::new(1),
        };
        Ok(Self {
            binding: Arc::new(binding),
            connection: connection.clone(),
            provisioned: Arc::clone(provisioned),
            blocked: watch::Sender::new(None),
            start: Arc::default(),
        })
    }

    pub(super) fn handler(&self) -> Arc<dyn Handler> {
        Arc::clone(&self.binding.handler)
    }

    pub(super) fn status(&self) -> BindingStatus {
        BindingStatus {
            name: self.binding.spec.name.clone(),
            start: self.start.subscribe(),
            degraded: self.binding.health.watch(),
            blocked: self.blocked.subscribe(),
        }
    }

    /// Starts the function before its first event, again and again until it can: a mended function
    /// needs no event to be found well.
    pub(super) fn warm_up(&self) -> impl Future<Output = ()> + Send + use<> {
        let binding = Arc::clone(&self.binding);
        let start = Arc::clone(&self.start);
        async move {
            let began = Instant::now();
            let mut failures = 0;
            while let Err(fault) = binding.handler.start().await {
                binding.health.could_not_start(&fault.to_string());
                start.send_replace(Start::Failed(fault.to_string()));
                failures += 1;
                tokio::time::sleep(backoff(WARM_UP_MIN, WARM_UP_MAX, failures, 1.0)).await;
            }
            binding.health.ran();
            start.send_replace(Start::Ready(began.elapsed()));
        }
    }

    /// Runs the binding until the shutdown has drained it.
    pub(super) async fn run(self, shutdown: Shutdown) {
        while !shutdown.drain.is_cancelled() {
            let Err(why) = self.run_once(&shutdown).await else { return };
            error!(binding = self.binding.spec.name, why, "no events can be had");
            self.blocked.send_replace(Some(why));
            tokio::select! {
                () = tokio::time::sleep(REOPEN_AFTER) => {}
                () = shutdown.drain.cancelled() => {}
            }
        }
    }

    async fn run_once(&self, shutdown: &Shutdown) -> Result<(), String> {
        let spec = &self.binding.spec;
        let extensions = self.binding.metrics.lease_extensions.clone();
        let opened = NatsSource::open(&self.connection, &self.provisioned, spec, extensions).await;
        let (source, extender) = opened.map_err(|err| err.to_string())?;
        let mut background = JoinSet::new();
        background.spawn(extender);
        let running = Arc::clone(&self.binding).run(source, shutdown.clone());
        tokio::pin!(running);
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = tokio::time::sleep(SETTLED_AFTER) => {
                self.blocked.send_if_modified(|why| why.take().is_some());
                running.await
            }
        };
        ended.map_err(|err| err.to_string())
    }
}
