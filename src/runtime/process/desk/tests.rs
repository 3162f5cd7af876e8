use super::*;
use crate::{
    event::{Event, EventId, Headers},
    handler::NonEmpty,
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A desk of four slots with a call for each ticket, written one second after the other.
fn desk(pages: bool, tickets: u64, start: Instant) -> Desk {
    let mut desk = Desk::new(4, pages, start);
    for ticket in 1..=tickets {
        let at = start + Duration::from_secs(ticket);
        assert!(desk.put(job(ticket), at).is_none());
        desk.send(at, |_, _, _| {});
    }
    desk
}

fn job(ticket: u64) -> Job {
    let event = Event {
        id: EventId { stream: "S".into(), sequence: ticket },
        subject: String::new(),
        headers: Headers::new(),
        data: bytes::Bytes::new(),
        time: time::OffsetDateTime::UNIX_EPOCH,
        attempt: 1,
    };
    let company = Company::Shared;
    let call =
        Call { events: NonEmpty::one(event), batch: false, state: None, timeout: TIMEOUT, company };
    Job { ticket, call: Arc::new(call), company, reply: oneshot::channel().0 }
}

fn number(desk: &Desk, ticket: u64) -> u64 {
    desk.slots.iter().flatten().find(|f| f.job.ticket == ticket).unwrap().number
}

/// The page with what has begun at these many seconds.
fn begin(desk: &mut Desk, begun: &[(u64, u64)], start: Instant, now: u64) {
    let ago = |at| Duration::from_secs(now - at);
    let begun =
        begun.iter().map(|(ticket, at)| Begun { number: number(desk, *ticket), ago: ago(*at) });
    let page: Vec<Begun> = begun.collect();
    desk.page(Some(&page), start + Duration::from_secs(now));
}

/// Tickets that are faulted, suspected, innocent.
fn sorted(fates: Vec<Fate>) -> [Vec<u64>; 3] {
    let mut sorted = [vec![], vec![], vec![]];
    for fate in fates {
        match fate {
            Fate::Fault(job, _) => sorted[0].push(job.ticket),
            Fate::Suspect(job) => sorted[1].push(job.ticket),
            Fate::Innocent(job) => sorted[2].push(job.ticket),
        }
    }
    sorted.iter_mut().for_each(|tickets| tickets.sort_unstable());
    sorted
}

fn seconds(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn the_one_that_had_begun_is_to_blame_for_a_death() {
    let start = Instant::now();
    let mut desk = desk(true, 3, start);
    begin(&mut desk, &[(2, 4)], start, 5);
    assert_eq!(sorted(desk.died("")), [vec![2], vec![], vec![1, 3]]);
}

#[test]
fn several_that_had_begun_are_suspects() {
    let start = Instant::now();
    let mut desk = desk(true, 3, start);
    begin(&mut desk, &[(1, 3), (2, 4)], start, 5);
    assert_eq!(sorted(desk.died("")), [vec![], vec![1, 2], vec![3]]);
}

#[test]
fn what_has_ended_is_no_suspect_though_its_reply_was_lost() {
    let start = Instant::now();
    let mut desk = desk(true, 2, start);
    begin(&mut desk, &[(1, 3)], start, 4);
    begin(&mut desk, &[(2, 5)], start, 6);
    assert_eq!(sorted(desk.died("")), [vec![2], vec![], vec![1]]);
}

#[test]
fn a_death_between_calls_is_nobodys_fault_at_first() {
    let start = Instant::now();
    assert_eq!(sorted(desk(true, 1, start).died("")), [vec![], vec![1], vec![]]);
    let mut alone = Desk::new(4, true, start);
    alone.put(Job { company: Company::Apart, ..job(1) }, start);
    alone.send(start, |_, _, _| {});
    assert_eq!(sorted(alone.died("")), [vec![1], vec![], vec![]]);
}

#[test]
fn without_a_page_all_that_was_sent_is_suspected() {
    let start = Instant::now();
    let mut one = desk(false, 1, start);
    one.put(job(2), start);
    assert_eq!(sorted(one.died("")), [vec![1], vec![], vec![2]]);
    let mut desk = desk(false, 2, start);
    desk.begun(number(&desk, 1), start);
    assert_eq!(sorted(desk.died("")), [vec![], vec![1, 2], vec![]]);
}

#[test]
fn a_call_has_its_time_from_when_it_begins() {
    let start = Instant::now();
    let mut desk = desk(true, 2, start);
    begin(&mut desk, &[(1, 5)], start, 14);
    assert_eq!(desk.look(seconds(start, 14)), Look::Fine(seconds(start, 15)));
    assert_eq!(desk.look(seconds(start, 15)), Look::Overdue);
    assert_eq!(sorted(desk.killed()), [vec![1], vec![], vec![2]]);
}

#[test]
fn in_a_silent_worker_any_that_has_begun_may_be_what_blocks_it() {
    let start = Instant::now();
    let mut desk = desk(true, 3, start);
    begin(&mut desk, &[(1, 3), (2, 4)], start, 13);
    assert_eq!(desk.look(seconds(start, 13)), Look::Overdue);
    assert_eq!(sorted(desk.killed()), [vec![], vec![1, 2], vec![3]]);
}

#[test]
fn in_a_lively_worker_the_late_one_is_to_blame() {
    let start = Instant::now();
    let mut desk = desk(true, 3, start);
    begin(&mut desk, &[(1, 3), (2, 4)], start, 13);
    desk.sign(seconds(start, 13));
    assert_eq!(desk.look(seconds(start, 13)), Look::Overdue);
    assert_eq!(sorted(desk.killed()), [vec![1], vec![], vec![2, 3]]);
}

#[test]
fn silence_is_all_that_a_worker_may_tell() {
    let start = Instant::now();
    let mut one = desk(false, 1, start);
    assert_eq!(one.look(seconds(start, 2)), Look::Fine(seconds(start, 11)));
    assert_eq!(one.look(seconds(start, 11)), Look::Overdue);
    assert_eq!(sorted(one.killed()), [vec![1], vec![], vec![]]);
    let mut two = desk(false, 2, start);
    two.sign(seconds(start, 9));
    assert_eq!(two.look(seconds(start, 11)), Look::Fine(seconds(start, 19)));
    assert_eq!(two.look(seconds(start, 19)), Look::Overdue);
    assert_eq!(sorted(two.killed()), [vec![], vec![1, 2], vec![]]);
}

#[test]
fn what_others_overtake_has_begun() {
    let start = Instant::now();
    let mut desk = desk(false, 3, start);
    let answered = number(&desk, 2);
    assert!(desk.answered(answered, seconds(start, 5)).is_some());
    desk.sign(seconds(start, 15));
    assert_eq!(desk.look(seconds(start, 15)), Look::Overdue);
    assert_eq!(sorted(desk.killed()), [vec![1], vec![], vec![3]]);
}

#[test]
fn what_was_not_written_is_withdrawn() {
    let start = Instant::now();
    let mut desk = desk(true, 1, start);
    desk.put(job(2), start);
    assert!(desk.withdraw(1) && desk.withdraw(2) && !desk.withdraw(3));
    assert_eq!(desk.count(), 1);
    desk.send(start, |_, _, _| panic!("nothing to send"));
}

#[test]
fn a_reply_belongs_to_one_call() {
    let start = Instant::now();
    let mut desk = desk(true, 1, start);
    let answered = number(&desk, 1);
    assert!(desk.answered(answered + 1, start).is_none());
    assert_eq!(desk.answered(answered, start).map(|job| job.ticket), Some(1));
    assert!(desk.answered(answered, start).is_none());
    assert_eq!(desk.look(start), Look::Idle(start));
}
