//! One binding: pull, invoke, settle. An event that is pulled holds a slot and a lease until it is
//! settled, and is settled in one order: state, outputs, record, dead letter, acknowledgement.

mod batch;
mod beside;
mod elsewhere;
mod exhausted;
mod health;
mod hold;
mod intake;
mod invoke;
mod lanes;
mod pace;
mod passage;
mod rate;
mod ready;
mod settle;
mod store;

use std::sync::Arc;

use tokio::{sync::Semaphore, time::sleep_until};

use crate::{
    deferral::Deferral,
    handler::Handler,
    manifest,
    metrics::{BindingMetrics, Metrics},
    observer::Observer,
    replay::Replay,
    settle::Policy,
    shutdown::Shutdown,
    source::{Brake, Fence, Ledger, Sink, Source, SourceError},
    telemetry::Place,
};

pub use health::Health;
use intake::Intake;
pub use rate::Rate;
pub use store::Store;

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
    /// Where the state of its keys is, if it keeps any.
    pub store: Option<Store>,
    /// Where its events wait for long, if this server can send them on.
    pub deferral: Option<Deferral>,
    /// What stops it on all runners.
    pub brake: Arc<dyn Brake>,
    /// Its handles.
    pub metrics: BindingMetrics,
    /// All metrics, for steps that must add up.
    pub all_metrics: Arc<Metrics>,
    /// Who watches.
    pub observer: Option<Arc<dyn Observer>>,
    /// How fast its calls may begin, if that is bounded.
    pub rate: Option<Rate>,
    /// Whether its function can be called.
    pub health: Health,
    /// One at a time: events that vanished with a runner before.
    pub quarantine: Semaphore,
    /// The replay that this is, if it is one.
    pub replay: Option<Replay>,
    /// As many as may run at a time, shared by the partitions of the binding.
    pub turns: Semaphore,
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    /// Handles events until the shutdown drains or the binding stops in place, then finishes what it
    /// holds. With a fence, only for as long as that holds.
    ///
    /// # Errors
    /// When the source gives up; what is held is finished first. When the fence is broken; what is
    /// held is dropped.
    pub async fn run<S: Source>(
        self: Arc<Self>,
        mut source: S,
        shutdown: Shutdown,
        mut fence: Fence,
    ) -> Result<(), SourceError>
    where
        S::Lease: 'static,
    {
        let mut intake = Intake::new(self, shutdown.clone(), fence.clone());
        let ordered = intake.is_ordered();
        let mut draining = false;
        let result = loop {
            let room = intake.room();
            let due = intake.due();
            tokio::select! {
                biased;
                () = shutdown.abort.cancelled() => break Ok(()),
                () = fence.broken(), if fence.is_there() => {
                    intake.abandon().await;
                    return Err(SourceError::TakenOver);
                }
                () = shutdown.drain.cancelled(), if !draining => {
                    draining = true;
                    source.stop();
                    intake.dispatch();
                }
                Some(ended) = intake.next_end() => {
                    if let Err(err) = intake.absorb(ended) {
                        break Err(err);
                    }
                    if intake.has_stopped() && !draining {
                        draining = true;
                        source.stop();
                    }
                }
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    intake.dispatch();
                }
                pulled = source.pull(room), if room.events > 0 || draining || ordered => {
                    match pulled {
                        Ok(deliveries) if deliveries.is_empty() => break Ok(()),
                        Ok(deliveries) => intake.take(deliveries),
                        Err(err) => break Err(err),
                    }
                }
            }
        };
        intake.take_back(source.left_over());
        intake.finish().await;
        result
    }

    /// Where the binding's events come from, for traces.
    fn place<'a>(&'a self, stream: &'a str) -> Place<'a> {
        let subject = self.spec.subjects.first().map(String::as_str).unwrap_or_default();
        Place { subject, stream, consumer: &self.consumer }
    }

    fn policy(&self) -> Policy {
        let retry = &self.spec.retry;
        Policy {
            attempts: retry.attempts.get(),
            backoff_min: retry.backoff_min,
            backoff_max: retry.backoff_max,
            losses: retry.losses,
            max_age: retry.max_age,
            on_exhausted: retry.on_exhausted,
        }
    }
}
