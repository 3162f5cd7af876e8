//! An event as a request: the `CloudEvents` HTTP binding 1.0.2, and what Pelton adds.

use http_body_util::Full;
use hyper::{
    Method, Request,
    body::Bytes,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
};
use tracing::debug;

use crate::{
    cloudevents::{self, STRUCTURED_JSON, TRACE_HEADERS},
    event::Event,
    handler::NonEmpty,
    manifest::{Http, HttpMode},
};

const BATCH_JSON: &str = "application/cloudevents-batch+json; charset=UTF-8";

/// What says where a message ends or whom it is for, and what would let a publisher of events
/// speak to the target in the runner's name.
const KEPT_BACK: [&str; 15] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Several events in one request, as the JSON batch format of `CloudEvents` has them. What single
/// events say of themselves in headers, they say in extension attributes.
pub(super) fn of_batch(events: &NonEmpty<Event>, spec: &Http) -> Request<Full<Bytes>> {
    let mut body = Vec::from(b"[");
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let mut event = event.clone();
        let about = [
            ("ce-peltoneventid", event.id.to_string()),
            ("ce-peltonattempt", event.attempt.to_string()),
            ("ce-peltonsubject", event.subject.clone()),
        ];
        let traces = TRACE_HEADERS.map(|name| (name, event.headers.get(name).map(str::to_owned)));
        for (name, value) in about {
            event.headers.set(name, value);
        }
        for (name, value) in traces {
            if let Some(value) = value {
                event.headers.set_default(format!("ce-{name}"), value);
            }
        }
        body.extend(cloudevents::structured(&event));
    }
    body.push(b']');
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(BATCH_JSON));
    finish(headers, body.into(), spec)
}

pub(super) fn of(event: &Event, spec: &Http) -> Request<Full<Bytes>> {
    let mut headers = HeaderMap::new();
    for (name, value) in event.headers.iter() {
        if passes(name) {
            append(&mut headers, name, value);
        }
    }
    let body = match spec.mode {
        HttpMode::Binary => {
            for (name, value) in cloudevents::attributes(event) {
                append(&mut headers, &format!("ce-{name}"), &cloudevents::encode(&value));
            }
            let kind = cloudevents::content_type(event);
            // What the standard takes a body without a type for; said, because servers differ.
            let kind = kind.or((!event.data.is_empty()).then_some("application/octet-stream"));
            if let Some(kind) = kind {
                append(&mut headers, CONTENT_TYPE.as_str(), kind);
            }
            event.data.clone()
        }
        HttpMode::Structured => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(STRUCTURED_JSON));
            cloudevents::structured(event).into()
        }
    };
    let about = [
        ("pelton-event-id", event.id.to_string()),
        ("pelton-attempt", event.attempt.to_string()),
        ("pelton-subject", event.subject.clone()),
    ];
    for (name, value) in about {
        append(&mut headers, name, &cloudevents::encode(&value));
    }
    finish(headers, body, spec)
}

fn finish(mut headers: HeaderMap, body: Bytes, spec: &Http) -> Request<Full<Bytes>> {
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("pelton/", env!("CARGO_PKG_VERSION"))),
    );
    // An empty body has a length too: servers ask for it.
    headers.insert(CONTENT_LENGTH, body.len().into());
    for (name, secret) in &spec.headers {
        replace(&mut headers, name, &secret.0);
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = spec.url.clone();
    *request.headers_mut() = headers;
    request
}

fn passes(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ours = ["ce-", "nats-"].iter().any(|prefix| name.starts_with(prefix))
        || matches!(name.as_str(), "pelton-event-id" | "pelton-attempt" | "pelton-subject");
    !ours && !KEPT_BACK.contains(&name.as_str())
}

/// A header that HTTP cannot carry (NATS takes more names and values) stays behind.
fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes())) {
        (Ok(name), Ok(value)) => {
            headers.append(name, value);
        }
        _ => debug!(header = name.escape_debug().to_string(), "HTTP cannot carry this header"),
    }
}

/// As the manifest says, whatever the event brought along.
fn replace(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(mut value)) =
        (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
    {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}
