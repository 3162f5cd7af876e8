//! Partitions of an ordered binding: which one a key belongs to, and the copy of an event that
//! waits in it. Pure.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    event::{Event, EventId, Headers},
    key,
    manifest::KeyAt,
    source::Origin,
};

/// Says of a copy what it is one of: stream, its creation in nanoseconds, sequence, the event's
/// time in nanoseconds, subject.
pub const COPY_HEADER: &str = "pelton-copy-of";
/// What is put before a header's name that would mean something in a copy.
const KEPT: &str = "pelton-copy-header-";
const PREFIX: &str = "pelton-copy-";

/// The partition of an event's key, counted from 0. Nothing is promised of events without a key.
#[must_use]
pub fn of(event: &Event, at: &KeyAt, count: usize) -> usize {
    let hash = key::of(event, at).map_or(event.id.sequence, |key| {
        let hash = fnv(key.as_bytes());
        // The lowest bits alone know only the lowest bits of every character.
        hash ^ (hash >> 32)
    });
    usize::try_from(hash % (count.max(1) as u64)).unwrap_or(0)
}

/// FNV-1a: the same in every version of every runner, for as long as there are partitions.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The headers of an event's copy.
#[must_use]
pub fn write(event: &Event, origin: &Origin) -> Headers {
    let keep = |(name, value): (&str, &str)| match means_something(name) {
        true => (format!("{KEPT}{name}"), value.to_owned()),
        false => (name.to_owned(), value.to_owned()),
    };
    let mut headers: Headers = event.headers.iter().map(keep).collect();
    let EventId { stream, sequence } = &event.id;
    let created = origin.created.unix_timestamp_nanos();
    let time = event.time.unix_timestamp_nanos();
    let subject = &event.subject;
    headers.append(COPY_HEADER, format!("{stream} {created} {sequence} {time} {subject}"));
    headers
}

/// The event that a copy is one of, and where that came from; the message itself when it does not
/// say.
#[must_use]
pub fn read(event: Event, origin: Arc<Origin>) -> (Event, Arc<Origin>) {
    let Some(Copied { id, created, time, subject }) = copied(&event.headers) else {
        return (event, origin);
    };
    let first = Origin { stream: Arc::clone(&id.stream), created };
    let restore = |(name, value): (&str, &str)| {
        let name = match name.get(..KEPT.len()) {
            Some(start) if start.eq_ignore_ascii_case(KEPT) => name.get(KEPT.len()..)?,
            _ if means_something(name) => return None,
            _ => name,
        };
        Some((name.to_owned(), value.to_owned()))
    };
    let headers = event.headers.iter().filter_map(restore).collect();
    (Event { id, subject, headers, time, ..event }, Arc::new(first))
}

/// What a copy says of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The event.
    pub id: EventId,
    /// When its stream was created.
    pub created: OffsetDateTime,
    /// When it was stored.
    pub time: OffsetDateTime,
    /// Its subject.
    pub subject: String,
}

/// Reads the headers of a copy; `None` of anything else.
#[must_use]
pub fn copied(headers: &Headers) -> Option<Copied> {
    let mut words = headers.get(COPY_HEADER)?.splitn(5, ' ');
    let stream = words.next()?;
    let nanos = |word: &str| OffsetDateTime::from_unix_timestamp_nanos(word.parse().ok()?).ok();
    let created = nanos(words.next()?)?;
    let sequence = words.next()?.parse().ok()?;
    let time = nanos(words.next()?)?;
    let subject = words.next()?.to_owned();
    Some(Copied { id: EventId { stream: stream.into(), sequence }, created, time, subject })
}

/// Whether the server, or this module, would make something of a header.
fn means_something(name: &str) -> bool {
    Headers::is_of_server(name) || name.to_ascii_lowercase().starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn event() -> Event {
        let headers = [("Nats-Msg-Id", "1"), ("a", "b"), ("Pelton-Copy-Of", "x"), ("A", "c")];
        Event {
            id: EventId { stream: "S".into(), sequence: 7 },
            subject: "orders.k.placed".to_owned(),
            headers: headers.into_iter().collect(),
            data: "x".into(),
            time: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_000_001).unwrap(),
            attempt: 1,
        }
    }

    fn origin(stream: &str) -> Arc<Origin> {
        Arc::new(Origin { stream: stream.into(), created: OffsetDateTime::UNIX_EPOCH })
    }

    #[test]
    fn a_copy_is_read_as_the_event_it_is_one_of() {
        let copy = Event {
            id: EventId { stream: "P".into(), sequence: 1 },
            subject: "parts.t.f.8.3".to_owned(),
            headers: write(&event(), &origin("S")),
            ..event()
        };
        assert_eq!(copy.headers.get("nats-msg-id"), None, "the server would act on it");
        let (read, from) = read(copy, origin("P"));
        assert_eq!(
            (&read.id, &read.subject, read.time),
            (&event().id, &event().subject, event().time)
        );
        assert_eq!((read.headers, from), (event().headers, origin("S")));
    }

    #[test]
    fn what_is_no_copy_is_itself() {
        let mut other = event();
        other.headers.remove(COPY_HEADER);
        let (read, from) = read(other.clone(), origin("P"));
        assert_eq!((read.id, read.headers, from), (other.id, other.headers, origin("P")));
    }

    /// These numbers are for ever: with others, a new version would misplace what waits.
    #[test]
    fn a_key_stays_in_its_partition() {
        let by_token = |number| of(&event(), &KeyAt::Token(NonZeroUsize::new(number).unwrap()), 8);
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!((by_token(1), by_token(2)), (6, 6));
        assert_eq!(by_token(9), 7, "without a key, by its sequence");
    }
}
