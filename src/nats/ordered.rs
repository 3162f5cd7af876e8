//! The events of a consumer in the order of their stream, for the one runner that works on it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{
    gate::{Gate, Place},
    lease::NatsLease,
    pull::{NatsSource, Progress},
};
use crate::source::{Delivery, Room, Source, SourceError};

/// How often it is looked whether anything is still missing.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is said that something is.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A source that holds back events until those before them are here.
///
/// The server lets out no more events than there are slots (`max_ack_pending`), so that whatever is
/// missing has room once it comes again.
#[derive(Debug)]
pub struct OrderedSource {
    source: NatsSource,
    gate: Gate<Delivery<NatsLease>>,
    look: Instant,
    /// Since when events are held back.
    closed: Instant,
    complained: Instant,
    /// When something came last.
    arrived: Instant,
    bytes: usize,
}

impl OrderedSource {
    /// `bytes` is what may be held back besides what the room says, while it is: the one before may
    /// have held as much.
    #[must_use]
    pub fn new(source: NatsSource, bytes: usize) -> Self {
        let now = Instant::now();
        Self {
            source,
            gate: Gate::new(),
            look: now,
            closed: now,
            complained: now,
            arrived: now,
            bytes,
        }
    }

    /// Opens the gate if all that is unacknowledged is here. What this runner has acknowledged and
    /// the server has not heard of makes it look like more, and so does what is on its way here:
    /// equal numbers can only mean that nothing is elsewhere. A server that was killed may have
    /// forgotten the last events that it gave out: it will give them out once more, and does not
    /// count them.
    async fn look(&mut self) {
        self.look = Instant::now() + LOOK_EVERY;
        match self.source.progress().await {
            Ok(Some(Progress { unacknowledged, delivered, reached }))
                if unacknowledged == self.source.claimed_up_to(reached)
                    || self.nothing_more_comes(unacknowledged) =>
            {
                let (held, after) = (self.gate.held().len(), self.closed.elapsed());
                info!(consumer = self.source.name(), held, ?after, "in order again");
                self.gate.open(delivered);
            }
            Ok(Some(progress)) => self.complain(progress),
            Ok(None) => {}
            Err(err) => {
                warn!(consumer = self.source.name(), %err, "the consumer cannot be looked at")
            }
        }
    }

    /// A server that was killed may also count events as acknowledged that this runner holds. What
    /// is elsewhere would have come again by now: there was room for it.
    fn nothing_more_comes(&self, unacknowledged: usize) -> bool {
        unacknowledged < self.source.claimed_up_to(u64::MAX)
            && self.arrived.elapsed() > self.source.ack_wait() * 2
    }

    /// Says now and then for how long events are held back already.
    fn complain(&mut self, progress: Progress) {
        if self.complained.elapsed() < COMPLAIN_EVERY {
            return;
        }
        self.complained = Instant::now();
        warn!(
            consumer = self.source.name(),
            held = self.gate.held().len(),
            after = ?self.closed.elapsed(),
            unacknowledged = progress.unacknowledged,
            claimed = self.source.claimed_up_to(progress.reached),
            "held back until earlier events come again"
        );
    }

    /// What is held back takes room as well.
    fn room(&self, room: Room) -> Room {
        let held: usize = self.gate.held().map(|delivery| delivery.event.data.len()).sum();
        // While it is closed, there is always room for one that is missing.
        let (spare, least) = if self.gate.is_open() { (0, 0) } else { (self.bytes, 1) };
        Room {
            events: room.events.saturating_sub(self.gate.held().len()).max(least),
            bytes: room.bytes.saturating_add(spare).saturating_sub(held),
        }
    }

    fn arrive(&mut self, deliveries: Vec<Delivery<NatsLease>>) {
        let was_open = self.gate.is_open();
        self.arrived = Instant::now();
        for delivery in deliveries {
            let place = Place {
                stream_sequence: delivery.event.id.sequence,
                consumer_sequence: delivery.lease.consumer_sequence(),
                delivered: delivery.delivered,
            };
            self.gate.arrive(place, delivery);
        }
        if was_open && !self.gate.is_open() {
            self.closed = Instant::now();
            (self.look, self.complained) = (self.closed, self.closed);
        }
    }
}

impl Source for OrderedSource {
    type Lease = NatsLease;

    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        loop {
            let passed = self.gate.pass();
            if !passed.is_empty() {
                return Ok(passed);
            }
            let room = self.room(room);
            let closed = !self.gate.is_open();
            tokio::select! {
                biased;
                pulled = self.source.pull(room) => match pulled? {
                    none if none.is_empty() => return Ok(none),
                    deliveries => self.arrive(deliveries),
                },
                () = sleep_until(self.look), if closed => self.look().await,
            }
        }
    }

    fn stop(&mut self) {
        self.source.stop();
    }

    fn left_over(&mut self) -> Vec<Delivery<NatsLease>> {
        self.gate.drain()
    }
}
