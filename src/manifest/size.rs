//! Sizes as people write them: `512KiB`, `64Mi`, `1GB`.

/// Reads a size in bytes.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is no size: write a number with its unit, like 512KiB, 64MiB, 64Mi or 1GB"
        )
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start();
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    if number.is_empty() {
        return Err(wrong());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*bytes))
        // JetStream counts bytes in an i64.
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| format!("`{text}` is more than 8 EiB"))
}

/// Units that [`parse`] reads, with their bytes.
pub const UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
];

/// Writes a size the way [`parse`] reads it.
#[must_use]
pub fn show(bytes: u64) -> String {
    let binary = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match binary.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("0B", 0), ("10 B", 10), ("3KB", 3000), ("64MiB", 64 << 20), ("2Gi", 2 << 30)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse(&show(64 << 20)), Ok(64 << 20));
        assert_eq!(show(1500), "1500B");
    }

    #[test]
    fn wrong_sizes_are_named() {
        for text in [
            "",
            "64",
            "64mb",
            "MiB",
            "-1B",
            "1.5GB",
            "1TB",
            "99999999999GiB",
            "9999999999999999999999B",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
