//! The workers of one function and the calls that wait for them: who gets what, when another
//! worker is started, what becomes of the calls of one that ended.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Desk, Fate, Job, Look},
    frame::Outbox,
    page::Begun,
};
use crate::{
    handler::{Call, Company, Fault, Reply},
    metrics::WorkerStart,
};

/// Between two tries to start a function that could not be started.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Before a worker is started in the place of one that died without having answered anything.
const DEATH_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What a pool is bounded by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Workers at most.
    pub(super) workers: usize,
    /// Calls in flight in one worker.
    pub(super) slots: usize,
    pub(super) idle_timeout: Duration,
    pub(super) start_timeout: Duration,
    /// Workers are known to use the started page.
    pub(super) pages: bool,
}

/// Shared by callers and workers.
#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    state: Mutex<State>,
    /// There are [`Plan`]s.
    pub(super) planned: Notify,
    /// The pool ends: workers finish what they have.
    pub(super) closing: CancellationToken,
}

/// A worker to start.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) worker: u64,
    pub(super) reason: WorkerStart,
    pub(super) delay: Duration,
    pub(super) bell: Arc<Bell>,
}

/// Wakes the two sides of a worker's task.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// There is something to write.
    pub(super) outbox: Notify,
    /// The worker should be looked at.
    pub(super) look: Notify,
}

/// What a worker's task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Look again then.
    Wait(Instant),
    /// Let it end by itself.
    Close,
    /// Kill it.
    Kill,
}

/// How a worker ended.
#[derive(Debug)]
pub(super) enum Death {
    /// It never became ready.
    NotStarted(String),
    /// By itself.
    Died(String),
    /// We killed it because of a call.
    Killed,
    /// Nobody needed it.
    Closed,
}

#[derive(Debug)]
struct State {
    workers: Vec<Worker>,
    shared: VecDeque<Job>,
    apart: VecDeque<Job>,
    tickets: u64,
    names: u64,
    plans: Vec<Plan>,
    starters: Vec<oneshot::Sender<Result<(), Fault>>>,
    failure: Option<Failure>,
    /// Workers that died in a row without having answered anything.
    deaths: u32,
    reason: WorkerStart,
    closed: bool,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    until: Instant,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not ready; must be by then.
    Starting(Instant),
    Live,
    /// Gets no more calls.
    Closing,
    /// Is to be killed.
    Doomed,
}

#[derive(Debug)]
struct Worker {
    name: u64,
    phase: Phase,
    desk: Desk,
    bell: Arc<Bell>,
    /// Runs a call that wants no company.
    apart: bool,
    /// Gets nothing new until such a call can have it.
    reserved: bool,
    /// When its task will look at it.
    look: Option<Instant>,
}

impl Pool {
    pub(super) fn new(limits: Limits) -> Self {
        let state = State {
            workers: Vec::new(),
            shared: VecDeque::new(),
            apart: VecDeque::new(),
            tickets: 0,
            names: 0,
            plans: Vec::new(),
            starters: Vec::new(),
            failure: None,
            deaths: 0,
            reason: WorkerStart::Demand,
            closed: false,
        };
        let (planned, closing) = (Notify::new(), CancellationToken::new());
        Self { limits, state: Mutex::new(state), planned, closing }
    }

    /// Hands a call to a worker, or keeps it until there is one. The number names it to
    /// [`Pool::forget`].
    pub(super) fn submit(
        &self,
        call: Call,
    ) -> Result<(u64, oneshot::Receiver<Result<Reply, Fault>>), Fault> {
        let (reply, receiver) = oneshot::channel();
        let company = call.company;
        let call = Arc::new(call);
        let now = Instant::now();
        let mut state = self.lock();
        state.admit(now)?;
        state.tickets += 1;
        let ticket = state.tickets;
        let job = Job { ticket, call, company, reply };
        match company {
            Company::Shared => state.shared.push_back(job),
            Company::Apart => state.apart.push_back(job),
        }
        self.pump(&mut state, now);
        Ok((ticket, receiver))
    }

    /// Says when a worker is ready, starting one if there is none.
    pub(super) fn start(&self) -> Result<oneshot::Receiver<Result<(), Fault>>, Fault> {
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        let mut state = self.lock();
        state.admit(now)?;
        state.starters.push(sender);
        if state.workers.is_empty() {
            self.plan(&mut state, now);
        }
        state.tell_starters();
        Ok(receiver)
    }

    /// Nobody waits for a call any more: withdraws it, or kills the worker if that runs for
    /// nobody else.
    pub(super) fn forget(&self, ticket: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        state.shared.retain(|job| job.ticket != ticket);
        state.apart.retain(|job| job.ticket != ticket);
        for worker in &mut state.workers {
            if worker.desk.withdraw(ticket) && worker.desk.count() > 0 && !worker.desk.is_wanted() {
                worker.phase = Phase::Doomed;
                worker.bell.look.notify_one();
            }
        }
        self.pump(&mut state, now);
    }

    /// No more calls. Those that no worker has taken are told so.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.fail("the function is being stopped");
        drop(state);
        self.closing.cancel();
    }

    /// The workers to start now.
    pub(super) fn plans(&self) -> Vec<Plan> {
        std::mem::take(&mut self.lock().plans)
    }

    /// The worker can take calls.
    pub(super) fn ready(&self, name: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        state.failure = None;
        if let Some(worker) = state.worker(name)
            && let Phase::Starting(_) = worker.phase
        {
            worker.phase = Phase::Live;
            worker.desk.sign(now);
            worker.bell.look.notify_one();
        }
        state.tell_starters();
        self.pump(&mut state, now);
    }

    /// Frames for the worker.
    pub(super) fn write(&self, name: u64, outbox: &mut Outbox) {
        let now = Instant::now();
        let mut calls = Vec::new();
        if let Some(worker) = self.lock().worker(name) {
            worker.desk.send(now, |number, slot, call| calls.push((number, slot, call)));
        }
        for (number, slot, call) in calls {
            outbox.call(number, slot, &call);
        }
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
        let now = Instant::now();
        let mut state = self.lock();
        state.deaths = 0;
        let idle_timeout = self.limits.idle_timeout;
        let mut unknown = Ok(());
        let Some(worker) = state.worker(name) else { return Ok(()) };
        for (number, reply) in replies.drain(..) {
            let Some(job) = worker.desk.answered(number, now) else {
                unknown = Err(format!("a reply to call {number}, which it does not have"));
                continue;
            };
            let (said, asked) =
                (reply.as_ref().map(|reply| reply.verdicts.len()), job.call.events.len());
            job.answer(match said {
                Ok(said) if said != asked => {
                    Err(Fault::BadReply(format!("{said} verdicts for {asked} events")))
                }
                _ => reply,
            });
        }
        if worker.desk.count() == 0 {
            worker.look_by(now + idle_timeout);
        }
        self.pump(&mut state, now);
        unknown
    }

    /// The worker says that it has begun these.
    pub(super) fn begun(&self, name: u64, numbers: &[u64]) {
        let now = Instant::now();
        if let Some(worker) = self.lock().worker(name) {
            numbers.iter().for_each(|number| worker.desk.begun(*number, now));
            worker.bell.look.notify_one();
        }
    }

    /// The worker said something that is no reply.
    pub(super) fn sign(&self, name: u64) {
        let now = Instant::now();
        if let Some(worker) = self.lock().worker(name) {
            worker.desk.sign(now);
        }
    }

    /// The event of a call, or else of the one call that runs.
    pub(super) fn event(
        &self,
        name: u64,
        number: Option<u64>,
        page: Option<&[Begun]>,
    ) -> Option<String> {
        let now = Instant::now();
        let mut state = self.lock();
        let desk = &mut state.worker(name)?.desk;
        desk.page(page, now);
        let call = match number {
            Some(number) => desk.call(number),
            None => desk.running(),
        }?;
        call.events.rest.is_empty().then(|| call.events.first.id.to_string())
    }

    /// Whether the worker has calls.
    pub(super) fn is_busy(&self, name: u64) -> bool {
        self.lock().worker(name).is_some_and(|worker| worker.desk.count() > 0)
    }

    /// What the worker's task has to do.
    pub(super) fn look(&self, name: u64, page: Option<&[Begun]>) -> Order {
        let now = Instant::now();
        let idle_timeout = self.limits.idle_timeout;
        let mut state = self.lock();
        let closed = state.closed;
        let Some(worker) = state.worker(name) else { return Order::Kill };
        worker.desk.page(page, now);
        let order = match worker.phase {
            Phase::Doomed => Order::Kill,
            Phase::Starting(_) if closed => Order::Kill,
            Phase::Starting(until) if until <= now => Order::Kill,
            Phase::Starting(until) => Order::Wait(until),
            Phase::Closing => Order::Close,
            Phase::Live => match worker.desk.look(now) {
                Look::Overdue => Order::Kill,
                Look::Idle(since) if closed || since + idle_timeout <= now => Order::Close,
                Look::Idle(since) => Order::Wait(since + idle_timeout),
                Look::Fine(_) if closed => Order::Close,
                Look::Fine(until) => Order::Wait(until),
            },
        };
        match order {
            Order::Wait(until) => worker.look = Some(until),
            Order::Close => worker.phase = Phase::Closing,
            Order::Kill => worker.phase = Phase::Doomed,
        }
        order
    }

    /// The worker gets no more calls: it is being killed, or dead already.
    pub(super) fn doom(&self, name: u64) {
        if let Some(worker) = self.lock().worker(name) {
            worker.phase = Phase::Doomed;
        }
    }

    /// The worker is gone; nothing more will come of it.
    pub(super) fn bury(&self, name: u64, death: Death, page: Option<&[Begun]>) {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(at) = state.workers.iter().position(|worker| worker.name == name) else { return };
        let mut worker = state.workers.swap_remove(at);
        worker.desk.page(page, now);
        let fates = match death {
            Death::NotStarted(reason) => {
                state.failed(reason, now);
                worker.desk.killed()
            }
            Death::Died(reason) => {
                state.deaths += 1;
                state.reason = WorkerStart::Crash;
                worker.desk.died(&reason)
            }
            Death::Killed | Death::Closed => worker.desk.killed(),
        };
        if fates.iter().any(|fate| matches!(fate, Fate::Fault(_, Fault::Timeout(_)))) {
            state.reason = WorkerStart::Timeout;
        }
        state.settle(fates);
        self.pump(&mut state, now);
    }

    /// Gives waiting calls to workers, and plans workers for those that remain.
    fn pump(&self, state: &mut State, now: Instant) {
        for worker in &mut state.workers {
            worker.apart &= worker.desk.count() > 0;
            worker.reserved &= !state.apart.is_empty();
        }
        self.pump_apart(state, now);
        while !state.shared.is_empty() {
            let loads = state.workers.iter_mut();
            let worker = loads.filter(|worker| worker.takes_more()).min_by_key(|w| w.desk.count());
            let idle = worker.as_ref().is_some_and(|worker| worker.desk.count() == 0);
            let assigned = worker.is_some();
            if let Some(worker) = worker
                && let Some(job) = state.shared.pop_front()
            {
                state.shared.extend(worker.assign(job, now));
            }
            // One is started for those that wait, or when nobody is free for the next.
            if !idle && state.starting() < state.waiting().max(1) {
                self.plan(state, now);
            }
            if !assigned {
                break;
            }
        }
        if state.workers.is_empty() && !state.starters.is_empty() {
            self.plan(state, now);
        }
        if state.workers.is_empty() && (state.waiting() > 0 || !state.starters.is_empty()) {
            let reason = state.failure.as_ref().map(|failure| failure.reason.clone());
            state.fail(&reason.unwrap_or_else(|| "the function is being stopped".to_owned()));
        }
    }

    fn pump_apart(&self, state: &mut State, now: Instant) {
        while !state.apart.is_empty() {
            let busy = state.workers.iter().filter(|worker| worker.apart).count();
            // The others must not wait for what is suspected.
            if busy + 1 >= self.limits.workers && busy > 0 && !state.shared.is_empty() {
                break;
            }
            let free = state.workers.iter_mut().filter(|w| w.is_free());
            if let Some(worker) = free.max_by_key(|worker| worker.reserved)
                && let Some(job) = state.apart.pop_front()
            {
                state.apart.extend(worker.assign(job, now));
                worker.apart = true;
                worker.reserved = false;
                continue;
            }
            if state.starting() < state.waiting() {
                self.plan(state, now);
            }
            // With no worker to spare one is kept free of new calls until it is done with its own.
            let spared = |worker: &Worker| worker.apart || worker.reserved;
            if state.starting() == 0 && !state.workers.iter().any(spared) {
                let live = state.workers.iter_mut().filter(|w| w.phase == Phase::Live);
                if let Some(worker) = live.min_by_key(|worker| worker.desk.count()) {
                    worker.reserved = true;
                }
            }
            break;
        }
    }

    /// Plans another worker if there may be one.
    fn plan(&self, state: &mut State, now: Instant) {
        let resting = state.failure.as_ref().is_some_and(|failure| now < failure.until);
        if state.closed || resting || state.workers.len() >= self.limits.workers {
            return;
        }
        let delay = match state.deaths {
            0 | 1 => Duration::ZERO,
            deaths => backoff(DEATH_BACKOFF, deaths - 1),
        };
        state.names += 1;
        let bell = Arc::new(Bell::default());
        let until = now + delay + self.limits.start_timeout;
        state.workers.push(Worker {
            name: state.names,
            phase: Phase::Starting(until),
            desk: Desk::new(self.limits.slots, self.limits.pages, now),
            bell: Arc::clone(&bell),
            apart: false,
            reserved: false,
            look: None,
        });
        let reason = std::mem::replace(&mut state.reason, WorkerStart::Demand);
        state.plans.push(Plan { worker: state.names, reason, delay, bell });
        self.planned.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there is any use in waiting for a worker.
    fn admit(&self, now: Instant) -> Result<(), Fault> {
        if self.closed {
            return Err(Fault::Unavailable("the function is being stopped".to_owned()));
        }
        match &self.failure {
            Some(failure) if self.workers.is_empty() && now < failure.until => {
                Err(Fault::Unavailable(failure.reason.clone()))
            }
            _ => Ok(()),
        }
    }

    fn worker(&mut self, name: u64) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.name == name)
    }

    fn starting(&self) -> usize {
        let starting = |worker: &&Worker| matches!(worker.phase, Phase::Starting(_));
        self.workers.iter().filter(starting).count()
    }

    fn waiting(&self) -> usize {
        self.shared.len() + self.apart.len()
    }

    /// A worker could not be started. Those that run carry on; without any, nobody waits.
    fn failed(&mut self, reason: String, now: Instant) {
        let count = self.failure.as_ref().map_or(1, |failure| failure.count + 1);
        let until = now + backoff(START_BACKOFF, count);
        if self.workers.is_empty() {
            self.fail(&reason);
        }
        self.failure = Some(Failure { reason, until, count });
    }

    /// Nobody waits any longer.
    fn fail(&mut self, reason: &str) {
        let fault = || Fault::Unavailable(reason.to_owned());
        for job in self.apart.drain(..).chain(self.shared.drain(..)) {
            job.answer(Err(fault()));
        }
        for starter in self.starters.drain(..) {
            if starter.send(Err(fault())).is_err() {
                tracing::trace!("nobody waits for this start");
            }
        }
    }

    fn tell_starters(&mut self) {
        if self.workers.iter().any(|worker| worker.phase == Phase::Live) {
            for starter in self.starters.drain(..) {
                if starter.send(Ok(())).is_err() {
                    tracing::trace!("nobody waits for this start");
                }
            }
        }
    }

    /// Faults for some; the others wait again, before those that came later.
    fn settle(&mut self, fates: Vec<Fate>) {
        for fate in fates.into_iter().rev() {
            match fate {
                Fate::Fault(job, fault) => job.answer(Err(fault)),
                Fate::Suspect(job) | Fate::Innocent(job) if !job.is_wanted() => drop(job),
                Fate::Suspect(job) => {
                    self.apart.push_front(Job { company: Company::Apart, ..job });
                }
                Fate::Innocent(job) if job.company == Company::Apart => self.apart.push_front(job),
                Fate::Innocent(job) => self.shared.push_front(job),
            }
        }
    }
}

impl Worker {
    fn takes_more(&self) -> bool {
        self.phase == Phase::Live && !self.apart && !self.reserved && self.desk.has_room()
    }

    /// Free for a call that wants no company.
    fn is_free(&self) -> bool {
        self.phase == Phase::Live && self.desk.count() == 0
    }

    /// Returns the job if there is no room for it.
    fn assign(&mut self, job: Job, now: Instant) -> Option<Job> {
        let due = now + job.call.timeout;
        let refused = self.desk.put(job, now);
        self.bell.outbox.notify_one();
        self.look_by(due);
        refused
    }

    /// Has its task look at it then, if that is earlier than it would.
    fn look_by(&mut self, due: Instant) {
        if self.look.is_none_or(|look| due < look) {
            self.look = Some(due);
            self.bell.look.notify_one();
        }
    }
}

fn backoff((min, max): (Duration, Duration), count: u32) -> Duration {
    let factor = 1_u32.checked_shl(count.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
    min.saturating_mul(factor).min(max)
}
