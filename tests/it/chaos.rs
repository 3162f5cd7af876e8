//! The fault suite: random but repeatable faults under load, and a look at every event afterwards.
//!
//! Small in `make test`; `make faults` runs it in full size and shows its tables. The seed is
//! printed; `SEED`, `EVENTS` and `KILLS` choose others.

mod check;
mod cluster;
mod fleet;
mod full;
mod keyed;
mod kills;
mod load;
mod network;
mod poison;
mod report;
mod workers;
mod zombie;

/// How large a scenario is.
#[derive(Debug, Clone, Copy)]
struct Size {
    events: usize,
    kills: usize,
    seed: u64,
}

impl Size {
    /// `small` in the tests, `full` for `make faults`.
    fn of(small: (usize, usize), full: (usize, usize)) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let (events, kills) = if is_full() { full } else { small };
        Self {
            events: number("EVENTS").unwrap_or(events),
            kills: number("KILLS").unwrap_or(kills),
            seed: number("SEED").map_or_else(|| fastrand::u64(..), |seed| seed as u64),
        }
    }
}

fn is_full() -> bool {
    std::env::var_os("PELTON_FAULTS").is_some()
}
