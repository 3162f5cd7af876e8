//! Waiting without sleeping: a condition is looked at until it holds. The deadline is there to
//! fail a broken test, not to measure a slow machine.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How long anything may take before its test counts as failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Looks until `probe` returns something.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    let mut ticks = interval(Duration::from_millis(25));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A probe that hangs, on a server that is down perhaps, is asked again.
        if let Ok(Some(found)) = timeout(Duration::from_secs(5), probe()).await {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
    }
}
