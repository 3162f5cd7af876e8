//! The command line: one file for each verb.

mod apply;
mod completions;
mod dev;
mod dlq;
mod invoke;
mod lint;
mod list;
mod logging;
mod new;
mod pause;
mod payload;
mod permissions;
mod plan;
mod replay;
mod run;
mod schema;
mod send;
mod signals;
mod terminal;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};

use pelton::{
    manifest::{Loaded, Manifest},
    metrics::Metrics,
    nats::{Connection, ConnectionError, ProvisionError},
    runner::RunError,
    telemetry,
};

/// Runs functions on NATS JetStream events.
#[derive(Debug, Parser)]
#[command(name = "pelton", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// How log lines look; by default text on a terminal, JSON otherwise.
    #[arg(long, global = true, value_enum, env = "PELTON_LOG_FORMAT")]
    log_format: Option<logging::Format>,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 found problems, 2 usage, 3 NATS unreachable or refused.
Environment: PELTON_LOG sets what is logged (info, debug, pelton::nats=debug …), NO_COLOR turns colours off.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Try a manifest on a private nats-server; reloads when a file changes.
    Dev(dev::Args),
    /// Run a manifest's functions on their events.
    Run(run::Args),
    /// Check manifests without connecting to anything.
    Lint(lint::LintArgs),
    /// Call a function once, here, without NATS.
    Invoke(invoke::Args),
    /// Publish one event, or a file of them, and wait until they are stored.
    Send(send::Args),
    /// Show bindings with their lag, state and last error.
    List(list::Args),
    /// Look at dead letters, send them again, throw them away.
    Dlq(dlq::Args),
    /// Run stored events through a binding's function once more.
    Replay(replay::Args),
    /// Keep a binding's events from being delivered.
    Pause(pause::PauseArgs),
    /// Let a paused binding go on.
    Resume(pause::ResumeArgs),
    /// Show what would change in NATS for a manifest.
    Plan(plan::Args),
    /// Change in NATS what differs from a manifest.
    Apply(apply::Args),
    /// Print the least NATS permissions that a manifest needs.
    Permissions(permissions::Args),
    /// Write a small working project to begin with.
    New(new::Args),
    /// Print the JSON Schema of the manifest.
    Schema(schema::SchemaArgs),
    /// Print completions for a shell.
    Completions(completions::Args),
}

/// Runs the command line and says how the process should end.
pub(crate) fn main() -> ExitCode {
    let Cli { verb, log_format } = Cli::parse();
    let format = log_format.unwrap_or_else(|| match &verb {
        Verb::Run(_) => logging::Format::default(),
        _ => logging::Format::Text,
    });
    let result = match verb {
        Verb::Lint(args) => lint::run(&args).map_err(Failure::from),
        Verb::Schema(args) => schema::run(&args).map_err(Failure::from),
        Verb::New(args) => new::run(&args),
        Verb::Permissions(args) => permissions::run(&args),
        Verb::Completions(args) => return completions::run(&args),
        Verb::Dev(args) => on_runtime(logging::Default::Dev, format, dev::run(args)),
        Verb::Run(args) => on_runtime(logging::Default::Run, format, run::run(args)),
        Verb::Invoke(args) => on_runtime(logging::Default::Quiet, format, invoke::run(args)),
        Verb::Send(args) => on_runtime(logging::Default::Quiet, format, send::run(args)),
        Verb::Plan(args) => on_runtime(logging::Default::Quiet, format, plan::run(args)),
        Verb::Apply(args) => on_runtime(logging::Default::Quiet, format, apply::run(args)),
        Verb::List(args) => on_runtime(logging::Default::Quiet, format, list::run(args)),
        Verb::Dlq(args) => on_runtime(logging::Default::Quiet, format, dlq::run(args)),
        Verb::Replay(args) => on_runtime(logging::Default::Quiet, format, replay::run(args)),
        Verb::Pause(args) => on_runtime(logging::Default::Quiet, format, pause::pause(args)),
        Verb::Resume(args) => on_runtime(logging::Default::Quiet, format, pause::resume(args)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}

/// Why a verb failed, which decides the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong with what was given; 1.
    Problem(String),
    /// The command line asks for something impossible; 2.
    Usage(String),
    /// NATS is unreachable or refuses us; 3.
    Nats(String),
}

impl Failure {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Problem(_) => 1,
            Self::Usage(_) => 2,
            Self::Nats(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problem(text) | Self::Usage(text) | Self::Nats(text) => f.write_str(text),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(err: std::io::Error) -> Self {
        if err.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        Self::Problem(format!("cannot write: {err}"))
    }
}

impl From<ConnectionError> for Failure {
    fn from(err: ConnectionError) -> Self {
        match err {
            ConnectionError::Settings(_) => Self::Problem(err.to_string()),
            ConnectionError::Refused(_) => {
                Self::Nats(format!("{err}\n  check the credentials under `nats` in the manifest"))
            }
            ConnectionError::Unreachable { .. } => Self::Nats(format!(
                "{err}\n  is it running? `pelton dev` starts a private one; NATS_URL or `nats.servers` says where yours is"
            )),
        }
    }
}

impl From<ProvisionError> for Failure {
    fn from(err: ProvisionError) -> Self {
        match err {
            ProvisionError::Problems(_) => Self::Problem(err.to_string()),
            ProvisionError::Unavailable(_) => Self::Nats(err.to_string()),
        }
    }
}

impl From<RunError> for Failure {
    fn from(err: RunError) -> Self {
        match err {
            RunError::Connection(err) => err.into(),
            RunError::Provision(err) => err.into(),
            RunError::Build(err) => Self::Problem(err.to_string()),
        }
    }
}

/// How long verbs that end by themselves wait for NATS.
const PATIENCE: Duration = Duration::from_secs(5);

/// The manifest to use when none is named.
const DEFAULT_FILE: &str = "pelton.yaml";

/// Loads a manifest, showing its warnings.
fn load(file: Option<&Path>) -> Result<Loaded, Failure> {
    let path = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_path_buf);
    if file.is_none() && !path.exists() {
        return Err(Failure::Usage(format!(
            "there is no {DEFAULT_FILE} here: name the manifest, as in `pelton dev path/to/pelton.yaml`"
        )));
    }
    let loaded = Manifest::load(&path).map_err(|found| {
        let count = found.errors();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        Failure::Problem(format!("{} has {count} {noun}\n{found}", path.display()))
    })?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

/// Connects as a manifest says; gives up after a while.
async fn connect(manifest: &Manifest) -> Result<Connection, Failure> {
    let metrics = Arc::new(Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?);
    Ok(Connection::open(&manifest.nats, &manifest.name, Some(PATIENCE), metrics).await?)
}

/// Something as programs read it.
fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|err| Failure::Problem(err.to_string()))
}

fn on_runtime(
    log: logging::Default,
    format: logging::Format,
    verb: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    logging::start(log, format).map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::Problem(format!("no threads to run on: {err}")))?;
    let result = runtime.block_on(async {
        let exporting = telemetry::start().await.map_err(Failure::Problem)?;
        let result = verb.await;
        exporting.finish().await;
        result
    });
    runtime.shutdown_background();
    result
}
