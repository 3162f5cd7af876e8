//! Several events in one call. Each is settled by its own verdict; a call that fails as a whole is
//! repeated with half of its events, and charged to none until it is down to one.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tracing::debug;

use super::{
    Binding,
    intake::Run,
    passage::{Left, Passage},
};
use crate::{
    event::{Event, Verdict},
    handler::{Call, Company, Fault, NonEmpty, Reply},
    settle::{Admission, End},
    source::{Lease, Ledger, Sink},
};

/// Events for one call, and whether others may be with them in a worker.
struct Group<C> {
    passages: Vec<Box<Passage<C>>>,
    company: Company,
}

/// What a call with several events has come to.
enum Answer {
    /// An end for each of them.
    Each(Vec<End>),
    /// None for any of them; whether that may have cost a worker.
    Whole(Company),
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    pub(super) async fn handle_batch<C: Lease>(
        self: Arc<Self>,
        mut passages: Vec<Box<Passage<C>>>,
        run: Arc<Run>,
    ) -> Left<C> {
        let admissions = join_all(passages.iter_mut().map(|passage| self.recall(passage))).await;
        let mut together = Vec::with_capacity(passages.len());
        let mut apart = Vec::new();
        for (passage, admission) in passages.into_iter().zip(admissions) {
            match admission {
                Admission::Run => together.push(passage),
                other => apart.push((passage, other)),
            }
        }
        let mut left = self.handle_together(together, &run).await;
        for (mut passage, admission) in apart {
            let (ended, told) = self.attempt(&mut passage, admission, &run).await;
            left = left.and(self.settle(passage, ended, told, &run).await);
        }
        left
    }

    async fn handle_together<C: Lease>(
        &self,
        passages: Vec<Box<Passage<C>>>,
        run: &Run,
    ) -> Left<C> {
        let mut left = Left::nothing();
        let mut groups = VecDeque::from([Group { passages, company: Company::Shared }]);
        while let Some(Group { mut passages, company }) = groups.pop_front() {
            let begun = Instant::now();
            let (called, refused) = self.call(&mut passages, company, run).await;
            left = left.and(self.settle_all(refused, Duration::ZERO, run).await);
            match called {
                Answer::Each(ends) => {
                    let ended = passages.into_iter().zip(ends).collect();
                    left = left.and(self.settle_all(ended, begun.elapsed(), run).await);
                }
                Answer::Whole(company) => {
                    debug!(binding = self.spec.name, events = passages.len(), "a batch is halved");
                    let rest = passages.split_off(passages.len() / 2);
                    groups.push_front(Group { passages: rest, company });
                    groups.push_front(Group { passages, company });
                }
            }
        }
        left
    }

    /// Calls the function; takes out what it cannot be shown, with how that ends.
    async fn call<C: Lease>(
        &self,
        passages: &mut Vec<Box<Passage<C>>>,
        company: Company,
        run: &Run,
    ) -> (Answer, Vec<(Box<Passage<C>>, End)>) {
        let mut refused = Vec::new();
        let has_turn = passages.iter_mut().fold(false, |any, passage| passage.uses_turn() | any);
        if !has_turn && !self.turn(run).await {
            let cancelled = passages.iter().map(|_| End::Cancelled).collect();
            return (Answer::Each(cancelled), refused);
        }
        let mut shown = Vec::with_capacity(passages.len());
        let mut events = Vec::with_capacity(passages.len());
        for mut passage in passages.drain(..) {
            match self.begin(&mut passage) {
                Ok(event) => {
                    events.push(event);
                    shown.push(passage);
                }
                Err(end) => refused.push((passage, end)),
            }
        }
        *passages = shown;
        let answer = match NonEmpty::collect(events) {
            None => Answer::Each(Vec::new()),
            Some(events) => tokio::select! {
                biased;
                answer = self.ask(passages, events, company) => answer,
                () = run.shutdown.abort.cancelled() => {
                    Answer::Each(passages.iter().map(|_| End::Cancelled).collect())
                }
            },
        };
        (answer, refused)
    }

    async fn ask<C: Lease>(
        &self,
        passages: &[Box<Passage<C>>],
        events: NonEmpty<Event>,
        company: Company,
    ) -> Answer {
        let started = Instant::now();
        let timeout = self.spec.timeout;
        let call = Call { events, batch: true, state: None, timeout, company };
        let answer = self.handler.call(call).await;
        self.metrics.invocation_duration.observe(started.elapsed().as_secs_f64());
        let alone = passages.len() == 1;
        match answer {
            Ok(Reply { verdicts, .. }) if verdicts.len() != passages.len() => {
                let (said, asked) = (verdicts.len(), passages.len());
                whole(Fault::BadReply(format!("{said} verdicts for {asked} events")), passages)
            }
            Ok(Reply { verdicts, .. }) if !alone && is_one_word(&verdicts) => {
                Answer::Whole(Company::Shared)
            }
            Ok(Reply { verdicts, .. }) => {
                let pairs = passages.iter().zip(verdicts);
                Answer::Each(pairs.map(|(passage, verdict)| self.mean(passage, verdict)).collect())
            }
            Err(fault) => whole(fault, passages),
        }
    }

    async fn settle_all<C: Lease>(
        &self,
        ended: Vec<(Box<Passage<C>>, End)>,
        took: Duration,
        run: &Run,
    ) -> Left<C> {
        let settle = async |(mut passage, end): (Box<Passage<C>>, End)| {
            let (ended, told) = self.ended(&mut passage, end, took);
            self.settle(passage, ended, told, run).await
        };
        let left = join_all(ended.into_iter().map(settle)).await;
        left.into_iter().fold(Left::nothing(), Left::and)
    }
}

/// A fault of a call is that of its event if there is just one, and of all if the function could
/// not be started.
fn whole<C>(fault: Fault, passages: &[Box<Passage<C>>]) -> Answer {
    match fault {
        Fault::Unavailable(_) => Answer::Each(vec![End::Fault(fault); passages.len()]),
        _ if passages.len() == 1 => Answer::Each(vec![End::Fault(fault)]),
        Fault::Crash(_) | Fault::Timeout(_) => Answer::Whole(Company::Apart),
        Fault::BadReply(_) => Answer::Whole(Company::Shared),
    }
}

/// Whether the function said the same retry of every event, and no delay: what a batch sounds like
/// that failed as a whole.
fn is_one_word(verdicts: &[Verdict]) -> bool {
    let failed = |verdict: &Verdict| matches!(verdict, Verdict::Retry { after: None, .. });
    verdicts
        .split_first()
        .is_some_and(|(first, rest)| failed(first) && rest.iter().all(|verdict| verdict == first))
}
