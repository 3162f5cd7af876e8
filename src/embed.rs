//! Pelton as a library: functions compiled into the program that runs them.

use std::{future::Future, path::PathBuf, sync::Arc};

use serde_json::Value;
use thiserror::Error;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    admin,
    event::{Event, Verdict},
    manifest::{Diagnostics, Manifest},
    metrics::Metrics,
    nats::Provisioning,
    runner::{FirstStart, RunError, Runner, Status},
    runtime::{Launcher, Natives, launch, native::IntoVerdict},
    shutdown::Shutdown,
};

/// The way in for programs that embed Pelton.
#[derive(Debug)]
pub struct Pelton;

/// A runner in the making.
#[derive(Debug)]
pub struct Builder {
    natives: Natives,
    file: PathBuf,
}

/// Why an embedded runner ended otherwise than told to.
#[derive(Debug, Error)]
pub enum Error {
    /// The manifest has mistakes.
    #[error(transparent)]
    Manifest(#[from] Diagnostics),
    /// It cannot run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The admin port cannot be had.
    #[error("{0}")]
    Admin(String),
    /// Metrics cannot be registered.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

impl Pelton {
    /// Begins a runner. Call it first thing in `main`, before threads or files are opened: workers
    /// of other functions are started by executing this program once more, and this is where such
    /// a start is recognised.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), pelton::Error> {
    /// use pelton::{Pelton, Shutdown, event::Event};
    ///
    /// Pelton::builder()
    ///     .function("audit", async |event: Event| println!("{}", event.id))
    ///     .manifest("pelton.yaml")
    ///     .run(Shutdown::default())
    ///     .await
    /// # }
    /// ```
    #[must_use]
    pub fn builder() -> Builder {
        launch::intercept();
        Builder { natives: Natives::new(), file: PathBuf::from("pelton.yaml") }
    }
}

impl Builder {
    /// Compiles a function in: what the manifest declares as `name: { native: true }`.
    #[must_use]
    pub fn function<F, R>(mut self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(Event) -> R + Send + Sync + 'static,
        R: Future<Output: IntoVerdict> + Send + 'static,
    {
        self.natives.insert(name, function);
        self
    }

    /// As [`function`](Self::function), for bindings with `batch`: several events in, as many
    /// verdicts out, in the same order.
    #[must_use]
    pub fn batch_function<F, R>(mut self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(Vec<Event>) -> R + Send + Sync + 'static,
        R: Future<Output = Vec<Verdict>> + Send + 'static,
    {
        self.natives.insert_batched(name, function);
        self
    }

    /// As [`function`](Self::function), for bindings with `state`: the event and the state of its
    /// key in (null when that is new), a verdict and the next state out.
    #[must_use]
    pub fn stateful_function<F, R, V>(mut self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(Event, Value) -> R + Send + Sync + 'static,
        R: Future<Output = (V, Value)> + Send + 'static,
        V: IntoVerdict + Send + 'static,
    {
        self.natives.insert_stateful(name, function);
        self
    }

    /// The manifest to run; `pelton.yaml` in the working directory otherwise.
    #[must_use]
    pub fn manifest(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = file.into();
        self
    }

    /// Runs until `shutdown` has drained, with health and metrics on the manifest's admin address.
    /// Signals are the caller's to turn into a shutdown.
    ///
    /// # Errors
    /// Mistakes in the manifest, or whatever keeps it from running.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let manifest = Manifest::load(&self.file)?.manifest;
        let metrics = Arc::new(Metrics::new()?);
        let listener = admin::bind(manifest.admin).await.map_err(Error::Admin)?;
        let (status, seen) = watch::channel(Status::default());
        let mut background = JoinSet::new();
        background.spawn(admin::serve(listener, Arc::clone(&metrics), seen));
        let runner = Runner {
            manifest: Arc::new(manifest),
            natives: self.natives,
            launcher: Launcher::default(),
            metrics,
            observer: None,
            provisioning: Provisioning::CreateMissing,
            first_start: FirstStart::WithFirstEvent,
            exit_when_idle: false,
            editions: None,
        };
        Ok(runner.run(shutdown, &status).await?)
    }
}
