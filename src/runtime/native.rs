//! Functions that are compiled in.

use std::{
    any::Any, collections::HashMap, fmt, future::Future, panic::AssertUnwindSafe, sync::Arc,
};

use futures_util::FutureExt;

use crate::{
    event::{Event, Outgoing, Verdict},
    handler::{BoxFuture, Call, Fault, Handler, Reply},
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
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Fault>> {
        Box::pin(async move {
            let timeout = call.timeout;
            match tokio::time::timeout(timeout, self.each(call)).await {
                Ok(Ok(verdicts)) => Ok(Reply { verdicts, state: None }),
                Ok(Err(panic)) => Err(Fault::Crash(format!("panicked: {}", message(&*panic)))),
                Err(_) => Err(Fault::Timeout(timeout)),
            }
        })
    }
}

impl<F, R> Native<F>
where
    F: Fn(Event) -> R,
    R: Future<Output: IntoVerdict>,
{
    async fn each(&self, call: Call) -> Result<Vec<Verdict>, Box<dyn Any + Send>> {
        let mut verdicts = Vec::with_capacity(call.events.len());
        for event in std::iter::once(call.events.first).chain(call.events.rest) {
            // The closure itself may panic too, before there is a future. Nothing of ours is
            // left half done by either.
            let run = AssertUnwindSafe(async { (self.0)(event).await }).catch_unwind();
            verdicts.push(run.await?.into_verdict());
        }
        Ok(verdicts)
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not with words")
}
