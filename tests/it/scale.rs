//! What an autoscaler reads: `/scale` of any replica.

use serde_json::{Value, json};

use crate::harness::{NatsServer, Runner, Site, eventually};

/// Two bindings whose functions wait for a file to be there.
fn site() -> Site {
    let site = Site::with(
        r#"
functions: { f: { run: f.py, env: { SITE: "${SITE}" } } }
bindings:
  - { name: slow, subject: in.slow, function: f, concurrency: 3, timeout: 5m }
  - { name: quick, subject: in.quick, function: f, concurrency: 3, timeout: 5m }
drain: 1s
"#,
    );
    site.file(
        "f.py",
        "
import os, time

def handle(event, context):
    name = event.subject.split('.')[1]
    while not os.path.exists(os.environ['SITE'] + '/open-' + name):
        time.sleep(0.02)
",
    );
    site
}

async fn scale(runner: &Runner) -> Option<(u16, Value)> {
    let (status, body) = runner.get("/scale").await?;
    Some((status, serde_json::from_str(&body).expect("JSON")))
}

/// Waits until a runner says so, and nothing else beside it.
async fn says(runner: &Runner, wanted: Value) {
    let mut last = Value::Null;
    eventually(&format!("/scale says {wanted}"), async || {
        let (status, found) = scale(runner).await?;
        if found != last {
            eprintln!("/scale: {status} {found}");
            last = found.clone();
        }
        (status == 200 && found == wanted).then_some(())
    })
    .await;
}

fn backlog(pending: u64, ack_pending: u64) -> Value {
    json!({ "lag": pending + ack_pending, "pending": pending, "ack_pending": ack_pending })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_goes_up_and_down_and_is_the_same_on_every_replica() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site();
    let first = Runner::start(&site, &server).await;
    let second = Runner::start(&site, &server).await;
    let none = json!({ "lag": 0, "bindings": { "slow": backlog(0, 0), "quick": backlog(0, 0) } });
    says(&first, none.clone()).await;

    streams.send_many(50, |n| ("in.slow".to_owned(), n.to_string())).await;
    streams.send_many(2, |n| ("in.quick".to_owned(), n.to_string())).await;
    // Three in each of the runners; the two others as they happen to fall.
    let up = json!({ "lag": 52, "bindings": { "slow": backlog(44, 6), "quick": backlog(0, 2) } });
    says(&first, up.clone()).await;
    says(&second, up).await;

    site.file("open-quick", "");
    let half = json!({ "lag": 50, "bindings": { "slow": backlog(44, 6), "quick": backlog(0, 0) } });
    says(&second, half).await;
    site.file("open-slow", "");
    says(&first, none.clone()).await;
    says(&second, none).await;
}

/// An event that waits for its next try is work to come; one that is deferred is not until it is due.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_next_try_counts() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(
        r"
functions: { f: { run: f.py } }
bindings:
  - { subject: in.f, function: f, retry: { attempts: 3, backoff: 1m..1m } }
  - { name: deferred, subject: in.f, function: f, retry: { attempts: 3, backoff: 1h..1h } }
",
    );
    site.file("f.py", "def handle(event, context):\n    raise RuntimeError('not today')\n");
    let runner = Runner::start(&site, &server).await;
    streams.send("in.f", "1").await;
    runner.metric("settlements_total", &[("action", "nak")], |naks| naks == 2.0).await;
    let bindings = json!({ "f": backlog(0, 1), "deferred": backlog(0, 0) });
    says(&runner, json!({ "lag": 1, "bindings": bindings })).await;
}

/// No number is better than a wrong one: a 0 would scale down what is needed most.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_known_is_no_number() {
    let mut server = NatsServer::start().await;
    let site = site();
    let runner = Runner::start(&site, &server).await;
    server.stop().await;
    eventually("/scale says that it does not know", async || {
        let (status, answer) = scale(&runner).await?;
        let error = answer.get("error")?.as_str()?;
        (status == 503 && error == "not connected to NATS" && answer.get("lag").is_none())
            .then_some(())
    })
    .await;
    server.up().await;
    eventually("/scale knows again", async || {
        let (status, answer) = scale(&runner).await?;
        (status == 200 && answer["lag"] == 0).then_some(())
    })
    .await;
}

/// Before it has verified what it needs, a runner says that, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_has_not_begun_says_so() {
    let site = site();
    let runner = Runner::spawn(&site, "nats://127.0.0.1:9", &[]);
    let (status, answer) = eventually("an answer", async || scale(&runner).await).await;
    assert_eq!((status, answer), (503, json!({ "error": "this runner has not begun yet" })));
}
