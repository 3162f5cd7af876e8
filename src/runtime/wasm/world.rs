//! The worlds that a component can be built for. One today: a component built for another, such as
//! `wasi:messaging`, would be a variant here, told by what it exports, with its own translation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use thiserror::Error;
use wasmtime::{
    Store,
    component::{HasSelf, InstancePre, Linker},
};

use self::generated::{FunctionPre, exports::pelton::event::handler as wit};
use super::{guest::Guest, inspect::Face, keyvalue};
use crate::{
    event::{Cause, Event, Outgoing, State, Verdict},
    handler::{Call, Reply},
};

pub(super) use self::generated::pelton;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod generated {
    wasmtime::component::bindgen!({
        path: "functions/wit",
        world: "function",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

const HANDLER: &str = "pelton:event/handler@0.1.";

/// A world that Pelton knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum World {
    /// `pelton:event/function`.
    Event,
}

impl World {
    /// The world that a component was built for.
    pub(super) fn of(face: &Face) -> Option<Self> {
        face.exports.iter().any(|name| name.starts_with(HANDLER)).then_some(Self::Event)
    }

    /// A component of this world, ready to be instantiated.
    pub(super) fn prepare(self, linked: InstancePre<Guest>) -> wasmtime::Result<Prepared> {
        match self {
            Self::Event => Ok(Prepared::Event(FunctionPre::new(linked)?)),
        }
    }
}

/// Links what components of any world may import.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    keyvalue::link(linker)?;
    generated::Function::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// A component that is compiled and linked.
pub(super) enum Prepared {
    Event(FunctionPre<Guest>),
}

impl Prepared {
    pub(super) async fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<Instance> {
        match self {
            Self::Event(linked) => Ok(Instance::Event(linked.instantiate_async(store).await?)),
        }
    }
}

/// A component that runs.
pub(super) enum Instance {
    Event(generated::Function),
}

/// Why a call has no reply.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// It broke off.
    #[error(transparent)]
    Broken(#[from] wasmtime::Error),
    /// What came back is no reply.
    #[error("{0}")]
    BadReply(String),
}

impl Instance {
    pub(super) async fn call(
        &self,
        store: &mut Store<Guest>,
        call: &Call,
    ) -> Result<Reply, CallError> {
        match self {
            Self::Event(function) => {
                let headers: Vec<Vec<(&str, &str)>> =
                    call.events.iter().map(|event| event.headers.iter().collect()).collect();
                let ids: Vec<String> = call.events.iter().map(|e| e.id.to_string()).collect();
                let events: Vec<wit::Event<'_>> = (call.events.iter().zip(&ids).zip(&headers))
                    .map(|((event, id), headers)| lower(event, id, headers))
                    .collect();
                let state = call.state.as_ref().map(|State(state)| state.to_string());
                let deadline = nanoseconds(SystemTime::now() + call.timeout);
                let lowered = wit::Call { events: &events, state: state.as_deref(), deadline };
                let reply = function.pelton_event_handler().call_handle(store, lowered).await?;
                lift(reply, call)
            }
        }
    }
}

fn lower<'a>(event: &'a Event, id: &'a str, headers: &'a [(&'a str, &'a str)]) -> wit::Event<'a> {
    wit::Event {
        id,
        stream: &event.id.stream,
        sequence: event.id.sequence,
        subject: &event.subject,
        time: nanoseconds(event.time.into()),
        attempt: event.attempt,
        headers,
        data: &event.data,
    }
}

fn lift(reply: wit::Reply, call: &Call) -> Result<Reply, CallError> {
    let (said, asked) = (reply.verdicts.len(), call.events.len());
    if said != asked {
        return Err(CallError::BadReply(format!("{said} verdicts for {asked} events")));
    }
    let state = match reply.state {
        None => call.state.clone(),
        Some(text) => Some(State(serde_json::from_str::<Value>(&text).map_err(|err| {
            CallError::BadReply(format!("the state it returned is no JSON: {err}"))
        })?)),
    };
    Ok(Reply { verdicts: reply.verdicts.into_iter().map(verdict).collect(), state })
}

fn verdict(said: Result<Vec<wit::Output>, wit::Failure>) -> Verdict {
    match said {
        Ok(outputs) => Verdict::Done(outputs.into_iter().map(outgoing).collect()),
        Err(wit::Failure::Retry(retry)) => {
            let after = retry.after.map(Duration::from_millis);
            Verdict::Retry { reason: retry.reason, after }
        }
        Err(wit::Failure::Reject(reason)) => Verdict::Reject { cause: Cause::Rejected, reason },
        Err(wit::Failure::Undecodable(reason)) => {
            Verdict::Reject { cause: Cause::Undecodable, reason }
        }
    }
}

fn outgoing(output: wit::Output) -> Outgoing {
    Outgoing {
        subject: output.subject,
        headers: output.headers.into_iter().collect(),
        data: Bytes::from(output.data),
    }
}

/// Since 1970; what lies before is 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
