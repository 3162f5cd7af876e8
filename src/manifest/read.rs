//! Values to raw structs. `serde` stops at the first mistake, so each one is reported, taken out of
//! the document and the rest is read again.

use serde_path_to_error::Segment;
use serde_yaml::Value;

use super::{
    later::{self, RUNTIMES, TRIGGERS},
    leaf::Keys,
    path::{Path, Step},
    raw,
    report::Report,
    wording,
};

/// Mistakes of one manifest that are taken out before reading gives up.
const PASSES_MAX: usize = 200;

pub(super) fn read(value: &mut Value, report: &mut Report) -> raw::Manifest {
    for _ in 0..PASSES_MAX {
        let error = match serde_path_to_error::deserialize::<_, Keys<raw::Manifest>>(&*value) {
            Ok(Keys(manifest)) => return manifest,
            Err(error) => error,
        };
        let path = path_of(error.path());
        let message = error.into_inner().to_string();
        if path.steps().is_empty() {
            let (message, hint) = wording::explain("a manifest", &message);
            report.stray(&path, message, hint);
            return raw::Manifest::default();
        }
        mend(value, &path, &message, report);
    }
    // What is left says nothing about what is missing.
    report.spoil(&Path::root());
    raw::Manifest::default()
}

fn path_of(path: &serde_path_to_error::Path) -> Path {
    path.iter()
        .map_while(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            // The word that a scalar could not be; the scalar itself is the place.
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Takes the mistake out of the document.
fn mend(value: &mut Value, path: &Path, message: &str, report: &mut Report) {
    if let Some(known) = wording::known_keys(message) {
        stray_key(value, path, &known, report);
        return;
    }
    // What was substituted looked like a number or a boolean where text is wanted.
    if let (Some(written), Some(at)) = (report.written(path), find(value, path))
        && wording::wants_text(message)
        && !at.is_string()
        && !at.is_null()
    {
        *at = Value::String(written.result.clone());
        return;
    }
    let (text, hint) = wording::explain(&format!("`{}`", path.tail()), message);
    match hint {
        Some(hint) => report.error_hint(path, text, hint),
        None => report.error(path, text),
    }
    report.spoil(path);
    let mut at = Some(path.clone());
    while let Some(path) = at {
        match find(value, &path) {
            Some(node) if !node.is_null() => {
                *node = Value::Null;
                return;
            }
            _ => at = path.parent(),
        }
    }
}

fn stray_key(value: &mut Value, path: &Path, known: &[String], report: &mut Report) {
    let (Some(parent), Some(Step::Key(key))) = (path.parent(), path.steps().last()) else { return };
    let context = parent.pattern();
    let Some(Value::Mapping(map)) = find(value, &parent) else { return };
    map.remove(key.as_str());
    let rival = rival(map, &context, key);
    let (message, hint) = match (later::find(&context, key), rival) {
        (None, _) => (
            format!("`{key}` is no key {}", place(&parent)),
            wording::suggest(key, known.iter().map(String::as_str)),
        ),
        (Some(_), Some(rival)) => (
            format!("`{rival}` and `{key}` exclude each other"),
            format!("take one out; and not yet: `{key}`"),
        ),
        (Some(later), None) => (
            format!("not yet: `{key}` ({})", later.what),
            "this version cannot do it; the key is reserved for one that can".to_owned(),
        ),
    };
    report.stray(path, message, Some(hint));
}

/// The key beside a later one that does the same job.
fn rival(map: &serde_yaml::Mapping, context: &str, key: &str) -> Option<&'static str> {
    let rivals: &[&'static str] = match context {
        "bindings[]" => &TRIGGERS,
        "functions.*" => &RUNTIMES,
        _ => &[],
    };
    if !rivals.contains(&key) {
        return None;
    }
    rivals.iter().copied().find(|rival| map.contains_key(*rival))
}

fn place(parent: &Path) -> String {
    match parent.pattern().as_str() {
        "" => "of a manifest".to_owned(),
        "bindings[]" => "of a binding".to_owned(),
        "functions.*" => "of a function".to_owned(),
        "streams.*" => "of a stream".to_owned(),
        _ => format!("of `{}`", parent.tail()),
    }
}

fn find<'a>(value: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    path.steps().iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.as_mapping_mut()?.get_mut(key.as_str()),
        Step::Index(index) => value.as_sequence_mut()?.get_mut(*index),
    })
}
