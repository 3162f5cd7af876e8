//! Log lines: for people on a terminal, JSON for machines.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl std::default::Default for Format {
    fn default() -> Self {
        if io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// What is logged when `PELTON_LOG` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    /// What happens to the runner, and what functions say.
    Run,
    /// What functions say and what goes wrong: `dev` shows the rest itself.
    Dev,
    /// What goes wrong.
    Quiet,
}

/// Starts logging to standard error.
pub(crate) fn start(default: Default, format: Format) -> Result<(), String> {
    let fallback = match default {
        Default::Run => "warn,pelton=info,function=info",
        Default::Dev => {
            "error,pelton::nats::connect=warn,pelton::binding::health=off,function=info"
        }
        Default::Quiet => "error,function=info",
    };
    let filter = match std::env::var("PELTON_LOG") {
        Ok(text) if !text.trim().is_empty() => {
            EnvFilter::try_new(&text).map_err(|err| format!("PELTON_LOG: `{text}`: {err}"))?
        }
        _ => EnvFilter::new(fallback),
    };
    let layer: Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync> = match format {
        Format::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
        Format::Text => fmt::layer()
            .compact()
            .with_ansi(super::terminal::colours(&io::stderr()))
            .with_target(false)
            .with_writer(io::stderr)
            .boxed(),
    };
    Registry::default().with(layer.with_filter(filter)).try_init().map_err(|err| err.to_string())
}
