//! What a runtime costs: how long the first event takes while the function is not started, and how
//! many events a second pass through a function that does nothing but answer. All in one run, in
//! this process, on one private nats-server (file storage, one replica).
//!
//! `make bench ONLY=runtimes` runs it; `RUNTIME=exec` one of them. A `python3` that is a script in front
//! of Python adds its own start: `PELTON_PYTHON=/usr/bin/python3` names another one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use pelton::{Pelton, Shutdown, event::Event};
use tokio_util::task::AbortOnDropHandle;

use super::{
    components,
    figures::{keep, number},
    fixture,
    it::harness::{NatsServer, Site, Streams, eventually, free_port},
};

/// Bytes of an event.
const SIZE: usize = 256;
const CONCURRENCY: usize = 64;
/// How often a function is started.
const STARTS: usize = 7;
/// What all of it may take, more or less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function in one runtime.
struct Contender {
    name: &'static str,
    /// The function in the manifest.
    function: String,
    /// Enough events for seconds.
    events: usize,
}

struct Result {
    name: &'static str,
    cold: Duration,
    rate: f64,
}

pub(crate) async fn run() {
    let server = NatsServer::start().await;
    let bench = Bench::new(&server).await;
    let echo = Echo::start(&bench.site);
    let only = std::env::var("RUNTIME").ok();
    let mut results = Vec::new();
    println!("{:<16} {:>12} {:>12} {:>12}", "runtime", "cold start", "events/s", "of native");
    for contender in contenders(&bench.site, echo.port) {
        let is_there = cfg!(feature = "wasm") || contender.name != "wasm";
        if !is_there || only.as_ref().is_some_and(|only| only != contender.name) {
            continue;
        }
        let mut cold = Vec::new();
        for _ in 0..STARTS {
            cold.push(bench.cold_start(&contender).await);
        }
        cold.sort();
        let rate = bench.throughput(&contender).await;
        let result = Result { name: contender.name, cold: cold[STARTS / 2], rate };
        let native = results.first().map_or(rate, |native: &Result| native.rate);
        let cold = format!("{:.1} ms", result.cold.as_secs_f64() * 1000.0);
        println!("{:<16} {cold:>12} {rate:>12.0} {:>12.3}", result.name, rate / native);
        results.push(result);
    }
    let rows = results.iter().map(|result| {
        let cold = result.cold.as_secs_f64() * 1000.0;
        serde_json::json!({ "runtime": result.name, "cold_start_ms": cold, "events_per_s": result.rate })
    });
    let report = serde_json::json!({
        "workload": "runtimes", "size": SIZE, "concurrency": CONCURRENCY, "starts": STARTS,
        "runtimes": rows.collect::<Vec<_>>(),
    });
    keep("runtimes", &report);
}

/// Each gives back what it is given.
fn contenders(site: &Site, port: u16) -> Vec<Contender> {
    site.file("f.py", "def handle(event, context):\n    return event.raw\n");
    site.file("f.mjs", "export function handle(event) { return event.raw; }\n");
    let interpreter = std::env::var("PELTON_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let python = |file| format!("[\"{interpreter}\", \"{}\"]", fixture(file).display());
    let component = components::conform();
    let contender = |name, function, events| Contender { name, function, events };
    vec![
        contender("native", "native: true".to_owned(), 200_000),
        contender("wasm", format!("run: \"{}\"", component.display()), 100_000),
        contender("process, Python", "run: f.py".to_owned(), 60_000),
        contender("process, Node", "run: f.mjs".to_owned(), 60_000),
        contender("command", format!("command: {}", python("conform_command.py")), 30_000),
        contender("http", format!("http: \"http://127.0.0.1:{port}/\""), 20_000),
        contender("lambda", format!("lambda: {}", python("conform_lambda.py")), 10_000),
        contender("exec", "exec: [cat]".to_owned(), 1_500),
    ]
}

/// A service that gives back what it is posted.
struct Echo {
    child: Child,
    port: u16,
}

impl Echo {
    fn start(site: &Site) -> Self {
        site.file(
            "echo.mjs",
            "import { createServer } from 'node:http';
             createServer((request, response) => request.pipe(response))
               .listen(Number(process.argv[2]), '127.0.0.1');",
        );
        let port = free_port();
        let mut command = Command::new("node");
        command.arg(site.path("echo.mjs")).arg(port.to_string()).stdin(Stdio::null());
        Self { child: command.spawn().expect("node starts"), port }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.child.kill().expect("node is killed");
        self.child.wait().expect("node ends");
    }
}

/// Where everything runs, with the streams `IN` and `OUT`.
struct Bench {
    site: Site,
    client: async_nats::Client,
    streams: Streams,
    url: String,
}

impl Bench {
    async fn new(server: &NatsServer) -> Self {
        let streams = server.streams().await;
        for (name, subject) in [("IN", "echo"), ("OUT", "out")] {
            let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
            let config = Config { name, subjects, ..Config::default() };
            streams.js.create_stream(config).await.expect("the stream is made");
        }
        let client = async_nats::connect(server.url()).await.expect("the bench connects");
        Self { site: Site::new(), client, streams, url: server.url() }
    }

    /// From the moment the event is stored to the one its output is, by the server's clock.
    async fn cold_start(&self, contender: &Contender) -> Duration {
        let mut outputs = self.client.subscribe("out").await.expect("outputs are seen");
        let run = self.run(contender, "start: new, publish: out").await;
        let input = self.streams.send("echo", data()).await;
        tokio::time::timeout(PATIENCE, outputs.next()).await.expect("an output in time");
        let output = eventually("the output is stored", async || {
            let stream = self.streams.js.get_stream("OUT").await.expect("OUT");
            stream.get_last_raw_message_by_subject("out").await.ok()
        })
        .await;
        let stream = self.streams.js.get_stream("IN").await.expect("IN");
        let input = stream.get_raw_message(input).await.expect("the event");
        let took = output.time - input.time;
        let stream = self.streams.js.get_stream("OUT").await.expect("OUT");
        stream.purge().await.expect("the output goes");
        run.end().await;
        took.try_into().expect("outputs come behind events")
    }

    /// Events acknowledged in a second, once a tenth of them is behind it.
    async fn throughput(&self, contender: &Contender) -> f64 {
        let stream = self.streams.js.get_stream("IN").await.expect("IN");
        stream.purge().await.expect("IN is emptied");
        let events = contender.events;
        let data = data();
        self.streams.send_many(events, |_| ("echo".to_owned(), data.clone())).await;
        let run = self.run(contender, "start: all").await;
        let mut first = None;
        let deadline = Instant::now() + PATIENCE;
        let rate = loop {
            let info = self.streams.consumer(&run.durable).await.expect("the consumer");
            let now = Instant::now();
            assert!(now < deadline, "{} is stuck", contender.name);
            let open = usize::try_from(info.num_pending).expect("a count") + info.num_ack_pending;
            let done = events - open.min(events);
            match first {
                None if done >= events / 10 => first = Some((done, now)),
                Some((before, since)) if done == events => {
                    break per_second(events - before, now - since);
                }
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        run.end().await;
        rate
    }

    /// A runner with that function alone, which has not started it.
    async fn run(&self, contender: &Contender, binding: &str) -> Run {
        let name = format!("b{:08x}", fastrand::u32(..));
        let manifest = self.site.path("pelton.yaml");
        let text = format!(
            "version: 1\nname: {name}\nnats: {{ servers: [\"{}\"] }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             functions: {{ f: {{ {} }} }}\n\
             bindings:\n  - {{ subject: echo, function: f, concurrency: {CONCURRENCY}, {binding} }}\n",
            self.url, contender.function
        );
        fs::write(&manifest, text).expect("the manifest is written");
        let shutdown = Shutdown::default();
        let runner = Pelton::builder()
            .function("f", async |event: Event| pelton::event::Outgoing {
                data: event.data,
                ..pelton::event::Outgoing::default()
            })
            .manifest(manifest)
            .run(shutdown.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            runner.await.expect("the runner runs");
        }));
        let durable = format!("{name}-f");
        eventually("the runner pulls", async || {
            let info = self.streams.consumer(&durable).await?;
            (info.num_waiting > 0 || info.num_ack_pending > 0 || info.ack_floor.stream_sequence > 0)
                .then_some(())
        })
        .await;
        Run { shutdown, task, durable }
    }
}

/// A runner that runs.
struct Run {
    shutdown: Shutdown,
    task: AbortOnDropHandle<()>,
    durable: String,
}

impl Run {
    async fn end(self) {
        self.shutdown.drain.cancel();
        self.shutdown.force();
        self.task.await.expect("the runner ends");
    }
}

fn data() -> String {
    "x".repeat(SIZE)
}

fn per_second(events: usize, took: Duration) -> f64 {
    number(events) / took.as_secs_f64()
}
