//! What comes in, and the manifest that most scenarios run.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::harness::{Site, Streams};

/// Gives back what it gets; fails now and then.
pub(super) const PLAIN: &str = r#"
from pelton import Retry

def handle(event, context):
    key, n = event.data.split()
    if event.attempt == 1 and int(n) % 20 == 7:
        raise Retry("on purpose", after=0.05)
    return event.raw
"#;

/// Checks and extends the position of its key; fails now and then.
pub(super) const KEYED: &str = r#"
from pelton import Retry

def handle(event, context):
    key, n = event.data.split()
    if event.attempt == 1 and int(n) % 20 == 7:
        raise Retry("on purpose", after=0.05)
    state = context.state or {"last": None, "count": 0}
    context.state = {"last": n, "count": state["count"] + 1}
    return f"{key} {n} {state['last']}"
"#;

/// The bindings of the scenarios: every event goes to each that is listed.
pub(super) const PLAIN_ONLY: &[&str] = &["plain"];
pub(super) const KEYED_ONLY: &[&str] = &["keyed"];
pub(super) const BOTH: &[&str] = &["plain", "keyed"];

/// A manifest whose binding `plain` gives back every event, and whose binding `keyed` applies it to
/// the state of its key.
pub(super) fn site(bindings: &[&str], ack_wait: &str) -> Site {
    let site = Site::with(&body(bindings, ack_wait));
    functions(&site);
    site
}

/// The manifest without its head.
pub(super) fn body(bindings: &[&str], ack_wait: &str) -> String {
    let state = |binding: &str| match binding {
        "keyed" => ", state: { bucket: counts, key: { header: Key } }",
        _ => "",
    };
    let binding = |name: &&str| {
        format!(
            "  - {{ name: {name}, subject: in.n, function: {name}, publish: out.{name}, ack_wait: {ack_wait}, retry: {{ losses: 100 }}{} }}\n",
            state(name)
        )
    };
    let function = |name: &&str| format!("  {name}: {{ run: {name}.py }}\n");
    let functions: String = bindings.iter().map(function).collect();
    let bindings: String = bindings.iter().map(binding).collect();
    format!("functions:\n{functions}bindings:\n{bindings}")
}

pub(super) fn functions(site: &Site) {
    site.file("plain.py", PLAIN);
    site.file("keyed.py", KEYED);
}

/// Stores the numbers below `count`, each once, whatever happens to the server.
pub(super) async fn produce_numbers(streams: Streams, count: usize) {
    let store = |n: usize| {
        let streams = streams.clone();
        async move { store(&streams, HeaderMap::new(), n.to_string(), n.to_string()).await }
    };
    futures_util::stream::iter(0..count).map(store).buffer_unordered(256).count().await;
}

/// Stores events of `keys` keys, those of a key one after the other, each once, whatever happens to
/// the server; each takes at least as long as `pace` says.
pub(super) async fn produce(streams: Streams, keys: usize, events: usize, pace: Duration) {
    let one = |key: usize| {
        let streams = streams.clone();
        async move {
            let mut ticks = tokio::time::interval(pace.max(Duration::from_micros(1)));
            let count = events / keys + usize::from(key < events % keys);
            for n in 0..count {
                ticks.tick().await;
                let mut headers = HeaderMap::new();
                headers.insert("Key", format!("k{key}"));
                headers.insert("Content-Type", "text/plain");
                store(&streams, headers, format!("{key}-{n}"), format!("k{key} {n}")).await;
            }
        }
    };
    futures_util::stream::iter(0..keys).map(one).buffer_unordered(keys).count().await;
}

async fn store(streams: &Streams, mut headers: HeaderMap, id: String, data: String) {
    headers.insert("Nats-Msg-Id", id);
    loop {
        let sent = streams.js.publish_with_headers("in.n", headers.clone(), data.clone().into());
        let stored = async { sent.await.ok()?.await.ok() };
        if let Ok(Some(_)) = timeout(Duration::from_secs(3), stored).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
