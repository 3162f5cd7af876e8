//! CloudEvents over NATS: binary mode out, binary and structured mode in (`CloudEvents` NATS
//! protocol binding 1.0.3). Pure.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::event::{Event, Headers};

/// What the headers that hold attributes start with.
pub const PREFIX: &str = "ce-";

/// Headers that travel from an input to every output of it (W3C trace context and baggage).
pub const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// The binding's section 3.1.3.2: space, `"`, `%` and everything outside U+0021–U+007E.
const ENCODE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Encodes a header value.
#[must_use]
pub fn encode(value: &str) -> String {
    Cow::from(utf8_percent_encode(value, ENCODE)).into_owned()
}

/// The event as a function should see it: attributes decoded, a structured event unpacked.
///
/// # Errors
/// Says why a payload that claims to be a structured event is none.
pub fn unpack(mut event: Event) -> Result<Event, String> {
    (event.headers, event.data) = decode(event.headers, event.data)?;
    Ok(event)
}

/// Headers and payload of a message with its attributes decoded, a structured event unpacked.
///
/// # Errors
/// As [`unpack`].
pub fn decode(headers: Headers, data: Bytes) -> Result<(Headers, Bytes), String> {
    if is_structured(&headers) {
        decode_structured(headers, &data)
    } else {
        Ok((decode_attributes(headers), data))
    }
}

/// Whether the payload says that it is the whole event.
#[must_use]
pub fn is_structured(headers: &Headers) -> bool {
    headers.get("content-type").is_some_and(|kind| {
        kind.get(..STRUCTURED.len()).is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
    })
}

/// The content type of an unpacked event's payload: what it says, else JSON if it is.
#[must_use]
pub fn content_type(event: &Event) -> Option<&str> {
    let said = ["ce-datacontenttype", "content-type"].into_iter();
    said.filter_map(|name| event.headers.get(name)).find(|kind| !kind.is_empty()).or_else(|| {
        let json = matches!(event.data.first(), Some(b'{' | b'['))
            && serde_json::from_slice::<IgnoredAny>(&event.data).is_ok();
        json.then_some(JSON)
    })
}

/// The attributes of an unpacked event, without `datacontenttype`: names bare, values plain. What
/// it does not say itself comes from where it is stored.
#[must_use]
pub fn attributes(event: &Event) -> BTreeMap<String, Cow<'_, str>> {
    let mut attributes = BTreeMap::new();
    for (name, value) in event.headers.iter() {
        let lower = name.to_ascii_lowercase();
        if let Some(bare) = lower.strip_prefix(PREFIX)
            && bare != "datacontenttype"
            && !bare.is_empty()
        {
            attributes.entry(bare.to_owned()).or_insert(Cow::Borrowed(value));
        }
    }
    let mut default = |name: &str, value: Cow<'static, str>| {
        attributes.entry(name.to_owned()).or_insert(value);
    };
    default("specversion", "1.0".into());
    default("id", event.id.to_string().into());
    default("source", format!("nats://{}", event.id.stream).into());
    default("type", event.subject.clone().into());
    if let Ok(time) = event.time.format(&Rfc3339) {
        default("time", time.into());
    }
    attributes
}

/// An unpacked event as one JSON object, as [`STRUCTURED_JSON`] says.
#[must_use]
pub fn structured(event: &Event) -> Vec<u8> {
    let proper = |name: &str| name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let mut object: BTreeMap<String, Value> = attributes(event)
        .into_iter()
        .filter(|(name, _)| proper(name))
        .map(|(name, value)| (name, Value::String(value.into_owned())))
        .collect();
    let kind = content_type(event);
    if let Some(kind) = kind {
        object.insert("datacontenttype".to_owned(), kind.into());
    }
    let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = essence.ends_with("/json") || essence.ends_with("+json");
    let text = || std::str::from_utf8(&event.data).ok().filter(|_| essence.starts_with("text/"));
    if event.data.is_empty() {
    } else if let Some(value) = json.then(|| serde_json::from_slice(&event.data).ok()).flatten() {
        object.insert("data".to_owned(), value);
    } else if let Some(text) = text() {
        object.insert("data".to_owned(), text.into());
    } else {
        object.insert("data_base64".to_owned(), BASE64.encode(&event.data).into());
    }
    serde_json::to_vec(&object).unwrap_or_default()
}

/// What an output of a binding carries besides what the function set itself.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// `ce-id`: also the output's message id.
    pub id: &'a str,
    /// `ce-source`.
    pub source: &'a str,
    /// `ce-type`: the subject.
    pub kind: &'a str,
    /// `ce-time`.
    pub time: OffsetDateTime,
}

/// Makes a function's headers those of a `CloudEvent` in binary mode. What the function set stays.
pub fn stamp(headers: &mut Headers, attributes: Attributes<'_>) {
    let mut stamped: Headers = headers
        .iter()
        .map(|(name, value)| {
            let lower = name.to_ascii_lowercase();
            let value = if lower.starts_with(PREFIX) { encode(value) } else { value.to_owned() };
            (lower, value)
        })
        .collect();
    stamped.set_default("ce-specversion", "1.0");
    stamped.set_default("ce-id", attributes.id);
    stamped.set_default("ce-source", encode(attributes.source));
    stamped.set_default("ce-type", encode(attributes.kind));
    if let Ok(time) = attributes.time.format(&Rfc3339) {
        stamped.set_default("ce-time", time);
    }
    if let Some(kind) = stamped.get("content-type").map(encode) {
        stamped.set_default("ce-datacontenttype", kind);
        stamped.remove("content-type");
    }
    *headers = stamped;
}

const STRUCTURED: &str = "application/cloudevents";
/// The content type of one event in JSON.
pub const STRUCTURED_JSON: &str = "application/cloudevents+json; charset=UTF-8";
const JSON: &str = "application/json";

fn decode_attributes(headers: Headers) -> Headers {
    let encoded = |name: &str, value: &str| {
        name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
            && (value.contains('%') || value.starts_with('"'))
    };
    if !headers.iter().any(|(name, value)| encoded(name, value)) {
        return headers;
    }
    headers
        .iter()
        .map(|(name, value)| {
            let value = if encoded(name, value) { decode_value(value) } else { value.to_owned() };
            (name, value)
        })
        .collect()
}

/// A value that is not UTF-8 once decoded stays as it came: the event is worth more than the rule.
fn decode_value(value: &str) -> String {
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let plain = unquoted.unwrap_or(value);
    percent_decode_str(plain).decode_utf8().map_or_else(|_| plain.to_owned(), Into::into)
}

fn decode_structured(mut headers: Headers, payload: &Bytes) -> Result<(Headers, Bytes), String> {
    let wrong = |why: &str| format!("the payload is no structured CloudEvent: {why}");
    let attributes: BTreeMap<String, &RawValue> =
        serde_json::from_slice(payload).map_err(|err| wrong(&err.to_string()))?;
    let text = |raw: &RawValue| -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(raw.get()).ok()?;
        match value {
            serde_json::Value::String(text) => Some(text),
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
            _ => None,
        }
    };
    if attributes.get("specversion").and_then(|raw| text(raw)).is_none() {
        return Err(wrong("`specversion` is missing"));
    }
    let mut data = Bytes::new();
    let mut kind = None;
    headers.remove("content-type");
    for (name, raw) in &attributes {
        match name.as_str() {
            "data" => {
                let json = attributes.get("datacontenttype").is_none_or(|kind| {
                    let kind = kind.get().to_ascii_lowercase();
                    kind.contains("json")
                });
                data = match text(raw) {
                    Some(text) if !json => Bytes::from(text),
                    _ => Bytes::copy_from_slice(raw.get().as_bytes()),
                };
                kind.get_or_insert_with(|| JSON.to_owned());
            }
            "data_base64" => {
                let encoded = text(raw).ok_or_else(|| wrong("`data_base64` is no string"))?;
                data = BASE64
                    .decode(&encoded)
                    .map(Bytes::from)
                    .map_err(|err| wrong(&format!("`data_base64`: {err}")))?;
            }
            "datacontenttype" => kind = text(raw),
            _ => {
                if let Some(value) = text(raw) {
                    headers.set(format!("{PREFIX}{name}"), value);
                }
            }
        }
    }
    if let Some(kind) = kind {
        headers.set("ce-datacontenttype", kind);
    }
    Ok((headers, data))
}
