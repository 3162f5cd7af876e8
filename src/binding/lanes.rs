//! The queues of keys: one event of a key at a time, in the order in which they came.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// One lane for each key that has an event under way.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: HashMap<Arc<str>, VecDeque<T>>,
    limit: usize,
    /// Lanes in which more wait than may.
    blocked: usize,
}

impl<T> Lanes<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { lanes: HashMap::new(), limit, blocked: 0 }
    }

    /// Gives back what may run at once; keeps what has to wait, once `mark` has seen it.
    pub(super) fn enter(
        &mut self,
        key: &Arc<str>,
        mut item: T,
        mark: impl Fn(&mut T),
    ) -> Option<T> {
        let Some(waiting) = self.lanes.get_mut(key) else {
            self.lanes.insert(Arc::clone(key), VecDeque::new());
            return Some(item);
        };
        mark(&mut item);
        waiting.push_back(item);
        self.blocked += usize::from(waiting.len() == self.limit + 1);
        None
    }

    /// The event of a key is done with: the next one, if any waits.
    pub(super) fn leave(&mut self, key: &Arc<str>) -> Option<T> {
        let waiting = self.lanes.get_mut(key)?;
        self.blocked -= usize::from(waiting.len() == self.limit + 1);
        let next = waiting.pop_front();
        if next.is_none() {
            self.lanes.remove(key);
        }
        next
    }

    /// How many lanes hold back all the others.
    pub(super) const fn blocked(&self) -> usize {
        self.blocked
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.blocked = 0;
        self.lanes.drain().flat_map(|(_, waiting)| waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_event_under_way_and_the_others_wait_in_order() {
        let mut lanes = Lanes::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let none = |_: &mut i32| {};
        assert_eq!(lanes.enter(&a, 1, none), Some(1));
        assert_eq!(lanes.enter(&a, 2, none), None);
        assert_eq!(lanes.enter(&b, 3, none), Some(3));
        assert_eq!(lanes.blocked(), 0);
        assert_eq!(lanes.enter(&a, 4, |item| *item = 40), None);
        assert_eq!(lanes.blocked(), 1);
        assert_eq!(lanes.leave(&a), Some(2));
        assert_eq!(lanes.blocked(), 0);
        assert_eq!(lanes.leave(&a), Some(40));
        assert_eq!(lanes.leave(&a), None);
        assert_eq!(lanes.enter(&a, 5, none), Some(5));
        assert_eq!(lanes.leave(&b), None);
        assert!(lanes.drain().is_empty());
    }
}
