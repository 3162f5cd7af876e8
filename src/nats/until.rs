//! The events of a consumer up to one of them, and then the end.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{connect::Connection, lease::NatsLease, provision::Consumer};
use crate::{
    settle::Ack,
    source::{Delivery, Lease as _, Room, Source, SourceError},
};

/// How often it is looked whether all is dealt with.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where the events of a replay end, before it has a source.
#[derive(Debug)]
pub struct Until {
    connection: Connection,
    consumer: Consumer,
    last: u64,
}

impl Until {
    pub(super) const fn new(connection: Connection, consumer: Consumer, last: u64) -> Self {
        Self { connection, consumer, last }
    }

    /// The events of `source` up to there. `done` is told once every one of them is dealt with.
    pub fn of<S>(self, source: S, done: tokio::sync::watch::Sender<bool>) -> Bounded<S> {
        let look = Instant::now() + LOOK_EVERY;
        Bounded { source, until: self, beyond: Vec::new(), look, done, stopped: false }
    }
}

/// A source that ends. The server knows no last event of a consumer: what it sends beyond is held
/// and not handed out, so that it sends no more of that than may be unacknowledged, while events
/// that run again still come.
#[derive(Debug)]
pub struct Bounded<S> {
    source: S,
    until: Until,
    beyond: Vec<NatsLease>,
    look: Instant,
    done: tokio::sync::watch::Sender<bool>,
    stopped: bool,
}

impl Until {
    /// Whether all up to the last event has been delivered, and nothing but what is `beyond` is open.
    async fn is_done(&self, beyond: usize) -> bool {
        let Self { connection, consumer, last } = self;
        match consumer.info(connection).await {
            Ok(Some(info)) => {
                let delivered = info.num_pending == 0 || info.delivered.stream_sequence >= *last;
                delivered && info.num_ack_pending == beyond
            }
            Ok(None) => false,
            Err(err) => {
                debug!(%err, "the consumer of a replay cannot be looked at");
                false
            }
        }
    }
}

impl<S> Bounded<S> {
    fn sort(&mut self, deliveries: Vec<Delivery<NatsLease>>) -> Vec<Delivery<NatsLease>> {
        let (due, beyond): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .partition(|delivery| delivery.event.id.sequence <= self.until.last);
        self.beyond.extend(beyond.into_iter().map(|delivery| delivery.lease));
        due
    }

    /// Whoever goes on must not wait until these claims have run out.
    async fn let_go(&mut self) {
        while let Some(lease) = self.beyond.pop() {
            if let Err(err) = lease.release(&Ack::Redeliver { after: Duration::ZERO }).await {
                debug!(%err, "an event behind the last was not given back");
            }
        }
    }
}

impl<S: Source<Lease = NatsLease>> Source for Bounded<S> {
    type Lease = NatsLease;

    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        loop {
            tokio::select! {
                biased;
                pulled = self.source.pull(room) => {
                    let deliveries = pulled?;
                    if deliveries.is_empty() {
                        self.let_go().await;
                        return Ok(deliveries);
                    }
                    let due = self.sort(deliveries);
                    if !due.is_empty() {
                        return Ok(due);
                    }
                }
                () = sleep_until(self.look), if !self.stopped => {
                    self.look = Instant::now() + LOOK_EVERY;
                    if self.until.is_done(self.beyond.len()).await {
                        self.done.send_replace(true);
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.source.stop();
    }

    fn left_over(&mut self) -> Vec<Delivery<NatsLease>> {
        self.source.left_over()
    }
}
