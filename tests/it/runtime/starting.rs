//! Functions that cannot start: nobody is charged, and once mended they work.

use std::{path::PathBuf, time::Duration};

use pelton::{
    handler::{Fault, Handler, Reply},
    manifest::{Function, Runtime},
};

use super::{call, done, folder, function, handler, plain};

pub(crate) fn unavailable(said: Result<Reply, Fault>, about: &str) {
    match said {
        Err(Fault::Unavailable(reason)) if reason.contains(about) => {}
        other => panic!("expected unavailable, {about}: {other:?}"),
    }
}

fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test]
async fn what_cannot_start_is_unavailable() {
    let sh = |script| Runtime::Command(command(&["sh", "-c", script]));
    for (runtime, about) in [
        (Runtime::Python(PathBuf::from("/nowhere/x.py")), "/nowhere/x.py"),
        (Runtime::Node(PathBuf::from("/nowhere/x.mjs")), "/nowhere/x.mjs"),
        (Runtime::Command(command(&["no-such-program"])), "no-such-program: not found"),
        (Runtime::Exec(command(&["no-such-program"])), "no-such-program: not found"),
        (Runtime::Command(command(&["/etc/passwd"])), "/etc/passwd: permission denied"),
        (Runtime::Exec(command(&["/etc/passwd"])), "/etc/passwd: permission denied"),
        (sh("echo sorry >&2; exit 127"), "exit 127 before it was ready: sorry"),
        (sh("exec <&-; sleep 3600"), "closed its socket before it was ready"),
        (sh("kill -9 $$"), "killed by SIGKILL before it was ready"),
        (sh("printf 'HTTP/1.1 400 Bad Request' >&0; sleep 3600"), "a frame of"),
    ] {
        let is_worker = !matches!(runtime, Runtime::Exec(_));
        let handler = handler(&function(runtime), 2);
        unavailable(handler.call(call("any", "")).await, about);
        if is_worker {
            unavailable(
                handler.start().await.map(|()| Reply { verdicts: vec![], state: None }),
                about,
            );
        }
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let gone =
        Function { cwd: PathBuf::from("/nowhere"), ..function(Runtime::Exec(command(&["true"]))) };
    unavailable(handler(&gone, 1).call(call("any", "")).await, "/nowhere: not found");
}

#[tokio::test]
async fn a_worker_that_never_gets_ready_is_unavailable() {
    let start_timeout = Duration::from_millis(200);
    let slow = function(Runtime::Command(command(&["sleep", "3600"])));
    let handler = handler(&Function { start_timeout, ..slow }, 1);
    unavailable(handler.call(call("any", "")).await, "not ready within 200ms");
}

/// The first call after the file was mended may still be told of the last failure.
async fn mended(handler: &dyn Handler) {
    loop {
        match plain(handler.call(call("any", "")).await) {
            Err(Fault::Unavailable(_)) => tokio::task::yield_now().await,
            other => return assert_eq!(other, done(&["mended"])),
        }
    }
}

#[tokio::test]
async fn a_mended_file_works_without_a_new_handler() {
    let python = "def handle(event, context):\n    return 'mended'";
    let node = "export const handle = () => 'mended';";
    for (name, wrong, right) in
        [("x.py", "def handle(", python), ("x.mjs", "export function handle(", node)]
    {
        let file = folder().join(name);
        let runtime = match name {
            "x.py" => Runtime::Python(file.clone()),
            _ => Runtime::Node(file.clone()),
        };
        let handler = handler(&function(runtime), 4);
        unavailable(handler.call(call("any", "")).await, name);
        std::fs::write(&file, wrong).unwrap();
        loop {
            match handler.call(call("any", "")).await {
                Err(Fault::Unavailable(reason)) if reason.contains("SyntaxError") => break,
                Err(Fault::Unavailable(_)) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
        std::fs::write(&file, right).unwrap();
        mended(&*handler).await;
    }
}

#[tokio::test]
async fn the_environment_is_clean() {
    let script = "env | grep -v '^PWD=\\|^SHLVL=\\|^_=\\|^PATH=\\|^HOME=\\|^LANG=\\|^PELTON_EVENT_\\|^CE_'; true";
    let mut function = function(Runtime::Exec(command(&["sh", "-c", script])));
    function.env.insert("GREETING".to_owned(), "grüße".to_owned());
    let said = handler(&function, 1).call(call("any", "")).await;
    assert_eq!(said, done(&["GREETING=grüße\n"]));
}

#[tokio::test]
async fn a_program_that_does_not_read_is_fine() {
    let function = function(Runtime::Exec(command(&["echo", "no matter"])));
    let said = handler(&function, 1).call(call("any", vec![0; 1 << 20])).await;
    assert_eq!(said, done(&["no matter\n"]));
}

#[tokio::test]
async fn what_is_stopped_takes_no_more_calls() {
    let python = folder().join("x.py");
    std::fs::write(&python, "def handle(event, context):\n    return 'mended'").unwrap();
    let handler = handler(&function(Runtime::Python(python)), 2);
    mended(&*handler).await;
    handler.stop().await;
    unavailable(handler.call(call("any", "")).await, "stopped");
}
