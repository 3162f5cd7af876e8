//! Where a stream differs from what the manifest writes.

use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Placement, RetentionPolicy, StorageType,
};
use serde_json::{Value, json};

use super::change::Difference;
use crate::manifest::{self, Discard, Retention, Storage};

/// Where an existing stream differs from what the manifest writes; what it leaves open is free.
pub(super) fn differences(
    spec: &manifest::Stream,
    replicas: Option<usize>,
    found: &Config,
) -> Vec<Difference> {
    let mut all = vec![set("subjects", &spec.subjects, &found.subjects)];
    let mut compare = |key, wanted: Option<(String, Value)>, found: String| {
        all.push(wanted.map(|(new, value)| Difference::new(key, found, new, value)));
    };
    // The server has a default for a window of nothing, and no limit is -1 to it.
    let window = spec.duplicate_window.filter(|window| !window.is_zero());
    let count = |value: Option<u64>| {
        value.map(|value| match i64::try_from(value).unwrap_or(i64::MAX) {
            0 => ("-1".to_owned(), json!(-1)),
            value => (value.to_string(), json!(value)),
        })
    };
    compare("max_age", spec.max_age.map(span), crate::duration::show(found.max_age));
    let held = crate::duration::show(found.duplicate_window);
    compare("duplicate_window", window.map(span), held);
    compare("max_bytes", count(spec.max_bytes), found.max_bytes.to_string());
    compare("max_msgs", count(spec.max_msgs), found.max_messages.to_string());
    let held = found.max_messages_per_subject.to_string();
    compare("max_msgs_per_subject", count(spec.max_msgs_per_subject), held);
    let copies = replicas.map(|count| (count.to_string(), json!(count)));
    compare("num_replicas", copies, found.num_replicas.to_string());
    let direct = spec.allow_direct.map(|allow| (allow.to_string(), json!(allow)));
    compare("allow_direct", direct, found.allow_direct.to_string());
    let discard = spec.discard.map(|kind| word(&discard_policy(kind)));
    compare("discard", discard, word(&found.discard).0);
    let placement = spec
        .placement
        .as_ref()
        .map(|place| (place_text(place.cluster.as_deref(), &place.tags), json!(place_of(place))));
    let held = found.placement.as_ref();
    let held = held.map(|place| place_text(place.cluster.as_deref(), &place.tags));
    compare("placement", placement, held.unwrap_or_else(|| "anywhere".to_owned()));
    let retention = spec.retention.map(|kind| word(&retention_policy(kind)));
    compare("retention", retention, word(&found.retention).0);
    let storage = spec.storage.map(|kind| word(&storage_type(kind)));
    compare("storage", storage, word(&found.storage).0);
    let all = all.into_iter().flatten().filter(|differs| differs.field.old != differs.field.new);
    all.map(|differs| Difference { fixed: fixed(&differs), ..differs }).collect()
}

/// Why the server does not let a stream be changed in this.
fn fixed(differs: &Difference) -> Option<&'static str> {
    let field = &differs.field;
    let queue = [&field.old, &field.new].into_iter().any(|retention| retention == "workqueue");
    match field.key {
        "storage" => Some("the server cannot move a stream between disk and memory"),
        "retention" if queue => Some("the server cannot turn a stream into a work queue or back"),
        _ => None,
    }
}

/// Two sets that are written in any order.
pub(super) fn set(key: &'static str, wanted: &[String], found: &[String]) -> Option<Difference> {
    let text = |subjects: &[String]| {
        let mut sorted = subjects.to_vec();
        sorted.sort();
        sorted.join(", ")
    };
    let (old, new) = (text(found), text(wanted));
    (old != new).then(|| Difference::new(key, old, new, json!(wanted)))
}

/// A duration for people, and in nanoseconds for the server.
pub(super) fn span(span: Duration) -> (String, Value) {
    (crate::duration::show(span), json!(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
}

/// A word as NATS writes it.
fn word(kind: &impl serde::Serialize) -> (String, Value) {
    let value = json!(kind);
    (value.as_str().unwrap_or_default().to_owned(), value)
}

fn place_text(cluster: Option<&str>, tags: &[String]) -> String {
    let words = cluster.into_iter().chain(tags.iter().map(String::as_str));
    words.collect::<Vec<_>>().join(" ")
}

pub(super) fn place_of(place: &manifest::Placement) -> Placement {
    Placement { cluster: place.cluster.clone(), tags: place.tags.clone() }
}

pub(super) const fn retention_policy(retention: Retention) -> RetentionPolicy {
    match retention {
        Retention::Limits => RetentionPolicy::Limits,
        Retention::Interest => RetentionPolicy::Interest,
        Retention::Workqueue => RetentionPolicy::WorkQueue,
    }
}

pub(super) const fn storage_type(storage: Storage) -> StorageType {
    match storage {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    }
}

pub(super) const fn discard_policy(discard: Discard) -> DiscardPolicy {
    match discard {
        Discard::Old => DiscardPolicy::Old,
        Discard::New => DiscardPolicy::New,
    }
}
