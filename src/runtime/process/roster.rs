//! Who works and who waits: which worker gets which call, when another one is started, what becomes
//! of the calls of one that ended. No lock, no clock, no tasks.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    desk::{Desk, Fate, Job},
    life::{Death, Limits, Phase, Plan},
    member::Member,
    page::Begun,
};
use crate::{
    handler::{Company, Fault, Reply},
    metrics::WorkerStart,
};

/// Between two tries to start a function that could not be started.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Before a worker is started in the place of one that died without having answered anything.
const DEATH_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Why there are no more calls.
const STOPPED: &str = "the function is being stopped";

/// The workers of one function and the calls that wait for them.
#[derive(Debug)]
pub(super) struct Roster {
    limits: Limits,
    members: Vec<Member>,
    shared: VecDeque<Job>,
    apart: VecDeque<Job>,
    starters: Vec<oneshot::Sender<Result<(), Fault>>>,
    plans: Vec<Plan>,
    planned: Arc<Notify>,
    names: u64,
    failure: Option<Failure>,
    /// Workers that died in a row without having answered anything.
    deaths: u32,
    /// Why the next worker is started.
    reason: WorkerStart,
    closed: bool,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    until: Instant,
    count: u32,
}

impl Roster {
    pub(super) const fn new(limits: Limits, planned: Arc<Notify>) -> Self {
        Self {
            limits,
            members: Vec::new(),
            shared: VecDeque::new(),
            apart: VecDeque::new(),
            starters: Vec::new(),
            plans: Vec::new(),
            planned,
            names: 0,
            failure: None,
            deaths: 0,
            reason: WorkerStart::Demand,
            closed: false,
        }
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn member(&mut self, name: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.name == name)
    }

    pub(super) fn plans(&mut self) -> Vec<Plan> {
        std::mem::take(&mut self.plans)
    }

    /// Whether there is any use in waiting for a worker.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Fault> {
        if self.closed {
            return Err(Fault::Unavailable(STOPPED.to_owned()));
        }
        match &self.failure {
            Some(failure) if self.members.is_empty() && now < failure.until => {
                Err(Fault::Unavailable(failure.reason.clone()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn submit(&mut self, job: Job, now: Instant) {
        match job.company {
            Company::Shared => self.shared.push_back(job),
            Company::Apart => self.apart.push_back(job),
        }
        self.pump(now);
    }

    pub(super) fn start(&mut self, starter: oneshot::Sender<Result<(), Fault>>, now: Instant) {
        self.starters.push(starter);
        self.tell_starters();
        self.pump(now);
    }

    pub(super) fn forget(&mut self, ticket: u64, now: Instant) {
        self.shared.retain(|job| job.ticket != ticket);
        self.apart.retain(|job| job.ticket != ticket);
        for member in &mut self.members {
            if member.desk.withdraw(ticket) && member.desk.count() > 0 && !member.desk.is_wanted() {
                member.doom();
            }
        }
        self.pump(now);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.fail(STOPPED);
    }

    pub(super) fn ready(&mut self, name: u64, now: Instant) {
        if let Some(member) = self.member(name)
            && member.is_starting()
        {
            member.phase = Phase::Live;
            member.desk.sign(now);
            member.bell.look.notify_one();
            self.failure = None;
        }
        self.tell_starters();
        self.pump(now);
    }

    /// Gives replies to those who wait for them.
    ///
    /// # Errors
    /// A reply to a call that the worker does not have.
    pub(super) fn answer(
        &mut self,
        name: u64,
        replies: &mut Vec<(u64, Result<Reply, Fault>)>,
        now: Instant,
    ) -> Result<(), String> {
        let idle_timeout = self.limits.idle_timeout;
        let mut unknown = Ok(());
        let Some(member) = self.member(name) else { return unknown };
        for (number, reply) in replies.drain(..) {
            match member.desk.answered(number, now) {
                Some(job) => job.answer(reply),
                None => {
                    unknown = Err(format!("a reply to call {number}, which it does not have"));
                }
            }
        }
        if member.desk.count() == 0 {
            member.look_by(now + idle_timeout);
        }
        self.deaths = 0;
        self.pump(now);
        unknown
    }

    /// The worker is gone; nothing more will come of it.
    pub(super) fn bury(&mut self, name: u64, death: Death, page: Option<&[Begun]>, now: Instant) {
        let Some(at) = self.members.iter().position(|member| member.name == name) else { return };
        let Member { mut desk, .. } = self.members.swap_remove(at);
        desk.page(page, now);
        let fates = match death {
            Death::NotStarted(reason) => {
                self.failed(reason, now);
                desk.killed()
            }
            Death::Died(reason) => {
                self.deaths += 1;
                self.reason = WorkerStart::Crash;
                desk.died(&reason)
            }
            Death::Killed | Death::Closed => desk.killed(),
        };
        if fates.iter().any(|fate| matches!(fate, Fate::Fault(_, Fault::Timeout(_)))) {
            self.reason = WorkerStart::Timeout;
        }
        self.settle(fates);
        self.pump(now);
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

    /// Gives waiting calls to workers, and plans workers for those that remain.
    fn pump(&mut self, now: Instant) {
        for member in &mut self.members {
            member.apart &= member.desk.count() > 0;
            member.reserved &= !self.apart.is_empty();
        }
        self.pump_apart(now);
        while !self.shared.is_empty() {
            let able = self.members.iter_mut().filter(|member| member.takes_more());
            let least = able.min_by_key(|member| member.desk.count());
            let (taken, idle) = match least {
                Some(member) => {
                    let idle = member.desk.count() == 0;
                    let job = self.shared.pop_front();
                    self.shared.extend(job.and_then(|job| member.assign(job, now)));
                    (true, idle)
                }
                None => (false, false),
            };
            // One is started for each that waits, or when nobody was free for this one.
            if !idle && self.starting() < self.waiting().max(1) {
                self.plan(now);
            }
            if !taken {
                break;
            }
        }
        if self.members.is_empty() && !self.starters.is_empty() {
            self.plan(now);
        }
        if self.members.is_empty() && (self.waiting() > 0 || !self.starters.is_empty()) {
            let reason = self.failure.as_ref().map(|failure| failure.reason.clone());
            self.fail(&reason.unwrap_or_else(|| STOPPED.to_owned()));
        }
    }

    fn pump_apart(&mut self, now: Instant) {
        while !self.apart.is_empty() {
            let busy = self.members.iter().filter(|member| member.apart).count();
            // The others must not wait for what is suspected.
            if busy + 1 >= self.limits.workers && busy > 0 && !self.shared.is_empty() {
                break;
            }
            let free = self.members.iter_mut().filter(|member| member.is_free());
            if let Some(member) = free.max_by_key(|member| member.reserved)
                && let Some(job) = self.apart.pop_front()
            {
                self.apart.extend(member.assign(job, now));
                (member.apart, member.reserved) = (true, false);
                continue;
            }
            if self.starting() < self.waiting() {
                self.plan(now);
            }
            // With none to spare, one is kept free of new calls until it is done with its own.
            if self.starting() == 0 && !self.members.iter().any(|m| m.apart || m.reserved) {
                let live = self.members.iter_mut().filter(|member| member.phase == Phase::Live);
                if let Some(member) = live.min_by_key(|member| member.desk.count()) {
                    member.reserved = true;
                }
            }
            break;
        }
    }

    /// Plans another worker if there may be one.
    fn plan(&mut self, now: Instant) {
        let resting = self.failure.as_ref().is_some_and(|failure| now < failure.until);
        if self.closed || resting || self.members.len() >= self.limits.workers {
            return;
        }
        let delay = match self.deaths {
            0 | 1 => Duration::ZERO,
            deaths => backoff(DEATH_BACKOFF, deaths - 1),
        };
        self.names += 1;
        let desk = Desk::new(self.limits.slots, self.limits.pages, now);
        let member = Member::new(self.names, now + delay + self.limits.start_timeout, desk);
        let reason = std::mem::replace(&mut self.reason, WorkerStart::Demand);
        let bell = Arc::clone(&member.bell);
        self.plans.push(Plan { worker: self.names, reason, delay, bell });
        self.members.push(member);
        self.planned.notify_one();
    }

    fn starting(&self) -> usize {
        self.members.iter().filter(|member| member.is_starting()).count()
    }

    fn waiting(&self) -> usize {
        self.shared.len() + self.apart.len()
    }

    /// A worker could not be started. Those that run carry on; without any, nobody waits.
    fn failed(&mut self, reason: String, now: Instant) {
        let count = self.failure.as_ref().map_or(1, |failure| failure.count.saturating_add(1));
        let until = now + backoff(START_BACKOFF, count);
        if self.members.is_empty() {
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
        self.tell(|| Err(fault()));
    }

    fn tell_starters(&mut self) {
        if self.members.iter().any(|member| member.phase == Phase::Live) {
            self.tell(|| Ok(()));
        }
    }

    fn tell(&mut self, what: impl Fn() -> Result<(), Fault>) {
        for starter in self.starters.drain(..) {
            if starter.send(what()).is_err() {
                tracing::trace!("nobody waits for this start");
            }
        }
    }
}

fn backoff((min, max): (Duration, Duration), count: u32) -> Duration {
    let factor = 2_u32.checked_pow(count.saturating_sub(1)).unwrap_or(u32::MAX);
    min.saturating_mul(factor).min(max)
}

#[cfg(test)]
mod tests;
