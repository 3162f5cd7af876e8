//! What is particular to functions behind the AWS Lambda Runtime API.

use std::{num::NonZeroUsize, time::Duration};

use pelton::{
    event::{Headers, Verdict},
    handler::{Call, Fault, Handler, Reply},
    manifest::{Function, Lambda, LambdaEvent, Runtime},
};
use serde_json::{Value, json};

use super::{
    LONG, SHORT, call,
    faults::{ended, pid, together},
    fixture, folder, function, handler, one_worker,
    starting::unavailable,
};

fn target() -> Lambda {
    let file = fixture("conform_lambda.py").display().to_string();
    let command = vec!["python3".to_owned(), file];
    Lambda { command, event: LambdaEvent::Payload, handler: "app.handler".to_owned() }
}

pub(crate) fn runtime() -> Runtime {
    Runtime::Lambda(target())
}

/// The one output of a reply.
fn output(reply: Result<Reply, Fault>) -> Value {
    let Ok(Reply { verdicts, .. }) = &reply else { panic!("{reply:?}") };
    match verdicts.as_slice() {
        [Verdict::Done(outputs)] if outputs.len() == 1 => {
            let kind = outputs[0].headers.get("content-type");
            assert_eq!(kind, Some("application/json"));
            serde_json::from_slice(&outputs[0].data).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

async fn says(handler: &dyn Handler, subject: &str, data: &'static [u8]) -> Value {
    output(handler.call(call(subject, data)).await)
}

#[tokio::test]
async fn an_event_becomes_json() {
    let handler = one_worker(runtime(), 1);
    for (data, expected) in [
        (&br#"{"a": [1, 2.50]}"#[..], json!({"a": [1, 2.5]})),
        (b"7", json!(7)),
        (b"", json!({})),
        ("grüße".as_bytes(), json!("grüße")),
        (b"\xff\x00", json!({"data_base64": "/wA="})),
    ] {
        assert_eq!(says(&*handler, "json", data).await, expected);
    }
}

#[tokio::test]
async fn an_event_can_be_a_cloud_event() {
    let target = Lambda { event: LambdaEvent::CloudEvents, ..target() };
    let handler = one_worker(Runtime::Lambda(target), 1);
    let mut call = call("json", r#"{"a": 1}"#);
    let headers = [("ce-type", "order"), ("ce-id", "7"), ("ce-tenant", "grüße")];
    call.events.first.headers = headers.into_iter().collect();
    let said = output(handler.call(call).await);
    let expected = json!({
        "specversion": "1.0", "id": "7", "source": "nats://ORDERS", "type": "order",
        "time": "1970-01-01T00:00:00Z", "tenant": "grüße",
        "datacontenttype": "application/json", "data": {"a": 1},
    });
    assert_eq!(said, expected);
}

#[tokio::test]
async fn an_invocation_has_the_headers_of_aws() {
    let handler = one_worker(runtime(), 1);
    let mut call = call("headers", "");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    call.events.first.headers = [("traceparent", trace)].into_iter().collect();
    let before = time::OffsetDateTime::now_utc();
    let said = output(handler.call(Call { timeout: LONG, ..call.clone() }).await);
    let of = |name: &str| said[format!("lambda-runtime-{name}")].as_str().unwrap_or_default();
    assert_eq!(of("invoked-function-arn"), "arn:aws:lambda:local:000000000000:function:f");
    let trace_id = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
    assert_eq!(of("trace-id"), trace_id);
    let deadline: i128 = of("deadline-ms").parse().unwrap();
    let left = deadline - before.unix_timestamp_nanos() / 1_000_000;
    assert!((60_000..120_000).contains(&left), "{left} ms");
    let context: Value = serde_json::from_str(of("client-context")).unwrap();
    let custom = json!({
        "pelton-subject": "headers", "pelton-event-id": "ORDERS:12", "pelton-attempt": "3",
    });
    assert_eq!(context, json!({"custom": custom}));
    call.events.first.headers = Headers::new();
    let other = output(handler.call(call).await);
    assert_ne!(other["lambda-runtime-aws-request-id"], said["lambda-runtime-aws-request-id"]);
    assert_eq!(other.get("lambda-runtime-trace-id"), None);
}

#[tokio::test]
async fn the_environment_is_that_of_aws() {
    let mut function = function(runtime());
    function.memory_limit = Some(512 << 20);
    function.env = [("GREETING", "hello"), ("AWS_REGION", "eu-central-1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let said = says(&*handler(&function, 1), "environment", b"").await;
    let root = fixture("").display().to_string();
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "f"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/f"),
        ("LAMBDA_TASK_ROOT", &root),
        ("_HANDLER", "app.handler"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_DEFAULT_REGION", "local"),
        ("TZ", ":UTC"),
        ("GREETING", "hello"),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    assert!(said["AWS_LAMBDA_RUNTIME_API"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(said.get("CARGO_MANIFEST_DIR").is_none(), "nothing else is inherited");
}

#[tokio::test]
async fn what_is_not_the_time_for_is_refused() {
    let handler = one_worker(runtime(), 1);
    assert_eq!(says(&*handler, "protocol", b"").await, json!([403, 400, 403]));
    // It posts a response of its own after that one.
    assert_eq!(says(&*handler, "json", b"1").await, json!(1));
}

#[tokio::test]
async fn a_response_has_a_limit() {
    let handler = one_worker(runtime(), 1);
    let worker = says(&*handler, "pid", b"").await;
    assert_eq!(says(&*handler, "just fits", b"").await.as_str().unwrap().len(), (6 << 20) - 2);
    match handler.call(call("too large", "")).await {
        Err(Fault::BadReply(why)) if why.contains("6MiB") => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(says(&*handler, "pid", b"").await, worker, "the worker goes on");
}

#[tokio::test]
async fn a_response_may_be_streamed() {
    let handler = one_worker(runtime(), 1);
    assert_eq!(says(&*handler, "stream", b"").await, json!([1, 2]));
    let broken = handler.call(call("broken stream", "")).await;
    let reason = "E: half way".to_owned();
    assert_eq!(broken, Ok(Reply::one(Verdict::Retry { reason, after: None })));
}

#[tokio::test]
async fn a_worker_has_one_event_at_a_time() {
    let handler = one_worker(runtime(), 8);
    let calls = (0..8).map(|_| call("pid", "")).collect();
    let replies = together(&*handler, calls).await;
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    let two = Function { workers: NonZeroUsize::new(2), ..function(runtime()) };
    let handler = super::handler(&two, 8);
    let folder = serde_json::to_string(&folder()).unwrap();
    // Neither ends before the other one has begun.
    let calls = (0..2).map(|_| call("meet", folder.clone())).collect();
    assert_eq!(together(&*handler, calls).await, [super::done(&[]), super::done(&[])]);
}

/// It was not given the next call yet, so that one is not charged.
#[tokio::test]
async fn a_worker_that_leaves_between_events_costs_nothing() {
    for subject in ["leave", "silence"] {
        let start_timeout = Duration::from_secs(2);
        let workers = NonZeroUsize::new(1);
        let function = Function { start_timeout, workers, ..function(runtime()) };
        let handler = handler(&function, 4);
        let calls = [subject, "pid", subject, "pid"].map(|subject| call(subject, "")).into();
        let replies = together(&*handler, calls).await;
        let pids: Vec<String> = replies.iter().map(|reply| pid(reply.as_ref().unwrap())).collect();
        assert_ne!(pids[0], pids[1], "{subject}");
        assert_eq!(pids[1], pids[2], "{subject}");
        assert_ne!(pids[2], pids[3], "{subject}");
    }
}

/// What nobody took is given to whoever asks next.
#[tokio::test]
async fn a_worker_may_hang_up_and_ask_again() {
    let handler = one_worker(runtime(), 1);
    let worker = says(&*handler, "hang up", b"").await;
    // The connection is gone by then, and the worker is not back yet.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(says(&*handler, "pid", b"").await, worker);
}

#[tokio::test]
async fn the_neighbours_of_a_crash_or_a_timeout_are_not_charged() {
    let handler = one_worker(runtime(), 8);
    for (culprit, timeout) in [("crash", LONG), ("hang", SHORT)] {
        let subject = |n| if n == 3 { culprit } else { "json" };
        let calls = (0..8).map(|n| Call { timeout, ..call(subject(n), n.to_string()) }).collect();
        let mut replies = together(&*handler, calls).await;
        match replies.remove(3) {
            Err(Fault::Crash(why)) if culprit == "crash" => assert!(why.contains("exit 3")),
            Err(Fault::Timeout(SHORT)) if culprit == "hang" => {}
            other => panic!("{other:?}"),
        }
        let expected = [0, 1, 2, 4, 5, 6, 7].map(|n: u32| super::done(&[&n.to_string()]));
        assert_eq!(replies, expected, "{culprit}");
    }
}

#[tokio::test]
async fn an_init_error_is_unavailable_until_it_is_mended() {
    let broken = folder().join("broken");
    std::fs::write(&broken, "no module named left_pad").unwrap();
    let mut function = function(runtime());
    function.env.insert("BROKEN".to_owned(), broken.display().to_string());
    let handler = handler(&function, 2);
    let about = "ImportError: no module named left_pad";
    unavailable(handler.call(call("any", "")).await, about);
    std::fs::remove_file(broken).unwrap();
    loop {
        match handler.call(call("json", "1")).await {
            Err(Fault::Unavailable(_)) => tokio::task::yield_now().await,
            reply => return assert_eq!(output(reply), json!(1)),
        }
    }
}

#[tokio::test]
async fn what_is_no_runtime_is_unavailable() {
    let lambda = |command: &[&str]| {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Runtime::Lambda(Lambda { command, ..target() })
    };
    for (command, about) in [
        (&["no-such-program"][..], "no-such-program: not found"),
        (&["sh", "-c", "echo sorry >&2; exit 4"], "exit 4 before it was ready: sorry"),
        (&["sleep", "3600"], "not ready within 200ms"),
    ] {
        let start_timeout = if command[0] == "sleep" { Duration::from_millis(200) } else { LONG };
        let function = Function { start_timeout, ..function(lambda(command)) };
        unavailable(handler(&function, 1).call(call("any", "")).await, about);
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_runs() {
    let handler = one_worker(runtime(), 1);
    let worker = says(&*handler, "pid", b"").await.to_string();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        handler.stop().await;
    };
    let (said, ()) = tokio::join!(says(&*handler, "nap", b""), stop);
    assert_eq!(said, json!("rested"));
    ended(&worker).await;
}

#[tokio::test]
async fn no_worker_is_left_behind() {
    for way in ["stop", "drop", "idle"] {
        let idle_timeout = if way == "idle" { SHORT } else { LONG };
        let function = Function { idle_timeout, ..function(runtime()) };
        let handler = handler(&function, 1);
        let worker = says(&*handler, "pid", b"").await.to_string();
        match way {
            "stop" => handler.stop().await,
            "drop" => drop(handler),
            _ => {}
        }
        ended(&worker).await;
    }
}
