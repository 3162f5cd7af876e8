use super::*;
use crate::{
    event::{Event, EventId, Headers, Verdict},
    handler::{Call, NonEmpty},
    runtime::process::{life::Order, pool::Receiver},
};

const SECOND: Duration = Duration::from_secs(1);

struct Shift {
    roster: Roster,
    now: Instant,
    tickets: u64,
}

impl Shift {
    fn new(workers: usize, slots: usize) -> Self {
        let (idle_timeout, start_timeout) = (300 * SECOND, 30 * SECOND);
        let limits = Limits { workers, slots, idle_timeout, start_timeout, pages: true };
        let roster = Roster::new(limits, Arc::default());
        Self { roster, now: Instant::now(), tickets: 0 }
    }

    fn submit(&mut self, company: Company) -> Result<Receiver, Fault> {
        let (reply, receiver) = oneshot::channel();
        self.tickets += 1;
        let event = Event {
            id: EventId { stream: "S".into(), sequence: self.tickets },
            subject: String::new(),
            headers: Headers::new(),
            data: bytes::Bytes::new(),
            time: time::OffsetDateTime::UNIX_EPOCH,
            attempt: 1,
        };
        let call = Call {
            events: NonEmpty::one(event),
            batch: false,
            state: None,
            timeout: SECOND,
            company,
        };
        self.roster.admit(self.now)?;
        let job = Job { ticket: self.tickets, call: Arc::new(call), company, reply };
        self.roster.submit(job, self.now);
        Ok(receiver)
    }

    /// The delays of what is to be started.
    fn plans(&mut self) -> Vec<Duration> {
        self.roster.plans().iter().map(|plan| plan.delay).collect()
    }

    /// The numbers of the calls that are handed to a worker.
    fn sent(&mut self, name: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        let desk = &mut self.roster.member(name).unwrap().desk;
        desk.send(self.now, |number, _, _| numbers.push(number));
        numbers
    }

    fn answer(&mut self, name: u64, number: u64) {
        let reply = Reply::one(Verdict::Done(Vec::new()));
        self.roster.answer(name, &mut vec![(number, Ok(reply))], self.now).unwrap();
    }

    fn ready(&mut self, name: u64) {
        self.roster.ready(name, self.now);
    }

    fn bury(&mut self, name: u64, death: Death) {
        self.roster.bury(name, death, None, self.now);
    }
}

fn fault(receiver: &mut Receiver) -> Option<Fault> {
    receiver.try_recv().ok()?.err()
}

fn broken() -> Death {
    Death::NotStarted("broken".to_owned())
}

fn unavailable() -> Option<Fault> {
    Some(Fault::Unavailable("broken".to_owned()))
}

#[test]
fn another_worker_is_started_when_nobody_is_free() {
    let mut shift = Shift::new(2, 2);
    let _replies: Vec<_> = (0..1).map(|_| shift.submit(Company::Shared)).collect();
    assert_eq!(shift.plans().len(), 1);
    shift.ready(1);
    assert_eq!(shift.sent(1).len(), 1);
    assert_eq!(shift.plans().len(), 0);
    let _second = shift.submit(Company::Shared);
    assert_eq!((shift.sent(1).len(), shift.plans().len()), (1, 1));
    let _third = shift.submit(Company::Shared);
    assert_eq!((shift.sent(1).len(), shift.plans().len()), (0, 0));
    shift.ready(2);
    assert_eq!(shift.sent(2).len(), 1);
    let _fourth = shift.submit(Company::Shared);
    let _fifth = shift.submit(Company::Shared);
    assert_eq!((shift.sent(1).len(), shift.sent(2).len(), shift.plans().len()), (0, 1, 0));
}

#[test]
fn what_runs_apart_does_not_stop_the_others() {
    let mut shift = Shift::new(2, 4);
    let _shared: Vec<_> = (0..2).map(|_| shift.submit(Company::Shared)).collect();
    shift.ready(1);
    shift.ready(2);
    let first = shift.sent(1);
    assert_eq!((first.len(), shift.sent(2).len()), (2, 0));
    let _apart: Vec<_> = (0..2).map(|_| shift.submit(Company::Apart)).collect();
    let apart = shift.sent(2);
    assert_eq!((shift.sent(1).len(), apart.len()), (0, 1));
    let _more: Vec<_> = (0..4).map(|_| shift.submit(Company::Shared)).collect();
    assert_eq!((shift.sent(1).len(), shift.sent(2).len()), (2, 0), "no company, and room for two");
    shift.answer(2, apart[0]);
    assert_eq!(shift.sent(2).len(), 1, "the second of them");
}

#[test]
fn the_only_worker_is_kept_free_for_what_must_run_apart() {
    let mut shift = Shift::new(1, 4);
    let _first = shift.submit(Company::Shared);
    shift.ready(1);
    let first = shift.sent(1);
    let apart = shift.submit(Company::Apart);
    let _second = shift.submit(Company::Shared);
    assert_eq!(shift.sent(1).len(), 0);
    shift.answer(1, first[0]);
    let alone = shift.sent(1);
    assert_eq!(alone.len(), 1);
    shift.answer(1, alone[0]);
    assert_eq!(shift.sent(1).len(), 1);
    drop(apart);
}

#[test]
fn nobody_is_kept_free_for_what_was_forgotten() {
    let mut shift = Shift::new(1, 4);
    let _first = shift.submit(Company::Shared);
    shift.ready(1);
    let apart = shift.submit(Company::Apart);
    drop(apart);
    shift.roster.forget(2, shift.now);
    let _second = shift.submit(Company::Shared);
    assert_eq!(shift.sent(1).len(), 2);
}

#[test]
fn a_function_that_cannot_start_is_tried_again_after_a_while() {
    let mut shift = Shift::new(2, 1);
    let mut waits = shift.submit(Company::Shared).unwrap();
    let mut too = shift.submit(Company::Shared).unwrap();
    assert_eq!(shift.plans().len(), 2);
    shift.bury(1, broken());
    assert_eq!(fault(&mut waits), None, "the other may start");
    shift.bury(2, broken());
    assert_eq!((fault(&mut waits), fault(&mut too)), (unavailable(), unavailable()));
    assert_eq!(shift.submit(Company::Shared).err(), unavailable());
    assert_eq!(shift.plans().len(), 0);
    shift.now += SECOND;
    let mut again = shift.submit(Company::Shared).unwrap();
    assert_eq!((fault(&mut again), shift.plans().len()), (None, 1));
    shift.ready(3);
    assert_eq!(shift.sent(3).len(), 1);
}

#[test]
fn those_that_run_carry_on_when_another_cannot_start() {
    let mut shift = Shift::new(2, 1);
    let _first = shift.submit(Company::Shared);
    shift.ready(1);
    let first = shift.sent(1);
    let mut second = shift.submit(Company::Shared).unwrap();
    assert_eq!(shift.plans().len(), 2);
    shift.bury(2, broken());
    assert_eq!((fault(&mut second), shift.plans().len()), (None, 0));
    shift.answer(1, first[0]);
    assert_eq!(shift.sent(1).len(), 1);
}

#[test]
fn workers_that_keep_dying_are_started_ever_more_slowly() {
    let mut shift = Shift::new(1, 1);
    let mut delays = Vec::new();
    let _waits = shift.submit(Company::Apart);
    for name in 1..=9 {
        delays.extend(shift.plans());
        shift.ready(name);
        shift.bury(name, Death::Died(String::new()));
    }
    let millis: Vec<u128> = delays.iter().map(Duration::as_millis).collect();
    assert_eq!(millis, [0, 0, 200, 400, 800, 1600, 3200, 5000, 5000]);
    shift.ready(10);
    let number = shift.sent(10);
    shift.answer(10, number[0]);
    shift.bury(10, Death::Died(String::new()));
    let _next = shift.submit(Company::Shared);
    assert_eq!(shift.plans().last(), Some(&Duration::ZERO));
}

#[test]
fn what_was_in_a_dead_worker_goes_before_what_came_later() {
    let mut shift = Shift::new(1, 2);
    let _replies: Vec<_> = (0..3).map(|_| shift.submit(Company::Shared)).collect();
    shift.ready(1);
    shift.bury(1, Death::Died(String::new()));
    shift.ready(2);
    let tickets: Vec<u64> = {
        let mut tickets = Vec::new();
        let desk = &mut shift.roster.member(2).unwrap().desk;
        desk.send(shift.now, |_, _, call| tickets.push(call.events.first.id.sequence));
        tickets
    };
    assert_eq!(tickets, [1, 2]);
}

#[test]
fn idle_workers_and_those_that_are_not_ready_in_time_end() {
    let mut shift = Shift::new(1, 1);
    let _reply = shift.submit(Company::Shared);
    let later = shift.now + 30 * SECOND;
    let look = |shift: &mut Shift, now| {
        shift.roster.member(1).unwrap().look(None, 300 * SECOND, false, now)
    };
    let start = shift.now;
    assert_eq!(look(&mut shift, start), Order::Wait(later));
    shift.ready(1);
    let number = shift.sent(1);
    shift.answer(1, number[0]);
    let end = shift.now + 300 * SECOND;
    assert_eq!(look(&mut shift, later), Order::Wait(end));
    assert_eq!(look(&mut shift, end), Order::Close);
    let mut late = Shift::new(1, 1);
    let _reply = late.submit(Company::Shared);
    let now = late.now + 30 * SECOND;
    assert_eq!(look(&mut late, now), Order::Kill);
}
