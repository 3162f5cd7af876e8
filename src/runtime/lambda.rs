//! Functions built for AWS Lambda, as they are: every worker asks a Runtime API of its own for one
//! event at a time. The workers are those of [`super::process`]; here is what they say and hear.

mod answer;
pub(super) mod api;
mod invocation;
mod sqs;

use std::{collections::BTreeMap, num::NonZeroUsize};

use super::{launch::Launcher, process::Process};
use crate::{
    handler::{BoxFuture, Call, Fault, Handler, NonEmpty, Reply},
    manifest::{Function, Lambda as Target, Runtime},
    metrics::WorkerMetrics,
};

pub(super) use invocation::{Invocation, Shape};

/// What AWS gives a function that says nothing of it.
const MEMORY_MIB: u64 = 128;
/// Where the functions are, as far as they can tell.
const REGION: &str = "local";

/// A function and its workers.
pub(super) struct Lambda {
    process: Process,
    takes_all: bool,
}

impl Lambda {
    pub(super) fn new(
        launcher: &Launcher,
        function: &Function,
        concurrency: NonZeroUsize,
        metrics: WorkerMetrics,
    ) -> Self {
        let takes_all = match &function.runtime {
            Runtime::Lambda(target) => Shape::new(&function.name, target).takes_all(),
            _ => false,
        };
        Self { process: Process::new(launcher, function, concurrency, metrics), takes_all }
    }
}

impl Handler for Lambda {
    /// A Lambda function is asked about one event at a time, of a list in its order, unless it wants
    /// records.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(async move {
            if self.takes_all {
                return self.process.call(call).await;
            }
            let Call { events: NonEmpty { first, rest }, timeout, company, .. } = call;
            let mut verdicts = Vec::with_capacity(1 + rest.len());
            for event in std::iter::once(first).chain(rest) {
                let call = Call {
                    events: NonEmpty::one(event),
                    batch: false,
                    state: None,
                    timeout,
                    company,
                };
                verdicts.extend(self.process.call(call).await?.verdicts);
            }
            Ok(Reply { verdicts, state: None })
        })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), Fault>> {
        self.process.start()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.process.stop()
    }
}

/// What a Lambda function finds in its environment; the manifest's `env` counts before it.
pub(super) fn environment(function: &Function, target: &Target) -> BTreeMap<String, String> {
    let name = &function.name;
    let memory = function.memory_limit.map_or(MEMORY_MIB, |limit| (limit >> 20).max(1));
    let log = format!("/aws/lambda/{name}");
    let root = function.cwd.to_string_lossy();
    let mut env: BTreeMap<String, String> = [
        ("AWS_LAMBDA_FUNCTION_NAME", name.as_str()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory.to_string()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", &log),
        ("AWS_LAMBDA_LOG_STREAM_NAME", &format!("[$LATEST]{:016x}", fastrand::u64(..))),
        ("LAMBDA_TASK_ROOT", &root),
        ("_HANDLER", &target.handler),
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
        ("TZ", ":UTC"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    env.extend(function.env.clone());
    env
}
