//! `pelton dev`, and the verbs that look on: on a private nats-server, through a reload, a broken
//! manifest and Ctrl-C.

use std::process::Command;

use rustix::process::Signal;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually};

const BODY: &str = "functions: { f: { run: f.py } }\n\
                    bindings: [{ subject: in.x, function: f, publish: out.x }]\n";

fn says(text: &str) -> String {
    format!("def handle(event, context):\n    return {text:?}\n")
}

async fn shown(dev: &Runner, text: &str) {
    eventually(text, async || dev.log().contains(text).then_some(())).await;
}

/// Where it listens, as it says itself.
async fn url(dev: &Runner) -> String {
    eventually("the server's address", async || {
        let log = dev.log();
        let at = log.find("nats://")?;
        log[at..].split_whitespace().next().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn dev_follows_changes_and_survives_mistakes() {
    let site = Site::with(BODY);
    site.file("f.py", says("first"));
    let env = [("NATS_URL", "nats://nowhere.invalid:1"), ("PELTON_LOG", "error")];
    let mut dev = Runner::command(&site, &["dev"], &env);
    shown(&dev, "python f.py").await;
    shown(&dev, "✓ consumer t-f on stream IN (start: all) created").await;
    assert!(dev.log().contains("from the environment (hidden): NATS_URL"), "{}", dev.log());
    let streams = Streams::connect(&url(&dev).await).await;

    streams.send("in.x", "1").await;
    streams.wait_count("OUT", 1).await;
    shown(&dev, "ack → out.x").await;

    site.file("f.py", says("second"));
    shown(&dev, "changed: reloading").await;
    eventually("the new function answers", async || {
        streams.send("in.x", "2").await;
        let last = streams.js.get_stream("OUT").await.ok()?;
        let last = last.get_last_raw_message_by_subject("out.x").await.ok()?;
        (last.payload == "second").then_some(())
    })
    .await;

    site.file("pelton.yaml", "version: 1\nname: t\nfunctoins: {}\n");
    shown(&dev, "did you mean `functions`?").await;
    shown(&dev, "what ran before goes on").await;
    let before = streams.send("in.x", "3").await;
    streams.wait_settled("t-f").await;
    assert!(before > 1);

    dev.signal(Signal::INT);
    assert!(dev.wait().await.success());
    shown(&dev, "0 dead").await;
}

#[tokio::test]
async fn run_ends_when_idle_and_list_tells_how_things_stand() {
    let server = NatsServer::start().await;
    let site = Site::with(
        "functions: { f: { run: f.py } }\n\
         bindings:\n- { subject: in.x, function: f, publish: out.x }\n\
         - { name: old, subject: in.y, function: f }\n",
    );
    site.file("f.py", "from pelton import Reject\ndef handle(e, c):\n    if e.raw == b'no': raise Reject('because')\n    return 1\n");
    let check = || {
        let mut check = Runner::spawn(&site, &server.url(), &["--check-only"]);
        async move { check.wait().await.code() }
    };
    assert_eq!(check().await, Some(1), "nothing is there yet, and it makes nothing");
    drop(Runner::start(&site, &server).await);
    assert_eq!(check().await, Some(0));

    let streams = server.streams().await;
    streams.send_many(50, |n| ("in.x".to_owned(), n.to_string())).await;
    streams.send("in.x", "no").await;
    let mut run = Runner::spawn(&site, &server.url(), &["--exit-when-idle"]);
    assert!(run.wait().await.success());
    let info = streams.consumer("t-f").await.expect("the consumer is there");
    assert_eq!((info.num_pending, info.num_ack_pending), (0, 0));

    site.manifest("functions: { f: { run: f.py } }\nbindings: [{ subject: in.x, function: f }]\n");
    let list = |arguments: &[&str]| {
        let listed = Command::new(env!("CARGO_BIN_EXE_pelton"))
            .args(["list"])
            .args(arguments)
            .current_dir(site.dir())
            .env("NATS_URL", server.url())
            .output()
            .expect("pelton starts");
        assert!(listed.status.success());
        String::from_utf8(listed.stdout).expect("text")
    };
    let table = list(&[]);
    assert!(table.contains("rejected: because"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&list(&["-o", "json"])).expect("JSON");
    assert_eq!(json["bindings"][0]["lag"], 0);
    assert_eq!(json["bindings"][0]["dead_letters"], 1);
    assert_eq!(json["bindings"][0]["state"], "idle");
    assert_eq!(json["orphans"][0]["binding"], "old");
}
