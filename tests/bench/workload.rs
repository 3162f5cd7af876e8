//! What contenders do, and the table of who does it how fast.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;

use super::{
    bench::{Bench, event},
    chart::{self, Bar, Panel},
    contender::{Contender, Kind},
    figures::{Scale, keep, keep_file, median},
    watch::{Figures, Window},
};

/// How long a handler of the workload `io` sleeps.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// By how much later each of several processes is at work.
const LAST_STARTS: Duration = Duration::from_millis(400);

/// What is done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Consume,
    /// One output, stored before the event is acknowledged.
    Transform,
    /// As `Transform`, with the time at which the handler began as the output.
    Stamp,
    Sleep,
    Ordered,
    Batch,
}

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) stream: &'static str,
    /// A `*` stands for the number of the binding.
    pub(crate) subject: &'static str,
    pub(crate) bindings: usize,
    /// What Pelton's bindings have besides subject and function.
    pub(crate) binding: &'static str,
    /// The port of a runner's admin server.
    pub(crate) admin: u16,
    pub(crate) contenders: Vec<Contender>,
}

/// A stream to read from: name, subject (what the component does with its events), bytes of an event.
const STREAMS: [(&str, &str, usize); 3] =
    [("IN", "nothing", 256), ("ECHO", "echo", 256), ("BIG", "big", 64 * 1024)];

/// Every workload, the bare loop first in each. What Pelton is set to: as many events in flight as make
/// a function that does next to nothing fastest; more do not.
///
/// The peers in their best setting: FastStream as `peers/subscriber.py` says, nats.js with a thousand
/// messages under way; both also in as many processes as Pelton starts workers on two cores.
pub(crate) fn all() -> Vec<Workload> {
    use Kind::{Bare, BareAlike, FastStream, Native, NatsJs, Node, Python, Wasm};
    let one = Contender::one;
    let many = |kind, processes| Contender { kind, processes };
    let ours = [one(Bare), one(Native), one(Python), one(Node), one(Wasm)];
    let ours_and = |more: &[Contender]| [&ours, more].concat();
    let peers = [one(FastStream), many(FastStream, 2), one(NatsJs), many(NatsJs, 2)];
    let base = |name, work, contenders| Workload {
        name,
        work,
        stream: "IN",
        subject: "nothing",
        bindings: 1,
        binding: "concurrency: 512",
        admin: 0,
        contenders,
    };
    vec![
        base("consume", Work::Consume, ours_and(&peers)),
        Workload {
            stream: "ECHO",
            subject: "echo",
            binding: "concurrency: 512, publish: out.event",
            ..base(
                "transform",
                Work::Transform,
                [&ours[..1], &[one(BareAlike)], &ours[1..], &peers].concat(),
            )
        },
        Workload { bindings: 3, ..base("fan-out", Work::Consume, ours_and(&[])) },
        Workload {
            stream: "BIG",
            subject: "big",
            ..base("big", Work::Consume, ours[..4].to_vec())
        },
        Workload {
            binding: "concurrency: 64",
            ..base(
                "io",
                Work::Sleep,
                [Bare, Native, Python, Node]
                    .into_iter()
                    .flat_map(|kind| [one(kind), many(kind, 8)])
                    .collect(),
            )
        },
        Workload {
            binding: "concurrency: 512, order_by: { json: /order }",
            ..base("ordered", Work::Ordered, ours_and(&[]))
        },
        // All events have the same item: one after the other.
        Workload {
            binding: "concurrency: 512, order_by: { json: /item }",
            ..base("one-key", Work::Ordered, ours_and(&[]))
        },
        Workload {
            binding: "concurrency: 16, batch: { max: 100, wait: 50ms }",
            ..base("batch", Work::Batch, ours_and(&[one(FastStream)]))
        },
    ]
}

/// One contender's runs.
pub(crate) struct Row {
    pub(crate) contender: Contender,
    pub(crate) runs: Vec<Figures>,
    /// Its rate over that of the bare loop, round by round.
    pub(crate) ratios: Vec<f64>,
}

pub(crate) async fn run(workloads: &[Workload], scale: Scale) {
    let bench = Bench::new().await;
    fill(&bench, workloads, scale).await;
    let window = window(scale);
    let rounds = scale.of(3, 5);
    let mut report = serde_json::Map::new();
    let mut panels = Vec::new();
    for workload in workloads {
        let mut contenders = match scale {
            Scale::Quick => quick(workload),
            Scale::Whole => workload.contenders.clone(),
        };
        contenders.retain(|one| is_wanted(one.kind));
        if contenders.iter().all(|one| one.kind == Kind::Bare) {
            println!("\n{}: WITH names nobody there", workload.name);
            continue;
        }
        let rows = compare(&bench, workload, &contenders, rounds, window).await;
        show(workload, &rows);
        panels.push(panel(workload, &rows));
        report.insert(workload.name.to_owned(), rows.iter().map(Row::json).collect());
    }
    keep("workloads", &serde_json::json!({ "rounds": rounds, "workloads": report }));
    keep_file("workloads.svg", &chart::draw(&panels));
}

/// The bare loop, with which the others are compared, and whom `WITH` names, separated by commas, if it is
/// set.
fn is_wanted(kind: Kind) -> bool {
    let with = std::env::var("WITH").unwrap_or_default();
    with.is_empty() || kind == Kind::Bare || with.split(',').any(|name| name == kind.name())
}

/// Those who say whether Pelton is fast; the others are there to explain it.
fn quick(workload: &Workload) -> Vec<Contender> {
    let peers = matches!(workload.name, "consume" | "transform");
    let chosen = |one: &&Contender| match one.kind {
        Kind::Bare | Kind::BareAlike | Kind::Native => true,
        Kind::Python => one.processes == 1,
        _ => peers && one.processes == 1,
    };
    workload.contenders.iter().filter(chosen).copied().collect()
}

/// Enough for the fastest to be at work for the whole of a window.
pub(crate) fn backlog(size: usize, scale: Scale) -> usize {
    if size > 1024 { scale.of(4_000, 8_000) } else { scale.of(150_000, 400_000) }
}

pub(crate) fn window(scale: Scale) -> Window {
    Window {
        warm_up: Duration::from_millis(100),
        length: Duration::from_millis(scale.of(500, 1500)),
    }
}

pub(crate) async fn fill(bench: &Bench, workloads: &[Workload], scale: Scale) {
    for (name, subject, size) in STREAMS {
        if workloads.iter().any(|workload| workload.stream == name) {
            let events = backlog(size, scale);
            println!("storing {events} events of {size} bytes …");
            bench.create(name, subject).await;
            bench.streams.send_many(events, |n| (subject.to_owned(), event(n, size))).await;
        }
    }
}

/// Round after round, each contender in turn.
pub(crate) async fn compare(
    bench: &Bench,
    workload: &Workload,
    contenders: &[Contender],
    rounds: usize,
    window: Window,
) -> Vec<Row> {
    let row = |&contender| Row { contender, runs: Vec::new(), ratios: Vec::new() };
    let mut rows: Vec<Row> = contenders.iter().filter(|one| one.kind.is_there()).map(row).collect();
    for _ in 0..rounds {
        let mut bare = None;
        for row in &mut rows {
            let figures = once(bench, workload, row.contender, window).await;
            row.ratios.push(figures.rate / *bare.get_or_insert(figures.rate));
            row.runs.push(figures);
        }
    }
    rows
}

async fn once(bench: &Bench, workload: &Workload, who: Contender, window: Window) -> Figures {
    if workload.work.has_outputs() {
        bench.create("OUT", "out.event").await;
    }
    let total = bench.streams.count(workload.stream).await;
    let mut running = bench.start(who, workload, DeliverPolicy::All).await;
    let warm_up = match who.processes {
        1 => window.warm_up,
        // The first is at work while others still start.
        many => LAST_STARTS * u32::try_from(many).expect("a few"),
    };
    let window = Window { warm_up, ..window };
    let total = usize::try_from(total).expect("a count");
    let figures = bench.figures(&mut running, total, window).await;
    bench.end(running).await;
    if workload.work.has_outputs() {
        bench.delete("OUT").await;
    }
    figures
}

fn show(workload: &Workload, rows: &[Row]) {
    let [name, rate, ratio, cpu, server] =
        [workload.name, "events/s", "of bare", "CPU µs", "server µs"];
    println!("\n{name:<16} {rate:>10} {ratio:>8} {:>13} {cpu:>8} {server:>10}", "(from to)");
    for row in rows {
        let least = row.ratios.iter().copied().fold(f64::MAX, f64::min);
        let most = row.ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "{:<16} {:>10.0} {:>8.3} {:>13} {:>8.2} {:>10.2}",
            row.contender.name(),
            row.median(|run| run.rate),
            row.ratio(),
            format!("({least:.2} {most:.2})"),
            row.median(|run| run.cpu),
            row.median(|run| run.server_cpu),
        );
    }
}

fn panel(workload: &Workload, rows: &[Row]) -> Panel {
    let bar = |row: &Row| Bar {
        label: row.contender.name(),
        value: row.median(|run| run.rate),
        text: format!("{:.0}/s, {:.2} of bare", row.median(|run| run.rate), row.ratio()),
    };
    Panel::Bars {
        title: format!("{}, events/s", workload.name),
        bars: rows.iter().map(bar).collect(),
    }
}

impl Row {
    pub(crate) fn ratio(&self) -> f64 {
        median(self.ratios.iter().copied())
    }

    pub(crate) fn median(&self, what: impl Fn(&Figures) -> f64) -> f64 {
        median(self.runs.iter().map(what))
    }

    fn json(&self) -> serde_json::Value {
        let runs = self.runs.iter().map(|run| [run.rate, run.cpu, run.server_cpu]);
        serde_json::json!({
            "contender": self.contender.name(),
            "median": {
                "events_per_s": self.median(|run| run.rate), "of_bare": self.ratio(),
                "cpu_us": self.median(|run| run.cpu),
                "server_cpu_us": self.median(|run| run.server_cpu),
            },
            "of_bare": self.ratios,
            "runs": runs.collect::<Vec<_>>(),
        })
    }
}

impl Work {
    const ALL: [Self; 6] =
        [Self::Consume, Self::Transform, Self::Stamp, Self::Sleep, Self::Ordered, Self::Batch];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Transform => "transform",
            Self::Stamp => "stamp",
            Self::Sleep => "wait",
            Self::Ordered => "ordered",
            Self::Batch => "batch",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|work| work.name() == name).expect("a work of this bench")
    }

    /// The file of its function.
    pub(crate) const fn function(self) -> &'static str {
        match self {
            Self::Ordered => "consume",
            _ => self.name(),
        }
    }

    pub(crate) const fn has_outputs(self) -> bool {
        matches!(self, Self::Transform | Self::Stamp)
    }
}

/// When an event was due and when its handler began, in nanoseconds since 1970.
pub(crate) fn stamp(due: &[u8]) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    [due, b" ", now.as_nanos().to_string().as_bytes()].concat().into()
}
