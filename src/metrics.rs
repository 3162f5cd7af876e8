//! Every metric's name, and the only place that has one. Handles are resolved once, when a binding
//! or a function is built: no look-up by label on the path of an event.

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::settle::{Ack, Outcome, Reason};

/// Seconds, for what takes the time of a call.
const DURATION_BUCKETS: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];
/// Seconds, for what takes the time of a backlog.
const QUEUE_BUCKETS: [f64; 12] =
    [0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 900.0, 3600.0];

/// All metrics of one runner.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    invocations: IntCounterVec,
    invocation_duration: HistogramVec,
    in_flight: IntGaugeVec,
    slots: IntGaugeVec,
    queue_wait: HistogramVec,
    received: IntCounterVec,
    redeliveries: IntCounterVec,
    losses: IntCounterVec,
    settlements: IntCounterVec,
    settlement_errors: IntCounterVec,
    lease_extensions: IntCounterVec,
    dead_letters: IntCounterVec,
    dead_letter_publish_errors: IntCounterVec,
    published: IntCounterVec,
    publish_duration: HistogramVec,
    last_success: IntGaugeVec,
    binding_up: IntGaugeVec,
    worker_starts: IntCounterVec,
    worker_start_duration: HistogramVec,
    workers: IntGaugeVec,
    consumer_pending: IntGaugeVec,
    consumer_ack_pending: IntGaugeVec,
    consumer_max_ack_pending: IntGaugeVec,
    consumer_paused: IntGaugeVec,
    oldest_unacked: IntGaugeVec,
    dead_letter_messages: IntGaugeVec,
    nats_connected: IntGauge,
    nats_reconnects: IntCounter,
    nats_rtt: Gauge,
    /// Held shared by whoever moves an event from one count to the next, exclusively by a scrape:
    /// what a scrape shows adds up.
    consistent: RwLock<()>,
}

/// The handles of one binding.
#[derive(Debug, Clone)]
pub struct BindingMetrics {
    outcomes: [IntCounter; OUTCOMES.len()],
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
    settlements: [IntCounter; 3],
    /// Words for the server that could not be said.
    pub settlement_errors: IntCounter,
    /// Claims prolonged.
    pub lease_extensions: IntCounter,
    dead_letters: [IntCounter; Reason::ALL.len()],
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
    starts: IntCounterVec,
    function: String,
    start_duration: Histogram,
    workers: IntGauge,
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
    const ALL: [Self; 3] = [Self::Demand, Self::Crash, Self::Timeout];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
        }
    }
}

/// What the server says of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerGauges {
    /// Not delivered yet.
    pub pending: u64,
    /// Delivered, not acknowledged; delayed redeliveries among them.
    pub ack_pending: u64,
    /// The most of those.
    pub max_ack_pending: i64,
    /// Whether delivery is paused.
    pub paused: bool,
    /// Age of the oldest event that is not acknowledged, in seconds.
    pub oldest_unacked: Option<u64>,
}

/// Outcomes that are counted, in the order of `BindingMetrics::outcomes`.
const OUTCOMES: [Outcome; 7] = [
    Outcome::Done,
    Outcome::Retry,
    Outcome::Reject,
    Outcome::Timeout,
    Outcome::Crash,
    Outcome::BadReply,
    Outcome::Unavailable,
];

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Two metrics of one name; cannot happen in a program that starts at all.
    #[expect(clippy::too_many_lines, reason = "a list: one entry a metric")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = IntGaugeVec::new(
            Opts::new("pelton_build_info", "1; the labels tell the build."),
            &["version", "revision"],
        )?;
        build
            .with_label_values(&[
                env!("CARGO_PKG_VERSION"),
                option_env!("PELTON_REVISION").unwrap_or("unknown"),
            ])
            .set(1);
        registry.register(Box::new(build))?;
        Ok(Self {
            invocations: counters(
                &registry,
                "invocations_total",
                "Invocations that ended, by how.",
                &["binding", "outcome"],
            )?,
            invocation_duration: durations(
                &registry,
                "invocation_duration_seconds",
                "From a function's start to its verdict.",
                &["binding"],
            )?,
            in_flight: gauges(
                &registry,
                "invocations_in_flight",
                "Events received and not yet settled.",
                &["binding"],
            )?,
            slots: gauges(&registry, "slots", "Room for events in flight.", &["binding"])?,
            queue_wait: queue_waits(
                &registry,
                "queue_wait_seconds",
                "From an event's storage to its start.",
                &["binding"],
            )?,
            received: counters(
                &registry,
                "events_received_total",
                "Events delivered to this runner.",
                &["binding"],
            )?,
            redeliveries: counters(
                &registry,
                "redeliveries_total",
                "Deliveries that were not the first of their event.",
                &["binding"],
            )?,
            losses: counters(
                &registry,
                "losses_total",
                "Deliveries that vanished with a runner.",
                &["binding"],
            )?,
            settlements: counters(
                &registry,
                "settlements_total",
                "Events settled, by the word the server was given.",
                &["binding", "action"],
            )?,
            settlement_errors: counters(
                &registry,
                "settlement_errors_total",
                "Events whose settlement the server was not told; it delivers them again.",
                &["binding"],
            )?,
            lease_extensions: counters(
                &registry,
                "lease_extensions_total",
                "Leases prolonged.",
                &["binding"],
            )?,
            dead_letters: counters(
                &registry,
                "dead_letters_total",
                "Dead letters stored, by reason.",
                &["binding", "reason"],
            )?,
            dead_letter_publish_errors: counters(
                &registry,
                "dead_letter_publish_errors_total",
                "Dead letters that could not be stored.",
                &["binding"],
            )?,
            published: counters(
                &registry,
                "published_events_total",
                "Outputs, by what became of them.",
                &["binding", "outcome"],
            )?,
            publish_duration: durations(
                &registry,
                "publish_duration_seconds",
                "From sending an output to its PubAck.",
                &["binding"],
            )?,
            last_success: gauges(
                &registry,
                "last_success_timestamp_seconds",
                "When the binding last succeeded.",
                &["binding"],
            )?,
            binding_up: gauges(
                &registry,
                "binding_up",
                "1 while the binding's function can be called, 0 while it is degraded.",
                &["binding"],
            )?,
            worker_starts: counters(
                &registry,
                "worker_starts_total",
                "Workers started, by why.",
                &["function", "reason"],
            )?,
            worker_start_duration: durations(
                &registry,
                "worker_start_duration_seconds",
                "From a worker's start until it is ready.",
                &["function"],
            )?,
            workers: gauges(&registry, "workers", "Workers that run.", &["function"])?,
            consumer_pending: gauges(
                &registry,
                "consumer_pending",
                "Events not delivered yet, to any runner.",
                &["binding"],
            )?,
            consumer_ack_pending: gauges(
                &registry,
                "consumer_ack_pending",
                "Events delivered and not acknowledged, delayed ones among them, of all runners.",
                &["binding"],
            )?,
            consumer_max_ack_pending: gauges(
                &registry,
                "consumer_max_ack_pending",
                "The most events that may be unacknowledged.",
                &["binding"],
            )?,
            consumer_paused: gauges(
                &registry,
                "consumer_paused",
                "1 while the consumer is paused.",
                &["binding"],
            )?,
            oldest_unacked: gauges(
                &registry,
                "oldest_unacked_seconds",
                "Age of the oldest event that is not acknowledged.",
                &["binding"],
            )?,
            dead_letter_messages: gauges(
                &registry,
                "dead_letter_messages",
                "Dead letters that wait in the stream.",
                &["binding"],
            )?,
            nats_connected: register(
                &registry,
                IntGauge::new("pelton_nats_connected", "1 while connected to NATS.")?,
            )?,
            nats_reconnects: register(
                &registry,
                IntCounter::new("pelton_nats_reconnects_total", "Connections after the first.")?,
            )?,
            nats_rtt: register(
                &registry,
                Gauge::new("pelton_nats_rtt_seconds", "Round trip to the server.")?,
            )?,
            consistent: RwLock::new(()),
            registry,
        })
    }

    /// The handles of a binding, every counter at 0.
    #[must_use]
    pub fn binding(&self, name: &str) -> BindingMetrics {
        let counter = |family: &IntCounterVec| family.with_label_values(&[name]);
        let gauge = |family: &IntGaugeVec| family.with_label_values(&[name]);
        let histogram = |family: &HistogramVec| family.with_label_values(&[name]);
        let published = |outcome| self.published.with_label_values(&[name, outcome]);
        BindingMetrics {
            outcomes: OUTCOMES
                .map(|outcome| self.invocations.with_label_values(&[name, outcome.as_str()])),
            in_flight: gauge(&self.in_flight),
            slots: gauge(&self.slots),
            invocation_duration: histogram(&self.invocation_duration),
            queue_wait: histogram(&self.queue_wait),
            received: counter(&self.received),
            redeliveries: counter(&self.redeliveries),
            losses: counter(&self.losses),
            settlements: ["ack", "nak", "term"]
                .map(|action| self.settlements.with_label_values(&[name, action])),
            settlement_errors: counter(&self.settlement_errors),
            lease_extensions: counter(&self.lease_extensions),
            dead_letters: Reason::ALL
                .map(|reason| self.dead_letters.with_label_values(&[name, reason.as_str()])),
            dead_letter_publish_errors: counter(&self.dead_letter_publish_errors),
            published_stored: published("stored"),
            published_duplicate: published("duplicate"),
            published_discarded: published("discarded"),
            published_failed: published("failed"),
            publish_duration: histogram(&self.publish_duration),
            last_success: gauge(&self.last_success),
            up: gauge(&self.binding_up),
        }
    }

    /// The handles of a function's workers.
    #[must_use]
    pub fn workers(&self, function: &str) -> WorkerMetrics {
        for reason in WorkerStart::ALL {
            self.worker_starts.with_label_values(&[function, reason.as_str()]);
        }
        WorkerMetrics {
            starts: self.worker_starts.clone(),
            function: function.to_owned(),
            start_duration: self.worker_start_duration.with_label_values(&[function]),
            workers: self.workers.with_label_values(&[function]),
        }
    }

    /// Shows what the server says of a binding's consumer.
    pub fn consumer(&self, binding: &str, seen: ConsumerGauges) {
        let set = |family: &IntGaugeVec, value: i64| {
            family.with_label_values(&[binding]).set(value);
        };
        set(&self.consumer_pending, clamp(seen.pending));
        set(&self.consumer_ack_pending, clamp(seen.ack_pending));
        set(&self.consumer_max_ack_pending, seen.max_ack_pending);
        set(&self.consumer_paused, i64::from(seen.paused));
        match seen.oldest_unacked {
            Some(age) => set(&self.oldest_unacked, clamp(age)),
            None => set(&self.oldest_unacked, 0),
        }
    }

    /// Shows how many dead letters of a binding wait.
    pub fn dead_letters_waiting(&self, binding: &str, count: u64) {
        self.dead_letter_messages.with_label_values(&[binding]).set(clamp(count));
    }

    /// Shows whether there is a connection.
    pub fn connected(&self, connected: bool) {
        self.nats_connected.set(i64::from(connected));
    }

    /// Counts a connection after the first.
    pub fn reconnected(&self) {
        self.nats_reconnects.inc();
    }

    /// Shows the round trip to the server.
    pub fn round_trip(&self, rtt: Duration) {
        self.nats_rtt.set(rtt.as_secs_f64());
    }

    /// Moves an event from one count to the next in one step, as far as any scrape can tell.
    pub fn step<T>(&self, step: impl FnOnce() -> T) -> T {
        let _shared = self.consistent.read().unwrap_or_else(PoisonError::into_inner);
        step()
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn scrape(&self) -> Result<String, prometheus::Error> {
        let families = {
            let _alone = self.consistent.write().unwrap_or_else(PoisonError::into_inner);
            self.registry.gather()
        };
        TextEncoder::new().encode_to_string(&families)
    }
}

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

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help).namespace(PREFIX), labels)?)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help).namespace(PREFIX), labels)?)
}

fn durations(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    histograms(registry, name, help, labels, &DURATION_BUCKETS)
}

fn queue_waits(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    histograms(registry, name, help, labels, &QUEUE_BUCKETS)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).namespace(PREFIX).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, labels)?)
}

const PREFIX: &str = "pelton";
