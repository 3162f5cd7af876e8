//! What a component can and cannot do to the runner, to its neighbours and to the machine.

mod cache;
mod events;
mod grants;
mod http;
mod keyvalue;
mod places;

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use futures_util::future::join_all;
use pelton::{
    event::Verdict,
    handler::{Call, Fault, Reply},
    manifest::{Allow, Component, Function, Instances, Runtime},
};

use super::{
    LONG, SHORT, call,
    components::{component, conform, write},
    done, folder, function, handler, plain,
};

fn wasm(file: PathBuf) -> Function {
    let component = Component { file, allow: Allow::default(), instances: Instances::default() };
    function(Runtime::Wasm(component))
}

fn crash(said: Result<Reply, Fault>) -> String {
    match said {
        Err(Fault::Crash(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn unavailable(bytes: &[u8]) -> String {
    let handler = handler(&wasm(write(bytes)), 1);
    let said = handler.call(call("nothing", "")).await;
    assert_eq!(handler.start().await, Err(said.clone().unwrap_err()));
    match said {
        Err(Fault::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// The core of a component that asks one host function something and says what came back.
fn asking(import: &str, ask: &str) -> String {
    format!(
        r#"(module
          {import}
          (memory (export "memory") 2)
          (global $free (mut i32) (i32.const 4096))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
          (func $say (param $data i32) (param $len i32)
            (i32.store (i32.const 84) (local.get $data))
            (i32.store (i32.const 88) (local.get $len))
            (i32.store (i32.const 32) (i32.const 64))
            (i32.store (i32.const 36) (i32.const 1)))
          (func $ask (param $event i32) {ask})
          (func (export "pelton:event/handler@0.1.0#handle")
            (param i32 i32 i32 i32 i32 i64) (result i32)
            (i32.store (i32.const 0) (i32.const 24))
            (i32.store (i32.const 4) (i32.const 1))
            (call $ask (local.get 0))
            (i32.const 0)))"#
    )
}

/// Kilobytes of this process in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_loop_for_ever_ends_at_its_timeout_and_holds_nobody_up() {
    let handler = handler(&wasm(conform()), 16);
    handler.start().await.unwrap();
    let stuck = async {
        let said = handler.call(Call { timeout: SHORT * 5, ..call("spin", "") }).await;
        (said, tokio::time::Instant::now())
    };
    let others = async {
        let calls = (0..20).map(|n: u32| handler.call(call("echo", n.to_string())));
        let said = join_all(calls).await;
        (said, tokio::time::Instant::now())
    };
    let ((stuck, late), (others, early)) = tokio::join!(stuck, others);
    assert_eq!(stuck, Err(Fault::Timeout(SHORT * 5)));
    for (n, said) in others.into_iter().enumerate() {
        assert_eq!(plain(said), done(&[&n.to_string()]));
    }
    assert!(early < late, "they waited for it");
}

#[tokio::test]
async fn a_memory_hog_crashes_alone() {
    let function = Function { memory_limit: Some(16 << 20), ..wasm(conform()) };
    let handler = handler(&function, 16);
    handler.start().await.unwrap();
    let before = resident();
    for _ in 0..20 {
        let (hog, echo) =
            tokio::join!(handler.call(call("hog", "")), handler.call(call("echo", "a")));
        let why = crash(hog);
        assert!(why.contains("memory_limit") && why.contains("16MiB"), "{why}");
        assert!(why.contains("at hog"), "{why}");
        assert_eq!(plain(echo), done(&["a"]));
    }
    assert!(resident() < before + 128 * 1024, "{before} KB before, {} KB after", resident());
}

#[tokio::test]
async fn a_recursion_and_a_trap_crash_with_the_guests_backtrace() {
    let handler = handler(&wasm(conform()), 4);
    let why = crash(handler.call(call("recurse", "")).await);
    assert!(why.contains("stack exhausted") && why.contains("at recurse"), "{why}");
    let why = crash(handler.call(call("trap", "")).await);
    assert!(why.contains("unreachable") && why.contains("at one"), "{why}");
    assert_eq!(plain(handler.call(call("echo", "a")).await), done(&["a"]));
}

#[tokio::test]
async fn a_huge_answer_is_a_bad_reply_and_costs_no_memory() {
    let handler = handler(&wasm(conform()), 4);
    let before = resident();
    let said = handler.call(call("huge", "")).await;
    assert!(matches!(said, Err(Fault::BadReply(_))), "{said:?}");
    assert!(resident() < before + 256 * 1024, "{before} KB before, {} KB after", resident());
}

#[tokio::test]
async fn chatter_is_cut_and_state_must_be_json() {
    let handler = handler(&wasm(conform()), 4);
    assert_eq!(handler.call(call("chatter", "")).await, done(&[]));
    let said = handler.call(call("bad state", "")).await;
    assert!(matches!(&said, Err(Fault::BadReply(why)) if why.contains("JSON")), "{said:?}");
}

fn calls(n: u32) -> Result<Reply, Fault> {
    done(&[&n.to_string()])
}

#[tokio::test]
async fn each_call_has_an_instance_of_its_own_unless_told_otherwise() {
    let file = conform();
    let fresh = handler(&wasm(file.clone()), 4);
    for _ in 0..3 {
        assert_eq!(plain(fresh.call(call("calls", "")).await), calls(1));
    }
    let instances = Instances::Reuse { max_events: NonZeroU64::new(3).unwrap(), max_age: LONG };
    let component = Component { file, allow: Allow::default(), instances };
    let reused = handler(&function(Runtime::Wasm(component)), 4);
    reused.start().await.unwrap();
    for n in [1, 2, 3, 1, 2] {
        assert_eq!(plain(reused.call(call("calls", "")).await), calls(n));
    }
    crash(reused.call(call("trap", "")).await);
    assert_eq!(plain(reused.call(call("calls", "")).await), calls(1), "none lives on after a trap");
    reused.stop().await;
}

#[tokio::test]
async fn what_is_not_granted_is_named() {
    let package = r#"
        package test:it;
        world greedy {
            import wasi:http/outgoing-handler@0.2.0;
            import acme:bank/vault;
            import wasi:clocks/wall-clock@0.3.0;
            export pelton:event/handler@0.1.0;
        }
        package wasi:http@0.2.0 { interface outgoing-handler { handle: func(); } }
        package wasi:clocks@0.3.0 { interface wall-clock { now: func(); } }
        package acme:bank { interface vault { open: func(); } }
    "#;
    let import = r#"
        (import "wasi:http/outgoing-handler@0.2.0" "handle" (func $send))
        (import "acme:bank/vault" "open" (func $open))
        (import "wasi:clocks/wall-clock@0.3.0" "now" (func $now))
    "#;
    let bytes =
        component(&asking(import, "(call $send) (call $open) (call $now)"), "greedy", package);
    let why = unavailable(&bytes).await;
    let names =
        ["wasi:http/outgoing-handler@0.2.0", "acme:bank/vault", "wasi:clocks/wall-clock@0.3.0"];
    for name in names {
        assert!(why.contains(&format!("imports `{name}`, which is not granted")), "{why}");
    }
    let folder = folder();
    fs::write(folder.join("greedy.wasm"), &bytes).unwrap();
    fs::write(folder.join("pelton.yaml"), MANIFEST.replace("f.wasm", "greedy.wasm")).unwrap();
    let said = pelton(&folder, &["lint"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(1), "{text}");
    for name in names {
        let line = format!(
            "pelton.yaml:4:22: error: the function f cannot run: it imports `{name}`, which is not granted"
        );
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_function_is_unavailable_and_says_why() {
    let why = unavailable(b"not wasm").await;
    assert!(why.contains("no WebAssembly"), "{why}");
    let why = unavailable(&wat::parse_str("(module)").unwrap()).await;
    assert!(why.contains("core module"), "{why}");
    let why = unavailable(&wat::parse_str("(component)").unwrap()).await;
    assert!(why.contains("does not export `pelton:event/handler@0.1.0`"), "{why}");
    let package = "package test:it; world plain { export pelton:event/handler@0.1.0; }";
    let start = "(start $go) (func $go unreachable)";
    let why = unavailable(&component(&asking(start, ""), "plain", package)).await;
    assert!(why.contains("does not start") && why.contains("unreachable"), "{why}");
    let handler = handler(&wasm(folder().join("gone.wasm")), 1);
    assert!(matches!(handler.start().await, Err(Fault::Unavailable(_))));
}

#[tokio::test]
async fn more_memory_at_the_start_than_the_limit_is_unavailable() {
    let function = Function { memory_limit: Some(32 << 10), ..wasm(conform()) };
    match handler(&function, 1).start().await {
        Err(Fault::Unavailable(why)) => assert!(why.contains("memory_limit"), "{why}"),
        other => panic!("{other:?}"),
    }
}

const MANIFEST: &str = "version: 1
name: a
functions:
  f: { env: {}, run: f.wasm, allow: { env: [GREETING] } }
bindings:
  - { subject: config, function: f, publish: out }
";

/// Runs the program in a folder that is its home, too.
fn pelton(folder: &Path, arguments: &[&str]) -> Output {
    pelton_with(folder, arguments, &[])
}

fn pelton_with(folder: &Path, arguments: &[&str], env: &[(&str, &Path)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("GREETING", "good day")
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test]
async fn a_dropped_call_stops_its_work() {
    let handler = handler(&wasm(conform()), 4);
    handler.start().await.unwrap();
    let spinning = handler.call(call("spin", ""));
    assert!(tokio::time::timeout(Duration::from_millis(50), spinning).await.is_err());
    let said = plain(handler.call(call("echo", "a")).await).unwrap();
    assert!(matches!(said.verdicts[0], Verdict::Done(_)));
}
