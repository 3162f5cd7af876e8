//! The manifest as it is written: every key that is known, every value of the right kind, nothing
//! more. The comments are what the JSON Schema says.

mod http;
mod lambda;
mod order;
mod wasm;

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    Discard, Placement, Retention, Storage,
    leaf::{
        Block, Count, Cpu, Flag, Keys, Named, OneOrMany, PerTime, Positive, Size, Span, StartAt,
        Text,
    },
};

use crate::settle::OnExhausted;

pub(super) use self::{http::Http, lambda::Lambda};
pub(super) use order::{Batch, Key, State};
pub(super) use wasm::{Allow, Instance};

/// Binds functions to NATS JetStream subjects.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The version of this format: 1.
    #[schemars(required)]
    pub(super) version: Option<Count>,
    /// Names what Pelton owns in NATS: durables `<name>-<binding>`, the stream `<NAME>_DLQ`.
    #[schemars(required)]
    pub(super) name: Option<Text>,
    /// How to reach NATS.
    pub(super) nats: Option<Keys<Nats>>,
    /// Streams to create when missing. A stream not listed must exist, and is never changed.
    pub(super) streams: Option<Named<Keys<Stream>>>,
    /// Functions by name.
    pub(super) functions: Option<Named<Keys<Function>>>,
    /// What calls which function, and how events are delivered to it.
    pub(super) bindings: Option<Vec<Option<Keys<Binding>>>>,
    /// Where events go that cannot succeed.
    pub(super) dead_letter: Option<Keys<DeadLetter>>,
    /// Health and metrics.
    pub(super) admin: Option<Keys<Admin>>,
    /// How long a drain may take.
    pub(super) drain: Option<Span>,
    /// Settings of what Pelton creates for itself.
    pub(super) defaults: Option<Keys<Defaults>>,
}

/// How to reach NATS.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nats {
    /// Servers to try: `nats://host:4222`, `tls://host:4222`; user information is allowed.
    pub(super) servers: Option<OneOrMany>,
    /// A `.creds` file.
    pub(super) credentials_file: Option<Text>,
    /// A file with an nkey seed.
    pub(super) nkey_seed_file: Option<Text>,
    /// A token.
    pub(super) token: Option<Text>,
    /// A user, with `password`.
    pub(super) user: Option<Text>,
    /// The password of `user`.
    pub(super) password: Option<Text>,
    /// Certificates; being there makes TLS a must.
    pub(super) tls: Option<Keys<Tls>>,
    /// JetStream domain.
    pub(super) domain: Option<Text>,
    /// JetStream API prefix, instead of a domain.
    pub(super) api_prefix: Option<Text>,
    /// Replaces `_INBOX`.
    pub(super) inbox_prefix: Option<Text>,
}

/// Certificates.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// Roots to trust besides the system's.
    pub(super) ca_file: Option<Text>,
    /// Our certificate, for mutual TLS.
    pub(super) cert_file: Option<Text>,
    /// The key of our certificate.
    pub(super) key_file: Option<Text>,
}

/// A stream, in the words of NATS; what is left out, the server decides.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stream {
    /// Subjects it holds.
    #[schemars(required)]
    pub(super) subjects: Option<OneOrMany>,
    /// When it lets go of a message.
    pub(super) retention: Option<Retention>,
    /// Where it is kept.
    pub(super) storage: Option<Storage>,
    /// Copies in a cluster, 1 to 5.
    pub(super) num_replicas: Option<Positive>,
    /// Age at which messages go.
    pub(super) max_age: Option<Span>,
    /// Size at which it is full.
    pub(super) max_bytes: Option<Size>,
    /// Count at which it is full.
    pub(super) max_msgs: Option<Count>,
    /// Count at which a subject is full.
    pub(super) max_msgs_per_subject: Option<Count>,
    /// What it does when full.
    pub(super) discard: Option<Discard>,
    /// How long message ids are remembered.
    pub(super) duplicate_window: Option<Span>,
    /// Whether any replica may answer reads.
    pub(super) allow_direct: Option<Flag>,
    /// Where in a cluster it lives.
    pub(super) placement: Option<Keys<Placement>>,
}

/// A function: one of `run`, `command`, `exec`, `http`, `lambda`, `native`, and how it runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Function {
    /// A file with `handle(event, context)`: `.py`, `.js` or `.mjs`.
    pub(super) run: Option<Text>,
    /// A program that speaks the worker protocol, and its arguments.
    pub(super) command: Option<Vec<Option<Text>>>,
    /// A program run once for each event, and its arguments: stdin to stdout, exit code as verdict.
    pub(super) exec: Option<Vec<Option<Text>>>,
    /// A URL that events are posted to as CloudEvents, alone or with how.
    pub(super) http: Option<Http>,
    /// HTTP statuses that reject the event, besides 400, 410, 413, 415 and 422.
    pub(super) reject_on: Option<Vec<Option<Count>>>,
    /// A program with an AWS Lambda runtime client, and its arguments, alone or with how.
    pub(super) lambda: Option<Lambda>,
    /// Compiled into the program that embeds the library.
    pub(super) native: Option<Flag>,
    /// Environment variables besides PATH, HOME and LANG.
    pub(super) env: Option<Named<Text>>,
    /// Its working directory; the manifest's folder by default.
    pub(super) cwd: Option<Text>,
    /// Workers at most; min(concurrency, cores) by default.
    pub(super) workers: Option<Positive>,
    /// How long an idle worker is kept.
    pub(super) idle_timeout: Option<Span>,
    /// How long a worker may take to say it is ready, or a connection to be there.
    pub(super) start_timeout: Option<Span>,
    /// Data a worker may allocate, or a WebAssembly instance (64MiB).
    pub(super) memory_limit: Option<Size>,
    /// How much of the processors a worker may use, with all that it starts: `500m` is half a core,
    /// `2` are two. Needs cgroup v2 that may be written to.
    pub(super) cpu_limit: Option<Cpu>,
    /// What a WebAssembly component is let through to.
    pub(super) allow: Option<Keys<Allow>>,
    /// Whether each call of a WebAssembly component gets an instance of its own: `fresh`, the
    /// default, or `{reuse: {max_events: 1000, max_age: 60s}}`.
    pub(super) instance: Option<Instance>,
}

/// A trigger, the function it calls, and the delivery policy between them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Binding {
    /// Unique in the manifest; the function's name by default.
    pub(super) name: Option<Text>,
    /// What it was called before: its durable takes the place of the old one, behind what that has
    /// acknowledged.
    pub(super) renamed_from: Option<Text>,
    /// The trigger: events on a subject, or on any of a list; wildcards allowed.
    #[schemars(required)]
    pub(super) subject: Option<OneOrMany>,
    /// The stream that holds them; found by subject by default.
    pub(super) stream: Option<Text>,
    /// The function to call.
    #[schemars(required)]
    pub(super) function: Option<Text>,
    /// Where outputs go; of a list, values go to the first entry, a literal one.
    pub(super) publish: Option<OneOrMany>,
    /// Events in flight in one runner.
    pub(super) concurrency: Option<Positive>,
    /// How many calls may begin in one runner: `100/s`, `90/m`, `10/h`; retries count, and a batch
    /// is one call.
    pub(super) rate: Option<PerTime>,
    /// How long the function may take for one event.
    pub(super) timeout: Option<Span>,
    /// When to try again and when to give up.
    pub(super) retry: Option<Keys<Retry>>,
    /// How long the server waits for word from a runner before it delivers again.
    pub(super) ack_wait: Option<Span>,
    /// Unacknowledged events of all runners together.
    pub(super) max_ack_pending: Option<Positive>,
    /// Where a new durable starts: `all`, `new`, a time (RFC 3339) or a sequence.
    pub(super) start: Option<StartAt>,
    /// Events of one key run one at a time and in the order of their stream; this is where the key is.
    pub(super) order_by: Option<Keys<Key>>,
    /// How many events of one key may wait before those of other keys do; four times
    /// `concurrency` by default.
    pub(super) lane_limit: Option<Positive>,
    /// Spreads the keys over so many partitions, 1 to 256, which the runners share out among
    /// themselves; without it one runner at a time works on the whole binding.
    pub(super) partitions: Option<Positive>,
    /// Calls the function with several events at once.
    pub(super) batch: Option<Keys<Batch>>,
    /// Gives the function state for each key, and applies each event to it once.
    pub(super) state: Option<Keys<State>>,
}

/// When to try again and when to give up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    /// Tries at most, the first included.
    pub(super) attempts: Option<Positive>,
    /// Waits between tries, shortest and longest: `1s..1m` or `{min: 1s, max: 1m}`.
    pub(super) backoff: Option<Backoff>,
    /// How often an event may vanish with its runner.
    pub(super) losses: Option<Count>,
    /// How old an event may grow and still be tried again.
    pub(super) max_age: Option<Span>,
    /// What becomes of an event whose tries are used up, or that grew older than `max_age`: it is a
    /// dead letter, it goes back and pauses the binding, or it is thrown away.
    pub(super) on_exhausted: Option<OnExhausted>,
}

/// Shortest and longest wait between tries.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    pub(super) min: Option<Span>,
    pub(super) max: Option<Span>,
}

/// Shortest and longest wait between tries.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BackoffKeys {
    /// Shortest wait.
    min: Option<Span>,
    /// Longest wait.
    max: Option<Span>,
}

/// Where events go that cannot succeed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetter {
    /// The stream; `<NAME>_DLQ` by default.
    pub(super) stream: Option<Text>,
    /// The subject, to which the binding's name is appended; `dlq.<name>` by default.
    pub(super) subject: Option<Text>,
}

/// Health and metrics.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// Address of `/livez`, `/readyz` and `/metrics`; `PELTON_ADMIN_LISTEN` overrides it.
    pub(super) listen: Option<Text>,
}

/// Settings of what Pelton creates for itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    /// Replicas of the streams that Pelton owns, 1 to 5.
    pub(super) num_replicas: Option<Positive>,
}

impl Block for Manifest {
    const TAKES: &'static str = "keys like `version:`, `name:` and `bindings:`";
}

impl Block for Nats {
    const TAKES: &'static str = "keys like `servers:` and `credentials_file:`";
}

impl Block for Tls {
    const TAKES: &'static str = "the keys `ca_file:`, `cert_file:` and `key_file:`";
}

impl Block for Stream {
    const TAKES: &'static str = "keys like `subjects:` and `max_age:`";
}

impl Block for Placement {
    const TAKES: &'static str = "the keys `cluster:` and `tags:`";
}

impl Block for Function {
    const TAKES: &'static str = "keys like `run:` and `env:`";
}

impl Block for Binding {
    const TAKES: &'static str = "keys like `subject:` and `function:`";
}

impl Block for Retry {
    const TAKES: &'static str = "keys like `attempts:` and `backoff:`";
}

impl Block for DeadLetter {
    const TAKES: &'static str = "the keys `stream:` and `subject:`";
}

impl Block for Admin {
    const TAKES: &'static str = "the key `listen:`";
}

impl Block for Defaults {
    const TAKES: &'static str = "the key `num_replicas:`";
}

impl<'de> Deserialize<'de> for Backoff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BackoffVisitor)
    }
}

struct BackoffVisitor;

impl<'de> Visitor<'de> for BackoffVisitor {
    type Value = Backoff;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a range like `1s..1m`, or `{min: 1s, max: 1m}`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Backoff, E> {
        let (min, max) = text.split_once("..").ok_or_else(|| {
            E::custom(format!(
                "`{text}` is no range: write the shortest and the longest wait, like 1s..1m"
            ))
        })?;
        let span = |text| crate::duration::parse(text).map(Span).map_err(E::custom);
        Ok(Backoff { min: Some(span(min)?), max: Some(span(max)?) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Backoff, A::Error> {
        let BackoffKeys { min, max } = BackoffKeys::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Backoff { min, max })
    }
}

impl JsonSchema for Backoff {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Backoff".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<BackoffKeys>();
        json_schema!({
            "anyOf": [
                { "type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+\.\.([0-9]+(ms|s|m|h|d))+$|\$\{" },
                keys,
            ]
        })
    }
}
