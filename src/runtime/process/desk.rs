//! What one worker has on its desk: the calls it was given and has not answered. Knows what a
//! worker's end or silence says about each of them; pure but for the senders of the replies.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::page::Begun;
use crate::handler::{Call, Company, Fault, Reply};

/// A call that somebody waits for.
#[derive(Debug)]
pub(super) struct Job {
    /// Names it for whoever waits.
    pub(super) ticket: u64,
    pub(super) call: Arc<Call>,
    /// The call's own wish, or our suspicion.
    pub(super) company: Company,
    pub(super) reply: oneshot::Sender<Result<Reply, Fault>>,
}

impl Job {
    /// Whoever waited may have left.
    pub(super) fn answer(self, reply: Result<Reply, Fault>) {
        let asked = self.call.events.len();
        let reply = reply.and_then(|reply| match reply.verdicts.len() {
            said if said != asked => {
                Err(Fault::BadReply(format!("{said} verdicts for {asked} events")))
            }
            _ => Ok(reply),
        });
        if self.reply.send(reply).is_err() {
            tracing::trace!(ticket = self.ticket, "nobody waits for this reply");
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }
}

#[derive(Debug)]
struct InFlight {
    job: Job,
    number: u64,
    sent: Option<Instant>,
    started: Option<Instant>,
    /// The worker is killed because of it.
    overdue: bool,
}

/// What becomes of a job whose worker has ended.
#[derive(Debug)]
pub(super) enum Fate {
    /// It did it.
    Fault(Job, Fault),
    /// It may have done it.
    Suspect(Job),
    /// It only waited, or somebody else did it.
    Innocent(Job),
}

/// What a look at a desk says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing there since.
    Idle(Instant),
    /// All in order; look again then.
    Fine(Instant),
    /// Something takes too long: the worker must be killed.
    Overdue,
}

/// The calls of one worker.
#[derive(Debug)]
pub(super) struct Desk {
    slots: Vec<Option<InFlight>>,
    /// The empty ones.
    free: Vec<usize>,
    calls: u64,
    outbox: VecDeque<usize>,
    /// When the worker last said anything, or was last without anything to do.
    sign: Instant,
    /// Whether the worker ever told what it had begun.
    tells: bool,
    /// Whether it does so in the started page, which is never behind. A `started` frame may not
    /// have been sent yet when a worker dies.
    pages: bool,
    /// Who did it is not known: whatever had begun is suspected.
    unclear: bool,
}

impl Desk {
    /// `pages`: the worker is known to use the started page.
    pub(super) fn new(slots: usize, pages: bool, now: Instant) -> Self {
        Self {
            slots: std::iter::repeat_with(|| None).take(slots).collect(),
            free: (0..slots).rev().collect(),
            calls: 0,
            outbox: VecDeque::new(),
            sign: now,
            tells: pages,
            pages,
            unclear: false,
        }
    }

    pub(super) const fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) const fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn sign(&mut self, now: Instant) {
        self.sign = now;
    }

    /// Puts a job into a free slot; gives it back when there is none.
    pub(super) fn put(&mut self, job: Job, now: Instant) -> Option<Job> {
        let idle = self.count() == 0;
        let Some(slot) = self.free.pop() else { return Some(job) };
        if idle {
            self.sign = now;
        }
        self.calls += 1;
        // The slot can be told from the number: no map is needed to find a call.
        let number = self.calls * self.slots.len() as u64 + slot as u64;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(InFlight { job, number, sent: None, started: None, overdue: false });
            self.outbox.push_back(slot);
        }
        None
    }

    /// What is to be written: number, slot and call.
    pub(super) fn send(&mut self, now: Instant, mut write: impl FnMut(u64, usize, Arc<Call>)) {
        for slot in self.outbox.drain(..) {
            if let Some(Some(flight)) = self.slots.get_mut(slot) {
                flight.sent = Some(now);
                write(flight.number, slot, Arc::clone(&flight.job.call));
            }
        }
    }

    /// Takes the job that a reply belongs to off the desk.
    pub(super) fn answered(&mut self, number: u64, now: Instant) -> Option<Job> {
        self.sign = now;
        let slot = self.slot(number)?;
        let flight = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        if !self.tells {
            self.overtaken(&flight, now);
        }
        Some(flight.job)
    }

    /// A worker that answers out of order does not work in order: what it was given before has
    /// begun as well.
    fn overtaken(&mut self, answered: &InFlight, now: Instant) {
        for flight in self.slots.iter_mut().flatten() {
            if flight.sent < answered.sent {
                flight.started.get_or_insert(now);
            }
        }
    }

    /// The worker says that it has begun a call.
    pub(super) fn begun(&mut self, number: u64, now: Instant) {
        self.sign = now;
        self.tells = true;
        if let Some(slot) = self.slot(number)
            && let Some(Some(flight)) = self.slots.get_mut(slot)
        {
            flight.started.get_or_insert(now);
        }
    }

    /// Takes in what the started page says, if it was read. A worker may clear what has ended.
    pub(super) fn page(&mut self, page: Option<&[Begun]>, now: Instant) {
        let Some(page) = page else { return };
        self.pages |= !page.is_empty();
        if !self.pages {
            return;
        }
        self.tells = true;
        for flight in self.slots.iter_mut().flatten() {
            let begun = page.iter().find(|begun| begun.number == flight.number);
            flight.started = begun.map(|begun| now.checked_sub(begun.ago).unwrap_or(now));
            self.sign = flight.started.map_or(self.sign, |at| self.sign.max(at));
        }
    }

    /// Withdraws a call that was not written yet. Returns whether it was here at all.
    pub(super) fn withdraw(&mut self, ticket: u64) -> bool {
        let mut here = false;
        for (slot, place) in self.slots.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|flight| flight.job.ticket == ticket) {
                here = true;
                if self.outbox.contains(&slot) {
                    self.outbox.retain(|waiting| *waiting != slot);
                    *place = None;
                    self.free.push(slot);
                }
            }
        }
        here
    }

    /// Whether somebody waits for anything here.
    pub(super) fn is_wanted(&self) -> bool {
        self.slots.iter().flatten().any(|flight| flight.job.is_wanted())
    }

    /// The event that runs, if it is one alone; several calls may wait behind it.
    pub(super) fn running(&self) -> Option<&Call> {
        let runs = |flight: &&InFlight| self.count() == 1 || flight.started.is_some();
        let mut running = self.slots.iter().flatten().filter(runs);
        match (running.next(), running.next()) {
            (Some(flight), None) => Some(&flight.job.call),
            _ => None,
        }
    }

    /// The call of a number.
    pub(super) fn call(&self, number: u64) -> Option<&Call> {
        let flight = self.slots.get(self.slot(number)?)?.as_ref()?;
        Some(&flight.job.call)
    }

    /// Whether anything takes too long.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        if self.count() == 0 {
            return Look::Idle(self.sign);
        }
        let late = |flight: &InFlight| {
            flight.started.is_some_and(|at| now.duration_since(at) >= flight.job.call.timeout)
        };
        let running = self.slots.iter().flatten().filter(|f| f.started.is_some()).count();
        if self.slots.iter().flatten().any(late) {
            // Another call may be what keeps the worker from finishing this one, unless the worker
            // was seen to be alive until just now.
            let silence = now.duration_since(self.sign);
            let alive = |flight: &InFlight| silence < flight.job.call.timeout / 10;
            self.unclear = running > 1
                && self.slots.iter().flatten().any(|flight| late(flight) && !alive(flight));
            for flight in self.slots.iter_mut().flatten() {
                flight.overdue = !self.unclear && late(flight);
            }
            return Look::Overdue;
        }
        if running == 0 {
            return self.look_at_silence(now);
        }
        // What has not begun has all of its time left.
        let due = self
            .slots
            .iter()
            .flatten()
            .map(|flight| flight.started.unwrap_or(now) + flight.job.call.timeout);
        Look::Fine(due.min().unwrap_or(now + Duration::from_secs(1)))
    }

    /// Nothing is known to have begun: either the worker does not tell, or it is stuck.
    fn look_at_silence(&mut self, now: Instant) -> Look {
        let sent = || self.slots.iter().flatten().filter(|flight| flight.sent.is_some());
        let due = sent().map(|flight| {
            flight.sent.map_or(now, |at| at.max(self.sign)) + flight.job.call.timeout
        });
        let Some(due) = due.min() else {
            let all = self.slots.iter().flatten().map(|flight| now + flight.job.call.timeout);
            return Look::Fine(all.min().unwrap_or(now));
        };
        if due > now {
            return Look::Fine(due);
        }
        self.unclear = sent().count() > 1;
        for flight in self.slots.iter_mut().flatten() {
            flight.overdue = !self.unclear && flight.sent.is_some();
        }
        Look::Overdue
    }

    /// The worker was killed, by us: what of its calls?
    pub(super) fn killed(self) -> Vec<Fate> {
        let tells = self.slots.iter().flatten().any(|flight| flight.started.is_some());
        let unclear = self.unclear;
        let fate = |flight: InFlight| {
            let began = if tells { flight.started.is_some() } else { flight.sent.is_some() };
            if flight.overdue {
                let timeout = flight.job.call.timeout;
                Fate::Fault(flight.job, Fault::Timeout(timeout))
            } else if unclear && began {
                Fate::Suspect(flight.job)
            } else {
                Fate::Innocent(flight.job)
            }
        };
        self.slots.into_iter().flatten().map(fate).collect()
    }

    /// The worker died by itself: what of its calls?
    pub(super) fn died(self, reason: &str) -> Vec<Fate> {
        let flights = || self.slots.iter().flatten();
        let known = self.pages && flights().any(|flight| flight.started.is_some());
        let suspected = |flight: &InFlight| match known {
            true => flight.started.is_some(),
            false => flight.sent.is_some(),
        };
        let suspects = flights().filter(|flight| suspected(flight)).count();
        // A worker that notes what it begins died in between if it had begun nothing. Only a call
        // that has nothing beside it can still be what it choked on.
        let certain = suspects == 1
            && (known || !self.pages || flights().all(|f| f.job.company == Company::Apart));
        let fate = |flight: InFlight| match suspected(&flight) {
            true if certain => Fate::Fault(flight.job, Fault::Crash(reason.to_owned())),
            true => Fate::Suspect(flight.job),
            false => Fate::Innocent(flight.job),
        };
        self.slots.into_iter().flatten().map(fate).collect()
    }

    /// The slot of a call that is here.
    fn slot(&self, number: u64) -> Option<usize> {
        let slot = usize::try_from(number.checked_rem(self.slots.len() as u64)?).ok()?;
        let flight = self.slots.get(slot)?.as_ref()?;
        (flight.number == number).then_some(slot)
    }
}

#[cfg(test)]
mod tests;
