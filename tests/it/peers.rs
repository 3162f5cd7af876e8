//! Functions written for other platforms, on the real servers and clients of those platforms. None
//! of them knows Pelton.

mod knative;
mod lambda;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::harness::{NatsServer, Runner, Site, eventually, free_port};

const EVENTS: usize = 1_000;

/// A program that `make peers` fetches.
fn peer(path: &str) -> PathBuf {
    present(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path))
}

fn present(program: PathBuf) -> PathBuf {
    assert!(program.exists(), "{} is missing: run `make peers` first", program.display());
    program
}

/// A server of somebody else's that runs a function; asked to end by drop.
struct Framework(Child);

impl Framework {
    async fn start(site: &Site, mut command: Command, port: u16) -> Self {
        let log = std::fs::File::create(site.path("framework.log")).expect("a log file");
        let child = command
            .current_dir(site.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the framework starts");
        let framework = Self(child);
        eventually("the framework listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        framework
    }
}

impl Drop for Framework {
    fn drop(&mut self) {
        // Its workers end with it when it is asked, and not when it is killed.
        let id = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            kill_process(id, Signal::TERM).unwrap_or_default();
        }
        for _ in 0..500 {
            match self.0.try_wait() {
                Ok(None) => std::thread::park_timeout(Duration::from_millis(10)),
                _ => return,
            }
        }
    }
}

/// Sends the events, and expects one output of each: what the function wrote into `seen`, and what
/// the framework answered.
async fn each_event_once(site: &Site, port: u16) -> Vec<String> {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    site.manifest(&format!(
        "
functions: {{ peer: {{ http: \"http://127.0.0.1:{port}/\" }} }}
bindings: [{{ subject: in.peer, function: peer, publish: out.peer }}]
"
    ));
    let mut runner = Runner::start(site, &server).await;
    let event = |n| ("in.peer".to_owned(), format!("{{\"n\": {n}}}"));
    streams.send_many(EVENTS, event).await;
    streams.wait_count("OUT", EVENTS as u64).await;
    streams.wait_settled("t-peer").await;
    let outputs = streams.texts("OUT").await;
    assert_eq!(outputs.len(), EVENTS, "outputs");
    assert_eq!(streams.count("T_DLQ").await, 0, "nothing was given up");
    let done = &[("binding", "peer"), ("outcome", "done")];
    assert_eq!(runner.scrape().await.get("invocations_total", done), EVENTS as f64);
    assert_seen_once(&site.lines("seen"));
    assert_eq!(runner.sigterm().await.code(), Some(0));
    outputs
}

/// A line is the event's id, type, source and number.
fn assert_seen_once(lines: &[String]) {
    let (mut ids, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let [id, "in.peer", "nats://IN", n] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert!(ids.insert(id.to_owned()) && numbers.insert(n.to_owned()), "twice: {line}");
    }
    let all = |name: fn(usize) -> String| (0..EVENTS).map(name).collect::<BTreeSet<_>>();
    assert_eq!(ids, all(|n| format!("IN:{}", n + 1)));
    assert_eq!(numbers, all(|n| n.to_string()));
}

/// The outputs are the events.
fn assert_numbers(mut outputs: Vec<String>) {
    outputs.sort();
    let mut expected: Vec<String> = (0..EVENTS).map(|n| format!("{{\"n\":{n}}}")).collect();
    expected.sort();
    assert_eq!(outputs, expected);
}

/// A folder in which Node finds a package, and whatever else was fetched.
fn with_modules(package: &str) -> Site {
    let modules = peer("peers-node/node_modules");
    present(modules.join(package));
    let site = Site::new();
    std::os::unix::fs::symlink(modules, site.path("node_modules")).expect("a link");
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn the_google_functions_framework_for_python() {
    let program = peer("peers-python/bin/functions-framework");
    let site = Site::new();
    site.file(
        "main.py",
        "
import functions_framework

@functions_framework.cloud_event
def handle(event):
    line = f'{event[\"id\"]} {event[\"type\"]} {event[\"source\"]} {event.data[\"n\"]}\\n'
    with open('seen', 'a') as seen:
        seen.write(line)
",
    );
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["--target=handle", "--host=127.0.0.1"]).arg(format!("--port={port}"));
    let framework = Framework::start(&site, command, port).await;
    let outputs = each_event_once(&site, port).await;
    // What this framework answers for every event.
    assert!(outputs.iter().all(|output| output == "OK"), "{outputs:?}");
    drop(framework);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_google_functions_framework_for_node() {
    let site = with_modules("@google-cloud/functions-framework");
    site.file(
        "index.js",
        r#"
const { appendFileSync } = require("node:fs");
const functions = require("@google-cloud/functions-framework");

functions.cloudEvent("handle", (event) => {
  appendFileSync("seen", `${event.id} ${event.type} ${event.source} ${event.data.n}\n`);
  return { n: event.data.n };
});
"#,
    );
    let port = free_port();
    let mut command = Command::new(peer("peers-node/node_modules/.bin/functions-framework"));
    command.arg("--target=handle").arg(format!("--port={port}"));
    let framework = Framework::start(&site, command, port).await;
    assert_numbers(each_event_once(&site, port).await);
    drop(framework);
}
