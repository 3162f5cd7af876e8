//! What only functions behind a URL do: statuses, connections, TLS, CloudEvents both ways.

pub(crate) mod connections;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use pelton::{
    event::{Cause, Outgoing, Verdict},
    handler::{Fault, Handler, Reply},
    manifest::{self, Function, HttpMode, Runtime, Secret},
};
use serde_json::{Value, json};

use super::{call, fixture, function, handler};

/// A server of the tests, ended by drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// The fixture that the conformance suite speaks with.
    pub(crate) fn python() -> Self {
        Self::run(Command::new("python3").arg(fixture("conform_http.py")))
    }

    /// The same on a port chosen before.
    pub(crate) fn python_on(port: u16) -> Self {
        Self::run(Command::new("python3").arg(fixture("conform_http.py")).arg(port.to_string()))
    }

    pub(crate) fn node(arguments: &[&Path]) -> Self {
        Self::run(Command::new("node").arg(fixture("http2.mjs")).args(arguments))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::Http(Box::new(self.spec()))
    }

    fn spec(&self) -> manifest::Http {
        spec(&format!("http://127.0.0.1:{}/events?at=1", self.port))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn spec(url: &str) -> manifest::Http {
    manifest::Http {
        url: url.parse().unwrap(),
        mode: HttpMode::Binary,
        headers: Vec::new(),
        ca_file: None,
        max_response: 4 << 20,
        http2: false,
        reject_on: [404].into(),
    }
}

fn posts(spec: manifest::Http) -> std::sync::Arc<dyn Handler> {
    let runtime = Runtime::Http(Box::new(spec));
    handler(&Function { start_timeout: Duration::from_secs(2), ..function(runtime) }, 4)
}

/// The verdict on an answer that the server is told to give.
async fn told(handler: &dyn Handler, answer: Value) -> Result<Verdict, Fault> {
    let reply = handler.call(call("as told", answer.to_string())).await;
    reply.map(|reply| reply.verdicts.into_iter().next().unwrap())
}

/// The verdict on these bytes for an answer.
async fn raw(handler: &dyn Handler, bytes: &'static [u8]) -> Result<Reply, Fault> {
    handler.call(call("raw", Bytes::from_static(bytes))).await
}

fn one(said: Result<Reply, Fault>) -> Outgoing {
    match said.unwrap().verdicts.pop().unwrap() {
        Verdict::Done(outputs) if outputs.len() == 1 => outputs.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_status_is_a_verdict() {
    let server = Server::python();
    let handler = posts(server.spec());
    for status in [400, 404, 410, 413, 415, 422] {
        let said = told(&*handler, json!({"status": status, "body": "so\n not"})).await.unwrap();
        let Verdict::Reject { cause: Cause::Rejected, reason } = said else { panic!("{said:?}") };
        assert!(
            reason.starts_with(&status.to_string()) && reason.ends_with(": so not"),
            "{reason}"
        );
    }
    for status in [401, 403, 405, 408, 409, 418, 425, 429, 499, 500, 502, 503, 504, 599] {
        let said = told(&*handler, json!({"status": status})).await.unwrap();
        assert!(matches!(said, Verdict::Retry { after: None, .. }), "{status}: {said:?}");
    }
    for status in [200, 201, 202, 204] {
        let said = told(&*handler, json!({"status": status})).await;
        assert_eq!(said, Ok(Verdict::Done(Vec::new())), "{status}");
    }
    let long = json!({"status": 500, "body": "ü".repeat(50_000)});
    let said = told(&*handler, long).await.unwrap();
    assert!(
        matches!(said, Verdict::Retry { reason, .. } if reason.len() < 1000 && reason.ends_with("üü"))
    );
}

#[tokio::test]
async fn retry_after_is_seconds_or_a_date() {
    let server = Server::python();
    let handler = posts(server.spec());
    let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(120));
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (status, text, expected) in [
        (429, "7", Some(7..=7)),
        (503, "0", Some(0..=0)),
        (409, &soon, Some(100..=120)),
        (500, past, Some(0..=0)),
        (500, "soon", None),
        (500, "-1", None),
    ] {
        let answer = json!({"status": status, "headers": {"Retry-After": text}});
        let said = told(&*handler, answer).await.unwrap();
        let Verdict::Retry { after, .. } = said else { panic!("{said:?}") };
        match (after, expected) {
            (Some(after), Some(expected)) => assert!(expected.contains(&after.as_secs()), "{text}"),
            (after, expected) => assert_eq!((after, expected), (None, None), "{text}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_bad_reply() {
    let server = Server::python();
    let handler = posts(manifest::Http { max_response: 1000, ..server.spec() });
    let location = json!({"location": "https://other.example.com/x?token=1"});
    let answers = [
        (json!({"status": 307, "headers": location}), "to other.example.com are not followed"),
        (json!({"status": 304}), "304"),
        (json!({"status": 200, "body": "x".repeat(1001)}), "max_response"),
        (json!({"status": 200, "headers": {"content-encoding": "br"}, "body": "x"}), "br"),
        (
            json!({"status": 200, "headers": {"content-type": "application/cloudevents-batch+json"}, "body": "{}"}),
            "batch",
        ),
        (
            json!({"status": 200, "headers": {"content-type": "application/cloudevents+json"}, "body": "{}"}),
            "specversion",
        ),
    ];
    for (answer, about) in answers {
        let said = told(&*handler, answer).await;
        assert!(matches!(&said, Err(Fault::BadReply(why)) if why.contains(about)), "{said:?}");
        assert!(!format!("{said:?}").contains("token"), "{said:?}");
    }
    let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let large = [&chunks[..], b"3e9\r\n", &[b'x'; 1001], b"\r\n0\r\n\r\n"].concat();
    let malformed = [&chunks[..], b"what\r\n"].concat();
    for bytes in [large, malformed, b"SSH-2.0-x\r\n\r\n".to_vec()] {
        let said = raw(&*handler, bytes.leak()).await;
        assert!(matches!(said, Err(Fault::BadReply(_))), "{said:?}");
    }
    assert_eq!(told(&*handler, json!({"status": 200})).await, Ok(Verdict::Done(Vec::new())));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_a_crash() {
    let server = Server::python();
    let handler = posts(server.spec());
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal";
    for bytes in [&half[..], &chunk[..], b"HTTP/1.1 200", b""] {
        let said = raw(&*handler, bytes).await;
        assert!(matches!(said, Err(Fault::Crash(_))), "{said:?}");
    }
}

#[tokio::test]
async fn a_request_is_a_cloudevent_in_binary_mode() {
    let server = Server::python();
    let token = ("authorization".to_owned(), Secret("Bearer s3cret".to_owned()));
    let spec = manifest::Http { headers: vec![token], ..server.spec() };
    assert!(!format!("{spec:?}").contains("s3cret"));
    let handler = posts(spec);
    let mut event = call("show", r#"{"a": 1}"#);
    event.events.first.headers = [
        ("Ce-Type", "über 1%"),
        ("ce-myext", "x"),
        ("traceparent", "00-1-2-01"),
        ("Nats-Msg-Id", "n"),
        ("authorization", "Bearer forged"),
        ("Host", "forged"),
        ("pelton-attempt", "99"),
        ("not a token", "x"),
    ]
    .into_iter()
    .collect();
    let seen: Value = serde_json::from_slice(&one(handler.call(event).await).data).unwrap();
    assert_eq!((&seen["path"], &seen["body"]), (&json!("/events?at=1"), &json!(r#"{"a": 1}"#)));
    let mut headers: Vec<String> = seen["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            format!("{}: {}", pair[0].as_str().unwrap().to_lowercase(), pair[1].as_str().unwrap())
        })
        .filter(|line| !line.starts_with("user-agent: pelton/"))
        .collect();
    headers.sort();
    let expected = format!(
        "authorization: Bearer s3cret
ce-id: ORDERS:12
ce-myext: x
ce-source: nats://ORDERS
ce-specversion: 1.0
ce-time: 1970-01-01T00:00:00Z
ce-type: %C3%BCber%201%25
content-length: 8
content-type: application/json
host: 127.0.0.1:{}
pelton-attempt: 3
pelton-event-id: ORDERS:12
pelton-subject: show
traceparent: 00-1-2-01",
        server.port
    );
    assert_eq!(headers.join("\n"), expected);
}

#[tokio::test]
async fn a_request_is_a_structured_cloudevent_when_asked() {
    let server = Server::python();
    let handler = posts(manifest::Http { mode: HttpMode::Structured, ..server.spec() });
    for (kind, data, key, value) in [
        ("application/json", r#"{"a": 1}"#, "data", json!({"a": 1})),
        ("application/x+json; a=b", "17", "data", json!(17)),
        ("application/json", "{", "data_base64", json!("ew==")),
        ("text/plain", "grüße", "data", json!("grüße")),
        ("", "[1]", "data", json!([1])),
        ("image/png", "\0", "data_base64", json!("AA==")),
    ] {
        let mut event = call("show", data);
        let headers = [("ce-datacontenttype", kind), ("ce-type", "über"), ("tracestate", "t=1")];
        event.events.first.headers = headers.into_iter().collect();
        let seen: Value = serde_json::from_slice(&one(handler.call(event).await).data).unwrap();
        let headers = seen["headers"].to_string().to_lowercase();
        assert!(
            headers.contains(r#"["content-type","application/cloudevents+json; charset=utf-8"]"#)
        );
        assert!(
            headers.contains(r#"["tracestate","t=1"]"#) && !headers.contains("\"ce-"),
            "{headers}"
        );
        let kind = if kind.is_empty() { "application/json" } else { kind };
        let mut expected = json!({
            "specversion": "1.0", "id": "ORDERS:12", "source": "nats://ORDERS", "type": "über",
            "time": "1970-01-01T00:00:00Z", "datacontenttype": kind,
        });
        expected[key] = value;
        let body: Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, expected);
    }
}

#[tokio::test]
async fn events_in_an_answer_become_outputs() {
    let server = Server::python();
    let handler = posts(server.spec());
    let out = |headers: &[(&str, &str)], data: &'static str| Outgoing {
        headers: headers.iter().copied().collect(),
        data: data.into(),
        subject: None,
    };
    let sorted = |outputs: Vec<Outgoing>| -> Vec<Outgoing> {
        let sort = |mut out: Outgoing| {
            let mut headers: Vec<_> =
                out.headers.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            headers.sort();
            out.headers = headers.into_iter().collect();
            out
        };
        outputs.into_iter().map(sort).collect()
    };
    let binary = json!({
        "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "%C3%BCber", "x-other": "y",
        "content-type": "text/plain", "traceparent": "00-a-b-01",
    });
    let common = [("ce-id", "1"), ("ce-source", "/s"), ("ce-specversion", "1.0")];
    let with = |more: &[(&'static str, &'static str)]| [&common[..], more].concat();
    let structured = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"b": 2}}"#;
    let batch =
        format!(r#"[{structured}, {{"specversion":"1.0","id":"1","source":"/s","type":"u"}}]"#);
    let json = ("content-type", "application/json");
    let cases = [
        (
            json!({"status": 200, "headers": binary, "body": "hi"}),
            vec![out(
                &with(&[
                    ("ce-type", "über"),
                    ("content-type", "text/plain"),
                    ("traceparent", "00-a-b-01"),
                ]),
                "hi",
            )],
        ),
        (
            json!({"status": 202, "headers": {"content-type": "application/cloudevents+json"}, "body": structured}),
            vec![out(&with(&[("ce-type", "t"), json]), r#"{"b": 2}"#)],
        ),
        (
            json!({"status": 200, "headers": {"Content-Type": "Application/CloudEvents-Batch+json"}, "body": batch}),
            vec![
                out(&with(&[("ce-type", "t"), json]), r#"{"b": 2}"#),
                out(&with(&[("ce-type", "u")]), ""),
            ],
        ),
        (
            json!({"status": 200, "headers": {"content-type": "application/cloudevents-batch+json"}, "body": "[]"}),
            Vec::new(),
        ),
        (
            json!({"status": 200, "headers": {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}}),
            vec![out(&with(&[("ce-type", "t")]), "")],
        ),
        (
            json!({"status": 200, "headers": {"content-type": "image/png"}, "body": "x"}),
            vec![out(&[("content-type", "image/png")], "x")],
        ),
    ];
    for (answer, expected) in cases {
        let Verdict::Done(outputs) = told(&*handler, answer).await.unwrap() else { panic!() };
        assert_eq!(sorted(outputs), sorted(expected));
    }
}
