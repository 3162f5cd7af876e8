//! A replay: stored events of a binding run through its function once more. Pure.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Where a replay begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The event of this sequence.
    Sequence(u64),
    /// This moment.
    Time(OffsetDateTime),
}

/// What becomes of what the function says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// Outputs have the ids that they had: what their stream still remembers is stored once.
    AsBefore,
    /// Outputs have ids of their own.
    AsNew,
    /// Nothing is stored.
    Nowhere,
}

/// A replay, as the metadata of its consumer keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Tells it from every other one.
    pub id: String,
    /// Where it begins, as it was asked for: `2h` means another moment each time.
    pub from: String,
    /// Where it ends, as it was asked for.
    pub to: Option<String>,
    /// The sequence of its first event, or one before.
    pub first: u64,
    /// The sequence of its last event, or one behind.
    pub last: u64,
    /// What becomes of what the function says.
    pub outputs: Outputs,
}

impl Replay {
    /// What sets the ids of its outputs apart, if they are.
    #[must_use]
    pub fn of_outputs(&self) -> Option<&str> {
        (self.outputs == Outputs::AsNew).then_some(&self.id)
    }

    /// Whether it was asked for in the same words.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.from, &self.to, self.outputs) == (&other.from, &other.to, other.outputs)
    }
}
