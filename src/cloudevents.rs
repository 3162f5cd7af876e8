//! CloudEvents over NATS: binary mode out, binary and structured mode in (`CloudEvents` NATS
//! protocol binding 1.0.3). Pure.

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::event::{Event, Headers};

const PREFIX: &str = "ce-";

/// Headers that travel from an input to every output of it (W3C trace context and baggage).
pub const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// The binding's section 3.1.3.2: space, `"`, `%` and everything outside U+0021–U+007E.
const ENCODE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Encodes a header value.
#[must_use]
pub fn encode(value: &str) -> String {
    utf8_percent_encode(value, ENCODE).to_string()
}

/// The event as a function should see it: attributes decoded, a structured event unpacked.
///
/// # Errors
/// Says why a payload that claims to be a structured event is none.
pub fn unpack(event: Event) -> Result<Event, String> {
    if event.headers.is_empty() {
        return Ok(event);
    }
    let structured = event.headers.get("content-type").is_some_and(|kind| {
        kind.get(..STRUCTURED.len()).is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
    });
    if structured { unpack_structured(event) } else { Ok(decode_attributes(event)) }
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

fn decode_attributes(mut event: Event) -> Event {
    let encoded = |name: &str, value: &str| {
        name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
            && (value.contains('%') || value.starts_with('"'))
    };
    if event.headers.iter().any(|(name, value)| encoded(name, value)) {
        event.headers = event
            .headers
            .iter()
            .map(|(name, value)| {
                let value = if encoded(name, value) { decode(value) } else { value.to_owned() };
                (name, value)
            })
            .collect();
    }
    event
}

/// A value that is not UTF-8 once decoded stays as it came: the event is worth more than the rule.
fn decode(value: &str) -> String {
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let plain = unquoted.unwrap_or(value);
    percent_decode_str(plain).decode_utf8().map_or_else(|_| plain.to_owned(), Into::into)
}

fn unpack_structured(mut event: Event) -> Result<Event, String> {
    let wrong = |why: &str| format!("the payload is no structured CloudEvent: {why}");
    let attributes: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_slice(&event.data).map_err(|err| wrong(&err.to_string()))?;
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
    let mut headers = event.headers.clone();
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
                kind.get_or_insert_with(|| "application/json".to_owned());
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
                    headers.set(&format!("{PREFIX}{name}"), value);
                }
            }
        }
    }
    if let Some(kind) = kind {
        headers.set("ce-datacontenttype", kind);
    }
    event.headers = headers;
    event.data = data;
    Ok(event)
}
