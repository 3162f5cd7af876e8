//! The fault suite: random but repeatable faults under load, and a look at every event afterwards.
//!
//! Small in `make test`; `make faults` runs it in full size and shows its tables. The seed is
//! printed; `SEED`, `EVENTS` and `KILLS` choose others.

mod fleet;
mod report;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use futures_util::StreamExt as _;
use time::OffsetDateTime;

use crate::harness::{Site, Streams};

use fleet::Fleet;
use report::Report;

/// How large a scenario is.
#[derive(Debug, Clone, Copy)]
struct Size {
    events: usize,
    kills: usize,
    seed: u64,
}

impl Size {
    /// `small` in the tests, `full` for `make faults`.
    fn of(small: (usize, usize), full: (usize, usize)) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let (events, kills) =
            if std::env::var_os("PELTON_FAULTS").is_some() { full } else { small };
        Self {
            events: number("EVENTS").unwrap_or(events),
            kills: number("KILLS").unwrap_or(kills),
            seed: number("SEED").map_or_else(|| fastrand::u64(..), |seed| seed as u64),
        }
    }
}

/// Stores the numbers below `count`, each once, whatever happens to the server.
async fn produce(streams: Streams, count: usize) {
    let store = |n: usize| {
        let js = streams.js.clone();
        async move {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", n.to_string());
            loop {
                let data = n.to_string().into();
                let sent = js.publish_with_headers("in.n", headers.clone(), data).await;
                if let Ok(sent) = sent
                    && sent.await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    futures_util::stream::iter(0..count).map(store).buffer_unordered(256).count().await;
}

/// Runners and servers are killed while events come in: each output is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_stored_once_through_random_kills() {
    let size = Size::of((2_000, 6), (200_000, 60));
    let mut report = Report::new("kills", size.seed);
    let site = Site::with(
        "functions: { f: { run: f.py } }\nbindings:\n  - { subject: in.n, function: f, publish: out.f, ack_wait: 5s, retry: { losses: 100 } }\n",
    );
    site.file("f.py", "def handle(event, context):\n    return event.raw\n");
    let mut fleet = Fleet::start(&site, 3, size.seed).await;
    let streams = fleet.server.streams().await;
    let producer = tokio::spawn(produce(streams.clone(), size.events));
    for kill in 1..=size.kills {
        fleet.wait_outputs(size.events * kill / (size.kills + 1)).await;
        // One in six is a server.
        if kill % 6 == 3 {
            fleet.kill_server().await
        } else {
            fleet.kill_any().await
        };
    }
    producer.await.expect("the producer ends");
    fleet.wait_outputs(size.events).await;
    streams.wait_settled("t-f").await;

    let inputs = streams.read_timed("IN").await;
    let outputs = streams.read_timed("OUT").await;
    let stored: HashMap<_, _> = inputs.iter().map(|(m, at)| (m.payload.clone(), *at)).collect();
    let mut counts: HashMap<_, usize> = HashMap::new();
    let mut longest = time::Duration::ZERO;
    for (output, at) in &outputs {
        *counts.entry(output.payload.clone()).or_default() += 1;
        longest = longest.max(*at - stored[&output.payload]);
    }
    report.faults(&fleet);
    report.line("events", inputs.len());
    report.zero("lost", inputs.len() - counts.len());
    report.zero("duplicated", counts.values().map(|count| count - 1).sum());
    report.zero("dead letters", usize::try_from(streams.count("T_DLQ").await).expect("a count"));
    report.zero("stranded", fleet.unsettled("t-f").await);
    report.line("longest stay of an event, s", longest.whole_seconds());
    report.line("duplicate window, s", 30 * 60);
    fleet.stop().await;
    report.print();
}

/// Checks and extends the position of its key; fails now and then.
const COUNTING: &str = r#"
from pelton import Retry

def handle(event, context):
    key, n = event.data.split()
    if event.attempt == 1 and int(n) % 20 == 7:
        raise Retry("on purpose", after=0.05)
    state = context.state or {"last": None, "count": 0}
    context.state = {"last": n, "count": state["count"] + 1}
    return f"{key} {n} {state['last']}"
"#;

/// Runners are killed and frozen, and servers killed: every key's events are applied in order, once each.
#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_applied_in_order_once_through_kills_and_freezes() {
    let size = Size::of((2_000, 4), (200_000, 24));
    let keys = (size.events / 200).max(1);
    let mut report = Report::new("ordered", size.seed);
    let site = Site::with(
        "functions: { f: { run: f.py } }\nbindings:\n  - { subject: in.n, function: f, publish: out.f, state: { bucket: counts, key: { header: Key } }, ack_wait: 4s, retry: { losses: 100 } }\n",
    );
    site.file("f.py", COUNTING);
    let mut fleet = Fleet::start(&site, 3, size.seed).await;
    let streams = fleet.server.streams().await;
    send_keyed(&streams, keys, size.events).await;
    let mut takeovers = Vec::new();
    for kill in 1..=size.kills {
        fleet.wait_outputs(size.events * kill / (size.kills + 1)).await;
        match kill % 4 {
            // Stopped for longer than its claims last; it goes on then.
            2 => takeovers.push(fleet.freeze_owner(Duration::from_secs(8)).await),
            3 => fleet.kill_server().await,
            _ => takeovers.push(fleet.kill_owner().await),
        }
    }
    fleet.wait_outputs(size.events).await;
    streams.wait_settled("t-f").await;

    let outputs = streams.read_timed("OUT").await;
    let mut gaps: Vec<f64> = takeovers
        .iter()
        .filter_map(|at| {
            outputs.iter().map(|(_, stored)| *stored - *at).find(|gap| gap.is_positive())
        })
        .map(time::Duration::as_seconds_f64)
        .collect();
    gaps.sort_by(f64::total_cmp);
    let expected = by_key(streams.texts("IN").await);
    let seen = by_key(outputs.iter().map(|(m, _)| text(&m.payload)).collect());
    let (mut misordered, mut wrong) = (0, 0);
    let bucket = streams.js.get_key_value("counts").await.expect("the bucket");
    for (key, numbers) in &expected {
        misordered += usize::from(seen.get(key) != Some(numbers));
        let entry = bucket.get(key).await.expect("the bucket answers").expect("the key is there");
        let entry: serde_json::Value = serde_json::from_slice(&entry).expect("JSON");
        let right = entry["state"]["count"] == numbers.len()
            && entry["state"]["last"] == *numbers.last().expect("one");
        wrong += usize::from(!right);
    }
    report.faults(&fleet);
    report.line("events", size.events);
    report.line("keys", keys);
    report.zero("lost or duplicated", outputs.len().abs_diff(size.events));
    report.zero("keys misordered", misordered);
    report.zero("states wrong", wrong + wrong_before(&outputs));
    report.zero("stranded", fleet.unsettled("t-f").await);
    report.line("takeover, median s", format!("{:.1}", gaps[gaps.len() / 2]));
    report.line("takeover, worst s", format!("{:.1}", gaps[gaps.len() - 1]));
    fleet.stop().await;
    report.print();
}

async fn send_keyed(streams: &Streams, keys: usize, events: usize) {
    let store = |i: usize| {
        let js = streams.js.clone();
        async move {
            let key = format!("k{}", i % keys);
            let data = format!("{key} {}", i / keys);
            let mut headers = HeaderMap::new();
            headers.insert("Key", key);
            headers.insert("Content-Type", "text/plain");
            let sent = js.publish_with_headers("in.n", headers, data.into()).await;
            sent.expect("it is sent").await.expect("it is stored");
        }
    };
    futures_util::stream::iter(0..events).map(store).buffered(256).count().await;
}

fn text(data: &[u8]) -> String {
    String::from_utf8(data.to_vec()).expect("UTF-8")
}

/// The numbers of each key, in the order of their stream.
fn by_key(texts: Vec<String>) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        let mut words = text.split(' ');
        let key = words.next().expect("a key").to_owned();
        keys.entry(key).or_default().push(words.next().expect("a number").to_owned());
    }
    keys
}

/// Outputs whose function saw another state than the one that the event before had left.
fn wrong_before(outputs: &[(async_nats::Message, OffsetDateTime)]) -> usize {
    let mut last: HashMap<String, String> = HashMap::new();
    let wrong = |text: String| {
        let words: Vec<&str> = text.split(' ').collect();
        let before = last.insert(words[0].to_owned(), words[1].to_owned());
        usize::from(before.as_deref().unwrap_or("None") != words[2])
    };
    outputs.iter().map(|(message, _)| text(&message.payload)).map(wrong).sum()
}

/// Events that kill their process are found among all others, in batches and alone.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_kill_their_process_are_the_only_dead_letters() {
    for batch in ["", ", batch: { max: 100, wait: 200ms }"] {
        let size = Size::of((1_000, 10), (20_000, 100));
        let mut report =
            Report::new(if batch.is_empty() { "poison" } else { "poison, batches" }, size.seed);
        let site = Site::with(&format!(
            "functions: {{ f: {{ run: f.py }} }}\nbindings:\n  - {{ subject: in.n, function: f, publish: out.f, retry: {{ attempts: 3, backoff: 100ms..1s }}{batch} }}\n"
        ));
        let every = size.events / size.kills;
        let function = if batch.is_empty() {
            format!(
                "import os\n\ndef handle(event, context):\n    if int(event.raw) % {every} == 5:\n        os._exit(9)\n    return event.raw\n"
            )
        } else {
            format!(
                "import os\n\ndef handle(events, context):\n    for event in events:\n        if int(event.raw) % {every} == 5:\n            os._exit(9)\n    return [event.raw for event in events]\n"
            )
        };
        site.file("f.py", function);
        let mut fleet = Fleet::start(&site, 2, size.seed).await;
        let streams = fleet.server.streams().await;
        let begun = Instant::now();
        produce(streams.clone(), size.events).await;
        fleet.wait_outputs(size.events - size.kills).await;
        streams.wait_letters(size.kills as u64).await;
        streams.wait_settled("t-f").await;
        let innocent = streams
            .letters()
            .await
            .iter()
            .filter(|letter| text(&letter.payload).parse::<usize>().expect("a number") % every != 5)
            .count();
        report.faults(&fleet);
        report.line("events", size.events);
        report.line("that kill their process", size.kills);
        report.line("dead letters", streams.count("T_DLQ").await);
        report.zero("innocent dead letters", innocent);
        report.zero(
            "outputs missing or too many",
            (size.events - size.kills)
                .abs_diff(usize::try_from(streams.count("OUT").await).expect("a count")),
        );
        report.line("seconds", begun.elapsed().as_secs());
        fleet.stop().await;
        report.print();
    }
}
