//! Decisions that need no server: what becomes of an event, where outputs go, what a dead letter
//! says.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pelton::{
    cloudevents,
    event::{Cause, Event, EventId, Headers, Outgoing, Publish},
    handler::Fault,
    letter::{self, Written},
    manifest,
    outputs::{self, Provenance, message_id},
    settle::{
        Ack, Admission, Attempt, End, Exhausted, Letter, Memory, Now, OnExhausted, Outcome, Policy,
        Reason, Record, Settlement, admit, backoff, settle,
    },
    source::Origin,
};
use time::OffsetDateTime;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> Policy {
    Policy {
        attempts: 3,
        backoff_min: SECOND,
        backoff_max: SECOND * 60,
        losses: 2,
        max_age: None,
        on_exhausted: OnExhausted::DeadLetter,
    }
}

fn now() -> Now {
    let time = OffsetDateTime::UNIX_EPOCH + SECOND * 1000;
    Now {
        time,
        stored: OffsetDateTime::UNIX_EPOCH,
        jitter: 0.0,
        unavailable: SECOND * 7,
        given_back: SECOND * 4,
    }
}

fn failed(outcome: Outcome, times: usize) -> Record {
    let attempt = Attempt { time: now().time, outcome, error: "no".to_owned() };
    Record { failed: vec![attempt; times], ..Record::default() }
}

fn decide(end: End, record: Record) -> Settlement {
    settle(end, record, 5, &policy(), now())
}

fn retry(after: Option<Duration>) -> End {
    End::Retry { reason: "no".to_owned(), after }
}

fn event(headers: Headers, data: &'static str) -> Event {
    Event {
        id: EventId { stream: "ORDERS".into(), sequence: 7 },
        subject: "orders.placed".to_owned(),
        headers,
        data: Bytes::from_static(data.as_bytes()),
        time: OffsetDateTime::UNIX_EPOCH,
        attempt: 1,
    }
}

fn origin() -> Origin {
    Origin { stream: Arc::from("ORDERS"), created: OffsetDateTime::UNIX_EPOCH }
}

#[test]
fn success_publishes_and_then_acknowledges() {
    let output = Publish {
        subject: "a".to_owned(),
        id: "1".to_owned(),
        headers: Headers::new(),
        data: Bytes::new(),
    };
    let settlement = decide(End::Done(vec![output.clone()]), Record::default());
    let expected = Settlement {
        memory: Memory::Keep,
        publish: vec![output],
        letter: None,
        exhausted: None,
        ack: Ack::Done,
    };
    assert_eq!(settlement, expected);
    let after_failures = decide(End::Done(Vec::new()), failed(Outcome::Retry, 2));
    assert_eq!(after_failures.memory, Memory::Forget, "what succeeded needs no record");
}

#[test]
fn a_retry_is_on_record_before_the_event_goes_back() {
    let settlement = decide(retry(None), failed(Outcome::Timeout, 1));
    let Memory::Write(record) = settlement.memory else { panic!("nothing is remembered") };
    assert_eq!(record.failed.len(), 2);
    assert_eq!(record.seen, 5, "this delivery is accounted for");
    assert_eq!(settlement.ack, Ack::Redeliver { after: SECOND });
    assert_eq!(settlement.letter, None);
}

#[test]
fn the_last_attempt_makes_a_dead_letter_of_its_own_reason() {
    for (end, reason) in [
        (retry(None), Reason::AttemptsExhausted),
        (End::Fault(Fault::Timeout(SECOND)), Reason::Timeout),
        (End::Fault(Fault::Crash("died".to_owned())), Reason::Crashed),
        (End::Fault(Fault::BadReply("what?".to_owned())), Reason::BadReply),
        (End::Output("too large".to_owned()), Reason::Output),
    ] {
        let settlement = decide(end.clone(), failed(Outcome::Retry, 2));
        let letter = settlement.letter.unwrap_or_else(|| panic!("{end:?} is given up"));
        assert_eq!((letter.reason, letter.failed.len()), (reason, 3), "{end:?}");
        assert!(matches!(settlement.ack, Ack::Terminate { .. }), "{end:?}");
    }
}

#[test]
fn without_tries_an_event_pauses_uncharged_or_is_thrown_away() {
    let decide = |end: &End, record: &Record, on_exhausted, max_age| {
        let policy = Policy { on_exhausted, max_age, ..policy() };
        settle(end.clone(), record.clone(), 5, &policy, now())
    };
    for (end, max_age, reason) in [
        (retry(None), None, Reason::AttemptsExhausted),
        (End::Fault(Fault::Timeout(SECOND)), None, Reason::Timeout),
        (End::Fault(Fault::Crash("died".to_owned())), None, Reason::Crashed),
        (End::Output("too large".to_owned()), None, Reason::Output),
        (retry(None), Some(SECOND), Reason::Expired),
    ] {
        let record = failed(Outcome::Retry, if max_age.is_some() { 1 } else { 2 });
        let pauses = decide(&end, &record, OnExhausted::Pause, max_age);
        assert_eq!(pauses.exhausted, Some(Exhausted::Pauses(reason)), "{end:?}");
        assert_eq!(pauses.memory, Memory::Write(Record { seen: 5, ..record.clone() }), "{end:?}");
        assert_eq!(pauses.ack, Ack::Redeliver { after: Duration::ZERO }, "{end:?}");
        let dropped = decide(&end, &record, OnExhausted::Drop, max_age);
        assert_eq!(dropped.exhausted, Some(Exhausted::Dropped(reason)), "{end:?}");
        assert_eq!(dropped.memory, Memory::Forget, "{end:?}");
        assert!(matches!(dropped.ack, Ack::Terminate { .. }), "{end:?}");
        assert_eq!((pauses.letter, dropped.letter), (None, None), "{end:?}");
    }
}

#[test]
fn rejections_and_losses_are_dead_letters_whatever_happens_to_the_exhausted() {
    for on_exhausted in [OnExhausted::Pause, OnExhausted::Drop] {
        let policy = Policy { on_exhausted, ..policy() };
        let end = End::Reject { cause: Cause::Rejected, reason: "no".to_owned() };
        let settlement = settle(end, Record::default(), 5, &policy, now());
        assert!(settlement.letter.is_some() && settlement.exhausted.is_none());
        let lost = Record { losses: policy.losses + 1, ..Record::default() };
        assert!(matches!(admit(&lost, &policy), Admission::DeadLetter(_)));
        // Allowed fewer tries than it had, it has another one, which decides.
        assert_eq!(admit(&failed(Outcome::Retry, 7), &policy), Admission::Run);
    }
}

#[test]
fn a_rejection_needs_no_second_attempt() {
    for (cause, reason) in
        [(Cause::Rejected, Reason::Rejected), (Cause::Undecodable, Reason::Undecodable)]
    {
        let end = End::Reject { cause, reason: "no".to_owned() };
        let letter = decide(end, Record::default()).letter.expect("a letter");
        assert_eq!((letter.reason, letter.failed.len()), (reason, 1));
    }
}

#[test]
fn what_is_nobodys_fault_charges_nothing() {
    let unavailable = End::Fault(Fault::Unavailable("no such file".to_owned()));
    let settlement = decide(unavailable, failed(Outcome::Retry, 1));
    assert_eq!(settlement.ack, Ack::Redeliver { after: SECOND * 7 });
    let Memory::Write(record) = settlement.memory else { panic!("the delivery is on record") };
    assert_eq!((record.failed.len(), record.seen), (1, 5));

    let Memory::Write(record) = decide(End::Cancelled, Record::default()).memory else {
        panic!("the delivery is on record")
    };
    assert_eq!((record.failed.len(), record.seen), (0, 5));
}

#[test]
fn an_event_too_old_for_another_try_expires() {
    let policy = Policy { max_age: Some(SECOND * 900), ..policy() };
    let settlement = settle(retry(None), Record::default(), 1, &policy, now());
    assert_eq!(settlement.letter.expect("a letter").reason, Reason::Expired);
}

#[test]
fn a_function_may_name_its_delay_up_to_a_day() {
    let after = |asked| match decide(retry(Some(asked)), Record::default()).ack {
        Ack::Redeliver { after } => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(after(SECOND * 5), SECOND * 5);
    assert_eq!(after(SECOND * 1_000_000), SECOND * 86_400);
}

#[test]
fn backoff_grows_between_its_bounds() {
    let (min, max) = (SECOND, SECOND * 60);
    for (tries, top) in [(1, 2), (2, 4), (5, 32), (6, 60), (40, 60)] {
        assert_eq!(backoff(min, max, tries, 0.0), min);
        assert_eq!(backoff(min, max, tries, 1.0), SECOND * top, "after {tries}");
    }
}

#[test]
fn a_delivery_nobody_accounted_for_is_a_loss() {
    let mut record = Record::default();
    assert!(!record.account(1));
    assert!(record.account(2), "the first delivery vanished");
    assert_eq!(record.losses, 1);

    // It waited in quarantine while another event killed the runner: not its fault.
    assert!(!record.account(3));
    // It was about to run.
    record.started = Some(3);
    assert!(record.account(4));
    assert_eq!(record.losses, 2);

    let mut returned = Record { seen: 4, ..Record::default() };
    assert!(!returned.account(5), "every delivery before was seen to its end");
}

#[test]
fn suspects_run_where_they_do_no_harm() {
    let policy = policy();
    assert_eq!(admit(&failed(Outcome::Retry, 1), &policy), Admission::Run);
    assert_eq!(admit(&failed(Outcome::Crash, 1), &policy), Admission::Apart);
    assert_eq!(admit(&failed(Outcome::Timeout, 1), &policy), Admission::Apart);
    let lost = |losses| Record { losses, ..Record::default() };
    assert_eq!(admit(&lost(2), &policy), Admission::Quarantine);
    let due = OffsetDateTime::UNIX_EPOCH;
    let deferred = Record { deferred: Some(due), ..lost(3) };
    assert_eq!(admit(&deferred, &policy), Admission::Deferred(due), "it is elsewhere, whole");
    let Admission::DeadLetter(letter) = admit(&lost(3), &policy) else { panic!("one too many") };
    assert_eq!(letter.reason, Reason::Crashed);
    let Admission::DeadLetter(letter) = admit(&failed(Outcome::BadReply, 3), &policy) else {
        panic!("its attempts are used up")
    };
    assert_eq!(letter.reason, Reason::BadReply);
}

#[test]
fn an_outputs_id_depends_on_everything_that_makes_it_another_output() {
    let (here, event) = (origin(), event(Headers::new(), ""));
    let from =
        Provenance { name: "shop", binding: "pay", origin: &here, event: &event, replay: None };
    let id = message_id(from, "output 0");
    assert_eq!(id, message_id(from, "output 0"));
    assert_eq!(id.len(), 32);
    let anew = Origin { created: OffsetDateTime::UNIX_EPOCH + SECOND, ..origin() };
    for other in [
        message_id(from, "output 1"),
        message_id(Provenance { binding: "ship", ..from }, "output 0"),
        message_id(Provenance { origin: &anew, ..from }, "output 0"),
    ] {
        assert_ne!(id, other);
    }
}

#[test]
fn outputs_go_where_the_binding_lets_them() {
    let (here, event) = (origin(), event([("traceparent", "00-a-b-01")].into_iter().collect(), ""));
    let from =
        Provenance { name: "shop", binding: "pay", origin: &here, event: &event, replay: None };
    let address = |subject: Option<&str>, header: &str, publish: Option<&manifest::Publish>| {
        let output = Outgoing {
            subject: subject.map(str::to_owned),
            headers: [(header, "v")].into_iter().collect(),
            data: Bytes::new(),
        };
        outputs::address(vec![output], publish, from, OffsetDateTime::UNIX_EPOCH)
    };
    let one = manifest::Publish::One("paid".to_owned());
    let many =
        manifest::Publish::Many { first: "paid".to_owned(), others: vec!["notes.*".to_owned()] };

    let (messages, discarded) = address(None, "x", Some(&one)).expect("accepted");
    assert_eq!((messages[0].subject.as_str(), discarded), ("paid", 0));
    assert_eq!(messages[0].headers.get("traceparent"), Some("00-a-b-01"));
    assert_eq!(messages[0].headers.get("ce-type"), Some("paid"));
    assert_eq!(messages[0].headers.get("ce-source"), Some("pelton://shop/pay"));
    assert_eq!(address(None, "x", None).expect("accepted").1, 1, "nowhere to go");
    assert!(address(Some("notes.a"), "x", Some(&many)).is_ok());
    assert!(address(Some("notes.a.b"), "x", Some(&many)).is_err());
    assert!(address(Some("notes.*"), "x", Some(&many)).is_err(), "a wildcard is no destination");
    assert!(address(Some("elsewhere"), "x", Some(&one)).is_err());
    assert!(address(Some("paid"), "x", None).is_err());
    assert!(address(None, "Nats-Msg-Id", Some(&one)).is_err());
    assert!(address(None, "Nats-TTL", Some(&one)).is_ok());
    assert!(address(None, "a b", Some(&one)).is_err());
}

#[test]
fn a_letter_keeps_what_fits() {
    let headers: Headers = [("kept", "yes"), ("Nats-Expected-Stream", "no")].into_iter().collect();
    let (here, event) = (origin(), event(headers, "payload"));
    let from =
        Provenance { name: "shop", binding: "pay", origin: &here, event: &event, replay: None };
    let letter = Letter {
        reason: Reason::Rejected,
        error: "naïve\nline".to_owned(),
        failed: vec![Attempt {
            time: now().time,
            outcome: Outcome::Reject,
            error: "100 % na\u{ef}ve \u{1f600}".to_owned(),
        }],
    };
    let write = |max| {
        let time = OffsetDateTime::UNIX_EPOCH;
        letter::write(&letter, from, "dlq.shop.pay", "shop-pay", time, max)
    };
    let Written::Whole(whole) = write(1 << 20) else { panic!("there is room") };
    assert_eq!(&whole.data[..], b"payload");
    assert_eq!(whole.headers.get("kept"), Some("yes"));
    assert_eq!(whole.headers.get("nats-expected-stream"), None, "it would steer the server");
    let error = whole.headers.get("pelton-dead-letter-error").expect("an error");
    assert_eq!(error, "na%C3%AFve%0Aline");

    let history = whole.headers.get("pelton-dead-letter-history").expect("a history");
    assert!(history.is_ascii(), "{history}");
    let history: Vec<Attempt> = serde_json::from_str(history).expect("JSON");
    assert_eq!(history, letter.failed);

    let size = whole.headers.wire_len() + whole.data.len() + 64;
    let Written::Whole(bare) = write(size - 1) else { panic!("the payload fits still") };
    assert_eq!(bare.headers.get("kept"), None);
    let Written::WithoutPayload(empty) = write(64) else { panic!("nothing fits") };
    assert!(empty.data.is_empty());
    assert_eq!(empty.headers.get("pelton-dead-letter-payload"), Some("omitted"));
}

#[test]
fn cloud_events_are_understood_in_both_modes() {
    let binary =
        event([("ce-type", "caf%C3%A9%20x"), ("CE-id", "\"q\"")].into_iter().collect(), "");
    let seen = cloudevents::unpack(binary).expect("an event");
    assert_eq!(seen.headers.get("ce-type"), Some("café x"));
    assert_eq!(seen.headers.get("ce-id"), Some("q"));

    let kind = "Application/CloudEvents+json; charset=utf-8";
    let structured = |data| event([("Content-Type", kind)].into_iter().collect(), data);
    let text = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1},"n":5}"#;
    let seen = cloudevents::unpack(structured(text)).expect("an event");
    assert_eq!(&seen.data[..], br#"{"a":1}"#);
    assert_eq!(seen.headers.get("ce-n"), Some("5"));
    assert_eq!(seen.headers.get("ce-datacontenttype"), Some("application/json"));
    let text = r#"{"specversion":"1.0","datacontenttype":"text/plain","data":"hi"}"#;
    assert_eq!(&cloudevents::unpack(structured(text)).expect("an event").data[..], b"hi");
    let text = r#"{"specversion":"1.0","data_base64":"aGk="}"#;
    assert_eq!(&cloudevents::unpack(structured(text)).expect("an event").data[..], b"hi");
    for broken in ["", "{", "[]", "{}", r#"{"specversion":"1.0","data_base64":"?"}"#] {
        assert!(cloudevents::unpack(structured(broken)).is_err(), "{broken}");
    }
}
