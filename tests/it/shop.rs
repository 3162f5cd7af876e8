//! The example shop does what its README says.

use std::{collections::BTreeMap, path::Path};

use tokio::process::Command;

use crate::harness::{NatsServer, Runner, Site, Streams};

/// A runner of a manifest from `functions/`.
fn run(manifest: &str, site: &Site, server: &NatsServer) -> Runner {
    let shop_dir = site.path("shop");
    let env = [("NATS_URL", server.url()), ("SHOP_DIR", shop_dir.display().to_string())];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let manifest = example(manifest);
    Runner::command(site, &["run", &manifest], &env)
}

fn example(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("functions").join(file).display().to_string()
}

async fn order(streams: &Streams, id: &str, card: &str) {
    let order = serde_json::json!({
        "orderId": id, "customer": "Ada", "item": "wheel", "quantity": 1, "total": 890, "card": card,
    });
    streams.send("orders.placed", order.to_string()).await;
}

/// Every paid and reserved order is shipped once, though its two events come in any order; the
/// declined card and the broken order are dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn each_order_comes_to_its_end() {
    let component = example("invoice/invoice.wasm");
    assert!(Path::new(&component).exists(), "{component} is missing: run `make shop` first");
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::new();
    let mut runner = run("pelton.yaml", &site, &server);
    runner.wait_ready().await;
    for n in 0..20 {
        order(&streams, &format!("o-{n}"), if n == 7 { "flaky" } else { "good" }).await;
    }
    order(&streams, "o-20", "declined").await;
    let mut json = async_nats::HeaderMap::new();
    json.insert("content-type", "application/json");
    streams.send_with("orders.placed", json, "{\"orderId\": ").await;

    streams.wait_count("SHOP_DLQ", 3).await;
    let mut letters: Vec<(String, String)> = Vec::new();
    for letter in streams.letters_of("SHOP_DLQ").await {
        letters.push((letter.subject.clone(), letter.get("reason").to_owned()));
    }
    letters.sort();
    let expected = [
        ("dlq.shop.inventory", "undecodable"),
        ("dlq.shop.payment", "rejected"),
        ("dlq.shop.payment", "undecodable"),
    ];
    assert_eq!(letters, expected.map(|(subject, reason)| (subject.to_owned(), reason.to_owned())));

    // 20 payments, 21 reservations, 20 shipments, invoices and notices.
    streams.wait_count("SHOP", 101).await;
    runner.metric("consumer_pending", &[], |pending| pending == 0.0).await;
    let mut shipped: BTreeMap<String, u32> = BTreeMap::new();
    let mut invoiced: BTreeMap<String, u32> = BTreeMap::new();
    for message in streams.read("SHOP").await {
        let said: serde_json::Value =
            serde_json::from_slice(&message.payload).expect("what functions say is JSON");
        let order = said["orderId"].as_str().expect("an order").to_owned();
        match message.subject.as_str() {
            "shipments.created" => {
                assert_eq!(said["from"], "north");
                *shipped.entry(order).or_default() += 1;
            }
            "invoices.issued" => {
                assert_eq!(said["net"], 747.9, "without 19 %");
                *invoiced.entry(order).or_default() += 1;
            }
            _ => {}
        }
    }
    let all = (0..20).map(|n| (format!("o-{n}"), 1)).collect();
    assert_eq!(shipped, all);
    assert_eq!(invoiced, all);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// The smallest producer and consumer.
#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_greets() {
    let server = NatsServer::start().await;
    let site = Site::new();
    let mut runner = run("tutorial/pelton.yaml", &site, &server);
    runner.wait_ready().await;
    let produced = Command::new("python3")
        .arg(example("tutorial/producer.py"))
        .env("NATS_URL", server.url())
        .output()
        .await
        .expect("Python runs");
    assert!(produced.status.success(), "{produced:?}");
    let said = String::from_utf8_lossy(&produced.stdout).into_owned();
    assert_eq!(said.matches("\"stream\":\"GREETINGS\"").count(), 3, "{said}");
    let done = [("binding", "consumer"), ("outcome", "done")];
    runner.metric("invocations_total", &done, |done| done == 3.0).await;
    assert!(runner.log().contains("Hello, Grace!"), "{}", runner.log());
}
