//! How an intake ends: in order, or left to redelivery.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Intake;
use crate::{
    binding::{lanes::Lanes, passage::Passage},
    source::{Lease, Ledger, Sink},
};

/// How long settling may go on after everything was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

impl<K: Sink + 'static, L: Ledger + 'static, C: Lease + 'static> Intake<K, L, C> {
    /// Finishes what may still begin and what runs, and gives the rest back; a while after the abort,
    /// leaves it to redelivery.
    pub(in crate::binding) async fn finish(mut self) {
        if !self.is_draining() {
            self.run.closing.cancel();
        }
        self.dispatch();
        let abort = self.run.shutdown.abort.clone();
        let abandoned = async {
            abort.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::pin!(abandoned);
        let closing = self.run.closing.clone();
        loop {
            let due = self.due();
            if due.is_none() && self.is_idle() {
                break;
            }
            tokio::select! {
                Some(ended) = self.next_end() => if self.absorb(ended).is_err() { break },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.dispatch();
                }
                () = closing.cancelled(), if due.is_some() => {}
                () = &mut abandoned => {
                    debug!("events are left to be delivered again");
                    return self.abandon().await;
                }
            }
        }
        let waiting = self.waiting();
        let give_back = |passage| self.binding.give_back(passage, &self.run);
        let given_back = join_all(waiting.into_iter().map(give_back));
        tokio::select! {
            _ = given_back => {}
            () = abandoned => {}
        }
        self.abandon().await;
    }

    fn waiting(&mut self) -> Vec<Box<Passage<C>>> {
        let mut waiting = std::mem::take(&mut self.resting);
        waiting.extend(self.ready.drain());
        waiting.extend(self.lanes.iter_mut().flat_map(Lanes::drain));
        waiting
    }

    /// Drops everything, to be delivered again.
    pub(in crate::binding) async fn abandon(mut self) {
        self.tasks.shutdown().await;
        self.beside.clear();
        drop(self.waiting());
        self.binding.all_metrics.step(|| {
            let held = &self.run.held;
            let dropped = held.dropped.swap(0, Ordering::Relaxed);
            let open = held.dropped_open.swap(0, Ordering::Relaxed);
            self.binding.metrics.in_flight.sub(i64::try_from(dropped).unwrap_or(0));
            self.binding.metrics.settlement_errors.inc_by(open as u64);
        });
    }
}
