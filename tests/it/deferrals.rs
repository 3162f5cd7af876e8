//! Events whose next try is more than a minute ahead: they wait under a schedule of the server's and
//! hold up nobody. No test waits for that long: each brings the schedules forward.

use std::collections::BTreeMap;

use async_nats::{HeaderMap, Message, jetstream::stream::Config};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, outcome, printed, verb};

/// Asks for another try in an hour: the first time, or for as long as there is the file `poison`.
const FUNCTION: &str = r#"
import json, os
from pelton import Retry

def handle(event, context):
    n = event.data["n"]
    with open(os.environ["SITE"] + "/tries", "a") as tries:
        print(n, event.attempt, event.id, event.subject, sorted(event.headers), file=tries)
    if event.attempt == 1 or os.path.exists(os.environ["SITE"] + "/poison"):
        raise Retry(f"the bank is closed for {n}", after=3600)
    return {"n": n, "try": event.attempt}
"#;

fn site(extra: &str) -> Site {
    let site = Site::with(&format!(
        r#"
functions: {{ f: {{ run: f.py, env: {{ SITE: "${{SITE}}" }} }} }}
bindings:
  - {{ subject: in.>, function: f, publish: out.f, concurrency: 4{extra} }}
"#
    ));
    site.file("f.py", FUNCTION);
    site
}

fn event(n: usize) -> (String, String) {
    (format!("in.{n}"), format!(r#"{{"n": {n}}}"#))
}

/// The schedules in the dead-letter stream.
async fn schedules(streams: &Streams) -> Vec<Message> {
    if streams.count("T_DLQ").await == 0 {
        return Vec::new();
    }
    let mut all = streams.read("T_DLQ").await;
    all.retain(|message| message.subject.starts_with("deferred.t.f."));
    all
}

async fn wait_deferred(streams: &Streams, count: u64) {
    streams.wait_count("T_DLQ", count).await;
    streams.wait_settled("t-f").await;
    assert_eq!(schedules(streams).await.len() as u64, count);
}

fn due(schedule: &Message) -> OffsetDateTime {
    let headers = schedule.headers.as_ref().expect("headers");
    let at = headers.get("Nats-Schedule").expect("a schedule").as_str();
    OffsetDateTime::parse(at.strip_prefix("@at ").expect("a time"), &Rfc3339).expect("a time")
}

/// What is to come in an hour comes now: a schedule takes the place of the one before.
async fn bring_forward(streams: &Streams) {
    for schedule in schedules(streams).await {
        let mut headers = HeaderMap::new();
        for (name, values) in schedule.headers.expect("headers").iter() {
            for value in values.iter().filter(|_| name.as_ref() as &str != "Nats-Msg-Id") {
                headers.append(name.clone(), value.clone());
            }
        }
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("a time");
        headers.insert("Nats-Schedule", format!("@at {}", now.format(&Rfc3339).expect("a time")));
        streams.send_with(&schedule.subject, headers, schedule.payload.to_vec()).await;
    }
}

/// The try of each number that was stored.
async fn outputs(streams: &Streams) -> BTreeMap<u64, u64> {
    let texts = streams.texts("OUT").await;
    let count = texts.len();
    let read = |text: String| {
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        (value["n"].as_u64().expect("a number"), value["try"].as_u64().expect("a number"))
    };
    let tries: BTreeMap<u64, u64> = texts.into_iter().map(read).collect();
    assert_eq!(tries.len(), count, "each is stored once");
    tries
}

/// Many more wait than may be unacknowledged, and through the death of both the runner and the server.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_long_holds_up_nobody_and_survives_everybody() {
    let mut server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(", max_ack_pending: 8");
    let mut runner = Runner::start(&site, &server).await;
    let before = OffsetDateTime::now_utc();
    streams.send_many(40, event).await;
    wait_deferred(&streams, 40).await;
    let waits = schedules(&streams).await.into_iter().map(|schedule| due(&schedule) - before);
    assert!(waits.clone().all(|wait| wait >= Duration::HOUR), "{:?}", waits.min());
    runner.metric("deferred_events", &[("binding", "f")], |count| count == 40.0).await;
    let scrape = runner.scrape().await;
    assert_eq!(scrape.get("settlements_total", &[("action", "nak")]), 40.0);
    scrape.assert_adds_up("f");
    let listed = printed(&site, &server, &["list", "-o", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (&listed["bindings"][0]["deferred"], &listed["bindings"][0]["lag"]),
        (&40.into(), &0.into())
    );
    assert_eq!(streams.count("KV_T_ATTEMPTS").await, 0, "their records went along");

    runner.kill9().await;
    server.kill9().await;
    server.up().await;
    let streams = server.streams().await;
    let mut runner = Runner::start(&site, &server).await;
    bring_forward(&streams).await;
    streams.wait_count("OUT", 40).await;
    assert_eq!(outputs(&streams).await, (0..40).map(|n| (n, 2)).collect());
    eventually("nothing is left of what waited", async || {
        (streams.count("T_DLQ").await == 0).then_some(())
    })
    .await;
    runner.metric("deferred_events", &[("binding", "f")], |count| count == 0.0).await;
    let tries = site.lines("tries");
    let same = |first: &String| {
        let words: Vec<&str> = first.splitn(3, ' ').collect();
        let again = format!("{} 2 {}", words[0], words[2]);
        words[1] == "2" || tries.contains(&again)
    };
    assert!(tries.iter().all(same), "an event is the same in each of its tries: {tries:#?}");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// A runner that dies between storing the wait and acknowledging the event makes no second try.
#[tokio::test(flavor = "multi_thread")]
async fn runners_that_die_while_they_defer_neither_lose_nor_double() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(", ack_wait: 1s");
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(300, event).await;
    for part in 1..=4 {
        streams.wait_count("T_DLQ", part * 60).await;
        runner.kill9().await;
        runner = Runner::start(&site, &server).await;
    }
    wait_deferred(&streams, 300).await;
    bring_forward(&streams).await;
    streams.wait_count("OUT", 300).await;
    eventually("nothing is left of what waited", async || {
        (streams.count("T_DLQ").await == 0).then_some(())
    })
    .await;
    assert_eq!(outputs(&streams).await.len(), 300);
    let second =
        site.lines("tries").iter().filter(|line| line.split(' ').nth(1) == Some("2")).count();
    assert_eq!(second, 300, "each had one second try");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// What was tried before the wait counts after it, in the letter too, and in the life after that.
#[tokio::test(flavor = "multi_thread")]
async fn tries_before_a_wait_count_and_the_letter_tells_of_them() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(", retry: { attempts: 2 }");
    site.file("poison", "");
    let mut runner = Runner::start(&site, &server).await;
    let sequence = streams.send("in.7", r#"{"n": 7}"#).await;
    wait_deferred(&streams, 1).await;
    bring_forward(&streams).await;
    let letter = letter(&streams, "0").await;
    assert_eq!((letter.get("reason"), letter.get("attempts")), ("attempts_exhausted", "2"));
    assert_eq!(letter.outcomes(), ["retry", "retry"]);
    assert_eq!((letter.get("stream"), letter.get("subject")), ("IN", "in.7"));
    assert_eq!(letter.get("sequence"), sequence.to_string());
    let inside: Vec<String> = letter.headers.iter().map(|(name, _)| name.to_string()).collect();
    assert!(inside.iter().all(|name| !name.starts_with("pelton-copy")), "{inside:?}");

    let redrive = verb(&site, &server.url(), &["dlq", "redrive"]);
    let (code, out, err) = outcome(redrive).await;
    assert_eq!(code, 0, "{out}{err}");
    eventually("it waits in its second life", async || {
        (schedules(&streams).await.len() == 1).then_some(())
    })
    .await;
    bring_forward(&streams).await;
    let letter = self::letter(&streams, "1").await;
    assert_eq!(letter.outcomes(), ["retry", "retry"]);
    let past: Vec<serde_json::Value> = serde_json::from_str(letter.get("past")).expect("JSON");
    assert_eq!(past.len(), 2, "{past:?}");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// The letter of an event that came back as often as this.
async fn letter(streams: &Streams, life: &str) -> crate::harness::Letter {
    eventually("there is a letter", async || {
        let letters = streams.letters().await;
        letters.into_iter().find(|letter| {
            letter.subject == "dlq.t.f" && letter.find("life").unwrap_or("0") == life
        })
    })
    .await
}

/// With its record it would be larger than a message may be: it waits where it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_waits_in_its_stream() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("");
    let mut runner = Runner::start(&site, &server).await;
    let fill = " ".repeat((1 << 20) - 100);
    streams.send("in.1", format!(r#"{{"n": 1}}{fill}"#)).await;
    eventually("it was tried", async || (site.lines("tries").len() == 1).then_some(())).await;
    eventually("its record is written", async || {
        (streams.count("KV_T_ATTEMPTS").await == 1).then_some(())
    })
    .await;
    streams.send("in.2", r#"{"n": 2}"#).await;
    streams.wait_count("T_DLQ", 1).await;
    eventually("one waits in its stream", async || {
        let info = streams.consumer("t-f").await?;
        (info.num_ack_pending == 1).then_some(())
    })
    .await;
    assert_eq!(schedules(&streams).await.len(), 1);
    assert!(runner.log().contains("waits for its next try in its stream"), "{}", runner.log());
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// A stream from before there were schedules is told of, used as it is, and changed by `apply`.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_stream_without_schedules_is_brought_up_by_apply() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let before = Config {
        name: "T_DLQ".to_owned(),
        subjects: vec!["dlq.t.>".to_owned(), "redrive.t.>".to_owned()],
        metadata: [("pelton.name".to_owned(), "t".to_owned())].into(),
        ..Config::default()
    };
    streams.js.create_stream(before).await.expect("a stream");
    let site = site("");
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.1", r#"{"n": 1}"#).await;
    eventually("it was tried", async || (site.lines("tries").len() == 1).then_some(())).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    assert!(runner.log().contains("allow_msg_schedules"), "{}", runner.log());
    assert_eq!(schedules(&streams).await.len(), 0);
    let info = streams.consumer("t-f").await.expect("a consumer");
    assert_eq!(info.num_ack_pending, 1, "it waits in its stream");

    printed(&site, &server, &["apply"]).await;
    let mut runner = Runner::start(&site, &server).await;
    streams.send("in.2", r#"{"n": 2}"#).await;
    eventually("the next one is deferred", async || {
        (schedules(&streams).await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

/// `--exit-when-idle` is not idle while anything waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_exits_when_idle_waits_for_what_is_deferred() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site("");
    let mut first = Runner::start(&site, &server).await;
    streams.send("in.1", r#"{"n": 1}"#).await;
    wait_deferred(&streams, 1).await;
    first.sigterm().await;
    let mut runner = Runner::spawn(&site, &server.url(), &["--exit-when-idle"]);
    runner.wait_ready().await;
    runner.metric("deferred_events", &[("binding", "f")], |count| count == 1.0).await;
    assert_eq!(runner.ended(), None);
    bring_forward(&streams).await;
    assert_eq!(runner.wait().await.code(), Some(0));
    assert_eq!(outputs(&streams).await, BTreeMap::from([(1, 2)]));
}
