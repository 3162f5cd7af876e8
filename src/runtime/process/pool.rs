//! The roster, shared by callers and workers' tasks. Nothing waits while it is locked.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    desk::Job,
    frame::Outbox,
    life::{Death, Limits, Order, Phase, Plan},
    page::Begun,
    roster::Roster,
};
use crate::{
    handler::{Call, Fault, Reply},
    runtime::logs::About,
};

/// What a caller waits for.
pub(super) type Receiver = oneshot::Receiver<Result<Reply, Fault>>;

/// Shared by callers and workers.
#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    roster: Mutex<Roster>,
    tickets: AtomicU64,
    /// There are [`Plan`]s.
    pub(super) planned: Arc<Notify>,
    /// The pool ends: workers finish what they have.
    pub(super) closing: CancellationToken,
}

impl Pool {
    pub(super) fn new(limits: Limits) -> Self {
        let planned = Arc::new(Notify::new());
        let roster = Mutex::new(Roster::new(limits, Arc::clone(&planned)));
        Self { limits, roster, tickets: 0.into(), planned, closing: CancellationToken::new() }
    }

    /// Hands a call to a worker, or keeps it until there is one. The number names it to
    /// [`Pool::forget`].
    pub(super) fn submit(&self, call: Call) -> Result<(u64, Receiver), Fault> {
        let (reply, receiver) = oneshot::channel();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let company = call.company;
        let job = Job { ticket, call: Arc::new(call), company, reply };
        let now = Instant::now();
        let mut roster = self.lock();
        roster.admit(now)?;
        roster.submit(job, now);
        Ok((ticket, receiver))
    }

    /// Says when a worker is ready, starting one if there is none.
    pub(super) fn start(&self) -> Result<oneshot::Receiver<Result<(), Fault>>, Fault> {
        let (starter, receiver) = oneshot::channel();
        let now = Instant::now();
        let mut roster = self.lock();
        roster.admit(now)?;
        roster.start(starter, now);
        Ok(receiver)
    }

    /// Nobody waits for a call any more: withdraws it, or kills the worker if that runs for
    /// nobody else.
    pub(super) fn forget(&self, ticket: u64) {
        self.lock().forget(ticket, Instant::now());
    }

    /// No more calls. Those that no worker has taken are told so.
    pub(super) fn close(&self) {
        self.lock().close();
        self.closing.cancel();
    }

    /// The workers to start now.
    pub(super) fn plans(&self) -> Vec<Plan> {
        self.lock().plans()
    }

    /// The worker can take calls.
    pub(super) fn ready(&self, name: u64) {
        self.lock().ready(name, Instant::now());
    }

    /// Frames for the worker.
    pub(super) fn write(&self, name: u64, outbox: &mut Outbox) {
        let now = Instant::now();
        let mut calls = Vec::new();
        if let Some(member) = self.lock().member(name) {
            member.desk.send(now, |number, slot, call| calls.push((number, slot, call)));
        }
        // Other workers and callers need not wait for this.
        for (number, slot, call) in calls {
            outbox.call(number, slot, &call);
        }
    }

    /// The call of a worker that has one slot and asks for it: it has begun with that.
    pub(super) fn take(&self, name: u64) -> Option<(u64, Arc<Call>)> {
        let now = Instant::now();
        let mut roster = self.lock();
        let desk = &mut roster.member(name)?.desk;
        let mut taken = None;
        desk.send(now, |number, _, call| taken = Some((number, call)));
        if let Some((number, _)) = &taken {
            desk.begun(*number, now);
        }
        taken
    }

    /// Replies of the worker, all of one read.
    ///
    /// # Errors
    /// A reply to a call that the worker does not have.
    pub(super) fn answer(
        &self,
        name: u64,
        replies: &mut Vec<(u64, Result<Reply, Fault>)>,
    ) -> Result<(), String> {
        self.lock().answer(name, replies, Instant::now())
    }

    /// The worker says that it has begun these.
    pub(super) fn begun(&self, name: u64, numbers: &[u64]) {
        let now = Instant::now();
        if let Some(member) = self.lock().member(name) {
            numbers.iter().for_each(|number| member.desk.begun(*number, now));
        }
    }

    /// The worker said something that is no reply.
    pub(super) fn sign(&self, name: u64) {
        let now = Instant::now();
        if let Some(member) = self.lock().member(name) {
            member.desk.sign(now);
        }
    }

    /// What a call is about, or else the one call that runs: the event, if it is one.
    pub(super) fn about(
        &self,
        name: u64,
        number: Option<u64>,
        page: Option<&[Begun]>,
    ) -> Option<About> {
        let now = Instant::now();
        let mut roster = self.lock();
        let desk = &mut roster.member(name)?.desk;
        desk.page(page, now);
        let call = match number {
            Some(number) => desk.call(number),
            None => desk.running(),
        }?;
        call.events.rest.is_empty().then(|| About::from(&call.events.first))
    }

    /// Whether the worker has calls.
    pub(super) fn is_busy(&self, name: u64) -> bool {
        self.lock().member(name).is_some_and(|member| member.desk.count() > 0)
    }

    /// What the worker's task has to do.
    pub(super) fn look(&self, name: u64, page: Option<&[Begun]>) -> Order {
        let now = Instant::now();
        let mut roster = self.lock();
        let closed = roster.is_closed();
        match roster.member(name) {
            Some(member) => member.look(page, self.limits.idle_timeout, closed, now),
            None => Order::Kill,
        }
    }

    /// The worker gets no more calls: it is being killed, or dead already.
    pub(super) fn doom(&self, name: u64) {
        if let Some(member) = self.lock().member(name) {
            member.phase = Phase::Doomed;
        }
    }

    /// The worker is gone; nothing more will come of it.
    pub(super) fn bury(&self, name: u64, death: Death, page: Option<&[Begun]>) {
        self.lock().bury(name, death, page, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
