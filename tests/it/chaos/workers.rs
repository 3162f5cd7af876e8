//! The processes in which functions run are killed, whatever they do.

use std::time::Duration;

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::{NatsServer, Site};

/// Gives back what it gets, in batches.
const BATCH: &str = "def handle(events, context):\n    return [event.raw for event in events]\n";

#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_while_workers_are_killed() {
    kills("workers", load::BOTH, &load::body(load::BOTH, "10s")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_while_workers_with_batches_are_killed() {
    let body = load::body(load::PLAIN_ONLY, "10s");
    let body = body.replace("ack_wait", "batch: { max: 50, wait: 20ms }, ack_wait");
    kills("workers, batches", load::PLAIN_ONLY, &body).await;
}

async fn kills(name: &'static str, bindings: &[&str], body: &str) {
    let size = Size::of((2_000, 20), (100_000, 400));
    let mut report = Report::new(name, size.seed);
    // Whoever is killed is charged: events may have to try often.
    let retry = "retry: { attempts: 1000, backoff: 10ms..100ms, losses: 100 }";
    let site = Site::with(&body.replace("retry: { losses: 100 }", retry));
    load::functions(&site);
    if body.contains("batch") {
        site.file("plain.py", BATCH);
    }
    let server = NatsServer::start().await;
    let mut fleet = Fleet::start(&site, &server, 2, size.seed).await;
    let keys = (size.events / 200).max(20);
    let producing = load::produce(server.streams().await, keys, size.events, Duration::ZERO);
    let producer = tokio::spawn(producing);
    let all = bindings.len() * size.events;
    for kill in 1..=size.kills {
        fleet.wait_outputs(all * kill / (size.kills + 1)).await;
        fleet.kill_worker();
    }
    producer.await.expect("the producer ends");
    fleet.wait_done(bindings, size.events).await;
    check(&mut report, &fleet, bindings).await;
    let crashed = [("outcome", "crash")];
    report.line("events charged with a crash", fleet.sum("invocations_total", &crashed).await);
    fleet.stop().await;
    report.print();
}
