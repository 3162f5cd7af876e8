//! Claims on delivered events: kept alive in the background, given up with a word, or dropped and
//! left to the server.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Subject, jetstream::stream::Stream};
use bytes::Bytes;
use prometheus::IntCounter;
use tokio::time::Instant;
use tracing::debug;

use super::{connect::Connection, reply::Reply};
use crate::{
    settle::Ack,
    source::{Lease, SettleError},
};

/// Every claim of one consumer that this runner holds, by stream sequence.
#[derive(Debug)]
pub(super) struct Leases {
    connection: Connection,
    ack_wait: Duration,
    extensions: IntCounter,
    held: Mutex<Claims>,
    /// The stream from which an event goes once it is dealt with, if it does.
    empties: Option<Stream<()>>,
}

/// By stream sequence.
type Claims = HashMap<u64, Claim, BuildHasherDefault<OfSequence>>;

/// Spreads sequences, which count up and which nobody outside chooses. Three times for each event: that
/// is much for a hash that resists attacks.
#[derive(Debug, Default)]
struct OfSequence(u64);

impl Hasher for OfSequence {
    fn write_u64(&mut self, sequence: u64) {
        // Fibonacci hashing: 2^64 over the golden ratio.
        self.0 = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        // The lower bits choose the place in a table, and those of a product know only the lower bits
        // of what was multiplied: sequences a filter lets through may share them.
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Debug, Clone)]
struct Claim {
    reply: Subject,
    delivered: u64,
    /// When the server last heard of us about it.
    heard: Instant,
}

impl Leases {
    pub(super) fn new(
        connection: Connection,
        ack_wait: Duration,
        extensions: IntCounter,
        empties: Option<Stream<()>>,
    ) -> Self {
        Self { connection, ack_wait, extensions, held: Mutex::default(), empties }
    }

    /// Takes a claim on a delivery. `None` when this runner is at work on that event already: a
    /// claim that had run out goes on under the new delivery, and the event is not run twice.
    pub(super) fn take(
        self: &Arc<Self>,
        reply: Reply,
        subject: Subject,
        heard: Instant,
    ) -> Option<NatsLease> {
        let Reply { delivered, sequence, consumer_sequence, .. } = reply;
        let claim = Claim { reply: subject, delivered, heard };
        let renewed = self.held().insert(sequence, claim).is_some();
        (!renewed).then(|| NatsLease {
            leases: Arc::clone(self),
            sequence,
            consumer_sequence,
            delivered,
            held: true,
        })
    }

    /// How many there are on events up to a sequence of the stream.
    pub(super) fn count_up_to(&self, sequence: u64) -> usize {
        self.held().keys().filter(|held| **held <= sequence).count()
    }

    /// Tells the server every third of `ack_wait` that everything held is still being worked on.
    /// Runs for as long as it is polled.
    pub(super) async fn extend_for_ever(self: Arc<Self>) {
        let mut tick = tokio::time::interval(self.ack_wait / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut state = self.connection.state();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = state.changed() => if changed.is_err() { return },
            }
            if state.borrow_and_update().connected {
                self.extend().await;
            }
        }
    }

    async fn extend(&self) {
        let now = Instant::now();
        let due: Vec<(u64, Subject)> = self
            .held()
            .iter()
            .filter(|(_, claim)| now - claim.heard >= self.ack_wait / 6)
            .map(|(sequence, claim)| (*sequence, claim.reply.clone()))
            .collect();
        for (sequence, reply) in due {
            if let Err(err) = self.connection.client.publish(reply, PROGRESS).await {
                debug!(%err, "leases could not be extended");
                return;
            }
            if let Some(claim) = self.held().get_mut(&sequence) {
                claim.heard = Instant::now();
                self.extensions.inc();
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Claims> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The claim on one delivered event.
#[derive(Debug)]
pub struct NatsLease {
    leases: Arc<Leases>,
    sequence: u64,
    consumer_sequence: u64,
    /// The delivery that this claim began with.
    delivered: u64,
    /// Once released, an entry of this sequence is somebody else's: the event may come again at
    /// once.
    held: bool,
}

impl NatsLease {
    /// The sequence in the consumer of the delivery that this claim began with.
    pub(super) const fn consumer_sequence(&self) -> u64 {
        self.consumer_sequence
    }
}

impl Lease for NatsLease {
    fn delivered(&self) -> u64 {
        self.leases.held().get(&self.sequence).map_or(self.delivered, |claim| claim.delivered)
    }

    async fn release(mut self, ack: &Ack) -> Result<(), SettleError> {
        let connection = &self.leases.connection;
        if !matches!(ack, Ack::Done) {
            // What is said into a broken connection arrives whenever it is mended, and by then
            // another runner may be at work: a late nak would start the event a third time.
            let mut state = connection.state();
            state
                .wait_for(|state| state.connected)
                .await
                .map_err(|err| SettleError::Send(err.to_string()))?;
        }
        // Still held while waiting above, so that it was extended, and renewed if it came again.
        let Some(claim) = self.leases.held().remove(&self.sequence) else {
            return Err(SettleError::Expired(Duration::ZERO));
        };
        self.held = false;
        if !matches!(ack, Ack::Done) {
            let age = claim.heard.elapsed();
            if age > self.leases.ack_wait {
                return Err(SettleError::Expired(age - self.leases.ack_wait));
            }
        }
        let said = connection.client.publish(claim.reply, word(ack)).await;
        said.map_err(|err| SettleError::Send(err.to_string()))?;
        if let Some(stream) = &self.leases.empties
            && !matches!(ack, Ack::Redeliver { .. })
            && let Err(err) = Box::pin(stream.delete_message(self.sequence)).await
        {
            debug!(%err, sequence = self.sequence, "an event that is dealt with was left behind");
        }
        Ok(())
    }
}

impl Drop for NatsLease {
    fn drop(&mut self) {
        if self.held {
            self.leases.held().remove(&self.sequence);
        }
    }
}

const PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// What the server is told (ADR-15).
fn word(ack: &Ack) -> Bytes {
    match ack {
        Ack::Done => Bytes::from_static(b"+ACK"),
        Ack::Redeliver { after } if after.is_zero() => Bytes::from_static(b"-NAK"),
        Ack::Redeliver { after } => format!("-NAK {{\"delay\": {}}}", after.as_nanos()).into(),
        Ack::Terminate { reason } => format!("+TERM {reason}").into(),
    }
}
