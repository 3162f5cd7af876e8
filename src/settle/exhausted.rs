//! What becomes of an event whose tries are used up.

use std::time::Duration;

use super::{Ack, Letter, Memory, Policy, Reason, Record, Settlement, give_back, give_up};

/// What a binding does about an event whose tries are used up, or that grew too old for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It goes back to its stream, and the binding stops on all runners until it is resumed.
    Pause,
    /// It is thrown away.
    Drop,
}

/// What was done in place of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The event was thrown away.
    Dropped(Reason),
    /// The binding stops.
    Pauses(Reason),
}

/// The last try, which is on `record` already, has failed. Where the binding stops, that try is not
/// charged: the event has it again once the binding goes on.
pub(super) fn exhausted(
    reason: Reason,
    error: String,
    mut record: Record,
    delivered: u64,
    policy: &Policy,
) -> Settlement {
    match policy.on_exhausted {
        OnExhausted::DeadLetter => give_up(Letter { reason, error, failed: record.failed }),
        OnExhausted::Drop => Settlement {
            memory: Memory::Forget,
            publish: Vec::new(),
            letter: None,
            exhausted: Some(Exhausted::Dropped(reason)),
            ack: Ack::Terminate { reason: reason.as_str().to_owned() },
        },
        OnExhausted::Pause => {
            record.failed.pop();
            let back = give_back(record, delivered, Duration::ZERO);
            Settlement { exhausted: Some(Exhausted::Pauses(reason)), ..back }
        }
    }
}
