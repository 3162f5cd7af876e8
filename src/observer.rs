//! Who watches invocations as they end: the lines of `pelton dev`, say.

use std::time::Duration;

use crate::settle::{Ack, Exhausted, Outcome, Reason};

/// An invocation that ended and was settled.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The binding.
    pub binding: String,
    /// `stream:sequence`.
    pub event: String,
    /// The event's subject.
    pub subject: String,
    /// Its `traceparent`, if any.
    pub trace: Option<String>,
    /// Which attempt this was.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// How long the function took.
    pub took: Duration,
    /// Why, when it failed.
    pub error: Option<String>,
    /// Where outputs went.
    pub outputs: Vec<String>,
    /// Why it is a dead letter, when it is one.
    pub dead_letter: Option<Reason>,
    /// What was done in place of a dead letter, when its tries were used up.
    pub exhausted: Option<Exhausted>,
    /// What the server was told.
    pub ack: Ack,
}

/// Told of every invocation, on the path of the event: be quick.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// An invocation was settled.
    fn settled(&self, invocation: &Invocation);
}
