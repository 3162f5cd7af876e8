//! Where events come from and where outputs go, as a binding sees it. `nats` is the one
//! implementation; the traits keep it on its side of the wall.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};

use crate::{
    event::{Event, Publish},
    settle::{Ack, Record},
};

/// How much more a binding can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free slots.
    pub events: usize,
    /// Free bytes of payload.
    pub bytes: usize,
}

/// The stream an event came from; part of every output's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub stream: Arc<str>,
    /// When it was created: a stream of the same name made anew counts from 1 again.
    pub created: OffsetDateTime,
}

/// One delivered event and the claim on it.
#[derive(Debug)]
pub struct Delivery<L> {
    /// The event, its attempt not yet filled in (1).
    pub event: Event,
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// Where its record is kept, if not under its own name: that of a life before must not count.
    pub place: Option<(Arc<Origin>, u64)>,
    /// What is remembered of it although nothing is kept at its place.
    pub record: Record,
    /// How often the server has delivered it, this time included.
    pub delivered: u64,
    /// The claim; dropping it means redelivery.
    pub lease: L,
}

/// Yields events as there is room for them.
pub trait Source: Send {
    /// The claim on one delivered event.
    type Lease: Lease;

    /// Waits until there is at least one event; once [stopped](Self::stop), an empty list says that
    /// none will come any more. Never has more events requested and handed out than there was room
    /// for.
    ///
    /// # Errors
    /// When there is no use in pulling again before somebody changes something.
    fn pull(
        &mut self,
        room: Room,
    ) -> impl Future<Output = Result<Vec<Delivery<Self::Lease>>, SourceError>> + Send;

    /// Stops asking. What was asked for may still come, and is the caller's to handle: a delivery
    /// that nobody takes would look like one that vanished with its runner.
    fn stop(&mut self);

    /// What it has held back until the end because events before it are missing. Not to be handled,
    /// but given back.
    fn left_over(&mut self) -> Vec<Delivery<Self::Lease>> {
        Vec::new()
    }
}

/// The claim on one delivered event. It is extended in the background for as long as it lives;
/// dropping it leaves the event to be delivered again.
pub trait Lease: Send + Sync {
    /// How often the event was delivered by now: a claim that ran out and was renewed counts the
    /// delivery that renewed it.
    fn delivered(&self) -> u64;

    /// Gives the claim up with the server's matching word.
    ///
    /// # Errors
    /// The claim had run out, or the word could not be sent: the event will be delivered again.
    fn release(self, ack: &Ack) -> impl Future<Output = Result<(), SettleError>> + Send;
}

/// How a publish was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// For the first time.
    New,
    /// It was there already: this was a redelivery.
    Duplicate,
}

/// Where outputs and dead letters go.
pub trait Sink: Send + Sync {
    /// Stores a message and waits for the `PubAck`, repeating it under the same id for as long as
    /// the failure may pass.
    ///
    /// # Errors
    /// Only for failures that repeating cannot mend.
    fn publish(
        &self,
        publish: Publish,
    ) -> impl Future<Output = Result<Stored, PublishError>> + Send;

    /// The most that headers and payload of one message may take, in bytes.
    fn max_payload(&self) -> usize;
}

/// Stops a binding in place.
pub trait Brake: Send + Sync {
    /// Keeps events from being delivered to any runner, until somebody lets them.
    ///
    /// # Errors
    /// When they may still be delivered.
    fn stop<'a>(&'a self, why: &'a str) -> BoxFuture<'a, Result<(), String>>;
}

/// What is remembered of an event between its deliveries, whichever runner it goes to.
pub trait Ledger: Send + Sync {
    /// What is known of an event; a default record when nothing is.
    fn read(&self, origin: &Origin, sequence: u64) -> impl Future<Output = Record> + Send;

    /// Whether something may be known of an event that is delivered for the first time: its
    /// binding had another name before.
    fn inherits(&self, sequence: u64) -> bool;

    /// Remembers, durably once it returns.
    fn write(
        &self,
        origin: &Origin,
        sequence: u64,
        record: &Record,
    ) -> impl Future<Output = ()> + Send;

    /// Forgets an event that is settled for good.
    fn forget(&self, origin: &Origin, sequence: u64) -> impl Future<Output = ()> + Send;
}

/// Whether this runner may still act on the events of a source that one runner at a time works on.
/// Time runs while a process is stopped, so that one that wakes up late knows.
#[derive(Debug, Clone, Default)]
pub struct Fence(Option<watch::Receiver<Instant>>);

impl Fence {
    /// Holds until the moment that is told last.
    #[must_use]
    pub const fn new(until: watch::Receiver<Instant>) -> Self {
        Self(Some(until))
    }

    /// Whether there is one at all.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it holds right now; without one, anybody may act.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|until| *until.borrow() > Instant::now())
    }

    /// Returns once it does not hold any more.
    pub async fn broken(&mut self) {
        let Some(until) = &mut self.0 else { return std::future::pending().await };
        let mut told = true;
        loop {
            let end = *until.borrow_and_update();
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => {}
                changed = until.changed(), if told => told = changed.is_ok(),
            }
        }
    }
}

/// Why a source gave up.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The consumer cannot be used until somebody mends it.
    #[error("{0}")]
    Refused(String),
    /// Nothing was provisioned for the binding.
    #[error("the binding `{0}` has no consumer: it was not provisioned")]
    NotProvisioned(String),
    /// Another runner works on these events now, or may.
    #[error("another runner has taken over")]
    TakenOver,
    /// The connection was closed for good.
    #[error("the connection to NATS is closed")]
    Closed,
}

/// Why a claim could not be given up in order.
#[derive(Debug, Error)]
pub enum SettleError {
    /// It ran out `0` ago; another runner may have the event by now.
    #[error("the lease ran out {0:?} ago")]
    Expired(Duration),
    /// The word could not be handed to the connection.
    #[error("{0}")]
    Send(String),
}

/// Why a message can never be stored as it is.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum PublishError {
    /// No stream holds the subject.
    #[error("no stream holds the subject `{0}`")]
    NoStream(String),
    /// Headers and payload are larger than the server takes.
    #[error("{size} bytes with headers; the server takes {max}")]
    TooLarge {
        /// Headers and payload, in bytes.
        size: usize,
        /// The server's `max_payload`.
        max: usize,
    },
    /// The server refused it.
    #[error("{0}")]
    Refused(String),
}
