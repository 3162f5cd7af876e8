//! A renamed binding goes on where it stood under its old name.

use std::collections::BTreeSet;

use super::{applied, consumer_config, nothing_to_do, pelton};
use crate::harness::{NatsServer, Runner, Site, Streams, eventually, load};

/// A function that fails on the first try of every tenth event behind the first thousand, and on
/// `bad` for ever.
const WORK: &str = r#"
def handle(event, context):
    text = event.raw.decode()
    with open("runs", "a") as runs:
        runs.write(f"{text} {event.attempt} {event.id}\n")
    flaky = text.endswith("0") and len(text) > 3
    if text == "bad" or (flaky and event.attempt == 1):
        raise RuntimeError("not yet")
    return text
"#;

fn site(name: &str) -> Site {
    let site = Site::new();
    site.file("work.py", WORK);
    called(&site, name);
    site
}

fn called(site: &Site, name: &str) {
    site.manifest(&format!(
        "
functions: {{ work: {{ run: work.py }} }}
bindings:
  - {{ {name}, subject: in.>, function: work, publish: out.work, ack_wait: 5s, retry: {{ attempts: 4, backoff: 1s..1s }} }}
"
    ));
}

async fn send(streams: &Streams, count: usize) {
    streams.send_many(count, |n| (format!("in.{n}"), n.to_string())).await;
}

/// Whether there is a durable for what comes back to a binding.
async fn comes_back(streams: &Streams, binding: &str) -> bool {
    let letters = streams.js.get_stream("T_DLQ").await.expect("the dead letters");
    letters.consumer_info(format!("t-{binding}-redrive")).await.is_ok()
}

async fn each_is_stored_once(streams: &Streams, count: usize) {
    streams.wait_count("OUT", u64::try_from(count).expect("a count")).await;
    let texts = streams.texts("OUT").await;
    let distinct: BTreeSet<&String> = texts.iter().collect();
    assert_eq!((texts.len(), distinct.len()), (count, count), "each output once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_renamed_under_load_loses_nothing_and_repeats_little() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("name: old");
    let count = load().max(2000);
    applied(&site, &server).await;
    send(&streams, count).await;
    let mut old = Runner::start(&site, &server).await;
    streams.wait_count("OUT", 1200).await;
    old.kill9().await;
    let floor = streams.consumer("t-old").await.expect("the old one").ack_floor.stream_sequence;
    assert!(floor >= 900, "{floor} events were done under the old name");
    let before = site.lines("runs").len();

    called(&site, "name: new, renamed_from: old");
    let (_, said) = pelton(&site, &server, &["plan"]).await;
    let behind =
        format!("+ consumer t-new on stream IN (behind sequence {floor}, where t-old stands)");
    assert!(said.contains(&behind), "{said}");
    let mut new = Runner::start(&site, &server).await;
    each_is_stored_once(&streams, count).await;
    streams.wait_settled("t-new").await;
    assert_eq!(streams.count("T_DLQ").await, 0);
    for run in site.lines("runs").split_off(before) {
        let sequence = run.split(':').nth(1).expect("an event").parse::<u64>();
        assert!(sequence.expect("a number") > floor, "{run} was acknowledged, and ran again");
    }
    assert!(streams.consumer("t-old").await.is_some(), "a runner deletes nothing");
    assert!(new.log().contains("t-old on stream IN is left over"), "{}", new.log());
    assert_eq!(new.sigterm().await.code(), Some(0));

    let (code, said) = pelton(&site, &server, &["apply"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("~ consumer t-old on stream IN\n    is deleted"), "{said}");
    assert!(said.contains("~ consumer t-old-redrive on stream T_DLQ\n    is deleted"), "{said}");
    assert!(streams.consumer("t-old").await.is_none());
    assert!(!comes_back(&streams, "old").await);
    nothing_to_do(&site, &server).await;
    called(&site, "name: new");
    nothing_to_do(&site, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_under_the_old_name_count_under_the_new_one() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("name: old");
    let mut old = Runner::start(&site, &server).await;
    streams.send("in.x", "bad").await;
    eventually("two tries", async || (site.lines("runs").len() >= 2).then_some(())).await;
    old.metric("settlements_total", &[("action", "nak")], |naks| naks >= 2.0).await;
    old.kill9().await;
    let before = site.lines("runs").len();

    called(&site, "name: new, renamed_from: old");
    let _new = Runner::start(&site, &server).await;
    let letters = streams.wait_letters(1).await;
    assert_eq!(letters[0].subject, "dlq.t.new");
    assert!(letters[0].outcomes().len() >= 4, "{:?}", letters[0].outcomes());
    let tries: Vec<String> = site.lines("runs").split_off(before);
    assert_ne!(tries[0], "bad 1 IN:1", "the new name knows of the tries under the old one");
    assert_eq!(tries.last().map(String::as_str), Some("bad 4 IN:1"));
}

/// During a rolling update both names are at work: nothing is lost, and what runs under both is
/// stored once.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_old_runner_is_at_work_its_durable_stays() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let old_site = site("name: old");
    let mut old = Runner::start(&old_site, &server).await;
    let new_site = site("name: new, renamed_from: old");
    let mut new = Runner::start(&new_site, &server).await;
    assert!(new.log().contains("t-old on stream IN: a runner still works on it"), "{}", new.log());
    let count = load() / 4;
    send(&streams, count).await;
    each_is_stored_once(&streams, count).await;
    streams.wait_settled("t-old").await;
    streams.wait_settled("t-new").await;
    each_is_stored_once(&streams, count).await;

    eventually("the old runner asks for events", async || {
        (streams.consumer("t-old").await?.num_waiting > 0).then_some(())
    })
    .await;
    let (code, said) = pelton(&new_site, &server, &["apply"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("! consumer t-old on stream IN\n    a runner still works on it"),
        "{said}"
    );
    assert!(comes_back(&streams, "old").await, "its runner lives");
    assert_eq!(old.sigterm().await.code(), Some(0));
    eventually("the old durable can go", async || {
        let (code, _) = pelton(&new_site, &server, &["apply"]).await;
        (code == 0).then_some(())
    })
    .await;
    assert!(streams.consumer("t-old").await.is_none());
    assert!(comes_back(&streams, "new").await && !comes_back(&streams, "old").await);
    assert_eq!(new.sigterm().await.code(), Some(0));
}

/// A work queue takes no second consumer of a subject: the old one has to go first.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_work_queue_apply_replaces_the_durable() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("name: old");
    let queue = |site: &Site| {
        let text = std::fs::read_to_string(site.path("pelton.yaml")).expect("the manifest");
        let queue = "[\"in.>\"], retention: workqueue";
        site.file("pelton.yaml", text.replace("[\"in.>\"]", queue));
    };
    queue(&site);
    applied(&site, &server).await;
    send(&streams, 20).await;
    called(&site, "name: new, renamed_from: old");
    queue(&site);
    let mut refused = Runner::spawn(&site, &server.url(), &[]);
    assert_eq!(refused.wait().await.code(), Some(1));
    assert!(refused.log().contains("pelton apply"), "{}", refused.log());
    applied(&site, &server).await;
    nothing_to_do(&site, &server).await;
    assert!(streams.consumer("t-old").await.is_none());
    assert!(consumer_config(&streams, "t-new").await.metadata.contains_key("pelton.renamed_from"));
    let _runner = Runner::start(&site, &server).await;
    each_is_stored_once(&streams, 20).await;
}

/// Two runners that each work in order would not work in order together.
#[tokio::test(flavor = "multi_thread")]
async fn in_order_the_old_runner_has_to_stop_first() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let ordered = "order_by: { token: 2 }";
    let old_site = site(&format!("name: old, {ordered}"));
    let mut old = Runner::start(&old_site, &server).await;
    eventually("the old runner asks for events", async || {
        (streams.consumer("t-old").await?.num_waiting > 0).then_some(())
    })
    .await;
    let new_site = site(&format!("name: new, renamed_from: old, {ordered}"));
    let mut refused = Runner::spawn(&new_site, &server.url(), &[]);
    assert_eq!(refused.wait().await.code(), Some(1));
    assert!(refused.log().contains("a runner still works as t-old"), "{}", refused.log());
    assert!(streams.consumer("t-new").await.is_none());
    assert_eq!(old.sigterm().await.code(), Some(0));
    eventually("nobody asks for its events", async || {
        (streams.consumer("t-old").await?.num_waiting == 0).then_some(())
    })
    .await;
    let _new = Runner::start(&new_site, &server).await;
    send(&streams, 20).await;
    each_is_stored_once(&streams, 20).await;
}
