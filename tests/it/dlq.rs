//! Dead letters come back: they are looked at, sent again to the binding that gave them up, and
//! thrown away; bindings are paused.

use std::collections::BTreeMap;

use tokio::process::Command;

use crate::harness::{NatsServer, Runner, Site, Streams, eventually, outcome, verb};

/// Fails for the numbers that the file `poison` says, and notes what it saw.
const FUNCTION: &str = r#"
import json, os
from pelton import Reject

def handle(event, context):
    with open(os.environ["SITE"] + "/seen", "a") as seen:
        print(json.dumps([event.id, event.subject, event.attempt, sorted(event.headers)]), file=seen)
    n = event.data["n"]
    if os.path.exists(os.environ["SITE"] + "/poison") and n % 5 == 0:
        raise Reject(f"no {n}") if n % 2 else ValueError(f"not {n}")
    return {"n": n}
"#;

struct Bench {
    server: NatsServer,
    streams: Streams,
    site: Site,
    runner: Runner,
}

/// A runner whose binding `f`, with these further keys, has given up `n` of 5 · `n` events.
async fn bench(extra: &str, count: usize) -> Bench {
    let server = NatsServer::start().await;
    let streams = server.streams().await;
    let site = Site::with(&format!(
        r#"
functions:
  f: {{ run: f.py, env: {{ SITE: "${{SITE}}" }} }}
  other: {{ exec: [cat] }}
bindings:
  - {{ subject: in.>, function: f, publish: out.f, retry: {{ attempts: 2, backoff: 10ms..10ms }}{extra} }}
  - {{ subject: in.>, function: other, publish: out.other }}
"#
    ));
    site.file("f.py", FUNCTION);
    site.file("poison", "");
    let runner = Runner::start(&site, &server).await;
    streams
        .send_many(5 * count, |n| {
            (format!("in.{}", n % 3), format!(r#"{{"n": {n}, "key": "k{}"}}"#, n % 7))
        })
        .await;
    streams.wait_letters(count as u64).await;
    streams.wait_count("OUT", 9 * count as u64).await;
    Bench { server, streams, site, runner }
}

impl Bench {
    fn command(&self, arguments: &[&str]) -> Command {
        verb(&self.site, &self.server.url(), arguments)
    }

    async fn pelton(&self, arguments: &[&str]) -> (i32, String, String) {
        outcome(self.command(arguments)).await
    }

    async fn listed(&self, filter: &[&str]) -> Vec<serde_json::Value> {
        let (code, out, told) =
            self.pelton(&[&["dlq", "list", "-o", "json"], filter].concat()).await;
        assert_eq!(code, 0, "{told}");
        serde_json::from_str(&out).expect("JSON")
    }

    fn mend(&self) {
        std::fs::remove_file(self.site.path("poison")).expect("it was broken");
    }

    /// How often each number is among the outputs of `f`.
    async fn outputs(&self) -> BTreeMap<u64, usize> {
        let mut outputs = BTreeMap::new();
        for message in self.streams.read("OUT").await {
            if message.subject.as_str() == "out.f" {
                let value: serde_json::Value =
                    serde_json::from_slice(&message.payload).expect("JSON");
                *outputs.entry(value["n"].as_u64().expect("a number")).or_default() += 1;
            }
        }
        outputs
    }

    /// Waits until nothing is left in the dead-letter stream, neither letters nor what was sent again.
    async fn wait_empty(&self) {
        eventually("the dead-letter stream is empty", async || {
            (self.streams.count("T_DLQ").await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_and_purged_by_filter() {
    let mut bench = bench("", 4).await;
    assert_eq!(bench.listed(&[]).await.len(), 4);
    let rejected = bench.listed(&["--reason", "rejected"]).await;
    assert_eq!(rejected.len(), 2);
    assert_eq!(bench.listed(&["--error", "NO 5"]).await.len(), 1);
    assert_eq!(bench.listed(&["--subject", "in.2"]).await.len(), 1);
    assert_eq!(bench.listed(&["--binding", "other"]).await.len(), 0);
    assert_eq!(bench.listed(&["--since", "1h"]).await.len(), 4);
    assert_eq!(bench.listed(&["--until", "1h"]).await.len(), 0);

    let (code, table, _) = bench.pelton(&["dlq", "list"]).await;
    assert_eq!((code, table.lines().count()), (0, 5), "{table}");
    let five = rejected.iter().find(|letter| letter["error"] == "no 5").expect("the letter of 5");
    let number = five["sequence"].to_string();
    let (code, shown, _) = bench.pelton(&["dlq", "show", &number]).await;
    assert_eq!(code, 0);
    for part in ["rejected", "no 5", "in.2", "\"n\": 5", "OUTCOME"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // How the letter itself was stored is nothing of the event.
    let (_, whole, _) = bench.pelton(&["dlq", "show", &number, "-o", "json"]).await;
    for shown in [shown, whole] {
        assert!(!shown.to_lowercase().contains("nats-msg-id"), "{shown}");
    }
    let (_, raw, _) = bench.pelton(&["dlq", "show", &number, "--raw"]).await;
    assert_eq!(raw, r#"{"n": 5, "key": "k5"}"#);

    for (arguments, code, about) in [
        (&["dlq", "show", "4711"][..], 1, "no dead letter 4711"),
        (&["dlq", "list", "--binding", "g"][..], 2, "there is no binding `g`"),
        (&["dlq", "list", "--since", "yesterday"][..], 2, "an age like 2h"),
        (&["dlq", "purge"][..], 2, "--yes"),
    ] {
        let (ended, _, told) = bench.pelton(arguments).await;
        assert_eq!(ended, code, "{told}");
        assert!(told.contains(about), "{told}");
    }
    let (_, said, _) = bench.pelton(&["dlq", "purge", "--dry-run"]).await;
    assert!(said.contains("4 dead letters would"), "{said}");
    assert_eq!(bench.listed(&[]).await.len(), 4);
    let (code, _, _) = bench.pelton(&["dlq", "purge", "--reason", "rejected", "--yes"]).await;
    assert_eq!((code, bench.listed(&[]).await.len()), (0, 2));
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
}

/// Sent again by several people at once, one of them killed half way: each event goes through once,
/// and only to the binding that had given it up.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_redriven_goes_through_once_and_only_where_it_failed() {
    for extra in ["", ", order_by: { json: /key }", ", state: { bucket: b, key: { json: /key } }"] {
        let mut bench = bench(extra, 20).await;
        let (_, said, _) = bench.pelton(&["dlq", "redrive", "--dry-run"]).await;
        assert!(said.contains("20 dead letters would"), "{said}");
        assert_eq!(bench.streams.count("T_DLQ").await, 20);
        bench.mend();
        let mut killed =
            bench.command(&["dlq", "redrive", "--rate", "50/s"]).spawn().expect("it starts");
        eventually("some were sent", async || (bench.listed(&[]).await.len() < 15).then_some(()))
            .await;
        killed.kill().await.expect("it is killed");
        let (one, other) =
            tokio::join!(bench.pelton(&["dlq", "redrive"]), bench.pelton(&["dlq", "redrive"]));
        assert_eq!((one.0, other.0), (0, 0), "{}{}", one.2, other.2);
        bench.wait_empty().await;
        let outputs = bench.outputs().await;
        assert_eq!(outputs.len(), 100, "{extra}");
        assert!(outputs.values().all(|count| *count == 1), "{extra}: {outputs:?}");
        assert_eq!(bench.streams.count("OUT").await, 200, "the other binding saw nothing again");
        bench.runner.scrape().await.assert_adds_up("f");
        assert_eq!(bench.runner.sigterm().await.code(), Some(0));
    }
}

/// The function sees the event as it was; one that dies again keeps its history and counts its lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_death_keeps_the_history() {
    let mut bench = bench("", 1).await;
    let (code, _, told) = bench.pelton(&["dlq", "redrive"]).await;
    assert_eq!(code, 0, "{told}");
    let letter = eventually("it died again", async || {
        let letters = bench.listed(&[]).await;
        letters.into_iter().find(|letter| letter["lives"] == 1)
    })
    .await;
    assert_eq!(letter["event"], "IN:1");
    assert_eq!(letter["subject"], "in.0");
    assert_eq!(letter["attempts"].as_array().expect("attempts").len(), 4);
    let seen: Vec<String> =
        bench.site.lines("seen").into_iter().filter(|line| line.contains("\"IN:1\"")).collect();
    assert_eq!(
        seen,
        [1, 2, 1, 2].map(|attempt| format!(r#"["IN:1", "in.0", {attempt}, []]"#)),
        "the function sees the event as it was"
    );
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_payload_keeps_the_digest_of_what_it_was() {
    let mut bench = bench("", 1).await;
    let mut redrive = bench.command(&["dlq", "redrive", "--edit"]);
    redrive.env("EDITOR", "sed -i s/0/10/").env_remove("VISUAL");
    assert!(redrive.status().await.expect("it runs").success());
    let letter = eventually("it died again", async || {
        let letters = bench.streams.letters().await;
        let again = |letter: &crate::harness::Letter| letter.find("life") == Some("1");
        letters.into_iter().find(|letter| letter.subject == "dlq.t.f" && again(letter))
    })
    .await;
    assert!(letter.get("error").contains("not 10"), "{letter:#?}");
    let digest = sha2_hex(br#"{"n": 0, "key": "k0"}"#);
    assert_eq!(letter.get("original-sha256"), digest);
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
}

fn sha2_hex(data: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A runner that is killed while events come back runs each of them to its end after all.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_survives_a_kill() {
    let mut bench = bench(", timeout: 60s", 8).await;
    bench.mend();
    let slow = FUNCTION.replace("return {", "import time; time.sleep(0.5)\n    return {");
    bench.site.file("f.py", slow);
    bench.runner.kill9().await;
    let (code, _, told) = bench.pelton(&["dlq", "redrive"]).await;
    assert_eq!(code, 0, "{told}");
    bench.runner = Runner::start(&bench.site, &bench.server).await;
    bench
        .runner
        .metric("invocations_total", &[("binding", "f"), ("outcome", "done")], |n| n >= 1.0)
        .await;
    bench.runner.kill9().await;
    bench.runner = Runner::start(&bench.site, &bench.server).await;
    bench.wait_empty().await;
    let outputs = bench.outputs().await;
    assert_eq!((outputs.len(), outputs.values().sum::<usize>()), (40, 40));
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
}

/// Letters of a binding that was renamed, and what was sent again before, go to it; those of one
/// that is gone stay.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_renamed_binding_gave_up_comes_back_to_it() {
    let mut bench = bench("", 2).await;
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
    bench.mend();
    let first = bench.listed(&[]).await[0]["sequence"].to_string();
    let (code, _, told) = bench.pelton(&["dlq", "redrive", &first]).await;
    assert_eq!(code, 0, "{told}");
    let rename = |old: &str| {
        bench.site.manifest(&format!(
            "functions:\n  f: {{ run: f.py, env: {{ SITE: \"${{SITE}}\" }} }}\nbindings:\n  - {{ name: g, subject: in.>, function: f, publish: out.f{old} }}\n"
        ));
    };
    rename("");
    let (code, _, told) = bench.pelton(&["dlq", "redrive"]).await;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("renamed_from: f"), "{told}");
    assert_eq!(bench.streams.count("T_DLQ").await, 2);
    rename(", renamed_from: f");
    let apply = async || {
        let (code, said, told) = bench.pelton(&["apply", "--yes"]).await;
        assert_eq!(code, 0, "{said}{told}");
        let letters = bench.streams.js.get_stream("T_DLQ").await.expect("the dead letters");
        letters.consumer_info("t-f-redrive").await.is_ok()
    };
    assert!(apply().await, "something waits under the old name");
    let (code, _, told) = bench.pelton(&["dlq", "redrive"]).await;
    assert_eq!(code, 0, "{told}");
    let mut runner = Runner::start(&bench.site, &bench.server).await;
    bench.wait_empty().await;
    let outputs = bench.outputs().await;
    assert_eq!((outputs.len(), outputs.values().sum::<usize>()), (10, 10), "{outputs:?}");
    assert!(!apply().await, "nothing waits under the old name");
    assert_eq!(runner.sigterm().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_binding_gets_nothing_until_it_is_resumed() {
    let mut bench = bench("", 1).await;
    bench.mend();
    let (code, said, told) = bench.pelton(&["pause", "f"]).await;
    assert_eq!(code, 0, "{told}");
    assert!(said.contains("until `pelton resume`"), "{said}");
    let (_, listed, _) = bench.pelton(&["list"]).await;
    assert!(listed.contains("paused"), "{listed}");
    let before = bench.streams.count("OUT").await;
    bench.streams.send_many(20, |n| ("in.x".to_owned(), format!(r#"{{"n": {}}}"#, 100 + n))).await;
    // The other binding gets them all, and this one none.
    bench.streams.wait_count("OUT", before + 20).await;
    assert_eq!(bench.outputs().await.len(), 4);
    let (code, _, told) = bench.pelton(&["resume", "f"]).await;
    assert_eq!(code, 0, "{told}");
    bench.streams.wait_count("OUT", before + 40).await;
    let (code, _, told) = bench.pelton(&["pause", "g"]).await;
    assert_eq!(code, 2, "{told}");
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
}

/// What was sent again and has not run yet is the binding's lag.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_come_back_is_counted() {
    let mut bench = bench("", 2).await;
    assert_eq!(bench.runner.sigterm().await.code(), Some(0));
    let (code, _, told) = bench.pelton(&["dlq", "redrive"]).await;
    assert_eq!(code, 0, "{told}");
    let (_, listed, _) = bench.pelton(&["list", "-o", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (&listed["bindings"][0]["lag"], &listed["bindings"][1]["lag"]),
        (&2.into(), &0.into())
    );
    assert_eq!(listed["orphans"].as_array().map(Vec::len), Some(0), "{listed}");
}
