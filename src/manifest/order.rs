//! Order, batches and state of a binding.

use std::{num::NonZeroUsize, time::Duration};

/// Events of one key run one at a time, in the order of their stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where the key is.
    pub key: KeyAt,
    /// How many events of one key may wait before their partition does.
    pub lane_limit: NonZeroUsize,
    /// How many partitions the keys are spread over, each worked on by one runner at a time; `None`
    /// when one runner works on all of them.
    pub partitions: Option<NonZeroUsize>,
}

/// Where the key of an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAt {
    /// In a JSON payload, at these steps (a JSON pointer, RFC 6901, taken apart).
    Json(Vec<String>),
    /// In a header.
    Header(String),
    /// In this token of the subject, counted from 1.
    Token(NonZeroUsize),
}

/// Several events in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Events at most.
    pub max: NonZeroUsize,
    /// Bytes of payload at most, unless the first event alone has more.
    pub bytes: usize,
    /// How long the first event waits for others.
    pub wait: Duration,
}

/// State that a binding keeps for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The key-value bucket.
    pub bucket: String,
    /// Age at which an entry goes that nobody touches, if the bucket is made by Pelton.
    pub max_age: Option<Duration>,
}
