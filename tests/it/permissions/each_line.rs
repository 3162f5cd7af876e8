//! With any one line less, somebody is refused what that line allows.

use async_nats::jetstream::{consumer::pull, stream};
use futures_util::{StreamExt as _, stream::iter};
use pelton::subject::covers;

use super::{Printed, account, command, pelton, refused, site, streams, url};
use crate::harness::{NatsServer, Runner, Site, Streams, eventually};

/// How many runners and commands are at work at the same time.
pub(super) const AT_ONCE: usize = 6;
async fn make(streams: &Streams, name: &str, subjects: &[&str]) {
    let mut config = stream::Config { name: name.to_owned(), ..Default::default() };
    config.subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    streams.js.create_stream(config).await.expect("a stream");
}

/// Stores an event of each kind.
pub(super) async fn feed(streams: &Streams) {
    for data in ["x", "retry", "reject"] {
        streams.send("in.plain.x", data).await;
    }
    for data in ["x", "reject"] {
        streams.send("in.kept", data).await;
    }
}

/// A verb whose user may do all but what one line says is refused something that this line allows.
pub(super) async fn is_refused(verb: &Runner, subject: &str, mut meanwhile: impl AsyncFnMut()) {
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
        make(&streams, "IN", &["in.>"]).await;
        feed(&streams).await;
        streams.send("in.plain.x", "defer").await;
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

pub(super) fn few(account: &str) -> String {
    format!("{account}-few")
}

/// An account for each line, with a user who lacks it.
pub(super) fn accounts(printed: &Printed) -> String {
    let mut config = "accounts {\n".to_owned();
    for (place, _) in printed.lines() {
        let name = format!("a{place}");
        config.push_str(&account(&name, &[(&few(&name), &printed.without(place))]));
    }
    config.push('}');
    config
}

/// A server with such accounts, and one that has `js_ack_fc_v2` as well.
pub(super) struct Servers {
    plain: NatsServer,
    newer: NatsServer,
}

impl Servers {
    pub(super) async fn start(printed: &Printed) -> Self {
        let config = accounts(printed);
        let plain = NatsServer::with_config(&config).await;
        let newer = format!("feature_flags {{ js_ack_fc_v2: true }}\n{config}");
        Self { plain, newer: NatsServer::with_config(&newer).await }
    }

    /// The one on which a subject is of use.
    pub(super) fn of(&self, subject: &str) -> &NatsServer {
        if subject.starts_with("$JS.ACK.*") { &self.newer } else { &self.plain }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_needs_every_line() {
    let site = site();
    let printed = Printed::of(&site, "pelton.yaml", &[]).await;
    let servers = Servers::start(&printed).await;
    iter(printed.lines())
        .for_each_concurrent(AT_ONCE, async |(place, subject)| {
            run_needs(servers.of(&subject), &site, &format!("a{place}"), &subject).await;
        })
        .await;
}

/// Streams that are nobody's, and the durables of the binding's old name.
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
    for (stream, name) in [("IN", "t-old"), ("T_DLQ", "t-old-redrive")] {
        let stream = streams.js.get_stream(stream).await.expect("it is there");
        let old = pull::Config {
            durable_name: Some(name.to_owned()),
            metadata: [("pelton.name".to_owned(), "t".to_owned())].into(),
            ..Default::default()
        };
        stream.create_consumer(old).await.expect("a consumer");
    }
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
