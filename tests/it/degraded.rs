//! A function that cannot start charges nothing and loses nothing: the binding is degraded until
//! somebody mends it.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    harness::{NatsServer, Runner, Site, free_port},
    runtime::http::Server,
};

const EVENTS: usize = 20;
const GOOD: &str = "def handle(event, context):\n    return f'{event.attempt}'\n";

/// Sends events to a function that cannot start, mends it, and expects every output at attempt 1
/// from the same runner.
async fn degraded_until(function: &str, broken: impl FnOnce(&Site), mend: impl FnOnce(&Site)) {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(&format!(
        "
functions: {{ f: {function} }}
bindings: [{{ subject: in.f, function: f, publish: out.f, retry: {{ attempts: 2 }} }}]
"
    ));
    broken(&site);
    let mut runner = Runner::start(&site, &server).await;
    streams.send_many(EVENTS, |n| ("in.f".to_owned(), n.to_string())).await;
    let labels = &[("binding", "f")];
    runner.metric("binding_up", labels, |up| up == 0.0).await;
    let unavailable = &[("binding", "f"), ("outcome", "unavailable")];
    // More often than `attempts` allows: it is no attempt.
    runner.metric("invocations_total", unavailable, |times| times >= 3.0).await;
    assert_eq!(runner.get("/readyz").await.map(|(status, _)| status), Some(200));
    mend(&site);
    streams.wait_count("OUT", EVENTS as u64).await;
    streams.wait_settled("t-f").await;
    assert_eq!(streams.texts("OUT").await, [const { "1" }; EVENTS], "attempts");
    assert_eq!(streams.count("T_DLQ").await, 0, "nothing was given up");
    runner.metric("binding_up", labels, |up| up == 1.0).await;
    assert_eq!(runner.scrape().await.get("losses_total", labels), 0.0);
    assert_eq!(runner.ended(), None, "the runner went on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syntax_error_in_python() {
    let broken = |site: &Site| site.file("f.py", "def handle(event, context:\n");
    degraded_until("{ run: f.py }", broken, |site| site.file("f.py", GOOD)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syntax_error_in_node() {
    let broken = |site: &Site| site.file("f.mjs", "export function handle(event {\n");
    let good = "export function handle(event) { return `${event.attempt}`; }\n";
    degraded_until("{ run: f.mjs }", broken, |site| site.file("f.mjs", good)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_import() {
    let broken = |site: &Site| site.file("f.py", format!("import lost\n{GOOD}"));
    let mend = |site: &Site| site.file("lost.py", "");
    degraded_until("{ run: f.py }", broken, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file() {
    degraded_until("{ run: f.py }", |_| (), |site| site.file("f.py", GOOD)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program() {
    degraded_until("{ exec: [./tool] }", |_| (), |site| tool(site, "#!/bin/sh")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_interpreter() {
    let broken = |site: &Site| tool(site, "#!/nowhere/sh");
    degraded_until("{ exec: [./tool] }", broken, |site| tool(site, "#!/bin/sh")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_worker_program() {
    let mend = |site: &Site| {
        site.file("good.py", GOOD);
        let worker = format!("#!/usr/bin/env python3\n{}", include_str!("worker.py"));
        site.file("tool", worker);
        executable(site);
    };
    degraded_until("{ command: [./tool, attempt] }", |_| (), mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_function_that_does_not_load() {
    let broken = |site: &Site| site.file("boot.py", include_str!("bootstrap.py"));
    let good = "def handle(event, context):\n    return int(context['custom']['pelton-attempt'])\n";
    let mend = |site: &Site| site.file("app.py", good);
    degraded_until("{ lambda: [python3, boot.py] }", broken, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_connections() {
    let port = free_port();
    let mut target = None;
    let function = format!("{{ http: \"http://127.0.0.1:{port}/\" }}");
    degraded_until(&function, |_| (), |_| target = Some(Server::python_on(port))).await;
}

fn tool(site: &Site, shebang: &str) {
    site.file("tool", format!("{shebang}\nprintf %s \"$PELTON_EVENT_ATTEMPT\"\n"));
    executable(site);
}

fn executable(site: &Site) {
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(site.path("tool"), mode).expect("the tool becomes executable");
}
