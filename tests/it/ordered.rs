//! Order by key: lanes in one runner, one runner at a time, takeovers.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use rustix::process::Signal;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, load};

/// Answers with the key and the number of each event, and fails now and then on the first try.
const FLAKY: &str = r#"
from pelton import Retry

def handle(event, context):
    key, number = event.data["key"], event.data["n"]
    if event.attempt == 1 and number % 7 == 3:
        raise Retry("not yet", after=0.05)
    return {"key": key, "n": number}
"#;

pub(crate) fn site(bindings: &str, function: &str) -> Site {
    let site =
        Site::with(&format!("functions: {{ f: {{ run: f.py }} }}\nbindings:\n  - {bindings}\n"));
    site.file("f.py", function);
    site
}

/// Events of the key `k0` fail for as long as there is no file `open`.
pub(crate) fn with_hot_key(binding: &str) -> Site {
    let function = r#"
import os

def handle(event, context):
    if event.data["key"] == "k0" and not os.path.exists(os.environ["SITE"] + "/open"):
        raise ValueError("closed")
    return event.data
"#;
    let site = Site::with(&format!(
        "functions: {{ f: {{ run: f.py, env: {{ SITE: \"${{SITE}}\" }} }} }}\nbindings:\n  - {binding}\n"
    ));
    site.file("f.py", function);
    site
}

pub(crate) fn event(key: usize, n: usize) -> (String, String) {
    (format!("in.k{key}"), format!(r#"{{"key": "k{key}", "n": {n}}}"#))
}

/// Stores events `from..to` of every one of `keys` keys, in turn.
pub(crate) async fn send(streams: &Streams, keys: usize, from: usize, to: usize) {
    let count = (to - from) * keys;
    streams.send_many(count, |i| event(i % keys, from + i / keys)).await;
}

/// The numbers of each key's messages, in the order of their stream.
pub(crate) async fn by_key(streams: &Streams, stream: &str) -> BTreeMap<String, Vec<u64>> {
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for text in streams.texts(stream).await {
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let key = event["key"].as_str().expect("a key").to_owned();
        seen.entry(key).or_default().push(event["n"].as_u64().expect("a number"));
    }
    seen
}

/// Every key's outputs came once each and in the order of its events.
pub(crate) async fn assert_in_order(streams: &Streams) {
    assert_eq!(by_key(streams, "OUT").await, by_key(streams, "IN").await);
    assert_eq!(streams.count("T_DLQ").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_run_in_order_whatever_fails() {
    for order in ["{ json: /key }", "{ token: 2 }"] {
        let server = NatsServer::start().await;
        let streams = server.streams().await;
        let binding =
            format!("{{ subject: in.>, function: f, publish: out.f, order_by: {order} }}");
        let site = site(&binding, FLAKY);
        let mut runner = Runner::start(&site, &server).await;
        send(&streams, 8, 0, 25).await;
        streams.wait_count("OUT", 200).await;
        streams.wait_settled("t-f").await;
        assert_in_order(&streams).await;
        let scrape = runner.scrape().await;
        scrape.assert_adds_up("f");
        assert!(scrape.get("settlements_total", &[("action", "hold")]) > 0.0);
        assert!((scrape.get("settlements_total", &[("action", "nak")])).abs() < 0.5);
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// A key that fails for long holds up nothing but itself; it is a dead letter in the end, and the
/// events behind it run.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_key_holds_up_only_itself() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let binding = "{ subject: in.>, function: f, publish: out.f, order_by: { json: /key }, retry: { attempts: 3, backoff: 300ms..300ms } }";
    let function = r#"
def handle(event, context):
    if event.data["key"] == "k0" and event.data["n"] == 0:
        raise ValueError("poison")
    return event.data
"#;
    let site = site(binding, function);
    let mut runner = Runner::start(&site, &server).await;
    send(&streams, 4, 0, 10).await;
    let letters = streams.wait_letters(1).await;
    assert_eq!(letters[0].outcomes(), ["retry", "retry", "retry"]);
    streams.wait_settled("t-f").await;
    let texts = streams.texts("OUT").await;
    assert_eq!(texts.len(), 39);
    let of_poison: Vec<usize> = (0..39).filter(|i| texts[*i].contains("k0")).collect();
    assert!(of_poison[0] >= 30, "the others did not go first: {of_poison:?}");
    runner.scrape().await.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// A hot key that fails lets through the others until more of it waits than `lane_limit`.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_full_holds_up_the_others_and_a_metric_says_so() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let binding = "{ subject: in.>, function: f, publish: out.f, order_by: { json: /key }, lane_limit: 5, retry: { attempts: 100000, backoff: 50ms..50ms } }";
    let site = with_hot_key(binding);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(200, |n| event(0, n)).await;
    runner.metric("lanes_blocked", &[("binding", "f")], |blocked| blocked == 1.0).await;
    streams.send_many(20, |n| event(1, n)).await;
    site.file("open", "");
    streams.wait_count("OUT", 220).await;
    runner.metric("lanes_blocked", &[("binding", "f")], |blocked| blocked == 0.0).await;
    streams.wait_settled("t-f").await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// One runner at a time works on a binding in order. When it drains, dies or freezes, another one
/// takes over, and no key sees its events out of order.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_keeps_the_order() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let binding =
        "{ subject: in.>, function: f, publish: out.f, order_by: { header: Key }, ack_wait: 3s }";
    let function = r#"
import time

def handle(event, context):
    time.sleep(0.002)
    return event.data
"#;
    let site = site(binding, function);
    let keys = 10;
    let each = (load() / 4) / keys;
    let mut runners = vec![
        Runner::start(&site, &server).await,
        Runner::start(&site, &server).await,
        Runner::start(&site, &server).await,
    ];
    for n in 0..each {
        for key in 0..keys {
            let mut headers = HeaderMap::new();
            headers.insert("key", format!("k{key}"));
            let (subject, data) = event(key, n);
            streams.send_with(&subject, headers, data).await;
        }
    }
    let total = u64::try_from(each * keys).expect("a count");
    for (step, way) in ["drain", "kill", "freeze"].into_iter().enumerate() {
        let reached = total * (step as u64 + 1) / 5;
        streams.wait_count("OUT", reached).await;
        let owner = owner(&runners).await;
        match way {
            "drain" => assert_eq!(runners[owner].sigterm().await.code(), Some(0)),
            "kill" => runners[owner].kill9().await,
            _ => {
                runners[owner].signal(Signal::STOP);
                runners.push(Runner::start(&site, &server).await);
                let before = streams.count("OUT").await;
                streams.wait_count("OUT", (before + 5).min(total)).await;
                runners[owner].signal(Signal::CONT);
                continue;
            }
        }
        runners.remove(owner);
        runners.push(Runner::start(&site, &server).await);
    }
    streams.wait_count("OUT", total).await;
    streams.wait_settled("t-f").await;
    assert_in_order(&streams).await;
    for runner in &mut runners {
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// The runner that works on the binding.
async fn owner(runners: &[Runner]) -> usize {
    eventually("a runner works on the binding", async || {
        for (index, runner) in runners.iter().enumerate() {
            let owned = runner.try_scrape().await?.find("partitions_owned", &[("binding", "f")])?;
            if owned > 0.5 {
                return Some(index);
            }
        }
        None
    })
    .await
}
