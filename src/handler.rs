//! The seam between delivery and runtimes. A binding hands a [`Call`] to a [`Handler`] and gets
//! back what the function said ([`Reply`]) or why it said nothing ([`Fault`]). Handlers never see
//! NATS; NATS never sees a handler.

use std::{pin::Pin, time::Duration};

use thiserror::Error;

use crate::event::{Event, State, Verdict};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// At least one of something; holding just one does not allocate.
#[derive(Debug, Clone)]
pub struct NonEmpty<T> {
    /// The one that is always there.
    pub first: T,
    /// The others.
    pub rest: Vec<T>,
}

impl<T> NonEmpty<T> {
    /// Just one.
    #[must_use]
    pub const fn one(first: T) -> Self {
        Self { first, rest: Vec::new() }
    }

    /// All of `items`; `None` when there is none.
    #[must_use]
    pub fn collect(items: Vec<T>) -> Option<Self> {
        let mut items = items.into_iter();
        let first = items.next()?;
        Some(Self { first, rest: items.collect() })
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// How many there are; never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        1 + self.rest.len()
    }
}

impl<T> IntoIterator for NonEmpty<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}

/// One call of a function: one event, or a batch of them.
#[derive(Debug, Clone)]
pub struct Call {
    /// What to handle.
    pub events: NonEmpty<Event>,
    /// Whether the binding has `batch`: its function is handed a list, of one event too.
    pub batch: bool,
    /// The key's state, when the binding keeps any.
    pub state: Option<State>,
    /// How long the function may take, counted from the moment it starts, not from dispatch.
    pub timeout: Duration,
    /// Whether other calls may run in the same worker at the same time.
    pub company: Company,
}

/// Whether an event may share a worker with others while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// With others, as usual.
    Shared,
    /// Alone, so that if the worker dies it is known which event did it.
    Apart,
}

/// What a function said: one verdict for each event of the call, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// As many as the call has events.
    pub verdicts: Vec<Verdict>,
    /// The key's next state, when the binding keeps any.
    pub state: Option<State>,
}

impl Reply {
    /// The reply to a call with one event.
    #[must_use]
    pub fn one(verdict: Verdict) -> Self {
        Self { verdicts: vec![verdict], state: None }
    }
}

/// Why a runtime got no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The function started and did not end in time.
    #[error("no verdict within {}", crate::duration::show(*.0))]
    Timeout(Duration),
    /// The process, instance or connection that ran the function broke off.
    #[error("{0}")]
    Crash(String),
    /// An answer that is no verdict.
    #[error("{0}")]
    BadReply(String),
    /// The function could not be started at all; charges nothing.
    #[error("{0}")]
    Unavailable(String),
}

/// Runs one function. One is built for each binding.
pub trait Handler: Send + Sync {
    /// Runs the function once. Dropping the future stops the work.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>>;

    /// Gets ready for a first call, so that a function that cannot start is known before an event
    /// arrives.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] with the reason, as a call would give it.
    fn start(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    /// Ends what the handler keeps running between calls, and waits for its end.
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
