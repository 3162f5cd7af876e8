//! Whether events wait on their binding's own task or on tasks of their own.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A function that computes for longer than this between two waits would hold up the events beside it.
const QUICK: Duration = Duration::from_micros(15);
/// Steps over which that is averaged, and of how many one is looked at.
const STEPS: u32 = 64;
const ONE_OF: u32 = 16;
/// Pulls for which a slow function's events get tasks of their own, before it is tried again.
const REPRIEVE: u32 = 256;

/// What the last steps have shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    slow_for: u32,
    /// Until one is looked at again.
    unseen: u32,
    seen: u32,
    spent: Duration,
}

impl Pace {
    pub(super) const fn is_quick(&self) -> bool {
        self.slow_for == 0
    }

    /// Another pull has come.
    pub(super) const fn pulled(&mut self) {
        self.slow_for = self.slow_for.saturating_sub(1);
    }

    /// Takes a step, which may be looked at.
    pub(super) fn step<T>(&mut self, step: impl FnOnce() -> T) -> T {
        if let Some(unseen) = self.unseen.checked_sub(1) {
            self.unseen = unseen;
            return step();
        }
        self.unseen = ONE_OF - 1;
        let before = computed();
        let stepped = step();
        self.note(computed().saturating_sub(before));
        stepped
    }

    fn note(&mut self, spent: Duration) {
        self.seen += 1;
        self.spent += spent;
        if self.spent > QUICK * STEPS {
            *self = Self { slow_for: REPRIEVE, ..Self::default() };
        } else if self.seen == STEPS {
            (self.seen, self.spent) = (0, Duration::ZERO);
        }
    }
}

/// What this thread has computed so far: a step during which others had its core is not slow.
fn computed() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ONE_OF, Pace, QUICK, REPRIEVE, STEPS};

    fn after(steps: impl IntoIterator<Item = Duration>) -> Pace {
        let mut pace = Pace::default();
        for spent in steps {
            pace.note(spent);
        }
        pace
    }

    #[test]
    fn one_that_computes_for_long_is_slow_at_once_and_tried_again() {
        let mut pace = after([QUICK * (STEPS + 1)]);
        assert!(!pace.is_quick());
        for _ in 0..REPRIEVE {
            pace.pulled();
        }
        assert!(pace.is_quick());
    }

    #[test]
    fn what_counts_is_the_average() {
        let every = |spent| (0..2 * STEPS).map(move |_| spent);
        assert!(after(every(QUICK)).is_quick());
        assert!(!after(every(QUICK * 2)).is_quick());
        assert!(after(every(QUICK / 2).chain([QUICK * STEPS / 2])).is_quick());
    }

    #[test]
    fn waiting_is_not_computing() {
        let mut pace = Pace::default();
        for _ in 0..ONE_OF {
            pace.step(|| std::thread::sleep(QUICK * STEPS / 16));
        }
        pace.step(|| std::thread::sleep(QUICK * STEPS * 2));
        assert!(pace.is_quick());
    }
}
