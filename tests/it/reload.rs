//! A manifest that is changed under a runner at work: a good one is taken up where it differs, a bad one
//! changes nothing.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::process::Signal;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually};

/// Notes which process ran which event.
const FUNCTION: &str = r#"
import os, time

def handle(event, context):
    n = event.data["n"]
    time.sleep(0.002)
    with open(os.environ["SITE"] + "/" + os.environ["NOTES"], "a") as notes:
        print(n, os.getpid(), event.attempt, event.id.split(":")[1], file=notes)
    return {"n": n}
"#;

fn manifest(concurrency: usize) -> String {
    format!(
        r#"
version: 1
name: t
nats: {{ servers: ["${{NATS_URL}}"] }}
streams:
  IN: {{ subjects: ["in.>"] }}
  OUT: {{ subjects: ["out.>"], duplicate_window: 30m }}
functions:
  kept: {{ run: f.py, env: {{ SITE: "${{SITE}}", NOTES: kept }}, workers: 1 }}
  changed: {{ run: g.py, env: {{ SITE: "${{SITE}}", NOTES: changed }} }}
  ordered: {{ run: g.py, env: {{ SITE: "${{SITE}}", NOTES: ordered }} }}
  parted: {{ run: g.py, env: {{ SITE: "${{SITE}}", NOTES: parted }} }}
bindings:
  - {{ subject: in.>, function: kept, publish: out.kept }}
  - {{ subject: in.>, function: changed, publish: out.changed, concurrency: {concurrency} }}
  - {{ subject: in.>, function: ordered, publish: out.ordered, order_by: {{ token: 2 }}, concurrency: {concurrency} }}
  - {{ subject: in.>, function: parted, publish: out.parted, order_by: {{ token: 2 }}, partitions: 2, concurrency: {concurrency} }}
"#
    )
}

/// An event in its function.
struct Run {
    number: u32,
    process: u32,
    attempt: u32,
    /// Its sequence in the stream.
    place: u32,
}

/// A folder as Kubernetes mounts a ConfigMap: files are links through `..data`, which is swapped.
struct Mounted {
    site: Site,
    swaps: usize,
}

impl Mounted {
    fn new(manifest: &str, function: &str) -> Self {
        let mut mounted = Self { site: Site::new(), swaps: 0 };
        mounted.swap(manifest, function);
        for file in ["pelton.yaml", "f.py", "g.py"] {
            symlink(Path::new("..data").join(file), mounted.site.path(file)).expect("a link");
        }
        mounted
    }

    fn swap(&mut self, manifest: &str, function: &str) {
        self.swaps += 1;
        let folder = format!("..{}", self.swaps);
        let place = self.site.path(&folder);
        fs::create_dir(&place).expect("a folder");
        for (file, text) in [("pelton.yaml", manifest), ("f.py", FUNCTION), ("g.py", function)] {
            fs::write(place.join(file), text).expect("a file");
        }
        let half: PathBuf = self.site.path("..half");
        symlink(&folder, &half).expect("a link");
        fs::rename(&half, self.site.path("..data")).expect("a swap");
    }

    /// The runs of one function.
    fn runs(&self, notes: &str) -> Vec<Run> {
        let read = |line: String| {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u32>().expect("a number");
            Run { number: number(0), process: number(1), attempt: number(2), place: number(3) }
        };
        self.site.lines(notes).into_iter().map(read).collect()
    }
}

fn event(n: usize) -> (String, String) {
    (format!("in.k{}", n % 7), format!(r#"{{"n": {n}}}"#))
}

async fn reloads(runner: &Runner, outcome: &'static str) -> f64 {
    runner.scrape().await.get("manifest_reloads_total", &[("outcome", outcome)])
}

async fn wait_reloads(runner: &Runner, outcome: &'static str, count: f64) {
    eventually(&format!("{count} reloads are {outcome}"), async || {
        (reloads(runner, outcome).await >= count).then_some(())
    })
    .await;
}

async fn readiness(runner: &Runner) -> serde_json::Value {
    let (_, text) = runner.get("/readyz").await.expect("an answer");
    serde_json::from_str(&text).expect("JSON")
}

/// Each number below `count` ran once, the first time; with `key`, those of a key in order.
fn assert_ran_once(runs: &[Run], count: usize, in_order: bool) {
    assert!(runs.iter().all(|run| run.attempt == 1), "nothing is charged");
    let each: BTreeSet<u32> = runs.iter().map(|run| run.number).collect();
    assert_eq!((runs.len(), each.len()), (count, count), "each runs once");
    for key in (0..7).filter(|_| in_order) {
        let of_key = runs.iter().filter(|run| run.number % 7 == key).map(|run| run.place);
        assert!(of_key.is_sorted(), "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_twenty_times_under_load_nothing_is_lost_twice_or_out_of_order() {
    const EVENTS: usize = 4_000;
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let mut mounted = Mounted::new(&manifest(4), FUNCTION);
    let mut runner = Runner::start(&mounted.site, &server).await;
    let producing = tokio::spawn({
        let streams = streams.clone();
        async move {
            for part in 0..EVENTS / 100 {
                streams.send_many(100, |n| event(part * 100 + n)).await;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        }
    });
    let (mut good, mut bad) = (0.0, 0.0);
    for swap in 1..=20 {
        match swap % 4 {
            1 => mounted.swap(&manifest(4 + swap), FUNCTION),
            2 => mounted.swap("version: 1\nname: t\nfunctoins: {}\n", FUNCTION),
            3 => mounted.swap(&manifest(4), &format!("{FUNCTION}# {swap}\n")),
            _ => mounted.swap(&manifest(4).replace("out.kept", "nowhere.kept"), FUNCTION),
        }
        if swap % 2 == 1 {
            good += 1.0;
            wait_reloads(&runner, "applied", good).await;
            assert_eq!(readiness(&runner).await.get("reload"), None);
        } else {
            bad += 1.0;
            wait_reloads(&runner, "rejected", bad).await;
            let readiness = readiness(&runner).await;
            let why = readiness["reload"].as_str().expect("a reason");
            let named = if swap % 4 == 2 { "functoins" } else { "nowhere.kept" };
            assert!(why.contains(named) && readiness["ready"] == true, "{readiness}");
            let scrape = runner.scrape().await;
            assert_eq!(scrape.get("manifest_last_reload_successful", &[]), 0.0);
        }
    }
    producing.await.expect("the producer ends");
    streams.wait_count("OUT", 4 * EVENTS as u64).await;
    for durable in ["t-kept", "t-changed", "t-ordered", "t-parted"] {
        streams.wait_settled(durable).await;
    }
    assert_eq!(streams.count("OUT").await, 4 * EVENTS as u64);
    assert_ran_once(&mounted.runs("kept"), EVENTS, false);
    assert_ran_once(&mounted.runs("changed"), EVENTS, false);
    assert_ran_once(&mounted.runs("ordered"), EVENTS, true);
    assert_ran_once(&mounted.runs("parted"), EVENTS, true);
    let workers: BTreeSet<u32> = mounted.runs("kept").iter().map(|run| run.process).collect();
    assert_eq!(workers.len(), 1, "what is not changed goes on in its worker");
    let scrape = runner.scrape().await;
    for binding in ["kept", "changed", "ordered", "parted"] {
        scrape.assert_adds_up(binding);
        assert_eq!(scrape.get("redeliveries_total", &[("binding", binding)]), 0.0, "{binding}");
        assert_eq!(scrape.get("losses_total", &[("binding", binding)]), 0.0);
        let done = [("binding", binding), ("outcome", "done")];
        assert_eq!(
            scrape.get("invocations_total", &done),
            EVENTS as f64,
            "{binding}: counts go on"
        );
    }
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

const PLAIN: &str = "functions: { f: { exec: [cat] } }\nbindings:\n  - { subject: in.f, function: f, publish: out.f }\n";
const MORE: &str = "  - { name: more, subject: in.f, function: f, publish: out.more }\n";

async fn send_until(streams: &Streams, subject: &str, there: bool) {
    eventually(&format!("{subject}: {there}"), async || {
        streams.send("in.f", "x").await;
        streams.wait_settled("t-f").await;
        let stream = streams.js.get_stream("OUT").await.ok()?;
        (stream.get_last_raw_message_by_subject(subject).await.is_ok() == there).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_come_and_go_and_what_needs_a_restart_is_named() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(PLAIN);
    let mut runner = Runner::spawn(&site, &server.url(), &["--no-watch"]);
    runner.wait_ready().await;
    let worker_runs = runner.scrape().await;
    assert_eq!(worker_runs.get("manifest_reloads_total", &[("outcome", "applied")]), 0.0);
    assert_eq!(worker_runs.get("manifest_last_reload_successful", &[]), 1.0);

    site.manifest(&format!("{PLAIN}{MORE}"));
    runner.signal(Signal::HUP);
    wait_reloads(&runner, "applied", 1.0).await;
    send_until(&streams, "out.more", true).await;
    let up = |name: &'static str| [("binding", name)];
    assert_eq!(runner.scrape().await.get("binding_up", &up("more")), 1.0);

    site.manifest(PLAIN);
    runner.signal(Signal::HUP);
    wait_reloads(&runner, "applied", 2.0).await;
    assert_eq!(runner.scrape().await.find("binding_up", &up("more")), None);
    let bindings = readiness(&runner).await["bindings"].clone();
    assert_eq!(bindings.as_array().map(Vec::len), Some(1), "{bindings}");
    eventually("nobody asks for the events of the one that is gone", async || {
        let info = streams.consumer("t-more").await?;
        (info.num_waiting == 0).then_some(())
    })
    .await;

    site.manifest(&format!("drain: 7s\n{PLAIN}"));
    runner.signal(Signal::HUP);
    wait_reloads(&runner, "rejected", 1.0).await;
    let why = readiness(&runner).await["reload"].clone();
    assert_eq!(why, "`drain` cannot change while it runs: start it anew");
    send_until(&streams, "out.f", true).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    assert!(runner.log().contains(r#""added":"more""#), "{}", runner.log());
}

/// A runner that is told to end in the middle of a reload ends; one that is killed loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_ends_in_the_middle_of_a_reload() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let slow = |timeout: &str| {
        format!(
            "functions: {{ f: {{ exec: [sh, -c, \"sleep 2; cat\"] }} }}\nbindings:\n  - {{ subject: in.f, function: f, publish: out.f, ack_wait: 2s, timeout: {timeout} }}\n"
        )
    };
    let site = Site::with(&slow("10s"));
    for (round, ending) in [Signal::TERM, Signal::KILL].into_iter().enumerate() {
        let mut runner = Runner::start(&site, &server).await;
        streams.send("in.f", "x").await;
        runner.metric("invocations_in_flight", &[("binding", "f")], |n| n == 1.0).await;
        site.manifest(&slow(&format!("1{round}s")));
        runner.signal(Signal::HUP);
        runner.signal(ending);
        let status = runner.wait().await;
        assert_eq!(status.code(), (ending == Signal::TERM).then_some(0));
    }
    let mut runner = Runner::start(&site, &server).await;
    streams.wait_count("OUT", 2).await;
    streams.wait_settled("t-f").await;
    assert_eq!(streams.count("OUT").await, 2);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

const PLAIN_AND_NATIVE: &str = "functions: { f: { exec: [cat] }, n: { native: true } }\nbindings:\n  - { subject: in.f, function: f, publish: out.f }\n  - { subject: in.n, function: n }\n";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_for_a_manifest_that_cannot_be_used() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(PLAIN);
    let mut runner = Runner::start(&site, &server).await;
    site.manifest(PLAIN_AND_NATIVE);
    wait_reloads(&runner, "rejected", 1.0).await;
    let readiness = readiness(&runner).await;
    assert!(readiness["reload"].as_str().is_some_and(|why| why.contains("`n`")), "{readiness}");
    assert!(streams.consumer("t-n").await.is_none());
    assert!(streams.consumer("t-f").await.is_some());
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_while_nats_is_away_is_taken_up_once_it_is_back() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(PLAIN);
    let mut runner = Runner::start(&site, &server).await;
    server.kill9().await;
    site.manifest(&format!("{PLAIN}{MORE}"));
    eventually("it is said that the change waits", async || {
        let readiness = readiness(&runner).await;
        readiness["reload"].as_str()?.starts_with("not taken up yet, trying again: ").then_some(())
    })
    .await;
    let scrape = runner.scrape().await;
    assert_eq!(scrape.get("manifest_last_reload_successful", &[]), 0.0);
    assert_eq!(scrape.get("manifest_reloads_total", &[("outcome", "rejected")]), 0.0);
    server.up().await;
    wait_reloads(&runner, "applied", 1.0).await;
    assert_eq!(readiness(&runner).await.get("reload"), None);
    send_until(&streams, "out.more", true).await;

    // One that waits keeps nobody from ending, and gives way to a newer one.
    server.kill9().await;
    site.manifest(PLAIN);
    eventually("it is said that the change waits", async || {
        readiness(&runner).await["reload"].as_str()?.starts_with("not taken up").then_some(())
    })
    .await;
    site.manifest("version: 2\n");
    wait_reloads(&runner, "rejected", 1.0).await;
    site.manifest(PLAIN);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_module_beside_a_function_is_taken_up() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        "functions: { f: { run: f.py }, other: { exec: [cat] } }\nbindings:\n  - { subject: in.f, function: f, publish: out.f }\n  - { subject: in.f, function: other, publish: out.other }\n",
    );
    site.file("beside.py", "WORD = 'old'\n");
    site.file("f.py", "from beside import WORD\n\ndef handle(event, context):\n    return WORD\n");
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.f", "1").await;
    streams.wait_count("OUT", 2).await;
    site.file("beside.py", "WORD = 'newer'\n");
    wait_reloads(&runner, "applied", 1.0).await;
    streams.send("in.f", "1").await;
    streams.wait_count("OUT", 4).await;
    let mut texts = streams.texts("OUT").await;
    texts.sort();
    assert_eq!(texts, ["1", "1", "newer", "old"]);
    let log = runner.log();
    assert!(log.contains(r#""changed":"f (the function's files)""#), "{log}");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}
