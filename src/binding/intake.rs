//! From pulled events to calls: lanes, batches, and the tasks that carry them out.

mod finish;

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use futures_util::{FutureExt as _, future::join_all};
use prometheus::IntGauge;
use tokio::{
    task::{JoinSet, unconstrained},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};
use tracing::error;

use super::{
    Binding,
    beside::Beside,
    hold::Held,
    lanes::Lanes,
    pace::Pace,
    passage::{Left, Passage},
    ready::Ready,
};
use crate::{
    key,
    shutdown::Shutdown,
    source::{Delivery, Fence, Lease, Ledger, Room, Sink, SourceError},
    telemetry,
};

/// What the events of one run of a binding share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) shutdown: Shutdown,
    pub(super) fence: Fence,
    pub(super) held: Arc<Held>,
    /// Cancelled once nothing shall begin any more.
    pub(super) closing: CancellationToken,
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    /// Calls the function once it is the events' turn. Other partitions may have all turns; what has
    /// not begun by the end goes back.
    async fn take_turn<C: Lease>(
        self: Arc<Self>,
        mut passages: Vec<Box<Passage<C>>>,
        run: Arc<Run>,
    ) -> Left<C> {
        let binding = Arc::clone(&self);
        let turn = tokio::select! {
            biased;
            turn = binding.turns.acquire() => turn,
            () = run.closing.cancelled() => {
                join_all(passages.into_iter().map(|passage| self.give_back(passage, &run))).await;
                return Left::nothing();
            }
        };
        let left = if self.spec.batch.is_some() {
            self.handle_batch(passages, run).await
        } else if let Some(passage) = passages.pop() {
            self.handle(passage, run).await
        } else {
            Left::nothing()
        };
        drop(turn);
        left
    }
}

impl Shown {
    fn show(&mut self, value: i64) {
        self.gauge.add(value - self.value);
        self.value = value;
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.show(0);
    }
}

/// The events of one run of a binding, from their delivery on.
pub(super) struct Intake<K, L, C> {
    binding: Arc<Binding<K, L>>,
    run: Arc<Run>,
    lanes: Option<Lanes<Box<Passage<C>>>>,
    ready: Ready<C>,
    /// What a drain has met in wait for its next try: it goes back, with what waits behind it.
    resting: Vec<Box<Passage<C>>>,
    tasks: JoinSet<Left<C>>,
    beside: Beside<Left<C>>,
    /// Those under way that are calls; the others wait.
    calls: usize,
    /// The binding stops in place: nothing begins any more.
    stopped: bool,
    pace: Pace,
    /// The box of an invocation that ended at once, for the next one.
    spare: Option<ReusableBoxFuture<'static, Left<C>>>,
    shown: Shown,
}

/// What a run adds to a gauge that several share.
struct Shown {
    gauge: IntGauge,
    value: i64,
}

impl<K: Sink + 'static, L: Ledger + 'static, C: Lease + 'static> Intake<K, L, C> {
    pub(super) fn new(binding: Arc<Binding<K, L>>, shutdown: Shutdown, fence: Fence) -> Self {
        let spec = &binding.spec;
        // Those of partitions are added up by who holds them.
        if spec.partitions().is_none() {
            binding.metrics.slots.set(i64::try_from(spec.slots.get()).unwrap_or(i64::MAX));
        }
        let blocked = Shown { gauge: binding.metrics.lanes_blocked.clone(), value: 0 };
        let closing = shutdown.close.child_token();
        let run = Run { shutdown, fence, held: Arc::default(), closing };
        Self {
            lanes: spec.order.as_ref().map(|order| Lanes::new(order.lane_limit.get())),
            ready: Ready::new(spec.batch.as_ref()),
            resting: Vec::new(),
            run: Arc::new(run),
            tasks: JoinSet::new(),
            beside: Beside::new(),
            calls: 0,
            stopped: false,
            pace: Pace::default(),
            spare: None,
            shown: blocked,
            binding,
        }
    }

    /// A function that cannot start gets one event at a time, to try it with. A key with too many
    /// events waiting holds back all others.
    pub(super) fn room(&self) -> Room {
        let Held { events, bytes, .. } = &*self.run.held;
        let spec = &self.binding.spec;
        let slots = match self.binding.health.is_up() {
            _ if self.blocked() > 0 => 0,
            true => spec.slots.get(),
            false => 1,
        };
        Room {
            events: slots.saturating_sub(events.load(Ordering::Relaxed)),
            bytes: spec.slot_bytes.saturating_sub(bytes.load(Ordering::Relaxed)),
        }
    }

    /// Whether what was asked for may come although there is no room for more.
    pub(super) const fn is_ordered(&self) -> bool {
        self.lanes.is_some()
    }

    fn blocked(&self) -> usize {
        self.lanes.as_ref().map_or(0, Lanes::blocked)
    }

    pub(super) fn take(&mut self, deliveries: Vec<Delivery<C>>) {
        self.receive(&deliveries);
        self.pace.pulled();
        if self.is_plain() {
            for delivery in deliveries {
                self.begin(Passage::new(delivery, None, &self.run.held));
            }
            return;
        }
        for delivery in deliveries {
            self.queue(delivery);
        }
        self.dispatch();
    }

    /// Events that are not to run here.
    pub(super) fn take_back(&mut self, deliveries: Vec<Delivery<C>>) {
        self.receive(&deliveries);
        let held = &self.run.held;
        let passages = deliveries.into_iter().map(|delivery| Passage::new(delivery, None, held));
        self.resting.extend(passages);
    }

    fn receive(&self, deliveries: &[Delivery<C>]) {
        let count = deliveries.len();
        if let Some(first) = deliveries.first() {
            let place = self.binding.place(&first.origin.stream);
            telemetry::received(place, deliveries.iter().map(|delivery| &delivery.event));
        }
        self.binding.all_metrics.step(|| {
            self.binding.metrics.received.inc_by(count as u64);
            self.binding.metrics.in_flight.add(i64::try_from(count).unwrap_or(i64::MAX));
        });
    }

    /// Starts an event that waits for no other.
    fn begin(&mut self, passage: Box<Passage<C>>) {
        let invocation = Arc::clone(&self.binding).handle(passage, Arc::clone(&self.run));
        self.call(invocation);
    }

    fn call(&mut self, call: impl Future<Output = Left<C>> + Send + 'static) {
        self.calls += 1;
        if !self.pace.is_quick() {
            self.tasks.spawn(call);
            return;
        }
        let mut call = match self.spare.take() {
            Some(mut spare) => {
                spare.set(call);
                spare
            }
            None => ReusableBoxFuture::new(call),
        };
        // What ends without waiting leaves its box to the next. Unconstrained, because one pull brings
        // more events than a task's budget has steps, which would all have to wait for no reason.
        match self.pace.step(|| unconstrained(&mut call).now_or_never()) {
            Some(left) => {
                self.spare = Some(call);
                self.go_on(left);
            }
            None => self.beside.push(call),
        }
    }

    fn queue(&mut self, delivery: Delivery<C>) {
        let order = self.binding.spec.order.as_ref();
        let key = order.and_then(|order| key::of(&delivery.event, &order.key));
        let passage = Passage::new(delivery, key.map(Into::into), &self.run.held);
        let first = match (&mut self.lanes, passage.key.clone()) {
            (Some(lanes), Some(key)) => lanes.enter(&key, passage, |passage| passage.behind = true),
            // Nothing is promised of events without a key.
            _ => Some(passage),
        };
        self.ready.extend(first);
    }

    fn show_lanes(&mut self) {
        self.shown.show(i64::try_from(self.blocked()).unwrap_or(0));
    }

    /// When the next call is to begin, if nothing else happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        let full = self.ready.due().filter(|_| self.may_call())?;
        // Nothing comes any more that a batch could wait for.
        let due = if self.is_draining() { Instant::now() } else { full };
        Some(self.binding.rate.as_ref().map_or(due, |rate| due.max(rate.due())))
    }

    /// Whether its events need not wait for anything.
    fn is_plain(&self) -> bool {
        !self.stopped
            && self.lanes.is_none()
            && self.binding.spec.batch.is_none()
            && self.binding.rate.is_none()
    }

    fn may_call(&self) -> bool {
        !self.run.closing.is_cancelled() && self.calls < self.binding.spec.concurrency.get()
    }

    /// Begins every call that is due.
    pub(super) fn dispatch(&mut self) {
        while self.due().is_some_and(|due| due <= Instant::now()) {
            let mut passages = self.ready.take();
            self.pace_calls(&mut passages);
            self.call(Arc::clone(&self.binding).take_turn(passages, Arc::clone(&self.run)));
        }
        // Calls that ended at once have left their lanes.
        self.show_lanes();
    }

    /// One turn of the rate for one call.
    fn pace_calls(&self, passages: &mut [Box<Passage<C>>]) {
        if let (Some(rate), Some(first)) = (&self.binding.rate, passages.first_mut()) {
            rate.take();
            first.has_turn = true;
        }
    }

    /// Whether the binding stops in place, and nothing begins any more.
    pub(super) const fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// What the next one that ends has left to do, or says when it panics; `None` while nothing is under
    /// way.
    pub(super) async fn next_end(&mut self) -> Option<Result<Left<C>, String>> {
        poll_fn(|context| {
            let Self { beside, pace, .. } = self;
            if let Poll::Ready(Some(ended)) = pace.step(|| beside.poll_next(context)) {
                return Poll::Ready(Some(ended));
            }
            match self.tasks.poll_join_next(context) {
                Poll::Ready(Some(ended)) => Poll::Ready(Some(ended.map_err(|err| err.to_string()))),
                Poll::Ready(None) if self.beside.is_empty() => Poll::Ready(None),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.beside.is_empty()
    }

    /// Takes up what those that ended have left to do.
    ///
    /// # Errors
    /// When one broke off and the turn of its key is lost.
    pub(super) fn absorb(&mut self, ended: Result<Left<C>, String>) -> Result<(), SourceError> {
        let mut next = Some(ended);
        while let Some(ended) = next {
            match ended {
                Ok(left) => self.go_on(left),
                Err(panic) => {
                    error!(
                        panic,
                        "an invocation panicked inside Pelton; its event will be delivered again"
                    );
                    self.calls = self.calls.saturating_sub(1);
                    if self.is_ordered() {
                        return Err(SourceError::Refused("an invocation panicked".to_owned()));
                    }
                }
            }
            next = self.next_end().now_or_never().flatten();
        }
        self.dispatch();
        Ok(())
    }

    fn go_on(&mut self, left: Left<C>) {
        self.calls -= usize::from(left.call);
        if left.stops {
            self.stopped = true;
            self.run.closing.cancel();
        }
        self.ready.extend(left.ready);
        for key in left.freed {
            let next = self.lanes.as_mut().and_then(|lanes| lanes.leave(&key));
            self.ready.extend(next);
        }
        self.resting.extend(left.resting);
        for (after, passage) in left.held {
            let (drain, closing) = (self.run.shutdown.drain.clone(), self.run.closing.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(after) => Left::ready(passage),
                    () = drain.cancelled() => Left::resting(passage),
                    () = closing.cancelled() => Left::resting(passage),
                }
            });
        }
    }

    fn is_draining(&self) -> bool {
        self.run.shutdown.drain.is_cancelled()
    }
}
