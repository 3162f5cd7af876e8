//! Puts environment variables and files into the scalars of a document. It works on parsed values,
//! so nothing that is substituted can add structure.

use std::{
    fs::File,
    io::{self, Read},
    path::Path as FilePath,
};

use serde_yaml::{Mapping, Value};

use super::{
    Mode,
    outline::{Node, Shape},
    path::Path,
    reference::{self, Otherwise, Piece, Reference, Source},
    report::{Report, Written},
};
use crate::manifest::diagnostic::Severity;

/// Where values come from.
pub(super) struct Surroundings<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths start from.
    pub(super) dir: &'a FilePath,
    pub(super) mode: Mode,
}

impl Surroundings<'_> {
    /// Replaces every reference; what cannot be replaced becomes null and is reported.
    pub(super) fn substitute(&self, value: &mut Value, path: &Path, report: &mut Report) {
        match value {
            Value::String(text) if text.contains("${") => {
                if let Some(new) = self.scalar(text, path, report) {
                    *value = new;
                } else {
                    report.spoil(path);
                    *value = Value::Null;
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.substitute(item, &path.index(index), report);
                }
            }
            Value::Mapping(map) => {
                named(map, path, report);
                for (key, value) in map.iter_mut() {
                    if let Some(key) = key.as_str() {
                        self.substitute(value, &path.key(key), report);
                    }
                }
            }
            _ => {}
        }
    }

    fn scalar(&self, text: &str, path: &Path, report: &mut Report) -> Option<Value> {
        let pieces = match reference::parse(text) {
            Ok(pieces) => pieces,
            Err(message) => {
                report.error_hint(
                    path,
                    message,
                    "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}; `$${` is a literal `${`",
                );
                return None;
            }
        };
        let mut result = String::new();
        let mut complete = true;
        for piece in &pieces {
            match piece {
                Piece::Literal(text) => result.push_str(text),
                Piece::Reference(reference) => match self.resolve(reference, path, report) {
                    Some(text) => result.push_str(&text),
                    None => complete = false,
                },
            }
        }
        if !complete {
            return None;
        }
        let plain = matches!(
            report.positions().node(path),
            Some(Node { shape: Shape::Scalar { plain: true, .. }, .. })
        );
        let whole = matches!(pieces.as_slice(), [Piece::Reference(_)]);
        let value = if plain && whole { typed(&result) } else { Value::String(result.clone()) };
        report.substituted(path, Written { source: text.to_owned(), result });
        Some(value)
    }

    fn resolve(&self, reference: &Reference, path: &Path, report: &mut Report) -> Option<String> {
        let (name, found) = match &reference.source {
            Source::Variable(name) => (name.clone(), (self.env)(name)),
            Source::File(file) => match read(&self.dir.join(file)) {
                Ok(text) => (format!("file:{file}"), Some(text)),
                Err(err) => {
                    let missing = err.kind() == io::ErrorKind::NotFound;
                    if !missing || reference.otherwise == Otherwise::Nothing {
                        let message = format!("`{file}` cannot be read: {err}");
                        self.unset(path, message, "put the file there", report);
                        return None;
                    }
                    (format!("file:{file}"), None)
                }
            },
        };
        match (&reference.otherwise, found) {
            (Otherwise::Default(default), None) => Some(default.clone()),
            (Otherwise::Default(default), Some(text)) if text.is_empty() => Some(default.clone()),
            (Otherwise::Nothing, None) => {
                self.unset(
                    path,
                    format!("the environment variable `{name}` is not set"),
                    UNSET,
                    report,
                );
                None
            }
            (Otherwise::Complain(message), found)
                if found.as_ref().is_none_or(String::is_empty) =>
            {
                let message = if message.is_empty() { "it is required" } else { message };
                self.unset(path, format!("`{name}` is not set: {message}"), UNSET, report);
                None
            }
            (_, Some(text)) => {
                report.secret(&format!("${{{name}}}"), &name, &text);
                Some(text)
            }
            (Otherwise::Complain(_), None) => None,
        }
    }

    /// `lint` runs where the environment of the runner is not.
    fn unset(&self, path: &Path, message: String, hint: &str, report: &mut Report) {
        let severity = match self.mode {
            Mode::Lint => Severity::Warning,
            Mode::Run => Severity::Error,
        };
        let mark = report.positions().value_mark(path);
        report.at(mark, severity, message, Some(hint.to_owned()));
    }
}

/// Reports and drops keys that are no text, like `1:` or `true:`.
fn named(map: &mut Mapping, path: &Path, report: &mut Report) {
    let odd: Vec<Value> = map.keys().filter(|key| !key.is_string()).cloned().collect();
    for key in odd {
        map.remove(&key);
        let shown = match &key {
            Value::Bool(key) => key.to_string(),
            Value::Number(key) => key.to_string(),
            Value::Null => "null".to_owned(),
            // The outline has seen it.
            _ => continue,
        };
        report.stray(
            &path.key(&shown),
            format!("a key must be text, and `{shown}` is none"),
            Some(format!("put it in quotes: \"{shown}\"")),
        );
    }
}

const UNSET: &str = "set it, or give a default: ${NAME:-default}";

/// What a plain scalar of this text would be; text where it would be more than a scalar.
fn typed(text: &str) -> Value {
    let simple = !text.contains(|c: char| c.is_whitespace() || "#'\"&*!|>%@`{}[],:".contains(c));
    match serde_yaml::from_str(text) {
        Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) if simple => value,
        _ => Value::String(text.to_owned()),
    }
}

/// Bytes of a secret at most: `/dev/zero` is a file too.
const FILE_MAX: u64 = 1 << 20;

fn read(path: &FilePath) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    // Editors and `echo` end a file with a newline that is no part of the secret.
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}
