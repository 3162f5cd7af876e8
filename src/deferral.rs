//! An event that is to run again after a long wait: what is stored for it meanwhile, and the event
//! in that. It waits in the dead-letter stream, under a schedule of the server's (ADR-51), rather
//! than as an unacknowledged event of its consumer. Pure.

use std::{sync::Arc, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    event::{Event, Headers, Publish},
    letter,
    outputs::{Provenance, message_id},
    partition,
    settle::Record,
    source::Origin,
};

/// Waits longer than this are deferred.
pub const LONGER_THAN: Duration = Duration::from_secs(60);

/// Carries what is remembered of the event. Headers of this prefix are left out when a copy is read.
const RECORD_HEADER: &str = "pelton-copy-record";

/// When the server is to send it on, and where to.
const SCHEDULE: &str = "Nats-Schedule";
const TARGET: &str = "Nats-Schedule-Target";
/// What the server says of a message that it sent on.
const SCHEDULER: &str = "Nats-Scheduler";

/// What the subjects of all deferred events of a manifest start with, the last dot included.
#[must_use]
pub fn prefix(manifest: &str) -> String {
    format!("deferred.{manifest}.")
}

/// Where a binding's deferred events wait, and where they come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    prefix: String,
    target: String,
}

impl Deferral {
    /// That of one binding of a manifest.
    #[must_use]
    pub fn new(manifest: &str, binding: &str) -> Self {
        Self {
            prefix: format!("{}{binding}.", prefix(manifest)),
            target: format!("redrive.{manifest}.{binding}"),
        }
    }

    /// The message that waits for an event until `due`. Stored again for the same wait, it is a
    /// duplicate or replaces itself.
    #[must_use]
    pub fn write(&self, from: Provenance<'_>, record: &Record, due: OffsetDateTime) -> Publish {
        let mut headers = partition::write(from.event, from.origin);
        let carried = Record { seen: 0, started: None, deferred: None, ..record.clone() };
        let carried = serde_json::to_string(&carried).unwrap_or_default();
        headers.append(RECORD_HEADER, letter::ascii(&carried));
        headers.append(SCHEDULE, format!("@at {}", at(due)));
        headers.append(TARGET, self.target.clone());
        let place = message_id(from, "deferred");
        let id = message_id(from, format_args!("deferred after {}", record.failed.len()));
        let subject = format!("{}{place}", self.prefix);
        Publish { subject, id, headers, data: from.event.data.clone() }
    }
}

/// The event of a message that a schedule sent on, where it came from and what is remembered of it;
/// `None` of anything else.
#[must_use]
pub fn read(event: &Event, origin: &Arc<Origin>) -> Option<(Event, Arc<Origin>, Record)> {
    let headers: &Headers = &event.headers;
    headers.get(SCHEDULER)?;
    partition::copied(headers)?;
    let record = serde_json::from_str(headers.get(RECORD_HEADER)?).unwrap_or_default();
    let (event, origin) = partition::read(event.clone(), Arc::clone(origin));
    Some((event, origin, record))
}

/// Whole seconds, not before `due`.
fn at(due: OffsetDateTime) -> String {
    let whole = due.replace_nanosecond(0).unwrap_or(due);
    let whole = if whole < due { whole + Duration::from_secs(1) } else { whole };
    whole.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::EventId,
        settle::{Attempt, Outcome},
    };

    fn event() -> Event {
        let headers = [("Nats-Msg-Id", "1"), ("pelton-dead-letter-life", "2"), ("A", "c")];
        Event {
            id: EventId { stream: "ORDERS".into(), sequence: 7 },
            subject: "orders.placed".to_owned(),
            headers: headers.into_iter().collect(),
            data: "x".into(),
            time: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_000_001).unwrap(),
            attempt: 2,
        }
    }

    fn origin(stream: &str) -> Arc<Origin> {
        Arc::new(Origin { stream: stream.into(), created: OffsetDateTime::UNIX_EPOCH })
    }

    fn record(tries: usize) -> Record {
        let time = OffsetDateTime::UNIX_EPOCH;
        let attempt = Attempt { time, outcome: Outcome::Retry, error: "späti".to_owned() };
        Record { failed: vec![attempt; tries], losses: 1, seen: 3, ..Record::default() }
    }

    fn written(tries: usize) -> Publish {
        let (event, origin) = (event(), origin("ORDERS"));
        let from = Provenance {
            name: "shop",
            binding: "pay",
            origin: &origin,
            event: &event,
            replay: None,
        };
        let due = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_000_001).unwrap();
        Deferral::new("shop", "pay").write(from, &record(tries), due)
    }

    #[test]
    fn what_is_sent_on_is_the_event_with_its_record() {
        let waits = written(1);
        assert_eq!(waits.headers.get("nats-schedule"), Some("@at 2023-11-14T22:13:21Z"));
        assert_eq!(waits.headers.get("nats-schedule-target"), Some("redrive.shop.pay"));
        assert_eq!(waits.headers.get("nats-msg-id"), None, "the event's own is not the server's");
        let mut sent = Event {
            id: EventId { stream: "SHOP_DLQ".into(), sequence: 9 },
            subject: "redrive.shop.pay".to_owned(),
            headers: waits.headers,
            ..event()
        };
        assert!(read(&sent, &origin("SHOP_DLQ")).is_none(), "nobody but the server sends it on");
        sent.headers.append(SCHEDULER, "deferred.shop.pay.x");
        let (read, from, remembered) = read(&sent, &origin("SHOP_DLQ")).unwrap();
        assert_eq!((&read.id, &read.subject), (&event().id, &event().subject));
        assert_eq!((read.headers, from), (event().headers, origin("ORDERS")));
        assert_eq!(remembered, Record { seen: 0, ..record(1) });
    }

    #[test]
    fn one_event_waits_in_one_place_and_each_wait_is_its_own() {
        let (first, again, later) = (written(1), written(1), written(2));
        assert_eq!((&first.subject, &first.id), (&again.subject, &again.id));
        assert_eq!(first.subject, later.subject);
        assert_ne!(first.id, later.id);
        assert!(first.subject.starts_with("deferred.shop.pay."), "{}", first.subject);
    }
}
