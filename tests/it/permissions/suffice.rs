//! Users who may do what is printed and nothing else do all there is to do.

use std::path::Path;

use super::{Printed, account, pelton, refused, streams, url};
use crate::harness::{NatsServer, Runner, Site, eventually};

/// Partitions have a stream and consumers of their own.
#[tokio::test(flavor = "multi_thread")]
async fn they_suffice_for_partitions() {
    let site = Site::new();
    let manifest = "version: 1\nname: t\nnats: { servers: [\"${NATS_URL}\"] }\nstreams:\n  IN: { subjects: [in.>] }\n  OUT: { subjects: [out.>] }\nfunctions: { f: { run: f.py } }\nbindings:\n  - { subject: in.>, function: f, publish: out.f, order_by: { token: 2 }, partitions: 2 }\n";
    site.file("pelton.yaml", manifest);
    site.file("f.py", "from pelton import Reject\n\ndef handle(event, context):\n    if event.raw == b'reject':\n        raise Reject('no')\n    return event.raw\n");
    let printed = Printed::of(&site, "pelton.yaml", &[]).await;
    let config = format!("accounts {{\n{}}}", account("all", &[("few", &printed)]));
    let server = NatsServer::with_config(&config).await;
    let mut runner = Runner::spawn(&site, &url(&server, "few", "few"), &[]);
    runner.wait_ready().await;
    let streams = streams(&server, "all").await;
    for key in 0..8 {
        streams.send(&format!("in.{key}"), "x").await;
    }
    streams.send("in.0", "reject").await;
    streams.wait_letters(1).await;
    streams.send("redrive.t.f", "x").await;
    streams.wait_count("OUT", 8).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    assert_eq!(refused(&runner.log()), Vec::<String>::new());
}

/// Everything that the shop has to do is done by users who may do nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn they_suffice_for_the_shop() {
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    assert!(functions.join("invoice/invoice.wasm").exists(), "run `make shop` first");
    let manifest = functions.join("pelton.yaml").display().to_string();
    let site = Site::new();
    let shop_dir = site.path("shop").display().to_string();
    let mut users = Vec::new();
    for (user, arguments) in [
        ("run", &["--no-provision"][..]),
        ("apply", &["--for", "apply"]),
        ("plan", &["--for", "plan"]),
        ("send", &["--for", "send"]),
        ("carer", &["--for", "list,dlq,pause"]),
    ] {
        users.push((user, Printed::of(&site, &manifest, arguments).await));
    }
    let alone = Printed::of(&site, &manifest, &[]).await;
    let shop: Vec<(&str, &Printed)> = users.iter().map(|(user, few)| (*user, few)).collect();
    let shop = account("shop", &shop);
    let alone = account("kiosk", &[("alone", &alone)]);
    let server = NatsServer::with_config(&format!("accounts {{\n{shop}{alone}}}")).await;
    let may = async |user: &str, words: &[&str]| {
        let url = url(&server, user, "few");
        let (code, said, errors) = pelton(&site, words, &[("NATS_URL", &url)]).await;
        assert_eq!((code, refused(&errors)), (0, Vec::new()), "{words:?} {said}{errors}");
        said
    };
    may("apply", &["apply", &manifest, "--yes"]).await;
    assert!(may("plan", &["plan", &manifest]).await.contains("nothing to do"));
    for (account, user, more) in [("shop", "run", Some("--no-provision")), ("kiosk", "alone", None)]
    {
        let streams = streams(&server, account).await;
        let url = url(&server, user, "few");
        let env = [("NATS_URL", url.as_str()), ("SHOP_DIR", &shop_dir)];
        let words: Vec<&str> = ["run", &manifest].into_iter().chain(more).collect();
        let mut runner = Runner::command(&site, &words, &env);
        runner.wait_ready().await;
        for (id, card) in [("1", "good"), ("2", "flaky"), ("3", "declined")] {
            let order = serde_json::json!({
                "orderId": format!("{account}-{id}"), "customer": "Ada", "item": "wheel",
                "quantity": 1, "total": 890, "card": card,
            });
            let order = order.to_string();
            let words = ["send", "orders.placed", &order, "-H", "content-type: application/json"];
            match user {
                "run" => drop(may("send", &words).await),
                _ => drop(streams.send("orders.placed", order).await),
            }
        }
        // Two orders with five events each, and stock reserved for the declined one.
        streams.wait_count("SHOP", 11).await;
        streams.wait_count("SHOP_DLQ", 1).await;
        runner.metric("consumer_pending", &[], |pending| pending == 0.0).await;
        if user == "run" {
            may("carer", &["list", &manifest]).await;
            may("carer", &["dlq", "show", "1", "-f", &manifest]).await;
            may("carer", &["pause", "notify", &manifest]).await;
            may("carer", &["resume", "notify", &manifest]).await;
            may("carer", &["dlq", "redrive", "-f", &manifest]).await;
            // Declined once more.
            eventually("it is a letter again", async || {
                let stream = streams.js.get_stream("SHOP_DLQ").await.ok()?;
                let state = &stream.cached_info().state;
                (state.messages == 1 && state.last_sequence > 2).then_some(())
            })
            .await;
            may("carer", &["dlq", "purge", "-f", &manifest, "--yes"]).await;
        }
        assert_eq!(runner.sigterm().await.code(), Some(0));
        assert_eq!(refused(&runner.log()), Vec::<String>::new(), "{}", runner.log());
    }
}
