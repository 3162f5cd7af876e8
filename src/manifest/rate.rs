//! How many calls may begin in a while: `100/s`, `90/m`, `10/h`.

use std::{num::NonZeroU32, time::Duration};

/// Calls that may begin in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub calls: NonZeroU32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    /// From the beginning of a call to that of the next.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per / self.calls.get()
    }
}

/// More than any runner begins.
const CALLS_MAX: u32 = 1_000_000;

/// Reads a rate.
///
/// # Errors
/// A sentence that says what was expected.
pub(super) fn parse(text: &str) -> Result<Rate, String> {
    let wrong =
        || format!("`{text}` is no rate: write calls in a second, minute or hour, like 100/s");
    let (calls, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return Err(wrong()),
    };
    let calls: u64 = calls.trim().parse().map_err(|_| wrong())?;
    let calls = u32::try_from(calls).ok().filter(|calls| *calls <= CALLS_MAX);
    let calls = calls.ok_or_else(|| format!("`{text}` is more than {CALLS_MAX} calls"))?;
    let calls = NonZeroU32::new(calls)
        .ok_or_else(|| format!("`{text}` would let nothing begin: write 1 or more"))?;
    Ok(Rate { calls, per: Duration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, interval) in [
            ("100/s", Duration::from_millis(10)),
            ("90/m", Duration::from_secs(60) / 90),
            ("1/h", Duration::from_secs(3600)),
            (" 4 / s", Duration::from_millis(250)),
            ("1000000/s", Duration::from_micros(1)),
        ] {
            assert_eq!(parse(text).map(Rate::interval), Ok(interval), "{text}");
        }
    }

    #[test]
    fn wrong_rates_are_named() {
        for text in ["", "/", "5", "5/", "/s", "5/d", "-1/s", "0/s", "1.5/s", "5/s/s", "1000001/s"]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
