//! What a WebAssembly component costs here, beside what wasmtime alone takes for it.
//!
//! *Calls*: CPU of this process for each event that passes through Pelton and a component, with a
//! fresh instance for each, minus that of events that pass through a native function which does
//! nothing; beside the CPU of a bare call: a store, an instance and a call of the same component with
//! the same event. All in turn, in one run, so that what a shared machine does to one it does to the
//! others; the ratio is what to quote.
//!
//! *Loads*: a function's start with its code in the cache, beside wasmtime's `deserialize_file` of the
//! same code, that with linking and a first instance (`ready`), and reading and digesting the
//! component, by which the cache knows its code (`digest`).
//!
//! `make bench ONLY=wasm` runs it, on a small component by hand, and on those in C and JavaScript if
//! `make guests` has built them; `QUICK=1` makes it short.

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::Config;
use pelton::{
    Pelton, Shutdown,
    event::Event,
    handler::Handler,
    manifest::{Allow, Component, Function, Instances, Runtime},
    metrics::Metrics,
    runtime::{Natives, build},
};
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;

use super::{
    components,
    figures::{Scale, keep, median, number},
    it::harness::{NatsServer, Site, Streams, eventually},
    wasmtime_alone::Bare,
};

/// Bytes of an event.
const SIZE: usize = 256;
const CONCURRENCY: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);

/// A component to call.
struct Guest {
    name: &'static str,
    file: PathBuf,
}

pub(crate) async fn run(scale: Scale) {
    let (events, rounds) = scale.of((10_000, 3), (20_000, 7));
    let server = NatsServer::start().await;
    let bench = Bench::new(&server, events).await;
    let guests = guests();
    let mut report = Vec::new();
    println!("µs of CPU for each event, median of {rounds} rounds");
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "component", "native", "pelton", "minus", "bare", "ratio"
    );
    for guest in &guests {
        report.push(calls(&bench, guest, rounds).await);
    }
    println!("\nµs to load compiled code, median of {} rounds", rounds * 10);
    println!(
        "{:<12} {:>11} {:>9} {:>9} {:>9} {:>12}",
        "component", "deserialize", "ready", "digest", "pelton", "minus digest"
    );
    // What all functions share is made once for a program.
    let metrics = Metrics::new().expect("metrics");
    let first = handler(&guests[0].file, &metrics);
    first.start().await.expect("the component starts");
    for (guest, calls) in guests.iter().zip(&mut report) {
        calls["load"] = loads(guest, &metrics, rounds * 10).await;
    }
    drop(first);
    let report = serde_json::json!({
        "workload": "wasm", "size": SIZE, "concurrency": CONCURRENCY, "events": events,
        "rounds": rounds, "components": report,
    });
    keep("wasm", &report);
}

fn guests() -> Vec<Guest> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guests");
    let mut guests = vec![Guest { name: "by hand", file: components::conform() }];
    for (name, file) in [("C", "ship-c.wasm"), ("JavaScript", "ship-js.wasm")] {
        let file = built.join(file);
        if file.exists() {
            guests.push(Guest { name, file });
        }
    }
    guests
}

async fn calls(bench: &Bench, guest: &Guest, rounds: usize) -> serde_json::Value {
    let bare = Bare::new(&guest.file);
    let mut runs = Vec::new();
    for round in 0..=rounds {
        let native = bench.cpu("native: true").await;
        let run = format!("run: \"{}\", env: {{ WAREHOUSE: north }}", guest.file.display());
        let pelton = bench.cpu(&run).await;
        let alone = bench.bare(&bare).await;
        if round > 0 {
            runs.push([native, pelton, pelton - native, alone, (pelton - native) / alone]);
        }
    }
    let [native, pelton, minus, alone, ratio] =
        std::array::from_fn(|n| median(runs.iter().map(|run| run[n])));
    println!(
        "{:<12} {native:>9.1} {pelton:>9.1} {minus:>9.1} {alone:>9.1} {ratio:>7.2}",
        guest.name
    );
    serde_json::json!({
        "component": guest.name,
        "cpu_us": { "native": native, "pelton": pelton, "bare": alone, "ratio": ratio, "runs": runs },
    })
}

async fn loads(guest: &Guest, metrics: &Metrics, rounds: usize) -> serde_json::Value {
    let bare = Bare::new(&guest.file);
    let mut runs = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let loaded = bare.deserialize();
        let deserialized = micros(began.elapsed());
        bare.instantiate(&loaded).await;
        let ready = micros(began.elapsed());
        let began = Instant::now();
        black_box(Sha256::digest(fs::read(&guest.file).expect("the component")));
        let digest = micros(began.elapsed());
        let began = Instant::now();
        let handler = handler(&guest.file, metrics);
        handler.start().await.expect("the component starts");
        let pelton = micros(began.elapsed());
        runs.push([deserialized, ready, digest, pelton]);
    }
    let [deserialized, ready, digest, pelton] =
        std::array::from_fn(|n| median(runs.iter().map(|run| run[n])));
    let rest = pelton - digest;
    println!(
        "{:<12} {deserialized:>11.0} {ready:>9.0} {digest:>9.0} {pelton:>9.0} {rest:>12.0}",
        guest.name
    );
    serde_json::json!({
        "deserialize_us": deserialized, "ready_us": ready, "digest_us": digest, "pelton_us": pelton,
    })
}

fn handler(file: &Path, metrics: &Metrics) -> std::sync::Arc<dyn Handler> {
    let component = Component {
        file: file.to_owned(),
        allow: Allow::default(),
        instances: Instances::default(),
    };
    let function = Function {
        name: "f".to_owned(),
        runtime: Runtime::Wasm(component),
        env: BTreeMap::new(),
        cwd: PathBuf::from("/"),
        workers: None,
        idle_timeout: PATIENCE,
        start_timeout: PATIENCE,
        memory_limit: None,
        cpu_limit: None,
    };
    build(&function, NonZeroUsize::MIN, metrics.workers("f"), &Natives::new())
        .expect("it can be built")
}

/// Where everything runs, with a stream of events.
struct Bench {
    site: Site,
    streams: Streams,
    url: String,
    events: usize,
}

impl Bench {
    async fn new(server: &NatsServer, events: usize) -> Self {
        let streams = server.streams().await;
        let (name, subjects) = ("IN".to_owned(), vec!["echo".to_owned()]);
        let config = Config { name, subjects, ..Config::default() };
        streams.js.create_stream(config).await.expect("the stream is made");
        streams.send_many(events, |_| ("echo".to_owned(), data())).await;
        Self { site: Site::new(), streams, url: server.url(), events }
    }

    /// Microseconds of CPU for each event of a runner with that function alone.
    async fn cpu(&self, function: &str) -> f64 {
        let name = format!("b{:08x}", fastrand::u32(..));
        let manifest = self.site.path("pelton.yaml");
        let text = format!(
            "version: 1\nname: {name}\nnats: {{ servers: [\"{}\"] }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             functions: {{ f: {{ {function} }} }}\n\
             bindings:\n  - {{ subject: echo, function: f, concurrency: {CONCURRENCY}, start: all }}\n",
            self.url
        );
        fs::write(&manifest, text).expect("the manifest is written");
        let shutdown = Shutdown::default();
        let began = cpu();
        let runner = Pelton::builder()
            .function("f", |_: Event| std::future::ready(()))
            .manifest(manifest)
            .run(shutdown.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(runner));
        let durable = format!("{name}-f");
        eventually("every event is acknowledged", async || {
            let info = self.streams.consumer(&durable).await?;
            let floor = usize::try_from(info.ack_floor.stream_sequence).expect("a count");
            (floor == self.events).then_some(())
        })
        .await;
        let took = cpu() - began;
        shutdown.drain.cancel();
        shutdown.force();
        task.await.expect("the runner ends").expect("the runner runs");
        let stream = self.streams.js.get_stream("IN").await.expect("IN");
        stream.delete_consumer(&durable).await.expect("the consumer goes");
        self.each(took)
    }

    /// Microseconds of CPU for each bare call.
    async fn bare(&self, bare: &Bare) -> f64 {
        let data = data();
        let began = cpu();
        for _ in 0..self.events {
            bare.call("echo", data.as_bytes()).await;
        }
        self.each(cpu() - began)
    }

    fn each(&self, took: Duration) -> f64 {
        micros(took) / number(self.events)
    }
}

/// CPU that this process has taken.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("time goes on")
}

/// An order for the shipping functions; to the one by hand it is bytes.
fn data() -> String {
    let order = r#"{"item": ""}"#;
    format!(r#"{{"item": "{}"}}"#, "x".repeat(SIZE - order.len()))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
