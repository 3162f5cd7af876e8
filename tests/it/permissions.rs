//! `pelton permissions` prints what suffices, and nothing that could be left out.

use std::fmt::Write as _;

use async_nats::ConnectOptions;

use crate::harness::{NatsServer, Runner, Site, Streams, outcome, verb};

mod each_line;
mod replaying;
mod suffice;

/// Every kind of thing that a manifest can ask of NATS, but buckets granted to a component.
const BODY: &str = r#"
functions: { f: { run: f.py } }
bindings:
  - { name: plain, subject: in.plain.*, function: f, publish: [out.plain, "more.*"], renamed_from: old, retry: { backoff: 10ms..10ms } }
  - { name: kept, subject: [in.kept, in.more], function: f, publish: out.kept, state: { bucket: sums, key: { token: 2 } } }
"#;

const FUNCTION: &str = r#"
from pelton import Event, Reject, Retry

def handle(event, context):
    if event.raw == b"reject":
        raise Reject("no")
    if event.raw == b"retry" and event.attempt == 1:
        raise ValueError("not yet")
    if event.raw == b"defer":
        raise Retry("not for long", after=3600)
    if event.subject.startswith("in.plain"):
        return [Event("out.plain", "x"), Event("more.x", "x")]
    context.state = 1
    return "x"
"#;

/// Permissions as they are printed, one line for each subject.
#[derive(Clone)]
struct Printed(Vec<String>);

impl Printed {
    async fn of(site: &Site, manifest: &str, arguments: &[&str]) -> Self {
        let all = [&["permissions", manifest], arguments].concat();
        let (code, text, errors) = pelton(site, &all, &[]).await;
        assert_eq!(code, 0, "{errors}");
        Self(text.lines().map(str::to_owned).collect())
    }

    /// The places of the lines that allow a subject, and the subjects.
    fn lines(&self) -> Vec<(usize, String)> {
        let subject = |(place, line): (usize, &String)| {
            let subject = line.trim_start().strip_prefix('"')?.split('"').next()?;
            Some((place, subject.to_owned()))
        };
        self.0.iter().enumerate().filter_map(subject).collect()
    }

    fn without(&self, place: usize) -> Self {
        let mut lines = self.0.clone();
        // A list without entries would allow everything.
        lines[place] = "\"nothing\"".to_owned();
        Self(lines)
    }

    fn text(&self) -> String {
        self.0.join("\n")
    }
}

/// An account in the configuration of a server: somebody who may do all, and others.
fn account(name: &str, users: &[(&str, &Printed)]) -> String {
    let mut text =
        format!("{name} {{ jetstream: enabled, users: [ {{ user: {name}, password: all }}\n");
    for (user, permissions) in users {
        let permissions = permissions.text();
        writeln!(text, "{{ user: {user}, password: few, {permissions} }}").expect("a line");
    }
    text.push_str("] }\n");
    text
}

fn url(server: &NatsServer, user: &str, password: &str) -> String {
    format!("nats://{user}:{password}@127.0.0.1:{}", server.port())
}

async fn streams(server: &NatsServer, account: &str) -> Streams {
    let options = ConnectOptions::with_user_and_password(account.to_owned(), "all".to_owned());
    Streams::connect_with(&server.url(), options).await
}

async fn pelton(site: &Site, arguments: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut verb = verb(site, "nats://127.0.0.1:1", arguments);
    verb.env("PELTON_LOG_FORMAT", "json").envs(env.iter().copied());
    outcome(verb).await
}

/// The subjects that the server refused, as a log tells.
fn refused(log: &str) -> Vec<String> {
    let denied = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["denied"].as_str()?.split(' ').next_back()?.to_owned())
    };
    log.lines().filter_map(denied).collect()
}

fn site() -> Site {
    let site = Site::new();
    site.file(
        "pelton.yaml",
        format!(
            "version: 1\nname: t\nnats: {{ servers: [\"${{NATS_URL}}\"] }}\nstreams:\n  IN: {{ subjects: [in.>] }}\n  OUT: {{ subjects: [out.>, more.>] }}\n{BODY}"
        ),
    );
    site.file("f.py", FUNCTION);
    site
}

/// A verb that is watched while it works.
fn command(site: &Site, words: &[&str], url: &str) -> Runner {
    Runner::command(site, words, &[("NATS_URL", url), ("PELTON_LOG_FORMAT", "json")])
}

#[tokio::test(flavor = "multi_thread")]
async fn domain_inbox_and_purpose_are_heeded() {
    let site = site();
    let manifest = std::fs::read_to_string(site.path("pelton.yaml")).expect("a manifest");
    let there = "nats: { domain: hub, inbox_prefix: _MINE, servers:";
    site.file("hub.yaml", manifest.replace("nats: { servers:", there));
    let printed = Printed::of(&site, "hub.yaml", &["--no-provision"]).await;
    let subjects: Vec<String> = printed.lines().into_iter().map(|(_, subject)| subject).collect();
    for subject in ["$JS.hub.API.STREAM.NAMES", "$JS.hub.API.$KV.sums.>", "$KV.T_ATTEMPTS.>"] {
        assert!(subjects.iter().any(|known| known == subject), "{subject}: {subjects:?}");
    }
    assert_eq!(subjects.last().map(String::as_str), Some("_MINE.>"));

    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let (code, text, _) =
        pelton(&site, &["permissions", "hub.yaml", "--no-provision", "-o", "json"], &[]).await;
    let said = json(&text);
    assert_eq!(code, 0);
    let allowed = said["publish"]["allow"].as_array().expect("a list");
    assert_eq!(allowed.len() + 1, subjects.len());
    assert_eq!(said["subscribe"], serde_json::json!({ "allow": ["_MINE.>"] }));

    site.file("far.yaml", manifest.replace("subject: in.plain.*", "subject: far.away"));
    let (code, _, errors) = pelton(&site, &["permissions", "far.yaml"], &[]).await;
    assert_eq!(code, 1);
    assert!(errors.contains("`plain`") && errors.contains("`stream:`"), "{errors}");
}
