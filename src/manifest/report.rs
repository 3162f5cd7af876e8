//! Gathers findings while a manifest is read, each mistake once.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    diagnostic::{Diagnostic, Severity},
    outline::{Mark, Outline},
    path::Path,
};

/// The findings so far, and what they make it pointless to look at.
pub(super) struct Report {
    file: String,
    outline: Outline,
    found: Vec<Diagnostic>,
    /// Values that are wrong or unknown: nothing more is said about them.
    spoiled: HashSet<Path>,
    /// Maps that lost a key nobody knows: it may have been the one that seems to be missing.
    incomplete: HashSet<Path>,
    /// What stood in the text where something was substituted.
    written: HashMap<Path, Written>,
    /// Environment variables and files that were substituted.
    pub(super) sources: BTreeSet<String>,
    /// What they held: never shown.
    secrets: Vec<(String, String)>,
}

/// A scalar before and after substitution.
pub(super) struct Written {
    pub(super) source: String,
    pub(super) result: String,
}

/// Errors at most, and warnings: more help nobody.
const FOUND_MAX: usize = 100;

/// Shorter values are too common in sentences to be replaced wherever they occur.
const SECRET_MIN: usize = 6;

impl Report {
    pub(super) fn new(file: String) -> Self {
        Self {
            file,
            outline: Outline::default(),
            found: Vec::new(),
            spoiled: HashSet::new(),
            incomplete: HashSet::new(),
            written: HashMap::new(),
            sources: BTreeSet::new(),
            secrets: Vec::new(),
        }
    }

    pub(super) fn outline(&mut self, mut outline: Outline) {
        for (mark, message) in std::mem::take(&mut outline.problems) {
            self.push(mark, Severity::Error, message, None);
        }
        self.outline = outline;
    }

    pub(super) fn positions(&self) -> &Outline {
        &self.outline
    }

    pub(super) fn error(&mut self, path: &Path, message: impl Into<String>) {
        self.say(path, Severity::Error, message.into(), None);
    }

    pub(super) fn error_hint(
        &mut self,
        path: &Path,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.say(path, Severity::Error, message.into(), Some(hint.into()));
    }

    pub(super) fn warn(
        &mut self,
        path: &Path,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.say(path, Severity::Warning, message.into(), Some(hint.into()));
    }

    /// A key that does not belong where it is.
    pub(super) fn stray(&mut self, path: &Path, message: String, hint: Option<String>) {
        if !self.is_spoiled(path) {
            self.push(self.outline.key_mark(path), Severity::Error, message, hint);
        }
        self.spoiled.insert(path.clone());
        if let Some(parent) = path.parent() {
            self.incomplete.insert(parent);
        }
    }

    /// A key that should be there; `key` is it, or one of those it could be.
    pub(super) fn missing(
        &mut self,
        parent: &Path,
        keys: &[&str],
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let excused = self.incomplete.contains(parent)
            || keys.iter().any(|key| self.spoiled.contains(&parent.key(key)));
        if !excused && !self.is_spoiled(parent) {
            let mark = self.outline.key_mark(parent);
            self.push(mark, Severity::Error, message.into(), Some(hint.into()));
        }
    }

    pub(super) fn at(
        &mut self,
        mark: Mark,
        severity: Severity,
        message: String,
        hint: Option<String>,
    ) {
        self.push(mark, severity, message, hint);
    }

    pub(super) fn spoil(&mut self, path: &Path) {
        self.spoiled.insert(path.clone());
    }

    /// Whether something was already said about a value or what encloses it.
    pub(super) fn is_spoiled(&self, path: &Path) -> bool {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if self.spoiled.contains(&path) {
                return true;
            }
            at = path.parent();
        }
        false
    }

    pub(super) fn substituted(&mut self, path: &Path, written: Written) {
        self.written.insert(path.clone(), written);
    }

    pub(super) fn written(&self, path: &Path) -> Option<&Written> {
        self.written.get(path)
    }

    pub(super) fn secret(&mut self, source: &str, name: &str, value: &str) {
        self.sources.insert(name.to_owned());
        if value.len() >= SECRET_MIN {
            self.secrets.push((value.to_owned(), source.to_owned()));
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|found| found.severity == Severity::Error)
    }

    /// Everything found, in the order of the file.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, Vec<String>) {
        self.found.sort_by_key(|found| (found.line, found.column));
        (self.found, self.sources.into_iter().collect())
    }

    fn say(&mut self, path: &Path, severity: Severity, message: String, hint: Option<String>) {
        if self.is_spoiled(path) {
            return;
        }
        if severity == Severity::Error {
            self.spoiled.insert(path.clone());
        }
        let message = match self.written.get(path) {
            Some(Written { source, result }) if result.is_empty() => {
                message.replace("``", &format!("`{source}`, which is empty,"))
            }
            Some(Written { source, result }) => {
                message.replace(&format!("`{result}`"), &format!("`{source}`"))
            }
            None => message,
        };
        self.push(self.outline.value_mark(path), severity, message, hint);
    }

    fn push(&mut self, mark: Mark, severity: Severity, message: String, hint: Option<String>) {
        let hide = |mut text: String| {
            for (value, source) in &self.secrets {
                text = text.replace(value, source);
            }
            text
        };
        let found = Diagnostic {
            file: self.file.clone(),
            line: mark.line,
            column: mark.column,
            severity,
            message: hide(message),
            hint: hint.map(hide),
        };
        let alike = self.found.iter().filter(|other| other.severity == severity).count();
        // An aliased value is looked at wherever it is used.
        if alike < FOUND_MAX && !self.found.contains(&found) {
            self.found.push(found);
        }
    }
}
