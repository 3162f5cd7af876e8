//! Decides what becomes of an event. Pure: no clock, no I/O, no randomness of its own; whoever
//! calls hands in time and jitter and carries the decision out.

mod exhausted;
mod record;

use std::time::Duration;

use time::OffsetDateTime;

use crate::{
    event::{Cause, Publish},
    handler::Fault,
};

use exhausted::exhausted;
pub use exhausted::{Exhausted, OnExhausted};
pub use record::{Attempt, HISTORY_ERROR_MAX, Outcome, Reason, Record};

/// What a server is told of a delivery in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ack {
    /// Dealt with.
    Done,
    /// Deliver it again, not before `after`.
    Redeliver {
        /// The delay.
        after: Duration,
    },
    /// Never deliver it again.
    Terminate {
        /// Shown in the server's advisory.
        reason: String,
    },
}

impl Ack {
    /// In NATS' own word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done => "ack",
            Self::Redeliver { .. } => "nak",
            Self::Terminate { .. } => "term",
        }
    }
}

/// Where and whether a delivered event may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// With others.
    Run,
    /// Alone in its worker: its last attempt broke one.
    Apart,
    /// Alone among all suspects of its binding: it vanished with a runner before.
    Quarantine,
    /// Not at all.
    DeadLetter(Letter),
    /// Not at all: its letter is stored, its payload must stay.
    Parked,
    /// Not here: it waits elsewhere until then.
    Deferred(OffsetDateTime),
}

/// A decision to give an event up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The kind of failure.
    pub reason: Reason,
    /// What failed, for people.
    pub error: String,
    /// Every failed attempt, this one included.
    pub failed: Vec<Attempt>,
}

/// When a binding gives an event up, and how long it waits before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Tries at most, the first included.
    pub attempts: u32,
    /// The shortest wait between two tries.
    pub backoff_min: Duration,
    /// The longest.
    pub backoff_max: Duration,
    /// How often an event may vanish with its runner.
    pub losses: u32,
    /// How old an event may grow and still be tried again.
    pub max_age: Option<Duration>,
    /// What happens then, if the tries are what it ran out of.
    pub on_exhausted: OnExhausted,
}

/// What to do with the record of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// Nothing was ever written.
    Keep,
    /// Write this before anything else.
    Write(Record),
    /// Forget it once the event is released.
    Forget,
}

/// What becomes of an event, carried out in the order of these fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The record, written first so that what it counts is true whichever runner goes on.
    pub memory: Memory,
    /// Outputs to store.
    pub publish: Vec<Publish>,
    /// The dead letter to store.
    pub letter: Option<Letter>,
    /// What is done in place of one.
    pub exhausted: Option<Exhausted>,
    /// The word for the server, said last.
    pub ack: Ack,
}

/// How one invocation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The function succeeded, and this is to be stored.
    Done(Vec<Publish>),
    /// It asked for another try, or failed.
    Retry {
        /// Why.
        reason: String,
        /// Replaces the backoff.
        after: Option<Duration>,
    },
    /// It refused the event.
    Reject {
        /// What kind of rejection.
        cause: Cause,
        /// Why.
        reason: String,
    },
    /// The runtime got no verdict.
    Fault(Fault),
    /// The function succeeded, but an output can never be stored.
    Output(String),
    /// The function succeeded, but its state can never be stored; or no state can be read.
    State(String),
    /// The runner gave up waiting because it drains.
    Cancelled,
}

impl End {
    /// Why it did not succeed.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Done(_) => None,
            Self::Retry { reason, .. } | Self::Reject { reason, .. } => Some(reason.clone()),
            Self::Fault(fault) => Some(fault.to_string()),
            Self::Output(why) | Self::State(why) => Some(why.clone()),
            Self::Cancelled => Some("the runner ended".to_owned()),
        }
    }

    /// The label of the metrics.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Done(_) => Outcome::Done,
            Self::Retry { .. } => Outcome::Retry,
            Self::Reject { .. } => Outcome::Reject,
            Self::Fault(Fault::Timeout(_)) => Outcome::Timeout,
            Self::Fault(Fault::Crash(_)) => Outcome::Crash,
            Self::Fault(Fault::BadReply(_)) => Outcome::BadReply,
            Self::Fault(Fault::Unavailable(_)) | Self::Cancelled => Outcome::Unavailable,
            Self::Output(_) => Outcome::Output,
            Self::State(_) => Outcome::State,
        }
    }
}

/// The moment and the chance that a decision needs.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The time.
    pub time: OffsetDateTime,
    /// When the event was stored.
    pub stored: OffsetDateTime,
    /// Uniform in `[0, 1)`.
    pub jitter: f64,
    /// How long to wait for a function that cannot start.
    pub unavailable: Duration,
    /// How long an event stays away that a drain cut short.
    pub given_back: Duration,
}

/// How long an event that a drain cut short stays away: longer than the runner that ends may still
/// be sent events, so that another one gets it.
pub const GIVEN_BACK_FOR: Duration = Duration::from_secs(4);

/// The longest delay a function may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a delivered event may run, given what is remembered of it.
#[must_use]
pub fn admit(record: &Record, policy: &Policy) -> Admission {
    if record.parked {
        return Admission::Parked;
    }
    if let Some(due) = record.deferred {
        return Admission::Deferred(due);
    }
    if record.losses > policy.losses {
        return Admission::DeadLetter(Letter {
            reason: Reason::Crashed,
            error: format!("the runner died {} times while it handled this event", record.losses),
            failed: record.failed.clone(),
        });
    }
    let last = record.failed.last();
    // Anything else is decided when a try has failed, which is one more here.
    let dies = policy.on_exhausted == OnExhausted::DeadLetter;
    match last {
        Some(last) if record.attempt() > policy.attempts && dies => Admission::DeadLetter(Letter {
            reason: Reason::of(last.outcome),
            error: last.error.clone(),
            failed: record.failed.clone(),
        }),
        _ if record.losses > 0 => Admission::Quarantine,
        Some(last) if matches!(last.outcome, Outcome::Crash | Outcome::Timeout) => Admission::Apart,
        _ => Admission::Run,
    }
}

/// What becomes of an event whose invocation has ended.
#[must_use]
pub fn settle(end: End, record: Record, delivered: u64, policy: &Policy, now: Now) -> Settlement {
    let outcome = end.outcome();
    match end {
        End::Done(publish) => done(publish, &record),
        End::Reject { cause, reason } => {
            let failed = charge(record, outcome, &reason, now).failed;
            let cause = match cause {
                Cause::Rejected => Reason::Rejected,
                Cause::Undecodable => Reason::Undecodable,
            };
            give_up(Letter { reason: cause, error: reason, failed })
        }
        End::State(reason) => {
            let failed = charge(record, outcome, &reason, now).failed;
            give_up(Letter { reason: Reason::State, error: reason, failed })
        }
        End::Fault(Fault::Unavailable(_)) => give_back(record, delivered, now.unavailable),
        End::Cancelled => give_back(record, delivered, now.given_back),
        End::Retry { reason, after } => {
            let record = charge(record, outcome, &reason, now);
            again_or_give_up(record, delivered, policy, now, reason, after)
        }
        End::Fault(fault) => {
            let error = fault.to_string();
            let record = charge(record, outcome, &error, now);
            again_or_give_up(record, delivered, policy, now, error, None)
        }
        End::Output(error) => {
            let record = charge(record, outcome, &error, now);
            again_or_give_up(record, delivered, policy, now, error, None)
        }
    }
}

/// What becomes of an event whose function succeeded.
#[must_use]
pub fn done(publish: Vec<Publish>, record: &Record) -> Settlement {
    let known = *record != Record::default();
    Settlement {
        memory: if known { Memory::Forget } else { Memory::Keep },
        publish,
        letter: None,
        exhausted: None,
        ack: Ack::Done,
    }
}

/// The wait before try `failed + 1`: uniform in `[min, min(max, min·2^failed)]`.
#[must_use]
pub fn backoff(min: Duration, max: Duration, failed: u32, jitter: f64) -> Duration {
    let factor = 2_u32.checked_pow(failed).unwrap_or(u32::MAX);
    let top = min.saturating_mul(factor).min(max).max(min);
    min + (top - min).mul_f64(jitter.clamp(0.0, 1.0))
}

/// `text` cut to `max` bytes at a character's end.
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

fn charge(mut record: Record, outcome: Outcome, error: &str, now: Now) -> Record {
    record.failed.push(Attempt {
        time: now.time,
        outcome,
        error: cut(error, HISTORY_ERROR_MAX).to_owned(),
    });
    record
}

fn again_or_give_up(
    record: Record,
    delivered: u64,
    policy: &Policy,
    now: Now,
    error: String,
    after: Option<Duration>,
) -> Settlement {
    let failed = record.attempt() - 1;
    let after = after.map_or_else(
        || backoff(policy.backoff_min, policy.backoff_max, failed, now.jitter),
        |after| after.min(RETRY_AFTER_MAX),
    );
    let reason = record.failed.last().map_or(Reason::Crashed, |last| Reason::of(last.outcome));
    let age_then = (now.time - now.stored) + after;
    if failed >= policy.attempts {
        exhausted(reason, error, record, delivered, policy)
    } else if policy.max_age.is_some_and(|max| age_then > max) {
        exhausted(Reason::Expired, error, record, delivered, policy)
    } else {
        give_back(record, delivered, after)
    }
}

/// A dead letter, and then the end of its event.
#[must_use]
pub fn give_up(letter: Letter) -> Settlement {
    let reason = letter.reason.as_str().to_owned();
    Settlement {
        memory: Memory::Forget,
        publish: Vec::new(),
        letter: Some(letter),
        exhausted: None,
        ack: Ack::Terminate { reason },
    }
}

/// An event whose letter is stored without its payload stays where it is.
#[must_use]
pub const fn stay_parked() -> Settlement {
    Settlement {
        memory: Memory::Keep,
        publish: Vec::new(),
        letter: None,
        exhausted: None,
        ack: Ack::Redeliver { after: RETRY_AFTER_MAX },
    }
}

/// An event that waits elsewhere stays away if it has to wait here after all.
#[must_use]
pub fn stay_deferred(rest: time::Duration) -> Settlement {
    let after = Duration::try_from(rest).unwrap_or_default();
    Settlement { ack: Ack::Redeliver { after }, ..stay_parked() }
}

fn give_back(record: Record, delivered: u64, after: Duration) -> Settlement {
    Settlement {
        memory: Memory::Write(Record { seen: delivered, started: None, ..record }),
        publish: Vec::new(),
        letter: None,
        exhausted: None,
        ack: Ack::Redeliver { after },
    }
}
