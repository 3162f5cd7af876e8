//! What order costs: the same events through the same function with `order_by` and without it, for
//! few and for many keys. Both run in turn, in this process, on one private nats-server (file
//! storage, one replica), so that what a shared machine does to one it does to the other; the ratio
//! is what to quote. The function does nothing, compiled in and in Python.
//!
//! `make bench-order` runs it; `QUICK=1` makes it short.

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
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::Config;
use figures::{keep, median};
use it::harness::{NatsServer, Site, Streams};
use pelton::{Pelton, Shutdown, event::Event, runtime::launch};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of an event.
const SIZE: usize = 256;
const CONCURRENCY: usize = 64;
const KEYS: [usize; 3] = [1, 16, 1_000];
/// What one run may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A function that does nothing.
struct Function {
    name: &'static str,
    /// The function in the manifest.
    text: &'static str,
    events: usize,
}

/// Where everything runs.
struct Bench {
    site: Site,
    streams: Streams,
    url: String,
}

fn main() {
    // Workers are started by executing this program once more.
    launch::intercept();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(bench());
}

async fn bench() {
    let quick = std::env::var_os("QUICK").is_some();
    let (scale, rounds) = if quick { (10, 3) } else { (1, 7) };
    let server = NatsServer::start().await;
    let bench = Bench { site: Site::new(), streams: server.streams().await, url: server.url() };
    bench.site.file("f.py", "def handle(event, context):\n    return None\n");
    let functions = [
        Function { name: "native", text: "native: true", events: 100_000 / scale },
        Function { name: "Python", text: "run: f.py", events: 40_000 / scale },
    ];
    println!("{rounds} rounds, with and without order in turn; events/s, medians");
    println!(
        "{:<8} {:>6} {:>12} {:>12} {:>8}",
        "function", "keys", "unordered", "ordered", "ratio"
    );
    let mut rows = Vec::new();
    for function in &functions {
        for keys in KEYS {
            let runs = bench.compare(function, keys, rounds).await;
            let unordered = median(runs.iter().map(|(unordered, _)| *unordered));
            let ordered = median(runs.iter().map(|(_, ordered)| *ordered));
            let ratio = median(runs.iter().map(|(unordered, ordered)| ordered / unordered));
            println!(
                "{:<8} {keys:>6} {unordered:>12.0} {ordered:>12.0} {ratio:>8.2}",
                function.name
            );
            rows.push(serde_json::json!({
                "function": function.name, "keys": keys, "events": function.events,
                "median": { "unordered": unordered, "ordered": ordered, "ratio": ratio },
                "runs": runs,
            }));
        }
    }
    let report = serde_json::json!({
        "workload": "ordered", "size": SIZE, "concurrency": CONCURRENCY, "rounds": rounds,
        "rows": rows,
    });
    keep("ordered", &report);
}

impl Bench {
    /// The rates of each round, without order and with it.
    async fn compare(&self, function: &Function, keys: usize, rounds: usize) -> Vec<(f64, f64)> {
        drop(self.streams.js.delete_stream("IN").await);
        let config = Config {
            name: "IN".to_owned(),
            subjects: vec!["in.>".to_owned()],
            ..Config::default()
        };
        self.streams.js.create_stream(config).await.expect("the stream is made");
        let data = "x".repeat(SIZE);
        let event = |n| (format!("in.k{}", n % keys), data.clone());
        self.streams.send_many(function.events, event).await;
        let mut runs = Vec::with_capacity(rounds);
        for round in 0..=rounds {
            let unordered = self.rate(function, "").await;
            let ordered = self.rate(function, ", order_by: { token: 2 }").await;
            // The first one is to warm up.
            if round > 0 {
                runs.push((unordered, ordered));
            }
        }
        runs
    }

    /// Events acknowledged in a second, from the first of them on.
    async fn rate(&self, function: &Function, order: &str) -> f64 {
        let name = format!("b{:08x}", fastrand::u32(..));
        let manifest = self.site.path("pelton.yaml");
        let text = format!(
            "version: 1\nname: {name}\nnats: {{ servers: [\"{}\"] }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             functions: {{ f: {{ {} }} }}\n\
             bindings:\n  - {{ subject: in.>, function: f, concurrency: {CONCURRENCY}{order} }}\n",
            self.url, function.text
        );
        fs::write(&manifest, text).expect("the manifest is written");
        let shutdown = Shutdown::default();
        let runner = Pelton::builder()
            .function("f", async |_: Event| ())
            .manifest(manifest)
            .run(shutdown.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            runner.await.expect("the runner runs");
        }));
        let durable = format!("{name}-f");
        let rate = self.watch(&durable, function.events).await;
        shutdown.drain.cancel();
        shutdown.force();
        task.await.expect("the runner ends");
        let stream = self.streams.js.get_stream("IN").await.expect("IN");
        stream.delete_consumer(&durable).await.expect("the consumer goes");
        rate
    }

    async fn watch(&self, durable: &str, events: usize) -> f64 {
        let mut first = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Instant::now();
            assert!(now < deadline, "{durable} is stuck");
            if let Some(info) = self.streams.consumer(durable).await {
                let pending = usize::try_from(info.num_pending).expect("a count");
                let done = events - (pending + info.num_ack_pending).min(events);
                match first {
                    None if done > 0 => first = Some((done, now)),
                    Some((before, since)) if done == events => {
                        assert!(before < events, "too few events to measure");
                        break per_second(events - before, now - since);
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn per_second(events: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / took.as_secs_f64()
}
