//! Keeps events in the order of their stream through what breaks it: a takeover, a reconnect, a
//! server that comes back. Pure.
//!
//! While only one runner asks a consumer for events, they come in the order of their stream and
//! with consecutive consumer sequences. A gap says that some went elsewhere and will come again.
//! Until all of them are here, everything is held back.

use std::collections::BTreeMap;

/// Holds back what came out of order.
#[derive(Debug)]
pub(super) struct Gate<T> {
    /// What waits, by stream sequence.
    held: BTreeMap<u64, T>,
    /// The consumer sequence that is expected next; 0 before any has come.
    next: u64,
    /// The last stream sequence that was let through.
    last: u64,
    open: bool,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream_sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) delivered: u64,
}

impl<T> Gate<T> {
    /// Closed: what the one before had is not known.
    pub(super) const fn new() -> Self {
        Self { held: BTreeMap::new(), next: 0, last: 0, open: false }
    }

    pub(super) fn arrive(&mut self, place: Place, event: T) {
        let in_turn = place.consumer_sequence == self.next
            && place.delivered == 1
            && place.stream_sequence > self.last;
        self.open &= in_turn;
        self.next = place.consumer_sequence + 1;
        self.held.insert(place.stream_sequence, event);
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Nothing is missing any more; `delivered` is the last consumer sequence that the server has
    /// given out.
    pub(super) const fn open(&mut self, delivered: u64) {
        self.open = true;
        if self.next == 0 {
            self.next = delivered + 1;
        }
    }

    /// What may go on, in order.
    pub(super) fn pass(&mut self) -> Vec<T> {
        if !self.open {
            return Vec::new();
        }
        self.last = self.held.last_key_value().map_or(self.last, |(last, _)| self.last.max(*last));
        self.drain()
    }

    /// Everything that is held, in order.
    pub(super) fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.held).into_values().collect()
    }

    pub(super) fn held(&self) -> impl ExactSizeIterator<Item = &T> {
        self.held.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(gate: &mut Gate<u64>, consumer_sequence: u64, stream_sequence: u64, delivered: u64) {
        gate.arrive(Place { stream_sequence, consumer_sequence, delivered }, stream_sequence);
    }

    #[test]
    fn what_comes_in_turn_passes_once_nothing_is_missing() {
        let mut gate = Gate::new();
        arrive(&mut gate, 7, 20, 1);
        assert!(gate.pass().is_empty());
        gate.open(7);
        assert_eq!(gate.pass(), [20]);
        arrive(&mut gate, 8, 22, 1);
        arrive(&mut gate, 9, 23, 1);
        assert_eq!(gate.pass(), [22, 23]);
    }

    #[test]
    fn the_first_event_after_an_idle_start_passes() {
        let mut gate = Gate::new();
        gate.open(41);
        arrive(&mut gate, 42, 20, 1);
        assert_eq!(gate.pass(), [20]);
    }

    #[test]
    fn a_gap_holds_back_until_what_is_missing_has_come() {
        let mut gate = Gate::new();
        arrive(&mut gate, 1, 1, 1);
        gate.open(1);
        assert_eq!(gate.pass(), [1]);
        // 2 and 3 went elsewhere.
        arrive(&mut gate, 4, 4, 1);
        assert!(!gate.is_open());
        arrive(&mut gate, 5, 3, 2);
        arrive(&mut gate, 6, 2, 2);
        assert!(gate.pass().is_empty());
        gate.open(1);
        assert_eq!(gate.pass(), [2, 3, 4]);
        arrive(&mut gate, 7, 5, 1);
        assert_eq!(gate.pass(), [5]);
    }

    #[test]
    fn a_redelivery_and_a_server_that_forgot_close_it() {
        for (consumer, stream, delivered) in [(2, 1, 2), (2, 1, 1), (1, 2, 1)] {
            let mut gate = Gate::new();
            arrive(&mut gate, 1, 1, 1);
            gate.open(1);
            assert_eq!(gate.pass(), [1]);
            arrive(&mut gate, consumer, stream, delivered);
            assert!(!gate.is_open(), "{consumer} {stream} {delivered}");
        }
    }
}
