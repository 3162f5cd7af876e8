//! Events that come back, from the dead letters or after a long wait, beside those of their binding's
//! own consumer.
//!
//! They are few and far between: nothing is asked for until there are any, so that a binding
//! without costs nothing. From then on a few more events are held than there are slots.

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc, time::Duration};

use async_nats::jetstream::stream::Stream;
use futures_util::TryStreamExt as _;
use prometheus::IntCounter;
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, warn};

use super::{
    connect::Connection,
    lease::NatsLease,
    names::part_comeback,
    provision::{Consumer, Provisioned},
    pull::NatsSource,
};
use crate::{
    deferral,
    manifest::{Binding, Manifest},
    redrive,
    source::{Delivery, Room, Source, SourceError},
};

/// Events that come back at the same time, for one binding, at least.
const AT_ONCE: usize = 4;
/// How often it is looked whether any have.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The names of the bindings for which events came back, as they become known.
pub type Waiting = watch::Receiver<BTreeSet<String>>;

/// Looks for events that came back, for as long as it is polled.
pub async fn watch(
    connection: Connection,
    manifest: Arc<Manifest>,
    waiting: watch::Sender<BTreeSet<String>>,
) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !connection.is_connected() {
            continue;
        }
        match subjects(&connection, &manifest).await {
            Ok(found) => {
                waiting.send_if_modified(|known| {
                    let before = known.len();
                    known.extend(found);
                    known.len() > before
                });
            }
            Err(err) => debug!(err, "the dead-letter stream cannot be looked at"),
        }
    }
}

async fn subjects(connection: &Connection, manifest: &Manifest) -> Result<Vec<String>, String> {
    let prefix = format!("redrive.{}.", manifest.name);
    let stream = connection.context.get_stream_no_info(&manifest.dead_letter.stream).await;
    let stream = stream.map_err(|err| err.to_string())?;
    let found = stream.info_with_subjects(format!("{prefix}>")).await;
    let found = found.map_err(|err| err.to_string())?;
    let found: Vec<(String, usize)> = found.try_collect().await.map_err(|err| err.to_string())?;
    Ok(found.iter().filter_map(|(name, _)| Some(name.strip_prefix(&prefix)?.to_owned())).collect())
}

/// A binding's own events, and those that come back to it.
pub struct WithComebacks<S> {
    main: S,
    main_ended: bool,
    comebacks: Comebacks,
    stopped: bool,
}

/// The second source, once it is needed.
struct Comebacks {
    connection: Connection,
    /// Where they are, and the stream they leave in the end; nowhere, if nothing was provisioned.
    found: Option<(Consumer, Stream<()>)>,
    /// Their subjects, without what all have in common.
    names: Vec<String>,
    /// As many of them are held at a time.
    at_once: usize,
    extensions: IntCounter,
    waiting: Waiting,
    source: Option<NatsSource>,
    /// Extends the leases.
    background: JoinSet<()>,
}

impl<S> WithComebacks<S> {
    /// Adds those that come back to the events of `main`.
    #[must_use]
    pub fn new(
        main: S,
        connection: &Connection,
        provisioned: &Arc<Provisioned>,
        binding: &Binding,
        extensions: IntCounter,
        waiting: Waiting,
    ) -> Self {
        let found = provisioned.comebacks(binding);
        let names = std::iter::once(&binding.name).chain(&binding.renamed_from).cloned().collect();
        // Those that waited for long may be many, and all due at once.
        let at_once = match binding.order {
            None => AT_ONCE.max(binding.concurrency.get() / 4),
            Some(_) => AT_ONCE,
        };
        Self::of(main, connection, found, (names, at_once), extensions, waiting)
    }

    /// As [`new`](Self::new), of one partition.
    #[must_use]
    pub fn of_partition(
        main: S,
        connection: &Connection,
        provisioned: &Arc<Provisioned>,
        (binding, number): (&Binding, usize),
        extensions: IntCounter,
        waiting: Waiting,
    ) -> Self {
        let found = provisioned.part(binding, number);
        let found = found.map(|part| (part.comebacks, part.dead_letters));
        let count = binding.partitions().unwrap_or(NonZeroUsize::MIN);
        let names = vec![part_comeback(&binding.name, count, number)];
        Self::of(main, connection, found, (names, AT_ONCE), extensions, waiting)
    }

    fn of(
        main: S,
        connection: &Connection,
        found: Option<(Consumer, Stream<()>)>,
        (names, at_once): (Vec<String>, usize),
        extensions: IntCounter,
        waiting: Waiting,
    ) -> Self {
        let comebacks = Comebacks {
            connection: connection.clone(),
            found,
            names,
            at_once,
            extensions,
            waiting,
            source: None,
            background: JoinSet::new(),
        };
        Self { main, main_ended: false, comebacks, stopped: false }
    }
}

impl Comebacks {
    /// Events as they were before they died.
    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        loop {
            let Some(source) = &mut self.source else {
                self.wait().await;
                self.open().await?;
                continue;
            };
            let room = Room { events: room.events.min(self.at_once), bytes: room.bytes };
            return source
                .pull(room)
                .await
                .map(|deliveries| deliveries.into_iter().map(restored).collect());
        }
    }

    async fn wait(&mut self) {
        let mine =
            |waiting: &BTreeSet<String>| self.names.iter().any(|name| waiting.contains(name));
        if self.waiting.wait_for(mine).await.is_err() {
            // Nobody looks any more.
            std::future::pending::<()>().await;
        }
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        let Some((consumer, stream)) = self.found.clone() else {
            warn!(binding = self.names.concat(), "events that came back have no consumer");
            return std::future::pending().await;
        };
        consumer.sweep(&self.connection, &stream).await;
        let (extensions, at_once) = (self.extensions.clone(), self.at_once);
        let (source, extender) =
            NatsSource::of(&self.connection, consumer, at_once, extensions, Some(stream)).await?;
        self.background.spawn(extender);
        self.source = Some(source);
        Ok(())
    }
}

fn restored(delivery: Delivery<NatsLease>) -> Delivery<NatsLease> {
    let place = (Arc::clone(&delivery.origin), delivery.event.id.sequence);
    if let Some((event, origin, record)) = deferral::read(&delivery.event, &delivery.origin) {
        return Delivery { event, origin, record, place: Some(place), ..delivery };
    }
    let (event, origin) = redrive::read(delivery.event, delivery.origin);
    Delivery { event, origin, place: Some(place), ..delivery }
}

impl<S: Source<Lease = NatsLease>> Source for WithComebacks<S> {
    type Lease = NatsLease;

    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        loop {
            if self.stopped && self.comebacks.source.is_none() {
                if self.main_ended {
                    return Ok(Vec::new());
                }
                return self.main.pull(room).await;
            }
            let (deliveries, main) = tokio::select! {
                pulled = self.main.pull(room), if !self.main_ended => (pulled?, true),
                pulled = self.comebacks.pull(room) => (pulled?, false),
            };
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            if main {
                self.main_ended = true;
            } else {
                self.comebacks.source = None;
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.main.stop();
        if let Some(source) = &mut self.comebacks.source {
            source.stop();
        }
    }

    fn left_over(&mut self) -> Vec<Delivery<NatsLease>> {
        self.main.left_over()
    }
}
