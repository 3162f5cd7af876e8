//! Durations as people write them: `250ms`, `10s`, `5m`, `30d`, `1h30m`.

use std::time::Duration;

/// Writes a duration the way [`parse`] reads it.
#[must_use]
pub fn show(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in UNITS {
        let count = rest / millis;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest %= millis;
        }
    }
    if text.is_empty() { format!("{}µs", duration.as_micros()) } else { text }
}

/// Reads a duration.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is no duration: write a number with its unit, like 250ms, 10s, 5m, 1h30m or 30d"
        )
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let millis = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let number: u128 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(millis).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        rest = tail;
    }
    // JetStream counts nanoseconds in an i64.
    let limit = u128::from(u64::MAX / 2_000_000);
    let millis = u64::try_from(total.min(limit + 1)).map_err(|_| wrong())?;
    if total > limit {
        return Err(format!("`{text}` is longer than 292 years"));
    }
    Ok(Duration::from_millis(millis))
}

const UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
