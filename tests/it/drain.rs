//! A clean drain: exit 0, nothing lost, nothing finished that runs again, nobody charged.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::harness::{NatsServer, Runner, Site, eventually, load};

/// Notes each run of an event, once it is over.
const NOTING: &str = "
import os, time

NOTES = open(os.environ['SITE'] + '/finished', 'a', buffering=1)

def handle(event, context):
    time.sleep(0.002)
    NOTES.write(event.raw.decode() + '\\n')
    return f'{event.attempt}'
";

fn noting() -> Site {
    let site = Site::with(
        r#"
functions: { note: { run: note.py, env: { SITE: "${SITE}" } } }
bindings: [{ subject: in.note, function: note, publish: out.note }]
"#,
    );
    site.file("note.py", NOTING);
    site
}

/// SIGTERM under load: what had finished does not run again, what had not runs in the next life.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_and_repeats_nothing() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = noting();
    let count = load();
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(count, |n| ("in.note".to_owned(), n.to_string())).await;
    let some = u64::try_from(count / 3).expect("a count");
    streams.wait_count("OUT", some).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let left = streams.consumer("t-note").await.expect("the consumer").num_pending;
    assert!(left > 0, "the load outlived the first life");
    let mut runner = Runner::start(&site, &server).await;
    streams.wait_settled("t-note").await;
    assert_each_ran_once(&site, count);
    assert_eq!(streams.texts("OUT").await, vec!["1"; count], "attempts");
    assert_eq!(runner.scrape().await.get("redeliveries_total", &[]), 0.0);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Ten restarts under load charge no attempt to anyone and count no loss.
#[tokio::test(flavor = "multi_thread")]
async fn ten_rolling_restarts_charge_nobody() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = noting();
    let count = load();
    let mut old = Runner::start(&site, &server).await;
    streams.send_many(count, |n| ("in.note".to_owned(), n.to_string())).await;
    for restart in 1..=10 {
        // As a deployment rolls: the new one is ready before the old one is told to go.
        let new = Runner::start(&site, &server).await;
        let enough = u64::try_from(count * restart / 11).expect("a count");
        streams.wait_count("OUT", enough).await;
        assert_eq!(old.scrape().await.get("losses_total", &[]), 0.0);
        assert_eq!(old.sigterm().await.code(), Some(0));
        old = new;
    }
    streams.wait_settled("t-note").await;
    assert_eq!(old.scrape().await.get("losses_total", &[]), 0.0);
    assert_each_ran_once(&site, count);
    assert_eq!(streams.texts("OUT").await, vec!["1"; count], "attempts");
    assert_eq!(streams.count("T_DLQ").await, 0);
}

/// What does not end within `drain` is given back, uncharged.
#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_drain_is_given_back_uncharged() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r#"
functions: { long: { run: long.py, env: { SITE: "${SITE}" } } }
bindings: [{ subject: in.long, function: long, publish: out.long, timeout: 10m, ack_wait: 5m }]
drain: 1s
"#,
    );
    site.file(
        "long.py",
        "
import os, time

def handle(event, context):
    with open(os.environ['SITE'] + '/started', 'a') as started:
        started.write('x\\n')
    if not os.path.exists(os.environ['SITE'] + '/open'):
        time.sleep(600)
    return f'{event.attempt}'
",
    );
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.long", "x").await;
    eventually("it runs", async || (site.lines("started").len() == 1).then_some(())).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    site.file("open", "");
    // Well before its ack_wait: it was given back, not forgotten.
    let runner = Runner::start(&site, &server).await;
    streams.wait_count("OUT", 1).await;
    assert_eq!(streams.texts("OUT").await, ["1"]);
    assert_eq!(runner.scrape().await.get("losses_total", &[]), 0.0);
}

/// A second signal does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_forces() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r#"
functions: { long: { run: long.py, env: { SITE: "${SITE}" } } }
bindings: [{ subject: in.long, function: long, timeout: 10m }]
drain: 10m
"#,
    );
    site.file(
        "long.py",
        "
import os, time

def handle(event, context):
    open(os.environ['SITE'] + '/started', 'w').close()
    time.sleep(600)
",
    );
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.long", "x").await;
    eventually("it runs", async || site.path("started").exists().then_some(())).await;
    runner.signal(Signal::TERM);
    eventually("it is not ready while it drains", async || {
        let (status, _) = runner.get("/readyz").await?;
        (status == 503).then_some(())
    })
    .await;
    assert_eq!(runner.ended(), None);
    runner.sigterm().await;
}

fn assert_each_ran_once(site: &Site, count: usize) {
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for line in site.lines("finished") {
        *times.entry(line).or_default() += 1;
    }
    let repeated: Vec<_> = times.iter().filter(|(_, times)| **times != 1).collect();
    assert!(repeated.is_empty(), "ran more than once: {repeated:?}");
    assert_eq!(times.len(), count, "how many ran");
}
