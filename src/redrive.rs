//! A dead letter that is sent again: what is stored for it, and the event in that. Pure.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    event::{Event, EventId, Headers, Publish},
    letter::{EDITED_HEADER, PAST_HEADER, PREFIX, ascii, is_of_letters},
    outputs::{LIFE_HEADER, life_in},
    source::Origin,
};

/// The most of earlier attempts that goes along, in bytes of JSON.
const PAST_MAX: usize = 16 * 1024;

/// What names the event in a letter, and goes along when it is sent again.
const NAMES: [&str; 5] = ["stream", "created", "sequence", "subject", "event-time"];

/// How often the event of a letter came back already.
#[must_use]
pub fn lives(letter: &Headers) -> u64 {
    life_in(letter).parse().unwrap_or(0)
}

/// The message that sends a letter again to `subject`; `original` is the payload before it was
/// edited, if it was.
#[must_use]
pub fn write(
    letter: &Headers,
    data: Bytes,
    original: Option<&Bytes>,
    subject: &str,
    id: String,
) -> Publish {
    let mut headers: Headers = letter
        .iter()
        .filter(|(name, _)| !is_of_letters(name) && !Headers::is_of_server(name))
        .collect();
    for name in NAMES.map(|name| format!("{PREFIX}{name}")) {
        if let Some(value) = letter.get(&name) {
            headers.append(name, value);
        }
    }
    headers.append(LIFE_HEADER, (lives(letter) + 1).to_string());
    headers.append(PAST_HEADER, past(letter));
    let before = letter.get(EDITED_HEADER).map(str::to_owned);
    if let Some(digest) = before.or_else(|| original.map(|data| hex(&Sha256::digest(data)))) {
        headers.append(EDITED_HEADER, digest);
    }
    Publish { subject: subject.to_owned(), id, headers, data }
}

/// The event that a message sends again, and where it came from once; the message itself when it
/// does not say.
#[must_use]
pub fn read(event: Event, origin: Arc<Origin>) -> (Event, Arc<Origin>) {
    let Some((id, created, subject, time)) = named(&event.headers) else { return (event, origin) };
    let first = Origin { stream: Arc::clone(&id.stream), created };
    let mut event = Event { id, subject, time: time.unwrap_or(event.time), ..event };
    event.headers.retain(|name| {
        let lower = name.to_ascii_lowercase();
        let names_it = NAMES.iter().any(|known| lower.strip_prefix(PREFIX) == Some(known));
        !names_it && !Headers::is_of_server(name)
    });
    (event, Arc::new(first))
}

type Named = (EventId, OffsetDateTime, String, Option<OffsetDateTime>);

fn named(headers: &Headers) -> Option<Named> {
    let get = |name: &str| headers.get(&format!("{PREFIX}{name}"));
    let created = get("created")?.parse::<i128>().ok()?;
    Some((
        EventId { stream: get("stream")?.into(), sequence: get("sequence")?.parse().ok()? },
        OffsetDateTime::from_unix_timestamp_nanos(created).ok()?,
        get("subject")?.to_owned(),
        get("event-time").and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok()),
    ))
}

/// The failed attempts that a letter tells of, those of earlier lives first: time, outcome and error
/// of each.
#[must_use]
pub fn attempts(letter: &Headers) -> Vec<Value> {
    let list = |name: &str| -> Vec<Value> {
        serde_json::from_str(letter.get(name).unwrap_or("[]")).unwrap_or_default()
    };
    let mut all = list(PAST_HEADER);
    all.extend(list(&format!("{PREFIX}history")));
    all
}

/// The attempts of all lives; the oldest go first when there are too many.
fn past(letter: &Headers) -> String {
    let mut all = attempts(letter);
    loop {
        let text = ascii(&Value::from(all.clone()).to_string());
        if text.len() <= PAST_MAX || all.is_empty() {
            return text;
        }
        all.remove(0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Headers {
        [
            ("content-type", "text/plain"),
            ("Nats-Msg-Id", "x"),
            ("pelton-dead-letter-reason", "rejected"),
            ("pelton-dead-letter-stream", "ORDERS"),
            ("pelton-dead-letter-created", "1700000000000000001"),
            ("pelton-dead-letter-sequence", "12"),
            ("pelton-dead-letter-subject", "orders.placed"),
            ("pelton-dead-letter-event-time", "2030-01-31T12:00:00Z"),
            ("pelton-dead-letter-history", r#"[{"n":2}]"#),
            ("pelton-dead-letter-past", r#"[{"n":1}]"#),
            ("pelton-dead-letter-life", "1"),
        ]
        .into_iter()
        .collect()
    }

    fn sent() -> Event {
        let data = Bytes::from_static(b"edited");
        let original = Bytes::from_static(b"data");
        let message = write(&letter(), data, Some(&original), "redrive.shop.pay", "id".to_owned());
        Event {
            id: EventId { stream: "SHOP_DLQ".into(), sequence: 7 },
            subject: message.subject,
            headers: message.headers,
            data: message.data,
            time: OffsetDateTime::UNIX_EPOCH,
            attempt: 1,
        }
    }

    #[test]
    fn what_is_sent_again_is_the_event_it_was() {
        let origin =
            Arc::new(Origin { stream: "SHOP_DLQ".into(), created: OffsetDateTime::UNIX_EPOCH });
        let (event, origin) = read(sent(), origin);
        assert_eq!(
            (event.id.to_string(), event.subject.as_str()),
            ("ORDERS:12".to_owned(), "orders.placed")
        );
        assert_eq!(origin.created.unix_timestamp_nanos(), 1_700_000_000_000_000_001);
        assert_eq!(event.time.year(), 2030);
        assert_eq!(event.headers.get(LIFE_HEADER), Some("2"));
        assert_eq!(event.headers.get(PAST_HEADER), Some(r#"[{"n":1},{"n":2}]"#));
        assert_eq!(event.headers.get("nats-msg-id"), None);
        assert_eq!(event.headers.get("pelton-dead-letter-reason"), None);
        let digest = event.headers.get(EDITED_HEADER).unwrap();
        assert!(digest.starts_with("3a6eb0790f39ac87"), "{digest}");
    }

    #[test]
    fn what_does_not_say_what_it_was_is_itself() {
        let mut event = sent();
        event.headers.remove("pelton-dead-letter-stream");
        let origin =
            Arc::new(Origin { stream: "SHOP_DLQ".into(), created: OffsetDateTime::UNIX_EPOCH });
        let (event, same) = read(event, Arc::clone(&origin));
        assert_eq!((event.id.to_string(), same), ("SHOP_DLQ:7".to_owned(), origin));
    }
}
