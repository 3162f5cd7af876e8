//! What a person types, and what they are told.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::harness::{Site, free_port};

fn pelton(site: &Site, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(arguments)
        .current_dir(site.path(""))
        .env_remove("NATS_URL")
        .output()
        .expect("pelton starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// A template as it is written and linted.
fn written(site: &Site, name: &str) {
    let (code, written, _) = pelton(site, &["new", name, "it"]);
    assert_eq!(code, 0, "{written}");
    assert!(written.contains("it/pelton.yaml") && written.contains("pelton dev"), "{written}");
    let (code, said, _) = pelton(site, &["lint", "it/pelton.yaml"]);
    assert_eq!((code, said.lines().last()), (0, Some("ok: greeter: 1 function, 1 binding")));

    let (code, _, told) = pelton(site, &["new", name, "it"]);
    assert_eq!(code, 2, "nothing is written over");
    assert!(told.contains("is there already"), "{told}");
}

/// A template as it is called.
fn called(site: &Site) {
    let call = |data| pelton(site, &["invoke", "greet", data, "-m", "it/pelton.yaml"]);
    let (code, said, log) = call(r#"{"name": "Ada"}"#);
    assert_eq!(code, 0, "{said}{log}");
    assert!(said.contains("greetings.said") && said.contains("Hello, Ada!"), "{said}");
    let (code, said, _) = call("{}");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("reject: ") && said.contains("nobody to greet"), "{said}");
}

#[test]
fn new_python() {
    let site = Site::new();
    written(&site, "python");
    called(&site);
}

#[test]
fn new_node() {
    let site = Site::new();
    written(&site, "node");
    called(&site);
}

#[test]
fn new_exec() {
    let site = Site::new();
    written(&site, "exec");
    called(&site);
}

#[test]
fn new_http() {
    let site = Site::new();
    written(&site, "http");
    let port = free_port();
    let service = Command::new("python3")
        .arg(site.path("it/service.py"))
        .env("PORT", port.to_string())
        .stderr(Stdio::null())
        .spawn()
        .expect("Python starts");
    let service = Stopped(service);
    let url = format!("http://127.0.0.1:{port}/");
    let manifest = std::fs::read_to_string(site.path("it/pelton.yaml")).expect("a manifest");
    site.file("it/pelton.yaml", manifest.replace("${GREETER_URL:-http://127.0.0.1:8080/}", &url));
    // Until it listens the function is unavailable, which charges nothing and is told as such.
    let ready = (0..200).any(|_| {
        let (_, said, _) = pelton(&site, &["invoke", "greet", "{}", "-m", "it/pelton.yaml"]);
        said.contains("reject: ")
    });
    assert!(ready, "the service never answered");
    called(&site);
    drop(service);
}

/// With the client that `make peers` installs.
#[test]
fn new_lambda() {
    let site = Site::new();
    written(&site, "lambda");
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/peers-python");
    assert!(python.exists(), "{} is missing: run `make peers` first", python.display());
    symlink(python, site.path("it/.venv")).expect("a link");
    called(&site);
}

/// Everything that a host can check; with a compiler for the target it is built and called too.
#[test]
fn new_rust() {
    let site = Site::new();
    written(&site, "rust");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    let cargo = |arguments: &[&str]| {
        let status = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(site.path("it"))
            .env("CARGO_TARGET_DIR", &target)
            .status();
        assert!(status.expect("cargo starts").success(), "cargo {arguments:?}");
    };
    cargo(&["check", "--quiet"]);
    if !has_target("wasm32-wasip2") {
        eprintln!(
            "not built: this toolchain has no wasm32-wasip2 (rustup target add wasm32-wasip2)"
        );
        return;
    }
    cargo(&["build", "--quiet", "--release", "--target", "wasm32-wasip2"]);
    symlink(target, site.path("it/target")).expect("a link");
    called(&site);
}

fn has_target(target: &str) -> bool {
    let asked =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    asked.is_ok_and(|said| Path::new(String::from_utf8_lossy(&said.stdout).trim()).exists())
}

/// A process that ends with its test.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().expect("it can be ended");
        self.0.wait().expect("it has ended");
    }
}

#[test]
fn failures_say_what_to_try_next() {
    let site = Site::new();
    let (code, _, told) = pelton(&site, &["run"]);
    assert_eq!(code, 2);
    assert!(told.contains("there is no pelton.yaml here"), "{told}");

    let (code, _, told) = pelton(&site, &["send", "a.*", "x"]);
    assert_eq!(code, 2);
    assert!(told.contains("wildcards"), "{told}");

    let (code, _, told) = pelton(&site, &["send", "a", "x", "-s", "nats://u:secret@127.0.0.1:1"]);
    assert_eq!(code, 3);
    assert!(told.contains("no nats-server answered") && told.contains("pelton dev"), "{told}");
    assert!(!told.contains("secret"), "{told}");

    let (code, _, told) = pelton(&site, &["lint", "nowhere.yaml"]);
    assert_eq!(code, 1, "{told}");
    assert_eq!(pelton(&site, &["fly"]).0, 2);
}

/// A list is a batch, and state goes in and comes out.
#[test]
fn invoke_calls_with_batches_and_with_state() {
    let site = Site::new();
    site.file(
        "pelton.yaml",
        "version: 1
name: t
functions: { batched: { run: batched.py }, counter: { run: counter.py } }
bindings:
  - { subject: in.b, function: batched, publish: out.b, batch: { max: 10 } }
  - { subject: in.c, function: counter, state: { bucket: counts, key: { json: /key } } }
",
    );
    site.file(
        "batched.py",
        "from pelton import Reject\ndef handle(events, context):\n    return [Reject('odd') if e.data['n'] % 2 else f\"{e.data['n']} of {len(events)}\" for e in events]\n",
    );
    site.file(
        "counter.py",
        "def handle(event, context):\n    if event.data.get('skip') is None:\n        context.state = {'n': (context.state or {'n': 0})['n'] + 1}\n",
    );
    site.file("events.json", r#"[{"n": 0}, {"n": 1}, {"n":  2}]"#);
    let (code, said, told) = pelton(&site, &["invoke", "batched", "--file", "events.json"]);
    assert_eq!(code, 1, "{said}{told}");
    for part in ["INVOKE:1: done", "INVOKE:2: reject: odd", "2 of 3", "dlq.t.batched"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said, told) = pelton(&site, &["invoke", "batched", r#"{"n": 4}"#]);
    assert_eq!(code, 0, "{told}");
    assert!(said.starts_with("done") && said.contains("4 of 1"), "{said}");
    assert_eq!(pelton(&site, &["invoke", "batched", "[]"]).0, 2);

    let call = |more: &[&str]| pelton(&site, &[&["invoke", "counter"], more].concat());
    let (code, said, told) = call(&[r#"{"key": "a"}"#]);
    assert_eq!(code, 0, "{told}");
    assert!(said.contains(r#"state → {"n":1}"#), "{said}");
    let (_, said, _) = call(&[r#"{"key": "a"}"#, "--state", r#"{"n": 41}"#]);
    assert!(said.contains(r#"state → {"n":42}"#), "{said}");
    let (_, said, _) = call(&[r#"{"key": "a", "skip": 1}"#, "--state", "7"]);
    assert!(said.contains("state stays as it was"), "{said}");
    for (arguments, expected, about) in [
        (&[r#"{"n": 1}"#][..], 1, "no key"),
        (&[r#"{"key": "a"}"#, "--state", "{"][..], 2, "no JSON"),
    ] {
        let (code, _, told) = call(arguments);
        assert_eq!(code, expected, "{told}");
        assert!(told.contains(about), "{told}");
    }
    let (code, _, told) = pelton(&site, &["invoke", "batched", "{}", "--state", "1"]);
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("bindings with `state`"), "{told}");
}

#[test]
fn schema_and_completions_are_printed() {
    let site = Site::new();
    let (code, schema, _) = pelton(&site, &["schema"]);
    assert_eq!(code, 0);
    serde_json::from_str::<serde_json::Value>(&schema).expect("JSON");
    for shell in ["bash", "zsh", "fish"] {
        let (code, text, _) = pelton(&site, &["completions", shell]);
        assert_eq!(code, 0);
        assert!(text.contains("pelton"), "{shell}");
    }
}
