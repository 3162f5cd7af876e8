//! An event on its way through its binding, and what is left of it after a step.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;

use super::hold::{Held, Slot};
use crate::{
    event::Event,
    settle::Record,
    source::{Delivery, Origin},
    state::Kept,
    telemetry::Trace,
};

/// An event with all that it holds: its claim and its slot. Dropped, it will be delivered again.
pub(super) struct Passage<C> {
    pub(super) event: Event,
    pub(super) origin: Arc<Origin>,
    place: Option<(Arc<Origin>, u64)>,
    pub(super) delivered: u64,
    pub(super) record: Record,
    /// Whether the record was read, or need not be.
    pub(super) recalled: bool,
    /// What it is ordered by.
    pub(super) key: Option<Arc<str>>,
    /// It came behind another event of its key that was not settled: it had not run.
    pub(super) behind: bool,
    /// A turn was taken for the call that it is to be in.
    pub(super) has_turn: bool,
    /// The state of its key, once it was read.
    pub(super) state: Option<Box<Entry>>,
    /// When its last call began; before that, when it was stored.
    pub(super) called: OffsetDateTime,
    /// From the beginning of its call on.
    pub(super) trace: Trace,
    pub(super) lease: C,
    pub(super) slot: Slot,
}

/// The state of a key, as it was read and as it shall be.
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) kept: Kept,
    /// What the function returned, if it returned any.
    pub(super) next: Option<serde_json::Value>,
}

impl<C> Passage<C> {
    /// In a box: it is handed on from step to step, and is large.
    pub(super) fn new(delivery: Delivery<C>, key: Option<Arc<str>>, held: &Arc<Held>) -> Box<Self> {
        let Delivery { event, origin, place, record, delivered, lease } = delivery;
        let slot = Slot::take(held, event.data.len());
        Box::new(Self {
            origin,
            place,
            delivered,
            record,
            recalled: false,
            key,
            behind: false,
            has_turn: false,
            state: None,
            called: event.time,
            event,
            trace: Trace::default(),
            lease,
            slot,
        })
    }
}

impl<C> Passage<C> {
    /// Whether a turn was taken for it; it is used with that.
    pub(super) const fn uses_turn(&mut self) -> bool {
        std::mem::replace(&mut self.has_turn, false)
    }

    /// Whether it came back from the dead letters.
    pub(super) const fn came_back(&self) -> bool {
        self.place.is_some()
    }

    /// Under which origin and sequence its record is kept.
    pub(super) fn place(&self) -> (&Origin, u64) {
        self.place.as_ref().map_or((&self.origin, self.event.id.sequence), |(origin, sequence)| {
            (origin, *sequence)
        })
    }
}

/// What a step has left to do.
pub(super) struct Left<C> {
    /// Whether the step was a call, which others may wait for.
    pub(super) call: bool,
    /// Whether the binding is to stop in place.
    pub(super) stops: bool,
    /// Keys whose next event may run.
    pub(super) freed: Vec<Arc<str>>,
    /// Events that may run now.
    pub(super) ready: Vec<Box<Passage<C>>>,
    /// Events that keep their claim and their turn, and run again after a while.
    pub(super) held: Vec<(Duration, Box<Passage<C>>)>,
    /// Events that keep both and do not run again here.
    pub(super) resting: Vec<Box<Passage<C>>>,
}

impl<C> Left<C> {
    pub(super) const fn nothing() -> Self {
        Self {
            call: true,
            stops: false,
            freed: Vec::new(),
            ready: Vec::new(),
            held: Vec::new(),
            resting: Vec::new(),
        }
    }

    /// The event is settled; the next of its key may run.
    pub(super) fn settled(key: Option<Arc<str>>) -> Self {
        Self { freed: key.into_iter().collect(), ..Self::nothing() }
    }

    /// The event runs again after a while.
    pub(super) fn held(after: Duration, passage: Box<Passage<C>>) -> Self {
        Self { held: vec![(after, passage)], ..Self::nothing() }
    }

    /// The event has waited.
    pub(super) fn ready(passage: Box<Passage<C>>) -> Self {
        Self { call: false, ready: vec![passage], ..Self::nothing() }
    }

    /// The end has come before the event had waited.
    pub(super) fn resting(passage: Box<Passage<C>>) -> Self {
        Self { call: false, resting: vec![passage], ..Self::nothing() }
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.stops |= other.stops;
        self.freed.extend(other.freed);
        self.ready.extend(other.ready);
        self.held.extend(other.held);
        self.resting.extend(other.resting);
        self
    }
}
