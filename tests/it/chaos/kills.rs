//! Runners and servers are killed.

use std::{collections::HashMap, time::Duration};

use super::{Size, check::check, fleet::Fleet, load, report::Report};
use crate::harness::{NatsServer, Streams};

/// Runners and servers are killed while events come in: each output is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_through_random_kills() {
    let size = Size::of((2_000, 6), (200_000, 60));
    let mut report = Report::new("kills", size.seed);
    let site = load::site(load::PLAIN_ONLY, "5s");
    let mut server = NatsServer::start().await;
    let mut fleet = Fleet::start(&site, &server, 3, size.seed).await;
    let streams = server.streams().await;
    let keys = (size.events / 200).max(256);
    let producing = load::produce(streams.clone(), keys, size.events, Duration::ZERO);
    let producer = tokio::spawn(producing);
    for kill in 1..=size.kills {
        fleet.wait_outputs(size.events * kill / (size.kills + 1)).await;
        // One in six is a server.
        if kill % 6 == 3 {
            fleet.kill_server(&mut server).await;
        } else {
            let victim = fleet.any();
            fleet.kill(victim).await;
        }
    }
    producer.await.expect("the producer ends");
    fleet.wait_done(load::PLAIN_ONLY, size.events).await;
    check(&mut report, &fleet, load::PLAIN_ONLY).await;
    report.line("longest stay of an event, s", longest_stay(&streams).await);
    report.line("duplicate window, s", 30 * 60);
    fleet.stop().await;
    report.print();
}

/// From the moment an event was stored to that of its output.
async fn longest_stay(streams: &Streams) -> i64 {
    let inputs = streams.read_timed("IN").await;
    let stored: HashMap<_, _> = inputs.iter().map(|(m, at)| (m.payload.clone(), *at)).collect();
    let outputs = streams.read_timed("OUT").await;
    let stays = outputs.iter().map(|(m, at)| (*at - stored[&m.payload]).whole_seconds());
    stays.max().unwrap_or_default()
}
