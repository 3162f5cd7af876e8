//! The keys of one binding spread over several runners.

use std::collections::BTreeSet;

use async_nats::{HeaderMap, jetstream::consumer};
use futures_util::TryStreamExt;
use rustix::process::Signal;

use crate::{
    harness::{NatsServer, Runner, Site, Streams, eventually, load},
    ordered::{assert_in_order, by_key, event, send, site, with_hot_key},
};

mod beside;

/// Answers with the event and who it is, slowly enough for others to get in between.
const ECHO: &str = r#"
import time

def handle(event, context):
    time.sleep(0.002)
    return {"key": event.data["key"], "n": event.data["n"], "id": event.id, "subject": event.subject}
"#;

fn binding(order: &str, more: &str) -> String {
    format!(
        "{{ subject: in.>, function: f, publish: out.f, order_by: {order}, ack_wait: 3s, {more} }}"
    )
}

/// Waits until nothing is left to copy and nothing in any partition.
async fn wait_settled(streams: &Streams) {
    streams.wait_settled("t-f").await;
    eventually("nothing waits in any partition", async || {
        let parts = streams.js.get_stream("T_PARTS_f").await.ok()?;
        let all: Vec<consumer::Info> = parts.consumers().try_collect().await.ok()?;
        let idle = |info: &consumer::Info| info.num_pending == 0 && info.num_ack_pending == 0;
        all.iter().all(idle).then_some(())
    })
    .await;
}

async fn owned(runner: &Runner) -> Option<usize> {
    let owned = runner.try_scrape().await?.find("partitions_owned", &[("binding", "f")])?;
    Some(owned.round() as usize)
}

/// Waits until the runners have as many partitions as this, in any order.
async fn wait_owned(runners: &[Runner], expected: &[usize]) {
    let what = format!("the runners have {expected:?} partitions");
    eventually(&what, async || {
        let mut all = Vec::new();
        for runner in runners {
            all.push(owned(runner).await?);
        }
        all.sort_unstable();
        (all == expected).then_some(())
    })
    .await;
}

async fn start(site: &Site, server: &NatsServer, count: usize) -> Vec<Runner> {
    let mut runners = Vec::new();
    for _ in 0..count {
        runners.push(Runner::start(site, server).await);
    }
    runners
}

async fn stop(runners: &mut [Runner]) {
    for runner in runners {
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// Every output names the event that it came from, as it is in its own stream.
async fn assert_named(streams: &Streams) {
    let events = streams.texts("IN").await;
    let mut ids = BTreeSet::new();
    for text in streams.texts("OUT").await {
        let output: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let id = output["id"].as_str().expect("an id");
        let sequence: usize = id.strip_prefix("IN:").expect(id).parse().expect("a number");
        let event: serde_json::Value = serde_json::from_str(&events[sequence - 1]).expect("JSON");
        assert_eq!((&event["key"], &event["n"]), (&output["key"], &output["n"]), "{id}");
        assert_eq!(output["subject"], format!("in.{}", event["key"].as_str().expect("a key")));
        assert!(ids.insert(id.to_owned()), "{id} twice");
    }
    assert_eq!(ids.len(), events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_runners_share_the_keys_of_a_binding_in_order() {
    for order in ["{ json: /key }", "{ header: Key }", "{ token: 2 }"] {
        let server = NatsServer::start().await;
        let streams = server.streams().await;
        let site = site(&binding(order, "partitions: 8"), ECHO);
        let mut runners = start(&site, &server, 3).await;
        wait_owned(&runners, &[2, 3, 3]).await;
        for n in 0..20 {
            for key in 0..20 {
                let mut headers = HeaderMap::new();
                headers.insert("key", format!("k{key}"));
                headers.insert("Nats-Msg-Id", format!("{key}:{n}"));
                let (subject, data) = event(key, n);
                streams.send_with(&subject, headers, data).await;
            }
        }
        streams.wait_count("OUT", 400).await;
        wait_settled(&streams).await;
        assert_in_order(&streams).await;
        assert_named(&streams).await;
        for runner in &runners {
            let scrape = runner.scrape().await;
            scrape.assert_adds_up("f");
            let done = scrape.get("settlements_total", &[("action", "ack")]);
            assert!(done > 0.0, "a runner had nothing to do");
        }
        // Copies go once they were worked on, but for the one that says how far.
        eventually("the copies are gone", async || {
            (streams.count("T_PARTS_f").await == 1).then_some(())
        })
        .await;
        stop(&mut runners).await;
    }
}

/// Runners that drain, die and freeze, and a server that is killed: no key sees its events out of
/// order, none is lost and none is stored twice.
#[tokio::test(flavor = "multi_thread")]
async fn takeovers_keep_the_order_of_every_key() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(&binding("{ json: /key }", "partitions: 8, concurrency: 4"), ECHO);
    let mut runners = start(&site, &server, 3).await;
    let keys = 20;
    let each = load() / keys;
    let total = (each * keys) as u64;
    let (first, second) = (each / 2, each);
    send(&streams, keys, 0, first).await;
    for (step, way) in ["drain", "kill", "freeze", "server"].into_iter().enumerate() {
        streams.wait_count("OUT", total * (step as u64 + 1) / 6).await;
        if step == 1 {
            send(&streams, keys, first, second).await;
        }
        match way {
            "drain" => assert_eq!(runners[0].sigterm().await.code(), Some(0)),
            "kill" => runners[0].kill9().await,
            "freeze" => {
                runners[0].signal(Signal::STOP);
                let before = streams.count("OUT").await;
                streams.wait_count("OUT", (before + total / 10).min(total)).await;
                runners[0].signal(Signal::CONT);
                continue;
            }
            _ => {
                server.kill9().await;
                server.up().await;
                continue;
            }
        }
        runners.remove(0);
        runners.push(Runner::start(&site, &server).await);
    }
    streams.wait_count("OUT", total).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    assert_named(&streams).await;
    stop(&mut runners).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_level_as_runners_come_and_go() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(&binding("{ json: /key }", "partitions: 8"), ECHO);
    let mut runners = start(&site, &server, 1).await;
    wait_owned(&runners, &[8]).await;
    runners.extend(start(&site, &server, 1).await);
    wait_owned(&runners, &[4, 4]).await;
    runners.extend(start(&site, &server, 1).await);
    wait_owned(&runners, &[2, 3, 3]).await;
    runners.remove(0).kill9().await;
    wait_owned(&runners, &[4, 4]).await;
    assert_eq!(runners.remove(0).sigterm().await.code(), Some(0));
    wait_owned(&runners, &[8]).await;
    send(&streams, 20, 0, 5).await;
    streams.wait_count("OUT", 100).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    stop(&mut runners).await;
}

/// A key that fails for long, with more of it waiting than its partition holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_holds_back_only_its_partition() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let more = "partitions: 4, concurrency: 4, lane_limit: 5, retry: { attempts: 100000, backoff: 50ms..50ms }";
    let site = with_hot_key(&binding("{ json: /key }", more));
    let mut runners = start(&site, &server, 2).await;
    streams.send_many(200, |n| event(0, n)).await;
    // All of it is copied: its partition has more than it takes.
    streams.wait_settled("t-f").await;
    send(&streams, 20, 200, 210).await;
    // Keys of the other three partitions; that most of the twenty are there is the hash's doing.
    streams.wait_count("OUT", 100).await;
    assert!(!by_key(&streams, "OUT").await.contains_key("k0"));
    site.file("open", "");
    streams.wait_count("OUT", 400).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    stop(&mut runners).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redriven_comes_back_to_its_partition() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let function = r#"
import os

def handle(event, context):
    if event.data["n"] == 3 and not os.path.exists(os.environ["SITE"] + "/open"):
        raise ValueError("closed")
    return {"key": event.data["key"], "n": event.data["n"], "id": event.id, "subject": event.subject}
"#;
    let more = "partitions: 4, retry: { attempts: 2, backoff: 20ms..20ms }";
    let site = Site::with(&format!(
        "functions: {{ f: {{ run: f.py, env: {{ SITE: \"${{SITE}}\" }} }} }}\nbindings:\n  - {}\n",
        binding("{ json: /key }", more)
    ));
    site.file("f.py", function);
    let mut runners = start(&site, &server, 2).await;
    send(&streams, 10, 0, 5).await;
    let letters = streams.wait_letters(10).await;
    assert!(letters.iter().all(|letter| letter.get("stream") == "IN"));
    streams.wait_count("OUT", 40).await;
    site.file("open", "");
    let mut redrive = Runner::command(&site, &["dlq", "redrive"], &[("NATS_URL", &server.url())]);
    assert_eq!(redrive.wait().await.code(), Some(0));
    streams.wait_count("OUT", 50).await;
    wait_settled(&streams).await;
    assert_named(&streams).await;
    eventually("what came back is gone", async || {
        (streams.count("T_DLQ").await == 0).then_some(())
    })
    .await;
    stop(&mut runners).await;
}

/// A key must never be in two partitions.
#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_wants_those_there_are_drained() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = |count: usize| {
        let more =
            format!("partitions: {count}, retry: {{ attempts: 100000, backoff: 50ms..50ms }}");
        let site = Site::with(&format!(
            "functions: {{ f: {{ run: f.py, env: {{ SITE: \"${{SITE}}\" }} }} }}\nbindings:\n  - {}\n",
            binding("{ json: /key }", &more)
        ));
        site.file("f.py", CLOSING);
        site
    };
    let (four, six) = (site(4), site(6));
    let url = server.url();
    let verb = async |site: &Site, verb: &str| {
        let mut command = Runner::command(site, &[verb, "pelton.yaml"], &[("NATS_URL", &url)]);
        (command.wait().await.code(), command.log())
    };
    let mut runner = Runner::start(&four, &server).await;
    send(&streams, 5, 0, 10).await;
    streams.wait_count("OUT", 50).await;
    wait_settled(&streams).await;
    let (code, said) = verb(&six, "run").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a runner is at work"), "{said}");
    four.file("closed", "");
    send(&streams, 5, 10, 20).await;
    streams.wait_settled("t-f").await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    for refused in ["run", "apply"] {
        let (code, said) = verb(&six, refused).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("events wait") && said.contains("`partitions: 4`"), "{said}");
    }
    std::fs::remove_file(four.path("closed")).expect("it was there");
    let mut runner = Runner::start(&four, &server).await;
    streams.wait_count("OUT", 100).await;
    wait_settled(&streams).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let (code, said) = verb(&six, "run").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`pelton apply` does that"), "{said}");
    let (code, said) = verb(&six, "apply").await;
    assert_eq!(code, Some(0), "{said}");
    let mut runner = Runner::start(&six, &server).await;
    send(&streams, 5, 20, 30).await;
    streams.wait_count("OUT", 150).await;
    wait_settled(&streams).await;
    assert_in_order(&streams).await;
    assert_named(&streams).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Answers as `ECHO` does, unless it is closed.
const CLOSING: &str = r#"
import os

def handle(event, context):
    if os.path.exists(os.environ["SITE"] + "/closed"):
        raise ValueError("closed")
    return {"key": event.data["key"], "n": event.data["n"], "id": event.id, "subject": event.subject}
"#;
