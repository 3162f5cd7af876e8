//! `streams:`

use std::time::Duration;

use super::{entries, replicas_of, texts, well_formed};
use crate::duration;
use crate::manifest::{
    Stream,
    leaf::{Count, Flag, Keys, Named, Size, Span},
    path::Path,
    raw,
    report::Report,
};
use crate::subject;

pub(super) fn streams(
    raw: Option<Named<Keys<raw::Stream>>>,
    path: &Path,
    report: &mut Report,
) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    for (name, raw) in entries(raw) {
        let path = path.key(&name);
        if report.is_spoiled(&path) {
            continue;
        }
        stream_name(&name, &path, report);
        let stream = stream(name, raw, &path, report);
        let overlap = streams.iter().find_map(|other| {
            let (mine, theirs) = overlapping(&stream.subjects, &other.subjects)?;
            Some(format!("`{mine}` overlaps `{theirs}` of the stream {}", other.name))
        });
        if let Some(message) = overlap {
            let hint = "an event is stored in one stream only: take the subjects apart";
            report.error_hint(&path.key("subjects"), message, hint);
        }
        streams.push(stream);
    }
    streams
}

/// Two subjects, one of each list, that some event could match both.
pub(super) fn overlapping<'a>(a: &'a [String], b: &'a [String]) -> Option<(&'a str, &'a str)> {
    a.iter().find_map(|a| {
        let b = b.iter().find(|b| subject::overlap(a, b))?;
        Some((a.as_str(), b.as_str()))
    })
}

fn stream(name: String, raw: raw::Stream, path: &Path, report: &mut Report) -> Stream {
    let listed = match raw.subjects {
        Some(subjects) => texts(subjects, &path.key("subjects"), report),
        None => {
            report.missing(
                path,
                &["subjects"],
                format!("the stream {name} needs subjects"),
                "add `subjects: [\"orders.>\"]`",
            );
            Vec::new()
        }
    };
    let mut subjects: Vec<String> = Vec::new();
    for (at, text) in listed {
        if !well_formed(&text, &at, report) {
            continue;
        }
        match subjects.iter().find(|other| subject::overlap(&text, other)) {
            Some(other) => report.error_hint(
                &at,
                format!("`{text}` overlaps `{other}` of the same stream"),
                "keep the wider one",
            ),
            None => subjects.push(text),
        }
    }
    let max_age = stream_span(raw.max_age, &path.key("max_age"), report);
    let window = path.key("duplicate_window");
    let duplicate_window = stream_span(raw.duplicate_window, &window, report);
    if let (Some(age), Some(remembered)) = (max_age, duplicate_window)
        && !age.is_zero()
        && remembered > age
    {
        report.error_hint(
            &window,
            format!("`duplicate_window` is longer than `max_age`, {}", duration::show(age)),
            "the server refuses that: a message id is remembered as long as the message at most",
        );
    }
    Stream {
        name,
        subjects,
        retention: raw.retention,
        storage: raw.storage,
        num_replicas: replicas_of(raw.num_replicas, &path.key("num_replicas"), report),
        max_age,
        max_bytes: raw.max_bytes.map(|Size(size)| size),
        max_msgs: raw.max_msgs.map(|Count(count)| count),
        max_msgs_per_subject: raw.max_msgs_per_subject.map(|Count(count)| count),
        discard: raw.discard,
        duplicate_window,
        allow_direct: raw.allow_direct.map(|Flag(flag)| flag),
        placement: raw.placement.map(|Keys(placement)| placement),
    }
}

/// The server takes no shorter ones, 0 apart.
const SPAN_MIN: Duration = Duration::from_millis(100);

fn stream_span(raw: Option<Span>, path: &Path, report: &mut Report) -> Option<Duration> {
    let Span(span) = raw?;
    if !span.is_zero() && span < SPAN_MIN {
        report.error(path, format!("`{}` must be at least 100ms", path.tail()));
        return None;
    }
    Some(span)
}

pub(super) fn stream_name(name: &str, path: &Path, report: &mut Report) {
    let wrong =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if !(1..=255).contains(&name.len()) || name.contains(wrong) {
        report.error_hint(
            path,
            format!("`{name}` cannot be the name of a stream"),
            "no spaces, no dots, none of * > / \\, and 255 characters at most",
        );
    }
}
