//! The dead letter: the event as it was, and why it is here. Pure.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    event::{Headers, Publish},
    outputs::{LIFE_HEADER, Provenance, message_id},
    settle::{Letter, cut},
};

/// What the headers of a letter that speak of it start with.
pub const PREFIX: &str = "pelton-dead-letter-";

/// The id of the trace in which the event was given up, where traces are kept.
pub const TRACE_HEADER: &str = "pelton-dead-letter-trace-id";

/// SHA-256 of the payload that an event had before somebody edited it.
pub const EDITED_HEADER: &str = "pelton-dead-letter-original-sha256";
/// The attempts of earlier lives, a JSON list as `history` is.
pub const PAST_HEADER: &str = "pelton-dead-letter-past";

/// The longest error text in a header, in bytes before encoding.
const ERROR_MAX: usize = 2048;

/// What a header cannot carry.
const ENCODE: &AsciiSet = &CONTROLS.add(b'%');

/// A dead letter as it can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// With the payload.
    Whole(Publish),
    /// Without: it would not fit, so the original must stay where it is.
    WithoutPayload(Publish),
}

/// Writes the dead letter of an event for `subject`, in at most `max` bytes of headers and payload.
/// What does not fit goes in this order: the event's own headers, its payload.
#[must_use]
pub fn write(
    letter: &Letter,
    from: Provenance<'_>,
    subject: &str,
    consumer: &str,
    now: OffsetDateTime,
    max: usize,
) -> Written {
    let event = from.event;
    let mut about = about(letter, from, consumer, now);
    for name in [LIFE_HEADER, PAST_HEADER, EDITED_HEADER] {
        for value in event.headers.get_all(name) {
            about.append(name, value);
        }
    }
    let id = message_id(from, "dead letter");
    let mut headers: Headers =
        event.headers.iter().filter(|(name, _)| !is_control(name)).chain(about.iter()).collect();
    // Room for the `Nats-Msg-Id` that the sink adds.
    let fits = |headers: &Headers| headers.wire_len() + event.data.len() + 64 <= max;
    if !fits(&headers) {
        headers = about;
    }
    let whole = fits(&headers);
    let data = if whole { event.data.clone() } else { bytes::Bytes::new() };
    if !whole {
        headers.append(format!("{PREFIX}payload"), "omitted");
    }
    let publish = Publish { subject: subject.to_owned(), id, headers, data };
    if whole { Written::Whole(publish) } else { Written::WithoutPayload(publish) }
}

fn about(letter: &Letter, from: Provenance<'_>, consumer: &str, now: OffsetDateTime) -> Headers {
    let rfc3339 = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let first = letter.failed.first().map_or(now, |attempt| attempt.time);
    let history = ascii(&serde_json::to_string(&letter.failed).unwrap_or_default());
    let encode = |text: &str| utf8_percent_encode(text, ENCODE).to_string();
    [
        ("reason", letter.reason.as_str().to_owned()),
        ("error", encode(cut(&letter.error, ERROR_MAX))),
        ("attempts", letter.failed.len().to_string()),
        ("history", history),
        ("stream", from.event.id.stream.to_string()),
        ("sequence", from.event.id.sequence.to_string()),
        ("subject", from.event.subject.clone()),
        ("consumer", consumer.to_owned()),
        ("created", from.origin.created.unix_timestamp_nanos().to_string()),
        ("event-time", rfc3339(from.event.time)),
        ("time", rfc3339(now)),
        ("first-time", rfc3339(first)),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}{name}"), value))
    .collect()
}

/// Whether a header speaks of the deaths of its event rather than of the event.
#[must_use]
pub fn is_of_letters(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// JSON in characters that every header carries. Outside strings there are no others.
pub(crate) fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// Headers that would steer the server, or speak of an earlier death.
fn is_control(name: &str) -> bool {
    Headers::is_of_server(name) || is_of_letters(name)
}
