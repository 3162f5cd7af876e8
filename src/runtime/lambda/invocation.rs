//! An event as an invocation.

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    answer::{failures, response},
    sqs,
};
use crate::{
    cloudevents,
    event::{Event, Verdict},
    handler::{Call, Fault},
    manifest::{Lambda, LambdaEvent},
};

/// How the events of a function become invocations.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct Shape {
    event: LambdaEvent,
    arn: String,
}

impl Shape {
    pub(in crate::runtime) fn new(function: &str, target: &Lambda) -> Self {
        let arn = format!("arn:aws:lambda:local:000000000000:function:{function}");
        Self { event: target.event, arn }
    }

    /// Whether an invocation has all events of a call.
    pub(super) const fn takes_all(&self) -> bool {
        matches!(self.event, LambdaEvent::Sqs)
    }

    /// What a response means for each event of its invocation.
    pub(in crate::runtime) fn read(
        &self,
        body: &Bytes,
        events: &[String],
    ) -> Result<Vec<Verdict>, Fault> {
        match self.event {
            LambdaEvent::Payload | LambdaEvent::CloudEvents => Ok(vec![response(body)?]),
            LambdaEvent::Sqs => failures(body, events),
        }
    }
}

/// What a runtime is told when it asks for its next event.
#[derive(Debug)]
pub(in crate::runtime) struct Invocation {
    /// Names it in the answer: a UUID of version 4, as it is at AWS.
    pub(in crate::runtime) id: String,
    /// When it must have ended, in milliseconds since 1970.
    pub(super) deadline: u128,
    pub(super) arn: String,
    pub(super) trace: Option<String>,
    /// JSON in ASCII.
    pub(super) context: String,
    pub(super) body: Bytes,
}

impl Invocation {
    /// Of the call's only event, or of all of them.
    pub(in crate::runtime) fn new(call: &Call, shape: &Shape) -> Self {
        let event = &call.events.first;
        let custom = json!({"custom": {
            "pelton-subject": event.subject,
            "pelton-event-id": event.id.to_string(),
            "pelton-attempt": event.attempt.to_string(),
        }});
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            id: request_id(),
            deadline: (now + call.timeout).as_millis(),
            arn: shape.arn.clone(),
            trace: event.headers.get("traceparent").and_then(trace),
            context: ascii(&custom.to_string()),
            body: match shape.event {
                LambdaEvent::Payload => payload(event),
                LambdaEvent::CloudEvents => cloudevents::structured(event).into(),
                LambdaEvent::Sqs => sqs::records(call.events.iter()),
            },
        }
    }
}

/// The payload if it is JSON; the clients know no other kind.
fn payload(event: &Event) -> Bytes {
    let data = &event.data;
    if data.is_empty() {
        return Bytes::from_static(b"{}");
    }
    if serde_json::from_slice::<IgnoredAny>(data).is_ok() {
        return data.clone();
    }
    let value = match std::str::from_utf8(data) {
        Ok(text) => json!(text),
        Err(_) => json!({"data_base64": BASE64.encode(data)}),
    };
    value.to_string().into()
}

/// A W3C trace context in the words of X-Ray.
fn trace(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.trim().split('-');
    let (_, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|c| c.is_ascii_hexdigit());
    if !(hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
        return None;
    }
    let (epoch, rest) = trace.split_at(8);
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    Some(format!("Root=1-{epoch}-{rest};Parent={span};Sampled={sampled}"))
}

/// Headers are ASCII; JSON can say everything in it.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => text.push(c),
            _ => {
                let mut units = [0; 2];
                let units = c.encode_utf16(&mut units);
                text.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    text
}

fn request_id() -> String {
    let bits = fastrand::u128(..) & !(0xf000 << 64) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_random_uuids() {
        for _ in 0..100 {
            let id = request_id();
            assert_eq!(id.len(), 36, "{id}");
            assert_eq!(id.as_bytes().get(14), Some(&b'4'), "{id}");
            assert!(matches!(id.as_bytes().get(19), Some(b'8' | b'9' | b'a' | b'b')), "{id}");
        }
    }

    #[test]
    fn a_trace_context_becomes_a_trace_id() {
        let span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let root = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
        assert_eq!(trace(span).as_deref(), Some(root));
        assert!(trace(&span.replace("-01", "-00")).is_some_and(|id| id.ends_with("Sampled=0")));
        for wrong in ["", "00", "00-4bf9-00f067aa0ba902b7-01", "00-é-b-c"] {
            assert_eq!(trace(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers_are_ascii() {
        assert_eq!(ascii(r#""a ü 🚀""#), r#""a \u00fc \ud83d\ude80""#);
        let back: String = serde_json::from_str(&ascii(r#""ü 🚀""#)).unwrap_or_default();
        assert_eq!(back, "ü 🚀");
    }
}
