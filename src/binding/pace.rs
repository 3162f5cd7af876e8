//! Whether events are begun on the binding's own task or on tasks of their own.

use std::time::Duration;

/// A function that computes for longer than this before it first waits would hold up the events
/// behind it.
const QUICK: Duration = Duration::from_micros(100);
/// Pulls for which a slow function's events get tasks of their own, before it is tried again.
const REPRIEVE: u32 = 256;

/// What the last pulls have shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    slow_for: u32,
}

impl Pace {
    /// As after a pull that took too long.
    pub(super) const fn slow() -> Self {
        Self { slow_for: REPRIEVE }
    }

    pub(super) const fn is_quick(self) -> bool {
        self.slow_for == 0
    }

    /// The pace after a pull of `count` events took `spent` to begin.
    pub(super) fn after(self, spent: Duration, count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let slow_for = match self.slow_for {
            0 if spent / count > QUICK => REPRIEVE,
            left => left.saturating_sub(1),
        };
        Self { slow_for }
    }
}
