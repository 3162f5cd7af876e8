//! Events whose turn has come, and when enough of them have to make a call.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::passage::Passage;
use crate::manifest::Batch;

/// Events that wait for a call, in order.
pub(super) struct Ready<C> {
    waiting: VecDeque<(Instant, Box<Passage<C>>)>,
    bytes: usize,
    max: usize,
    max_bytes: usize,
    wait: Duration,
}

impl<C> Ready<C> {
    /// Without a batch, each event is enough.
    pub(super) fn new(batch: Option<&Batch>) -> Self {
        let (max, max_bytes, wait) =
            batch.map_or((1, usize::MAX, Duration::ZERO), |b| (b.max.get(), b.bytes, b.wait));
        Self { waiting: VecDeque::new(), bytes: 0, max, max_bytes, wait }
    }

    fn push(&mut self, passage: Box<Passage<C>>) {
        self.bytes += passage.event.data.len();
        self.waiting.push_back((Instant::now(), passage));
    }

    /// When the oldest has waited long enough; `None` when nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        let (since, _) = self.waiting.front()?;
        let full = self.waiting.len() >= self.max || self.bytes >= self.max_bytes;
        Some(if full { *since } else { *since + self.wait })
    }

    /// As many as one call takes. The first goes however large it is.
    pub(super) fn take(&mut self) -> Vec<Box<Passage<C>>> {
        let mut taken = Vec::new();
        let mut bytes = 0_usize;
        while taken.len() < self.max
            && let Some((_, next)) = self.waiting.front()
        {
            let size = next.event.data.len();
            if !taken.is_empty() && bytes.saturating_add(size) > self.max_bytes {
                break;
            }
            bytes += size;
            taken.extend(self.waiting.pop_front().map(|(_, passage)| passage));
        }
        self.bytes -= bytes;
        taken
    }

    pub(super) fn extend(&mut self, passages: impl IntoIterator<Item = Box<Passage<C>>>) {
        passages.into_iter().for_each(|passage| self.push(passage));
    }

    pub(super) fn drain(&mut self) -> Vec<Box<Passage<C>>> {
        self.bytes = 0;
        self.waiting.drain(..).map(|(_, passage)| passage).collect()
    }
}
