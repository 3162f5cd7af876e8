//! A worker as the roster sees it: what it can take, and when it must be looked at.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    desk::{Desk, Job, Look},
    life::{Bell, Order, Phase},
    page::Begun,
};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: u64,
    pub(super) phase: Phase,
    pub(super) desk: Desk,
    pub(super) bell: Arc<Bell>,
    /// Runs a call that wants no company.
    pub(super) apart: bool,
    /// Gets nothing new until such a call can have it.
    pub(super) reserved: bool,
    /// When its task will look at it.
    look: Option<Instant>,
}

impl Member {
    pub(super) fn new(name: u64, ready_by: Instant, desk: Desk) -> Self {
        let (phase, bell) = (Phase::Starting(ready_by), Arc::new(Bell::default()));
        Self { name, phase, desk, bell, apart: false, reserved: false, look: None }
    }

    pub(super) const fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting(_))
    }

    pub(super) fn takes_more(&self) -> bool {
        self.phase == Phase::Live && !self.apart && !self.reserved && self.desk.has_room()
    }

    /// Free for a call that wants no company.
    pub(super) fn is_free(&self) -> bool {
        self.phase == Phase::Live && self.desk.count() == 0
    }

    /// Returns the job if there is no room for it.
    pub(super) fn assign(&mut self, job: Job, now: Instant) -> Option<Job> {
        let due = now + job.call.timeout;
        let refused = self.desk.put(job, now);
        self.bell.outbox.notify_one();
        self.look_by(due);
        refused
    }

    pub(super) fn doom(&mut self) {
        self.phase = Phase::Doomed;
        self.bell.look.notify_one();
    }

    /// Has its task look at it then, if that is earlier than it would.
    pub(super) fn look_by(&mut self, due: Instant) {
        if self.look.is_none_or(|look| due < look) {
            self.look = Some(due);
            self.bell.look.notify_one();
        }
    }

    /// What its task has to do.
    pub(super) fn look(
        &mut self,
        page: Option<&[Begun]>,
        idle_timeout: Duration,
        closed: bool,
        now: Instant,
    ) -> Order {
        self.desk.page(page, now);
        let order = match self.phase {
            Phase::Doomed => Order::Kill,
            Phase::Starting(_) if closed => Order::Kill,
            Phase::Starting(until) if until <= now => Order::Kill,
            Phase::Starting(until) => Order::Wait(until),
            Phase::Closing => Order::Close,
            Phase::Live => match self.desk.look(now) {
                Look::Overdue => Order::Kill,
                Look::Idle(_) | Look::Fine(_) if closed => Order::Close,
                Look::Idle(since) if since + idle_timeout <= now => Order::Close,
                Look::Idle(since) => Order::Wait(since + idle_timeout),
                Look::Fine(until) => Order::Wait(until),
            },
        };
        match order {
            Order::Wait(until) => self.look = Some(until),
            Order::Close => self.phase = Phase::Closing,
            Order::Kill => self.phase = Phase::Doomed,
        }
        order
    }
}
