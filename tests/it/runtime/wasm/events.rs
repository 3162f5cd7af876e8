//! Components in a running runner, on events of a real nats-server.

use std::collections::BTreeSet;

use super::{super::components::component, asking};
use crate::harness::{NatsServer, Runner, Site, eventually};

const EVENTS: usize = 1_000;

/// A component that says what it gets, prints `seen` on standard output and `heard` on standard
/// error in two pieces, and breaks off when the payload starts with a `p`.
fn talker() -> Vec<u8> {
    let package = r#"
        package test:it;
        world talker {
            import wasi:cli/stdout@0.2.0;
            import wasi:cli/stderr@0.2.0;
            export pelton:event/handler@0.1.0;
        }
        package wasi:cli@0.2.0 {
            interface stdout {
                use wasi:io/streams@0.2.0.{output-stream};
                get-stdout: func() -> output-stream;
            }
            interface stderr {
                use wasi:io/streams@0.2.0.{output-stream};
                get-stderr: func() -> output-stream;
            }
        }
        package wasi:io@0.2.0 {
            interface error { resource error {} }
            interface streams {
                use error.{error};
                variant stream-error { last-operation-failed(error), closed }
                resource output-stream {
                    blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                }
            }
        }
    "#;
    let import = r#"
        (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
        (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
        (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
          (func $write (param i32 i32 i32 i32)))
        (data (i32.const 256) "seen\0aheard\0a")
        (func $poisoned unreachable)
        (func $look (param $data i32)
          (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 112))
            (then (call $poisoned))))
    "#;
    let ask = r"
        (call $write (call $stdout) (i32.const 256) (i32.const 5) (i32.const 512))
        (call $write (call $stderr) (i32.const 261) (i32.const 2) (i32.const 512))
        (call $write (call $stderr) (i32.const 263) (i32.const 4) (i32.const 512))
        (call $look (i32.load offset=52 (local.get $event)))
        (call $say (i32.load offset=52 (local.get $event)) (i32.load offset=56 (local.get $event)))";
    component(&asking(import, ask), "talker", package)
}

fn site() -> Site {
    let site = Site::with(
        r"
functions:
  f: { run: f.wasm }
  other: { run: other.mjs }
bindings:
  - { subject: in.f, function: f, publish: out.f, retry: { attempts: 2, backoff: 50ms..100ms } }
  - { subject: in.other, function: other, publish: out.other }
",
    );
    site.file("f.wasm", talker());
    site.file("other.mjs", "export const handle = async (event) => event.raw;\n");
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_has_its_one_output() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site();
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(EVENTS, |n| ("in.f".to_owned(), n.to_string())).await;
    streams.wait_count("OUT", EVENTS as u64).await;
    streams.wait_settled("t-f").await;
    let texts = streams.texts("OUT").await;
    let said: BTreeSet<usize> = texts.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(texts.len(), EVENTS);
    assert_eq!(said, (0..EVENTS).collect::<BTreeSet<_>>(), "each once");
    assert_eq!(streams.count("T_DLQ").await, 0);
    let scrape = runner.scrape().await;
    assert_eq!(scrape.get("invocations_total", &[("binding", "f")]), EVENTS as f64);
    scrape.assert_adds_up("f");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_a_dead_letter_with_the_guests_backtrace_and_nobody_else_notices() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site();
    let runner = Runner::start(&site, &server).await;
    let subject = |n| if n % 2 == 0 { "in.f" } else { "in.other" }.to_owned();
    streams.send_many(40, |n| (subject(n), n.to_string())).await;
    streams.send("in.f", "poison").await;
    streams.send_many(40, |n| (subject(n), n.to_string())).await;
    let letter = streams.wait_letters(1).await.remove(0);
    streams.wait_count("OUT", 80).await;
    streams.wait_settled("t-f").await;
    streams.wait_settled("t-other").await;
    assert_eq!(streams.count("OUT").await, 80);
    assert_eq!(letter.payload, b"poison");
    assert_eq!(letter.get("reason"), "crashed");
    assert_eq!(letter.outcomes(), ["crash"; 2]);
    for entry in letter.history() {
        let error = entry["error"].as_str().unwrap();
        assert!(error.contains("unreachable"), "{error}");
        let frames: Vec<&str> = error.lines().skip(1).map(str::trim).take(2).collect();
        assert_eq!(frames, ["at poisoned", "at look"]);
    }
    let scrape = runner.scrape().await;
    let crashes = |binding| {
        let labels = [("binding", binding), ("outcome", "crash")];
        scrape.find("invocations_total", &labels).unwrap_or(0.0)
    };
    assert_eq!((crashes("f"), crashes("other")), (2.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_is_log_lines_with_function_and_event() {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = site();
    let mut runner = Runner::spawn(&site, &server.url(), &["--log-format", "json"]);
    runner.wait_ready().await;
    streams.send("in.f", "1").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    streams.send_with("in.f", headers, "2").await;
    streams.wait_count("OUT", 2).await;
    let said = |sequence: u32, line: &str| {
        let event = format!("\"IN:{sequence}\"");
        runner.log().lines().any(|log| {
            log.contains(&event) && log.contains("\"function\":\"f\"") && log.contains(line)
        })
    };
    eventually("both lines of both events", async || {
        let all = [1, 2].iter().all(|n| said(*n, "\"seen\"") && said(*n, "\"heard\""));
        all.then_some(())
    })
    .await;
    let field = format!("\"trace_id\":\"{trace}\"");
    for line in runner.log().lines().filter(|line| line.contains("\"function\":\"f\"")) {
        assert_eq!(line.contains(&field), line.contains("\"IN:2\""), "{line}");
    }
}
