//! `order_by`, `lane_limit`, `batch` and `state` of a binding.

use std::{num::NonZeroUsize, time::Duration};

use super::{EVENTS_MAX, count, named, non_zero};
use crate::event::Headers;
use crate::manifest::{
    Batch, KeyAt, Order, State, defaults,
    leaf::{Keys, Positive, Size, Span, Text},
    path::Path,
    raw,
    report::Report,
};

/// What a binding says of keys.
pub(super) struct Keyed {
    pub(super) order: Option<Order>,
    pub(super) state: Option<State>,
}

pub(super) fn keyed(
    raw: &mut raw::Binding,
    subjects: &[String],
    concurrency: u64,
    path: &Path,
    report: &mut Report,
) -> Keyed {
    let at = path.key("order_by");
    let ordered = raw.order_by.take().map(|Keys(raw)| key_at(raw, subjects, &at, report));
    let state = raw.state.take().map(|Keys(raw)| (raw.key.is_some(), raw));
    let limit = raw.lane_limit;
    let (of_state, state) = match state {
        None => (None, None),
        Some((has_key, raw)) => {
            let at = path.key("state");
            let (key, state) = self::state(raw, subjects, &at, report);
            if !has_key && ordered.is_none() {
                report.error_hint(
                    &at,
                    "state needs a key",
                    "add `key: { json: /orderId }`, or {header: …}, or {token: …}",
                );
            }
            (key, state)
        }
    };
    if let (Some(Some(one)), Some(Some(other))) = (&ordered, &of_state)
        && one != other
    {
        report.error_hint(
            &at,
            "`order_by` and the key of `state` are not the same",
            "state is applied in the order of its own key: take `order_by` out",
        );
    }
    let key = ordered.flatten().or(of_state.flatten());
    let at = path.key("lane_limit");
    if limit.is_some() && key.is_none() {
        report.error_hint(&at, "`lane_limit` is for bindings with `order_by`", "take it out");
    }
    let partitions = partitions(raw.partitions, key.is_some(), &path.key("partitions"), report);
    let lane_limit = count(limit, defaults::LANES * concurrency, EVENTS_MAX, &at, report);
    let order = |key| Order { key, lane_limit: non_zero(lane_limit), partitions };
    Keyed { order: key.map(order), state }
}

/// Each takes two durables.
const PARTITIONS_MAX: u64 = 256;

fn partitions(
    raw: Option<Positive>,
    keyed: bool,
    path: &Path,
    report: &mut Report,
) -> Option<NonZeroUsize> {
    raw?;
    if !keyed {
        report.error_hint(
            path,
            "`partitions` are of keys, and the binding has none",
            "add `order_by`, or take it out: events without order are shared out by themselves",
        );
    }
    Some(non_zero(count(raw, 1, PARTITIONS_MAX, path, report)))
}

fn key_at(raw: raw::Key, subjects: &[String], path: &Path, report: &mut Report) -> Option<KeyAt> {
    match (raw.json, raw.header, raw.token) {
        (Some(Text(pointer)), None, None) => json(&pointer, &path.key("json"), report),
        (None, Some(Text(name)), None) => header(name, &path.key("header"), report),
        (None, None, Some(Positive(number))) => {
            token(number.get(), subjects, &path.key("token"), report)
        }
        _ => {
            report.error_hint(
                path,
                "a key is at one place",
                "write one of {json: /orderId}, {header: Order-Id}, {token: 2}",
            );
            None
        }
    }
}

/// RFC 6901, section 3: `~1` is a slash, `~0` a tilde.
fn json(pointer: &str, path: &Path, report: &mut Report) -> Option<KeyAt> {
    let Some(steps) = pointer.strip_prefix('/') else {
        report.error_hint(
            path,
            format!("`{pointer}` is no JSON pointer"),
            format!("begin with a slash: /{}", pointer.replace('.', "/")),
        );
        return None;
    };
    let step = |step: &str| step.replace("~1", "/").replace("~0", "~");
    Some(KeyAt::Json(steps.split('/').map(step).collect()))
}

fn header(name: String, path: &Path, report: &mut Report) -> Option<KeyAt> {
    if !Headers::is_name(&name) {
        report.error(path, format!("`{}` is no header name", name.escape_debug()));
        return None;
    }
    Some(KeyAt::Header(name))
}

fn token(number: u64, subjects: &[String], path: &Path, report: &mut Report) -> Option<KeyAt> {
    let number = usize::try_from(number).ok().and_then(NonZeroUsize::new)?;
    let short = subjects.iter().find(|subject| {
        let tokens = subject.split('.').count();
        tokens < number.get() && !subject.ends_with('>')
    });
    if let Some(short) = short {
        report.error_hint(
            path,
            format!("`{short}` has no token {number}"),
            "tokens are what the dots of a subject separate, counted from 1",
        );
        return None;
    }
    Some(KeyAt::Token(number))
}

/// The key is `Some(None)` when it is there and wrong.
fn state(
    raw: raw::State,
    subjects: &[String],
    path: &Path,
    report: &mut Report,
) -> (Option<Option<KeyAt>>, Option<State>) {
    let key = raw.key.map(|Keys(key)| key_at(key, subjects, &path.key("key"), report));
    let Some(Text(bucket)) = raw.bucket else {
        report.missing(path, &["bucket"], "state needs a bucket", "add `bucket: orders`");
        return (key, None);
    };
    named(&bucket, "a bucket", &path.key("bucket"), report);
    let max_age = raw.max_age.map(|Span(age)| age).filter(|age| !age.is_zero());
    (key, Some(State { bucket, max_age }))
}

pub(super) fn batch(raw: raw::Batch, path: &Path, report: &mut Report) -> Batch {
    let max = count(raw.max, defaults::BATCH_MAX, EVENTS_MAX, &path.key("max"), report);
    let bytes = match raw.bytes {
        Some(Size(0)) => {
            report.error(&path.key("bytes"), "`bytes` must be at least 1");
            defaults::BATCH_BYTES
        }
        Some(Size(bytes)) => bytes,
        None => defaults::BATCH_BYTES,
    };
    let wait = raw.wait.map_or(defaults::BATCH_WAIT, |Span(wait)| wait);
    if wait > WAIT_MAX {
        report.error_hint(
            &path.key("wait"),
            "a batch waits for 5m at most",
            "events that are to be handled now and then want a schedule",
        );
    }
    Batch { max: non_zero(max), bytes: usize::try_from(bytes).unwrap_or(usize::MAX), wait }
}

/// As long as AWS Lambda lets a batch wait.
const WAIT_MAX: Duration = Duration::from_secs(300);
