//! What is somebody else's is left alone until it is taken over in so many words.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream,
};

use super::{consumer_config, echo, nothing_to_do, of, pelton, stream_config};
use crate::harness::{NatsServer, Runner, Streams};

/// The stream of another manifest, with a consumer of nobody's that would hold back events.
async fn theirs(streams: &Streams) {
    let config = stream::Config {
        name: "IN".to_owned(),
        subjects: vec!["in.>".to_owned(), "more.>".to_owned()],
        description: Some("somebody else's".to_owned()),
        metadata: of("other"),
        ..stream::Config::default()
    };
    let stream = streams.js.create_stream(config).await.expect("their stream");
    let config = pull::Config {
        durable_name: Some("t-echo".to_owned()),
        filter_subject: "in.echo".to_owned(),
        description: Some("somebody else's".to_owned()),
        ack_policy: AckPolicy::Explicit,
        headers_only: true,
        max_deliver: 3,
        backoff: vec![Duration::from_secs(7), Duration::from_secs(9)],
        max_batch: 1,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.expect("their consumer");
}

fn owner(metadata: &HashMap<String, String>) -> Option<&str> {
    metadata.get("pelton.name").map(String::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_refused_then_adopted() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    theirs(&streams).await;
    let site = echo("");
    let (code, said) = pelton(&site, &server, &["apply"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("! stream IN\n    subjects: in.>, more.> -> in.>\n"), "{said}");
    assert!(said.contains("belongs to the manifest named `other`"), "{said}");
    assert!(said.contains("consumer t-echo exists and was not made by Pelton"), "{said}");
    assert!(said.contains("--adopt"), "{said}");
    assert_eq!(owner(&stream_config(&streams, "IN").await.metadata), Some("other"));
    assert_eq!(owner(&consumer_config(&streams, "t-echo").await.metadata), None);

    let (code, said) = pelton(&site, &server, &["apply", "--adopt"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("owner: other -> this manifest"), "{said}");
    nothing_to_do(&site, &server).await;
    let config = stream_config(&streams, "IN").await;
    assert_eq!(config.subjects, ["in.>"]);
    assert_eq!(config.description.as_deref(), Some("somebody else's"), "not the manifest's");
    let config = consumer_config(&streams, "t-echo").await;
    assert_eq!(owner(&config.metadata), Some("t"));
    assert_eq!((config.max_deliver, config.max_batch, config.headers_only), (-1, 0, false));
    assert_eq!((config.backoff, config.ack_wait), (Vec::new(), Duration::from_secs(30)));
    streams.send("in.echo", "x").await;
    let _runner = Runner::start(&site, &server).await;
    streams.wait_count("OUT", 1).await;
    assert_eq!(streams.texts("OUT").await, ["x"]);
}

/// `run --adopt` takes over, and changes nothing but that.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_adopts_what_it_is_told_to() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    theirs(&streams).await;
    let site = echo("");
    let mut runner = Runner::spawn(&site, &server.url(), &["--adopt"]);
    runner.wait_ready().await;
    let config = consumer_config(&streams, "t-echo").await;
    assert_eq!((owner(&config.metadata), config.max_deliver), (Some("t"), 3));
    assert_eq!(owner(&stream_config(&streams, "IN").await.metadata), Some("t"));
    assert!(runner.log().contains("max_deliver is 3, the manifest says -1"), "{}", runner.log());
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let mut again = Runner::start(&site, &server).await;
    assert_eq!(again.sigterm().await.code(), Some(0));
}

/// A push consumer cannot become a pull consumer, whoever owns it.
#[tokio::test(flavor = "multi_thread")]
async fn what_pelton_cannot_use_is_not_adopted() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let config = stream::Config {
        name: "IN".to_owned(),
        subjects: vec!["in.>".to_owned()],
        ..stream::Config::default()
    };
    let stream = streams.js.create_stream(config).await.expect("their stream");
    for n in 0..3 {
        streams.send("in.echo", n.to_string()).await;
    }
    let config = pull::Config {
        durable_name: Some("t-echo".to_owned()),
        ack_policy: AckPolicy::All,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.expect("their consumer");
    let (code, said) = pelton(&echo(""), &server, &["apply", "--adopt"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("explicit acknowledgements") && said.contains("`start: 1`"), "{said}");
    let metadata = consumer_config(&streams, "t-echo").await.metadata;
    assert_eq!(owner(&metadata), None, "nothing is changed while something is in the way");
}
