//! A replay has a consumer of its own, and so have its permissions.

use futures_util::{StreamExt as _, stream::iter};

use super::{
    Printed, account, command,
    each_line::{AT_ONCE, Servers, feed, few, is_refused},
    pelton, refused, site, streams, url,
};
use crate::harness::{NatsServer, Site};

/// Everything is there, and events of each kind are stored that `plain` and `kept` can replay.
async fn prepared(server: &NatsServer, site: &Site, account: &str) {
    let admin = url(server, account, "all");
    let (code, said, errors) = pelton(site, &["apply", "--yes"], &[("NATS_URL", &admin)]).await;
    assert_eq!(code, 0, "{said}{errors}");
    let streams = streams(server, account).await;
    feed(&streams).await;
    streams.send("in.kept", "retry").await;
}

/// A replay of the binding that a line speaks of; that with state can only be looked at.
fn words(subject: &str) -> Vec<&'static str> {
    match subject.contains("kept") {
        true => vec!["replay", "kept", "--from", "1h", "--dry-run"],
        false => vec!["replay", "plain", "--from", "1h", "--yes"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_replays_needs_every_line() {
    let site = site();
    let printed = Printed::of(&site, "pelton.yaml", &["--for", "replay"]).await;
    let servers = Servers::start(&printed).await;
    iter(printed.lines())
        .for_each_concurrent(AT_ONCE, async |(place, subject)| {
            let server = servers.of(&subject);
            let account = format!("a{place}");
            prepared(server, &site, &account).await;
            let replay = command(&site, &words(&subject), &url(server, &few(&account), "few"));
            is_refused(&replay, &subject, async || {}).await;
        })
        .await;
}

/// Bindings in order, with partitions and with state among them.
#[tokio::test(flavor = "multi_thread")]
async fn they_suffice_for_a_replay() {
    let site = site();
    let text = std::fs::read_to_string(site.path("pelton.yaml")).expect("a manifest");
    let more = "  - { name: parted, subject: in.parted.*, function: echo, publish: out.parted, order_by: { token: 3 }, partitions: 2 }\n";
    let text = text.replace("functions: { ", "functions: { echo: { exec: [cat] }, ");
    site.file("pelton.yaml", format!("{text}{more}"));
    let printed = Printed::of(&site, "pelton.yaml", &["--for", "replay"]).await;
    let config = format!("accounts {{\n{}}}", account("all", &[("few", &printed)]));
    let server = NatsServer::with_config(&config).await;
    prepared(&server, &site, "all").await;
    let streams = streams(&server, "all").await;
    for key in ["a", "b"] {
        streams.send(&format!("in.parted.{key}"), "x").await;
    }
    let few = url(&server, "few", "few");
    // Of three events of `plain` one is rejected; those of `kept` are looked at alone.
    for (words, code, done) in [
        (&["plain", "--from", "1", "--yes"][..], 1, 2),
        (&["plain", "--from", "1h", "--as-new", "--yes", "--restart"], 1, 2),
        (&["kept", "--from", "1h", "--dry-run"], 1, 2),
        (&["parted", "--from", "1", "--yes"], 0, 2),
    ] {
        let words = [&["replay"], words, &["-o", "json"]].concat();
        let (ended, said, errors) = pelton(&site, &words, &[("NATS_URL", &few)]).await;
        assert_eq!((ended, refused(&errors)), (code, Vec::new()), "{words:?} {said}{errors}");
        let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!((&report["done"], &report["complete"]), (&done.into(), &true.into()), "{said}");
    }
    streams.wait_letters(2).await;
}
