//! `pelton replay`: stored events through a function once more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, outcome, told, verb};

/// Notes each call, waits for as long as the file `pause` says, fails for the keys in `poison`.
const FUNCTION: &str = r#"
import json, os, time
from pelton import Retry

def read(name):
    try:
        with open(os.environ["SITE"] + "/" + name) as file:
            return file.read()
    except FileNotFoundError:
        return ""

def handle(event, context):
    with open(os.environ["SITE"] + "/seen", "a") as seen:
        print(json.dumps([event.id, event.data["key"], event.attempt]), file=seen, flush=True)
    time.sleep(float(read("pause") or 0))
    if event.data["key"] in read("poison").split():
        raise ValueError("not " + event.data["key"])
    if os.environ.get("STATE"):
        context.state = (context.state or 0) + 1
        return {"n": event.data["n"], "count": context.state}
    return {"n": event.data["n"]}
"#;

/// The same for the events of a batch.
const BATCHED: &str = r#"
one = handle

def handle(events, context):
    def each(event):
        try:
            return one(event, context)
        except ValueError as err:
            return Retry(str(err))
    return [each(event) for event in events]
"#;

struct Bench {
    server: NatsServer,
    streams: Streams,
    site: Site,
}

/// A site whose binding `f`, with these further keys, has handled so many events.
async fn bench(extra: &str, count: usize) -> Bench {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let state = if extra.contains("state:") { ", STATE: \"1\"" } else { "" };
    let site = Site::with(&format!(
        r#"
functions:
  f: {{ run: f.py, workers: 2, env: {{ SITE: "${{SITE}}"{state} }} }}
bindings:
  - {{ subject: in.>, function: f, publish: out.f, ack_wait: 3s, retry: {{ attempts: 2, backoff: 10ms..10ms }}{extra} }}
"#
    ));
    let batched = if extra.contains("batch:") { BATCHED } else { "" };
    site.file("f.py", format!("{FUNCTION}{batched}"));
    let mut runner = Runner::start(&site, &server).await;
    let bench = Bench { server, streams, site };
    bench.send(0, count).await;
    bench.streams.wait_count("OUT", count as u64).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    std::fs::remove_file(bench.site.path("seen")).expect("it saw them");
    bench
}

impl Bench {
    async fn send(&self, first: usize, count: usize) {
        let make = |n: usize| {
            let n = first + n;
            (format!("in.{}", n % 3), format!(r#"{{"n": {n}, "key": "k{}"}}"#, n % 7))
        };
        self.streams.send_many(count, make).await;
    }

    fn command(&self, arguments: &[&str]) -> Command {
        verb(&self.site, &self.server.url(), arguments)
    }

    async fn pelton(&self, arguments: &[&str]) -> (i32, String, String) {
        outcome(self.command(arguments)).await
    }

    /// A replay of `f` to its end: its exit code and what it reports.
    async fn replay(&self, arguments: &[&str]) -> (i32, Value) {
        let all = [&["replay", "f", "-o", "json", "--yes"], arguments].concat();
        let (code, said, told) = self.pelton(&all).await;
        (code, serde_json::from_str(&said).unwrap_or_else(|_| panic!("{code} {said}{told}")))
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let all = [&["replay", "f", "--yes"], arguments].concat();
        self.command(&all).spawn().expect("pelton starts")
    }

    /// What the function saw: event, key, attempt.
    fn seen(&self) -> Vec<(String, String, u64)> {
        self.site
            .lines("seen")
            .iter()
            .map(|line| serde_json::from_str(line).expect("a call"))
            .collect()
    }

    async fn wait_seen(&self, count: usize) {
        eventually("the function was called", async || (self.seen().len() >= count).then_some(()))
            .await;
    }

    async fn is_over(&self) {
        assert!(self.streams.consumer("t-f=replay").await.is_none(), "its consumer is gone");
        let records = self.streams.js.get_stream("KV_T_ATTEMPTS").await.expect("the bucket");
        let subjects = records.info_with_subjects("$KV.T_ATTEMPTS.f=replay.>").await;
        use futures_util::TryStreamExt as _;
        let left: Vec<(String, usize)> = subjects.expect("it is").try_collect().await.expect("ok");
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_events_run_again_and_their_outputs_are_known() {
    let bench = bench("", 60).await;
    let position = bench.streams.consumer("t-f").await.expect("the durable").delivered;
    let (code, report) = bench.replay(&["--from", "1"]).await;
    assert_eq!((code, &report["done"], &report["complete"]), (0, &60.into(), &true.into()));
    assert_eq!(report["outputs"]["duplicate"], 60, "{report}");
    assert_eq!((bench.seen().len(), bench.streams.count("OUT").await), (60, 60));
    bench.is_over().await;
    let now = bench.streams.consumer("t-f").await.expect("the durable").delivered;
    assert_eq!(now.stream_sequence, position.stream_sequence, "the binding's own is untouched");

    let (code, report) = bench.replay(&["--from", "11", "--to", "20", "--as-new"]).await;
    assert_eq!((code, &report["outputs"]["stored"]), (0, &10.into()), "{report}");
    assert_eq!(bench.streams.count("OUT").await, 70);
    // As new every time.
    let (_, report) = bench.replay(&["--from", "20", "--to", "20", "--as-new"]).await;
    assert_eq!(report["outputs"]["stored"], 1, "{report}");
    let seen: BTreeSet<String> = bench.seen().drain(60..).map(|(event, ..)| event).collect();
    assert_eq!(seen, (11..=20).map(|n| format!("IN:{n}")).collect());

    let stored = bench.streams.read_timed("IN").await;
    let (first, last) = (stored[30].1, stored[40].1);
    let within = stored.iter().filter(|(_, time)| *time >= first && *time < last).count();
    let text = |time: time::OffsetDateTime| {
        time.format(&time::format_description::well_known::Rfc3339).expect("a time")
    };
    let (code, report) = bench.replay(&["--from", &text(first), "--to", &text(last)]).await;
    assert_eq!((code, report["done"].as_u64()), (0, Some(within as u64)), "{report}");

    let (code, said, told) = bench.pelton(&["replay", "f", "--from", "1h", "--to", "1h"]).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("nothing to replay") && said.contains("0 events done"), "{said}{told}");
    bench.is_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_before_anything_runs() {
    let bench = bench("", 3).await;
    for (arguments, code, about) in [
        (&["replay", "g", "--from", "1"][..], 2, "there is no binding `g`"),
        (&["replay", "f"][..], 2, "--from"),
        (&["replay", "f", "--from", "yesterday"][..], 2, "a sequence, a time like"),
        (&["replay", "f", "--from", "1", "--dry-run", "--as-new"][..], 2, "cannot be used with"),
        (&["replay", "f", "--from", "1"][..], 2, "3 events of IN (1 to 3) through f: say `--yes`"),
    ] {
        let (ended, _, told) = bench.pelton(arguments).await;
        assert_eq!(ended, code, "{told}");
        assert!(told.contains(about), "{told}");
    }
    bench.site.file("f.py", "x = 1 / 0");
    let (code, _, told) = bench.pelton(&["replay", "f", "--from", "1", "--yes"]).await;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("cannot be started") && told.contains("division by zero"), "{told}");
    assert!(bench.seen().is_empty());
    bench.is_over().await;
}

/// Events that fail are tried again as the binding says, while new ones keep coming behind the last
/// one that is meant.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_retried_told_and_a_dead_letter() {
    for extra in ["", ", order_by: { json: /key }", ", batch: { max: 5, wait: 50ms }"] {
        let bench = bench(extra, 70).await;
        bench.send(70, 400).await;
        bench.site.file("poison", "k3");
        let (code, report) = bench.replay(&["--from", "1", "--to", "70"]).await;
        assert_eq!(code, 1, "{report}");
        assert_eq!((&report["done"], &report["dead_letters"]), (&60.into(), &10.into()));
        assert_eq!((&report["retries"], &report["complete"]), (&10.into(), &true.into()));
        assert_eq!(report["failed"][0]["reason"], "attempts_exhausted", "{report}");
        let letters = bench.streams.wait_letters(10).await;
        assert!(letters.iter().all(|letter| letter.get("consumer") == "t-f=replay"));
        assert!(letters.iter().all(|letter| letter.outcomes() == ["retry", "retry"]));
        let calls: BTreeSet<_> = bench.seen().into_iter().collect();
        assert_eq!(calls.len(), 80, "{extra}");
        bench.is_over().await;
        // Again: letters of their own, whatever became of those that are there.
        let (_, report) = bench.replay(&["--from", "1", "--to", "7"]).await;
        assert_eq!(report["dead_letters"], 1, "{report}");
        bench.streams.wait_letters(11).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_leaves_nothing_behind() {
    let bench = bench("", 35).await;
    bench.site.file("poison", "k3");
    let before = bench.streams.count("OUT").await;
    let (code, report) = bench.replay(&["--from", "1", "--dry-run"]).await;
    assert_eq!((code, &report["dry_run"]), (1, &true.into()), "{report}");
    assert_eq!((&report["done"], &report["dead_letters"]), (&30.into(), &5.into()), "{report}");
    assert_eq!(report["outputs"]["stored"], 30, "{report}");
    assert_eq!(bench.streams.count("OUT").await, before);
    assert_eq!(bench.streams.count("T_DLQ").await, 0);
    bench.is_over().await;
}

/// A binding with state is looked at only: its state begins anew, in memory.
#[tokio::test(flavor = "multi_thread")]
async fn state_is_replayed_in_memory_only() {
    let bench = bench(", state: { bucket: b, key: { json: /key } }", 35).await;
    let (code, _, told) = bench.pelton(&["replay", "f", "--from", "1", "--yes"]).await;
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("keeps state") && told.contains("--dry-run"), "{told}");
    let bucket = bench.streams.js.get_stream("KV_b").await.expect("the bucket");
    let before = bucket.cached_info().state.last_sequence;
    let counting =
        "\n        print(context.state, file=open(os.environ[\"SITE\"] + \"/counts\", \"a\"))";
    let line = "context.state = (context.state or 0) + 1";
    bench.site.file("f.py", FUNCTION.replace(line, &format!("{line}{counting}")));
    let (code, report) = bench.replay(&["--from", "1", "--dry-run"]).await;
    assert_eq!((code, &report["done"]), (0, &35.into()), "{report}");
    assert_eq!(bench.seen().len(), 35, "each is called for, though all were applied already");
    let mut counts = bench.site.lines("counts");
    counts.sort();
    let expected: Vec<String> = (0..35).map(|n| (n / 7 + 1).to_string()).collect();
    assert_eq!(counts, expected, "each key counts from nothing");
    let mut bucket = bench.streams.js.get_stream("KV_b").await.expect("the bucket");
    let now = bucket.info().await.expect("it answers").state.last_sequence;
    assert_eq!((now, bench.streams.count("OUT").await), (before, 35));
}

/// Killed half way, a replay goes on where it was when the same is asked for again, and nothing
/// else may be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replay_goes_on_where_it_was() {
    for extra in ["", ", order_by: { json: /key }"] {
        let bench = bench(extra, 70).await;
        bench.site.file("pause", "0.05");
        let asked = ["--from", "1", "--as-new"];
        let mut killed = bench.spawn(&asked);
        bench.wait_seen(25).await;
        killed.kill().await.expect("it is killed");
        let before = bench.seen().len();
        // Behind the last: no part of it.
        bench.send(70, 30).await;

        let (code, _, told) = bench.pelton(&["replay", "f", "--from", "1", "--yes"]).await;
        assert_eq!(code, 2, "{told}");
        assert!(told.contains("not done yet: --from 1 --as-new"), "{told}");
        let (_, listed, _) = bench.pelton(&["list", "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(listed["orphans"], Value::Array(Vec::new()));
        assert_left(&listed["replays"][0]);
        let (_, table, _) = bench.pelton(&["list"]).await;
        assert!(table.contains("Replays (") && table.contains("of 1..70"), "{table}");

        let (code, report) = bench.replay(&asked).await;
        assert_eq!((code, &report["complete"]), (0, &true.into()), "{report}");
        let seen = bench.seen();
        assert!(seen.len() < before + 70 - 15, "{extra}: {} and {}", before, seen.len());
        let ids: BTreeSet<&String> = seen.iter().map(|(event, ..)| event).collect();
        assert_eq!(ids.len(), 70);
        assert_eq!(bench.streams.count("OUT").await, 140, "each output once more");
        bench.is_over().await;
        let (_, listed, _) = bench.pelton(&["list", "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(listed["replays"], Value::Array(Vec::new()));
        if !extra.is_empty() {
            assert_in_order(&seen);
        }
    }
}

/// What is listed of a replay of 70 events that was killed half way, with others behind its last.
fn assert_left(replay: &Value) {
    assert_eq!(
        (&replay["binding"], &replay["consumer"], &replay["stream"], &replay["from"]),
        (&"f".into(), &"t-f=replay".into(), &"IN".into(), &"1".into())
    );
    assert_eq!(
        (&replay["first"], &replay["last"], &replay["to"]),
        (&1.into(), &70.into(), &Value::Null)
    );
    let done = replay["done_to"].as_u64().expect("a sequence");
    assert!((1..70).contains(&done), "{replay}");
    assert_eq!(replay["pending"], 70 - done, "those behind the last are none of it: {replay}");
    assert!(replay["last_activity"].as_str().expect("a time").ends_with('Z'), "{replay}");
}

/// The first calls of the events of a key come in the order of their stream.
fn assert_in_order(seen: &[(String, String, u64)]) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for (event, key, _) in seen {
        let number: u64 = event.split(':').nth(1).and_then(|n| n.parse().ok()).expect("a sequence");
        if known.insert(number) {
            let before = last.insert(key, number).unwrap_or(0);
            assert!(before < number, "{key}: {number} after {before}");
        }
    }
}

/// A signal ends it in order; `--restart` begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_it_and_a_restart_begins_anew() {
    let bench = bench("", 50).await;
    bench.site.file("pause", "0.05");
    let stopped = bench.spawn(&["--from", "1", "--as-new"]);
    bench.wait_seen(10).await;
    let id = stopped.id().expect("it runs").cast_signed();
    let id = rustix::process::Pid::from_raw(id).expect("an id");
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it gets it");
    let (code, said, told) = told(stopped.wait_with_output().await.expect("it ends"));
    assert_eq!(code, 1, "{told}");
    assert!(said.contains("the same command goes on"), "{said}{told}");
    let before = bench.seen().len();
    assert!(before < 50, "it was stopped before the end");
    let (code, report) = bench.replay(&["--from", "1", "--as-new", "--restart"]).await;
    assert_eq!((code, &report["done"]), (0, &50.into()), "{report}");
    assert_eq!(bench.seen().len(), before + 50);
    bench.is_over().await;
}

/// Two at once: one waits until the other is done, and finds nothing left.
#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_run_each_event_once() {
    let bench = bench("", 40).await;
    bench.site.file("pause", "0.05");
    let asked = ["--from", "1", "--as-new"];
    let one = bench.spawn(&asked);
    bench.wait_seen(1).await;
    let (code, said, told) = bench.pelton(&[&["replay", "f", "--yes"], &asked[..]].concat()).await;
    assert_eq!(code, 0, "{said}{told}");
    assert!(told.contains("waiting: another replay"), "{told}");
    assert!(said.contains("by another command"), "{said}");
    assert!(one.wait_with_output().await.expect("it ends").status.success());
    assert_eq!((bench.seen().len(), bench.streams.count("OUT").await), (40, 80));
}
