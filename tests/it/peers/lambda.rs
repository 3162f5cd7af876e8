//! Functions for AWS Lambda, with the clients that AWS has for Python, Node and Rust.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use super::{EVENTS, peer, present};
use crate::harness::{NatsServer, Runner, Site};

/// How many more are sent that fail or are rejected.
const WRONG: usize = 10;

/// Sends the events to a function, and expects one output of each; of those behind them, some fail
/// and some are rejected.
async fn each_event_once(site: &Site, function: &str) {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    site.manifest(&format!(
        "
functions: {{ peer: {{ lambda: {function} }} }}
bindings:
  - subject: in.peer
    function: peer
    publish: out.peer
    retry: {{ attempts: 2, backoff: 10ms..20ms }}
"
    ));
    let mut runner = Runner::start(site, &server).await;
    let please = |n| match n {
        ..EVENTS => "",
        _ if n % 2 == 0 => r#", "please": "fail""#,
        _ => r#", "please": "reject""#,
    };
    let event = |n| ("in.peer".to_owned(), format!("{{\"n\": {n}{}}}", please(n)));
    streams.send_many(EVENTS + WRONG, event).await;
    streams.wait_count("OUT", EVENTS as u64).await;
    let letters = streams.wait_letters(WRONG as u64).await;
    streams.wait_settled("t-peer").await;
    let mut requests = BTreeSet::new();
    let mut numbers: Vec<usize> = Vec::new();
    for text in streams.texts("OUT").await {
        let output: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(output["function"], "peer");
        requests.insert(output["request"].as_str().expect("an id").to_owned());
        numbers.push(output["n"].as_u64().and_then(|n| n.try_into().ok()).expect("a number"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, Vec::from_iter(0..EVENTS), "one output for each event");
    assert_eq!(requests.len(), numbers.len(), "each has an id of its own");
    for letter in letters {
        let event: Value = serde_json::from_slice(&letter.payload).expect("JSON");
        let (reason, error) = match event["please"].as_str() {
            Some("fail") => ("attempts_exhausted", format!("Busy: order {}", event["n"])),
            _ => ("rejected", format!("order {}", event["n"])),
        };
        assert_eq!(letter.get("reason"), reason);
        assert_eq!(letter.get("error").replace("%20", " "), error);
    }
    let crashes = &[("binding", "peer"), ("outcome", "crash")];
    assert_eq!(runner.scrape().await.get("invocations_total", crashes), 0.0);
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn awslambdaric_for_python() {
    let python = peer("peers-python/bin/python");
    peer("peers-python/bin/cmake");
    let site = Site::new();
    site.file("app.py", include_str!("../../peers/lambda.py"));
    let function = format!("[{}, -m, awslambdaric, app.handler]", python.display());
    each_event_once(&site, &function).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a native build: make peer-lambda-node"]
async fn aws_lambda_ric_for_node() {
    peer("peers-lambda/pelton-package-lock");
    let client = peer("peers-lambda/node_modules/aws-lambda-ric/index.mjs");
    let site = Site::new();
    site.file("app.mjs", include_str!("../../peers/lambda.mjs"));
    let function = format!("{{ command: [node, {}], handler: app.handler }}", client.display());
    each_event_once(&site, &function).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_runtime_for_rust() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/debug/lambda-rust");
    let program = present(target);
    let site = Site::new();
    each_event_once(&site, &format!("[{}]", program.display())).await;
}

/// A function for a queue of AWS SQS gets batches of records and names those that have failed.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_sqs_with_awslambdaric() {
    let python = peer("peers-python/bin/python");
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(&format!(
        "
functions:
  peer:
    lambda: {{ command: [{}, -m, awslambdaric, app.handler], event: sqs }}
    workers: 2
    env: {{ SITE: \"${{SITE}}\" }}
bindings:
  - subject: in.peer
    function: peer
    batch: {{ max: 20, wait: 200ms }}
    retry: {{ attempts: 3, backoff: 10ms..20ms }}
",
        python.display()
    ));
    site.file("app.py", include_str!("../../peers/lambda_sqs.py"));
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(100, |n| ("in.peer".to_owned(), format!("{{\"n\": {n}}}"))).await;
    let letters = streams.wait_letters(12).await;
    streams.wait_settled("t-peer").await;

    let mut dead = BTreeSet::new();
    for letter in letters {
        let event: Value = serde_json::from_slice(&letter.payload).expect("JSON");
        let n = event["n"].as_u64().expect("a number");
        let (reason, error) = match n {
            55 => ("attempts_exhausted", "RuntimeError: poison".to_owned()),
            77 => ("bad_reply", "there is no record `nobody` in this batch".to_owned()),
            _ => (
                "attempts_exhausted",
                format!("IN:{} in batchItemFailures", letter.get("sequence")),
            ),
        };
        assert_eq!(letter.get("reason"), reason, "{n}");
        assert!(letter.get("error").contains(&error), "{n}: {letter:#?}");
        assert_eq!(letter.get("attempts"), "3", "{n}");
        dead.insert(n);
    }
    let expected: BTreeSet<u64> = (0..10).map(|n| 10 * n + 3).chain([55, 77]).collect();
    assert_eq!(dead, expected, "nobody else is charged with what these did");
    let (mut again, mut largest) = (BTreeSet::new(), 0);
    for line in site.lines("seen") {
        let (n, attempt, size): (u64, String, usize) =
            serde_json::from_str(&line).expect("a record");
        largest = largest.max(size);
        if attempt == "2" {
            again.insert(n);
        }
    }
    assert_eq!(largest, 20, "a batch is one invocation");
    let retried = (0..100).filter(|n| [3, 4].contains(&(n % 10)) || [55, 77].contains(n));
    assert_eq!(again, retried.collect());
    assert_eq!(runner.sigterm().await.code(), Some(0));
}
