//! The handles that bindings and functions count with.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::settle::{Ack, Outcome, Reason};

/// The handles of one binding.
#[derive(Debug, Clone)]
pub struct BindingMetrics {
    pub(super) outcomes: [IntCounter; OUTCOMES.len()],
    /// Received and not yet settled.
    pub in_flight: IntGauge,
    /// Room for events.
    pub slots: IntGauge,
    /// Start to end of an invocation.
    pub invocation_duration: Histogram,
    /// Stored to started.
    pub queue_wait: Histogram,
    /// Deliveries.
    pub received: IntCounter,
    /// Deliveries that were not the first of their event.
    pub redeliveries: IntCounter,
    /// Deliveries that vanished with a runner.
    pub losses: IntCounter,
    pub(super) settlements: [IntCounter; 3],
    /// Events that keep their claim and run again in their turn.
    pub settlements_held: IntCounter,
    /// Keys with so many events waiting that they hold back all others.
    pub lanes_blocked: IntGauge,
    /// Partitions of an ordered binding that this runner works on.
    pub partitions_owned: IntGauge,
    /// Words for the server that could not be said.
    pub settlement_errors: IntCounter,
    /// Claims prolonged.
    pub lease_extensions: IntCounter,
    pub(super) dead_letters: [IntCounter; Reason::ALL.len()],
    /// Events thrown away, by binding and reason.
    pub dropped: IntCounterVec,
    /// Events that stopped the binding.
    pub pauses: IntCounter,
    /// Dead letters that could not be stored.
    pub dead_letter_publish_errors: IntCounter,
    /// Outputs stored for the first time.
    pub published_stored: IntCounter,
    /// Outputs that were stored already.
    pub published_duplicate: IntCounter,
    /// Values that had nowhere to go.
    pub published_discarded: IntCounter,
    /// Outputs that can never be stored.
    pub published_failed: IntCounter,
    /// Sent to stored.
    pub publish_duration: Histogram,
    /// Unix seconds of the last success.
    pub last_success: IntGauge,
    /// 1 while the function can be called, 0 while the binding is degraded.
    pub up: IntGauge,
}

/// The handles of one function's workers.
#[derive(Debug, Clone)]
pub struct WorkerMetrics {
    pub(super) starts: IntCounterVec,
    pub(super) function: String,
    pub(super) start_duration: Histogram,
    pub(super) workers: IntGauge,
}

/// Why a worker was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerStart {
    /// There was none, or more were needed.
    Demand,
    /// The one before it died.
    Crash,
    /// The one before it was killed because an event took too long.
    Timeout,
}

impl WorkerStart {
    pub(super) const ALL: [Self; 3] = [Self::Demand, Self::Crash, Self::Timeout];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
        }
    }
}

/// Outcomes that are counted, in the order of `BindingMetrics::outcomes`.
pub(super) const OUTCOMES: [Outcome; 7] = [
    Outcome::Done,
    Outcome::Retry,
    Outcome::Reject,
    Outcome::Timeout,
    Outcome::Crash,
    Outcome::BadReply,
    Outcome::Unavailable,
];

impl BindingMetrics {
    /// Counts an invocation that ended. An output that can never be stored does not change that
    /// the function said "done".
    pub fn outcome(&self, outcome: Outcome) {
        let index = OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(0);
        if let Some(counter) = self.outcomes.get(index) {
            counter.inc();
        }
    }

    /// Counts a word that the server was given.
    pub fn settled(&self, ack: &Ack) {
        let [done, redeliver, terminate] = &self.settlements;
        match ack {
            Ack::Done => done.inc(),
            Ack::Redeliver { .. } => redeliver.inc(),
            Ack::Terminate { .. } => terminate.inc(),
        }
    }

    /// Counts a dead letter that was stored.
    pub fn dead_letter(&self, reason: Reason) {
        let index = Reason::ALL.iter().position(|known| *known == reason);
        if let Some(counter) = index.and_then(|index| self.dead_letters.get(index)) {
            counter.inc();
        }
    }
}

impl WorkerMetrics {
    /// Counts a start; `took` is the time until the worker was ready.
    pub fn started(&self, reason: WorkerStart, took: Duration) {
        self.starts.with_label_values(&[self.function.as_str(), reason.as_str()]).inc();
        self.start_duration.observe(took.as_secs_f64());
    }

    /// Counts a worker for as long as the guard lives.
    #[must_use]
    pub fn running(&self) -> WorkerGuard {
        self.workers.inc();
        WorkerGuard(self.workers.clone())
    }
}

/// A worker that runs.
#[derive(Debug)]
pub struct WorkerGuard(IntGauge);

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
