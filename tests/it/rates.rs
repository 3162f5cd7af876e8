//! How fast calls may begin: a lower bound of the time that they take, which no slow machine breaks.

use std::time::{Duration, Instant};

use crate::harness::{NatsServer, Runner, Site};

fn site(binding: &str, function: &str) -> Site {
    let site = Site::with(&format!(
        "functions: {{ f: {{ run: f.py, env: {{ SITE: \"${{SITE}}\" }} }} }}\nbindings:\n  - {{ subject: in.>, function: f, publish: out.f, {binding} }}\n"
    ));
    site.file("f.py", function);
    site
}

fn event(n: usize) -> (String, String) {
    (format!("in.k{}", n % 3), format!(r#"{{"n": {n}}}"#))
}

/// What may begin at once is a tenth of a second's worth.
fn at_least(calls: u32, rate: u32) -> Duration {
    Duration::from_secs_f64(f64::from(calls - (rate / 10).max(1)) / f64::from(rate))
}

const ECHO: &str = "
def handle(event, context):
    return event.data
";

#[tokio::test(flavor = "multi_thread")]
async fn calls_begin_no_faster_than_the_rate_and_none_is_left_out() {
    for binding in ["rate: 40/s", "rate: 40/s, order_by: { token: 2 }"] {
        let server = NatsServer::start().await;
        let streams = server.streams().await;
        let site = site(binding, ECHO);
        let mut runner = Runner::start(&site, &server).await;
        let begun = Instant::now();
        streams.send_many(120, event).await;
        streams.wait_count("OUT", 120).await;
        assert!(begun.elapsed() >= at_least(120, 40), "{binding}: {:?}", begun.elapsed());
        streams.wait_settled("t-f").await;
        let scrape = runner.scrape().await;
        assert_eq!(scrape.get("settlements_total", &[("action", "nak")]), 0.0, "{binding}");
        assert_eq!(scrape.get("redeliveries_total", &[]), 0.0, "{binding}");
        scrape.assert_adds_up("f");
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// A batch is one call, whatever is in it, and so is each part of one that failed as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_one_turn_and_each_of_its_halves_another() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site(
        "rate: 10/s, batch: { max: 100, wait: 20ms }, retry: { attempts: 1 }",
        "
import os

def handle(events, context):
    with open(os.environ['SITE'] + '/calls', 'a') as calls:
        calls.write('call\\n')
    if any(event.data['n'] == 13 for event in events):
        raise ValueError('unlucky')
    return [event.data for event in events]
",
    );
    let mut runner = Runner::start(&site, &server).await;
    let begun = Instant::now();
    streams.send_many(400, event).await;
    streams.wait_count("OUT", 399).await;
    streams.wait_letters(1).await;
    let (took, calls) = (begun.elapsed(), site.lines("calls").len());
    assert!((4..399).contains(&calls), "{calls}");
    assert!(took >= at_least(u32::try_from(calls).unwrap(), 10), "{calls} calls in {took:?}");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_count_as_calls() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    for (n, order) in ["", ", order_by: { token: 2 }"].into_iter().enumerate() {
        let site = site(
            &format!("name: b{n}, rate: 20/s, retry: {{ attempts: 4, backoff: 1ms..1ms }}{order}"),
            "
def handle(event, context):
    if event.attempt < 4:
        raise ValueError('not yet')
    return event.data
",
        );
        let mut runner = Runner::start(&site, &server).await;
        let begun = Instant::now();
        streams.send_many(20, event).await;
        // The second binding is another durable, which gets the first one's events as well.
        streams.wait_count("OUT", if n == 0 { 20 } else { 60 }).await;
        assert!(begun.elapsed() >= at_least(80, 20), "{order}: {:?}", begun.elapsed());
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}

/// What waits for its turn is given back uncharged at once, and another runner handles it.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_no_turn() {
    for more in ["", ", order_by: { token: 2 }", ", batch: { max: 2, wait: 10ms }"] {
        let batch = more.contains("batch");
        let server = NatsServer::start().await;
        let streams = server.streams().await;
        let function = if batch {
            "def handle(events, context):\n    return [e.data | {'try': e.attempt} for e in events]\n"
        } else {
            "def handle(event, context):\n    return event.data | {'try': event.attempt}\n"
        };
        let site = site(&format!("rate: 1/h{more}"), function);
        let mut runner = Runner::start(&site, &server).await;
        streams.send_many(10, event).await;
        runner.metric("events_received_total", &[], |received| received >= 10.0).await;
        streams.wait_count("OUT", if batch { 2 } else { 1 }).await;
        assert_eq!(runner.sigterm().await.code(), Some(0));
        let manifest = std::fs::read_to_string(site.path("pelton.yaml")).unwrap();
        site.file("pelton.yaml", manifest.replace("rate: 1/h", "rate: 1000/s"));
        let mut runner = Runner::start(&site, &server).await;
        streams.wait_count("OUT", 10).await;
        streams.wait_settled("t-f").await;
        let texts = streams.texts("OUT").await;
        assert!(texts.iter().all(|text| text.contains("\"try\":1")), "{more}: {texts:#?}");
        let scrape = runner.scrape().await;
        assert_eq!(scrape.get("losses_total", &[]), 0.0, "{more}");
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
}
