//! What a run of a binding holds right now, in events and bytes, and what it let go.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) events: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    /// Events that were dropped without being settled.
    pub(super) dropped: AtomicUsize,
    /// Those of them that had an outcome already.
    pub(super) dropped_open: AtomicUsize,
}

/// Room that one event takes, for as long as this lives.
#[derive(Debug)]
pub(super) struct Slot {
    held: Arc<Held>,
    bytes: usize,
    /// Its last invocation was counted, and what became of it was not.
    pub(super) open: bool,
    /// It is settled, and counted as such.
    pub(super) settled: bool,
}

impl Slot {
    pub(super) fn take(held: &Arc<Held>, bytes: usize) -> Self {
        held.events.fetch_add(1, Ordering::Relaxed);
        held.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { held: Arc::clone(held), bytes, open: false, settled: false }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.settled {
            self.held.dropped.fetch_add(1, Ordering::Relaxed);
            self.held.dropped_open.fetch_add(usize::from(self.open), Ordering::Relaxed);
        }
        self.held.events.fetch_sub(1, Ordering::Relaxed);
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
