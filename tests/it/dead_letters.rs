//! Nothing disappears: what cannot succeed is in the dead-letter stream, with all there is to say.

use std::time::Duration;

use async_nats::HeaderMap;
use percent_encoding::percent_decode_str;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::harness::{Letter, NatsServer, Runner, Site, Streams, eventually};

/// A server, and a runner with one Python function that notes its tries.
struct Bench {
    runner: Runner,
    streams: Streams,
    server: NatsServer,
    site: Site,
}

/// Starts a bench whose function `f` has this body and whose binding has these further keys.
async fn bench(binding: &str, body: &str) -> Bench {
    bench_on(NatsServer::start().await, binding, body).await
}

async fn bench_on(server: NatsServer, binding: &str, body: &str) -> Bench {
    let streams = server.streams().await;
    let site = Site::with(&format!(
        r#"
functions: {{ f: {{ run: f.py, env: {{ SITE: "${{SITE}}" }} }} }}
bindings: [{{ subject: in.f, function: f, {binding} }}]
"#
    ));
    site.file(
        "f.py",
        format!(
            "
import os
from pelton import Event, Reject, Retry

def handle(event, context):
    with open(os.environ['SITE'] + '/tries', 'a') as tries:
        print(event.attempt, file=tries)
{body}
"
        ),
    );
    let runner = Runner::start(&site, &server).await;
    Bench { runner, streams, server, site }
}

fn headers<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value);
    }
    headers
}

fn time(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).expect("RFC 3339")
}

fn error(letter: &Letter) -> String {
    percent_decode_str(letter.get("error")).decode_utf8().expect("UTF-8").into_owned()
}

/// Every header of the contract, after exactly `attempts` tries, with waits within the backoff.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_raises_is_given_up_after_its_attempts() {
    let bench = bench(
        "retry: { attempts: 4, backoff: 200ms..500ms }",
        "    raise ValueError('no luck, größer')",
    )
    .await;
    let sent = headers([("x-color", "blue".to_owned()), ("traceparent", "00-a-b-01".to_owned())]);
    bench.streams.send_with("in.f", sent, "payload \u{1f980}").await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(bench.site.lines("tries"), ["1", "2", "3", "4"]);
    assert_eq!(letter.subject, "dlq.t.f");
    assert_eq!(letter.payload, "payload \u{1f980}".as_bytes());
    assert_eq!(letter.headers.get("x-color").map(|value| value.as_str()), Some("blue"));
    assert_eq!(letter.headers.get("traceparent").map(|value| value.as_str()), Some("00-a-b-01"));
    assert_eq!(letter.get("reason"), "attempts_exhausted");
    assert!(error(&letter).contains("no luck, größer"), "{}", error(&letter));
    assert_eq!(letter.get("attempts"), "4");
    assert_eq!(letter.get("stream"), "IN");
    assert_eq!(letter.get("sequence"), "1");
    assert_eq!(letter.get("subject"), "in.f");
    assert_eq!(letter.get("consumer"), "t-f");
    assert!(time(letter.get("first-time")) <= time(letter.get("time")));
    assert_eq!(letter.outcomes(), ["retry"; 4]);
    let times: Vec<_> =
        letter.history().iter().map(|entry| time(entry["time"].as_str().unwrap())).collect();
    for pair in times.windows(2) {
        let wait = pair[1] - pair[0];
        assert!(wait >= Duration::from_millis(200), "{wait} is shorter than the backoff");
        // A busy machine adds to the wait; not as much as a backoff that ignores its maximum.
        assert!(wait < Duration::from_secs(20), "{wait} is longer than the backoff");
    }
    bench.streams.wait_settled("t-f").await;
    let scrape = bench.runner.scrape().await;
    let of = |name, label, value| scrape.get(name, &[("binding", "f"), (label, value)]);
    assert_eq!(of("invocations_total", "outcome", "retry"), 4.0);
    assert_eq!(of("settlements_total", "action", "nak"), 3.0);
    assert_eq!(of("settlements_total", "action", "term"), 1.0);
    assert_eq!(of("dead_letters_total", "reason", "attempts_exhausted"), 1.0);
    scrape.assert_adds_up("f");
}

#[tokio::test(flavor = "multi_thread")]
async fn reject_is_given_up_at_once() {
    let bench = bench("retry: { attempts: 5 }", "    raise Reject('not for us')").await;
    bench.streams.send("in.f", "x").await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    bench.streams.wait_settled("t-f").await;
    assert_eq!(bench.site.lines("tries"), ["1"]);
    assert_eq!(letter.get("reason"), "rejected");
    assert_eq!(letter.get("attempts"), "1");
    assert_eq!(error(&letter), "not for us");
    assert_eq!(letter.outcomes(), ["reject"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_json_is_undecodable() {
    let bench = bench("retry: { attempts: 5 }", "    return event.data['n']").await;
    let json = headers([("Content-Type", "application/json".to_owned())]);
    bench.streams.send_with("in.f", json, "{\"n\": ").await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(bench.site.lines("tries"), ["1"]);
    assert_eq!(letter.get("reason"), "undecodable");
    assert_eq!(letter.payload, b"{\"n\": ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_is_a_bad_reply() {
    let bench = bench(
        "publish: out.f, retry: { attempts: 2, backoff: 50ms..100ms }",
        "    return [Event('elsewhere', 1)]",
    )
    .await;
    bench.streams.send("in.f", "x").await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(letter.get("reason"), "bad_reply");
    assert!(error(&letter).contains("elsewhere"), "{}", error(&letter));
    assert_eq!(letter.outcomes(), ["bad_reply"; 2]);
    assert_eq!(bench.streams.count("OUT").await, 0);
}

/// `Retry(after)` replaces the backoff.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_say_when_to_try_again() {
    let bench = bench(
        "publish: out.f, retry: { attempts: 2, backoff: 1h..2h }",
        "    if event.attempt == 1:\n        raise Retry(after=0.2)\n    return 'ok'",
    )
    .await;
    bench.streams.send("in.f", "x").await;
    bench.streams.wait_count("OUT", 1).await;
    assert_eq!(bench.site.lines("tries"), ["1", "2"]);
}

/// An event that grows too old while it is tried is given up as `expired`.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_event_expires() {
    let bench = bench(
        "retry: { attempts: 1000, backoff: 300ms..300ms, max_age: 2s }",
        "    raise ValueError('no luck')",
    )
    .await;
    bench.streams.send("in.f", "x").await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(letter.get("reason"), "expired");
    assert_eq!(letter.get("attempts"), bench.site.lines("tries").len().to_string());
}

/// The server is small so that the largest payload is quickly made.
async fn small_bench(binding: &str, body: &str) -> Bench {
    let config = format!("max_payload: {MAX_PAYLOAD}");
    bench_on(NatsServer::with_config(&config).await, binding, body).await
}

const MAX_PAYLOAD: usize = 64 * 1024;

/// The largest event that the server takes goes through, and so does the largest output.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_payload_goes_through_and_one_byte_more_is_an_output_failure() {
    let bench = small_bench(
        "publish: out.f, retry: { attempts: 2, backoff: 50ms..100ms }",
        // A time of its own: one that the runner gives is not always equally long.
        "    data = b'x' * int(event.headers['size'])
    return Event(data=data, headers={'ce-time': '2026-01-01T00:00:00Z'})",
    )
    .await;
    let size = |size: usize| headers([("size", size.to_string())]);
    let room = MAX_PAYLOAD - wire_len(&size(1));
    bench.streams.send_with("in.f", size(1), vec![b'i'; room]).await;
    // Whatever headers an output gets, these sizes cross the limit byte by byte.
    let sizes = MAX_PAYLOAD - 600..MAX_PAYLOAD - 150;
    for output in sizes.clone() {
        bench.streams.send_with("in.f", size(output), "x").await;
    }
    bench.streams.wait_settled("t-f").await;
    let outputs: Vec<usize> = bench
        .streams
        .read("OUT")
        .await
        .iter()
        .map(|output| output.payload.len() + output.headers.as_ref().map_or(0, wire_len))
        .collect();
    let letters = bench.streams.letters().await;
    assert_eq!(outputs.len() + letters.len(), 1 + sizes.len());
    assert_eq!(outputs.iter().max(), Some(&MAX_PAYLOAD), "the largest output");
    for letter in &letters {
        assert_eq!(letter.get("reason"), "output");
        assert_eq!(letter.outcomes(), ["output"; 2]);
    }
    let over = (MAX_PAYLOAD + 1).to_string();
    assert!(letters.iter().any(|letter| error(letter).contains(&over)), "one byte more");
}

/// Headers on the wire: `NATS/1.0`, a line each, an empty line.
fn wire_len(headers: &HeaderMap) -> usize {
    let lines: usize = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value)))
        .map(|(name, value): (&str, _)| name.len() + value.as_str().len() + 4)
        .sum();
    lines + "NATS/1.0\r\n\r\n".len()
}

/// Where a letter's own headers do not fit, the event's go first.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_too_large_leaves_other_headers_behind() {
    let bench = small_bench("", "    raise Reject('too much')").await;
    let many = headers([("x-large", "h".repeat(8 * 1024))]);
    let room = MAX_PAYLOAD - wire_len(&many);
    bench.streams.send_with("in.f", many, vec![b'p'; room]).await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(letter.payload.len(), room);
    assert!(letter.headers.get("x-large").is_none());
    assert_eq!(letter.get("reason"), "rejected");
    bench.streams.wait_settled("t-f").await;
}

/// And where that is not enough, the payload stays in its stream, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_does_not_fit_stays_in_its_stream() {
    let mut bench = small_bench("ack_wait: 5s", "    raise Reject('too much')").await;
    let sequence = bench.streams.send("in.f", vec![b'p'; MAX_PAYLOAD]).await;
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(letter.payload.len(), 0);
    assert_eq!(letter.get("payload"), "omitted");
    assert_eq!(letter.get("sequence"), sequence.to_string());
    assert_eq!(letter.get("reason"), "rejected");
    let stream = bench.streams.js.get_stream("IN").await.expect("the stream");
    let original = stream.get_raw_message(sequence).await.expect("the original is there");
    assert_eq!(original.payload.len(), MAX_PAYLOAD);
    // It is neither terminated nor run again, and holds up nobody: not in the next life either.
    for _ in 0..2 {
        let before = bench.streams.count("T_DLQ").await;
        bench.streams.send("in.f", "small").await;
        bench.streams.wait_count("T_DLQ", before + 1).await;
        assert_eq!(bench.runner.sigterm().await.code(), Some(0));
        bench.runner = Runner::start(&bench.site, &bench.server).await;
    }
    eventually("only the parked event is left", async || {
        let info = bench.streams.consumer("t-f").await?;
        (info.num_pending == 0 && info.num_ack_pending == 1).then_some(())
    })
    .await;
    assert_eq!(bench.site.lines("tries").len(), 3, "three events, each tried once");
    assert_eq!(bench.streams.count("T_DLQ").await, 3);
}

/// The letter is stored before the original is terminated: while it cannot be, nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_while_its_letter_cannot_be_stored() {
    let bench = bench("ack_wait: 5s", "    raise Reject('not for us')").await;
    bench.streams.js.delete_stream("T_DLQ").await.expect("the stream is deleted");
    bench.streams.send("in.f", "x").await;
    let failed = "dead_letter_publish_errors_total";
    bench.runner.metric(failed, &[("binding", "f")], |times| times >= 1.0).await;
    let info = bench.streams.consumer("t-f").await.expect("the consumer");
    assert_eq!(info.num_pending + info.num_ack_pending as u64, 1, "the event is still there");
    let config = async_nats::jetstream::stream::Config {
        name: "T_DLQ".to_owned(),
        subjects: vec!["dlq.t.>".to_owned()],
        ..Default::default()
    };
    bench.streams.js.create_stream(config).await.expect("the stream is made again");
    let letter = bench.streams.wait_letters(1).await.remove(0);
    assert_eq!(letter.payload, b"x");
    bench.streams.wait_settled("t-f").await;
}
