//! One table of cases against every runtime.

use std::time::Duration;

use bytes::Bytes;
use pelton::{
    event::{Cause, Event, Headers, Outgoing, State, Verdict},
    handler::{Call, Fault, Handler, Reply},
    manifest::{Allow, Component, Instances, Runtime},
};
use serde_json::{Value, json};

use super::{LONG, SHORT, call, components, done, fixture, function, handler, http::Server, plain};

use Kind::{Async, Command, Exec, Http, Lambda, Native, Node, Python, Wasm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native,
    Exec,
    Command,
    Python,
    Async,
    Node,
    Http,
    Lambda,
    Wasm,
}

const ALL: &[Kind] = &[Native, Exec, Command, Python, Async, Node, Http, Lambda, Wasm];
const WORKERS: &[Kind] = &[Command, Python, Async, Node, Lambda];
const PROCESSES: &[Kind] = &[Exec, Command, Python, Async, Node, Lambda];
/// What can say more than a program with a standard output and an exit code.
const RICH: &[Kind] = &[Native, Command, Python, Async, Node, Wasm];
/// What keeps the state of a key, and tells an answer that is none.
const TYPED: &[Kind] = &[Command, Python, Async, Node, Wasm];
/// What is handed a list, and whose fixture echoes the events of one.
const LISTS: &[Kind] = &[Python, Async, Node];
/// What can answer with several events of its own making.
const MANY: &[Kind] = &[Native, Command, Python, Async, Node, Lambda, Wasm];
/// What sees a header.
const HEADER: &[Kind] = &[Native, Exec, Command, Python, Async, Node, Http, Wasm];
/// What sees every value of a repeated header.
const HEADERS: &[Kind] = &[Native, Command, Python, Async, Node, Http, Wasm];

struct Case {
    subject: &'static str,
    kinds: &'static [Kind],
    data: Bytes,
    headers: Headers,
    timeout: Duration,
    expected: Expected,
}

enum Expected {
    Reply(Result<Reply, Fault>),
    Retry { about: &'static str },
    Reject { about: &'static str, cause: Cause },
    Crash { about: &'static str },
    BadReply,
    Unavailable,
}

fn case(subject: &'static str, kinds: &'static [Kind], expected: Expected) -> Case {
    let (data, headers) = (Bytes::from_static(b"payload"), Headers::new());
    Case { subject, kinds, data, headers, timeout: LONG, expected }
}

/// The largest payload that a NATS server takes by default, with every byte value in it.
fn big() -> Bytes {
    (0..1_048_576_u32).map(|n| (n ^ (n >> 8)) as u8).collect::<Vec<u8>>().into()
}

fn verdicts() -> Vec<Case> {
    let many = [("X-One", "1"), ("x-many", "a"), ("x-many", "ü 🚀")];
    let first = Outgoing {
        subject: Some("out.a".to_owned()),
        headers: many.into_iter().collect(),
        data: Bytes::from_static(b"first"),
    };
    let second = Outgoing { subject: Some("out.b".to_owned()), ..Outgoing::default() };
    let third = Outgoing { data: Bytes::from_static(b"payload"), ..Outgoing::default() };
    let several = Ok(Reply::one(Verdict::Done(vec![first, second, third])));
    let after = Some(Duration::from_millis(1500));
    let later = Verdict::Retry { reason: "later".to_owned(), after };
    let binary = Outgoing { data: big(), ..Outgoing::default() };
    let binary = Ok(Reply::one(Verdict::Done(vec![binary])));
    let greeting = || [("x-other", "a"), ("X-Greeting", "grüße 🚀"), ("x-greeting", "second")];
    let repeated = || [("x-many", "a"), ("X-Many", ""), ("x-other", "-"), ("X-MANY", "ü 🚀")];
    vec![
        case("nothing", ALL, Expected::Reply(done(&[]))),
        case("echo", ALL, Expected::Reply(done(&["payload"]))),
        case("meta", ALL, Expected::Reply(done(&["ORDERS:12 meta 3"]))),
        case("cloud", &[Exec], Expected::Reply(done(&["ORDERS:12 cloud nats://ORDERS"]))),
        case("several", MANY, Expected::Reply(several)),
        case("retry", ALL, Expected::Retry { about: "boom ü" }),
        case("retry after", RICH, Expected::Reply(Ok(Reply::one(later)))),
        case("reject", ALL, Expected::Reject { about: "never", cause: Cause::Rejected }),
        Case {
            headers: [("content-type", "application/json")].into_iter().collect(),
            ..case("undecodable", RICH, Expected::Reject { about: "", cause: Cause::Undecodable })
        },
        Case { data: Bytes::new(), ..case("size", ALL, Expected::Reply(done(&["0"]))) },
        Case { data: big(), ..case("size", ALL, Expected::Reply(done(&["1048576"]))) },
        Case { data: big(), ..case("echo", ALL, Expected::Reply(binary)) },
        Case { data: big(), ..case("nothing", ALL, Expected::Reply(done(&[]))) },
        Case {
            headers: greeting().into_iter().collect(),
            ..case("header", HEADER, Expected::Reply(done(&["grüße 🚀"])))
        },
        Case {
            headers: repeated().into_iter().collect(),
            ..case("headers", HEADERS, Expected::Reply(done(&["a||ü 🚀"])))
        },
    ]
}

fn faults() -> Vec<Case> {
    let timeout = || Expected::Reply(Err(Fault::Timeout(SHORT)));
    vec![
        Case { timeout: SHORT, ..case("hang", ALL, timeout()) },
        Case { timeout: SHORT, ..case("spin", TYPED, timeout()) },
        case("crash", WORKERS, Expected::Crash { about: "exit 3" }),
        case("crash", &[Native], Expected::Crash { about: "panicked: boom" }),
        case("crash", &[Wasm], Expected::Crash { about: "unreachable" }),
        case("signal", PROCESSES, Expected::Crash { about: "SIGABRT" }),
        case("crash", &[Http], Expected::Crash { about: "closed before" }),
        case("bad reply", TYPED, Expected::BadReply),
        case("bad reply", &[Http], Expected::BadReply),
        case("no verdict", &[Command, Wasm], Expected::BadReply),
        case("wrong size", &[Command], Expected::BadReply),
        case("two verdicts", &[Command, Wasm], Expected::BadReply),
        case("nonsense", &[Command], Expected::Crash { about: "a frame" }),
        case("nobody's", &[Command], Expected::Crash { about: "does not have" }),
        case("unavailable", &[Exec], Expected::Unavailable),
    ]
}

/// What the table asks of a function, compiled in.
pub(crate) async fn native(event: Event) -> Result<Verdict, String> {
    let text = |text: String| vec![Outgoing { data: text.into(), ..Outgoing::default() }];
    Ok(Verdict::Done(match event.subject.as_str() {
        "nothing" => Vec::new(),
        "echo" => vec![Outgoing { data: event.data, ..Outgoing::default() }],
        "size" => text(event.data.len().to_string()),
        "meta" => text(format!("{} {} {}", event.id, event.subject, event.attempt)),
        "header" => text(event.headers.get("X-GREETING").unwrap().to_owned()),
        "headers" => text(event.headers.get_all("x-many").collect::<Vec<_>>().join("|")),
        "several" => {
            let headers = [("X-One", "1"), ("x-many", "a"), ("x-many", "ü 🚀")];
            let out = |subject: Option<&str>, data| Outgoing {
                subject: subject.map(str::to_owned),
                headers: Headers::new(),
                data,
            };
            let mut first = out(Some("out.a"), Bytes::from_static(b"first"));
            first.headers = headers.into_iter().collect();
            vec![first, out(Some("out.b"), Bytes::new()), out(None, event.data)]
        }
        "retry" => return Err("boom ü".to_owned()),
        "retry after" => {
            let after = Some(Duration::from_millis(1500));
            return Ok(Verdict::Retry { reason: "later".to_owned(), after });
        }
        "reject" => {
            return Ok(Verdict::Reject { cause: Cause::Rejected, reason: "never".to_owned() });
        }
        "undecodable" => {
            let reason = "no JSON".to_owned();
            return Ok(Verdict::Reject { cause: Cause::Undecodable, reason });
        }
        "hang" => std::future::pending().await,
        _ => panic!("boom"),
    }))
}

fn runtime(kind: Kind, server: &Server) -> Runtime {
    let python = |file| vec!["python3".to_owned(), fixture(file).display().to_string()];
    match kind {
        Native => Runtime::Native,
        Exec => Runtime::Exec(python("conform_exec.py")),
        Command => Runtime::Command(python("conform_command.py")),
        Python => Runtime::Python(fixture("conform.py")),
        Async => Runtime::Python(fixture("conform_async.py")),
        Node => Runtime::Node(fixture("conform.mjs")),
        Http => server.runtime(),
        Wasm => Runtime::Wasm(Component {
            file: components::conform(),
            allow: Allow::default(),
            instances: Instances::Fresh,
        }),
        Lambda => super::lambda::runtime(),
    }
}

async fn conforms(kind: Kind) {
    let server = Server::python();
    let handler = handler(&function(runtime(kind, &server)), 4);
    for case in verdicts().into_iter().chain(faults()) {
        if case.kinds.contains(&kind) {
            check(&*handler, kind, case).await;
        }
    }
    takes_a_list(&*handler, kind).await;
    takes_a_list_of_one(&*handler, kind).await;
    if TYPED.contains(&kind) {
        keeps_state(&*handler, kind).await;
    }
    handler.stop().await;
}

async fn takes_a_list(handler: &dyn Handler, kind: Kind) {
    let mut list = Call { batch: true, ..call("echo", "first") };
    for (subject, data) in [("reject", ""), ("echo", ""), ("echo", "last")] {
        list.events.rest.push(call(subject, data).events.first);
    }
    let mut reply = plain(handler.call(list).await).unwrap();
    // In the answer to a batch, an output that is no JSON is a CloudEvent.
    for verdict in &mut reply.verdicts {
        if let Verdict::Done(outputs) = verdict {
            outputs.iter_mut().for_each(|out| out.headers.retain(|name| !name.starts_with("ce-")));
        }
    }
    let echo = |data| done(&[data]).unwrap().verdicts.remove(0);
    // A program that says nothing has no output, rather than an empty one.
    let empty = if matches!(kind, Exec | Http) { Verdict::Done(Vec::new()) } else { echo("") };
    let never = Verdict::Reject { cause: Cause::Rejected, reason: "never".to_owned() };
    assert_eq!(reply.verdicts, [echo("first"), never, empty, echo("last")], "{kind:?}");
}

/// A batch may hold one event, and is handed over as a list all the same.
async fn takes_a_list_of_one(handler: &dyn Handler, kind: Kind) {
    let list = Call { batch: true, ..call("nothing", "alone") };
    let reply = plain(handler.call(list).await);
    let echoes = LISTS.contains(&kind);
    assert_eq!(reply, if echoes { done(&["alone"]) } else { done(&[]) }, "{kind:?}");
}

async fn keeps_state(handler: &dyn Handler, kind: Kind) {
    for (state, next) in [(Value::Null, 1), (json!({"count": 41}), 42)] {
        let call = Call { state: Some(State(state)), ..call("state", "") };
        let reply = handler.call(call).await.unwrap();
        assert_eq!(reply.state, Some(State(json!({"count": next}))), "{kind:?}");
    }
}

async fn check(handler: &dyn Handler, kind: Kind, case: Case) {
    let mut call = call(case.subject, case.data);
    call.events.first.headers = case.headers;
    call.timeout = case.timeout;
    let said = plain(handler.call(call).await);
    let verdict = || said.as_ref().map(|reply| reply.verdicts.first().unwrap());
    let fits = match case.expected {
        Expected::Reply(expected) => said == expected,
        Expected::Retry { about } => {
            matches!(verdict(), Ok(Verdict::Retry { reason, after: None }) if reason.contains(about))
        }
        Expected::Reject { about, cause: expected } => {
            matches!(verdict(), Ok(Verdict::Reject { cause, reason })
                if *cause == expected && reason.contains(about))
        }
        Expected::Crash { about } => matches!(&said, Err(Fault::Crash(why)) if why.contains(about)),
        Expected::BadReply => matches!(&said, Err(Fault::BadReply(_))),
        Expected::Unavailable => matches!(&said, Err(Fault::Unavailable(_))),
    };
    let mut shown = format!("{said:?}");
    shown.truncate(shown.floor_char_boundary(2000));
    assert!(fits, "{kind:?}, `{}`: {shown}", case.subject);
}

#[tokio::test]
async fn native_functions_conform() {
    conforms(Native).await;
}

#[tokio::test]
async fn exec_functions_conform() {
    conforms(Exec).await;
}

#[tokio::test]
async fn commands_conform() {
    conforms(Command).await;
}

#[tokio::test]
async fn python_functions_conform() {
    conforms(Python).await;
}

#[tokio::test]
async fn async_python_functions_conform() {
    conforms(Async).await;
}

#[tokio::test]
async fn node_functions_conform() {
    conforms(Node).await;
}

#[tokio::test]
async fn http_functions_conform() {
    conforms(Http).await;
}

#[cfg(feature = "wasm")]
#[tokio::test]
async fn components_conform() {
    conforms(Wasm).await;
}

#[tokio::test]
async fn lambda_functions_conform() {
    conforms(Lambda).await;
}
