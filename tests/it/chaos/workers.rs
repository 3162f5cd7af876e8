//! The processes in which functions run are killed, whatever they do.

use std::time::Duration;

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::{NatsServer, Site};

/// Gives back what it gets, in batches.
const BATCH: &str = "def handle(events, context):\n    return [event.raw for event in events]\n";

/// Makes a function so slow that who kills its process kills it at work.
const SLOW: &str = "\nimport time\n\nquick = handle\n\ndef handle(what, context):\n    time.sleep(0.01 if hasattr(what, 'raw') else 0.05)\n    return quick(what, context)\n";

#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_while_workers_are_killed() {
    kills("workers", load::BOTH, &load::body(load::BOTH, "10s")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_while_workers_with_batches_are_killed() {
    let body = load::body(load::PLAIN_ONLY, "10s");
    let body = body.replace("ack_wait", "batch: { max: 20, wait: 20ms }, ack_wait");
    kills("workers, batches", load::PLAIN_ONLY, &body).await;
}

async fn kills(name: &'static str, bindings: &[&str], body: &str) {
    let size = Size::of((1_000, 12), (100_000, 400));
    let mut report = Report::new(name, size.seed);
    // Whoever is killed is charged: events may have to try often.
    let retry = "retry: { attempts: 1000, backoff: 10ms..100ms, losses: 100 }";
    let site = Site::with(&body.replace("retry: { losses: 100 }", retry));
    let plain = if body.contains("batch") { BATCH } else { load::PLAIN };
    site.file("plain.py", format!("{plain}{SLOW}"));
    site.file("keyed.py", format!("{}{SLOW}", load::KEYED));
    let server = NatsServer::start().await;
    let mut fleet = Fleet::start(&site, &server, 2, size.seed).await;
    // There is more to do than workers can.
    let keys = (size.events / 20).min(1_000);
    load::produce(server.streams().await, keys, size.events, Duration::ZERO).await;
    let all = bindings.len() * size.events;
    for kill in 1..=size.kills {
        fleet.wait_outputs(all * kill / (size.kills + 1)).await;
        tokio::time::sleep(Duration::from_millis(fleet.dice.u64(..30))).await;
        fleet.kill_worker();
    }
    fleet.wait_done(bindings, size.events).await;
    check(&mut report, &fleet, bindings).await;
    let killed = fleet.injected.get("workers killed").copied().unwrap_or_default();
    assert!(killed > 0, "no worker was there to be killed");
    let starts = fleet.sum("worker_starts_total", &[("reason", "crash")]).await;
    report.line("workers that followed one that died", starts);
    let crash = [("outcome", "crash")];
    report.line("events charged with a crash", fleet.sum("invocations_total", &crash).await);
    fleet.stop().await;
    report.print();
}
