//! What a person types, and what they are told.

use std::process::{Command, Output};

use crate::harness::Site;

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

/// A template as it is written, linted and called.
fn template(name: &str) {
    let site = Site::new();
    let (code, written, _) = pelton(&site, &["new", name, "it"]);
    assert_eq!(code, 0, "{written}");
    assert!(written.contains("it/pelton.yaml") && written.contains("pelton dev"), "{written}");
    let (code, said, _) = pelton(&site, &["lint", "it/pelton.yaml"]);
    assert_eq!((code, said.trim()), (0, "ok: greeter: 1 function, 1 binding"));

    let call = |data| pelton(&site, &["invoke", "greet", data, "-m", "it/pelton.yaml"]);
    let (code, said, log) = call(r#"{"name": "Ada"}"#);
    assert_eq!(code, 0, "{said}{log}");
    assert!(said.contains("greetings.said") && said.contains("Hello, Ada!"), "{said}");
    let (code, said, _) = call("{}");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("reject: nobody to greet"), "{said}");

    let (code, _, told) = pelton(&site, &["new", name, "it"]);
    assert_eq!(code, 2, "nothing is written over");
    assert!(told.contains("is there already"), "{told}");
}

#[test]
fn new_python() {
    template("python");
}

#[test]
fn new_node() {
    template("node");
}

#[test]
fn new_exec() {
    template("exec");
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
