//! Keys that change nothing about a function: it runs without them, and not as its author thinks.

use std::path::Path as FilePath;

use crate::manifest::{Runtime, path::Path, raw, report::Report};

/// Keys of a function that only some runtimes heed, as far as they are written.
pub(super) struct Common(Vec<&'static str>);

impl Common {
    pub(super) fn of(raw: &raw::Function) -> Self {
        let keys = [
            ("env", raw.env.is_some()),
            ("cwd", raw.cwd.is_some()),
            ("workers", raw.workers.is_some()),
            ("idle_timeout", raw.idle_timeout.is_some()),
            ("start_timeout", raw.start_timeout.is_some()),
            ("memory_limit", raw.memory_limit.is_some()),
            ("cpu_limit", raw.cpu_limit.is_some()),
        ];
        Self(keys.into_iter().filter(|(_, written)| *written).map(|(key, _)| key).collect())
    }

    /// Warns of those that mean nothing to the runtime.
    pub(super) fn warn(&self, runtime: &Runtime, path: &Path, report: &mut Report) {
        let (idle, why) = runtime.idle_keys();
        for key in self.0.iter().filter(|key| idle.contains(key)) {
            let message = format!("`{key}` does nothing for this function: {why}");
            report.warn(&path.key(key), message, "take it out");
        }
    }
}

/// Modules of Python's standard library that others of it, or common packages, import by name: a
/// file of that name beside or as the function is imported in their place.
const PYTHON: [&str; 43] = [
    "abc",
    "argparse",
    "array",
    "ast",
    "asyncio",
    "base64",
    "calendar",
    "code",
    "codecs",
    "collections",
    "copy",
    "csv",
    "datetime",
    "decimal",
    "email",
    "enum",
    "functools",
    "hashlib",
    "html",
    "http",
    "inspect",
    "io",
    "json",
    "logging",
    "operator",
    "os",
    "pickle",
    "platform",
    "profile",
    "queue",
    "random",
    "re",
    "secrets",
    "select",
    "signal",
    "socket",
    "statistics",
    "string",
    "struct",
    "time",
    "token",
    "types",
    "uuid",
];

/// Warns of a Python file that takes the name of a module it may need.
pub(super) fn warn_of_name(file: &FilePath, path: &Path, report: &mut Report) {
    let Some(name) = file.file_stem().and_then(|name| name.to_str()) else { return };
    if PYTHON.contains(&name) {
        report.warn(
            path,
            format!("`{name}.py` hides Python's own module `{name}` from whatever imports it"),
            format!("rename it, to {name}_function.py or the like"),
        );
    }
}
