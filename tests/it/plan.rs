//! `pelton plan` and `pelton apply`: what differs is shown, and changed, and nothing else is.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    consumer::{self, pull},
    stream,
};
use serde_json::json;
use tokio::process::Command;

use crate::harness::{NatsServer, Site, Streams};

mod adopting;
mod renaming;

/// Exit code, and what was printed.
type Said = (i32, String);

async fn pelton(site: &Site, server: &NatsServer, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(arguments)
        .current_dir(site.dir())
        .env("NATS_URL", server.url())
        .output()
        .await
        .expect("pelton starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("text");
    (output.status.code().expect("an exit code"), said)
}

async fn applied(site: &Site, server: &NatsServer) {
    let (code, said) = pelton(site, server, &["apply"]).await;
    assert_eq!(code, 0, "{said}");
}

async fn nothing_to_do(site: &Site, server: &NatsServer) {
    let (code, said) = pelton(site, server, &["plan", "--exit-code"]).await;
    assert_eq!((code, said.lines().last()), (0, Some("nothing to do")), "{said}");
}

fn echo(binding: &str) -> Site {
    let site = Site::with(&format!(
        "
functions: {{ echo: {{ run: echo.py }} }}
bindings: [{{ subject: in.echo, function: echo, publish: out.echo{binding} }}]
"
    ));
    site.file("echo.py", "def handle(event, context):\n    return event.raw\n");
    site
}

async fn stream_config(streams: &Streams, name: &str) -> stream::Config {
    let stream = streams.js.get_stream(name).await.expect("the stream");
    stream.cached_info().config.clone()
}

async fn consumer_config(streams: &Streams, name: &str) -> consumer::Config {
    streams.consumer(name).await.expect("the consumer").config
}

async fn change_consumer(streams: &Streams, change: impl Fn(&mut pull::Config)) {
    let stream = streams.js.get_stream("IN").await.expect("the stream");
    let info = stream.consumer_info("t-echo").await.expect("the consumer");
    let mut config = pull::Config {
        durable_name: Some("t-echo".to_owned()),
        filter_subject: info.config.filter_subject,
        ack_wait: info.config.ack_wait,
        max_ack_pending: info.config.max_ack_pending,
        max_waiting: info.config.max_waiting,
        metadata: info.config.metadata,
        ..pull::Config::default()
    };
    change(&mut config);
    stream.update_consumer(config).await.expect("the consumer is changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_shown_then_created() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo("");
    let (code, said) = pelton(&site, &server, &["plan"]).await;
    assert_eq!(code, 0, "{said}");
    for line in [
        "+ stream IN (in.>)",
        "+ stream OUT (out.>)",
        "+ stream T_DLQ (dlq.t.>, redrive.t.>, deferred.t.>)",
        "+ stream KV_T_ATTEMPTS ($KV.T_ATTEMPTS.>)",
        "+ consumer t-echo on stream IN (start: all)",
        "+ consumer t-echo-redrive on stream T_DLQ (what comes back to echo)",
        "6 changes",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    assert!(streams.js.get_stream("IN").await.is_err(), "a plan changes nothing");
    assert_eq!(pelton(&site, &server, &["plan", "--exit-code"]).await.0, 1);
    applied(&site, &server).await;
    nothing_to_do(&site, &server).await;
    let metadata = consumer_config(&streams, "t-echo").await.metadata;
    assert_eq!(metadata.get("pelton.name").map(String::as_str), Some("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_changed_and_what_the_manifest_leaves_open_is_kept() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo(", ack_wait: 20s");
    applied(&site, &server).await;
    let hour = Duration::from_secs(60 * 60);
    let mut out = stream_config(&streams, "OUT").await;
    out.duplicate_window = Duration::from_secs(60);
    out.max_age = hour;
    out.max_message_size = 4096;
    out.metadata.insert("theirs".to_owned(), "kept".to_owned());
    streams.js.update_stream(out).await.expect("the stream is changed");
    change_consumer(&streams, |config| {
        config.ack_wait = Duration::from_secs(77);
        config.max_ack_pending = 5;
        config.sample_frequency = 50;
        config.metadata.insert("theirs".to_owned(), "kept".to_owned());
    })
    .await;

    let (code, said) = pelton(&site, &server, &["plan"]).await;
    assert_eq!(code, 0, "{said}");
    let shown = "~ stream OUT\n    duplicate_window: 1m -> 30m\n\
                 ~ consumer t-echo on stream IN\n    ack_wait: 1m17s -> 20s\n    \
                 max_ack_pending: 5 -> 4096\n2 changes\n";
    assert_eq!(said, shown);
    let (_, said) = pelton(&site, &server, &["plan", "-o", "json"]).await;
    let plan: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(plan["steps"][1]["action"], "change");
    assert_eq!(plan["steps"][1]["name"], "t-echo");
    assert_eq!(plan["steps"][1]["fields"][0]["old"], "1m17s");

    let (code, said) = pelton(&site, &server, &["apply", "-o", "json"]).await;
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["done"], plan["steps"]);
    assert_eq!((&report["failed"], &report["left"]["steps"]), (&json!([]), &json!([])));
    let out = stream_config(&streams, "OUT").await;
    assert_eq!(out.duplicate_window, hour / 2);
    assert_eq!((out.max_age, out.max_message_size), (hour, 4096), "not the manifest's");
    assert_eq!(out.metadata.get("theirs").map(String::as_str), Some("kept"));
    let consumer = consumer_config(&streams, "t-echo").await;
    assert_eq!(consumer.ack_wait, Duration::from_secs(20));
    assert_eq!(consumer.max_ack_pending, 4096);
    assert_eq!(consumer.sample_frequency, 50, "not the manifest's");
    assert_eq!(consumer.metadata.get("theirs").map(String::as_str), Some("kept"));
    nothing_to_do(&site, &server).await;
}

/// Of one subject into several and back: the server has a field for each.
#[tokio::test(flavor = "multi_thread")]
async fn subjects_of_a_binding_are_changed_in_place() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    applied(&echo(""), &server).await;
    let several = echo(", name: echo");
    let text = std::fs::read_to_string(several.path("pelton.yaml")).expect("the manifest");
    several.file("pelton.yaml", text.replace("subject: in.echo", "subject: [in.a, in.b]"));
    let (_, said) = pelton(&several, &server, &["plan"]).await;
    assert!(said.contains("    subject: in.echo -> in.a, in.b\n    note: "), "{said}");
    applied(&several, &server).await;
    nothing_to_do(&several, &server).await;
    let config = consumer_config(&streams, "t-echo").await;
    assert_eq!(config.filter_subjects, ["in.a", "in.b"]);
    applied(&echo(""), &server).await;
    nothing_to_do(&echo(""), &server).await;
    assert_eq!(consumer_config(&streams, "t-echo").await.filter_subject, "in.echo");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_is_refused_with_its_way_out() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo("");
    applied(&site, &server).await;
    let listed = std::fs::read_to_string(site.path("pelton.yaml")).expect("the manifest");
    let out = |keys: &str| {
        let keys = format!("[\"out.>\"], duplicate_window: 30m, {keys}");
        site.file("pelton.yaml", listed.replace("[\"out.>\"], duplicate_window: 30m", &keys));
    };

    out("storage: memory, max_msgs: 1000");
    let (code, said) = pelton(&site, &server, &["plan"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("! stream OUT\n    storage: file -> memory\n"), "{said}");
    assert!(said.contains("    hint: ") && said.contains("1 change, 1 in the way"), "{said}");
    let (code, said) = pelton(&site, &server, &["apply"]).await;
    assert_eq!(code, 1, "{said}");
    let config = stream_config(&streams, "OUT").await;
    assert_eq!(config.max_messages, 1000, "what can be changed is");
    let moved = stream::Config { storage: stream::StorageType::Memory, ..config.clone() };
    streams.js.update_stream(moved).await.expect_err("the server refuses it as well");
    let queue = stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..config };
    streams.js.update_stream(queue).await.expect_err("the server refuses it as well");

    // What only the server knows is told in its words.
    out("num_replicas: 3");
    let (code, said) = pelton(&site, &server, &["apply"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the server refuses: ") && said.contains("replicas"), "{said}");
    assert!(said.contains("    hint: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_applies_at_the_same_time_both_succeed() {
    let server = NatsServer::start().await;
    let site = echo("");
    let apply = || pelton(&site, &server, &["apply", "--yes"]);
    let (one, two, three) = tokio::join!(apply(), apply(), apply());
    assert_eq!((one.0, two.0, three.0), (0, 0, 0), "{one:?} {two:?} {three:?}");
    nothing_to_do(&site, &server).await;
    site.file(
        "pelton.yaml",
        std::fs::read_to_string(site.path("pelton.yaml"))
            .expect("the manifest")
            .replace("duplicate_window: 30m", "duplicate_window: 20m, max_age: 2h")
            .replace("publish:", "ack_wait: 17s, publish:"),
    );
    let (one, two, three) = tokio::join!(apply(), apply(), apply());
    assert_eq!((one.0, two.0, three.0), (0, 0, 0), "{one:?} {two:?} {three:?}");
    nothing_to_do(&site, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_listed_and_never_deleted() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    applied(&echo(""), &server).await;
    let site = echo(", name: other");
    let (code, said) = pelton(&site, &server, &["apply"]).await;
    assert_eq!(code, 0, "{said}");
    for orphan in ["t-echo on stream IN", "t-echo-redrive on stream T_DLQ"] {
        assert!(said.contains(&format!("- consumer {orphan}: no binding owns it")), "{said}");
    }
    assert!(streams.consumer("t-echo").await.is_some());
    nothing_to_do(&site, &server).await;
}

/// A dead-letter stream of this manifest gets the subjects that it lacks, and keeps its others.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_stream_gets_the_subjects_that_it_lacks() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let config = stream::Config {
        name: "T_DLQ".to_owned(),
        subjects: vec!["dlq.t.>".to_owned(), "audit.>".to_owned()],
        metadata: of("t"),
        ..stream::Config::default()
    };
    streams.js.create_stream(config).await.expect("the stream is created");
    let site = echo("");
    let (_, said) = pelton(&site, &server, &["plan"]).await;
    let shown = "subjects: dlq.t.>, audit.> -> dlq.t.>, audit.>, redrive.t.>, deferred.t.>";
    assert!(said.contains(shown), "{said}");
    applied(&site, &server).await;
    nothing_to_do(&site, &server).await;
    let subjects = stream_config(&streams, "T_DLQ").await.subjects;
    assert_eq!(subjects, ["dlq.t.>", "audit.>", "redrive.t.>", "deferred.t.>"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_a_problem_changes_nothing() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo(", name: echo");
    let text = std::fs::read_to_string(site.path("pelton.yaml")).expect("the manifest");
    site.file("pelton.yaml", text.replace("out.echo", "nowhere.echo"));
    let (code, said) = pelton(&site, &server, &["apply"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("! binding `echo` publishes to `nowhere.echo`"), "{said}");
    assert!(streams.js.get_stream("IN").await.is_err(), "{said}");
}

fn of(owner: &str) -> HashMap<String, String> {
    HashMap::from([("pelton.name".to_owned(), owner.to_owned())])
}

/// On a terminal there are colours and a question; `n` changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_asked_first() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo("");
    let (code, said) = on_a_terminal(&site, &server, "n\n").await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("\u{1b}[32m+\u{1b}[0m stream IN (in.>)"), "{said}");
    assert!(said.contains("Apply? [y/N]") && said.contains("nothing was changed"), "{said}");
    assert!(streams.js.get_stream("IN").await.is_err(), "{said}");
    let (code, said) = on_a_terminal(&site, &server, "y\n").await;
    assert_eq!(code, 0, "{said}");
    nothing_to_do(&site, &server).await;
}

/// `pelton apply` where Python's `pty` is the terminal, and somebody types.
async fn on_a_terminal(site: &Site, server: &NatsServer, typed: &str) -> Said {
    let program = "\
import os, pty, sys
def read(fd):
    data = os.read(fd, 1024)
    read.said += data
    if not read.typed and b'[y/N]' in read.said:
        read.typed = True
        os.write(fd, sys.argv[1].encode())
    return data
read.said, read.typed = b'', False
status = pty.spawn(sys.argv[2:], read, lambda fd: b'')
sys.exit(os.waitstatus_to_exitcode(status))";
    let output = Command::new("python3")
        .args(["-c", program, typed, env!("CARGO_BIN_EXE_pelton"), "apply"])
        .current_dir(site.dir())
        .env("NATS_URL", server.url())
        .env_remove("NO_COLOR")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("an exit code"), said)
}
