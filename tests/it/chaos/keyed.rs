//! Order and state by key, while the runner at work is killed or frozen.

use std::time::Duration;

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::NatsServer;

/// Runners are killed and frozen, and servers killed: every key's events are applied in order, once each.
#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_applied_in_order_once_through_kills_and_freezes() {
    let size = Size::of((2_000, 4), (200_000, 24));
    let mut report = Report::new("ordered", size.seed);
    let site = load::site(load::KEYED_ONLY, "4s");
    let mut server = NatsServer::start().await;
    let mut fleet = Fleet::start(&site, &server, 3, size.seed).await;
    let streams = server.streams().await;
    let keys = (size.events / 200).max(1);
    load::produce(streams.clone(), keys, size.events, Duration::ZERO).await;
    let mut takeovers = Vec::new();
    for kill in 1..=size.kills {
        fleet.wait_outputs(size.events * kill / (size.kills + 1)).await;
        if kill % 4 == 3 {
            fleet.kill_server(&mut server).await;
            continue;
        }
        let owner = fleet.owner().await;
        takeovers.push(match kill % 4 {
            // Stopped for longer than its claims last; it goes on then.
            2 => fleet.freeze(owner, Duration::from_secs(8)).await,
            _ => fleet.kill(owner).await,
        });
    }
    fleet.wait_done(load::KEYED_ONLY, size.events).await;
    check(&mut report, &fleet, load::KEYED_ONLY).await;

    let outputs = streams.read_timed("OUT").await;
    let mut gaps: Vec<f64> = takeovers
        .iter()
        .filter_map(|at| {
            outputs.iter().map(|(_, stored)| *stored - *at).find(|gap| gap.is_positive())
        })
        .map(time::Duration::as_seconds_f64)
        .collect();
    gaps.sort_by(f64::total_cmp);
    report.line("takeover, median s", format!("{:.1}", gaps[gaps.len() / 2]));
    report.line("takeover, worst s", format!("{:.1}", gaps[gaps.len() - 1]));
    fleet.stop().await;
    report.print();
}
