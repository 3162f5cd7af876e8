//! How fast the calls of a binding may begin, whichever events they are for.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::manifest;

/// What may begin at once after a lull is as much as would have begun in this time: timers are
/// coarser than the interval of a high rate.
const BURST: Duration = Duration::from_millis(100);

/// A bucket of turns that fills up at the binding's rate (the generic cell rate algorithm).
#[derive(Debug)]
pub struct Rate {
    interval: Duration,
    /// How long before its regular time a turn may be taken.
    early: Duration,
    /// The regular time of the next turn.
    next: Mutex<Instant>,
}

impl Rate {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: manifest::Rate) -> Self {
        let interval = rate.interval();
        let burst = BURST.as_nanos() / interval.as_nanos().max(1);
        let early = interval.saturating_mul(u32::try_from(burst).unwrap_or(u32::MAX).max(1) - 1);
        Self { interval, early, next: Mutex::new(Instant::now()) }
    }

    /// When the next call may begin.
    pub(super) fn due(&self) -> Instant {
        let next = *self.next();
        next.checked_sub(self.early).unwrap_or(next)
    }

    /// Takes the next turn, which comes at this moment; it cannot be given back.
    pub(super) fn take(&self) -> Instant {
        let mut next = self.next();
        let turn = next.checked_sub(self.early).unwrap_or(*next);
        *next = (*next).max(Instant::now()) + self.interval;
        turn
    }

    /// Takes a turn and waits for it.
    pub(super) async fn turn(&self) {
        sleep_until(self.take()).await;
    }

    fn next(&self) -> MutexGuard<'_, Instant> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn thousand_turns(rate: &str) -> Duration {
        let (calls, unit) = rate.split_once('/').unwrap();
        let per = Duration::from_secs(if unit == "s" { 1 } else { 60 });
        let rate = Rate::new(manifest::Rate { calls: calls.parse().unwrap(), per });
        let begun = Instant::now();
        for _ in 0..1000 {
            rate.turn().await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_rate_after_a_burst() {
        for (rate, burst) in [("10/s", 1), ("100/s", 10), ("100/m", 1), ("2000/s", 200)] {
            let (calls, unit) = rate.split_once('/').unwrap();
            let second = calls.parse::<f64>().unwrap() / if unit == "s" { 1.0 } else { 60.0 };
            let expected = f64::from(1000 - burst) / second;
            let took = thousand_turns(rate).await.as_secs_f64();
            assert!((took - expected).abs() < 0.01, "{rate}: {took} {expected}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lull_saves_up_one_burst_and_no_more() {
        let rate = Rate::new(manifest::Rate {
            calls: 100.try_into().unwrap(),
            per: Duration::from_secs(1),
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = Instant::now();
        assert!((0..10).all(|_| rate.take() <= now));
        assert!(rate.due() > now);
    }
}
