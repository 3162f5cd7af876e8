//! The life of a worker: what it is planned with, its phases, its orders, its death. The words that
//! pool, roster, member and the worker's task have in common.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::metrics::WorkerStart;

/// What a pool is bounded by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Workers at most.
    pub(super) workers: usize,
    /// Calls in flight in one worker.
    pub(super) slots: usize,
    pub(super) idle_timeout: Duration,
    pub(super) start_timeout: Duration,
    /// Workers are known to use the started page.
    pub(super) pages: bool,
}

/// A worker to start.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) worker: u64,
    pub(super) reason: WorkerStart,
    pub(super) delay: Duration,
    pub(super) bell: Arc<Bell>,
}

/// Wakes the two sides of a worker's task.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// There is something to write.
    pub(super) outbox: Notify,
    /// The worker should be looked at.
    pub(super) look: Notify,
}

/// What a worker's task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Look again then.
    Wait(Instant),
    /// Let it end by itself.
    Close,
    /// Kill it.
    Kill,
}

/// How a worker ended.
#[derive(Debug)]
pub(super) enum Death {
    /// It never became ready.
    NotStarted(String),
    /// By itself.
    Died(String),
    /// We killed it because of a call.
    Killed,
    /// Nobody needed it.
    Closed,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not ready; must be by then.
    Starting(Instant),
    Live,
    /// Gets no more calls.
    Closing,
    /// Is to be killed, or dead already.
    Doomed,
}
