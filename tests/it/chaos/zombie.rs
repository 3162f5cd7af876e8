//! Runners that come back from the dead: stopped for twice as long as their claims last, while
//! others go on with their events, and then let go on themselves.

use std::time::Duration;

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::NatsServer;

const ACK_WAIT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_was_frozen_stores_nothing_twice() {
    zombies("zombie", load::PLAIN_ONLY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_was_frozen_applies_nothing_to_state_twice() {
    zombies("zombie, in order with state", load::KEYED_ONLY).await;
}

async fn zombies(name: &'static str, bindings: &[&str]) {
    let size = Size::of((2_000, 2), (100_000, 20));
    let mut report = Report::new(name, size.seed);
    let site = load::site(bindings, "2s");
    let server = NatsServer::start().await;
    let mut fleet = Fleet::start(&site, &server, 2, size.seed).await;
    let keys = (size.events / 200).max(20);
    let producing = load::produce(server.streams().await, keys, size.events, Duration::ZERO);
    let producer = tokio::spawn(producing);
    for freeze in 1..=size.kills {
        fleet.wait_outputs(size.events * freeze / (size.kills + 2)).await;
        let zombie = if bindings == load::KEYED_ONLY { fleet.owner().await } else { fleet.any() };
        let before = fleet.outputs().await;
        fleet.freeze(zombie, 2 * ACK_WAIT).await;
        // Whatever the other one does with its events, it has begun to.
        fleet.wait_outputs((before + 1).min(size.events)).await;
    }
    producer.await.expect("the producer ends");
    fleet.wait_done(bindings, size.events).await;
    check(&mut report, &fleet, bindings).await;
    report.some("events delivered again", fleet.sum("redeliveries_total", &[]).await);
    let known = [("outcome", "duplicate")];
    report.line("outputs known already", fleet.sum("published_events_total", &known).await);
    fleet.stop().await;
    report.print();
}
