//! One replay: a binding's function over events that are stored, by the engine that handles new
//! ones.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::scratch::{Outlet, Scratch};
use crate::{
    binding::{Binding, Health, Rate, Store},
    handler::Fault,
    keyvalue::{BucketError, Buckets},
    manifest::{self, Manifest},
    metrics::Metrics,
    nats::{
        Connection, NatsBrake, NatsBuckets, NatsLease, NatsLedger, NatsSink, OrderedSource,
        ProvisionError, Replays,
    },
    observer::Observer,
    ownership::{Ownership, Seat, a_name},
    replay::{Outputs, Replay},
    runtime::{self, BuildError, Launcher, Natives, Surroundings},
    settle::OnExhausted,
    shutdown::Shutdown,
    source::{Fence, Source, SourceError},
};

/// The shortest life of the right to replay a binding: below it, a busy machine ends a replay.
const OWNERSHIP_MIN: Duration = Duration::from_secs(5);

/// What it takes to replay a binding.
#[derive(Debug)]
pub struct Replayer {
    /// The manifest of the binding.
    pub manifest: Arc<Manifest>,
    /// The binding.
    pub binding: manifest::Binding,
    /// Functions that are compiled in.
    pub natives: Natives,
    /// How processes are started.
    pub launcher: Launcher,
    /// Where counts go.
    pub metrics: Arc<Metrics>,
    /// Who watches invocations.
    pub observer: Arc<dyn Observer>,
}

/// Why a replay broke off. What was dealt with stays so, and the next one goes on from there.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// Its consumer is not as needed.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// Its function cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Its function cannot be started.
    #[error("the function cannot be started: {0}")]
    Function(#[from] Fault),
    /// The bucket that says who replays cannot be had.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// No events can be had.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl Replayer {
    /// Waits until nobody else replays the binding.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn take_turn(&self, replays: &Replays) -> Result<Ownership, ReplayError> {
        let (bucket, key) = replays.seat().await?;
        let life = (self.binding.ack_wait / 2).max(OWNERSHIP_MIN);
        Ok(Seat::new(bucket, key, a_name(), life).take().await)
    }

    /// Runs the function over what is left of a replay that was begun. Returns whether that is done;
    /// if not, the shutdown came first.
    ///
    /// # Errors
    /// Whatever keeps it from going on.
    pub async fn run(
        &self,
        connection: &Connection,
        replays: &Replays,
        replay: &Replay,
        ownership: &mut Ownership,
        shutdown: &Shutdown,
    ) -> Result<bool, ReplayError> {
        let binding = Arc::new(self.binding(connection, replays, replay)?);
        let fence = ownership.fence();
        let working = async {
            binding.handler.start().await?;
            self.work(&binding, replays, replay, fence, shutdown).await
        };
        let ended = ownership.during(working).await;
        binding.handler.stop().await;
        if matches!(ended, Ok(true)) {
            replays.end().await?;
        }
        ended
    }

    fn binding(
        &self,
        connection: &Connection,
        replays: &Replays,
        replay: &Replay,
    ) -> Result<Binding<Outlet, NatsLedger>, ReplayError> {
        let Self { manifest, metrics, .. } = self;
        let mut spec = self.binding.clone();
        // What fails here is no reason to stop the binding itself, nor to let it go.
        spec.retry.on_exhausted = OnExhausted::DeadLetter;
        let function = manifest
            .functions
            .get(&spec.function)
            .ok_or_else(|| Fault::Unavailable(format!("there is no `{}`", spec.function)))?;
        let buckets: Arc<dyn Buckets> = Arc::new(NatsBuckets::new(connection.clone()));
        let surroundings = Surroundings {
            launcher: &self.launcher,
            natives: &self.natives,
            buckets: Some(&buckets),
        };
        let workers = metrics.workers(&function.name);
        let handler = runtime::build_with(&surroundings, function, spec.concurrency, workers)?;
        let handles = metrics.binding(&spec.name);
        let sink = NatsSink::new(connection.clone());
        Ok(Binding {
            name: manifest.name.clone(),
            consumer: replays.durable().to_owned(),
            dead_letter_subject: manifest.dead_letter.subject.clone(),
            handler,
            sink: match replay.outputs {
                Outputs::Nowhere => Outlet::Nowhere(sink),
                Outputs::AsBefore | Outputs::AsNew => Outlet::Streams(sink),
            },
            ledger: replays.ledger(),
            store: spec.state.as_ref().map(|_| Store::new(Arc::new(Scratch::default()), "")),
            health: Health::new(&spec.name, handles.up.clone()),
            metrics: handles,
            all_metrics: Arc::clone(metrics),
            observer: Some(Arc::clone(&self.observer)),
            quarantine: Semaphore::new(1),
            turns: Semaphore::new(spec.concurrency.get()),
            rate: spec.rate.map(Rate::new),
            brake: Arc::new(NatsBrake::new(connection, manifest, &spec)),
            // All of it is done once its consumer has nothing unacknowledged.
            deferral: None,
            replay: Some(replay.clone()),
            spec,
        })
    }

    async fn work(
        &self,
        binding: &Arc<Binding<Outlet, NatsLedger>>,
        replays: &Replays,
        replay: &Replay,
        fence: Fence,
        shutdown: &Shutdown,
    ) -> Result<bool, ReplayError> {
        let extensions = binding.metrics.lease_extensions.clone();
        let (source, until, extender) = replays.open(replay, extensions).await?;
        let mut background = JoinSet::new();
        background.spawn(extender);
        background.spawn(shutdown.clone().enforce(self.manifest.drain));
        let (done, is_done) = watch::channel(false);
        let run = Run { binding, shutdown, fence };
        match self.binding.order {
            Some(_) => {
                let source = OrderedSource::new(source, self.binding.slot_bytes);
                run.over(until.of(source, done)).await?;
            }
            None => run.over(until.of(source, done)).await?,
        }
        Ok(*is_done.borrow())
    }
}

struct Run<'a> {
    binding: &'a Arc<Binding<Outlet, NatsLedger>>,
    shutdown: &'a Shutdown,
    fence: Fence,
}

impl Run<'_> {
    async fn over<S: Source<Lease = NatsLease>>(self, source: S) -> Result<(), SourceError> {
        Arc::clone(self.binding).run(source, self.shutdown.clone(), self.fence).await
    }
}
