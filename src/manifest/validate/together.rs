//! What only shows when streams, functions and bindings are seen together.

use super::streams::overlapping;
use crate::duration;
use crate::manifest::{
    Binding, DeadLetter, Manifest, Publish, Retention, Stream, path::Path, report::Report,
    window::forgetful,
};
use crate::subject;

/// `places` are those of the bindings, in the same order.
pub(super) fn check(manifest: &Manifest, places: &[Path], report: &mut Report) {
    let owned = owned_subjects(&manifest.dead_letter, &manifest.name);
    let streams = Path::root().key("streams");
    for stream in &manifest.streams {
        let path = streams.key(&stream.name);
        dead_letter_stream(stream, &manifest.dead_letter, &owned, &path, report);
        other_subjects(stream, manifest, &path.key("subjects"), report);
    }
    buckets(&manifest.bindings, places, report);
    for (binding, path) in manifest.bindings.iter().zip(places) {
        stateless(binding, manifest, path, report);
        dead_letter_binding(binding, &manifest.dead_letter, &owned, path, report);
        input(binding, &manifest.streams, path, report);
        outputs(binding, manifest, path, report);
    }
}

/// What the dead-letter stream holds: letters, and those sent again.
fn owned_subjects(dead_letter: &DeadLetter, name: &str) -> [String; 2] {
    [format!("{}.>", dead_letter.subject), format!("redrive.{name}.>")]
}

fn dead_letter_stream(
    stream: &Stream,
    dead_letter: &DeadLetter,
    owned: &[String],
    path: &Path,
    report: &mut Report,
) {
    if stream.name == dead_letter.stream {
        report.error_hint(
            path,
            format!("{} is the dead-letter stream, which Pelton makes itself", stream.name),
            "take it out of `streams:`, or name another one in `dead_letter: {stream: …}`",
        );
    } else if let Some((mine, theirs)) = overlapping(&stream.subjects, owned) {
        report.error_hint(
            &path.key("subjects"),
            format!("`{mine}` takes in `{theirs}`, where dead letters go"),
            "a dead letter is stored in one stream only: take the subjects apart, or set `dead_letter: {subject: …}`",
        );
    }
}

/// What the dead-letter stream holds on servers that can wait, and the streams of copies of
/// partitions; the server takes no subject twice.
fn other_subjects(stream: &Stream, manifest: &Manifest, path: &Path, report: &mut Report) {
    let name = &manifest.name;
    let waiting = [format!("deferred.{name}.>")];
    if let Some((mine, theirs)) = overlapping(&stream.subjects, &waiting) {
        report.warn(
            path,
            format!("`{mine}` takes in `{theirs}`, where events wait for a try that is far ahead"),
            format!(
                "a server that can send them on by itself (2.12 and later) refuses to make {}: take the subjects apart",
                manifest.dead_letter.stream
            ),
        );
    }
    for binding in manifest.bindings.iter().filter(|binding| binding.partitions().is_some()) {
        let copies = [format!("parts.{name}.{}.>", binding.name)];
        if let Some((mine, theirs)) = overlapping(&stream.subjects, &copies) {
            report.error_hint(
                path,
                format!(
                    "`{mine}` takes in `{theirs}`, where the events of the partitions of {} are",
                    binding.name
                ),
                "they are stored in a stream that Pelton makes itself: take the subjects apart",
            );
        }
    }
}

fn dead_letter_binding(
    binding: &Binding,
    dead_letter: &DeadLetter,
    owned: &[String],
    path: &Path,
    report: &mut Report,
) {
    let elsewhere = binding.stream.as_ref().is_some_and(|stream| *stream != dead_letter.stream);
    if elsewhere {
        return;
    }
    if let Some((mine, theirs)) = overlapping(&binding.subjects, owned) {
        report.error_hint(
            &path.key("subject"),
            format!("`{mine}` takes in `{theirs}`, where dead letters go"),
            "a dead letter of this binding would come back to it: name the subjects, or the `stream:` that is meant",
        );
    }
}

/// Not everything that runs functions can hand them state.
fn stateless(binding: &Binding, manifest: &Manifest, path: &Path, report: &mut Report) {
    let function = manifest.functions.get(&binding.function);
    let (Some(_), Some(function)) = (&binding.state, function) else { return };
    if !function.runtime.keeps_state() {
        report.error_hint(
            &path.key("state"),
            format!("the function {} cannot keep state", function.name),
            "functions in Python, Node and WebAssembly can, and those of `command` and `native`",
        );
    }
}

/// A bucket remembers which event of a stream was applied last, not by which binding.
fn buckets(bindings: &[Binding], places: &[Path], report: &mut Report) {
    let mut used: Vec<(&str, &str)> = Vec::new();
    for (binding, path) in bindings.iter().zip(places) {
        let Some(state) = &binding.state else { continue };
        let at = path.key("state");
        if let Some((_, other)) = used.iter().find(|(bucket, _)| *bucket == state.bucket) {
            report.error_hint(
                &at.key("bucket"),
                format!("the binding {other} keeps its state in `{}` as well", state.bucket),
                "give each binding a bucket of its own",
            );
        }
        used.push((&state.bucket, &binding.name));
        let horizon = binding.horizon();
        if let Some(age) = state.max_age.filter(|age| *age < horizon) {
            report.error_hint(
                &at.key("max_age"),
                format!(
                    "state is forgotten after {}, and retries can take {}",
                    duration::show(age),
                    duration::show(horizon)
                ),
                "an event that comes again after that would be applied twice: raise `max_age`, or lower `retry`",
            );
        }
    }
}

/// Looks at the stream that a binding reads, when the manifest lists it.
fn input(binding: &Binding, streams: &[Stream], path: &Path, report: &mut Report) {
    if binding.subjects.is_empty() {
        return;
    }
    let holds =
        |stream: &&Stream| binding.subjects.iter().all(|subject| held(subject, &stream.subjects));
    let named =
        binding.stream.as_ref().and_then(|name| streams.iter().find(|stream| stream.name == *name));
    if let Some(stream) = named {
        let strange = binding.subjects.iter().find(|subject| !held(subject, &stream.subjects));
        if let Some(subject) = strange.filter(|_| !stream.subjects.is_empty()) {
            report.error_hint(
                &path.key("subject"),
                format!("`{subject}` is not held by the stream {}", stream.name),
                format!("it holds {}", stream.subjects.join(", ")),
            );
        }
    }
    let split = named.is_none() && binding.stream.is_none() && binding.subjects.len() > 1;
    if split && !streams.iter().any(|stream| holds(&stream)) {
        several(binding, streams, path, report);
    }
    let Some(stream) = named.or_else(|| streams.iter().find(holds)) else { return };
    let horizon = binding.horizon();
    if let Some(age) = stream.max_age.filter(|age| !age.is_zero() && *age < horizon) {
        report.warn(
            path,
            format!(
                "events leave the stream {} after {}, and retries can take {}",
                stream.name,
                duration::show(age),
                duration::show(horizon)
            ),
            "an event that leaves before its last try is lost: raise `max_age`, or lower `retry`",
        );
    }
}

/// A durable reads one stream.
fn several(binding: &Binding, streams: &[Stream], path: &Path, report: &mut Report) {
    let holders: Vec<&str> = binding
        .subjects
        .iter()
        .filter_map(|subject| streams.iter().find(|stream| held(subject, &stream.subjects)))
        .map(|stream| stream.name.as_str())
        .collect();
    let first = holders.first();
    if let Some(other) = holders.iter().find(|name| Some(*name) != first) {
        report.error_hint(
            &path.key("subject"),
            format!("the subjects are in two streams, {} and {other}", first.unwrap_or(other)),
            "a binding reads one stream: make two bindings of the function, each with a `name:`",
        );
    }
}

fn outputs(binding: &Binding, manifest: &Manifest, path: &Path, report: &mut Report) {
    let path = path.key("publish");
    let subjects: Vec<(Path, &str)> = match &binding.publish {
        None => return,
        Some(Publish::One(subject)) => vec![(path, subject)],
        Some(Publish::Many { first, others }) => std::iter::once(first)
            .chain(others)
            .enumerate()
            .map(|(index, subject)| (path.index(index), subject.as_str()))
            .collect(),
    };
    for (at, text) in subjects {
        if binding.subjects.iter().any(|input| subject::overlap(input, text)) {
            report.warn(
                &at,
                format!("`{text}` is a subject that the binding reads itself"),
                "an event that leads to itself runs for ever, unless the function ends it",
            );
        }
        let holder = manifest.streams.iter().find(|stream| held(text, &stream.subjects));
        if let Some(stream) = holder {
            let known = (stream.window(), stream.retention.unwrap_or(Retention::Limits));
            for (message, hint) in forgetful(binding, &stream.name, known.0, known.1) {
                report.warn(&at, message, hint);
            }
        } else if subject::is_literal(text) && !manifest.streams.is_empty() {
            report.warn(
                &at,
                format!("no stream of the manifest holds `{text}`"),
                "outputs must be held by a stream that exists: list it in `streams:` if nobody else makes it",
            );
        }
    }
}

/// Whether every event of a subject is held by one of `subjects`.
fn held(subject: &str, subjects: &[String]) -> bool {
    subjects.iter().any(|holder| covers(holder, subject))
}

/// Whether everything that `inner` matches is matched by `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    let mut outer = outer.split('.');
    let mut inner = inner.split('.');
    loop {
        match (outer.next(), inner.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(_), Some(">")) | (None, _) | (_, None) => return false,
            (Some("*"), Some(_)) => {}
            (Some(wide), Some(token)) if wide == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_subject_covers_a_narrower_one() {
        for (outer, inner, expected) in [
            ("a.>", "a.b", true),
            ("a.>", "a.>", true),
            ("a.>", "a", false),
            (">", "a.*.c", true),
            ("a.*", "a.>", false),
            ("a.*", "a.*", true),
            ("a.b", "a.*", false),
            ("a.b", "a.b", true),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} {inner}");
        }
    }
}
