//! Traps that other runners of functions on events have, each with the test that Pelton is not in it.
//!
//! | trap | test |
//! |---|---|
//! | an exception counts as an answer, and the event is lost (Nuclio) | `dead_letters::a_handler_that_raises_is_given_up_after_its_attempts` |
//! | an event past the server's limit of deliveries is stuck (Nuclio) | `recovery::attempts_are_limited_on_receipt` |
//! | a success without an output is never acknowledged (Fission) | [`a_success_that_says_nothing_is_acknowledged`] |
//! | a retry comes at once (Fission, Redpanda Connect) | [`a_retry_waits_for_its_backoff`] |
//! | acknowledged although the dead letter could not be stored (Knative) | `dead_letters::an_event_waits_while_its_letter_cannot_be_stored` |
//! | a 4xx is given up on an early try, without a dead letter (Knative) | [`a_4xx_is_tried_again_or_a_dead_letter`] |
//! | acknowledged before the work is done (Argo Events) | `delivery::an_event_is_acknowledged_after_its_outputs_are_stored` |
//! | as much at the same time as comes in (Dapr); one event at a time (Redpanda Connect) | [`as_many_run_at_the_same_time_as_may_and_no_more`] |
//! | a slow function gets its event again while it works (Dapr) | `delivery::a_handler_longer_than_ack_wait_gets_its_event_once` |
//! | no dead letters (Redpanda Connect); a failed event is dropped (FastStream) | `dead_letters::*` |
//! | what waits behind a slow event is delivered again (FastStream) | [`what_waits_for_a_slot_is_not_delivered_again`] |
//! | a shutdown does not wait for what runs (NestJS) | `drain::sigterm_under_load_loses_nothing_and_repeats_nothing` |
//! | a shutdown keeps what ended from being acknowledged (Watermill) | `drain::ten_rolling_restarts_charge_nobody`, `drain::what_outlasts_the_drain_is_given_back_uncharged` |
//! | the queue of local work is a pretence (wrangler) | `dev::dev_follows_changes_and_survives_mistakes` |
//! | lag is read from somewhere else than from the consumer's leader (KEDA) | `metrics::lag_is_what_the_server_says` |

use std::time::Duration;

use crate::{
    harness::{NatsServer, Runner, Site, Streams},
    runtime::http::Server,
};

struct Bench {
    streams: Streams,
    site: Site,
    runner: Runner,
    _server: NatsServer,
}

/// A runner with one function and one binding `f` with these further keys.
async fn bench(function: &str, binding: &str, code: &str) -> Bench {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(&format!(
        "functions: {{ f: {function} }}\nbindings:\n  - {{ subject: in.told, function: f, {binding} }}\n"
    ));
    site.file("f.py", code);
    let runner = Runner::start(&site, &server).await;
    Bench { streams, site, runner, _server: server }
}

const PYTHON: &str = "{ run: f.py, workers: 1, env: { SITE: \"${SITE}\" } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_says_nothing_is_acknowledged() {
    for binding in ["publish: out.f", "concurrency: 16"] {
        let code = "def handle(event, context):\n    return None\n";
        let bench = bench(PYTHON, binding, code).await;
        bench.streams.send_many(50, |n| ("in.told".to_owned(), n.to_string())).await;
        bench.streams.wait_settled("t-f").await;
        let scrape = bench.runner.scrape().await;
        assert_eq!(scrape.get("settlements_total", &[("action", "ack")]), 50.0);
        assert_eq!(scrape.get("redeliveries_total", &[]), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_its_backoff() {
    let code = r#"
import os, time

def handle(event, context):
    with open(os.environ["SITE"] + "/tries", "a") as tries:
        print(time.time(), file=tries)
    raise ValueError("not yet")
"#;
    let least = Duration::from_millis(300);
    let bench = bench(PYTHON, "retry: { attempts: 4, backoff: 300ms..300ms }", code).await;
    bench.streams.send("in.told", "x").await;
    bench.streams.wait_letters(1).await;
    let tries: Vec<f64> =
        bench.site.lines("tries").iter().map(|line| line.parse().expect("a time")).collect();
    assert_eq!(tries.len(), 4);
    for pair in tries.windows(2) {
        assert!(pair[1] - pair[0] >= least.as_secs_f64(), "{tries:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_4xx_is_tried_again_or_a_dead_letter() {
    let http = Server::python();
    let function = format!("{{ http: \"http://127.0.0.1:{}/\" }}", http.port);
    let bench = bench(&function, "retry: { attempts: 3, backoff: 10ms..20ms }", "").await;
    bench.streams.send("in.told", r#"{"status": 404}"#).await;
    bench.streams.send("in.told", r#"{"status": 400}"#).await;
    let mut letters = bench.streams.wait_letters(2).await;
    letters.sort_by_key(|letter| letter.payload.clone());
    assert_eq!(letters[0].get("reason"), "rejected");
    assert_eq!(letters[0].outcomes(), ["reject"]);
    assert_eq!(letters[1].get("reason"), "attempts_exhausted");
    assert_eq!(letters[1].outcomes(), ["retry", "retry", "retry"]);
    bench.streams.wait_settled("t-f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_run_at_the_same_time_as_may_and_no_more() {
    let code = r#"
import asyncio

running = 0

async def handle(event, context):
    global running
    running += 1
    now = running
    await asyncio.sleep(0.05)
    running -= 1
    return now
"#;
    let bench = bench(PYTHON, "publish: out.f, concurrency: 4", code).await;
    bench.streams.send_many(60, |n| ("in.told".to_owned(), n.to_string())).await;
    bench.streams.wait_count("OUT", 60).await;
    let running = bench.streams.texts("OUT").await;
    let most = running.iter().map(|text| text.parse::<usize>().expect("a number")).max();
    assert_eq!(most, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_slot_is_not_delivered_again() {
    let code = r#"
import time

def handle(event, context):
    time.sleep(0.5)
    return event.raw
"#;
    // The last of what fits into the slots waits for longer than `ack_wait`.
    let bench = bench(PYTHON, "publish: out.f, concurrency: 8, ack_wait: 2s", code).await;
    bench.streams.send_many(12, |n| ("in.told".to_owned(), n.to_string())).await;
    bench.streams.wait_count("OUT", 12).await;
    bench.streams.wait_settled("t-f").await;
    let scrape = bench.runner.scrape().await;
    assert_eq!(scrape.get("events_received_total", &[]), 12.0);
    assert_eq!(scrape.get("redeliveries_total", &[]), 0.0);
}
