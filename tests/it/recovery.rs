//! The server goes away and comes back, consumers vanish, limits are looked at on receipt.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::jetstream::{AckKind, consumer::PullConsumer};
use futures_util::StreamExt;
use rustix::process::Signal;

use crate::harness::{NatsServer, PATIENCE, Runner, Site, Streams, eventually, load};

fn echo() -> Site {
    let site = Site::with(
        r#"
functions: { echo: { run: echo.py } }
bindings: [{ subject: in.echo, function: echo, publish: out.echo, ack_wait: 5s }]
"#,
    );
    site.file("echo.py", "def handle(event, context):\n    return event.raw\n");
    site
}

/// Stores the numbers from `from` on; again, if need be, without storing one twice.
async fn send(streams: &Streams, from: usize, count: usize) {
    streams.send_once(count, |n| ("in.echo".to_owned(), (from + n).to_string())).await;
}

async fn done(runner: &Runner) -> f64 {
    let labels = &[("binding", "echo"), ("outcome", "done")];
    runner.scrape().await.get("invocations_total", labels)
}

/// Waits until every one of these has done something more.
async fn all_flow(runners: &[Runner], streams: &Streams, sent: &mut usize) {
    let mut before = Vec::new();
    for runner in runners {
        before.push(done(runner).await);
    }
    eventually("every runner does something", async || {
        send(streams, *sent, 100).await;
        *sent += 100;
        for (runner, before) in runners.iter().zip(&before) {
            if done(runner).await <= *before {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn assert_all_stored_once(streams: &Streams, sent: usize) {
    streams.wait_settled("t-echo").await;
    let texts = streams.texts("OUT").await;
    assert_eq!(texts.len(), sent, "outputs");
    let distinct: BTreeSet<_> = texts.into_iter().collect();
    assert_eq!(distinct.len(), sent, "distinct outputs");
    assert_eq!(streams.count("T_DLQ").await, 0);
}

/// Three runners share a consumer while the server restarts: none of them stays idle.
#[tokio::test(flavor = "multi_thread")]
async fn three_runners_flow_again_after_a_server_restart() {
    for hard in [false, true] {
        let mut server = NatsServer::start().await;
        let streams = server.streams().await;
        let site = echo();
        let mut runners = Vec::new();
        for _ in 0..3 {
            runners.push(Runner::start(&site, &server).await);
        }
        let mut sent = 0;
        all_flow(&runners, &streams, &mut sent).await;
        if hard {
            server.kill9().await;
        } else {
            server.stop().await;
        }
        server.up().await;
        let up = Instant::now();
        // The test's own connection comes back first.
        streams.wait_count("IN", 1).await;
        all_flow(&runners, &streams, &mut sent).await;
        // A pull that the old server took along holds a runner up for much longer than this; it
        // takes less than a second on an idle machine.
        let idle = up.elapsed();
        assert!(idle < Duration::from_secs(15), "a runner did nothing for {idle:?}");
        assert_all_stored_once(&streams, sent).await;
        for mut runner in runners {
            assert!(runner.scrape().await.get("nats_reconnects_total", &[]) >= 1.0);
            assert_eq!(runner.sigterm().await.code(), Some(0));
        }
    }
}

/// A server that is killed under load loses nothing that it had stored, and acknowledgements that
/// went down with it store nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_while_the_server_is_killed() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo();
    site.file(
        "echo.py",
        "import time\n\ndef handle(event, context):\n    time.sleep(0.003)\n    return event.raw\n",
    );
    let runners = [Runner::start(&site, &server).await, Runner::start(&site, &server).await];
    let count = load();
    send(&streams, 0, count).await;
    for kill in 1..=3 {
        let enough = u64::try_from(count * kill / 4).expect("a count");
        streams.wait_count("OUT", enough).await;
        let left = streams.consumer("t-echo").await.expect("the consumer").num_pending;
        assert!(left > 0, "kill {kill} came too late");
        server.kill9().await;
        server.up().await;
    }
    assert_all_stored_once(&streams, count).await;
    for runner in &runners {
        runner.scrape().await.assert_adds_up("echo");
    }
}

/// A runner that starts before its server waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_waits_for_its_server() {
    let mut server = NatsServer::start().await;
    server.stop().await;
    let site = echo();
    let mut runner = Runner::spawn(&site, &server.url(), &[]);
    eventually("it lives", async || {
        let (status, _) = runner.get("/livez").await?;
        (status == 200).then_some(())
    })
    .await;
    assert_eq!(runner.get("/readyz").await.map(|(status, _)| status), Some(503));
    server.up().await;
    runner.wait_ready().await;
    let streams = server.streams().await;
    send(&streams, 0, 10).await;
    assert_all_stored_once(&streams, 10).await;
}

/// A consumer that somebody deletes is made again; its events come once more and are not stored
/// twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_comes_back() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo();
    let mut runner = Runner::start(&site, &server).await;
    send(&streams, 0, 50).await;
    streams.wait_count("OUT", 50).await;
    let stream = streams.js.get_stream("IN").await.expect("the stream");
    stream.delete_consumer("t-echo").await.expect("the consumer is deleted");
    send(&streams, 50, 50).await;
    streams.wait_count("OUT", 100).await;
    assert_all_stored_once(&streams, 100).await;
    assert_eq!(runner.ended(), None);
}

/// And one that is deleted while the runner is not connected.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_deleted_behind_the_back_comes_back() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo();
    let runner = Runner::start(&site, &server).await;
    send(&streams, 0, 50).await;
    assert_all_stored_once(&streams, 50).await;
    server.stop().await;
    server.forget_consumer("IN", "t-echo");
    server.up().await;
    eventually("the runner is back", async || {
        (runner.try_scrape().await?.get("nats_connected", &[]) == 1.0).then_some(())
    })
    .await;
    send(&streams, 50, 50).await;
    streams.wait_count("OUT", 100).await;
    assert_all_stored_once(&streams, 100).await;
}

/// Limits are looked at when an event arrives: one that used up its attempts under an older
/// manifest does not run again.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_limited_on_receipt() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::new();
    let manifest = |attempts: u32| {
        site.manifest(&format!(
            r#"
functions: {{ bad: {{ run: bad.py, env: {{ SITE: "${{SITE}}" }} }} }}
bindings:
  - {{ subject: in.bad, function: bad, retry: {{ attempts: {attempts}, backoff: 50ms..2s }} }}
"#
        ));
    };
    manifest(100);
    site.file(
        "bad.py",
        "
import os

def handle(event, context):
    with open(os.environ['SITE'] + '/tries', 'a') as tries:
        print(event.attempt, file=tries)
    raise ValueError('no luck')
",
    );
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.bad", "x").await;
    eventually("a few tries", async || (site.lines("tries").len() >= 3).then_some(())).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let tries = site.lines("tries").len();
    manifest(2);
    let _runner = Runner::start(&site, &server).await;
    let letters = streams.wait_letters(1).await;
    assert_eq!(site.lines("tries").len(), tries, "it did not run again");
    assert_eq!(letters[0].get("reason"), "attempts_exhausted");
    assert_eq!(letters[0].get("attempts"), tries.to_string());
    assert_eq!(letters[0].outcomes(), vec!["retry"; tries]);
}

/// A runner that was out of breath for longer than `ack_wait` goes on with what it holds: the
/// event is not run twice at a time, and did not vanish with anyone.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ran_out_is_no_loss() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r#"
functions: { f: { run: f.py, env: { SITE: "${SITE}" } } }
bindings:
  - subject: in.f
    function: f
    publish: out.f
    ack_wait: 3s
    timeout: 5m
    retry: { attempts: 3, backoff: 50ms..100ms }
"#,
    );
    site.file(
        "f.py",
        "
import os, time

def handle(event, context):
    with open(os.environ['SITE'] + '/tries', 'a') as tries:
        print(event.attempt, file=tries)
    while not os.path.exists(os.environ['SITE'] + '/go'):
        time.sleep(0.02)
    if event.attempt == 1:
        raise ValueError('no luck')
    return f'{event.attempt}'
",
    );
    let runner = Runner::start(&site, &server).await;
    streams.send("in.f", "x").await;
    eventually("it runs", async || (site.lines("tries").len() == 1).then_some(())).await;
    runner.signal(Signal::STOP);
    // Somebody else gets it meanwhile and hands it back.
    let stream = streams.js.get_stream("IN").await.expect("the stream");
    let consumer: PullConsumer = stream.get_consumer("t-f").await.expect("the consumer");
    let mut batch = consumer.batch().max_messages(1).expires(PATIENCE).messages().await.unwrap();
    let message = batch.next().await.expect("a delivery").expect("a message");
    message.ack_with(AckKind::Nak(None)).await.expect("it is handed back");
    runner.signal(Signal::CONT);
    eventually("the runner is given it once more", async || {
        (streams.consumer("t-f").await?.delivered.consumer_sequence >= 3).then_some(())
    })
    .await;
    let extensions = async || runner.scrape().await.get("lease_extensions_total", &[]);
    let before = extensions().await;
    eventually("the runner goes on", async || (extensions().await >= before + 2.0).then_some(()))
        .await;
    site.file("go", "");
    streams.wait_settled("t-f").await;
    assert_eq!(site.lines("tries"), ["1", "2"]);
    assert_eq!(streams.texts("OUT").await, ["2"]);
    assert_eq!(runner.scrape().await.get("losses_total", &[]), 0.0);
}
