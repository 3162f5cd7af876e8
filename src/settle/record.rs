//! How invocations end, and what is remembered of an event between its deliveries.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// How an invocation ended; the label `outcome` of the metrics, and an entry of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The function succeeded.
    Done,
    /// It asked for another try, or failed in a way that earns one.
    Retry,
    /// It refused the event.
    Reject,
    /// It did not end in time.
    Timeout,
    /// What ran it broke off.
    Crash,
    /// It answered with something that is no verdict.
    BadReply,
    /// It could not be started.
    Unavailable,
    /// It succeeded, but an output can never be stored.
    Output,
    /// It succeeded, but the state it returned can never be stored.
    State,
}

impl Outcome {
    /// The spelling in metrics and in the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Timeout => "timeout",
            Self::Crash => "crash",
            Self::BadReply => "bad_reply",
            Self::Unavailable => "unavailable",
            Self::Output => "output",
            Self::State => "state",
        }
    }
}

/// Why an event is a dead letter; the header and metric label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Every try ended in a retry.
    AttemptsExhausted,
    /// The function rejected it.
    Rejected,
    /// The last try timed out.
    Timeout,
    /// The last try crashed, or the event vanished with its runner too often.
    Crashed,
    /// The last try gave no verdict.
    BadReply,
    /// The last try's outputs can never be stored.
    Output,
    /// Its payload is not what its content type promises.
    Undecodable,
    /// It grew older than `retry.max_age` before it succeeded.
    Expired,
    /// The state that the function returned can never be stored, or what is stored is none.
    State,
}

impl Reason {
    /// What the outcome of the last attempt makes of a dead letter.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Timeout => Self::Timeout,
            Outcome::Crash => Self::Crashed,
            Outcome::BadReply => Self::BadReply,
            Outcome::Output => Self::Output,
            Outcome::State => Self::State,
            Outcome::Reject => Self::Rejected,
            Outcome::Done | Outcome::Retry | Outcome::Unavailable => Self::AttemptsExhausted,
        }
    }

    /// All of them, for counters that exist from the start.
    pub const ALL: [Self; 9] = [
        Self::AttemptsExhausted,
        Self::Rejected,
        Self::Timeout,
        Self::Crashed,
        Self::BadReply,
        Self::Output,
        Self::Undecodable,
        Self::Expired,
        Self::State,
    ];

    /// Those of events that ran out of tries.
    pub const EXHAUSTED: [Self; 6] = [
        Self::AttemptsExhausted,
        Self::Timeout,
        Self::Crashed,
        Self::BadReply,
        Self::Output,
        Self::Expired,
    ];

    /// The spelling in headers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
            Self::BadReply => "bad_reply",
            Self::Output => "output",
            Self::Undecodable => "undecodable",
            Self::Expired => "expired",
            Self::State => "state",
        }
    }
}

/// One failed attempt: an invocation whose end a runner saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// How.
    pub outcome: Outcome,
    /// Why, cut to [`HISTORY_ERROR_MAX`] bytes.
    pub error: String,
}

/// The longest error text of a history entry, in bytes: a history of many tries must fit a header.
pub const HISTORY_ERROR_MAX: usize = 256;

/// What is remembered of an event between its deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Its failed attempts.
    pub failed: Vec<Attempt>,
    /// Deliveries that vanished together with the runner that had started them.
    pub losses: u32,
    /// The last delivery that is accounted for.
    pub seen: u64,
    /// The delivery that was about to run when this was written; kept only once there is a loss,
    /// so that an event that merely waited while another one killed the runner is not blamed.
    pub started: Option<u64>,
    /// Its dead letter is stored without the payload, which therefore stays where it is.
    pub parked: bool,
    /// It waits elsewhere until then: this delivery has nothing left to do.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub deferred: Option<OffsetDateTime>,
}

impl Record {
    /// Accounts for the deliveries between the last one known of and `delivered`; returns whether
    /// one of them was lost.
    pub fn account(&mut self, delivered: u64) -> bool {
        let vanished = delivered.saturating_sub(1) > self.seen;
        let lost = vanished
            && match self.losses {
                0 => true,
                _ => self.started.is_some_and(|started| started > self.seen),
            };
        self.losses += u32::from(lost);
        self.seen = delivered.saturating_sub(1);
        self.started = None;
        lost
    }

    /// Accounts for deliveries in which the event only waited for another one of its key.
    pub fn waited(&mut self, delivered: u64) {
        self.seen = delivered.saturating_sub(1);
        self.started = None;
    }

    /// The delivery goes on: it is to be accounted for once it has ended.
    pub fn goes_on(&mut self, delivered: u64) {
        self.seen = delivered.saturating_sub(1);
    }

    /// The next attempt's number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        u32::try_from(self.failed.len()).map_or(u32::MAX, |failed| failed.saturating_add(1))
    }
}
