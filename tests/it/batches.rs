//! Several events in one call.

use std::{collections::BTreeMap, process::Stdio};

use crate::harness::{NatsServer, Runner, Site, eventually, free_port, load};

fn site(extra: &str, function: &str) -> Site {
    let site = Site::with(&format!(
        "functions: {{ f: {{ run: f.py }} }}\nbindings:\n  - {{ subject: in.>, function: f, publish: out.f, {extra} }}\n"
    ));
    site.file("f.py", function);
    site
}

fn event(n: usize) -> (String, String) {
    (format!("in.k{}", n % 5), format!(r#"{{"n": {n}, "key": "k{}"}}"#, n % 5))
}

/// The numbers in a stream, and how often each is there.
async fn numbers(streams: &crate::harness::Streams, stream: &str) -> BTreeMap<u64, usize> {
    let mut numbers = BTreeMap::new();
    for text in streams.texts(stream).await {
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        *numbers.entry(value["n"].as_u64().expect("a number")).or_default() += 1;
    }
    numbers
}

const ECHO: &str = "
def handle(events, context):
    return [{**event.data, 'of': len(events)} for event in events]
";

/// A call gets several events and answers for each; a full batch does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_gets_several_events_and_answers_for_each() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("batch: { max: 50, wait: 20s }, concurrency: 2", ECHO);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(500, event).await;
    streams.wait_count("OUT", 500).await;
    streams.wait_settled("t-f").await;
    assert!(numbers(&streams, "OUT").await.values().all(|count| *count == 1));
    for text in streams.texts("OUT").await {
        assert!(text.contains("\"of\":50"), "{text}");
    }
    let scrape = runner.scrape().await;
    scrape.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// A batch closes once its first event has waited, and a drain does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_closes_by_time_by_bytes_and_by_a_drain() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("batch: { max: 50, bytes: 100, wait: 100ms }", ECHO);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(3, event).await;
    streams.wait_count("OUT", 3).await;
    streams.send("in.k0", format!(r#"{{"n": 3, "pad": "{}"}}"#, "x".repeat(200))).await;
    streams.send("in.k0", r#"{"n": 4}"#).await;
    streams.wait_count("OUT", 5).await;
    let texts = streams.texts("OUT").await;
    assert!(texts[3].contains("\"of\":1") && texts[4].contains("\"of\":1"), "{texts:#?}");
    assert_eq!(runner.sigterm().await.code(), Some(0));

    site.manifest("functions: { f: { run: f.py } }\nbindings:\n  - { subject: in.>, function: f, publish: out.f, batch: { wait: 5m } }\n");
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(3, event).await;
    runner.metric("events_received_total", &[], |received| received >= 3.0).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    assert_eq!(streams.count("OUT").await, 8);
}

/// Verdicts are those of single events, and an event without one is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_batch_is_settled_by_its_own_verdict() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let function = "
from pelton import Reject, Retry

def handle(events, context):
    def one(event):
        n = event.data['n']
        if n % 10 == 1:
            return Reject('ends in 1')
        if n % 10 == 2 and event.attempt < 3:
            return Retry('ends in 2', after=0.05)
        return {'n': n, 'attempt': event.attempt}
    return {event.id: one(event) for event in events}
";
    let site = site("batch: { max: 20 }", function);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(100, event).await;
    let letters = streams.wait_letters(10).await;
    assert!(letters.iter().all(|letter| letter.get("reason") == "rejected"));
    streams.wait_count("OUT", 90).await;
    streams.wait_settled("t-f").await;
    let again = streams.texts("OUT").await.iter().filter(|t| t.contains("\"attempt\":3")).count();
    assert_eq!(again, 10);
    runner.scrape().await.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// What fails as a whole is halved until the one that did it stands alone: it alone is charged.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_is_found_in_its_batch_and_nobody_else_is_charged() {
    for (poison, reason) in [
        ("raise ValueError('poison')", "attempts_exhausted"),
        ("os._exit(3)", "crashed"),
        ("return None if len(events) > 1 else 1/0", "attempts_exhausted"),
        ("time.sleep(60)", "timeout"),
    ] {
        for order in ["", "order_by: { json: /key }, "] {
            let server = NatsServer::start().await;
            let streams = server.streams().await;
            let function = format!(
                "
import os, time

def handle(events, context):
    for event in events:
        if event.data['n'] == 13:
            {poison}
    return [{{'n': event.data['n'], 'attempt': event.attempt}} for event in events]
"
            );
            let extra = format!(
                "{order}batch: {{ max: 32 }}, timeout: 1s, retry: {{ attempts: 2, backoff: 50ms..50ms }}"
            );
            let site = site(&extra, &function);
            streams_first(&server, &site).await;
            streams.send_many(60, event).await;
            let mut runner = Runner::start(&site, &server).await;
            let letters = streams.wait_letters(1).await;
            assert_eq!(letters[0].get("reason"), reason, "{poison} {order}");
            assert_eq!(letters[0].get("attempts"), "2", "{poison} {order}");
            streams.wait_count("OUT", 59).await;
            streams.wait_settled("t-f").await;
            let texts = streams.texts("OUT").await;
            assert_eq!(texts.len(), 59);
            assert!(texts.iter().all(|text| text.contains("\"attempt\":1")), "{texts:#?}");
            runner.scrape().await.assert_adds_up("f");
            assert_eq!(runner.sigterm().await.code(), Some(0));
        }
    }
}

/// Makes the streams, so that events can wait before the first runner starts.
async fn streams_first(server: &NatsServer, site: &Site) {
    let mut runner = Runner::start(site, server).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Five kills under load: every output once, in batches too.
#[tokio::test(flavor = "multi_thread")]
async fn batches_through_kills_store_each_output_once() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let extra = "batch: { max: 50, wait: 20ms }, concurrency: 4, ack_wait: 2s";
    let site = site(extra, ECHO);
    let count = load();
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(count, event).await;
    for kill in 1..=3 {
        streams.wait_count("OUT", u64::try_from(count * kill / 5).expect("a count")).await;
        runner.kill9().await;
        runner = Runner::start(&site, &server).await;
    }
    streams.wait_count("OUT", count as u64).await;
    streams.wait_settled("t-f").await;
    let numbers = numbers(&streams, "OUT").await;
    assert_eq!(numbers.len(), count);
    assert!(numbers.values().all(|count| *count == 1));
    assert_eq!(streams.count("T_DLQ").await, 0);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Answers a batch by a list or by an object, and refuses as a whole what has 55 in it.
const SERVICE: &str = r#"
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_POST(self):
        assert self.headers["content-type"].startswith("application/cloudevents-batch+json")
        events = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, said = self.answer(events)
        body = json.dumps(said).encode() if said is not None else b""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, events):
        numbers = [event["data"]["n"] for event in events]
        if 55 in numbers:
            return 400, "not with 55"
        if max(numbers) >= 100:
            return 204, None
        items = [self.one(event, len(events)) for event in events]
        if len(events) % 2:
            return 200, items
        return 200, {event["peltoneventid"]: item for event, item in zip(events, items)}

    def one(self, event, of):
        n = event["data"]["n"]
        assert event["id"] == event["peltoneventid"] and event["type"] == event["peltonsubject"]
        if n % 10 == 3:
            return {"reject": "ends in 3"}
        if n % 10 == 4 and event["peltonattempt"] == "1":
            return {"retry": "ends in 4", "after": 0.05}
        if n % 10 == 5:
            event = {"specversion": "1.0", "id": "x", "source": "s", "type": "t"}
            return {"done": [{**event, "data": {"n": n, "of": of}}]}
        return {"done": [{"n": n, "of": of}]}

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Behind a URL, a batch is one request, and its answer has a verdict for each event.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_request_to_a_url() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let port = free_port();
    let site = Site::with(&format!(
        "functions: {{ f: {{ http: \"http://127.0.0.1:{port}/\" }} }}\nbindings:\n  - {{ subject: in.>, function: f, publish: out.f, batch: {{ max: 20, wait: 200ms }}, retry: {{ attempts: 2, backoff: 10ms..10ms }} }}\n"
    ));
    site.file("service.py", SERVICE);
    let mut service = tokio::process::Command::new("python3")
        .arg(site.path("service.py"))
        .arg(port.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("Python starts");
    eventually("the service listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(100, event).await;
    let letters = streams.wait_letters(11).await;
    assert!(letters.iter().all(|letter| letter.get("reason") == "rejected"), "{letters:#?}");
    let whole = letters.iter().filter(|letter| letter.get("error").starts_with("400")).count();
    assert_eq!(whole, 1, "it alone is rejected by what was said of its batch");
    streams.wait_count("OUT", 89).await;
    streams.wait_settled("t-f").await;
    let outputs = numbers(&streams, "OUT").await;
    assert_eq!((outputs.len(), outputs.values().max()), (89, Some(&1)), "{outputs:?}");
    let texts = streams.texts("OUT").await;
    assert!(texts.iter().any(|text| text.contains("20")), "{texts:#?}");

    // Nothing said: all is done.
    streams.send_many(10, |n| event(100 + n)).await;
    let done = [("binding", "f"), ("action", "ack")];
    runner.metric("settlements_total", &done, |n| n >= 99.0).await;
    assert_eq!((streams.count("OUT").await, streams.count("T_DLQ").await), (89, 11));
    runner.scrape().await.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
    service.kill().await.expect("it is ended");
}
