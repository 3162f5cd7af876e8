//! How fast events are consumed: Pelton with a compiled-in function that does nothing, beside a
//! bare loop over the client's own stream of messages with plain acknowledgements. Both run in
//! turn, in this process, on one private nats-server (file storage, one replica), so that what a
//! shared machine does to one it does to the other; the ratio is what to quote.
//!
//! `make bench` runs it; `QUICK=1` makes it short.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    unused_imports,
    reason = "a benchmark that cannot go on panics; it uses a part of the tests' harness"
)]

#[path = "../it"]
mod it {
    pub(crate) mod harness;
}
#[path = "figures.rs"]
mod figures;

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::consumer::pull;
use figures::{keep, median};
use futures_util::StreamExt;
use it::harness::{NatsServer, Site};
use pelton::{Pelton, Shutdown, event::Event};

/// Bytes of an event.
const SIZE: usize = 256;
/// Events in flight: what a function that does nothing wants.
const CONCURRENCY: usize = 512;

#[tokio::main]
async fn main() {
    let quick = std::env::var_os("QUICK").is_some();
    let (events, rounds) = if quick { (100_000, 3) } else { (300_000, 7) };
    let server = NatsServer::start().await;
    println!("storing {events} events of {SIZE} bytes …");
    fill(&server, events).await;

    if std::env::var_os("ONLY_PELTON").is_some() {
        // For a profiler.
        for round in 0..=rounds {
            println!("{:.0}", rate(events, native(&server, events, round).await));
        }
        return;
    }
    println!("{rounds} rounds, each contender in turn; events/s");
    println!("round        bare      pelton     ratio");
    let mut runs = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let bare = rate(events, bare(&server, events, round).await);
        let native = rate(events, native(&server, events, round).await);
        if round == 0 {
            continue; // to warm up
        }
        println!("{round:>5} {bare:>11.0} {native:>11.0} {:>9.2}", native / bare);
        runs.push((bare, native));
    }
    let ratio = median(runs.iter().map(|(bare, native)| native / bare));
    let bare = median(runs.iter().map(|(bare, _)| *bare));
    let native = median(runs.iter().map(|(_, native)| *native));
    println!("median {bare:>10.0} {native:>11.0} {ratio:>9.2}");
    let report = serde_json::json!({
        "workload": "consume", "events": events, "size": SIZE, "rounds": rounds,
        "median": { "bare": bare, "native": native, "ratio": ratio },
        "runs": runs,
    });
    keep("consume", &report);
}

async fn fill(server: &NatsServer, events: usize) {
    let streams = server.streams().await;
    let config = async_nats::jetstream::stream::Config {
        name: "BENCH".to_owned(),
        subjects: vec!["bench.>".to_owned()],
        ..Default::default()
    };
    streams.js.create_stream(config).await.expect("the stream is made");
    let data = "x".repeat(SIZE);
    streams.send_many(events, |_| ("bench.event".to_owned(), data.clone())).await;
}

/// The loop that the client's documentation shows.
async fn bare(server: &NatsServer, events: usize, round: usize) -> Duration {
    let streams = server.streams().await;
    let config = pull::Config {
        durable_name: Some(format!("bare-{round}")),
        max_ack_pending: 4096,
        ..Default::default()
    };
    let stream = streams.js.get_stream("BENCH").await.expect("the stream is there");
    let consumer = stream.create_consumer(config).await.expect("the consumer is made");
    let mut messages = consumer.stream().messages().await.expect("messages flow");
    let mut started = None;
    for _ in 0..events {
        let message = messages.next().await.expect("there are more").expect("it is a message");
        started.get_or_insert_with(Instant::now);
        message.ack().await.expect("it is acknowledged");
    }
    let took = started.expect("there were events").elapsed();
    drop(messages);
    stream.delete_consumer(&format!("bare-{round}")).await.expect("the consumer goes");
    took
}

async fn native(server: &NatsServer, events: usize, round: usize) -> Duration {
    let site = Site::new();
    let manifest = site.path("pelton.yaml");
    let text = format!(
        "version: 1\nname: bench-{round}\nnats: {{ servers: [\"{}\"] }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         functions: {{ noop: {{ native: true }} }}\n\
         bindings:\n  - {{ subject: bench.event, function: noop, concurrency: {CONCURRENCY} }}\n",
        server.url()
    );
    fs::write(&manifest, text).expect("the manifest is written");
    let shutdown = Shutdown::default();
    let seen = Arc::new(AtomicUsize::new(0));
    let started = Arc::new(Mutex::new(None));
    let took = Arc::new(Mutex::new(Duration::ZERO));
    let count = {
        let (seen, started, took) = (Arc::clone(&seen), Arc::clone(&started), Arc::clone(&took));
        let drain = shutdown.drain.clone();
        move |_: Event| {
            let before = seen.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                *started.lock().expect("nobody panicked") = Some(Instant::now());
            } else if before + 1 == events {
                let start = started.lock().expect("nobody panicked").expect("the first came first");
                *took.lock().expect("nobody panicked") = start.elapsed();
                drain.cancel();
            }
            std::future::ready(())
        }
    };
    Pelton::builder()
        .function("noop", count)
        .manifest(manifest)
        .run(shutdown)
        .await
        .expect("the runner runs");
    assert_eq!(seen.load(Ordering::Relaxed), events, "every event once");
    let streams = server.streams().await;
    let stream = streams.js.get_stream("BENCH").await.expect("the stream is there");
    let durable = format!("bench-{round}-noop");
    stream.delete_consumer(&durable).await.expect("the consumer goes");
    *took.lock().expect("nobody panicked")
}

fn rate(events: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / took.as_secs_f64()
}
