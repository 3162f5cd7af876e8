//! Shares of processors as Kubernetes writes them: `500m`, `2`, `0.5`.

/// The kernel takes no less.
pub(super) const MIN: u64 = 10;
/// More cores than any machine has.
const CORES_MAX: u64 = 4096;

/// Reads a share, in thousandths of a core.
///
/// # Errors
/// A sentence that says what was expected.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is no share of processors: write cores or thousandths, like 2, 0.5 or 500m"
        )
    };
    let trimmed = text.trim();
    let thousandths = match trimmed.strip_suffix('m') {
        Some(number) => number.parse().map_err(|_| wrong())?,
        None => {
            let (cores, rest) = trimmed.split_once('.').unwrap_or((trimmed, "0"));
            if !(1..=3).contains(&rest.len()) || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong());
            }
            let cores: u64 = cores.parse().map_err(|_| wrong())?;
            let rest: u64 = format!("{rest:0<3}").parse().map_err(|_| wrong())?;
            cores.saturating_mul(1000).saturating_add(rest)
        }
    };
    if thousandths > CORES_MAX * 1000 {
        return Err(format!("`{text}` is more than {CORES_MAX} cores"));
    }
    Ok(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        for (text, thousandths) in
            [("500m", 500), ("2", 2000), ("0.5", 500), ("1.25", 1250), ("0.001", 1), ("0m", 0)]
        {
            assert_eq!(parse(text), Ok(thousandths), "{text}");
        }
    }

    #[test]
    fn wrong_shares_are_named() {
        for text in ["", "m", "-1", ".5", "1.", "0.0001", "1.5m", "2 cores", "1e3", "5000"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
