//! Functions that break what runs them: the event that did it is given up, its neighbours are not
//! blamed.

use crate::harness::{Letter, NatsServer, Runner, Site, Streams, eventually};

const NEIGHBOURS: usize = 40;

/// Runs one poisonous event among neighbours and returns its letter. The function gets the poison
/// as `poison` and says its attempt otherwise.
async fn poison(file: &str, text: &str, function: &str) -> Letter {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(&format!(
        "
functions: {{ f: {{ {function} }} }}
bindings:
  - subject: in.f
    function: f
    publish: out.f
    concurrency: 8
    timeout: 2s
    retry: {{ attempts: 2, backoff: 50ms..100ms }}
drain: 5s
"
    ));
    site.file(file, text);
    let mut runner = Runner::start(&site, &server).await;
    let half = NEIGHBOURS / 2;
    send(&streams, half).await;
    streams.send("in.f", "poison").await;
    send(&streams, half).await;
    let letter = streams.wait_letters(1).await.remove(0);
    streams.wait_count("OUT", NEIGHBOURS as u64).await;
    streams.wait_settled("t-f").await;
    assert_eq!(streams.texts("OUT").await, [const { "1" }; NEIGHBOURS], "attempts of neighbours");
    assert_eq!(letter.payload, b"poison");
    assert_eq!(letter.get("attempts"), "2");
    assert_eq!(runner.ended(), None);
    runner.scrape().await.assert_adds_up("f");
    letter
}

async fn send(streams: &Streams, count: usize) {
    streams.send_many(count, |_| ("in.f".to_owned(), "harmless".to_owned())).await;
}

/// A synchronous Python handler whose poisonous branch is `body`.
async fn python(body: &str, function: &str) -> Letter {
    let text = format!(
        "
import os, signal, sys, time

def handle(event, context):
    if event.raw == b'poison':
        {body}
    return f'{{event.attempt}}'
"
    );
    poison("f.py", &text, &format!("run: f.py{function}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_exits() {
    let letter = python("os._exit(7)", ", workers: 2").await;
    assert_eq!(letter.get("reason"), "crashed");
    assert_eq!(letter.outcomes(), ["crash"; 2]);
    assert!(letter.get("error").contains('7'), "{}", letter.get("error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_is_killed() {
    let letter = python("os.kill(os.getpid(), signal.SIGSEGV)", ", workers: 1").await;
    assert_eq!(letter.get("reason"), "crashed");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_loops_for_ever() {
    let letter = python("while True: pass", ", workers: 2").await;
    assert_eq!(letter.get("reason"), "timeout");
    assert_eq!(letter.outcomes(), ["timeout"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_allocates_without_end() {
    let body = "held = []\n        while True: held.append(bytearray(1 << 24))";
    let letter = python(body, ", workers: 2, memory_limit: 256MiB").await;
    assert!(matches!(letter.get("reason"), "crashed" | "timeout"), "{}", letter.get("reason"));
}

/// A handler that closes the socket to its runner breaks off like one that dies.
#[tokio::test(flavor = "multi_thread")]
async fn python_closes_its_socket() {
    let letter = python("os.close(0); time.sleep(60)", ", workers: 1").await;
    assert!(matches!(letter.get("reason"), "crashed" | "timeout"), "{}", letter.get("reason"));
}

/// A synchronous Node handler whose poisonous branch is `body`.
async fn node(body: &str) -> Letter {
    let text = format!(
        "
export function handle(event) {{
  if (Buffer.from(event.raw).toString() === 'poison') {{ {body} }}
  return `${{event.attempt}}`;
}}
"
    );
    poison("f.mjs", &text, "run: f.mjs, workers: 2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn node_exits() {
    let letter = node("process.exit(7);").await;
    assert_eq!(letter.get("reason"), "crashed");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_loops_for_ever() {
    let letter = node("for (;;) {}").await;
    assert_eq!(letter.get("reason"), "timeout");
}

/// A shell script, one process per event.
async fn exec(body: &str) -> Letter {
    let text =
        format!("[ \"$(cat)\" != poison ] || {{ {body}; }}\nprintf %s \"$PELTON_EVENT_ATTEMPT\"\n");
    poison("f.sh", &text, "exec: [sh, f.sh]").await
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_killed() {
    assert_eq!(exec("kill -9 $$").await.get("reason"), "crashed");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_never_ends() {
    assert_eq!(exec("sleep 600").await.get("reason"), "timeout");
}

/// An event that kills the runner itself is given up without running again once it did so more
/// often than `losses` allows; its neighbours all succeed, uncharged.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_the_runner_is_given_up() {
    const LOSSES: usize = 2;
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(&format!(
        r#"
functions: {{ f: {{ run: f.py, workers: 2, env: {{ SITE: "${{SITE}}" }} }} }}
bindings:
  - subject: in.f
    function: f
    publish: out.f
    concurrency: 8
    ack_wait: 3s
    retry: {{ attempts: 10, losses: {LOSSES} }}
"#
    ));
    site.file(
        "f.py",
        "
import os, signal, time

def handle(event, context):
    if event.raw == b'poison':
        with open(os.environ['SITE'] + '/kills', 'a') as kills:
            print(event.attempt, file=kills)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return f'{event.attempt}'
",
    );
    let mut runner = Runner::start(&site, &server).await;
    send(&streams, NEIGHBOURS / 2).await;
    streams.send("in.f", "poison").await;
    send(&streams, NEIGHBOURS / 2).await;
    let letters = eventually("the poison is given up", async || {
        if runner.ended().is_some() {
            runner = Runner::spawn(&site, &server.url(), &[]);
        }
        let letters = streams.letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    streams.wait_settled("t-f").await;
    assert_eq!(site.lines("kills"), [const { "1" }; LOSSES + 1], "runs, and their attempt");
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert_eq!(letters[0].payload, b"poison");
    assert_eq!(letters[0].get("reason"), "crashed");
    assert_eq!(letters[0].get("attempts"), "0");
    assert_eq!(streams.texts("OUT").await, [const { "1" }; NEIGHBOURS], "attempts of neighbours");
    assert_eq!(runner.ended(), None);
}
