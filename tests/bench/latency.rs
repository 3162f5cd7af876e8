//! How long an event takes at a given load: from the moment it was due to be published to the start of
//! its handler, and to the moment its output was stored, by the server's clock. Beside the bare loop.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;

use super::{
    bench::Bench,
    chart::{self, Panel},
    contender::{Contender, Kind},
    figures::{Scale, keep, keep_file, median, percentile},
    generator::Load,
    workload::{Work, Workload},
};

/// Before latencies count.
const WARM_UP: Duration = Duration::from_secs(1);
const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Microseconds, at the shares above.
#[derive(Debug, Clone, Copy)]
struct Latency {
    started: [f64; 3],
    stored: [f64; 3],
}

struct Row {
    kind: Kind,
    rounds: Vec<Latency>,
}

pub(crate) async fn run(scale: Scale) {
    let bench = Bench::new().await;
    bench.create("LATENCY", "late").await;
    let kinds: &[Kind] = scale.of(
        &[Kind::Bare, Kind::Native, Kind::Python],
        &[Kind::Bare, Kind::Native, Kind::Python, Kind::Node],
    );
    let rates: &[u32] = scale.of(&[1_000], &[100, 1_000, 10_000]);
    let (rounds, length) = scale.of((3, 2), (5, 5));
    let (mut report, mut panels) = (serde_json::Map::new(), Vec::new());
    for &rate in rates {
        let mut rows: Vec<Row> =
            kinds.iter().map(|&kind| Row { kind, rounds: Vec::new() }).collect();
        for _ in 0..rounds {
            for row in &mut rows {
                row.rounds.push(once(&bench, row.kind, rate, Duration::from_secs(length)).await);
            }
        }
        show(rate, &rows);
        panels.push(panel(rate, &rows));
        report.insert(rate.to_string(), rows.iter().map(Row::json).collect());
    }
    keep("latency", &serde_json::json!({ "unit": "µs", "rounds": rounds, "rates": report }));
    keep_file("latency.svg", &chart::draw(&panels));
}

async fn once(bench: &Bench, kind: Kind, rate: u32, length: Duration) -> Latency {
    let workload = Workload {
        name: "latency",
        work: Work::Stamp,
        stream: "LATENCY",
        subject: "late",
        bindings: 1,
        binding: "concurrency: 64, publish: out.event",
        admin: 0,
        contenders: Vec::new(),
    };
    bench.create("OUT", "out.event").await;
    let mut running = bench.start(Contender::one(kind), &workload, DeliverPolicy::New).await;
    bench.pulled_from(&mut running).await;
    // The first event starts the function, which is no part of this.
    bench.streams.send("late", "0").await;
    bench.streams.wait_count("OUT", 1).await;
    let port = bench.server.port();
    let subject = "late".to_owned();
    let load = Load { port, subject, subjects: 1, rate, length: WARM_UP + length };
    let sent = load.send().await;
    bench.streams.wait_count("OUT", sent as u64 + 1).await;
    let mut times = times(bench).await;
    bench.end(running).await;
    bench.delete("OUT").await;
    times.sort_unstable_by_key(|(due, ..)| *due);
    let counted = &times[1 + usize::try_from(rate).expect("a count")..];
    let at = |until: fn(&(i128, i128, i128)) -> i128| {
        SHARES.map(|(_, share)| {
            let late = counted.iter().map(|times| (until(times) - times.0) as f64 / 1000.0);
            percentile(late, share)
        })
    };
    Latency { started: at(|times| times.1), stored: at(|times| times.2) }
}

/// Of each output: when its event was due, when its handler began, when it was stored.
async fn times(bench: &Bench) -> Vec<(i128, i128, i128)> {
    let outputs = bench.streams.read_timed("OUT").await;
    let parse = |text: &str| text.parse::<i128>().expect("nanoseconds");
    let each = outputs.iter().map(|(message, stored)| {
        let text = std::str::from_utf8(&message.payload).expect("text");
        let (due, began) = text.split_once(' ').expect("two times");
        (parse(due), parse(began), stored.unix_timestamp_nanos())
    });
    each.collect()
}

fn show(rate: u32, rows: &[Row]) {
    println!(
        "\nlatency at {rate}/s, µs     to its handler's start             until its output is stored"
    );
    let names = SHARES.map(|(name, _)| format!("{name:>10}")).concat();
    println!("{:<14} {names}   {names}", "");
    for row in rows {
        let line = |of: fn(&Latency) -> [f64; 3]| {
            (0..3).map(|n| format!("{:>10.0}", row.median(of, n))).collect::<String>()
        };
        println!(
            "{:<14} {}   {}",
            row.kind.name(),
            line(|one| one.started),
            line(|one| one.stored)
        );
        if row.kind != Kind::Bare {
            let added = (0..3).map(|n| format!("{:>+10.0}", row.added(&rows[0], n)));
            println!("{:<14} {:30}   {}", "  over bare", "", added.collect::<String>());
        }
    }
}

fn panel(rate: u32, rows: &[Row]) -> Panel {
    let curve = |row: &Row| {
        let values = (0..3).map(|n| row.median(|one| one.stored, n)).collect();
        (row.kind.name().to_owned(), values)
    };
    Panel::Curves {
        title: format!("until the output is stored, at {rate} events/s, µs"),
        places: SHARES.map(|(name, _)| name.to_owned()).to_vec(),
        curves: rows.iter().map(curve).collect(),
    }
}

impl Row {
    fn median(&self, of: fn(&Latency) -> [f64; 3], n: usize) -> f64 {
        median(self.rounds.iter().map(|one| of(one)[n]))
    }

    /// What it takes longer than the bare loop until the output is stored, round by round.
    fn added(&self, bare: &Self, n: usize) -> f64 {
        median(
            self.rounds.iter().zip(&bare.rounds).map(|(one, bare)| one.stored[n] - bare.stored[n]),
        )
    }

    fn json(&self) -> serde_json::Value {
        let of = |of: fn(&Latency) -> [f64; 3]| [0, 1, 2].map(|n| self.median(of, n));
        let rounds = self.rounds.iter().map(|one| (one.started, one.stored));
        serde_json::json!({
            "contender": self.kind.name(), "shares": SHARES.map(|(name, _)| name),
            "started": of(|one| one.started), "stored": of(|one| one.stored),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }
}
