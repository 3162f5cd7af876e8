//! Partitions beside the other settings of a binding, and on a work queue.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{CLOSING, ECHO, binding, start, stop, wait_settled};
use crate::{
    harness::{NatsServer, Runner, Site, Streams, eventually, printed},
    ordered::{assert_in_order, send, site},
};

const KEYS: usize = 12;

/// The sequences of each key's events, in the order in which their outputs were stored.
async fn sequences(streams: &Streams) -> BTreeMap<String, Vec<u64>> {
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for text in streams.texts("OUT").await {
        let output: Value = serde_json::from_str(&text).expect("JSON");
        let id = output["id"].as_str().and_then(|id| id.strip_prefix("IN:")).expect("an id");
        let key = output["key"].as_str().expect("a key").to_owned();
        seen.entry(key).or_default().push(id.parse().expect("a sequence"));
    }
    seen
}

/// A work queue forgets an event once it is copied: what is copied is all there is of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_is_copied_and_emptied() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(&binding("{ json: /key }", "partitions: 4"), ECHO);
    let text = std::fs::read_to_string(site.path("pelton.yaml")).expect("the manifest");
    let queue = "[\"in.>\"], retention: workqueue";
    site.file("pelton.yaml", text.replace("[\"in.>\"]", queue));
    let mut runners = start(&site, &server, 2).await;
    send(&streams, KEYS, 0, 20).await;
    streams.wait_count("OUT", 100).await;
    runners[0].kill9().await;
    runners.remove(0);
    runners.push(Runner::start(&site, &server).await);
    send(&streams, KEYS, 20, 30).await;
    streams.wait_count("OUT", 30 * KEYS as u64).await;
    wait_settled(&streams).await;
    let sequences = sequences(&streams).await;
    assert_eq!(sequences.len(), KEYS);
    for (key, sequences) in sequences {
        assert_eq!(sequences.len(), 30, "{key}");
        assert!(sequences.is_sorted_by(|a, b| a < b), "{key}: {sequences:?}");
    }
    assert_eq!((streams.count("IN").await, streams.count("T_DLQ").await), (0, 0));
    stop(&mut runners).await;
}

/// A call has events of several keys of a partition, and those of each key come in order.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_of_one_partition_and_in_order() {
    let function = r#"
import os

def handle(events, context):
    with open(os.environ["SITE"] + "/calls", "a") as calls:
        calls.write(" ".join(event.data["key"] for event in events) + "\n")
    return [{"key": event.data["key"], "n": event.data["n"]} for event in events]
"#;
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = closing(&binding("{ json: /key }", "partitions: 2, batch: { max: 6, wait: 200ms }"));
    site.file("f.py", function);
    let mut runners = start(&site, &server, 2).await;
    send(&streams, KEYS, 0, 20).await;
    streams.wait_count("OUT", 20 * KEYS as u64).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    let mut company: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for call in site.lines("calls") {
        let keys: Vec<String> = call.split(' ').map(str::to_owned).collect();
        for key in &keys {
            company.entry(key.clone()).or_default().extend(keys.iter().cloned());
        }
    }
    let sizes: Vec<usize> =
        site.lines("calls").iter().map(|call| call.split(' ').count()).collect();
    assert!(sizes.iter().any(|size| *size > 1), "no call had several events: {sizes:?}");
    // Keys that were ever together are of one partition: not all of them can have been.
    let together = reachable(&company, "k0");
    assert!(together < KEYS, "every key was with every other: {company:?}");
    stop(&mut runners).await;
}

/// How many keys are linked to one by calls that had several.
fn reachable(company: &BTreeMap<String, Vec<String>>, from: &str) -> usize {
    let mut known = vec![from.to_owned()];
    let mut next = 0;
    while let Some(key) = known.get(next).cloned() {
        next += 1;
        for other in &company[&key] {
            if !known.contains(other) {
                known.push(other.clone());
            }
        }
    }
    known.len()
}

/// The state of a key is where its partition is: each event is applied once, also when runners die.
#[tokio::test(flavor = "multi_thread")]
async fn state_is_applied_once_whoever_has_the_partition() {
    let function = r#"
import time

def handle(event, context):
    time.sleep(0.002)
    context.state = (context.state or 0) + 1
    return {"key": event.data["key"], "n": event.data["n"], "count": context.state}
"#;
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let binding = "{ subject: in.>, function: f, publish: out.f, state: { bucket: counts, key: { json: /key } }, partitions: 4, ack_wait: 3s }";
    let site = site(binding, function);
    let mut runners = start(&site, &server, 2).await;
    send(&streams, KEYS, 0, 30).await;
    for stored in [60, 180] {
        streams.wait_count("OUT", stored).await;
        runners[0].kill9().await;
        runners.remove(0);
        runners.push(Runner::start(&site, &server).await);
    }
    streams.wait_count("OUT", 30 * KEYS as u64).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for text in streams.texts("OUT").await {
        let output: Value = serde_json::from_str(&text).expect("JSON");
        let count = counts.entry(output["key"].as_str().expect("a key").to_owned()).or_default();
        *count += 1;
        assert_eq!(output["count"], *count, "{text}");
    }
    stop(&mut runners).await;
}

/// A function that fails for as long as there is a file `closed`.
fn closing(binding: &str) -> Site {
    let site = Site::with(&format!(
        "functions: {{ f: {{ run: f.py, env: {{ SITE: \"${{SITE}}\" }} }} }}\nbindings:\n  - {binding}\n"
    ));
    site.file("f.py", CLOSING);
    site
}

async fn listed(site: &Site, server: &NatsServer) -> Value {
    let text = printed(site, server, &["list", "-o", "json"]).await;
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["orphans"], Value::Array(Vec::new()), "its durables have an owner");
    report["bindings"][0].clone()
}

/// Events are listed once, whether they wait to be copied or are copied already.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_binding_copies_and_runs_nothing_and_its_lag_is_listed() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let more = "partitions: 4, retry: { attempts: 100000, backoff: 50ms..50ms }";
    let site = closing(&binding("{ json: /key }", more));
    site.file("closed", "");
    let mut runners = start(&site, &server, 2).await;
    send(&streams, KEYS, 0, 5).await;
    all_is_copied(&streams, 5 * KEYS as u64).await;
    let copied = 5 * KEYS as u64;
    eventually("what is copied is listed", async || {
        let binding = listed(&site, &server).await;
        (binding["lag"] == copied && binding["state"] == "active").then_some(())
    })
    .await;

    printed(&site, &server, &["pause", "f"]).await;
    std::fs::remove_file(site.path("closed")).expect("it was closed");
    let before = streams.count("OUT").await;
    send(&streams, KEYS, 5, 8).await;
    let binding = listed(&site, &server).await;
    assert_eq!(binding["state"], "paused", "{binding}");
    assert!(binding["pending"].as_u64() >= Some(3 * KEYS as u64), "{binding}");
    let text = printed(&site, &server, &["list"]).await;
    assert!(text.contains("paused"), "{text}");
    // What a runner had already runs to its end; nothing else begins.
    runners[0].metric("consumer_paused", &[("binding", "f")], |paused| paused == 1.0).await;
    let copies = streams.js.get_stream("T_PARTS_f").await.expect("the copies");
    assert_eq!(copies.cached_info().state.last_sequence, copied, "nothing was copied");
    assert!(streams.count("OUT").await - before <= copied);

    printed(&site, &server, &["resume", "f"]).await;
    streams.wait_count("OUT", 8 * KEYS as u64).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    assert_eq!(listed(&site, &server).await["lag"], 0);
    stop(&mut runners).await;
}

async fn all_is_copied(streams: &Streams, count: u64) {
    streams.wait_settled("t-f").await;
    streams.wait_count("T_PARTS_f", count).await;
}
