//! Every metric's name, and the only place that has one. Handles are resolved once, when a binding
//! or a function is built: no look-up by label on the path of an event.

mod handles;
mod register;

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use prometheus::{
    Gauge, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::settle::Reason;

use handles::OUTCOMES;
pub use handles::{BindingMetrics, WorkerGuard, WorkerMetrics, WorkerStart};
use register::{counters, durations, gauges, queue_waits, register};

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
    dropped: IntCounterVec,
    pauses: IntCounterVec,
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
    deferred_events: IntGaugeVec,
    lanes_blocked: IntGaugeVec,
    partitions_owned: IntGaugeVec,
    manifest_reloads: IntCounterVec,
    manifest_last_reload: IntGauge,
    nats_connected: IntGauge,
    nats_reconnects: IntCounter,
    nats_rtt: Gauge,
    /// Held shared by whoever moves an event from one count to the next, exclusively by a scrape:
    /// what a scrape shows adds up.
    consistent: RwLock<()>,
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
        let metrics = Self {
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
            dropped: counters(
                &registry,
                "dropped_events_total",
                "Events thrown away once their tries were used up (`on_exhausted: drop`), by reason.",
                &["binding", "reason"],
            )?,
            pauses: counters(
                &registry,
                "pauses_total",
                "Events that paused their binding once their tries were used up.",
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
            deferred_events: gauges(
                &registry,
                "deferred_events",
                "Events that wait for a try that is more than a minute ahead.",
                &["binding"],
            )?,
            lanes_blocked: gauges(
                &registry,
                "lanes_blocked",
                "Keys with more events waiting than `lane_limit`: they hold back all others.",
                &["binding"],
            )?,
            partitions_owned: gauges(
                &registry,
                "partitions_owned",
                "Partitions of a binding with `order_by` that this runner works on.",
                &["binding"],
            )?,
            manifest_reloads: counters(
                &registry,
                "manifest_reloads_total",
                "Times that the manifest was read again, by what came of it.",
                &["outcome"],
            )?,
            manifest_last_reload: register(
                &registry,
                IntGauge::new(
                    "pelton_manifest_last_reload_successful",
                    "1 while the manifest that runs is the one that was read last.",
                )?,
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
        };
        for outcome in ["applied", "rejected"] {
            metrics.manifest_reloads.with_label_values(&[outcome]);
        }
        metrics.manifest_last_reload.set(1);
        Ok(metrics)
    }

    /// The handles of a binding, every counter at 0.
    #[must_use]
    pub fn binding(&self, name: &str) -> BindingMetrics {
        let counter = |family: &IntCounterVec| family.with_label_values(&[name]);
        let gauge = |family: &IntGaugeVec| family.with_label_values(&[name]);
        let histogram = |family: &HistogramVec| family.with_label_values(&[name]);
        for reason in Reason::EXHAUSTED {
            self.dropped.with_label_values(&[name, reason.as_str()]);
        }
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
            settlements_held: self.settlements.with_label_values(&[name, "hold"]),
            lanes_blocked: gauge(&self.lanes_blocked),
            partitions_owned: gauge(&self.partitions_owned),
            settlement_errors: counter(&self.settlement_errors),
            lease_extensions: counter(&self.lease_extensions),
            dead_letters: Reason::ALL
                .map(|reason| self.dead_letters.with_label_values(&[name, reason.as_str()])),
            dead_letter_publish_errors: counter(&self.dead_letter_publish_errors),
            dropped: self.dropped.clone(),
            pauses: counter(&self.pauses),
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

    /// Shows how many events of a binding are deferred.
    pub fn deferred(&self, binding: &str, count: u64) {
        self.deferred_events.with_label_values(&[binding]).set(clamp(count));
    }

    /// Counts a reload of the manifest.
    pub fn reloaded(&self, successful: bool) {
        let outcome = if successful { "applied" } else { "rejected" };
        self.manifest_reloads.with_label_values(&[outcome]).inc();
        self.manifest_last_reload.set(i64::from(successful));
    }

    /// Shows that a changed manifest waits to be taken up.
    pub fn reload_waits(&self) {
        self.manifest_last_reload.set(0);
    }

    /// Takes away what is shown of a binding that is no more; counts stay.
    pub fn forget(&self, binding: &str) {
        let gauges = [
            &self.slots,
            &self.last_success,
            &self.binding_up,
            &self.consumer_pending,
            &self.consumer_ack_pending,
            &self.consumer_max_ack_pending,
            &self.consumer_paused,
            &self.oldest_unacked,
            &self.dead_letter_messages,
            &self.deferred_events,
            &self.lanes_blocked,
            &self.partitions_owned,
        ];
        for gauge in gauges {
            // One that was never shown is none to take away.
            gauge.remove_label_values(&[binding]).unwrap_or_default();
        }
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

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
