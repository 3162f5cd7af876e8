//! Builds and supervises the bindings of a manifest. The only module that knows all the others.

mod crew;
mod lookout;
mod reload;
mod replay;
mod scratch;
mod supervise;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    handler::Handler,
    keyvalue::Buckets,
    manifest::Manifest,
    metrics::Metrics,
    nats::{
        Connection, ConnectionError, NatsBuckets, ProvisionError, Provisioned, Provisioning,
        Waiting,
    },
    observer::Observer,
    runtime::{BuildError, Launcher, Natives, Surroundings, build_with},
    shutdown::Shutdown,
};

use crew::{Crew, Makeup};
use lookout::Lookout;
pub use reload::Edition;
use reload::Editions;
pub use replay::{ReplayError, Replayer};
use supervise::Supervised;
pub use supervise::{BindingStatus, Paused, Start};

/// A manifest and what it takes to run it.
#[derive(Debug)]
pub struct Runner {
    /// What to run.
    pub manifest: Arc<Manifest>,
    /// Functions that are compiled in.
    pub natives: Natives,
    /// How processes are started.
    pub launcher: Launcher,
    /// Where counts go.
    pub metrics: Arc<Metrics>,
    /// Who watches invocations.
    pub observer: Option<Arc<dyn Observer>>,
    /// Whether missing streams and consumers are created.
    pub provisioning: Provisioning,
    /// When functions are started.
    pub first_start: FirstStart,
    /// Whether to drain by itself once nothing is pending.
    pub exit_when_idle: bool,
    /// Tells of changes to the manifest, if anybody does.
    pub editions: Option<mpsc::Receiver<Edition>>,
}

/// When the workers of a function are started for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstStart {
    /// With its first event: a function that gets none costs nothing.
    WithFirstEvent,
    /// At once, so that it is known whether it starts.
    AtOnce,
}

/// How far a runner is.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What it does right now.
    pub phase: Phase,
    /// Its connection, once there is one.
    pub connection: Option<Connection>,
    /// What it has in NATS, once it is verified.
    pub provisioned: Option<Arc<Provisioned>>,
    /// Its bindings, once they run.
    pub bindings: Vec<BindingStatus>,
    /// Why the manifest as it is now is not the one that runs.
    pub reload: Option<String>,
}

/// What a runner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Connects.
    #[default]
    Connecting,
    /// Creates and verifies streams and consumers.
    Provisioning,
    /// Handles events.
    Running,
    /// Finishes what it holds.
    Draining,
}

/// Why a runner ended otherwise than told to.
#[derive(Debug, Error)]
pub enum RunError {
    /// No connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Streams or consumers are not as needed.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// A function cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Runner {
    /// Runs until the shutdown has drained, telling `status` how far it is.
    ///
    /// # Errors
    /// When it cannot begin. Once it runs, it goes on through everything that may pass.
    pub async fn run(
        mut self,
        shutdown: Shutdown,
        status: &watch::Sender<Status>,
    ) -> Result<(), RunError> {
        let Some(connection) = until(&shutdown, self.connect()).await else { return Ok(()) };
        let connection = connection?;
        status.send_modify(|status| {
            status.phase = Phase::Provisioning;
            status.connection = Some(connection.clone());
        });
        let (found, waiting) = watch::channel(BTreeSet::new());
        let (tell_paused, paused) = watch::channel(BTreeMap::new());
        let ground = Ground::new(&connection, waiting, paused);
        let makeups = Makeup::all(&self.manifest).into_values();
        let handlers = self.handlers(makeups, &ground)?;
        let Some(provisioned) = until(&shutdown, self.provision(&connection)).await else {
            return Ok(());
        };
        let provisioned = Arc::new(provisioned?);
        let bindings = self.supervise(handlers, &self.manifest, &provisioned, &ground);
        let mut background = JoinSet::new();
        background.spawn(shutdown.clone().enforce(self.manifest.drain));
        if self.first_start == FirstStart::AtOnce {
            for (_, binding) in &bindings {
                background.spawn(binding.warm_up());
            }
        }
        let lookout = Lookout { connection: connection.clone(), found, tell_paused };
        let mut looking = lookout.begin(&self, &provisioned, &shutdown);
        info!(name = self.manifest.name, bindings = bindings.len(), "running");
        let mut crew = Crew::default();
        crew.start(bindings, &ground.paused, &shutdown);
        status.send_modify(|status| {
            status.phase = Phase::Running;
            status.provisioned = Some(provisioned);
            status.bindings = crew.statuses(&self.manifest);
        });

        let mut editions = Editions::new(self.editions.take());
        loop {
            let preparing = async {
                let edition = editions.next().await;
                self.prepare(edition, &crew, &ground).await
            };
            let Some(prepared) = until(&shutdown, preparing).await else { break };
            match prepared {
                Ok(next) => {
                    let provisioned = Arc::clone(&next.provisioned);
                    let changes = self.change(&mut crew, next, &ground.paused, &shutdown).await;
                    // It would show again what is forgotten.
                    looking.shutdown().await;
                    changes.removed.iter().for_each(|name| self.metrics.forget(name));
                    looking = lookout.begin(&self, &provisioned, &shutdown);
                    self.tell_taken_up(&changes);
                    status.send_modify(|status| {
                        status.provisioned = Some(provisioned);
                        status.bindings = crew.statuses(&self.manifest);
                        status.reload = None;
                    });
                }
                Err(refused) => {
                    let why = self.tell_refused(&refused);
                    status.send_modify(|status| status.reload = Some(why));
                    editions.refused(refused);
                }
            }
        }
        status.send_modify(|status| status.phase = Phase::Draining);
        info!(patience = ?self.manifest.drain, "draining");
        crew.end().await;
        drop(looking);
        connection.close().await;
        info!("drained");
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, ConnectionError> {
        let metrics = Arc::clone(&self.metrics);
        Connection::open(&self.manifest.nats, &self.manifest.name, None, metrics).await
    }

    /// `JetStream` may need a while after its server has started, in a cluster above all.
    async fn provision(&self, connection: &Connection) -> Result<Provisioned, ProvisionError> {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.ensure(&self.manifest, connection).await {
                Err(ProvisionError::Unavailable(reason)) => {
                    warn!(reason, "JetStream does not answer; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Ok(provisioned) => {
                    announce(&provisioned);
                    return Ok(provisioned);
                }
                Err(problems) => return Err(problems),
            }
        }
    }

    /// What a manifest needs in NATS, in place. That something is not allowed is a problem, although
    /// it looks as if nobody answered.
    async fn ensure(
        &self,
        manifest: &Manifest,
        connection: &Connection,
    ) -> Result<Provisioned, ProvisionError> {
        let ensured = Provisioned::ensure(connection, manifest, self.provisioning).await;
        let denied = connection.denied();
        match ensured {
            Err(ProvisionError::Unavailable(_)) if !denied.is_empty() => {
                Err(ProvisionError::Problems(vec![format!(
                    "NATS permissions do not allow to {}: grant it to this user",
                    denied.join(", or to ")
                )]))
            }
            ensured => ensured,
        }
    }

    /// What runs the functions of bindings.
    fn handlers(
        &self,
        makeups: impl IntoIterator<Item = Makeup>,
        ground: &Ground,
    ) -> Result<Vec<Built>, BuildError> {
        let surroundings = Surroundings {
            launcher: &self.launcher,
            natives: &self.natives,
            buckets: Some(&ground.buckets),
        };
        let handler = |makeup: Makeup| {
            let Makeup { binding, function, .. } = &makeup;
            let workers = self.metrics.workers(&function.name);
            let handler = build_with(&surroundings, function, binding.concurrency, workers)?;
            Ok((makeup, handler))
        };
        makeups.into_iter().map(handler).collect()
    }

    /// Bindings that can be run.
    fn supervise(
        &self,
        built: Vec<Built>,
        manifest: &Arc<Manifest>,
        provisioned: &Arc<Provisioned>,
        ground: &Ground,
    ) -> Vec<(Makeup, Supervised)> {
        let supervise = |(makeup, handler): Built| {
            let of = (manifest, &makeup.binding);
            let binding = Supervised::new(self, of, handler, provisioned, ground);
            (makeup, binding)
        };
        built.into_iter().map(supervise).collect()
    }
}

/// A binding and what runs its function.
type Built = (Makeup, Arc<dyn Handler>);

/// What all bindings stand on, whichever manifest they are of.
struct Ground {
    connection: Connection,
    buckets: Arc<dyn Buckets>,
    /// The bindings for which events came back.
    waiting: Waiting,
    paused: Paused,
}

impl Ground {
    fn new(connection: &Connection, waiting: Waiting, paused: Paused) -> Self {
        let buckets = Arc::new(NatsBuckets::new(connection.clone()));
        Self { connection: connection.clone(), buckets, waiting, paused }
    }
}

/// Tells what was created, and what differs.
fn announce(provisioned: &Provisioned) {
    for what in &provisioned.created {
        info!("created {what}");
    }
    for what in &provisioned.drift {
        warn!("{what}");
    }
}

/// The answer, or `None` when the shutdown comes first.
async fn until<T>(shutdown: &Shutdown, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = shutdown.drain.cancelled() => None,
    }
}
