//! What runs a function, and what has to be known of each runtime without running anything.

use std::path::{Path, PathBuf};

use super::{Component, Http, Lambda};

/// What runs a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// `run: x.py`; absolute path.
    Python(PathBuf),
    /// `run: x.js` or `x.mjs`; absolute path.
    Node(PathBuf),
    /// `run: x.wasm`.
    Wasm(Component),
    /// `command: [...]`: a program that speaks the worker protocol.
    Command(Vec<String>),
    /// `exec: [...]`: one process per event.
    Exec(Vec<String>),
    /// `http: …`: posted to a URL.
    Http(Box<Http>),
    /// `lambda: [...]`: a program with an AWS Lambda runtime client.
    Lambda(Lambda),
    /// `native: true`: compiled in.
    Native,
}

impl Runtime {
    /// In a word or two, and without what could be secret.
    #[must_use]
    pub fn shown(&self) -> String {
        let file =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Self::Python(path) => format!("python {}", file(path)),
            Self::Node(path) => format!("node {}", file(path)),
            Self::Wasm(component) => format!("wasm {}", file(&component.file)),
            Self::Command(command) => format!("command {}", command.join(" ")),
            Self::Exec(command) => format!("exec {}", command.join(" ")),
            Self::Http(http) => format!("http {}", http.shown()),
            Self::Lambda(lambda) => format!("lambda {}", lambda.command.join(" ")),
            Self::Native => "native".to_owned(),
        }
    }

    /// The file whose change is one of the function; `cwd` is where it runs.
    #[must_use]
    pub fn source(&self, cwd: &Path) -> Option<PathBuf> {
        match self {
            Self::Python(path) | Self::Node(path) => Some(path.clone()),
            Self::Exec(command) | Self::Command(command) | Self::Lambda(Lambda { command, .. }) => {
                command.iter().map(|word| cwd.join(word)).find(|path| path.is_file())
            }
            Self::Http(http) => http.ca_file.clone(),
            Self::Wasm(component) => Some(component.file.clone()),
            Self::Native => None,
        }
    }

    /// Whether a function that it runs can read and return state.
    pub(super) const fn keeps_state(&self) -> bool {
        match self {
            Self::Python(_) | Self::Node(_) | Self::Command(_) | Self::Wasm(_) | Self::Native => {
                true
            }
            Self::Exec(_) | Self::Http(_) | Self::Lambda(_) => false,
        }
    }

    /// Those of the keys that functions have in common which it does not heed, and why.
    pub(super) const fn idle_keys(&self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Python(_) | Self::Node(_) | Self::Command(_) | Self::Lambda(_) => (&[], ""),
            Self::Exec(_) => (
                &["workers", "idle_timeout", "start_timeout"],
                "`exec` starts a process for each event and keeps none",
            ),
            Self::Http(_) => (
                &["env", "cwd", "workers", "idle_timeout", "memory_limit", "cpu_limit"],
                "`http` posts to a server that somebody else runs",
            ),
            Self::Wasm(_) => (
                &["cwd", "workers", "idle_timeout", "start_timeout", "cpu_limit"],
                "a component runs inside the runner, an instance for each event",
            ),
            Self::Native => (
                &[
                    "env",
                    "cwd",
                    "workers",
                    "idle_timeout",
                    "start_timeout",
                    "memory_limit",
                    "cpu_limit",
                ],
                "a compiled-in function is a part of the runner",
            ),
        }
    }
}
