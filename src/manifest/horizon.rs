//! How long after its first try an event may be tried for the last time.

use std::time::Duration;

use super::{Binding, Retry};

impl Binding {
    /// How long an event can wait for its last try: every wait the longest, every try a timeout.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        horizon(&self.retry, self.timeout)
    }

    /// How long after an output was stored its event may be run for the last time and store it
    /// again: the acknowledgement was lost or the runner died behind the first try, the server waits
    /// `ack_wait`, and then comes every try there is. More runners that die on the same event, delays
    /// that a function asks for, and the time in which no runner is there come on top.
    #[must_use]
    pub fn outputs_horizon(&self) -> Duration {
        self.horizon().saturating_add(self.ack_wait)
    }
}

fn horizon(retry: &Retry, timeout: Duration) -> Duration {
    let attempts = retry.attempts.get();
    let mut waits = Duration::ZERO;
    let mut wait = retry.backoff_min;
    for round in 1..attempts {
        wait = wait.saturating_mul(2).min(retry.backoff_max).max(retry.backoff_min);
        if wait == retry.backoff_max || wait.is_zero() {
            waits = waits.saturating_add(wait.saturating_mul(attempts - round));
            break;
        }
        waits = waits.saturating_add(wait);
    }
    let total = waits.saturating_add(timeout.saturating_mul(attempts));
    retry.max_age.map_or(total, |age| total.min(age))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn the_horizon_adds_the_longest_waits_and_every_timeout() {
        let retry = Retry {
            attempts: NonZeroU32::new(8).unwrap(),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            losses: 5,
            max_age: None,
            on_exhausted: crate::settle::OnExhausted::DeadLetter,
        };
        let seconds = 2 + 4 + 8 + 16 + 32 + 60 + 60 + 8 * 30;
        assert_eq!(horizon(&retry, Duration::from_secs(30)), Duration::from_secs(seconds));
        let bounded = Retry { max_age: Some(Duration::from_secs(90)), ..retry };
        assert_eq!(horizon(&bounded, Duration::from_secs(30)), Duration::from_secs(90));
    }
}
