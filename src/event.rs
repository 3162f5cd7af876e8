//! What a function sees and says: events in, verdicts out. The leaf of the crate: nothing here
//! knows where an event came from or which runtime handles it.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;

/// The name of an event for as long as its stream lives: `stream:sequence`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The stream that stored the event.
    pub stream: Arc<str>,
    /// Its sequence in that stream, counted from 1.
    pub sequence: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stream, self.sequence)
    }
}

/// One message as a function sees it.
#[derive(Debug, Clone)]
pub struct Event {
    /// Stream and sequence.
    pub id: EventId,
    /// The subject it was published on.
    pub subject: String,
    /// All its headers, in wire spelling.
    pub headers: Headers,
    /// Its payload, untouched.
    pub data: Bytes,
    /// When the stream stored it, in UTC.
    pub time: OffsetDateTime,
    /// Failed attempts so far, plus one.
    pub attempt: u32,
}

impl Event {
    /// The id of the trace that it belongs to, as its `traceparent` says (W3C Trace Context).
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        let mut parts = self.headers.get("traceparent")?.trim().split('-');
        let (_version, id) = (parts.next()?, parts.next()?);
        let is_id = id.len() == 32
            && id.bytes().all(|byte| byte.is_ascii_hexdigit())
            && id.bytes().any(|byte| byte != b'0');
        (is_id && parts.next().is_some()).then_some(id)
    }
}

/// Headers as a multi-map: names compare without regard to case, order and repetition are kept.
///
/// NATS keeps the case of header names (ADR-4) while senders disagree about it, so look-ups ignore
/// it. Messages carry few headers: a vector beats a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// No headers; does not allocate.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether a header can be called this: visible ASCII but the colon (ADR-4).
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
    }

    /// Whether a header of this name is the server's own: it acts on it, or wrote it.
    #[must_use]
    pub fn is_of_server(name: &str) -> bool {
        name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// Every value of `name`, in order.
    pub fn get_all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Adds a value behind those that `name` has already.
    pub fn append(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Replaces every value of `name` with one.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// Sets `name` unless it has a value already.
    pub fn set_default(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let name = name.into();
        if self.get(&name).is_none() {
            self.append(name, value);
        }
    }

    /// Drops every value of `name`.
    pub fn remove(&mut self, name: &str) {
        self.retain(|key| !key.eq_ignore_ascii_case(name));
    }

    /// Keeps the headers whose name `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(key, _)| keep(key));
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, v.as_str()))
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes these headers take on the wire (`NATS/1.0\r\n`, then `name: value\r\n` each, then
    /// `\r\n`); 0 when there are none.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        let lines: usize = self.0.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
        lines + "NATS/1.0\r\n\r\n".len()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (Cow::Owned(k.into()), v.into())).collect())
    }
}

/// An event that a function wants published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The subject that the function named; `None` means the binding's own.
    pub subject: Option<String>,
    /// Headers that the function set, `content-type` of the data among them.
    pub headers: Headers,
    /// The payload, verbatim.
    pub data: Bytes,
}

/// An output or a dead letter, addressed and ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The full subject.
    pub subject: String,
    /// `Nats-Msg-Id`: the same for every try at the same output.
    pub id: String,
    /// All headers but the id.
    pub headers: Headers,
    /// The payload.
    pub data: Bytes,
}

/// What a function said of one event. Never confuse it with a [`Fault`](crate::handler::Fault),
/// which is what a runtime says when the function said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The event is dealt with once these are stored.
    Done(Vec<Outgoing>),
    /// Again, after a while.
    Retry {
        /// Why, for the history.
        reason: String,
        /// Replaces the binding's backoff.
        after: Option<Duration>,
    },
    /// Never again: a dead letter.
    Reject {
        /// What kind of rejection this is.
        cause: Cause,
        /// Why, for the dead letter.
        reason: String,
    },
}

/// Why an event was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The function said so.
    Rejected,
    /// The payload is not what its content type promises.
    Undecodable,
}

/// The state of a key, as a function reads and returns it (a JSON value).
#[derive(Debug, Clone, PartialEq)]
pub struct State(pub serde_json::Value);
