//! The manifest: YAML text in, a [`Manifest`] that can be run out, or every mistake at once.

mod cpu;
pub mod defaults;
mod diagnostic;
mod differences;
mod document;
mod horizon;
mod http;
mod lambda;
mod later;
mod leaf;
mod load;
mod order;
mod outline;
mod path;
mod rate;
mod raw;
mod read;
mod reference;
mod report;
mod runtime;
mod schema;
mod server;
pub mod size;
mod sources;
mod substitute;
mod validate;
pub(crate) mod window;
mod wording;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use http::{Http, HttpMode, HttpOrigin};
pub use lambda::{Lambda, LambdaEvent};
pub use load::{Loaded, Mode};
pub use order::{Batch, KeyAt, Order, State};
pub use rate::Rate;
pub use runtime::Runtime;
pub use schema::schema;
pub use server::{Server, ServerError};

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use time::OffsetDateTime;

use crate::settle::OnExhausted;

/// A manifest whose every value is known to make sense by itself.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Names what Pelton owns in NATS: durables `<name>-<binding>`, stream `<NAME>_DLQ` ….
    pub name: String,
    /// The folder that relative paths start from.
    pub dir: PathBuf,
    /// Where and how to connect.
    pub nats: Nats,
    /// Streams to create when missing, in the order written.
    pub streams: Vec<Stream>,
    /// The functions by name.
    pub functions: BTreeMap<String, Function>,
    /// The bindings, in the order written.
    pub bindings: Vec<Binding>,
    /// Where dead letters go.
    pub dead_letter: DeadLetter,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// How long a drain may take.
    pub drain: Duration,
    /// Replicas of the streams that Pelton owns (`defaults.num_replicas`).
    pub num_replicas: NonZeroUsize,
    /// First 16 hex digits of the SHA-256 of the text, for the metadata of what Pelton creates.
    pub digest: String,
}

/// How to reach NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// `nats://host:port`, user information removed from it and put into `auth`.
    pub servers: Vec<String>,
    /// Who we are.
    pub auth: Auth,
    /// Certificates.
    pub tls: Option<Tls>,
    /// JetStream domain.
    pub domain: Option<String>,
    /// JetStream API prefix, instead of a domain.
    pub api_prefix: Option<String>,
    /// Replaces `_INBOX`.
    pub inbox_prefix: Option<String>,
}

/// A secret; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Who we are to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nobody in particular.
    None,
    /// A `.creds` file: JWT and seed.
    Credentials(PathBuf),
    /// A file with an nkey seed.
    NkeySeed(PathBuf),
    /// A token.
    Token(Secret),
    /// A user with a password.
    UserPassword(String, Secret),
}

/// Certificates for the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Roots to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, for mutual TLS.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A stream as the manifest describes it; `None` leaves the server's default. NATS' own names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Subjects it holds.
    pub subjects: Vec<String>,
    /// `limits`, `interest` or `workqueue`.
    pub retention: Option<Retention>,
    /// `file` or `memory`.
    pub storage: Option<Storage>,
    /// Copies in a cluster.
    pub num_replicas: Option<NonZeroUsize>,
    /// Age at which messages go.
    pub max_age: Option<Duration>,
    /// Size at which the stream is full.
    pub max_bytes: Option<u64>,
    /// Count at which the stream is full.
    pub max_msgs: Option<u64>,
    /// Count at which a subject is full.
    pub max_msgs_per_subject: Option<u64>,
    /// `old` or `new`.
    pub discard: Option<Discard>,
    /// How long message ids are remembered.
    pub duplicate_window: Option<Duration>,
    /// Direct gets.
    pub allow_direct: Option<bool>,
    /// Cluster and tags to place it by.
    pub placement: Option<Placement>,
}

/// When a stream lets go of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// At its limits.
    Limits,
    /// Once every consumer has acknowledged.
    Interest,
    /// Once one consumer has acknowledged.
    Workqueue,
}

/// Where a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    File,
    /// In memory; gone with the server.
    Memory,
}

/// What a full stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// Drops its oldest message.
    Old,
    /// Refuses the new one.
    New,
}

/// Where in a cluster a stream lives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Name of the cluster.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Tags a server must have.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A function and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What runs it.
    pub runtime: Runtime,
    /// Environment variables it gets besides PATH, HOME and LANG.
    pub env: BTreeMap<String, String>,
    /// Its working directory; the manifest's folder by default.
    pub cwd: PathBuf,
    /// Workers at most; `None` means min(concurrency, cores).
    pub workers: Option<NonZeroUsize>,
    /// How long an idle worker is kept.
    pub idle_timeout: Duration,
    /// How long a worker may take to say it is ready, or a connection to be there.
    pub start_timeout: Duration,
    /// Bytes that a worker or an instance may have.
    pub memory_limit: Option<u64>,
    /// Thousandths of a processor that a worker may use.
    pub cpu_limit: Option<u64>,
}

/// A WebAssembly component, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Absolute path.
    pub file: PathBuf,
    /// What it is let through to.
    pub allow: Allow,
    /// How its instances are used.
    pub instances: Instances,
}

/// What a WebAssembly component is let through to; nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// Environment variables of the runner.
    pub env: Vec<String>,
    /// Folders that it may read: as it names them, and absolute.
    pub dirs: Vec<(String, PathBuf)>,
    /// Servers that it may call over HTTP.
    pub http: Vec<HttpOrigin>,
    /// Key-value buckets that it may read and write.
    pub kv: Vec<String>,
}

/// How the instances of a WebAssembly component are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Instances {
    /// One for each call.
    #[default]
    Fresh,
    /// One call after the other, until one fails or a limit is reached.
    Reuse {
        /// Events that one instance sees at most.
        max_events: NonZeroU64,
        /// How old it grows.
        max_age: Duration,
    },
}

/// A trigger, the function it calls, and the delivery policy between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Unique in the manifest.
    pub name: String,
    /// Subjects whose events it gets, wildcards allowed; at least one.
    pub subjects: Vec<String>,
    /// What it was called before, while its durable is to take the place of the old one.
    pub renamed_from: Option<String>,
    /// The stream that holds them; `None` means the one the server finds.
    pub stream: Option<String>,
    /// The function's name.
    pub function: String,
    /// Where outputs go, if anywhere.
    pub publish: Option<Publish>,
    /// Calls at the same time in one runner.
    pub concurrency: NonZeroUsize,
    /// How fast calls may begin in one runner.
    pub rate: Option<Rate>,
    /// How long the function may take.
    pub timeout: Duration,
    /// When to try again and when to give up.
    pub retry: Retry,
    /// How long the server waits for word from us.
    pub ack_wait: Duration,
    /// Unacknowledged events of all runners together.
    pub max_ack_pending: NonZeroUsize,
    /// Events held at most by one runner; those that wait for their turn are among them.
    pub slots: NonZeroUsize,
    /// Payload bytes held at most.
    pub slot_bytes: usize,
    /// Where a new durable starts.
    pub start: Start,
    /// Whether events of one key run in order.
    pub order: Option<Order>,
    /// Whether several events come in one call.
    pub batch: Option<Batch>,
    /// The state that is kept for each key; only with `order`.
    pub state: Option<State>,
}

impl Binding {
    /// What the ids of its outputs are made of: a renamed binding keeps those of its old name, so
    /// that what runs under both is stored once.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.renamed_from.as_deref().unwrap_or(&self.name)
    }

    /// How many partitions its keys are spread over, if they are.
    #[must_use]
    pub fn partitions(&self) -> Option<NonZeroUsize> {
        self.order.as_ref()?.partitions
    }

    /// The binding as one of its partitions has it: with its share of the slots, but room for as
    /// many events as may run at a time.
    #[must_use]
    pub fn of_one_partition(&self) -> Self {
        let Some(count) = self.partitions() else { return self.clone() };
        let running = self
            .concurrency
            .saturating_mul(self.batch.as_ref().map_or(NonZeroUsize::MIN, |batch| batch.max));
        let share = NonZeroUsize::new(self.slots.get() / count).unwrap_or(NonZeroUsize::MIN);
        Self {
            slots: share.max(running).min(self.slots),
            slot_bytes: (self.slot_bytes / count).max(PARTITION_BYTES),
            ..self.clone()
        }
    }
}

/// Payload bytes that a partition holds at least: several of the largest messages that servers take
/// by default.
const PARTITION_BYTES: usize = 4 * 1024 * 1024;

/// Where outputs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish {
    /// `publish: S`: everything goes to S.
    One(String),
    /// `publish: [S, …]`: values go to the first, literal entry; an Event may name any of them.
    Many {
        /// Literal; takes values.
        first: String,
        /// The others, wildcards allowed.
        others: Vec<String>,
    },
}

impl Publish {
    /// All subjects, in the order written.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        let (first, others): (_, &[String]) = match self {
            Self::One(subject) => (subject, &[]),
            Self::Many { first, others } => (first, others),
        };
        std::iter::once(first).chain(others).map(String::as_str)
    }
}

/// When to try again and when to give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries at most, the first included.
    pub attempts: NonZeroU32,
    /// Shortest wait.
    pub backoff_min: Duration,
    /// Longest wait; not below the shortest.
    pub backoff_max: Duration,
    /// How often an event may vanish with its runner.
    pub losses: u32,
    /// How old an event may grow and still be tried again.
    pub max_age: Option<Duration>,
    /// What becomes of an event whose tries are used up.
    pub on_exhausted: OnExhausted,
}

/// Where a new durable starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event the stream holds.
    All,
    /// With the next one stored.
    New,
    /// With the first one stored at or after.
    Time(OffsetDateTime),
    /// With this sequence.
    Sequence(u64),
}

/// Where dead letters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The stream, `<NAME>_DLQ` by default.
    pub stream: String,
    /// The subject, `dlq.<name>` by default; the binding's name is appended.
    pub subject: String,
}
