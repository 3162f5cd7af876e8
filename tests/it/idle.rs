//! Functions that nobody calls cost next to nothing.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{NatsServer, Runner, Site};
#[cfg(feature = "wasm")]
use crate::runtime::components;

const FUNCTIONS: usize = 50;

/// A manifest with as many components as there is a file for, and processes for the rest.
async fn idle(components: usize, file: Option<PathBuf>) -> (Runner, NatsServer, Site) {
    let (mut functions, mut bindings) = (String::new(), String::new());
    for n in 0..FUNCTIONS {
        let function = match (&file, n % 3) {
            (Some(file), _) if n < components => format!("run: \"{}\"", file.display()),
            (_, 0) => "run: f.mjs".to_owned(),
            (_, 1) => "run: f.py".to_owned(),
            _ => "exec: [cat]".to_owned(),
        };
        writeln!(functions, "  f{n}: {{ {function} }}").expect("text");
        writeln!(bindings, "  - {{ subject: in.{n}, function: f{n}, retry: {{ attempts: 1 }} }}")
            .expect("text");
    }
    let site = Site::with(&format!("functions:\n{functions}bindings:\n{bindings}"));
    site.file("f.py", "def handle(event, context):\n    return None\n");
    site.file("f.mjs", "export function handle() {}\n");
    let server = NatsServer::start().await;
    let runner = Runner::start(&site, &server).await;
    (runner, server, site)
}

/// Bytes of a process in memory.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kilobytes: u64 =
        line.split_whitespace().nth(1).expect("a value").parse().expect("a number");
    kilobytes << 10
}

fn children(pid: u32) -> String {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let tasks = fs::read_dir(tasks).expect("it runs").flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_functions_have_no_process_and_little_memory() {
    let (runner, server, _site) = idle(0, None).await;
    assert_eq!(children(runner.id()), "", "processes");
    let resident = resident(runner.id());
    assert!(resident < 60 << 20, "{resident} bytes");
    // One that is called has one: they would have been seen.
    server.streams().await.send("in.0", "").await;
    runner.metric("workers", &[("function", "f0")], |workers| workers == 1.0).await;
    assert_ne!(children(runner.id()), "");
}

#[cfg(feature = "wasm")]
#[tokio::test(flavor = "multi_thread")]
async fn twenty_components_that_ran_take_little_memory() {
    const COMPONENTS: usize = 20;
    let (runner, server, _site) = idle(COMPONENTS, Some(components::conform())).await;
    let streams = server.streams().await;
    streams.send_many(COMPONENTS, |n| (format!("in.{n}"), String::new())).await;
    for n in 0..COMPONENTS {
        streams.wait_settled(&format!("t-f{n}")).await;
    }
    assert_eq!(children(runner.id()), "", "processes");
    let resident = resident(runner.id());
    assert!(resident < 120 << 20, "{resident} bytes");
}
