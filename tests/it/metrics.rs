//! What dashboards and alerts rely on.

use crate::harness::{NatsServer, Runner, Scrape, Site, eventually};

/// Per binding, 0 before the first event so that an increase from nothing can be seen.
const FROM_THE_START: [(&str, &str, &[&str]); 6] = [
    (
        "invocations_total",
        "outcome",
        &["done", "retry", "reject", "timeout", "crash", "bad_reply", "unavailable"],
    ),
    ("settlements_total", "action", &["ack", "nak", "term"]),
    (
        "dead_letters_total",
        "reason",
        &[
            "attempts_exhausted",
            "rejected",
            "timeout",
            "crashed",
            "bad_reply",
            "output",
            "undecodable",
            "expired",
        ],
    ),
    (
        "dropped_events_total",
        "reason",
        &["attempts_exhausted", "timeout", "crashed", "bad_reply", "output", "expired"],
    ),
    ("published_events_total", "outcome", &["stored", "duplicate", "discarded", "failed"]),
    (
        "",
        "",
        &[
            "invocations_in_flight",
            "events_received_total",
            "redeliveries_total",
            "losses_total",
            "settlement_errors_total",
            "lease_extensions_total",
            "dead_letter_publish_errors_total",
            "pauses_total",
            "invocation_duration_seconds_count",
            "queue_wait_seconds_count",
            "publish_duration_seconds_count",
        ],
    ),
];

fn site() -> Site {
    let site = Site::with(
        r#"
functions: { f: { run: f.py, env: { SITE: "${SITE}" } } }
bindings: [{ subject: in.f, function: f, publish: out.f, concurrency: 3, timeout: 5m }]
drain: 1s
"#,
    );
    site.file(
        "f.py",
        "
import os, time

def handle(event, context):
    while not os.path.exists(os.environ['SITE'] + '/open'):
        time.sleep(0.02)
    return event.raw
",
    );
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_there_before_the_first_event() {
    let server = NatsServer::start().await;
    let site = site();
    let runner = Runner::start(&site, &server).await;
    let scrape = runner.scrape().await;
    for (family, label, values) in FROM_THE_START {
        for value in values {
            let (family, labels) = match family {
                "" => (*value, vec![("binding", "f")]),
                family => (family, vec![("binding", "f"), (label, *value)]),
            };
            assert_eq!(scrape.find(family, &labels), Some(0.0), "pelton_{family} {labels:?}");
        }
    }
    assert_eq!(scrape.get("slots", &[("binding", "f")]), 3.0);
    assert_eq!(scrape.get("nats_connected", &[]), 1.0);
    assert_eq!(scrape.get("build_info", &[]), 1.0);
    assert!(
        scrape.find("worker_starts_total", &[("function", "f"), ("reason", "crash")]).is_some()
    );
}

/// Lag is what is not delivered plus what is not acknowledged, in any runner.
#[tokio::test(flavor = "multi_thread")]
async fn lag_is_what_the_server_says() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site();
    let runner = Runner::start(&site, &server).await;
    streams.send_many(50, |n| ("in.f".to_owned(), n.to_string())).await;
    let labels = &[("binding", "f")];
    let lag = |scrape: &Scrape| {
        let pending = scrape.find("consumer_pending", labels)?;
        let ack_pending = scrape.find("consumer_ack_pending", labels)?;
        Some((pending, ack_pending))
    };
    eventually("47 wait, 3 are in flight", async || {
        (lag(&runner.try_scrape().await?)? == (47.0, 3.0)).then_some(())
    })
    .await;
    assert_eq!(runner.scrape().await.get("invocations_in_flight", labels), 3.0);
    site.file("open", "");
    streams.wait_count("OUT", 50).await;
    eventually("no lag", async || (lag(&runner.try_scrape().await?)? == (0.0, 0.0)).then_some(()))
        .await;
    let scrape = runner.scrape().await;
    assert_eq!(scrape.get("published_events_total", &[("outcome", "stored")]), 50.0);
    assert!(scrape.get("last_success_timestamp_seconds", labels) > 0.0);
    scrape.assert_adds_up("f");
}
