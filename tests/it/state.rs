//! State by key: every event is applied to it once.

use std::collections::BTreeMap;

use async_nats::jetstream::kv::Store;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::harness::{NatsServer, Runner, Site, Streams, load};

/// Sums up per key, and says what the sum was before; some calls fail.
const SUM: &str = "
import os

def handle(event, context):
    if event.attempt == 1 and event.data['n'] % 20 == 7:
        context.state = {'sum': -1}
        raise ValueError('not yet')
    state = context.state or {'sum': 0, 'count': 0}
    before = state['sum']
    context.state = {'sum': before + event.data['n'], 'count': state['count'] + 1}
    return {'key': event.data['key'], 'n': event.data['n'], 'before': before}
";

fn site(extra: &str, function: &str) -> Site {
    let site = Site::with(&format!(
        "functions: {{ f: {{ run: f.py }} }}\nbindings:\n  - {{ subject: in.>, function: f, publish: out.f, state: {{ bucket: sums, key: {{ json: /key }} }}, retry: {{ backoff: 20ms..50ms }}, {extra} }}\n"
    ));
    site.file("f.py", function);
    site
}

async fn bucket(streams: &Streams) -> Store {
    streams.js.get_key_value("sums").await.expect("the bucket is there")
}

async fn entry(bucket: &Store, key: &str) -> serde_json::Value {
    let value = bucket.get(key).await.expect("the bucket answers").expect("the key is there");
    serde_json::from_slice(&value).expect("JSON")
}

fn event(keys: usize) -> impl Fn(usize) -> (String, String) {
    move |i| {
        let (key, n) = (i % keys, i / keys);
        (format!("in.{key}"), format!(r#"{{"key": "key {key}", "n": {n}}}"#))
    }
}

/// Every key's events were applied once, in order: each output says what the sum was before.
async fn assert_applied_once(streams: &Streams, keys: usize, count: usize) {
    let texts = streams.texts("OUT").await;
    assert_eq!(texts.len(), count, "outputs");
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for text in texts {
        let output: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let sum = sums.entry(output["key"].as_str().expect("a key").to_owned()).or_default();
        assert_eq!(output["before"].as_i64(), Some(*sum), "{text}");
        *sum += output["n"].as_i64().expect("a number");
    }
    assert_eq!(sums.len(), keys);
    let bucket = bucket(streams).await;
    for (key, sum) in sums {
        let name = format!("_b64.{}", BASE64_URL_SAFE_NO_PAD.encode(key));
        let entry = entry(&bucket, &name).await;
        assert_eq!(entry["state"]["sum"].as_i64(), Some(sum));
        assert_eq!(entry["state"]["count"].as_u64(), Some((count / keys) as u64));
        assert!(entry["applied"]["IN"].as_u64() > Some(0), "{entry}");
        assert!(entry["outbox"].as_array().is_some_and(|outbox| outbox.len() == 1), "{entry}");
    }
    assert_eq!(streams.count("T_DLQ").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_applied_once_whatever_fails() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("", SUM);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(400, event(8)).await;
    streams.wait_count("OUT", 400).await;
    streams.wait_settled("t-f").await;
    assert_applied_once(&streams, 8, 400).await;
    runner.scrape().await.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Three runners, of which the one at work is killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_applied_once_through_kills() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("ack_wait: 2s", SUM);
    let mut runners =
        vec![Runner::start(&site, &server).await, Runner::start(&site, &server).await];
    let count = load() / 50 * 50;
    streams.send_many(count, event(50)).await;
    for kill in 1..=3 {
        streams.wait_count("OUT", u64::try_from(count * kill / 5).expect("a count")).await;
        match kill {
            2 => {
                server.kill9().await;
                server.up().await;
            }
            // All of them: whoever is at work is among them.
            _ => {
                for runner in &mut runners {
                    runner.kill9().await;
                }
                runners =
                    vec![Runner::start(&site, &server).await, Runner::start(&site, &server).await];
            }
        }
    }
    streams.wait_count("OUT", count as u64).await;
    streams.wait_settled("t-f").await;
    assert_applied_once(&streams, 50, count).await;
    for runner in &mut runners {
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// A change from outside between reading and writing runs the function again, on what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_runs_the_function_again_on_fresh_state() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let function = "
import time

def handle(event, context):
    seen = context.state
    time.sleep(0.7)
    context.state = {'seen': seen}
    return {'seen': seen}
";
    let site = Site::with(
        "functions: { f: { run: f.py } }\nbindings:\n  - { subject: in.>, function: f, publish: out.f, state: { bucket: sums, key: { token: 2 } } }\n",
    );
    site.file("f.py", function);
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.a", "").await;
    runner.metric("worker_starts_total", &[], |starts| starts >= 1.0).await;
    runner.metric("invocations_in_flight", &[], |running| running >= 1.0).await;
    let bucket = bucket(&streams).await;
    bucket.put("a", r#"{"state": "from outside"}"#.into()).await.expect("stored");
    streams.wait_count("OUT", 1).await;
    streams.wait_settled("t-f").await;
    assert_eq!(streams.texts("OUT").await, [r#"{"seen":"from outside"}"#]);
    assert_eq!(entry(&bucket, "a").await["state"]["seen"], "from outside");
    runner.scrape().await.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// What cannot be stored as state, and what has no key, are dead letters; the state stays.
#[tokio::test(flavor = "multi_thread")]
async fn state_that_cannot_be_stored_is_a_dead_letter() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let function = "
def handle(event, context):
    context.state = 'x' * (2 * 1024 * 1024) if event.data.get('large') else None
";
    let site = site("", function);
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.a", r#"{"key": "a", "large": false}"#).await;
    streams.wait_settled("t-f").await;
    streams.send("in.a", r#"{"key": "a", "large": true}"#).await;
    let letters = streams.wait_letters(1).await;
    assert_eq!(letters[0].get("reason"), "state");
    streams.send("in.a", r#"{"large": false}"#).await;
    let letters = streams.wait_letters(2).await;
    assert_eq!(letters[1].get("reason"), "undecodable");
    bucket(&streams).await.put("b", "junk".into()).await.expect("stored");
    streams.send("in.a", r#"{"key": "b", "large": false}"#).await;
    let letters = streams.wait_letters(3).await;
    assert_eq!(letters[2].get("reason"), "state");
    let kept = entry(&bucket(&streams).await, "a").await;
    assert_eq!((&kept["state"], &kept["applied"]["IN"]), (&serde_json::Value::Null, &1.into()));
    runner.scrape().await.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}
