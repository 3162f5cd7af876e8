//! Invocations that wait on their binding's own task: what wakes them wakes it once for all of them, and
//! what they then have to say goes out together.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, StreamExt as _, future::CatchUnwind, stream::FuturesUnordered};
use tokio_util::sync::ReusableBoxFuture;

use crate::panics;

type Invocation<T> = CatchUnwind<AssertUnwindSafe<ReusableBoxFuture<'static, T>>>;

/// Those that have begun and not ended.
pub(super) struct Beside<T>(FuturesUnordered<Invocation<T>>);

impl<T> Beside<T> {
    pub(super) fn new() -> Self {
        Self(FuturesUnordered::new())
    }

    pub(super) fn push(&self, invocation: ReusableBoxFuture<'static, T>) {
        self.0.push(AssertUnwindSafe(invocation).catch_unwind());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// One that has ended, or what it said when it panicked; `None` while there is none at all.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, String>>> {
        if self.is_empty() {
            return Poll::Ready(None);
        }
        self.0.poll_next_unpin(context).map(|ended| {
            ended.map(|ended| ended.map_err(|panic| panics::message(&*panic).to_owned()))
        })
    }
}
