//! One binding with everything around it: its source opened, its leases extended, and opened again
//! when the source gave up.

mod partitions;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tracing::{error, info, warn};

use super::{Ground, Runner};
use crate::{
    binding::{Binding, Health, Rate, Store},
    handler::Handler,
    keyvalue::Buckets,
    manifest::{self, Manifest},
    nats::{
        Connection, NatsBrake, NatsLease, NatsLedger, NatsSink, NatsSource, OrderedSource,
        Provisioned, Waiting, WithComebacks, owners_name,
    },
    ownership::{Ownership, Seat, a_name},
    settle::backoff,
    shutdown::Shutdown,
    source::{Fence, Source, SourceError},
};

/// How long to wait before a source that gave up is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// How long a source must have worked to be trusted again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The shortest life of an ownership: below it, a hiccup of the network is a takeover.
const OWNERSHIP_MIN: Duration = Duration::from_secs(1);

/// The waits between tries to start a function before its first event.
const WARM_UP_MIN: Duration = Duration::from_millis(250);
const WARM_UP_MAX: Duration = Duration::from_secs(30);

/// The bindings that are paused on all runners, and why.
pub type Paused = watch::Receiver<BTreeMap<String, String>>;

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
    /// The bindings that are paused, and why, as far as is known.
    pub paused: Paused,
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
    /// With partitions, as each of them has it.
    binding: Arc<Binding<NatsSink, NatsLedger>>,
    /// As it is written.
    whole: manifest::Binding,
    manifest: Arc<Manifest>,
    connection: Connection,
    provisioned: Arc<Provisioned>,
    /// The bucket that says who works on what.
    owners: String,
    buckets: Arc<dyn Buckets>,
    /// The bindings for which events came back from the dead letters.
    waiting: Waiting,
    blocked: watch::Sender<Option<String>>,
    start: Arc<watch::Sender<Start>>,
}

impl Supervised {
    /// The binding of a manifest, whose function `handler` runs.
    pub(super) fn new(
        runner: &Runner,
        (manifest, spec): (&Arc<Manifest>, &manifest::Binding),
        handler: Arc<dyn Handler>,
        provisioned: &Arc<Provisioned>,
        ground: &Ground,
    ) -> Self {
        let Ground { connection, buckets, waiting, .. } = ground;
        let metrics = runner.metrics.binding(&spec.name);
        let store = |state: &manifest::State| Store::new(Arc::clone(buckets), &state.bucket);
        let binding = Binding {
            name: manifest.name.clone(),
            spec: spec.of_one_partition(),
            consumer: format!("{}-{}", manifest.name, spec.name),
            dead_letter_subject: manifest.dead_letter.subject.clone(),
            handler,
            sink: NatsSink::new(connection.clone()),
            ledger: provisioned.ledger(connection, manifest, spec),
            store: spec.state.as_ref().map(store),
            rate: spec.rate.map(Rate::new),
            health: Health::new(&spec.name, metrics.up.clone()),
            deferral: provisioned.deferral(manifest, spec),
            brake: Arc::new(NatsBrake::new(connection, manifest, spec)),
            metrics,
            all_metrics: Arc::clone(&runner.metrics),
            observer: runner.observer.clone(),
            quarantine: Semaphore::new(1),
            replay: None,
            turns: Semaphore::new(spec.concurrency.get()),
        };
        Self {
            binding: Arc::new(binding),
            whole: spec.clone(),
            manifest: Arc::clone(manifest),
            connection: connection.clone(),
            provisioned: Arc::clone(provisioned),
            owners: owners_name(manifest),
            buckets: Arc::clone(buckets),
            waiting: waiting.clone(),
            blocked: watch::Sender::new(None),
            start: Arc::default(),
        }
    }

    pub(super) fn handler(&self) -> Arc<dyn Handler> {
        Arc::clone(&self.binding.handler)
    }

    pub(super) fn status(&self, paused: &Paused) -> BindingStatus {
        BindingStatus {
            name: self.binding.spec.name.clone(),
            start: self.start.subscribe(),
            degraded: self.binding.health.watch(),
            blocked: self.blocked.subscribe(),
            paused: paused.clone(),
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
        match self.whole.partitions() {
            None => self.repeat(&shutdown).await,
            Some(count) => {
                let this = Arc::new(self);
                let sharing = Arc::clone(&this).share_out(count, &shutdown);
                tokio::join!(this.repeat(&shutdown), sharing);
            }
        }
    }

    async fn repeat(&self, shutdown: &Shutdown) {
        while !shutdown.drain.is_cancelled() && !shutdown.abort.is_cancelled() {
            let Err(why) = self.run_once(shutdown).await else { continue };
            self.complain(why, shutdown).await;
        }
    }

    async fn complain(&self, why: String, shutdown: &Shutdown) {
        error!(binding = self.whole.name, why, "no events can be had");
        self.blocked.send_replace(Some(why));
        tokio::select! {
            () = tokio::time::sleep(REOPEN_AFTER) => {}
            () = shutdown.drain.cancelled() => {}
        }
    }

    async fn run_once(&self, shutdown: &Shutdown) -> Result<(), String> {
        if self.whole.order.is_some() {
            // Much larger than what bindings without order need, who would all carry it.
            return Box::pin(self.run_in_order(shutdown)).await;
        }
        let (source, extender) = self.open().await?;
        self.work(self.with_comebacks(source), extender, shutdown, Fence::default()).await
    }

    /// Waits until this runner may work on the binding's events, and works on them for as long as
    /// it may.
    async fn run_in_order(&self, shutdown: &Shutdown) -> Result<(), String> {
        let taken = tokio::select! {
            taken = self.seat() => taken?.take(),
            () = shutdown.drain.cancelled() => return Ok(()),
        };
        self.unblock();
        let ownership = tokio::select! {
            ownership = taken => ownership,
            () = shutdown.drain.cancelled() => return Ok(()),
        };
        let name = &self.whole.name;
        let copies = self.whole.partitions().is_some();
        if copies {
            info!(binding = name, "this runner copies events into partitions from here on");
        } else {
            info!(binding = name, "this runner works on the binding from here on");
            self.binding.metrics.partitions_owned.inc();
        }
        let fence = ownership.fence();
        let working = async {
            let (source, extender) = self.open().await?;
            let source = OrderedSource::new(source, self.whole.slot_bytes);
            let source = self.with_comebacks(source);
            if copies {
                self.copy(source, extender, shutdown, fence).await
            } else {
                self.work(source, extender, shutdown, fence).await
            }
        };
        let ended = hold(ownership, working).await;
        if !shutdown.drain.is_cancelled() {
            warn!(binding = name, "this runner no longer works on the binding");
        }
        if !copies {
            self.binding.metrics.partitions_owned.dec();
        }
        ended
    }

    fn unblock(&self) {
        self.blocked.send_if_modified(|why| why.take().is_some());
    }

    async fn seat(&self) -> Result<Seat, String> {
        let bucket = self.buckets.open(&self.owners).await.map_err(|err| err.to_string())?;
        Ok(Seat::new(bucket, self.whole.name.clone(), a_name(), self.life()))
    }

    /// How long an ownership lasts that is not renewed.
    fn life(&self) -> Duration {
        (self.whole.ack_wait / 2).max(OWNERSHIP_MIN)
    }

    async fn open(&self) -> Result<(NatsSource, impl Future<Output = ()> + Send + use<>), String> {
        let extensions = self.binding.metrics.lease_extensions.clone();
        let spec = &self.whole;
        let opened = NatsSource::open(&self.connection, &self.provisioned, spec, extensions).await;
        opened.map_err(|err| err.to_string())
    }

    fn with_comebacks<S>(&self, main: S) -> WithComebacks<S> {
        let extensions = self.binding.metrics.lease_extensions.clone();
        let spec = &self.whole;
        let waiting = self.waiting.clone();
        WithComebacks::new(main, &self.connection, &self.provisioned, spec, extensions, waiting)
    }

    async fn work<S: Source<Lease = NatsLease>>(
        &self,
        source: S,
        extender: impl Future<Output = ()> + Send + 'static,
        shutdown: &Shutdown,
        fence: Fence,
    ) -> Result<(), String> {
        let mut background = JoinSet::new();
        background.spawn(extender);
        let running = Arc::clone(&self.binding).run(source, shutdown.clone(), fence);
        tokio::pin!(running);
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = tokio::time::sleep(SETTLED_AFTER) => {
                self.unblock();
                running.await
            }
        };
        what_ended(ended)
    }
}

/// Works for as long as the ownership lasts, then gives it up.
async fn hold(
    mut ownership: Ownership,
    working: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let ended = ownership.during(working).await;
    ownership.give_up().await;
    ended
}

fn what_ended(ended: Result<(), SourceError>) -> Result<(), String> {
    match ended {
        // Nothing is wrong; this runner stands by again.
        Err(SourceError::TakenOver) => Ok(()),
        ended => ended.map_err(|err| err.to_string()),
    }
}
