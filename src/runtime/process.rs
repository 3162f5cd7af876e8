//! Functions in processes of their own that stay: Python and Node through the shims, and any
//! program that speaks the worker protocol.

mod asked;
mod desk;
mod frame;
mod life;
mod member;
mod page;
mod pool;
mod roster;
mod talk;
mod worker;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread::available_parallelism,
};

use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::error;

use self::{life::Limits, pool::Pool};
use super::{
    lambda::{self, Shape},
    launch::{Launcher, Program},
};
use crate::{
    handler::{BoxFuture, Call, Fault, Handler, Reply},
    manifest::{Function, Runtime},
    metrics::WorkerMetrics,
};

const PYTHON_SHIM: &str = include_str!("shims/pelton.py");
const NODE_SHIM: &str = include_str!("shims/pelton.mjs");

/// What every worker of a function has in common.
struct Spec {
    function: String,
    wire: Wire,
    program: Program,
    launcher: Launcher,
    limits: Limits,
    metrics: WorkerMetrics,
}

/// How workers are talked to.
enum Wire {
    /// In frames over a socket; a shim loads the file.
    Frames { file: Option<PathBuf> },
    /// They ask for their events, which have this shape.
    Lambda(Shape),
}

/// A function and its workers.
pub(super) struct Process {
    spec: Arc<Spec>,
    pool: Arc<Pool>,
    /// Starts and owns the workers; they end with it.
    supervisor: OnceLock<AbortOnDropHandle<()>>,
    /// Cancelled once the last worker has ended.
    ended: CancellationToken,
}

impl Process {
    pub(super) fn new(
        launcher: &Launcher,
        function: &Function,
        concurrency: NonZeroUsize,
        metrics: WorkerMetrics,
    ) -> Self {
        let cores = available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let workers = function.workers.unwrap_or(cores).min(concurrency).get();
        let asks = matches!(function.runtime, Runtime::Lambda(_));
        let limits = Limits {
            workers,
            slots: if asks { 1 } else { concurrency.get().div_ceil(workers) },
            idle_timeout: function.idle_timeout,
            start_timeout: function.start_timeout,
            pages: matches!(function.runtime, Runtime::Python(_)),
        };
        let (command, env, wire) = program(function);
        let program =
            Program { command, env, cwd: function.cwd.clone(), limits: super::limits(function) };
        let spec = Spec {
            function: function.name.clone(),
            wire,
            program,
            launcher: launcher.clone(),
            limits,
            metrics,
        };
        Self {
            spec: Arc::new(spec),
            pool: Arc::new(Pool::new(limits)),
            supervisor: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    fn supervised(&self) -> &Pool {
        self.supervisor.get_or_init(|| {
            let workers = supervise(Arc::clone(&self.spec), Arc::clone(&self.pool));
            let ended = self.ended.clone().drop_guard();
            AbortOnDropHandle::new(tokio::spawn(async move {
                workers.await;
                drop(ended);
            }))
        });
        &self.pool
    }
}

impl Handler for Process {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(async move {
            let pool = self.supervised();
            let (ticket, reply) = pool.submit(call)?;
            Waiting { pool, ticket, reply: Some(reply) }.reply().await
        })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let started = self.supervised().start()?;
            started.await.unwrap_or_else(|_| Err(lost()))
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.pool.close();
            if self.supervisor.get().is_some() {
                self.ended.cancelled().await;
            }
        })
    }
}

/// Somebody waits for a reply; dropped before there is one, the work stops.
struct Waiting<'a> {
    pool: &'a Pool,
    ticket: u64,
    reply: Option<oneshot::Receiver<Result<Reply, Fault>>>,
}

impl Waiting<'_> {
    async fn reply(mut self) -> Result<Reply, Fault> {
        let Some(reply) = &mut self.reply else { return Err(lost()) };
        let answer = reply.await.unwrap_or_else(|_| Err(lost()));
        self.reply = None;
        answer
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            // First, so that the pool sees that nobody waits.
            drop(reply);
            self.pool.forget(self.ticket);
        }
    }
}

fn lost() -> Fault {
    Fault::Unavailable("the function's workers are gone".to_owned())
}

/// Starts the workers that the pool plans, until it is closed and the last has ended.
async fn supervise(spec: Arc<Spec>, pool: Arc<Pool>) {
    let mut workers = JoinSet::new();
    loop {
        for plan in pool.plans() {
            workers.spawn(worker::run(Arc::clone(&spec), Arc::clone(&pool), plan));
        }
        let closing = pool.closing.is_cancelled();
        if closing && workers.is_empty() {
            return;
        }
        tokio::select! {
            () = pool.planned.notified() => {}
            () = pool.closing.cancelled(), if !closing => {}
            Some(ended) = workers.join_next() => {
                if let Err(err) = ended {
                    error!(function = %spec.function, %err, "a worker's task broke off");
                }
            }
        }
    }
}

/// What is executed, in which environment, and how it is talked to.
fn program(function: &Function) -> (Vec<OsString>, BTreeMap<String, String>, Wire) {
    let interpreter = |variable: &str, default: &str| {
        std::env::var_os(variable).filter(|path| !path.is_empty()).unwrap_or_else(|| default.into())
    };
    let words = |command: &[String]| command.iter().map(Into::into).collect();
    let (command, file) = match &function.runtime {
        Runtime::Python(file) => {
            let python = interpreter("PELTON_PYTHON", "python3");
            (vec![python, "-u".into(), "-c".into(), PYTHON_SHIM.into()], Some(file.clone()))
        }
        Runtime::Node(file) => {
            let mut command = vec![interpreter("PELTON_NODE", "node")];
            // Node then collects garbage in time, and says so when that is not enough.
            command.extend(function.memory_limit.map(|limit| {
                OsString::from(format!("--max-old-space-size={}", (limit >> 20) * 3 / 4))
            }));
            command.extend(["--input-type=module".into(), "--eval".into(), NODE_SHIM.into()]);
            (command, Some(file.clone()))
        }
        Runtime::Lambda(target) => {
            let shape = Shape::new(&function.name, target);
            let env = lambda::environment(function, target);
            return (words(&target.command), env, Wire::Lambda(shape));
        }
        Runtime::Command(command) => (words(command), None),
        // None of the others has workers.
        _ => (Vec::new(), None),
    };
    (command, function.env.clone(), Wire::Frames { file })
}
