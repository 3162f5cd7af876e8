//! What is wrong with a manifest, and where.

use std::fmt;

use serde_json::json;

/// Whether a manifest can be used in spite of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but probably does not do what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as it was named by the user.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Whether it stops the manifest from being used.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, severity, message, hint } = self;
        write!(f, "{file}:{line}:{column}: {severity}: {message}")?;
        match hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Diagnostic {
    /// An object with a key for each field.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "severity": self.severity.to_string(),
            "message": self.message,
            "hint": self.hint,
        })
    }

    /// A workflow command that GitHub shows beside the line.
    #[must_use]
    pub fn github(&self) -> String {
        let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let hint = self.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        format!(
            "::{} file={},line={},col={}::{}",
            self.severity,
            property(&self.file),
            self.line,
            self.column,
            data(&format!("{}{hint}", self.message)),
        )
    }
}

/// Everything that was found, in the order of the file; at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// How many are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|found| found.severity == Severity::Error).count()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, found) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            found.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Diagnostic {
        Diagnostic {
            file: "a,b.yaml".to_owned(),
            line: 3,
            column: 7,
            severity: Severity::Warning,
            message: "100% wrong".to_owned(),
            hint: Some("do: this".to_owned()),
        }
    }

    #[test]
    fn text_has_the_hint_on_a_line_of_its_own() {
        assert_eq!(found().to_string(), "a,b.yaml:3:7: warning: 100% wrong\n  hint: do: this");
    }

    #[test]
    fn github_annotations_escape_what_would_end_a_field() {
        assert_eq!(
            found().github(),
            "::warning file=a%2Cb.yaml,line=3,col=7::100%25 wrong%0Ahint: do: this"
        );
    }
}
