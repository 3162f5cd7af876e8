//! A control group (version 2) for each worker process: it bounds memory and processors of the
//! worker with all that it starts, and nothing that was started in it outlives it.
//!
//! They are below the runner's own group, where that may be written to. The kernel shares a group's
//! memory and processors out among its children only when no process is in the group itself, so the
//! runner moves one down, unless it would leave others behind.

mod cell;
mod place;

use std::sync::OnceLock;

pub(super) use cell::Cell;
use place::Place;

/// What a worker may use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Thousandths of a core.
    pub(super) cpu: Option<u64>,
}

/// What was made of the limits of a worker.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Its group, where there is one.
    pub(super) cell: Option<Cell>,
    /// Whether the group bounds its memory.
    pub(super) memory: bool,
}

/// Makes a group for a worker, with as much of its limits as can be kept here.
pub(super) fn cell(limits: Limits) -> std::io::Result<Kept> {
    match place() {
        Ok(place) => {
            let memory = place.memory.is_ok() && limits.memory.is_some();
            Ok(Kept { cell: Some(place.cell(limits)?), memory })
        }
        Err(_) => Ok(Kept::default()),
    }
}

/// Why the processors of a worker cannot be bounded here.
pub(super) fn no_cpu() -> Option<&'static str> {
    place().and_then(|place| place.cpu.as_ref().map_err(String::as_str)).err()
}

/// Where this process makes groups, or why it makes none.
fn place() -> Result<&'static Place, &'static str> {
    static PLACE: OnceLock<Result<Place, String>> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let place = Place::find();
        match &place {
            Ok(place) => tracing::debug!(%place, "workers get control groups of their own"),
            Err(why) => tracing::debug!(why, "workers get no control groups of their own"),
        }
        place
    });
    place.as_ref().map_err(String::as_str)
}
