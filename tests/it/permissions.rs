//! `pelton permissions` prints what suffices, and nothing that could be left out.

use std::{fmt::Write as _, path::Path};

use async_nats::{
    ConnectOptions,
    jetstream::{consumer::pull, stream},
};
use futures_util::{StreamExt as _, stream::iter};
use pelton::subject::covers;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, outcome, verb};

/// How many runners and commands are at work at the same time.
const AT_ONCE: usize = 6;

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

async fn make(streams: &Streams, name: &str, subjects: &[&str]) {
    let mut config = stream::Config { name: name.to_owned(), ..Default::default() };
    config.subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    streams.js.create_stream(config).await.expect("a stream");
}

/// A verb that is watched while it works.
fn command(site: &Site, words: &[&str], url: &str) -> Runner {
    Runner::command(site, words, &[("NATS_URL", url), ("PELTON_LOG_FORMAT", "json")])
}

/// Makes the stream that is read and stores an event of each kind.
async fn feed(streams: &Streams) {
    make(streams, "IN", &["in.>"]).await;
    for data in ["x", "retry", "reject", "defer"] {
        streams.send("in.plain.x", data).await;
    }
    for data in ["x", "reject"] {
        streams.send("in.kept", data).await;
    }
}

/// A verb whose user may do all but what one line says is refused something that this line allows.
async fn is_refused(verb: &Runner, subject: &str, mut meanwhile: impl AsyncFnMut()) {
    eventually(&format!("somebody is refused what `{subject}` allows"), async || {
        meanwhile().await;
        let refused = refused(&verb.log());
        refused.iter().any(|refused| covers(subject, refused)).then_some(())
    })
    .await;
}

/// With one line less, `pelton run` is refused something that this line allows.
async fn run_needs(server: &NatsServer, site: &Site, account: &str, subject: &str) {
    let streams = streams(server, account).await;
    if !subject.contains("STREAM.CREATE") {
        feed(&streams).await;
    }
    let mut runner = Runner::spawn(site, &url(server, &few(account), "few"), &[]);
    if subject == "$JS.API.INFO" {
        runner.wait_ready().await;
        assert_eq!(runner.sigterm().await.code(), Some(0));
    }
    let mut sent_again = false;
    is_refused(&runner, subject, async || {
        if !sent_again && streams.count("T_DLQ").await >= 2 {
            streams.send("redrive.t.plain", "x").await;
            streams.send("redrive.t.kept", "x").await;
            sent_again = true;
        }
    })
    .await;
}

fn few(account: &str) -> String {
    format!("{account}-few")
}

/// An account for each line, with a user who lacks it.
fn accounts(printed: &Printed) -> String {
    let mut config = "accounts {\n".to_owned();
    for (place, _) in printed.lines() {
        let name = format!("a{place}");
        config.push_str(&account(&name, &[(&few(&name), &printed.without(place))]));
    }
    config.push('}');
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_needs_every_line() {
    let site = site();
    let printed = Printed::of(&site, "pelton.yaml", &[]).await;
    let config = accounts(&printed);
    let server = NatsServer::with_config(&config).await;
    let newer = format!("feature_flags {{ js_ack_fc_v2: true }}\n{config}");
    let newer = NatsServer::with_config(&newer).await;
    iter(printed.lines())
        .for_each_concurrent(AT_ONCE, async |(place, subject)| {
            let server = if subject.starts_with("$JS.ACK.*") { &newer } else { &server };
            run_needs(server, &site, &format!("a{place}"), &subject).await;
        })
        .await;
}

/// Streams that are nobody's, and a durable of the binding's old name.
async fn found_there(streams: &Streams) {
    for (name, subject) in [
        ("IN", "in.>"),
        ("T_DLQ", "dlq.t.>"),
        ("KV_T_ATTEMPTS", "$KV.T_ATTEMPTS.>"),
        ("KV_T_OWNERS", "$KV.T_OWNERS.>"),
        ("KV_sums", "$KV.sums.>"),
    ] {
        make(streams, name, &[subject]).await;
    }
    make(streams, "OUT", &["out.>", "more.>"]).await;
    let stream = streams.js.get_stream("IN").await.expect("it is there");
    let old = pull::Config {
        durable_name: Some("t-old".to_owned()),
        metadata: [("pelton.name".to_owned(), "t".to_owned())].into(),
        ..Default::default()
    };
    stream.create_consumer(old).await.expect("a consumer");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_applies_needs_every_line() {
    let site = site();
    let printed = Printed::of(&site, "pelton.yaml", &["--for", "apply"]).await;
    let server = NatsServer::with_config(&accounts(&printed)).await;
    iter(printed.lines())
        .for_each_concurrent(AT_ONCE, async |(place, subject)| {
            let account = format!("a{place}");
            if !subject.contains("STREAM.CREATE") {
                found_there(&streams(&server, &account).await).await;
            }
            let url = url(&server, &few(&account), "few");
            let apply = command(&site, &["apply", "--adopt", "--yes"], &url);
            is_refused(&apply, &subject, async || {}).await;
        })
        .await;
}

async fn is_paused(streams: &Streams) -> bool {
    streams.consumer("t-plain").await.is_some_and(|consumer| consumer.paused)
}

/// What a verb is called with so that it needs a line.
async fn words(verb: &str, subject: &str, streams: &Streams, admin: &str) -> Vec<String> {
    let words = match verb {
        "send" => vec!["send".to_owned(), subject.replace('*', "x"), "x".to_owned()],
        "dlq" => {
            let plain = streams.send("dlq.t.plain", "x").await;
            let kept = streams.send("dlq.t.kept", "x").await;
            vec!["dlq".to_owned(), "redrive".to_owned(), plain.to_string(), kept.to_string()]
        }
        "pause" => {
            let binding = if subject.contains("kept") { "kept" } else { "plain" };
            vec!["pause".to_owned(), binding.to_owned()]
        }
        "list" => {
            streams.send("dlq.t.plain", "x").await;
            if subject.contains("ATTEMPTS") {
                let site = site();
                let _pause = command(&site, &["pause", "plain"], admin);
                eventually("it is paused", async || is_paused(streams).await.then_some(())).await;
            }
            vec!["list".to_owned()]
        }
        verb => vec![verb.to_owned()],
    };
    match (verb, subject) {
        ("send", "$JS.API.INFO" | "_INBOX.>") => vec!["send".into(), "in.kept".into(), "x".into()],
        _ => words,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_after_it_needs_every_line() {
    const VERBS: [&str; 5] = ["plan", "list", "dlq", "pause", "send"];
    let site = site();
    let mut needs = Vec::new();
    for verb in VERBS {
        let printed = Printed::of(&site, "pelton.yaml", &["--for", verb]).await;
        let each = printed.lines().into_iter();
        needs.extend(each.map(|(place, subject)| {
            (verb, subject, format!("{verb}{place}"), printed.without(place))
        }));
    }
    let users: Vec<(&str, &Printed)> =
        needs.iter().map(|(_, _, user, few)| (user.as_str(), few)).collect();
    let config = format!("accounts {{\n{}}}", account("all", &users));
    let server = NatsServer::with_config(&config).await;
    let streams = streams(&server, "all").await;
    let admin = url(&server, "all", "all");
    let (code, said, errors) = pelton(&site, &["apply", "--yes"], &[("NATS_URL", &admin)]).await;
    assert_eq!(code, 0, "{said}{errors}");
    iter(&needs)
        .for_each_concurrent(AT_ONCE, async |(verb, subject, user, _)| {
            if *verb == "dlq" && subject == "$JS.API.STREAM.NAMES" {
                // Only who has nowhere to send an event asks why.
                return;
            }
            let words = words(verb, subject, &streams, &admin).await;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let command = command(&site, &words, &url(&server, user, "few"));
            is_refused(&command, subject, async || {}).await;
        })
        .await;
    // Letters, but no subject under which they are sent again.
    let mut config = stream::Config { name: "T_DLQ".into(), ..Default::default() };
    config.subjects = vec!["dlq.t.>".to_owned()];
    config.allow_message_schedules = true;
    streams.js.update_stream(config).await.expect("it is changed");
    let words = words("dlq", "", &streams, &admin).await;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (_, subject, user, _) = needs
        .iter()
        .find(|(verb, subject, _, _)| *verb == "dlq" && subject.ends_with("NAMES"))
        .expect("it is printed");
    let command = command(&site, &words, &url(&server, user, "few"));
    is_refused(&command, subject, async || {}).await;
}

/// Partitions have a stream and consumers of their own.
#[tokio::test(flavor = "multi_thread")]
async fn they_suffice_for_partitions() {
    let site = Site::new();
    let manifest = "version: 1\nname: t\nnats: { servers: [\"${NATS_URL}\"] }\nstreams:\n  IN: { subjects: [in.>] }\n  OUT: { subjects: [out.>] }\nfunctions: { f: { run: f.py } }\nbindings:\n  - { subject: in.>, function: f, publish: out.f, order_by: { token: 2 }, partitions: 2 }\n";
    site.file("pelton.yaml", manifest);
    site.file("f.py", "from pelton import Reject\n\ndef handle(event, context):\n    if event.raw == b'reject':\n        raise Reject('no')\n    return event.raw\n");
    let printed = Printed::of(&site, "pelton.yaml", &[]).await;
    let config = format!("accounts {{\n{}}}", account("all", &[("few", &printed)]));
    let server = NatsServer::with_config(&config).await;
    let mut runner = Runner::spawn(&site, &url(&server, "few", "few"), &[]);
    runner.wait_ready().await;
    let streams = streams(&server, "all").await;
    for key in 0..8 {
        streams.send(&format!("in.{key}"), "x").await;
    }
    streams.send("in.0", "reject").await;
    streams.wait_letters(1).await;
    streams.send("redrive.t.f", "x").await;
    streams.wait_count("OUT", 8).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    assert_eq!(refused(&runner.log()), Vec::<String>::new());
}

/// Everything that the shop has to do is done by users who may do nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn they_suffice_for_the_shop() {
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    assert!(functions.join("invoice/invoice.wasm").exists(), "run `make shop` first");
    let manifest = functions.join("pelton.yaml").display().to_string();
    let site = Site::new();
    let shop_dir = site.path("shop").display().to_string();
    let mut users = Vec::new();
    for (user, arguments) in [
        ("run", &["--no-provision"][..]),
        ("apply", &["--for", "apply"]),
        ("plan", &["--for", "plan"]),
        ("send", &["--for", "send"]),
        ("carer", &["--for", "list,dlq,pause"]),
    ] {
        users.push((user, Printed::of(&site, &manifest, arguments).await));
    }
    let alone = Printed::of(&site, &manifest, &[]).await;
    let shop: Vec<(&str, &Printed)> = users.iter().map(|(user, few)| (*user, few)).collect();
    let shop = account("shop", &shop);
    let alone = account("kiosk", &[("alone", &alone)]);
    let server = NatsServer::with_config(&format!("accounts {{\n{shop}{alone}}}")).await;
    let may = async |user: &str, words: &[&str]| {
        let url = url(&server, user, "few");
        let (code, said, errors) = pelton(&site, words, &[("NATS_URL", &url)]).await;
        assert_eq!((code, refused(&errors)), (0, Vec::new()), "{words:?} {said}{errors}");
        said
    };
    may("apply", &["apply", &manifest, "--yes"]).await;
    assert!(may("plan", &["plan", &manifest]).await.contains("nothing to do"));
    for (account, user, more) in [("shop", "run", Some("--no-provision")), ("kiosk", "alone", None)]
    {
        let streams = streams(&server, account).await;
        let url = url(&server, user, "few");
        let env = [("NATS_URL", url.as_str()), ("SHOP_DIR", &shop_dir)];
        let words: Vec<&str> = ["run", &manifest].into_iter().chain(more).collect();
        let mut runner = Runner::command(&site, &words, &env);
        runner.wait_ready().await;
        for (id, card) in [("1", "good"), ("2", "flaky"), ("3", "declined")] {
            let order = serde_json::json!({
                "orderId": format!("{account}-{id}"), "customer": "Ada", "item": "wheel",
                "quantity": 1, "total": 890, "card": card,
            });
            let order = order.to_string();
            let words = ["send", "orders.placed", &order, "-H", "content-type: application/json"];
            match user {
                "run" => drop(may("send", &words).await),
                _ => drop(streams.send("orders.placed", order).await),
            }
        }
        // Two orders with five events each, and stock reserved for the declined one.
        streams.wait_count("SHOP", 11).await;
        streams.wait_count("SHOP_DLQ", 1).await;
        runner.metric("consumer_pending", &[], |pending| pending == 0.0).await;
        if user == "run" {
            may("carer", &["list", &manifest]).await;
            may("carer", &["dlq", "show", "1", "-f", &manifest]).await;
            may("carer", &["pause", "notify", &manifest]).await;
            may("carer", &["resume", "notify", &manifest]).await;
            may("carer", &["dlq", "redrive", "-f", &manifest]).await;
            // Declined once more.
            eventually("it is a letter again", async || {
                let stream = streams.js.get_stream("SHOP_DLQ").await.ok()?;
                let state = &stream.cached_info().state;
                (state.messages == 1 && state.last_sequence > 2).then_some(())
            })
            .await;
            may("carer", &["dlq", "purge", "-f", &manifest, "--yes"]).await;
        }
        assert_eq!(runner.sigterm().await.code(), Some(0));
        assert_eq!(refused(&runner.log()), Vec::<String>::new(), "{}", runner.log());
    }
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
