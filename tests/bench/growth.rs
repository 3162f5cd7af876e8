//! What grows with what: bindings, backlog, size of events, processes.

use std::{
    env,
    time::{Duration, Instant},
};

use async_nats::jetstream::consumer::DeliverPolicy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    bench::{Bench, event},
    chart::{self, Panel},
    contender::{Contender, Kind, Running},
    figures::{Scale, keep, keep_file, median, number},
    generator::Load,
    it::harness::{eventually, free_port},
    processes::{cpu, megabytes},
    watch::{Figures, Window},
    workload::{Work, Workload},
};

/// After its start a runner has looked at everything once.
const SETTLED: Duration = Duration::from_secs(3);
/// Until the backlog is worked off.
const TO_THE_END: Window = Window { warm_up: Duration::ZERO, length: Duration::from_secs(600) };

pub(crate) async fn run(scale: Scale) {
    let (mut report, mut panels) = (serde_json::Map::new(), Vec::new());
    let mut take = |name: &str, table: Table| {
        table.show(name);
        report.insert(name.to_owned(), table.json());
        panels.extend(table.panels(name));
    };
    take("bindings", bindings(scale).await);
    take("backlog", backlog(scale).await);
    take("bytes of an event", sizes(scale).await);
    take("processes, io", processes(scale).await);
    take("memory", memory().await);
    keep("growth", &serde_json::Value::Object(report));
    keep_file("growth.svg", &chart::draw(&panels));
}

/// A line for each place, a column for each figure.
struct Table {
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<f64>)>,
}

fn workload(stream: &'static str, subject: &'static str) -> Workload {
    Workload {
        name: "growth",
        work: Work::Consume,
        stream,
        subject,
        bindings: 1,
        binding: "concurrency: 512",
        admin: 0,
        contenders: Vec::new(),
    }
}

/// Start: from its beginning until it is ready, on a server that has nothing of it, and on one that has
/// all. Then 2,000 events/s, which come one by one however many bindings there are.
async fn bindings(scale: Scale) -> Table {
    const RATE: u32 = 2_000;
    let length = Duration::from_secs(scale.of(2, 5));
    let mut rows = Vec::new();
    for count in [1, 10, 100, 1000] {
        let bench = Bench::new().await;
        bench.create("GROW", "grow.*").await;
        let admin = free_port();
        let binding = "concurrency: 16";
        let workload = Workload { bindings: count, admin, binding, ..workload("GROW", "grow.*") };
        let native = Contender::one(Kind::Native);
        let began = Instant::now();
        let mut running = bench.start(native, &workload, DeliverPolicy::All).await;
        ready(&mut running, admin).await;
        let first = began.elapsed();
        running.kill();
        let began = Instant::now();
        running.start_again();
        ready(&mut running, admin).await;
        let again = began.elapsed();
        let pid = running.pids()[0];
        tokio::time::sleep(SETTLED).await;
        let before = cpu(pid);
        tokio::time::sleep(length).await;
        let idle = (cpu(pid) - before).as_secs_f64() / length.as_secs_f64();
        let rss = megabytes(pid, "VmRSS");
        let (before, began) = (cpu(pid), Instant::now());
        let (port, subject) = (bench.server.port(), "grow.*".to_owned());
        let load = Load { port, subject, subjects: count, rate: RATE, length };
        let sent = load.send().await;
        bench.worked_off(&mut running).await;
        let busy = (cpu(pid) - before).as_secs_f64() - idle * began.elapsed().as_secs_f64();
        let each = busy * 1e6 / number(sent);
        let figures = [first.as_secs_f64(), again.as_secs_f64(), rss, idle * 100.0, each];
        rows.push((count.to_string(), figures.to_vec()));
        drop(running);
    }
    Table { columns: vec!["start, s", "again, s", "RSS, MB", "idle CPU, %", "CPU µs/event"], rows }
}

async fn ready(running: &mut Running, admin: u16) {
    eventually("the runner is ready", async || {
        running.assert_alive();
        let mut socket = TcpStream::connect(("127.0.0.1", admin)).await.ok()?;
        let request = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

/// From the first event to the last.
async fn backlog(scale: Scale) -> Table {
    let full = env::var("FULL").is_ok_and(|full| full == "1");
    let most = if full { 10_000_000 } else { scale.of(100_000, 1_000_000) };
    let bench = Bench::new().await;
    bench.create("DEEP", "deep").await;
    let (mut stored, mut rows) = (0, Vec::new());
    for total in [10_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|total| *total <= most)
    {
        bench.streams.send_many(total - stored, |n| ("deep".to_owned(), event(n, 100))).await;
        stored = total;
        let workload = workload("DEEP", "deep");
        let figures = rounds(&bench, &workload, total, Kind::Native, scale).await;
        let bare = rounds(&bench, &workload, total, Kind::Bare, scale).await;
        rows.push((total.to_string(), vec![figures.cpu, bare.cpu, figures.rate / bare.rate]));
    }
    Table { columns: vec!["CPU µs/event", "bare's", "rate of bare"], rows }
}

async fn sizes(scale: Scale) -> Table {
    let mut rows = Vec::new();
    for (size, total) in [(256, 200_000), (4096, 60_000), (65_536, 6_000), (1 << 20, 400)] {
        let bench = Bench::new().await;
        bench.create("SIZE", "size").await;
        bench.streams.send_many(total, |n| ("size".to_owned(), event(n, size))).await;
        let workload = workload("SIZE", "size");
        let figures = rounds(&bench, &workload, total, Kind::Native, scale).await;
        let bare = rounds(&bench, &workload, total, Kind::Bare, scale).await;
        let megabytes = figures.rate * number(size) / 1e6;
        let row = vec![megabytes, figures.cpu, bare.cpu, figures.rate / bare.rate];
        rows.push((size.to_string(), row));
    }
    Table { columns: vec!["MB/s", "CPU µs/event", "bare's", "rate of bare"], rows }
}

/// Medians of several runs over a whole backlog.
async fn rounds(
    bench: &Bench,
    workload: &Workload,
    total: usize,
    kind: Kind,
    scale: Scale,
) -> Figures {
    let mut runs = Vec::new();
    for _ in 0..scale.of(2, 5) {
        let mut running = bench.start(Contender::one(kind), workload, DeliverPolicy::All).await;
        runs.push(bench.figures(&mut running, total, TO_THE_END).await);
        bench.end(running).await;
    }
    let of = |what: fn(&Figures) -> f64| median(runs.iter().map(what));
    Figures {
        rate: of(|run| run.rate),
        cpu: of(|run| run.cpu),
        server_cpu: of(|run| run.server_cpu),
    }
}

/// Runners that share a consumer, with a handler that sleeps 50 ms, 64 at a time in each.
async fn processes(scale: Scale) -> Table {
    let bench = Bench::new().await;
    bench.create("WAIT", "wait").await;
    let total = 60_000;
    bench.streams.send_many(total, |n| ("wait".to_owned(), event(n, 256))).await;
    let workload =
        Workload { work: Work::Sleep, binding: "concurrency: 64", ..workload("WAIT", "wait") };
    let window =
        Window { warm_up: Duration::from_millis(500), length: Duration::from_secs(scale.of(1, 3)) };
    let (mut rows, mut alone) = (Vec::new(), [0.0; 2]);
    for count in [1, 2, 4, 8] {
        let mut row = Vec::new();
        for (kind, alone) in [Kind::Native, Kind::Python].into_iter().zip(&mut alone) {
            let contender = Contender { kind, processes: count };
            let mut running = bench.start(contender, &workload, DeliverPolicy::All).await;
            let figures = bench.figures(&mut running, total, window).await;
            bench.end(running).await;
            if count == 1 {
                *alone = figures.rate;
            }
            row.extend([figures.rate, figures.rate / (number(count) * *alone)]);
        }
        rows.push((count.to_string(), row));
    }
    Table { columns: vec!["native/s", "of linear", "python/s", "of linear"], rows }
}

/// Slots for 256 events of 1 MiB, whose handler sleeps 50 ms.
async fn memory() -> Table {
    let bench = Bench::new().await;
    bench.create("WAIT", "wait").await;
    let total = 1_000;
    bench.streams.send_many(total, |n| ("wait".to_owned(), event(n, 1 << 20))).await;
    let workload =
        Workload { work: Work::Sleep, binding: "concurrency: 256", ..workload("WAIT", "wait") };
    let mut running =
        bench.start(Contender::one(Kind::Native), &workload, DeliverPolicy::All).await;
    let figures = bench.figures(&mut running, total, TO_THE_END).await;
    let peak = megabytes(running.pids()[0], "VmHWM");
    bench.end(running).await;
    Table {
        columns: vec!["peak, MB", "events/s"],
        rows: vec![("256 slots, 1 MiB".to_owned(), vec![peak, figures.rate])],
    }
}

impl Table {
    fn show(&self, name: &str) {
        let head = self.columns.iter().map(|column| format!("{column:>14}")).collect::<String>();
        println!("\n{name:<18}{head}");
        for (place, figures) in &self.rows {
            let figures = figures.iter().map(|figure| format!("{figure:>14.2}"));
            println!("{place:<18}{}", figures.collect::<String>());
        }
    }

    /// One for each column, since their units differ.
    fn panels(&self, name: &str) -> Vec<Panel> {
        let places: Vec<String> = self.rows.iter().map(|(place, _)| place.clone()).collect();
        let panel = |(n, column): (usize, &&str)| Panel::Curves {
            title: format!("{name}: {column}"),
            places: places.clone(),
            curves: vec![(String::new(), self.rows.iter().map(|(_, row)| row[n]).collect())],
        };
        self.columns.iter().enumerate().map(panel).collect()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({ "columns": self.columns, "rows": self.rows })
    }
}
