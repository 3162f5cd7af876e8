//! Functions become handlers.

pub mod launch;
pub mod native;

mod cgroup;
mod exec;
pub(crate) mod http;
mod lambda;
mod logs;
mod process;
#[cfg(feature = "wasm")]
mod wasm;

use std::{num::NonZeroUsize, sync::Arc};

use thiserror::Error;
use tracing::warn;

use crate::{
    handler::Handler,
    keyvalue::Buckets,
    manifest::{Function, Lambda, Runtime},
    metrics::WorkerMetrics,
};

pub use launch::Launcher;
pub use native::{IntoVerdict, Natives};

/// Why a function has no handler.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum BuildError {
    /// It is declared as compiled in, and is not.
    #[error(
        "no function `{0}` is compiled into this program: `native` is for programs that embed Pelton"
    )]
    NotCompiledIn(String),
    /// A component, and this program was built without what runs it.
    #[error("function `{0}`: this pelton was built without WebAssembly (cargo feature `wasm`)")]
    NoWasm(String),
    /// `exec`, `command` or `lambda` without a program.
    #[error("function `{0}` names no program")]
    NoProgram(String),
}

/// Builds the handler of one binding's function. Starts nothing.
///
/// # Errors
/// When there is nothing that could be run. What cannot be started *now* is no error: a call says
/// so, and tries again.
pub fn build(
    function: &Function,
    concurrency: NonZeroUsize,
    metrics: WorkerMetrics,
    natives: &Natives,
) -> Result<Arc<dyn Handler>, BuildError> {
    let launcher = Launcher::default();
    let surroundings = Surroundings { launcher: &launcher, natives, buckets: None };
    build_with(&surroundings, function, concurrency, metrics)
}

/// What handlers are given besides their function.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// How processes are started.
    pub launcher: &'a Launcher,
    /// Functions that are compiled in.
    pub natives: &'a Natives,
    /// Where buckets are; none: nowhere.
    pub buckets: Option<&'a Arc<dyn Buckets>>,
}

/// As [`build`], in other surroundings than the usual ones.
///
/// # Errors
/// As [`build`].
pub fn build_with(
    surroundings: &Surroundings<'_>,
    function: &Function,
    concurrency: NonZeroUsize,
    metrics: WorkerMetrics,
) -> Result<Arc<dyn Handler>, BuildError> {
    let Surroundings { launcher, natives, .. } = *surroundings;
    match &function.runtime {
        Runtime::Native => natives
            .get(&function.name)
            .ok_or_else(|| BuildError::NotCompiledIn(function.name.clone())),
        Runtime::Exec(command)
        | Runtime::Command(command)
        | Runtime::Lambda(Lambda { command, .. })
            if command.is_empty() =>
        {
            Err(BuildError::NoProgram(function.name.clone()))
        }
        #[cfg(feature = "wasm")]
        Runtime::Wasm(component) => {
            Ok(Arc::new(wasm::Wasm::new(function, component, concurrency, surroundings.buckets)))
        }
        #[cfg(not(feature = "wasm"))]
        Runtime::Wasm(_) => Err(BuildError::NoWasm(function.name.clone())),
        Runtime::Exec(command) => Ok(Arc::new(exec::Exec::new(launcher, function, command))),
        Runtime::Http(spec) => Ok(Arc::new(http::Http::new(function, spec))),
        Runtime::Lambda(_) => {
            Ok(Arc::new(lambda::Lambda::new(launcher, function, concurrency, metrics)))
        }
        Runtime::Command(_) | Runtime::Python(_) | Runtime::Node(_) => {
            Ok(Arc::new(process::Process::new(launcher, function, concurrency, metrics)))
        }
    }
}

/// What a process of the function may use.
fn limits(function: &Function) -> cgroup::Limits {
    // Asked for whatever the limits: it also takes away what a killed runner left.
    if let Some(why) = cgroup::no_cpu()
        && function.cpu_limit.is_some()
    {
        warn!(function = function.name, why, "cpu_limit is not kept here");
    }
    cgroup::Limits { memory: function.memory_limit, cpu: function.cpu_limit }
}

/// What can be known of a function without running it to keep it from running, each in a sentence.
/// Files that are missing are the manifest's to tell.
#[must_use]
pub fn problems(function: &Function) -> Vec<String> {
    match &function.runtime {
        #[cfg(feature = "wasm")]
        Runtime::Wasm(component) => wasm::problems(component),
        #[cfg(not(feature = "wasm"))]
        Runtime::Wasm(_) => vec![BuildError::NoWasm(function.name.clone()).to_string()],
        _ => Vec::new(),
    }
}
