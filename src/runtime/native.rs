//! Functions that are compiled in.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::{
    event::{Event, Outgoing, State, Verdict},
    handler::{BoxFuture, Call, Fault, Handler, Reply},
    panics,
};

/// The compiled-in functions of a program, by name.
#[derive(Clone, Default)]
pub struct Natives(HashMap<String, Arc<dyn Handler>>);

impl Natives {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function; one of the same name is replaced.
    ///
    /// A panic is a crash of this call alone, but code that aborts or never yields takes the
    /// runner with it.
    pub fn insert<F, R>(&mut self, name: impl Into<String>, function: F)
    where
        F: Fn(Event) -> R + Send + Sync + 'static,
        R: Future<Output: IntoVerdict> + Send + 'static,
    {
        self.0.insert(name.into(), Arc::new(Native(function)));
    }

    /// Adds a function for bindings with `batch`: it gets several events and returns as many
    /// verdicts, in the same order.
    pub fn insert_batched<F, R>(&mut self, name: impl Into<String>, function: F)
    where
        F: Fn(Vec<Event>) -> R + Send + Sync + 'static,
        R: Future<Output = Vec<Verdict>> + Send + 'static,
    {
        self.0.insert(name.into(), Arc::new(Batched(function)));
    }

    /// Adds a function for bindings with `state`: it gets the state of the event's key (null when
    /// that is new) and returns the next one, which counts if the verdict is done.
    pub fn insert_stateful<F, R, V>(&mut self, name: impl Into<String>, function: F)
    where
        F: Fn(Event, Value) -> R + Send + Sync + 'static,
        R: Future<Output = (V, Value)> + Send + 'static,
        V: IntoVerdict + Send + 'static,
    {
        self.0.insert(name.into(), Arc::new(Stateful(function)));
    }

    /// The handler of a function.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Handler>> {
        self.0.get(name).cloned()
    }
}

impl fmt::Debug for Natives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What a compiled-in function may return.
pub trait IntoVerdict {
    /// As a verdict.
    fn into_verdict(self) -> Verdict;
}

impl IntoVerdict for Verdict {
    fn into_verdict(self) -> Verdict {
        self
    }
}

impl IntoVerdict for () {
    fn into_verdict(self) -> Verdict {
        Verdict::Done(Vec::new())
    }
}

impl IntoVerdict for Outgoing {
    fn into_verdict(self) -> Verdict {
        Verdict::Done(vec![self])
    }
}

impl IntoVerdict for Option<Outgoing> {
    fn into_verdict(self) -> Verdict {
        Verdict::Done(self.into_iter().collect())
    }
}

impl IntoVerdict for Vec<Outgoing> {
    fn into_verdict(self) -> Verdict {
        Verdict::Done(self)
    }
}

/// An error is a retry, as in every other language.
impl<T: IntoVerdict, E: fmt::Display> IntoVerdict for Result<T, E> {
    fn into_verdict(self) -> Verdict {
        match self {
            Ok(said) => said.into_verdict(),
            Err(err) => Verdict::Retry { reason: format!("{err:#}"), after: None },
        }
    }
}

struct Native<F>(F);

impl<F, R> Handler for Native<F>
where
    F: Fn(Event) -> R + Send + Sync + 'static,
    R: Future<Output: IntoVerdict> + Send + 'static,
{
    /// Of a list, each event by itself, in order.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(guarded(call.timeout, async move {
            let mut verdicts = Vec::with_capacity(call.events.len());
            for event in call.events {
                verdicts.push((self.0)(event).await.into_verdict());
            }
            Reply { verdicts, state: None }
        }))
    }
}

struct Batched<F>(F);

impl<F, R> Handler for Batched<F>
where
    F: Fn(Vec<Event>) -> R + Send + Sync + 'static,
    R: Future<Output = Vec<Verdict>> + Send + 'static,
{
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(guarded(call.timeout, async move {
            let verdicts = (self.0)(call.events.into_iter().collect()).await;
            Reply { verdicts, state: None }
        }))
    }
}

struct Stateful<F>(F);

impl<F, R, V> Handler for Stateful<F>
where
    F: Fn(Event, Value) -> R + Send + Sync + 'static,
    R: Future<Output = (V, Value)> + Send + 'static,
    V: IntoVerdict + Send,
{
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(guarded(call.timeout, async move {
            let State(mut state) = call.state.unwrap_or(State(Value::Null));
            let mut verdicts = Vec::with_capacity(call.events.len());
            for event in call.events {
                let (said, next) = (self.0)(event, state).await;
                verdicts.push(said.into_verdict());
                state = next;
            }
            Reply { verdicts, state: Some(State(state)) }
        }))
    }
}

/// In time, and with a panic as a crash. The closure itself may panic too, before there is a
/// future; nothing of ours is left half done by either. What ends without waiting needs no timer.
async fn guarded(
    timeout: Duration,
    run: impl Future<Output = Reply> + Send,
) -> Result<Reply, Fault> {
    let due = Instant::now() + timeout;
    let mut run = pin!(AssertUnwindSafe(run).catch_unwind());
    let mut timer = pin!(None);
    let ended = poll_fn(|context| {
        if let Poll::Ready(ended) = run.as_mut().poll(context) {
            return Poll::Ready(Some(ended));
        }
        if timer.is_none() {
            timer.set(Some(sleep_until(due)));
        }
        let timer = timer.as_mut().as_pin_mut();
        timer.map_or(Poll::Pending, |timer| timer.poll(context)).map(|()| None)
    });
    match ended.await {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(panic)) => Err(Fault::Crash(format!("panicked: {}", panics::message(&*panic)))),
        None => Err(Fault::Timeout(timeout)),
    }
}
