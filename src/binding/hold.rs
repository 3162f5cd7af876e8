//! What a binding holds right now, in events and bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) events: AtomicUsize,
    pub(super) bytes: AtomicUsize,
}

/// Room that one event takes, for as long as this lives.
#[derive(Debug)]
pub(super) struct Slot {
    held: Arc<Held>,
    bytes: usize,
}

impl Slot {
    pub(super) fn take(held: &Arc<Held>, bytes: usize) -> Self {
        held.events.fetch_add(1, Ordering::Relaxed);
        held.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { held: Arc::clone(held), bytes }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.held.events.fetch_sub(1, Ordering::Relaxed);
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
