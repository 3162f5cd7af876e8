//! Invocations that wait on their binding's own task: what wakes them wakes it once for all of them, and
//! what they then have to say goes out together.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::CatchUnwind, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

use crate::panics;

/// A function that computes for longer than this between two waits would hold up all others.
const QUICK: Duration = Duration::from_micros(50);
/// Steps over which that is averaged.
const STEPS: u32 = 64;

type Invocation<T> = CatchUnwind<AssertUnwindSafe<ReusableBoxFuture<'static, T>>>;

/// Those that have begun and not ended.
pub(super) struct Beside<T> {
    invocations: FuturesUnordered<Invocation<T>>,
    steps: u32,
    spent: Duration,
}

impl<T> Beside<T> {
    pub(super) fn new() -> Self {
        Self { invocations: FuturesUnordered::new(), steps: 0, spent: Duration::ZERO }
    }

    pub(super) fn push(&self, invocation: ReusableBoxFuture<'static, T>) {
        self.invocations.push(AssertUnwindSafe(invocation).catch_unwind());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.invocations.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.invocations.clear();
    }

    /// Whether the last steps took too long for others to wait for them; says so once.
    pub(super) fn was_slow(&mut self) -> bool {
        if self.steps < STEPS {
            return false;
        }
        let slow = self.spent / self.steps > QUICK;
        (self.steps, self.spent) = (0, Duration::ZERO);
        slow
    }

    /// One that has ended, or what it said when it panicked; `None` while there is none at all.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, String>>> {
        if self.is_empty() {
            return Poll::Ready(None);
        }
        let begun = Instant::now();
        let polled = self.invocations.poll_next_unpin(context);
        self.steps += 1;
        self.spent += begun.elapsed();
        polled.map(|ended| {
            ended.map(|ended| ended.map_err(|panic| panics::message(&*panic).to_owned()))
        })
    }
}
