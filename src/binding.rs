//! One binding: pull, invoke, settle. An event that is pulled holds a slot and a lease until it is
//! settled, and is settled in one order: record, outputs, dead letter, acknowledgement.

mod health;
mod hold;
mod invoke;
mod pace;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::Semaphore,
    task::{JoinSet, unconstrained},
    time::Instant,
};
use tracing::{debug, error};

use crate::{
    handler::Handler,
    manifest,
    metrics::{BindingMetrics, Metrics},
    observer::Observer,
    settle::Policy,
    shutdown::Shutdown,
    source::{Delivery, Ledger, Room, Sink, Source, SourceError},
};

pub use health::Health;
use hold::{Held, Slot};
use pace::Pace;

/// How long settling may go on after everything was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Everything the invocations of one binding share.
pub struct Binding<K, L> {
    /// The manifest's name.
    pub name: String,
    /// The binding as written.
    pub spec: manifest::Binding,
    /// The durable's name.
    pub consumer: String,
    /// Where its dead letters go.
    pub dead_letter_subject: String,
    /// What runs its function.
    pub handler: Arc<dyn Handler>,
    /// Where outputs go.
    pub sink: K,
    /// What is remembered between deliveries.
    pub ledger: L,
    /// Its handles.
    pub metrics: BindingMetrics,
    /// All metrics, for steps that must add up.
    pub all_metrics: Arc<Metrics>,
    /// Who watches.
    pub observer: Option<Arc<dyn Observer>>,
    /// Whether its function can be called.
    pub health: Health,
    /// One at a time: events that vanished with a runner before.
    pub quarantine: Semaphore,
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    /// Handles events until the shutdown drains, then finishes what it holds.
    ///
    /// # Errors
    /// When the source gives up; what is held is finished first.
    pub async fn run<S: Source>(
        self: Arc<Self>,
        mut source: S,
        shutdown: Shutdown,
    ) -> Result<(), SourceError>
    where
        S::Lease: 'static,
    {
        let held = Arc::new(Held::default());
        let mut pace = Pace::default();
        let mut tasks = JoinSet::new();
        self.metrics.slots.set(i64::try_from(self.spec.concurrency.get()).unwrap_or(i64::MAX));
        let mut draining = false;
        let result = loop {
            let room = self.room(&held);
            tokio::select! {
                biased;
                () = shutdown.abort.cancelled() => break Ok(()),
                () = shutdown.drain.cancelled(), if !draining => {
                    draining = true;
                    source.stop();
                }
                Some(ended) = tasks.join_next() => {
                    report(ended);
                    while let Some(ended) = tasks.try_join_next() {
                        report(ended);
                    }
                }
                pulled = source.pull(room), if room.events > 0 || draining => match pulled {
                    Ok(deliveries) if deliveries.is_empty() => break Ok(()),
                    Ok(deliveries) => {
                        let (count, begun) = (deliveries.len(), Instant::now());
                        for delivery in deliveries {
                            self.start(delivery, &held, &mut tasks, &shutdown, pace);
                        }
                        pace = pace.after(begun.elapsed(), count);
                    }
                    Err(err) => break Err(err),
                },
            }
        };
        finish(tasks, &shutdown).await;
        result
    }

    fn start<C>(
        self: &Arc<Self>,
        delivery: Delivery<C>,
        held: &Arc<Held>,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
        pace: Pace,
    ) where
        C: crate::source::Lease + 'static,
    {
        let slot = Slot::take(held, delivery.event.data.len());
        self.all_metrics.step(|| {
            self.metrics.received.inc();
            self.metrics.in_flight.inc();
        });
        let invocation = Arc::clone(self).handle(delivery, shutdown.clone());
        let mut invocation = Box::pin(async move {
            invocation.await;
            drop(slot);
        });
        // What ends without waiting needs no task. Unconstrained, because one pull brings more
        // events than a task's budget has steps, and would move the rest to tasks for no reason.
        if pace.is_quick() && unconstrained(&mut invocation).now_or_never().is_some() {
            return;
        }
        tasks.spawn(invocation);
    }

    fn policy(&self) -> Policy {
        let retry = &self.spec.retry;
        Policy {
            attempts: retry.attempts.get(),
            backoff_min: retry.backoff_min,
            backoff_max: retry.backoff_max,
            losses: retry.losses,
            max_age: retry.max_age,
        }
    }

    /// A function that cannot start gets one event at a time, to try it with.
    fn room(&self, held: &Held) -> Room {
        let slots = if self.health.is_up() { self.spec.concurrency.get() } else { 1 };
        Room {
            events: slots.saturating_sub(held.events.load(Ordering::Relaxed)),
            bytes: self.spec.slot_bytes.saturating_sub(held.bytes.load(Ordering::Relaxed)),
        }
    }
}

/// Waits for what runs; a while after the abort, leaves the rest to redelivery.
async fn finish(mut tasks: JoinSet<()>, shutdown: &Shutdown) {
    let abandoned = async {
        shutdown.abort.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::pin!(abandoned);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => report(ended),
                None => return,
            },
            () = &mut abandoned => {
                debug!(left = tasks.len(), "events are left to be delivered again");
                return tasks.shutdown().await;
            }
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended
        && err.is_panic()
    {
        error!(%err, "an invocation panicked inside Pelton; its event will be delivered again");
    }
}
