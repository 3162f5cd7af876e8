//! What becomes of events whose tries are used up: `on_exhausted: drop` and `pause`.

use std::collections::BTreeMap;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, printed};

/// Fails for number 4 while the file `poison` is there.
const FUNCTION: &str = r#"
import os
from pelton import Reject

def handle(event, context):
    n = event.data["n"]
    if os.path.exists(os.environ["SITE"] + "/poison") and n == 4:
        raise ValueError("the bank is closed")
    if n == 900:
        raise Reject("never")
    return event.data | {"try": event.attempt}
"#;

/// The same, of lists of events: a call fails as a whole.
const BATCH: &str = r#"
import os

def handle(events, context):
    if os.path.exists(os.environ["SITE"] + "/poison") and any(e.data["n"] == 4 for e in events):
        raise ValueError("the bank is closed")
    return [e.data | {"try": e.attempt} for e in events]
"#;

fn site(binding: &str, function: &str) -> Site {
    let site = Site::with(&format!(
        r#"
functions: {{ f: {{ run: f.py, env: {{ SITE: "${{SITE}}" }} }} }}
bindings:
  - {{ subject: in.>, function: f, publish: out.f, {binding} }}
"#
    ));
    site.file("f.py", function);
    site.file("poison", "");
    site
}

fn event(n: usize) -> (String, String) {
    (format!("in.k{}", n % 3), format!(r#"{{"n": {n}, "key": "k{}"}}"#, n % 3))
}

async fn wait_paused(streams: &Streams) {
    eventually("the consumer is paused", async || {
        streams.consumer("t-f").await?.paused.then_some(())
    })
    .await;
}

/// The numbers of each key in the order in which they were stored, and the try of number 4.
async fn outputs(streams: &Streams) -> (BTreeMap<String, Vec<u64>>, Option<u64>) {
    let (mut keys, mut fourth) = (BTreeMap::<String, Vec<u64>>::new(), None);
    for text in streams.texts("OUT").await {
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let n = value["n"].as_u64().expect("a number");
        keys.entry(value["key"].as_str().expect("a key").to_owned()).or_default().push(n);
        if n == 4 {
            fourth = value["try"].as_u64();
        }
    }
    (keys, fourth)
}

/// Every number below `count` is there once; the order is that of the numbers if it must be.
fn assert_once(mut keys: BTreeMap<String, Vec<u64>>, count: u64, in_order: bool) {
    for (key, numbers) in &mut keys {
        if !in_order {
            numbers.sort_unstable();
        }
        let first = key[1..].parse::<u64>().expect("a number");
        let expected: Vec<u64> = (0..count).filter(|n| n % 3 == first).collect();
        assert_eq!(*numbers, expected, "{key}");
    }
}

/// What runs out of tries is thrown away and counted; a rejection is a dead letter all the same.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_events_are_counted_and_rejected_ones_are_dead_letters() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(
        "timeout: 500ms, retry: { attempts: 2, backoff: 1ms..1ms, on_exhausted: drop }",
        r#"
import os, time
from pelton import Reject

def handle(event, context):
    match event.data["n"]:
        case 1: raise ValueError("no")
        case 2: raise Reject("never")
        case 3: os._exit(1)
        case 4: time.sleep(60)
    return event.data
"#,
    );
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(9, event).await;
    let dropped = |reason: &'static str| [("binding", "f"), ("reason", reason)];
    for reason in ["attempts_exhausted", "crashed", "timeout"] {
        runner.metric("dropped_events_total", &dropped(reason), |count| count == 1.0).await;
    }
    streams.wait_settled("t-f").await;
    assert_eq!(streams.count("OUT").await, 5);
    let letters = streams.wait_letters(1).await;
    assert_eq!(letters[0].get("reason"), "rejected");
    assert_eq!(streams.count("KV_T_ATTEMPTS").await, 0, "nothing is remembered of what is gone");
    let scrape = runner.scrape().await;
    assert_eq!(scrape.get("settlements_total", &[("action", "term")]), 4.0);
    assert_eq!(scrape.get("dead_letters_total", &[]), 1.0);
    scrape.assert_adds_up("f");
    assert!(runner.log().contains("thrown away"), "{}", runner.log());
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// The binding stops on all runners and says why; resumed, it has the event again, whose last try
/// was not charged.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_tries_pauses_its_binding_on_all_runners() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("retry: { attempts: 2, backoff: 1ms..1ms, on_exhausted: pause }", FUNCTION);
    let mut runners = [Runner::start(&site, &server).await, Runner::start(&site, &server).await];
    streams.send_many(4, event).await;
    streams.wait_count("OUT", 4).await;
    streams.send("in.k1", event(4).1).await;
    wait_paused(&streams).await;
    for runner in &runners {
        eventually("the runner says so", async || {
            let (status, body) = runner.get("/readyz").await?;
            assert_eq!(status, 200, "{body}");
            let told = body.contains("\"state\":\"paused\"")
                && body.contains("used up its tries: ValueError: the bank is closed");
            told.then_some(())
        })
        .await;
        runner.metric("consumer_paused", &[("binding", "f")], |paused| paused == 1.0).await;
    }
    let mut pauses = 0.0;
    for runner in &runners {
        pauses += runner.scrape().await.get("pauses_total", &[("binding", "f")]);
    }
    assert_eq!(pauses, 1.0);
    let listed = printed(&site, &server, &["list"]).await;
    assert!(listed.contains("paused") && listed.contains("the bank is closed"), "{listed}");

    // The consumer's numbers show that nobody gets these.
    for n in 5..8 {
        streams.send(&event(n).0, event(n).1).await;
    }
    let info = streams.consumer("t-f").await.expect("the consumer");
    assert_eq!((info.num_pending, info.num_ack_pending), (3, 1));
    assert_eq!(streams.letters().await.len(), 0);

    std::fs::remove_file(site.path("poison")).expect("it was broken");
    printed(&site, &server, &["resume", "f"]).await;
    streams.wait_count("OUT", 8).await;
    streams.wait_settled("t-f").await;
    let (keys, fourth) = outputs(&streams).await;
    assert_once(keys, 8, false);
    assert_eq!(fourth, Some(2), "the second try was not charged");
    for runner in &runners {
        runner.scrape().await.assert_adds_up("f");
        assert_eq!(runner.scrape().await.get("losses_total", &[]), 0.0);
    }
    streams.send("in.k0", r#"{"n": 900}"#).await;
    assert_eq!(streams.wait_letters(1).await[0].get("reason"), "rejected");
    for runner in &mut runners {
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// Neither the events of its key behind the one that paused nor those of other keys pass it by.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_keeps_the_order_of_keys() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let retry = "retry: { attempts: 2, backoff: 1ms..1ms, on_exhausted: pause }";
    let site = site(&format!("order_by: {{ token: 2 }}, ack_wait: 2s, {retry}"), FUNCTION);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(30, event).await;
    wait_paused(&streams).await;
    runner.metric("invocations_in_flight", &[("binding", "f")], |held| held == 0.0).await;
    let (keys, _) = outputs(&streams).await;
    assert_eq!(keys["k1"], [1], "the key of the event that failed goes on behind it");
    std::fs::remove_file(site.path("poison")).expect("it was broken");
    printed(&site, &server, &["resume", "f"]).await;
    streams.wait_count("OUT", 30).await;
    streams.wait_settled("t-f").await;
    let (keys, fourth) = outputs(&streams).await;
    assert_once(keys, 30, true);
    assert_eq!(fourth, Some(2));
    let scrape = runner.scrape().await;
    assert_eq!(scrape.get("losses_total", &[]), 0.0);
    scrape.assert_adds_up("f");
    assert_eq!(streams.letters().await.len(), 0);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// The event of a batch that failed alone pauses; the others are done or come after the pause.
#[tokio::test(flavor = "multi_thread")]
async fn one_event_of_a_batch_pauses_and_none_is_lost() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let retry = "retry: { attempts: 1, on_exhausted: pause }";
    let batch = format!("batch: {{ max: 10, wait: 50ms }}, concurrency: 2, {retry}");
    let site = site(&batch, BATCH);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(60, event).await;
    wait_paused(&streams).await;
    runner.metric("invocations_in_flight", &[("binding", "f")], |held| held == 0.0).await;
    std::fs::remove_file(site.path("poison")).expect("it was broken");
    printed(&site, &server, &["resume", "f"]).await;
    streams.wait_count("OUT", 60).await;
    streams.wait_settled("t-f").await;
    let (keys, fourth) = outputs(&streams).await;
    assert_once(keys, 60, false);
    assert_eq!(fourth, Some(1));
    assert_eq!(streams.letters().await.len(), 0);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// A pause outlives runner and server, and what waits behind it as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_runner_and_the_server() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let retry = "retry: { attempts: 2, backoff: 1ms..1ms, on_exhausted: pause }";
    let site = site(&format!("ack_wait: 1s, {retry}"), FUNCTION);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(6, event).await;
    wait_paused(&streams).await;
    runner.kill9().await;
    server.kill9().await;
    server.up().await;
    let mut runner = Runner::start(&site, &server).await;
    eventually("the next runner knows why", async || {
        let (_, body) = runner.get("/readyz").await?;
        body.contains("used up its tries: ValueError: the bank is closed").then_some(())
    })
    .await;
    std::fs::remove_file(site.path("poison")).expect("it was broken");
    printed(&site, &server, &["resume", "f"]).await;
    streams.wait_count("OUT", 6).await;
    streams.wait_settled("t-f").await;
    assert_once(outputs(&streams).await.0, 6, false);
    assert_eq!(streams.letters().await.len(), 0);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}
