//! What is looked at beside the work: gauges, events that come back, what could be better.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};

use super::Runner;
use crate::{
    manifest::Manifest,
    metrics::Metrics,
    nats::{Connection, Provisioned, Windows, read_gauges, warnings, watch_comebacks},
    shutdown::Shutdown,
};

/// How often consumers are looked at for the gauges.
const GAUGES_EVERY: Duration = Duration::from_secs(10);

/// How often `exit_when_idle` looks.
const IDLE_EVERY: Duration = Duration::from_millis(250);

/// Whom what is found is told to.
pub(super) struct Lookout {
    pub(super) connection: Connection,
    /// Takes the bindings to which events came back.
    pub(super) found: watch::Sender<BTreeSet<String>>,
    /// Takes those that are paused, and why.
    pub(super) tell_paused: watch::Sender<BTreeMap<String, String>>,
}

impl Lookout {
    /// Looks at what a manifest has in NATS, for as long as what is returned lives.
    pub(super) fn begin(
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
