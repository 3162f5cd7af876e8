//! Builds and supervises the bindings of a manifest. The only module that knows all the others.

mod crew;
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
    manifest::Manifest,
    metrics::Metrics,
    nats::{
        Connection, ConnectionError, ProvisionError, Provisioned, Provisioning, Waiting, Windows,
        read_gauges, warnings, watch_comebacks,
    },
    observer::Observer,
    runtime::{BuildError, Launcher, Natives},
    shutdown::Shutdown,
};

use crew::{Crew, Makeup};
pub use reload::Edition;
use reload::Next;
pub use replay::{ReplayError, Replayer};
use supervise::Supervised;
pub use supervise::{BindingStatus, Paused, Start};

/// How often consumers are looked at for the gauges.
const GAUGES_EVERY: Duration = Duration::from_secs(10);

/// How often `exit_when_idle` looks.
const IDLE_EVERY: Duration = Duration::from_millis(250);

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
        let Some(provisioned) = until(&shutdown, self.provision(&connection)).await else {
            return Ok(());
        };
        let provisioned = Arc::new(provisioned?);
        let (found, waiting) = watch::channel(BTreeSet::new());
        let (tell_paused, paused) = watch::channel(BTreeMap::new());
        let makeups = Makeup::all(&self.manifest).into_values();
        let bindings = self.build(makeups, &connection, &provisioned, &waiting)?;
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
        crew.start(bindings, &paused, &shutdown);
        status.send_modify(|status| {
            status.phase = Phase::Running;
            status.provisioned = Some(provisioned);
            status.bindings = crew.statuses(&self.manifest);
        });

        loop {
            let edition = tokio::select! {
                () = shutdown.drain.cancelled() => break,
                edition = reload::next(&mut self.editions) => edition,
            };
            let prepared = self.prepare(edition, (&crew, &connection, &waiting)).await;
            let reloaded = match prepared {
                Err(why) => Err(why),
                Ok(Next { provisioned, changes, begun }) => {
                    crew.stop(&changes.ended(), self.manifest.drain).await;
                    for name in &changes.removed {
                        self.metrics.forget(name);
                    }
                    crew.start(begun, &paused, &shutdown);
                    looking = lookout.begin(&self, &provisioned, &shutdown);
                    status.send_modify(|status| {
                        status.provisioned = Some(provisioned);
                        status.bindings = crew.statuses(&self.manifest);
                    });
                    Ok(changes)
                }
            };
            self.tell(&reloaded);
            status.send_modify(|status| status.reload = reloaded.err());
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
            match Provisioned::ensure(connection, &self.manifest, self.provisioning).await {
                Err(ProvisionError::Unavailable(reason)) => {
                    let denied = connection.denied();
                    if !denied.is_empty() {
                        return Err(ProvisionError::Problems(vec![format!(
                            "NATS permissions do not allow to {}: grant it to this user",
                            denied.join(", or to ")
                        )]));
                    }
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

    /// Bindings that can be run.
    fn build(
        &self,
        makeups: impl IntoIterator<Item = Makeup>,
        connection: &Connection,
        provisioned: &Arc<Provisioned>,
        waiting: &Waiting,
    ) -> Result<Vec<(Makeup, Supervised)>, BuildError> {
        let build = |makeup: Makeup| {
            let Makeup { binding, function, .. } = &makeup;
            let built =
                Supervised::build(self, connection, provisioned, binding, function, waiting)?;
            Ok((makeup, built))
        };
        makeups.into_iter().map(build).collect()
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

/// What is looked at beside the work.
struct Lookout {
    connection: Connection,
    /// Takes the bindings to which events came back.
    found: watch::Sender<BTreeSet<String>>,
    /// Takes those that are paused, and why.
    tell_paused: watch::Sender<BTreeMap<String, String>>,
}

impl Lookout {
    /// Looks at what a manifest has in NATS, for as long as what is returned lives.
    fn begin(
        &self,
        runner: &Runner,
        provisioned: &Arc<Provisioned>,
        shutdown: &Shutdown,
    ) -> JoinSet<()> {
        let manifest = || Arc::clone(&runner.manifest);
        let connection = || self.connection.clone();
        let mut looking = JoinSet::new();
        looking.spawn(watch_consumers(
            connection(),
            manifest(),
            Arc::clone(provisioned),
            Arc::clone(&runner.metrics),
            self.tell_paused.clone(),
        ));
        looking.spawn(watch_comebacks(connection(), manifest(), self.found.clone()));
        looking.spawn(look_around(connection(), manifest()));
        if runner.exit_when_idle {
            let idle = idle(connection(), manifest(), Arc::clone(provisioned));
            let drain = shutdown.drain.clone();
            looking.spawn(async move {
                idle.await;
                drain.cancel();
            });
        }
        looking
    }
}

/// The answer, or `None` when the shutdown comes first.
async fn until<T>(shutdown: &Shutdown, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = shutdown.drain.cancelled() => None,
    }
}

/// Returns once two looks in a row have found nothing pending and nothing unacknowledged.
async fn idle(connection: Connection, manifest: Arc<Manifest>, provisioned: Arc<Provisioned>) {
    let mut tick = tokio::time::interval(IDLE_EVERY);
    let mut quiet = 0;
    while quiet < 2 {
        tick.tick().await;
        quiet = match provisioned.lag(&connection, &manifest).await {
            Ok(0) => quiet + 1,
            _ => 0,
        };
    }
    info!("nothing is pending any more");
}

/// Beside the work: what could be better keeps nobody from running, nor does a permission that is
/// missing only for looking.
async fn look_around(connection: Connection, manifest: Arc<Manifest>) {
    match warnings(&connection, &manifest, Windows::AsTheyAre).await {
        Ok(found) => found.iter().for_each(|warning| warn!("{warning}")),
        Err(err) => info!(%err, "the streams that outputs go to cannot be looked at"),
    }
}

async fn watch_consumers(
    connection: Connection,
    manifest: Arc<Manifest>,
    provisioned: Arc<Provisioned>,
    metrics: Arc<Metrics>,
    paused: watch::Sender<BTreeMap<String, String>>,
) {
    let mut tick = tokio::time::interval(GAUGES_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !connection.is_connected() {
            continue;
        }
        if let Ok(rtt) = connection.round_trip().await {
            metrics.round_trip(rtt);
        }
        match read_gauges(&connection, &manifest, &provisioned, &metrics).await {
            Ok(found) => {
                paused.send_replace(found);
            }
            Err(err) => warn!(%err, "consumers cannot be looked at"),
        }
    }
}
