//! What is missing is created, what is somebody else's is left alone, what cannot be changed is
//! refused with the way out.

use std::collections::HashMap;

use async_nats::jetstream::{consumer::pull, stream};

use crate::harness::{NatsServer, Runner, Site, Streams, eventually};

fn echo(binding: &str) -> Site {
    let site = Site::with(&format!(
        "
functions: {{ echo: {{ run: echo.py }} }}
bindings: [{{ subject: in.echo, function: echo{binding} }}]
"
    ));
    site.file("echo.py", "def handle(event, context):\n    return event.raw\n");
    site
}

/// Runs until the runner gives up by itself; returns its exit code and what it wrote.
async fn refused(site: &Site, server: &NatsServer, arguments: &[&str]) -> (Option<i32>, String) {
    let mut runner = Runner::spawn(site, &server.url(), arguments);
    let status = runner.wait().await;
    (status.code(), runner.log())
}

async fn create_in(streams: &Streams, metadata: HashMap<String, String>) -> stream::Stream {
    let config = stream::Config {
        name: "IN".to_owned(),
        subjects: vec!["in.>".to_owned()],
        metadata,
        ..stream::Config::default()
    };
    streams.js.create_stream(config).await.expect("the stream is created")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_created_and_says_whose_it_is() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = echo(", publish: out.echo");
    let _runner = Runner::start(&site, &server).await;
    for name in ["IN", "OUT", "T_DLQ", "KV_T_ATTEMPTS"] {
        let stream =
            streams.js.get_stream(name).await.unwrap_or_else(|err| panic!("{name}: {err}"));
        let owner = stream.cached_info().config.metadata.get("pelton.name").cloned();
        assert_eq!(owner.as_deref(), Some("t"), "the owner of {name}");
    }
    let config = streams.consumer("t-echo").await.expect("the consumer").config;
    assert_eq!(config.max_deliver, -1, "limits are Pelton's");
    assert_eq!(config.metadata.get("pelton.name").map(String::as_str), Some("t"));
    assert_eq!(config.metadata.get("pelton.binding").map(String::as_str), Some("echo"));
    assert!(config.metadata.contains_key("pelton.manifest"));
    let dead = streams.js.get_stream("T_DLQ").await.expect("the stream");
    let subjects = &dead.cached_info().config.subjects;
    assert!(subjects.contains(&"dlq.t.>".to_owned()), "{subjects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_consumer_is_refused() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let stream = create_in(&streams, HashMap::new()).await;
    let theirs = pull::Config {
        durable_name: Some("t-echo".to_owned()),
        filter_subject: "in.echo".to_owned(),
        description: Some("somebody else's".to_owned()),
        ..pull::Config::default()
    };
    stream.create_consumer(theirs).await.expect("their consumer");
    let (code, log) = refused(&echo(""), &server, &[]).await;
    assert!(matches!(code, Some(1..=3)), "{code:?}");
    assert!(log.contains("t-echo"), "{log}");
    let config = streams.consumer("t-echo").await.expect("the consumer").config;
    assert_eq!(config.description.as_deref(), Some("somebody else's"), "left alone");
    assert!(config.metadata.keys().all(|key| !key.starts_with("pelton.")), "left alone");
}

/// The manifest lists the stream, but it belongs to another manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_manifest_is_used_and_not_changed() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let owner = HashMap::from([("pelton.name".to_owned(), "other".to_owned())]);
    create_in(&streams, owner).await;
    let site = echo(", publish: out.echo");
    let _runner = Runner::start(&site, &server).await;
    streams.send("in.echo", "x").await;
    streams.wait_count("OUT", 1).await;
    let stream = streams.js.get_stream("IN").await.expect("the stream");
    let metadata = &stream.cached_info().config.metadata;
    assert_eq!(metadata.get("pelton.name").map(String::as_str), Some("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_start_for_an_old_durable_is_refused() {
    let server = NatsServer::start().await;
    let old = echo(", start: all");
    let mut runner = Runner::start(&old, &server).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let (code, log) = refused(&echo(", start: new"), &server, &[]).await;
    assert!(matches!(code, Some(1..=3)), "{code:?}");
    assert!(log.contains("start") && log.contains("t-echo"), "{log}");
    let mut runner = Runner::start(&old, &server).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_durable_starts_where_it_is_told() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    create_in(&streams, HashMap::new()).await;
    for n in 1..=5 {
        streams.send("in.echo", n.to_string()).await;
    }
    let site = echo(", publish: out.echo, start: 4");
    let _runner = Runner::start(&site, &server).await;
    streams.wait_count("OUT", 2).await;
    streams.wait_settled("t-echo").await;
    let mut texts = streams.texts("OUT").await;
    texts.sort();
    assert_eq!(texts, ["4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_no_stream_holds_is_refused() {
    let server = NatsServer::start().await;
    let (code, log) = refused(&echo(", publish: nowhere.echo"), &server, &[]).await;
    assert!(matches!(code, Some(1..=3)), "{code:?}");
    assert!(log.contains("nowhere.echo"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_provision_creates_nothing() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let (code, log) = refused(&echo(""), &server, &["--no-provision"]).await;
    assert!(matches!(code, Some(1..=3)), "{code:?}");
    assert!(log.contains("IN"), "{log}");
    assert!(streams.js.get_stream("IN").await.is_err());
}

/// Of a stream that the manifest does not list only the server knows how long it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_shorter_than_the_retries_is_told() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let config = stream::Config {
        name: "BRIEF".to_owned(),
        subjects: vec!["brief.>".to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    streams.js.create_stream(config).await.expect("the stream is created");
    let remembers = "the stream BRIEF remembers what was published to it for 2m, and an event can come again for 7m32s";
    let site = echo(", publish: brief.echo");
    let mut runner = Runner::start(&site, &server).await;
    eventually("the runner tells", async || runner.log().contains(remembers).then_some(())).await;
    assert!(runner.log().contains("the stream BRIEF is a work queue"), "{}", runner.log());
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let (code, log) = refused(&site, &server, &["--check-only"]).await;
    assert_eq!(code, Some(0));
    assert!(log.contains("warning: ") && log.contains(remembers), "{log}");

    // What Pelton makes itself fits what it does by default.
    let site = Site::new();
    let text = std::fs::read_to_string(echo(", publish: out.echo").path("pelton.yaml"));
    let text = text.expect("the manifest").replace(", duplicate_window: 30m", "");
    site.file("pelton.yaml", text);
    site.file("echo.py", "def handle(event, context):\n    return event.raw\n");
    let mut runner = Runner::start(&site, &server).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let (code, log) = refused(&site, &server, &["--check-only"]).await;
    assert_eq!((code, log.trim()), (Some(0), "ok: t can run here"));
}
