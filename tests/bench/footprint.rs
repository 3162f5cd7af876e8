//! What a runner takes while it has nothing to do, what guests that misbehave leave behind in it, and
//! how long workers live on when it is killed. The real program, on one private nats-server.
//!
//! `make bench ONLY=footprint` runs it. Memory is `VmRSS` of the runner, its workers apart.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    components,
    it::harness::{NatsServer, Runner, Site, Streams, eventually},
    processes::{children, megabytes},
};

/// Functions in the manifest.
const FUNCTIONS: usize = 50;
/// Those of them that are components, where some are.
const COMPONENTS: usize = 20;
/// Events for each guest that misbehaves.
const BROKEN: usize = 50;
/// How often a runner is killed.
const KILLS: usize = 7;

pub(crate) async fn run() {
    println!("{FUNCTIONS} functions, idle            MB   workers");
    idle("no component", 0, Events::None).await;
    idle("20 components", COMPONENTS, Events::None).await;
    idle("20 components, each called", COMPONENTS, Events::ToComponents).await;
    println!(
        "\n{BROKEN} calls that misbehave, 1 at a time   MB before   after   peak   letters   others, late at most"
    );
    for subject in ["spin", "hog", "recurse", "trap", "huge"] {
        misbehaved(subject).await;
    }
    println!("\nfrom SIGKILL of the runner to the end of its last worker, of {KILLS}");
    killed().await;
}

enum Events {
    None,
    ToComponents,
}

/// A manifest with functions in every runtime that has processes, and components.
async fn idle(name: &str, components: usize, events: Events) {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let mut functions = String::new();
    let mut bindings = String::new();
    let wasm = components::conform();
    for n in 0..FUNCTIONS {
        let function = match n {
            n if n < components => format!("run: \"{}\"", wasm.display()),
            n if n % 3 == 0 => "run: f.mjs".to_owned(),
            n if n % 3 == 1 => "run: f.py".to_owned(),
            _ => "exec: [cat]".to_owned(),
        };
        writeln!(functions, "  f{n}: {{ {function} }}").expect("text");
        writeln!(bindings, "  - {{ subject: in.{n}, function: f{n} }}").expect("text");
    }
    let site = Site::with(&format!("functions:\n{functions}bindings:\n{bindings}"));
    site.file("f.py", "def handle(event, context):\n    return None\n");
    site.file("f.mjs", "export function handle() {}\n");
    let runner = Runner::start(&site, &server).await;
    if matches!(events, Events::ToComponents) {
        streams.send_many(components, |n| (format!("in.{n}"), String::new())).await;
        for n in 0..components {
            streams.wait_settled(&format!("t-f{n}")).await;
        }
    }
    println!(
        "{name:<28} {:>5.1} {:>9}",
        megabytes(runner.id(), "VmRSS"),
        children(runner.id()).len()
    );
}

/// Calls that break a component, while another function of the same runner goes on.
async fn misbehaved(subject: &str) {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::new();
    let manifest = format!(
        "version: 1
name: t
nats: {{ servers: [\"${{NATS_URL}}\"] }}
streams:
  IN: {{ subjects: [{subject}, echo] }}
  OUT: {{ subjects: [\"out.>\"] }}
functions:
  bad: {{ run: \"{wasm}\" }}
  good: {{ run: \"{wasm}\" }}
bindings:
  - {{ subject: {subject}, function: bad, concurrency: 1, timeout: 200ms, retry: {{ attempts: 1 }} }}
  - {{ subject: echo, function: good, publish: out.good }}
",
        wasm = components::conform().display(),
    );
    site.file("pelton.yaml", manifest);
    let runner = Runner::start(&site, &server).await;
    // Both are loaded, and the neighbour is at work before and after.
    streams.send_many(100, |n| ("echo".to_owned(), n.to_string())).await;
    streams.wait_count("OUT", 100).await;
    streams.send(subject, "").await;
    streams.wait_settled("t-bad").await;
    let before = megabytes(runner.id(), "VmRSS");
    streams.send_many(BROKEN, |_| (subject.to_owned(), String::new())).await;
    let mut late = Duration::ZERO;
    let mut echoed = 100;
    while streams.count("T_DLQ").await < BROKEN as u64 + 1 {
        let began = Instant::now();
        streams.send("echo", "x").await;
        echoed += 1;
        streams.wait_count("OUT", echoed).await;
        late = late.max(began.elapsed());
    }
    let (after, peak) = (megabytes(runner.id(), "VmRSS"), megabytes(runner.id(), "VmHWM"));
    let letters = streams.letters().await;
    let reasons: std::collections::BTreeSet<&str> =
        letters.iter().map(|letter| letter.get("reason")).collect();
    println!(
        "{subject:<12} {before:>28.1} {after:>7.1} {peak:>6.1}   {} {reasons:?}   {} ms ({} events)",
        letters.len(),
        late.as_millis(),
        echoed - 100,
    );
}

/// Workers in Python and Node, with a child each, busy, when their runner is killed.
async fn killed() {
    let mut took = Vec::new();
    for _ in 0..KILLS {
        let server = NatsServer::start().await;
        let streams = server.streams().await;
        let site = Site::with(
            "functions:\n  py: { run: f.py, workers: 4 }\n  node: { run: f.mjs, workers: 4 }\n\
             bindings:\n  - { subject: in.py, function: py, concurrency: 8 }\n\
             \x20 - { subject: in.node, function: node, concurrency: 8 }\n",
        );
        site.file("f.py", "import time\ndef handle(event, context):\n    time.sleep(600)\n");
        site.file("f.mjs", "export function handle() { for (;;) {} }\n");
        let mut runner = Runner::start(&site, &server).await;
        streams.send_many(16, |n| (["in.py", "in.node"][n % 2].to_owned(), String::new())).await;
        let workers = eventually("every worker runs", async || {
            let workers = children(runner.id());
            (workers.len() == 8).then_some(workers)
        })
        .await;
        let began = Instant::now();
        runner.kill9().await;
        while workers.iter().any(|pid| lives(*pid)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        took.push(began.elapsed());
    }
    took.sort();
    println!("median {:?}, longest {:?}", took[KILLS / 2], took[KILLS - 1]);
}

/// Whether it is there, and no zombie.
fn lives(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}
