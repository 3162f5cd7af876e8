//! At least once, and effectively once downstream.

use std::collections::BTreeMap;

use async_nats::jetstream::stream;
use futures_util::future::join_all;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, load};

/// One function per runtime that needs no platform; each event goes to one of them.
const FOUR: &str = r#"
functions:
  python:  { run: echo.py }
  node:    { run: echo.mjs }
  exec:    { exec: ["cat"] }
  command: { command: ["python3", "worker.py"] }
bindings:
  - { subject: in.python.*,  function: python,  publish: out.python,  ack_wait: 5s }
  - { subject: in.node.*,    function: node,    publish: out.node,    ack_wait: 5s }
  - { subject: in.exec.*,    function: exec,    publish: out.exec,    ack_wait: 5s, concurrency: 4 }
  - { subject: in.command.*, function: command, publish: out.command, ack_wait: 5s }
"#;

const FUNCTIONS: [&str; 4] = ["python", "node", "exec", "command"];

fn four() -> Site {
    let site = Site::with(FOUR);
    site.file("echo.py", "def handle(event, context):\n    return event.raw\n");
    site.file("echo.mjs", "export const handle = async (event) => event.raw;\n");
    site.file("worker.py", include_str!("worker.py"));
    site
}

/// A runner that is killed five times while it works loses nothing and stores nothing twice, and
/// in each of its lives its counters add up.
#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_through_five_kills() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = four();
    let count = load();
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(count, |n| (format!("in.{}.{n}", FUNCTIONS[n % 4]), n.to_string())).await;
    for kill in 1..=5 {
        let enough = u64::try_from(count * kill / 6).expect("a count");
        work_until(&runner, async || streams.count("OUT").await >= enough).await;
        runner.kill9().await;
        runner = Runner::start(&site, &server).await;
    }
    let all = u64::try_from(count).expect("a count");
    work_until(&runner, async || streams.count("OUT").await >= all).await;
    join_all(FUNCTIONS.map(|f| format!("t-{f}")).iter().map(|f| streams.wait_settled(f))).await;
    assert_once(&streams, count).await;
    assert_eq!(streams.count("T_DLQ").await, 0, "nothing was given up");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Looks at a runner's counters until `done`.
async fn work_until(runner: &Runner, mut done: impl AsyncFnMut() -> bool) {
    eventually("enough outputs", async || {
        let scrape = runner.try_scrape().await?;
        for binding in FUNCTIONS {
            scrape.assert_adds_up(binding);
            let of = |name| scrape.get(name, &[("binding", binding)]);
            assert!(of("invocations_in_flight") <= of("slots"), "{binding} holds too many");
        }
        done().await.then_some(())
    })
    .await;
}

/// The outputs are the numbers below `count`, each once, on the subject of its function.
async fn assert_once(streams: &Streams, count: usize) {
    let mut times: BTreeMap<(String, usize), u32> = BTreeMap::new();
    for message in streams.read("OUT").await {
        let text = String::from_utf8_lossy(&message.payload);
        let n = text.parse().expect("an output is the number that went in");
        *times.entry((message.subject.to_string(), n)).or_default() += 1;
    }
    for n in 0..count {
        let key = (format!("out.{}", FUNCTIONS[n % 4]), n);
        let stored = times.remove(&key);
        assert_eq!(stored, Some(1), "how often {key:?} was stored");
    }
    assert!(times.is_empty(), "outputs of no input: {times:?}");
}

/// The lease is extended for as long as the function runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_longer_than_ack_wait_gets_its_event_once() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r#"
functions: { slow: { run: slow.py, env: { SITE: "${SITE}" } } }
bindings: [{ subject: in.slow, function: slow, publish: out.slow, ack_wait: 3s, timeout: 1m }]
"#,
    );
    site.file(
        "slow.py",
        "
import os, time

def handle(event, context):
    with open(os.environ['SITE'] + '/tries', 'a') as tries:
        print(event.attempt, file=tries)
    time.sleep(10)
    return 'slow'
",
    );
    let runner = Runner::start(&site, &server).await;
    streams.send("in.slow", "x").await;
    streams.wait_count("OUT", 1).await;
    streams.wait_settled("t-slow").await;
    assert_eq!(site.lines("tries"), ["1"]);
    let scrape = runner.scrape().await;
    let labels = &[("binding", "slow")];
    assert_eq!(scrape.get("redeliveries_total", labels), 0.0);
    assert!(scrape.get("lease_extensions_total", labels) >= 1.0);
}

/// One slow function never starves another of the same runner.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_function_does_not_hold_up_another() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r#"
functions:
  stuck: { run: stuck.py }
  quick: { run: quick.py }
bindings:
  - { subject: "in.>", function: stuck, timeout: 5m, concurrency: 2 }
  - { subject: "in.>", function: quick, publish: out.quick }
drain: 1s
"#,
    );
    site.file("stuck.py", "import time\n\ndef handle(event, context):\n    time.sleep(300)\n");
    site.file("quick.py", "def handle(event, context):\n    return event.raw\n");
    let runner = Runner::start(&site, &server).await;
    streams.send_many(200, |n| ("in.x".to_owned(), n.to_string())).await;
    streams.wait_count("OUT", 200).await;
    let scrape = runner.scrape().await;
    let in_flight = scrape.get("invocations_in_flight", &[("binding", "stuck")]);
    assert!(in_flight <= 2.0, "{in_flight} events in two slots");
}

/// What a function says travels as CloudEvents say: type, source, trace, content type.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_cloud_events_that_carry_the_trace_on() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r#"
functions: { f: { run: f.py } }
bindings: [{ subject: in.f, function: f, publish: out.f }]
"#,
    );
    site.file("f.py", "def handle(event, context):\n    return {'seen': event.data['n']}\n");
    let _runner = Runner::start(&site, &server).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", trace);
    headers.insert("Nats-Expected-Stream", "IN");
    streams.send_with("in.f", headers, r#"{"n": 7}"#).await;
    streams.wait_count("OUT", 1).await;
    let output = streams.read("OUT").await.remove(0);
    let headers = output.headers.expect("headers");
    let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let data: serde_json::Value = serde_json::from_slice(&output.payload).expect("JSON");
    assert_eq!(data, serde_json::json!({ "seen": 7 }));
    assert_eq!(header("ce-specversion").as_deref(), Some("1.0"));
    assert_eq!(header("ce-datacontenttype").as_deref(), Some("application/json"));
    let trace_id = &trace[..35];
    assert!(header("traceparent").is_some_and(|out| out.starts_with(trace_id)), "{headers:?}");
    for name in ["ce-id", "ce-source", "ce-type", "ce-time", "Nats-Msg-Id"] {
        assert!(header(name).is_some(), "no {name} in {headers:?}");
    }
    assert_eq!(header("Nats-Expected-Stream"), None);
}

/// An event is acknowledged once its outputs are stored, not before: while they cannot be, it is
/// still there for whoever comes after this runner.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_acknowledged_after_its_outputs_are_stored() {
    acknowledged_after_outputs(async |runner| runner.kill9().await).await;
}

/// Nor does a drain wait for such outputs for ever, or give their event up.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_leaves_what_cannot_be_stored_to_the_next_life() {
    acknowledged_after_outputs(async |runner| {
        assert_eq!(runner.sigterm().await.code(), Some(0));
    })
    .await;
}

async fn acknowledged_after_outputs(end: impl AsyncFnOnce(&mut Runner)) {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let narrow = stream::Config {
        name: "OUT".to_owned(),
        subjects: vec!["out.>".to_owned()],
        max_messages: 1,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    let out = streams.js.create_stream(narrow).await.expect("a stream with room for one");
    let site = Site::with(
        r#"
functions: { f: { run: f.py } }
bindings: [{ subject: in.f, function: f, publish: out.f, ack_wait: 5s }]
drain: 4s
"#,
    );
    site.file("f.py", "def handle(event, context):\n    return event.raw\n");
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.f", "first").await;
    streams.wait_settled("t-f").await;
    streams.send("in.f", "second").await;
    let done = [("binding", "f"), ("outcome", "done")];
    runner.metric("invocations_total", &done, |done| done == 2.0).await;
    eventually("the output is tried again", async || {
        runner.log().contains("publish failed").then_some(())
    })
    .await;
    let info = streams.consumer("t-f").await.expect("the consumer");
    assert_eq!(info.num_ack_pending, 1, "the event is not acknowledged");
    end(&mut runner).await;
    out.purge().await.expect("room is made");
    let runner = Runner::start(&site, &server).await;
    streams.wait_settled("t-f").await;
    assert_eq!(streams.texts("OUT").await, ["second"]);
    runner.scrape().await.assert_adds_up("f");
}

/// An event that comes again publishes again, under the ids that its stream knows.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_published_again_is_counted_and_stored_once() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = four();
    let mut runner = Runner::start(&site, &server).await;
    for n in 0..10 {
        streams.send(&format!("in.python.{n}"), n.to_string()).await;
    }
    streams.wait_count("OUT", 10).await;
    let count = |outcome| [("binding", "python"), ("outcome", outcome)];
    runner.metric("published_events_total", &count("stored"), |stored| stored == 10.0).await;
    assert_eq!(runner.scrape().await.get("published_events_total", &count("duplicate")), 0.0);
    assert_eq!(runner.sigterm().await.code(), Some(0));

    let stream = streams.js.get_stream("IN").await.expect("the stream");
    stream.delete_consumer("t-python").await.expect("the durable is forgotten");
    let runner = Runner::start(&site, &server).await;
    runner.metric("published_events_total", &count("duplicate"), |again| again == 10.0).await;
    assert_eq!(runner.scrape().await.get("published_events_total", &count("stored")), 0.0);
    assert_eq!(streams.count("OUT").await, 10);
}
