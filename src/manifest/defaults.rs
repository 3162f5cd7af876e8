//! What counts where a manifest says nothing: one table, for the parser, the JSON Schema and the
//! documentation.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use super::size;
use crate::duration;

/// `nats.servers`
pub const SERVER: &str = "nats://127.0.0.1:4222";
/// `functions.*.idle_timeout`
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// `functions.*.start_timeout`
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// `functions.*.http.max_response`
pub const MAX_RESPONSE: u64 = 4 << 20;
/// `functions.*.memory_limit` of a WebAssembly component
pub const WASM_MEMORY: u64 = 64 << 20;
/// `functions.*.instance.reuse.max_events`
pub const REUSE_EVENTS: u64 = 1000;
/// `functions.*.instance.reuse.max_age`
pub const REUSE_AGE: Duration = Duration::from_secs(60);
/// `bindings[].concurrency`
pub const CONCURRENCY: u64 = 16;
/// `bindings[].timeout`
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// `bindings[].retry.attempts`
pub const ATTEMPTS: u64 = 8;
/// `bindings[].retry.backoff.min`
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// `bindings[].retry.backoff.max`
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// `bindings[].retry.losses`
pub const LOSSES: u64 = 5;
/// `bindings[].ack_wait`
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// `bindings[].max_ack_pending`
pub const MAX_ACK_PENDING: u64 = 4096;
/// `bindings[].ack_wait` with `order_by`, where it bounds how long a takeover lasts
pub const ACK_WAIT_ORDERED: Duration = Duration::from_secs(10);
/// `bindings[].lane_limit` in multiples of `bindings[].concurrency`
pub const LANES: u64 = 4;
/// `bindings[].batch.max`
pub const BATCH_MAX: u64 = 100;
/// `bindings[].batch.bytes`
pub const BATCH_BYTES: u64 = 4 << 20;
/// `bindings[].batch.wait`
pub const BATCH_WAIT: Duration = Duration::from_millis(100);
/// Payload bytes that the slots of a binding hold; not a key yet.
pub const SLOT_BYTES: u64 = 64 << 20;
/// `bindings[].start`
pub const START: &str = "all";
/// `admin.listen`
pub const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8320));
/// `drain`
pub const DRAIN: Duration = Duration::from_secs(25);
/// `streams.*.duplicate_window`, `max_age` permitting, and that of what Pelton makes for itself
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);
/// `defaults.num_replicas`
pub const NUM_REPLICAS: u64 = 1;

/// A default as it would be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Default {
    /// The key, with `*` for a name and `[]` for an item: `bindings[].retry.attempts`.
    pub key: &'static str,
    /// What it is when left out.
    pub value: Scalar,
    /// What it means.
    pub help: &'static str,
}

/// The value of a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// Durations, sizes and words.
    Text(String),
    /// Counts.
    Number(u64),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// Every default that is a value of its own. Names and folders that follow from others are
/// described where they belong.
#[must_use]
pub fn table() -> Vec<Default> {
    let text =
        |key, value: &str, help| Default { key, value: Scalar::Text(value.to_owned()), help };
    let span = |key, value, help| Default { key, value: Scalar::Text(duration::show(value)), help };
    let count = |key, value, help| Default { key, value: Scalar::Number(value), help };
    let backoff = format!("{}..{}", duration::show(BACKOFF_MIN), duration::show(BACKOFF_MAX));
    vec![
        text("nats.servers", SERVER, "one server on this machine"),
        span("streams.*.duplicate_window", DUPLICATE_WINDOW, "how long message ids are remembered"),
        span("functions.*.idle_timeout", IDLE_TIMEOUT, "how long an idle worker is kept"),
        span("functions.*.start_timeout", START_TIMEOUT, "how long a worker may take to be ready"),
        text("functions.*.http.mode", "binary", "CloudEvents mode of the requests"),
        text(
            "functions.*.http.max_response",
            &size::show(MAX_RESPONSE),
            "largest body of an answer",
        ),
        count(
            "functions.*.instance.reuse.max_events",
            REUSE_EVENTS,
            "events that one WebAssembly instance sees",
        ),
        span(
            "functions.*.instance.reuse.max_age",
            REUSE_AGE,
            "how old a WebAssembly instance grows",
        ),
        text("functions.*.lambda.event", "payload", "what an invocation's body is"),
        count("bindings[].concurrency", CONCURRENCY, "events in flight in one runner"),
        span("bindings[].timeout", TIMEOUT, "how long the function may take"),
        count("bindings[].retry.attempts", ATTEMPTS, "tries at most, the first included"),
        text("bindings[].retry.backoff", &backoff, "shortest and longest wait between tries"),
        span("bindings[].retry.backoff.min", BACKOFF_MIN, "shortest wait between tries"),
        span("bindings[].retry.backoff.max", BACKOFF_MAX, "longest wait between tries"),
        count("bindings[].retry.losses", LOSSES, "how often an event may vanish with its runner"),
        text(
            "bindings[].retry.on_exhausted",
            "dead_letter",
            "what becomes of an event without tries",
        ),
        span("bindings[].ack_wait", ACK_WAIT, "how long the server waits for word from a runner"),
        count(
            "bindings[].max_ack_pending",
            MAX_ACK_PENDING,
            "unacknowledged events of all runners",
        ),
        count("bindings[].batch.max", BATCH_MAX, "events in one call"),
        text("bindings[].batch.bytes", &size::show(BATCH_BYTES), "payload in one call"),
        span("bindings[].batch.wait", BATCH_WAIT, "how long the first event waits for others"),
        text("bindings[].start", START, "a new durable starts with the first event stored"),
        text("admin.listen", &LISTEN.to_string(), "health and metrics, for this machine only"),
        span("drain", DRAIN, "how long a drain may take"),
        count("defaults.num_replicas", NUM_REPLICAS, "replicas of the streams that Pelton owns"),
    ]
}

/// The table with what is no key of its own, for people.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| key | default | |\n|---|---|---|\n");
    for Default { key, value, help } in table() {
        text.push_str(&format!("| `{key}` | `{value}` | {help} |\n"));
    }
    let memory = size::show(WASM_MEMORY);
    text.push_str(&format!("| | {memory} | memory of a WebAssembly instance |\n"));
    let ordered = duration::show(ACK_WAIT_ORDERED);
    text.push_str(&format!("| | {ordered} | `ack_wait` with `order_by` |\n"));
    text.push_str(&format!("| | {LANES} × `concurrency` | `lane_limit` with `order_by` |\n"));
    let slots = size::show(SLOT_BYTES);
    text.push_str(&format!("| | {slots} | payload that the slots of a binding hold |\n"));
    text
}
