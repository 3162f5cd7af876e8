//! What a bucket holds for each key of a binding with `state`: the state, how far events were
//! applied to it, and the outputs of the last one. Pure.
//!
//! All three change in one write, so that an event that is delivered again is known by its position
//! and its outputs are sent again as they were, instead of being applied twice.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    event::{Event, Headers, Publish},
    outputs::life,
    source::Origin,
};

/// Redriven events that an entry remembers: those of a key are few, and come one by one.
const REDRIVEN_MAX: usize = 32;

/// The entry of one key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What the function returned last; null when it is new, or was let go.
    #[serde(default)]
    pub state: Value,
    /// The sequence of the last event applied, for each stream.
    #[serde(default)]
    pub applied: BTreeMap<String, u64>,
    /// The outputs of the event applied last.
    #[serde(default)]
    pub outbox: Vec<Output>,
    /// That event: `stream:sequence`, and its life if it came back from the dead letters.
    #[serde(default)]
    pub last: String,
    /// When each stream was created: one of the same name made anew counts from 1 again.
    #[serde(default)]
    pub created: BTreeMap<String, String>,
    /// Events that came back from the dead letters and were applied, the latest last. Their
    /// positions are behind those that were applied meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redriven: Vec<String>,
}

/// A message of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The full subject.
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub id: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The payload.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
}

impl Kept {
    /// Reads an entry.
    ///
    /// # Errors
    /// When the value was not written by Pelton.
    pub fn read(value: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(value).map_err(|err| format!("it is no state of Pelton's: {err}"))
    }

    /// The entry as it is stored.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The outputs to send again for an event that was applied already; `None` when it was not.
    #[must_use]
    pub fn recorded(&self, event: &Event, origin: &Origin) -> Option<Vec<Publish>> {
        let name = name(event);
        let known = match life(event) {
            "0" => {
                let stream = origin.stream.as_ref();
                let same = self.created.get(stream) == Some(&created(origin));
                let position = self.applied.get(stream).copied().unwrap_or_default();
                same && position >= event.id.sequence
            }
            _ => self.redriven.contains(&name),
        };
        // Those of earlier events are stored: the next of a key begins after them.
        known.then(|| match self.last == name {
            true => self.outbox.iter().map(Output::publish).collect(),
            false => Vec::new(),
        })
    }

    /// The entry once an event is applied to it.
    #[must_use]
    pub fn apply(
        mut self,
        event: &Event,
        origin: &Origin,
        state: Option<Value>,
        outputs: &[Publish],
    ) -> Self {
        let name = name(event);
        if let Some(state) = state {
            self.state = state;
        }
        if life(event) == "0" {
            let stream = origin.stream.to_string();
            self.created.insert(stream.clone(), created(origin));
            self.applied.insert(stream, event.id.sequence);
        } else {
            self.redriven.push(name.clone());
            let old = self.redriven.len().saturating_sub(REDRIVEN_MAX);
            self.redriven.drain(..old);
        }
        self.outbox = outputs.iter().map(Output::of).collect();
        self.last = name;
        self
    }
}

impl Output {
    fn of(message: &Publish) -> Self {
        Self {
            subject: message.subject.clone(),
            id: message.id.clone(),
            headers: message.headers.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            data: message.data.to_vec(),
        }
    }

    fn publish(&self) -> Publish {
        Publish {
            subject: self.subject.clone(),
            id: self.id.clone(),
            headers: self.headers.iter().cloned().collect::<Headers>(),
            data: self.data.clone().into(),
        }
    }
}

/// The name of a key in its bucket: itself where buckets allow that (ADR-8), else encoded.
#[must_use]
pub fn bucket_key(key: &str) -> String {
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/' | b'_' | b'=' | b'.');
    let dots = key.starts_with('.') || key.ends_with('.') || key.contains("..");
    let reserved = key.starts_with(ENCODED) || key.starts_with("_kv");
    match key {
        "" => format!("{ENCODED}="),
        key if key.bytes().all(allowed) && !dots && !reserved => key.to_owned(),
        key => format!("{ENCODED}{}", BASE64_URL_SAFE_NO_PAD.encode(key)),
    }
}

const ENCODED: &str = "_b64.";

fn name(event: &Event) -> String {
    match life(event) {
        "0" => event.id.to_string(),
        life => format!("{}/{life}", event.id),
    }
}

fn created(origin: &Origin) -> String {
    OffsetDateTime::unix_timestamp_nanos(origin.created).to_string()
}

fn to_base64<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(data))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{event::EventId, outputs::LIFE_HEADER};

    fn event(sequence: u64) -> Event {
        Event {
            id: EventId { stream: "S".into(), sequence },
            subject: "s".to_owned(),
            headers: Headers::new(),
            data: "x".into(),
            time: OffsetDateTime::UNIX_EPOCH,
            attempt: 1,
        }
    }

    fn origin() -> Origin {
        Origin { stream: "S".into(), created: OffsetDateTime::UNIX_EPOCH }
    }

    fn output(id: &str) -> Publish {
        let headers = [("a", "1"), ("a", "2")].into_iter().collect();
        Publish { subject: "o".to_owned(), id: id.to_owned(), headers, data: "\u{0}y".into() }
    }

    fn after(events: &[u64]) -> Kept {
        let apply = |kept: Kept, sequence: &u64| {
            let outputs = [output(&sequence.to_string())];
            kept.apply(&event(*sequence), &origin(), Some(json!(sequence)), &outputs)
        };
        let kept = events.iter().fold(Kept::default(), apply);
        Kept::read(&kept.write()).unwrap()
    }

    #[test]
    fn the_last_event_s_outputs_are_sent_again_and_earlier_ones_are_known() {
        let kept = after(&[3, 7]);
        assert_eq!(kept.recorded(&event(7), &origin()), Some(vec![output("7")]));
        assert_eq!(kept.recorded(&event(3), &origin()), Some(Vec::new()));
        assert_eq!(kept.recorded(&event(8), &origin()), None);
        assert_eq!(kept.state, json!(7));
    }

    #[test]
    fn a_stream_made_anew_counts_from_one() {
        let anew = Origin { created: OffsetDateTime::now_utc(), ..origin() };
        assert_eq!(after(&[7]).recorded(&event(3), &anew), None);
        assert_eq!(after(&[]).recorded(&event(3), &origin()), None);
    }

    #[test]
    fn a_redriven_event_is_known_by_itself() {
        let mut second = event(3);
        second.headers.append(LIFE_HEADER, "1");
        let kept = after(&[7]);
        assert_eq!(kept.recorded(&second, &origin()), None);
        let kept = kept.apply(&second, &origin(), None, &[output("again")]);
        assert_eq!(kept.recorded(&second, &origin()), Some(vec![output("again")]));
        assert_eq!(kept.recorded(&event(7), &origin()), Some(Vec::new()));
        assert_eq!((kept.state, kept.applied["S"]), (json!(7), 7));
    }

    #[test]
    fn letting_the_state_go_keeps_the_position() {
        let kept = after(&[3]).apply(&event(4), &origin(), Some(Value::Null), &[]);
        assert_eq!((kept.state, kept.applied["S"]), (Value::Null, 4));
    }

    #[test]
    fn keys_are_verbatim_where_buckets_allow_it() {
        assert_eq!(bucket_key("order/4711.a=b_c-d"), "order/4711.a=b_c-d");
        let encoded = ["", ".a", "a.", "a..b", "ä", "a b", "_b64.x", "_kv", "a*"].map(bucket_key);
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-/_=.".contains(&b);
        for key in &encoded {
            assert!(key.starts_with("_b64.") && !key.ends_with('.'), "{key}");
            assert!(key.bytes().all(allowed), "{key}");
        }
    }
}
