//! A cluster of three servers, of which one is killed again and again.

use std::time::Duration;

use super::{Size, check::check, fleet::Fleet, is_full, load, report::Report};
use crate::harness::{Cluster, Site};

/// One node at a time is killed and brought back, every other time the leader of a stream.
#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_while_nodes_of_a_cluster_die() {
    let size = Size::of((1_000, 2), (60_000, 12));
    let period = Duration::from_secs(if is_full() { 10 } else { 3 });
    let mut report = Report::new("cluster", size.seed);
    let mut cluster = Cluster::start().await;
    let streams = cluster.streams().await;
    let site = site(&cluster);
    let urls = (0..3).map(|node| cluster.url(node)).collect();
    let mut fleet = Fleet::at(&site, urls, streams.clone(), size.seed).await;
    let keys = (size.events / 200).max(50);
    // Events come in for as long as nodes die.
    let each = u32::try_from(size.events / keys).expect("a count");
    let kills = u32::try_from(size.kills).expect("a count");
    let pace = period * kills / each.max(1);
    let producer = tokio::spawn(load::produce(streams.clone(), keys, size.events, pace));
    for kill in 0..size.kills {
        let next = tokio::time::Instant::now() + period;
        cluster.whole(&["IN", "OUT", "KV_counts"]).await;
        let leads = fleet.dice.choice(["IN", "OUT", "KV_counts"]).expect("there are three");
        let victim = match kill % 2 {
            0 => cluster.leader(leads).await,
            _ => fleet.dice.usize(..3),
        };
        cluster.kill9(victim).await;
        fleet.note(if kill % 2 == 0 { "leaders of a stream killed" } else { "nodes killed" });
        tokio::time::sleep(Duration::from_millis(fleet.dice.u64(100..2_000))).await;
        cluster.up(victim).await;
        tokio::time::sleep_until(next).await;
    }
    producer.await.expect("the producer ends");
    fleet.wait_done(load::BOTH, size.events).await;
    cluster.whole(&["IN", "OUT", "KV_counts"]).await;
    check(&mut report, &fleet, load::BOTH).await;
    report.runners(&fleet).await;
    fleet.stop().await;
    report.print();
}

/// The usual manifest, at three servers, with three replicas of everything.
fn site(cluster: &Cluster) -> Site {
    let site = Site::new();
    let servers: Vec<String> = (0..3).map(|node| format!("\"{}\"", cluster.url(node))).collect();
    site.file(
        "pelton.yaml",
        format!(
            "version: 1\nname: t\nnats: {{ servers: [{}] }}\ndefaults: {{ num_replicas: 3 }}\nstreams:\n  IN: {{ subjects: [\"in.>\"] }}\n  OUT: {{ subjects: [\"out.>\"], duplicate_window: 30m }}\n{}",
            servers.join(", "),
            load::body(load::BOTH, "4s")
        ),
    );
    load::functions(&site);
    site
}
