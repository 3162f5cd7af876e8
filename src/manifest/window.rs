//! How long a stream remembers what was published to it, and for how long it has to.

use std::time::Duration;

use super::{Binding, Retention, Stream, defaults};
use crate::duration;

/// What the server makes of a window of nothing.
const SERVERS_WINDOW: Duration = Duration::from_secs(120);

impl Stream {
    /// How long the stream remembers message ids when Pelton makes it.
    #[must_use]
    pub fn window(&self) -> Duration {
        let window = match self.duplicate_window {
            Some(window) if !window.is_zero() => return window,
            Some(_) => SERVERS_WINDOW,
            None => defaults::DUPLICATE_WINDOW,
        };
        // The server remembers no id for longer than its message.
        self.max_age.filter(|age| !age.is_zero()).map_or(window, |age| age.min(window))
    }
}

/// Why a stream could store the outputs of a binding twice, each with its way out.
pub(crate) fn forgetful(
    binding: &Binding,
    stream: &str,
    window: Duration,
    retention: Retention,
) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let horizon = binding.outputs_horizon();
    if window < horizon {
        found.push((
            format!(
                "the stream {stream} remembers what was published to it for {}, and an event can come again for {}",
                duration::show(window),
                duration::show(horizon)
            ),
            "a redelivery after the duplicate window would publish twice: raise `duplicate_window`, or lower `retry` or `timeout`",
        ));
    }
    let kind = match retention {
        Retention::Limits => return found,
        Retention::Interest => "an interest stream",
        Retention::Workqueue => "a work queue",
    };
    found.push((
        format!("the stream {stream} is {kind}, which forgets message ids when its server restarts"),
        "a redelivery after that would publish again what was consumed: publish to a stream with `retention: limits`",
    ));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_never_longer_than_messages_are_kept() {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let window = |duplicate_window: Option<u64>, max_age: Option<u64>| {
            let (duplicate_window, max_age) = (duplicate_window.map(minutes), max_age.map(minutes));
            Stream { duplicate_window, max_age, ..Stream::default() }.window()
        };
        assert_eq!(window(None, None), minutes(10));
        assert_eq!(window(None, Some(5)), minutes(5));
        assert_eq!(window(None, Some(0)), minutes(10));
        assert_eq!(window(Some(30), None), minutes(30));
        assert_eq!(window(Some(0), None), minutes(2));
        assert_eq!(window(Some(0), Some(1)), minutes(1));
    }
}
