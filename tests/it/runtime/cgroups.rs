//! Control groups of worker processes. What they need of the kernel is looked for here, apart from
//! how Pelton looks for it; where it is missing a test says so and proves nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pelton::{
    handler::Fault,
    manifest::{Function, Runtime},
};

use super::{
    LONG, SHORT, call,
    faults::{ended, pid},
    fixture, folder, function, handler, plain,
};
use crate::harness::{NatsServer, Runner, Site, eventually};

/// This process' own group, if groups can be made in it.
fn own() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .map(|mount| Path::new(mount).join(path))
        .find(|dir| dir.join("cgroup.procs").exists())?;
    let probe = dir.join(format!("it-probe-{}-{}", std::process::id(), fastrand::u32(..)));
    fs::create_dir(&probe).ok()?;
    let kills = probe.join("cgroup.kill").exists();
    fs::remove_dir(probe).unwrap();
    kills.then_some(dir)
}

fn skipped(why: &str) {
    eprintln!("SKIPPED, nothing is proved: {why}");
}

/// A group for a runner alone, in which memory and processors can be bounded; gone with it.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let own = own()?;
        for controller in ["+memory", "+cpu"] {
            fs::write(own.join("cgroup.subtree_control"), controller).ok()?;
        }
        let dir = own.join(format!("it-{}-{}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&dir).ok()?;
        Some(Self(dir))
    }

    /// Those of the workers of the runner in it.
    fn workers(&self) -> Vec<PathBuf> {
        let folders = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let named =
            |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("worker-");
        folders(&self.0).iter().flat_map(|runner| folders(runner)).filter(named).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::write(self.0.join("cgroup.kill"), "1").unwrap_or_default();
        let until = Instant::now() + LONG;
        while remove(&self.0).is_err() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn remove(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    fs::remove_dir(dir)
}

/// A worker's child that made a session of its own has left its process group.
#[tokio::test]
async fn what_left_its_session_ends_with_its_worker() {
    if own().is_none() {
        return skipped("no cgroup v2 that can be written to");
    }
    for way in ["stop", "drop"] {
        let handler = super::one_worker(Runtime::Python(fixture("neighbours.py")), 1);
        let stray = pid(&plain(handler.call(call("stray", "")).await).unwrap());
        if way == "stop" {
            handler.stop().await;
        }
        drop(handler);
        ended(&stray).await;
    }
}

#[tokio::test]
async fn what_left_the_session_of_a_program_ends_with_it() {
    if own().is_none() {
        return skipped("no cgroup v2 that can be written to");
    }
    let file = folder().join("pid");
    let script = format!("setsid sleep 3600 & echo $! > {}", file.display());
    let exec =
        |end: &str| Runtime::Exec(vec!["sh".into(), "-c".into(), format!("{script}; {end}")]);
    let stray = || fs::read_to_string(&file).unwrap().trim().to_owned();
    // Reaches its end, although what it started holds its output.
    handler(&function(exec("exit 0")), 1).call(call("any", "")).await.unwrap();
    ended(&stray()).await;
    let call = pelton::handler::Call { timeout: SHORT, ..call("any", "") };
    let overdue = handler(&function(exec("wait")), 1).call(call).await;
    assert_eq!(overdue, Err(Fault::Timeout(SHORT)));
    ended(&stray()).await;
}

const STRAYS: &str = "
functions: { f: { exec: [sh, f.sh] } }
bindings: [{ subject: in.f, function: f, ack_wait: 2s, retry: { backoff: 1s..1s } }]
";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_runner_left_goes_with_the_next_start() {
    let Some(own) = own() else { return skipped("no cgroup v2 that can be written to") };
    let (site, server) = (Site::with(STRAYS), NatsServer::start().await);
    site.file("f.sh", "[ -e stray ] || { setsid sleep 3600 & echo $! > stray; sleep 3600; }");
    let streams = server.streams().await;
    let mut first = Runner::start(&site, &server).await;
    let id = first.id();
    streams.send("in.f", "").await;
    let stray = eventually("something left its session", async || {
        let id = fs::read_to_string(site.path("stray")).ok()?;
        id.ends_with('\n').then(|| id.trim().to_owned())
    })
    .await;
    first.kill9().await;
    assert!(Path::new("/proc").join(&stray).exists(), "nobody has ended it yet");
    let groups = || {
        let entries = fs::read_dir(&own).unwrap().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(name).filter(|name| name.starts_with(&format!("pelton-{id}-"))).count()
    };
    assert_eq!(groups(), 1);
    let _second = Runner::start(&site, &server).await;
    streams.wait_settled("t-f").await;
    ended(&stray).await;
    eventually("the group is gone", async || (groups() == 0).then_some(())).await;
}

const LIMITED: &str = "
functions:
  f: { run: f.py, workers: 1, memory_limit: 64MiB, cpu_limit: 200m }
bindings: [{ subject: in.f, function: f, publish: out.f, timeout: 20s, retry: { attempts: 1 } }]
";

const EATER: &str = "
import subprocess, sys, time

# None of them is over the limit, together they are.
EAT = 'x = bytearray(48 << 20); x[:] = b\"1\" * len(x); import time; time.sleep(3600)'

def handle(event, context):
    if event.raw == b'eat':
        for _ in range(3):
            subprocess.Popen([sys.executable, '-c', EAT], start_new_session=True)
        time.sleep(3600)
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass
    return 'computed'
";

/// The limits are those of a worker with all that it starts.
#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processors_of_a_worker_are_bounded() {
    let Some(group) = Group::make() else {
        return skipped("no cgroup v2 in which memory and cpu can be bounded");
    };
    let (site, server) = (Site::with(LIMITED), NatsServer::start().await);
    site.file("f.py", EATER);
    let streams = server.streams().await;
    let mut runner = Runner::start_in(&group.0, &site, &server).await;
    streams.send("in.f", "eat").await;
    let letter = &streams.wait_letters(1).await[0];
    assert_eq!(letter.get("reason"), "crashed");
    let error = letter.get("error");
    assert!(error.contains("out of memory, memory_limit is 64MiB"), "{error}");
    streams.send("in.f", "compute").await;
    streams.wait_count("OUT", 1).await;
    let workers = group.workers();
    assert_eq!(workers.len(), 1, "that of the dead worker is gone: {workers:?}");
    let told = |file: &str| fs::read_to_string(workers[0].join(file)).unwrap().trim().to_owned();
    assert_eq!(told("memory.max"), (64 << 20).to_string());
    assert_eq!(told("cpu.max"), "20000 100000");
    let stat = told("cpu.stat");
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
    assert_ne!(throttled, "0", "{stat}");
    assert!(!runner.log().contains("not kept here"), "{}", runner.log());
    assert_eq!(runner.sigterm().await.code(), Some(0));
    assert_eq!(group.workers(), Vec::<PathBuf>::new());
}

/// Where a limit cannot be kept, the runner says why, once, and works: no controllers, no right to
/// use them, or another process in the group, which would be left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_limit_that_cannot_be_kept_is_said() {
    let (site, server) = (Site::with(LIMITED), NatsServer::start().await);
    site.file("f.py", "def handle(event, context): return 'fine'");
    let streams = server.streams().await;
    let group = Group::make();
    let mut neighbour = None;
    let runner = match &group {
        None => Runner::start(&site, &server).await,
        Some(Group(dir)) => {
            let sleep = tokio::process::Command::new("sleep").arg("3600").spawn().unwrap();
            fs::write(dir.join("cgroup.procs"), sleep.id().unwrap().to_string()).unwrap();
            neighbour = Some(sleep);
            Runner::start_in(dir, &site, &server).await
        }
    };
    streams.send("in.f", "").await;
    streams.wait_count("OUT", 1).await;
    let log = runner.log();
    assert_eq!(log.matches("cpu_limit is not kept here").count(), 1, "{log}");
    if let Some(mut neighbour) = neighbour {
        assert!(log.contains("other processes are in the runner's group"), "{log}");
        neighbour.kill().await.unwrap();
    }
}

/// Limits reach the process whatever runs it: without groups, that of memory is the kernel's.
#[tokio::test]
async fn every_runtime_of_processes_takes_limits() {
    let limited = Function {
        memory_limit: Some(1 << 30),
        cpu_limit: Some(500),
        ..function(Runtime::Exec(vec![
            "sh".into(),
            "-c".into(),
            "ulimit -d; cat /proc/self/cgroup".into(),
        ]))
    };
    let said = pid(&plain(handler(&limited, 1).call(call("any", "")).await).unwrap());
    let group = said.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
    match own() {
        Some(_) => assert!(group.contains("/pelton-") && group.contains("/worker-"), "{said}"),
        None => skipped("no cgroup v2 that can be written to"),
    }
    let rlimit = said.lines().next().unwrap();
    assert!(rlimit == "1048576" || rlimit == "unlimited", "{said}");
}
