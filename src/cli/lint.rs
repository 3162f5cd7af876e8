//! `pelton lint`: checks manifests without touching NATS.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use pelton::{
    manifest::{Diagnostic, Loaded, Manifest, Mode, Severity},
    runtime,
};

/// Checks manifests offline
#[derive(Debug, clap::Args)]
pub(crate) struct LintArgs {
    /// Manifests to check
    #[arg(value_name = "FILE", default_value = "pelton.yaml")]
    files: Vec<PathBuf>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people: `file:line:column: severity: message`
    Text,
    /// An array of objects
    Json,
    /// Annotations of a GitHub workflow
    Github,
}

/// Prints what is wrong with each manifest; fails if anything is an error.
pub(crate) fn run(args: &LintArgs) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut found = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for file in &args.files {
        let (diagnostics, summary) = check(file);
        if summary.is_none() {
            code = ExitCode::FAILURE;
        }
        for diagnostic in &diagnostics {
            match args.format {
                Format::Text => writeln!(out, "{diagnostic}")?,
                Format::Github => writeln!(out, "{}", diagnostic.github())?,
                Format::Json => {}
            }
        }
        if let Some(summary) = summary.filter(|_| args.format != Format::Json) {
            writeln!(out, "{summary}")?;
        }
        found.extend(diagnostics);
    }
    if args.format == Format::Json {
        let found = serde_json::Value::Array(found.iter().map(Diagnostic::json).collect());
        writeln!(out, "{found:#}")?;
    }
    Ok(code)
}

/// What was found, and a line about the manifest if it can be used.
fn check(file: &Path) -> (Vec<Diagnostic>, Option<String>) {
    match Manifest::read(file, Mode::Lint) {
        Ok(loaded) => {
            let broken = components(file, &loaded);
            let Loaded { manifest, mut warnings, .. } = loaded;
            if !broken.is_empty() {
                warnings.extend(broken);
                warnings.sort_by_key(|found| (found.line, found.column));
                return (warnings, None);
            }
            let functions = plural(manifest.functions.len(), "function");
            let bindings = plural(manifest.bindings.len(), "binding");
            let summary = format!("ok: {}: {functions}, {bindings}", manifest.name);
            (warnings, Some(summary))
        }
        Err(diagnostics) => (diagnostics.0, None),
    }
}

/// What keeps functions from running that can be read off their files.
fn components(file: &Path, loaded: &Loaded) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for function in loaded.manifest.functions.values() {
        let (line, column) = loaded.places.get(&function.name).copied().unwrap_or((1, 1));
        found.extend(runtime::problems(function).into_iter().map(|problem| Diagnostic {
            file: file.display().to_string(),
            line,
            column,
            severity: Severity::Error,
            message: format!("the function {} cannot run: {problem}", function.name),
            hint: None,
        }));
    }
    found
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}
