//! From a file to a [`Manifest`], step by step.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    Diagnostic, Diagnostics, Manifest, Severity,
    document::{self, BYTES_MAX, Document},
    outline::Mark,
    path, read,
    report::Report,
    substitute::Surroundings,
    validate::{self, Context},
};

/// What a manifest is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To be checked, maybe where the environment of the runner is not: what is unset is a warning.
    Lint,
    /// To be run: what is unset is an error.
    Run,
}

/// A manifest, and what else there is to know.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// In [`Mode::Lint`], what depends on something unset is left out, empty or at its default.
    pub manifest: Manifest,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Environment variables (`X`) and files (`file:/run/secrets/x`) that were substituted.
    pub secrets: Vec<String>,
    /// Where the text says what runs a function, by the function's name: line and column.
    pub places: BTreeMap<String, (usize, usize)>,
}

impl Manifest {
    /// Reads a manifest to run it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
        Self::read(path, Mode::Run)
    }

    /// Reads a manifest with the environment of this process.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(path: &Path, mode: Mode) -> Result<Loaded, Diagnostics> {
        let bytes = read_file(path).map_err(|err| {
            let hint = match err.kind() {
                io::ErrorKind::NotFound => "name the manifest, or go to the folder that holds it",
                _ => "it must be a file that can be read",
            };
            alone(path, Mark::START, format!("the manifest cannot be read: {err}"), hint)
        })?;
        let text = String::from_utf8(bytes).map_err(|err| {
            let good = err.utf8_error().valid_up_to();
            let mark = mark_after(err.as_bytes().get(..good).unwrap_or_default());
            alone(path, mark, "this is no UTF-8".to_owned(), "save the file as UTF-8 text")
        })?;
        Self::parse(&text, path, &|name| std::env::var(name).ok(), mode)
    }

    /// Reads a manifest from its text; `path` is where it is said to be, and what relative paths
    /// start from.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        mode: Mode,
    ) -> Result<Loaded, Diagnostics> {
        let Document { mut value, outline } = document::read(text).map_err(|wrong| {
            Diagnostics(vec![Diagnostic {
                file: shown(path),
                line: wrong.mark.line,
                column: wrong.mark.column,
                severity: Severity::Error,
                message: wrong.message,
                hint: wrong.hint,
            }])
        })?;
        let mut report = Report::new(shown(path));
        report.outline(outline);
        if value.is_null() {
            let hint = "begin with `version: 1` and `name: shop`";
            return Err(alone(path, Mark::START, "the manifest is empty".to_owned(), hint));
        }
        let dir = folder(path);
        let surroundings = Surroundings { env, dir: &dir, mode };
        let root = path::Path::root();
        surroundings.substitute(&mut value, &root, &mut report);
        let raw = read::read(&mut value, &mut report);
        let digest = digest(text);
        let listen = env("PELTON_ADMIN_LISTEN");
        let mut manifest = None;
        if !report.is_spoiled(&root) {
            let context = Context { dir, digest, listen };
            manifest = Some(validate::validate(raw, context, &mut report));
        }
        let valid = !report.has_errors();
        let functions = manifest.iter().flat_map(|manifest| manifest.functions.keys());
        let places = functions.map(|name| (name.clone(), place(name, &report))).collect();
        let (found, secrets) = report.finish();
        match manifest {
            Some(manifest) if valid => Ok(Loaded { manifest, warnings: found, secrets, places }),
            _ => Err(Diagnostics(found)),
        }
    }
}

fn place(function: &str, report: &Report) -> (usize, usize) {
    let path = path::Path::root().key("functions").key(function).key("run");
    let mark = report.positions().value_mark(&path);
    (mark.line, mark.column)
}

fn alone(path: &Path, mark: Mark, message: String, hint: &str) -> Diagnostics {
    Diagnostics(vec![Diagnostic {
        file: shown(path),
        line: mark.line,
        column: mark.column,
        severity: Severity::Error,
        message,
        hint: Some(hint.to_owned()),
    }])
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// One byte more than a manifest may have tells a large one from one that just fits.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX as u64 + 4).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn mark_after(good: &[u8]) -> Mark {
    let text = String::from_utf8_lossy(good);
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Mark { line, column }
}

fn folder(path: &Path) -> std::path::PathBuf {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    dir.components().collect()
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
