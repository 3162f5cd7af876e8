//! An answer as a verdict. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hyper::{
    Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
    http::response::Parts,
};
use serde_json::value::RawValue;

use crate::{
    cloudevents::{self, TRACE_HEADERS},
    event::{Cause, Headers, Outgoing, Verdict},
    handler::Fault,
    settle::cut,
};

/// Statuses that say that the event itself is wrong.
const REJECT: [u16; 5] = [400, 410, 413, 415, 422];
/// What is shown of the body of a failure.
const SHOWN_MAX: usize = 512;
const BATCH: &str = "application/cloudevents-batch";

/// # Errors
/// An answer that says neither yes nor no.
pub(super) fn verdict(
    head: &Parts,
    body: Bytes,
    reject_on: &BTreeSet<u16>,
    now: SystemTime,
) -> Result<Verdict, Fault> {
    let status = head.status;
    if status.is_success() {
        return outputs(&head.headers, body).map(Verdict::Done).map_err(Fault::BadReply);
    }
    failure(head, &body, reject_on, now)
}

/// What any other status says.
///
/// # Errors
/// As [`verdict`].
pub(super) fn failure(
    head: &Parts,
    body: &Bytes,
    reject_on: &BTreeSet<u16>,
    now: SystemTime,
) -> Result<Verdict, Fault> {
    let status = head.status;
    if status.is_redirection() {
        let to = location(&head.headers);
        let why = format!("{status}: redirects{to} are not followed: write the right URL");
        return Err(Fault::BadReply(why));
    }
    let reason = reason(&status.to_string(), body);
    if REJECT.contains(&status.as_u16()) || reject_on.contains(&status.as_u16()) {
        return Ok(Verdict::Reject { cause: Cause::Rejected, reason });
    }
    if status.is_client_error() || status.is_server_error() {
        return Ok(Verdict::Retry { reason, after: retry_after(&head.headers, now) });
    }
    Err(Fault::BadReply(format!("{status} is no status of an answer")))
}

fn outputs(headers: &HeaderMap, body: Bytes) -> Result<Vec<Outgoing>, String> {
    check_encoding(headers)?;
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.get(..BATCH.len()).is_some_and(|start| start.eq_ignore_ascii_case(BATCH)) {
        return batch(&body);
    }
    if body.is_empty() && !headers.contains_key("ce-specversion") {
        return Ok(Vec::new());
    }
    let kept = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        name.starts_with("ce-") || *name == CONTENT_TYPE || TRACE_HEADERS.contains(&name)
    });
    let kept = kept.map(|(name, value)| {
        (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    Ok(vec![output(kept.collect(), body)?])
}

pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), String> {
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes());
    match encoding.filter(|name| !name.eq_ignore_ascii_case(b"identity")) {
        None => Ok(()),
        Some(encoding) => {
            let name = String::from_utf8_lossy(encoding);
            Err(format!("the answer is encoded with {name}, which nobody asked for"))
        }
    }
}

fn output(headers: Headers, body: Bytes) -> Result<Outgoing, String> {
    let (mut headers, data) = cloudevents::decode(headers, body)?;
    // The attribute and the header say the same; an output has the header.
    if let Some(kind) = headers.get("ce-datacontenttype").map(str::to_owned) {
        headers.set_default("content-type", kind);
        headers.remove("ce-datacontenttype");
    }
    Ok(Outgoing { subject: None, headers, data })
}

fn batch(body: &Bytes) -> Result<Vec<Outgoing>, String> {
    let wrong = |err| format!("the answer is no batch of CloudEvents: {err}");
    let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(wrong)?;
    events.into_iter().map(|event| structured(body, event)).collect()
}

/// An output from its `CloudEvent` in a body.
pub(super) fn structured(body: &Bytes, event: &RawValue) -> Result<Outgoing, String> {
    let kind = [("content-type", "application/cloudevents+json")];
    output(kind.into_iter().collect(), body.slice_ref(event.get().as_bytes()))
}

/// Of a redirect: its host, not all of a URL that may hold a secret.
fn location(headers: &HeaderMap) -> String {
    let target = headers.get(LOCATION).and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
    let host = target.and_then(|uri| Some(uri.authority()?.host().to_owned()));
    host.map_or_else(String::new, |host| format!(" to {host}"))
}

fn reason(status: &str, body: &Bytes) -> String {
    let start = body.get(..SHOWN_MAX * 2).unwrap_or(body);
    let text = String::from_utf8_lossy(start);
    let text = text.split(|c: char| c.is_whitespace() || c.is_control());
    let text = text.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match cut(&text, SHOWN_MAX) {
        "" => status.to_owned(),
        text => format!("{status}: {text}"),
    }
}

/// Seconds or a date; anything else counts as not said.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}
