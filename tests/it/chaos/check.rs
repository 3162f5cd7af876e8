//! What the streams say afterwards.

use std::collections::{BTreeMap, HashMap};

use super::{fleet::Fleet, report::Report};
use crate::harness::Streams;

/// The words of each event or output behind its key, in the order of their stream.
type Keys = BTreeMap<String, Vec<Vec<String>>>;

/// Holds the outputs of these bindings to the events: each once, and in order where there is one.
pub(super) async fn check(report: &mut Report, fleet: &Fleet<'_>, bindings: &[&str]) {
    let streams = fleet.streams();
    let inputs = by_key(streams.texts("IN").await);
    report.faults(fleet);
    report.line("events", inputs.values().map(Vec::len).sum::<usize>());
    report.line("keys", inputs.len());
    for binding in bindings {
        let subject = format!("out.{binding}");
        let outputs = streams.read("OUT").await;
        let outputs = outputs.iter().filter(|output| output.subject.as_str() == subject);
        let outputs = by_key(outputs.map(|output| text(&output.payload)).collect());
        let (lost, duplicated) = missing_and_surplus(&inputs, &outputs);
        report.zero(&format!("{binding}: lost"), lost);
        report.zero(&format!("{binding}: duplicated"), duplicated);
        if *binding == "keyed" {
            report.zero("keyed: keys misordered", misordered(&inputs, &outputs));
            let wrong = wrong_before(&outputs) + wrong_states(streams, &inputs).await;
            report.zero("keyed: states wrong", wrong);
            let waits = fleet.said("held back until earlier events come again");
            report.line("keyed: waits of 10 s for order", waits);
        }
        report.zero(&format!("{binding}: stranded"), fleet.unsettled(binding).await);
    }
    let letters = usize::try_from(streams.count("T_DLQ").await).expect("a count");
    report.zero("dead letters", letters);
}

pub(super) fn text(data: &[u8]) -> String {
    String::from_utf8(data.to_vec()).expect("UTF-8")
}

fn by_key(texts: Vec<String>) -> Keys {
    let mut keys = Keys::new();
    for text in texts {
        let mut words = text.split(' ').map(str::to_owned);
        let key = words.next().expect("a key");
        keys.entry(key).or_default().push(words.collect());
    }
    keys
}

fn missing_and_surplus(inputs: &Keys, outputs: &Keys) -> (usize, usize) {
    let mut counts: HashMap<(&str, &str), i64> = HashMap::new();
    for (key, events) in inputs {
        for event in events {
            *counts.entry((key.as_str(), event[0].as_str())).or_default() -= 1;
        }
    }
    for (key, events) in outputs {
        for event in events {
            *counts.entry((key.as_str(), event[0].as_str())).or_default() += 1;
        }
    }
    let sum = |sign: i64| counts.values().map(|n| (n * sign).max(0).unsigned_abs()).sum::<u64>();
    let count = |sum: u64| usize::try_from(sum).expect("a count");
    (count(sum(-1)), count(sum(1)))
}

/// Keys whose outputs came in another order than their events.
fn misordered(inputs: &Keys, outputs: &Keys) -> usize {
    let numbers = |events: &Vec<Vec<String>>| -> Vec<String> {
        events.iter().map(|event| event[0].clone()).collect()
    };
    let wrong = |key: &String, events| outputs.get(key).map(numbers) != Some(numbers(events));
    inputs.iter().filter(|(key, events)| wrong(key, events)).count()
}

/// Outputs whose function saw another state than the one that the event before had left.
fn wrong_before(outputs: &Keys) -> usize {
    let mut wrong = 0;
    for events in outputs.values() {
        let mut before = "None";
        for event in events {
            wrong += usize::from(event[1] != before);
            before = &event[0];
        }
    }
    wrong
}

/// Keys whose state is not what all their events make of it.
async fn wrong_states(streams: &Streams, inputs: &Keys) -> usize {
    let bucket = streams.js.get_key_value("counts").await.expect("the bucket");
    let mut wrong = 0;
    for (key, events) in inputs {
        let entry = bucket.get(key).await.expect("the bucket answers");
        let entry = entry.map_or_else(serde_json::Value::default, |entry| {
            serde_json::from_slice(&entry).expect("JSON")
        });
        let last = events.last().map(|event| event[0].as_str());
        let right =
            entry["state"]["count"] == events.len() && entry["state"]["last"].as_str() == last;
        wrong += usize::from(!right);
    }
    wrong
}
