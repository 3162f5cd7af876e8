//! Events as the records of a queue of AWS SQS. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use serde_json::{Value, json};

use super::REGION;
use crate::event::{Event, Headers};

/// The attribute that says how a payload that is no text is written in `body`.
const ENCODING: &str = "pelton-body-encoding";

/// The body of an invocation.
pub(super) fn records<'a>(events: impl Iterator<Item = &'a Event>) -> Bytes {
    let records: Vec<Value> = events.map(record).collect();
    json!({ "Records": records }).to_string().into()
}

fn record(event: &Event) -> Value {
    let (body, encoding) = match std::str::from_utf8(&event.data) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (BASE64.encode(&event.data), Some("base64")),
    };
    let id = event.id.to_string();
    let sent = (event.time.unix_timestamp_nanos() / 1_000_000).to_string();
    let about = [("pelton-subject", Some(event.subject.as_str())), (ENCODING, encoding)];
    json!({
        "messageId": id,
        "receiptHandle": id,
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": event.attempt.to_string(),
            "SentTimestamp": sent,
            "ApproximateFirstReceiveTimestamp": sent,
            "SenderId": "pelton",
        },
        "messageAttributes": attributes(&event.headers, about),
        "eventSource": "aws:sqs",
        "eventSourceARN": format!("arn:aws:sqs:{REGION}:000000000000:{}", event.id.stream),
        "awsRegion": REGION,
    })
}

/// The first value of each header but those of the server, and what there is no place for otherwise.
fn attributes(headers: &Headers, about: [(&str, Option<&str>); 2]) -> BTreeMap<String, Value> {
    let text = |value: &str| {
        json!({
            "stringValue": value,
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": "String",
        })
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in headers.iter() {
        if !Headers::is_of_server(name) {
            attributes.entry(name.to_owned()).or_insert_with(|| text(value));
        }
    }
    for (name, value) in about {
        attributes.extend(value.map(|value| (name.to_owned(), text(value))));
    }
    attributes
}
