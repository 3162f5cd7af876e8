//! What one event does to its neighbours, and what is left of a worker.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::future::{join_all, select_all};
use pelton::{
    handler::{Call, Company, Fault, Handler, Reply},
    manifest::{Function, Runtime},
};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{LONG, SHORT, call, done, fixture, folder, function, handler, one_worker, plain};

const FIXTURES: [&str; 3] = ["neighbours.py", "neighbours_async.py", "neighbours.mjs"];

fn runtime(file: &str) -> Runtime {
    match file.ends_with(".py") {
        true => Runtime::Python(fixture(file)),
        false => Runtime::Node(fixture(file)),
    }
}

fn command() -> Runtime {
    let file = fixture("conform_command.py").display().to_string();
    Runtime::Command(vec!["python3".to_owned(), file])
}

/// The reply to each call, all in flight together.
pub(crate) async fn together(handler: &dyn Handler, calls: Vec<Call>) -> Vec<Result<Reply, Fault>> {
    let calls = calls.into_iter().map(|call| handler.call(call));
    join_all(calls).await.into_iter().map(plain).collect()
}

/// One call that is up to no good, in the midst of seven that are not.
fn eight(culprit: &str, timeout: Duration) -> Vec<Call> {
    let subject = |n| if n == 3 { culprit } else { "echo" };
    (0..8).map(|n| Call { timeout, ..call(subject(n), n.to_string()) }).collect()
}

async fn neighbours_are_not_charged(handler: &dyn Handler, culprit: &str, timeout: Duration) {
    let mut replies = together(handler, eight(culprit, timeout)).await;
    let guilty = replies.remove(3);
    match &guilty {
        Err(Fault::Crash(_)) => assert_ne!(culprit, "spin", "{guilty:?}"),
        Err(Fault::Timeout(_)) => assert!(["spin", "hang"].contains(&culprit), "{guilty:?}"),
        other => panic!("{culprit}: {other:?}"),
    }
    let expected = [0, 1, 2, 4, 5, 6, 7].map(|n: u32| done(&[&n.to_string()]));
    assert_eq!(replies, expected, "{culprit}");
}

#[tokio::test]
async fn the_neighbours_of_a_crash_are_not_charged() {
    for file in FIXTURES {
        let handler = one_worker(runtime(file), 8);
        for culprit in ["exit", "abort"] {
            neighbours_are_not_charged(&*handler, culprit, LONG).await;
        }
    }
}

#[tokio::test]
async fn the_neighbours_of_a_timeout_are_not_charged() {
    for file in FIXTURES {
        let handler = one_worker(runtime(file), 8);
        handler.start().await.unwrap();
        for culprit in ["hang", "spin"] {
            neighbours_are_not_charged(&*handler, culprit, Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test]
async fn the_neighbours_of_a_command_are_not_charged() {
    let handler = one_worker(command(), 8);
    neighbours_are_not_charged(&*handler, "crash", LONG).await;
    neighbours_are_not_charged(&*handler, "hang", Duration::from_secs(1)).await;
}

/// Together they take longer than the timeout, none of them does.
#[tokio::test]
async fn a_call_that_waits_in_a_worker_does_not_time_out() {
    let handler = one_worker(runtime("neighbours.py"), 8);
    let timeout = Duration::from_secs(2);
    let calls = (0..5).map(|n| Call { timeout, ..call("slow", n.to_string()) }).collect();
    let replies = together(&*handler, calls).await;
    assert_eq!(replies, [0, 1, 2, 3, 4].map(|n: u32| done(&[&n.to_string()])));
}

#[tokio::test]
async fn a_call_that_wants_no_company_has_none() {
    let handler = one_worker(runtime("neighbours_async.py"), 8);
    let company = |n| if n == 3 { Company::Apart } else { Company::Shared };
    let calls = (0..8).map(|n| Call { company: company(n), ..call("company", "") }).collect();
    let replies = together(&*handler, calls).await;
    assert_eq!(replies[3], done(&["alone"]));
}

#[tokio::test]
async fn a_worker_is_used_again_and_idle_ones_end() {
    let idle_timeout = Duration::from_millis(50);
    let function = Function { idle_timeout, ..function(runtime("neighbours.py")) };
    let handler = handler(&function, 4);
    let first = plain(handler.call(call("pid", "")).await).unwrap();
    ended(&pid(&first)).await;
    let second = plain(handler.call(call("pid", "")).await).unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn nothing_is_left_behind() {
    for way in ["stop", "drop", "drop while busy"] {
        let handler = one_worker(runtime("neighbours.py"), 4);
        let replies = together(&*handler, vec![call("family", ""), call("pid", "")]).await;
        let pids: Vec<String> = replies.iter().map(|reply| pid(reply.as_ref().unwrap())).collect();
        let busy = Arc::clone(&handler);
        let mut busy = Box::pin(async move { busy.call(call("hang", "")).await });
        match way {
            "stop" => handler.stop().await,
            "drop" => {}
            _ => assert!(tokio::time::timeout(SHORT, &mut busy).await.is_err()),
        }
        drop((handler, busy));
        for pid in pids {
            ended(&pid).await;
        }
    }
}

#[tokio::test]
async fn dropping_a_call_stops_its_work() {
    let handler = one_worker(runtime("neighbours.py"), 4);
    let worker = pid(&plain(handler.call(call("pid", "")).await).unwrap());
    assert!(tokio::time::timeout(SHORT, handler.call(call("hang", ""))).await.is_err());
    ended(&worker).await;
    assert_eq!(plain(handler.call(call("echo", "a")).await), done(&["a"]));
}

#[tokio::test]
async fn dropping_a_call_leaves_its_neighbours_alone() {
    let handler = one_worker(runtime("neighbours_async.py"), 4);
    let worker = handler.call(call("pid", "")).await;
    let hang = handler.call(call("hang", ""));
    let gate = folder().join("gate");
    let waits = handler.call(call("wait for file", gate.display().to_string()));
    let (first, _, rest) = select_all([
        Box::pin(async { tokio::time::timeout(SHORT, hang).await.ok() })
            as pelton::handler::BoxFuture<'_, _>,
        Box::pin(async { Some(waits.await) }),
    ])
    .await;
    assert_eq!(first, None);
    std::fs::write(gate, "").unwrap();
    let neighbour = join_all(rest).await.remove(0).unwrap();
    assert_eq!(plain(neighbour), plain(worker));
}

#[tokio::test]
async fn what_eats_memory_crashes_alone() {
    for file in FIXTURES {
        let workers = std::num::NonZeroUsize::new(1);
        let memory_limit = Some(256 << 20);
        let function = Function { memory_limit, workers, ..function(runtime(file)) };
        let handler = handler(&function, 8);
        neighbours_are_not_charged(&*handler, "hog", LONG).await;
    }
}

#[tokio::test]
async fn exec_kills_what_takes_too_long_with_its_children() {
    let file = folder().join("pid");
    let script = format!("sleep 3600 & echo $! > {}; wait", file.display());
    let function = function(Runtime::Exec(vec!["sh".into(), "-c".into(), script]));
    let call = Call { timeout: SHORT, ..call("any", "") };
    assert_eq!(handler(&function, 1).call(call).await, Err(Fault::Timeout(SHORT)));
    ended(std::fs::read_to_string(file).unwrap().trim()).await;
}

/// A shell is the runner here: it starts a launcher that becomes a `sleep`, and is killed.
#[tokio::test]
async fn a_worker_ends_with_its_runner() {
    let launch = "\"$0\" __pelton-launch $$ token 0 \"\" / sleep 3600 & echo $!; wait";
    let mut runner = tokio::process::Command::new("sh")
        .args(["-c", launch, env!("CARGO_BIN_EXE_pelton")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(runner.stdout.take().unwrap()).lines();
    let worker = lines.next_line().await.unwrap().unwrap();
    let name = || std::fs::read_to_string(format!("/proc/{worker}/comm")).unwrap();
    while name() != "sleep\n" {
        tokio::task::yield_now().await;
    }
    runner.kill().await.unwrap();
    ended(&worker).await;
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Lines of a function are tagged with the event that printed them, if that is known, and its trace.
#[tokio::test]
async fn what_functions_print_is_logged_with_their_event() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let handler = one_worker(runtime("neighbours.py"), 4);
    handler.call(call("print", "grüße")).await.unwrap();
    let mut traced = call("print", "with a trace");
    traced.events.first.headers.set("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    handler.call(traced).await.unwrap();
    handler.stop().await;
    let exec = ["sh", "-c", "echo apart >&2"].map(str::to_owned);
    let exec = one_worker(Runtime::Exec(exec.into()), 1);
    let mut traced = call("print", "");
    traced.events.first.headers.set("Traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    exec.call(traced).await.unwrap();
    let lines = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let has = |tagged: String| {
        assert!(lines.lines().any(|line| line.trim_start() == tagged), "{tagged} in:\n{lines}");
    };
    let tagged = |level, line| {
        has(format!("{level} function: {line} function=\"f\" event=\"ORDERS:12\""));
    };
    tagged("INFO", "grüße");
    tagged("WARN", "to standard error");
    tagged("INFO", "through the context");
    let traced = format!("event=\"ORDERS:12\" trace_id=\"{TRACE}\"");
    has(format!("INFO function: with a trace function=\"f\" {traced}"));
    let traced = traced.replace("\"ORDERS:12\"", "ORDERS:12");
    has(format!("INFO function: apart function=\"f\" {traced}"));
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn pid(reply: &Reply) -> String {
    match reply.verdicts.first() {
        Some(pelton::event::Verdict::Done(outputs)) => {
            String::from_utf8(outputs[0].data.to_vec()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// Waits until there is no such process, or only its zombie.
pub(crate) async fn ended(pid: &str) {
    tokio::time::timeout(LONG, gone(pid)).await.unwrap();
}

async fn gone(pid: &str) {
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let stat = Path::new("/proc").join(pid).join("stat");
    while let Ok(stat) = std::fs::read_to_string(&stat)
        && !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    {
        pace.tick().await;
    }
}
