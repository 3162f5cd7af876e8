//! One order is one trace, from `pelton send` to its last function, as a collector sees it.
//!
//! `make traces` runs it: apart from the other tests, since it needs a build with the feature `otel`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    unused_imports,
    reason = "a test that cannot go on panics; it uses a part of the tests' harness"
)]

#[path = "../it"]
mod it {
    pub(crate) mod harness;
}

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command, task::AbortHandle};

use it::harness::{NatsServer, Runner, Site, Streams, eventually};

/// A collector that keeps what it is told.
struct Collector {
    spans: Arc<Mutex<Vec<Value>>>,
    endpoint: String,
    serving: AbortHandle,
}

impl Collector {
    async fn start() -> Self {
        let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&spans);
        let keep = async move |Json(told): Json<Value>| {
            let scopes = each(&told["resourceSpans"], "scopeSpans");
            let new = scopes.iter().flat_map(|scope| each(&json!([scope]), "spans"));
            kept.lock().expect("nobody panics").extend(new);
            Json(json!({}))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().route("/v1/traces", post(keep));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        Self { spans, endpoint, serving: serving.abort_handle() }
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("nobody panics").clone()
    }

    /// The spans of the trace that began with this order; none before that is told.
    fn trace(&self, id: &str) -> Vec<Value> {
        let of = |span: &Value| text(span, "traceId") == id;
        self.spans().into_iter().filter(of).collect()
    }

    fn env(&self) -> [(&str, &str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ]
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What all of several objects have under a key.
fn each(objects: &Value, key: &str) -> Vec<Value> {
    let objects = objects.as_array().into_iter().flatten();
    objects.flat_map(|object| object[key].as_array().cloned().unwrap_or_default()).collect()
}

fn text(span: &Value, key: &str) -> String {
    span[key].as_str().unwrap_or_default().to_owned()
}

fn attribute(span: &Value, key: &str) -> String {
    let all = span["attributes"].as_array().into_iter().flatten();
    let found = all.into_iter().find(|attribute| attribute["key"] == key);
    found.map(|found| text(&found["value"], "stringValue")).unwrap_or_default()
}

fn named(spans: &[Value], name: &str) -> Vec<Value> {
    spans.iter().filter(|span| text(span, "name") == name).cloned().collect()
}

/// Sends an order; returns the id of the trace that it begins.
async fn order(site: &Site, server: &NatsServer, collector: &Collector, card: &str) -> String {
    let order = json!({
        "orderId": card, "customer": "Ada", "item": "wheel", "quantity": 1, "total": 890, "card": card,
    });
    let begun = || named(&collector.spans(), "publish orders.placed");
    let before = begun().len();
    let sent = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(["send", "orders.placed", &order.to_string(), "-H", "content-type: application/json"])
        .current_dir(site.dir())
        .env("NATS_URL", server.url())
        .envs(collector.env())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("pelton starts");
    assert!(sent.status.success(), "{sent:?}");
    let begun = begun();
    assert_eq!(begun.len(), before + 1, "its last spans are told before it ends");
    text(&begun[before], "traceId")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_one_trace() {
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    assert!(functions.join("invoice/invoice.wasm").exists(), "run `make shop` first");
    let manifest = functions.join("pelton.yaml").display().to_string();
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::new();
    let collector = Collector::start().await;
    let shop_dir = site.path("shop").display().to_string();
    let url = server.url();
    let mut env = vec![("NATS_URL", url.as_str()), ("SHOP_DIR", shop_dir.as_str())];
    env.extend(collector.env());
    let mut runner = Runner::command(&site, &["run", &manifest], &env);
    runner.wait_ready().await;

    let good = order(&site, &server, &collector, "good").await;
    let declined = order(&site, &server, &collector, "declined").await;
    // A payment, a shipment, an invoice and a notice of one, reservations of both.
    streams.wait_count("SHOP", 6).await;
    streams.wait_count("SHOP_DLQ", 1).await;
    runner.metric("consumer_pending", &[], |pending| pending == 0.0).await;
    let consumers = ["payment", "inventory", "shipping", "invoice", "notify"];
    let settled = |spans: &[Value]| {
        let acks = spans.iter().filter(|span| text(span, "name").starts_with("ack "));
        let by: BTreeSet<String> =
            acks.map(|span| attribute(span, "messaging.consumer.group.name")).collect();
        by.len() == consumers.len()
    };
    let spans = eventually("the trace is whole", async || {
        Some(collector.trace(&good)).filter(|spans| settled(spans))
    })
    .await;
    is_one_tree(&spans);
    let processed: BTreeSet<String> = spans
        .iter()
        .filter(|span| text(span, "name").starts_with("process "))
        .map(|span| attribute(span, "messaging.consumer.group.name"))
        .collect();
    assert_eq!(processed, consumers.map(|name| format!("shop-{name}")).into());
    carried_on(&streams, &spans).await;

    let letter = streams.letters_of("SHOP_DLQ").await.remove(0);
    assert_eq!(letter.get("trace-id"), declined);
    eventually("the reason is in the trace", async || {
        let failed = named(&collector.trace(&declined), "process orders.placed");
        failed.iter().any(|span| attribute(span, "error.type") == "reject").then_some(())
    })
    .await;
    let logged = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "dead letter").then(|| text(&line, "trace_id"))
    };
    assert_eq!(runner.log().lines().filter_map(logged).collect::<Vec<_>>(), [declined]);
    let received = collector.spans();
    let links = each(&Value::Array(named(&received, "receive orders.placed")), "links");
    assert!(links.iter().any(|link| text(link, "traceId") == good), "{links:?}");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// Every span but the first, which `pelton send` began, has its parent among the others.
fn is_one_tree(spans: &[Value]) {
    let names: BTreeMap<String, String> =
        spans.iter().map(|span| (text(span, "spanId"), text(span, "name"))).collect();
    let roots: Vec<String> = spans
        .iter()
        .filter(|span| !names.contains_key(&text(span, "parentSpanId")))
        .map(|span| text(span, "name"))
        .collect();
    assert_eq!(roots, ["publish orders.placed"], "{names:?}");
    for span in spans.iter().filter(|span| text(span, "name").starts_with("process ")) {
        let parent = &names[&text(span, "parentSpanId")];
        assert!(parent.starts_with("publish "), "{parent} is the parent of {span}");
    }
}

/// What functions published speaks of the spans that published it.
async fn carried_on(streams: &Streams, spans: &[Value]) {
    for message in streams.read("SHOP").await {
        let headers = message.headers.expect("headers");
        let context = headers.get("traceparent").expect("a context").as_str().to_owned();
        let publishing = named(spans, &format!("publish {}", message.subject));
        let trace = text(&spans[0], "traceId");
        if context.contains(&trace) {
            let of = |span: &Value| context.contains(&text(span, "spanId"));
            assert!(publishing.iter().any(of), "{context}: {publishing:?}");
        }
    }
}
