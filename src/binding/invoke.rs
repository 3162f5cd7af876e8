//! One event, from its turn to the end of its invocation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tracing::{Instrument as _, debug_span, field, warn};

use super::{
    Binding,
    intake::Run,
    passage::{Left, Passage},
};
use crate::{
    cloudevents,
    event::{Cause, Event, State, Verdict},
    handler::{Call, Company, Fault, NonEmpty, Reply},
    letter::is_of_letters,
    outputs::{self, Provenance},
    replay::Replay,
    settle::{Admission, End, Letter, Outcome, Record, admit},
    source::{Lease, Ledger, Sink},
    telemetry::Trace,
};

/// How an event's way through its function ended.
pub(super) enum Ended {
    /// The function ran, or could not.
    Ran(End),
    /// It was not let run.
    GivenUp(Letter),
    /// Nor was it, for good.
    Parked,
    /// Nor was it: it waits elsewhere until then.
    Deferred(OffsetDateTime),
}

/// How an invocation went, for whoever watches.
pub(super) struct Told {
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
    pub(super) outputs: Vec<String>,
    /// The id of its trace.
    pub(super) trace: Option<String>,
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    pub(super) async fn handle<C: Lease>(
        self: Arc<Self>,
        mut passage: Box<Passage<C>>,
        run: Arc<Run>,
    ) -> Left<C> {
        let span = debug_span!(
            "invocation",
            binding = self.spec.name,
            event = %passage.event.id,
            attempt = field::Empty,
            outcome = field::Empty,
        );
        async {
            let admission = self.recall(&mut passage).await;
            span.record("attempt", passage.event.attempt);
            let (ended, told) = self.attempt(&mut passage, admission, &run).await;
            span.record("outcome", told.outcome.as_str());
            self.settle(passage, ended, told, &run).await
        }
        .instrument(span.clone())
        .await
    }

    /// What is known of an event that was delivered before, and what that means for it now.
    pub(super) async fn recall<C: Lease>(&self, passage: &mut Passage<C>) -> Admission {
        let inherits = self.ledger.inherits(passage.event.id.sequence);
        let unheard_of = passage.delivered <= 1 && !inherits;
        if !std::mem::replace(&mut passage.recalled, true) && !unheard_of {
            Box::pin(self.read_record(passage)).await;
        }
        passage.event.attempt = passage.record.attempt();
        admit(&passage.record, &self.policy())
    }

    async fn read_record<C: Lease>(&self, passage: &mut Passage<C>) {
        if passage.delivered > 1 {
            self.metrics.redeliveries.inc();
        }
        let (origin, sequence) = passage.place();
        let kept = self.ledger.read(origin, sequence).await;
        if kept != Record::default() {
            passage.record = kept;
        }
        if passage.behind {
            passage.record.waited(passage.delivered);
        } else if passage.record.account(passage.delivered) {
            self.metrics.losses.inc();
            warn!(event = %passage.event.id, losses = passage.record.losses, "a runner vanished with this event");
            let (origin, sequence) = passage.place();
            self.ledger.write(origin, sequence, &passage.record).await;
        }
    }

    /// Runs the function if it may run, and counts how that ended.
    pub(super) async fn attempt<C: Lease>(
        &self,
        passage: &mut Passage<C>,
        admission: Admission,
        run: &Run,
    ) -> (Ended, Told) {
        let (end, took) = match admission {
            Admission::Run => self.invoke(passage, Company::Shared, run).await,
            Admission::Apart => self.invoke(passage, Company::Apart, run).await,
            Admission::Quarantine => Box::pin(self.invoke_in_quarantine(passage, run)).await,
            Admission::DeadLetter(letter) => {
                return self.not_run(passage, Ended::GivenUp(letter));
            }
            Admission::Parked => return self.not_run(passage, Ended::Parked),
            Admission::Deferred(due) => return self.not_run(passage, Ended::Deferred(due)),
        };
        self.ended(passage, end, took)
    }

    /// Counts an invocation that has ended.
    pub(super) fn ended<C>(
        &self,
        passage: &mut Passage<C>,
        end: End,
        took: Duration,
    ) -> (Ended, Told) {
        match &end {
            End::Fault(Fault::Unavailable(reason)) => self.health.could_not_start(reason),
            End::Cancelled => {}
            _ => self.health.ran(),
        }
        let outcome = end.outcome();
        self.count(passage, outcome);
        let outputs = match &end {
            End::Done(messages) if self.observer.is_some() => {
                messages.iter().map(|message| message.subject.clone()).collect()
            }
            _ => Vec::new(),
        };
        let error = end.error();
        passage.trace.ended(outcome.as_str(), error.as_deref());
        let trace = passage.trace.id(&passage.event.headers);
        (Ended::Ran(end), Told { outcome, took, error, outputs, trace })
    }

    fn count<C>(&self, passage: &mut Passage<C>, outcome: Outcome) {
        self.all_metrics.step(|| {
            self.metrics.outcome(outcome);
            passage.slot.open = true;
        });
    }

    pub(super) fn not_run<C>(&self, passage: &mut Passage<C>, ended: Ended) -> (Ended, Told) {
        let (outcome, error) = match &ended {
            Ended::GivenUp(letter) => (
                letter.failed.last().map_or(Outcome::Crash, |last| last.outcome),
                letter.error.clone(),
            ),
            Ended::Deferred(_) => (Outcome::Unavailable, "it waits elsewhere".to_owned()),
            _ => (Outcome::Unavailable, "its letter is stored, its payload stays here".to_owned()),
        };
        self.count(passage, outcome);
        let trace = passage.trace.id(&passage.event.headers);
        let (took, outputs) = (Duration::ZERO, Vec::new());
        let told = Told { outcome, took, error: Some(error), outputs, trace };
        (ended, told)
    }

    /// Calls the function; says how that ended and how long the function took.
    async fn invoke<C: Lease>(
        &self,
        passage: &mut Passage<C>,
        company: Company,
        run: &Run,
    ) -> (End, Duration) {
        let invoking = async {
            if !passage.uses_turn() && !self.turn(run).await {
                return (End::Cancelled, Duration::ZERO);
            }
            let event = match self.begin(passage) {
                Ok(event) => event,
                Err(end) => return (end, Duration::ZERO),
            };
            let state = match self.look_up(passage).await {
                Ok(state) => state,
                Err(end) => return (end, Duration::ZERO),
            };
            let started = Instant::now();
            let call = Call {
                events: NonEmpty::one(event),
                batch: self.spec.batch.is_some(),
                state,
                timeout: self.spec.timeout,
                company,
            };
            let answer = self.handler.call(call).await;
            let took = started.elapsed();
            self.metrics.invocation_duration.observe(took.as_secs_f64());
            let end = match answer {
                Ok(reply) => self.understand(passage, reply),
                Err(fault) => End::Fault(fault),
            };
            (end, took)
        };
        tokio::select! {
            biased;
            ended = invoking => ended,
            () = run.shutdown.abort.cancelled() => (End::Cancelled, Duration::ZERO),
        }
    }

    /// Waits until a call may begin that has no turn yet; `false` when none may any more.
    pub(super) async fn turn(&self, run: &Run) -> bool {
        let Some(rate) = &self.rate else { return true };
        tokio::select! {
            () = rate.turn() => true,
            () = run.closing.cancelled() => false,
        }
    }

    /// The event as its function sees it.
    pub(super) fn begin<C>(&self, passage: &mut Passage<C>) -> Result<Event, End> {
        let place = self.place(&passage.event.id.stream);
        passage.trace = Trace::begin(&passage.event, place);
        let event = cloudevents::unpack(passage.event.clone());
        let mut event =
            event.map_err(|reason| End::Reject { cause: Cause::Undecodable, reason })?;
        if passage.came_back() {
            event.headers.retain(|name| !is_of_letters(name));
        }
        passage.trace.carry(&mut event.headers);
        passage.called = OffsetDateTime::now_utc();
        let waited = passage.called - event.time;
        self.metrics.queue_wait.observe(waited.as_seconds_f64().max(0.0));
        Ok(event)
    }

    /// The state of the event's key, for a binding that keeps any. An event that was applied to it
    /// already is done: its outputs are sent again.
    async fn look_up<C: Lease>(&self, passage: &mut Passage<C>) -> Result<Option<State>, End> {
        let Some(store) = &self.store else { return Ok(None) };
        let Some(key) = &passage.key else {
            let reason = "the event has no key to keep state under".to_owned();
            return Err(End::Reject { cause: Cause::Undecodable, reason });
        };
        let entry = store.read(key).await.map_err(End::State)?;
        if let Some(outputs) = entry.kept.recorded(&passage.event, &passage.origin) {
            return Err(End::Done(outputs));
        }
        let state = State(entry.kept.state.clone());
        passage.state = Some(Box::new(entry));
        Ok(Some(state))
    }

    /// One suspect at a time, and on record before it starts: if this runner dies now, it is known
    /// which of the events that it held was running.
    async fn invoke_in_quarantine<C: Lease>(
        &self,
        passage: &mut Passage<C>,
        run: &Run,
    ) -> (End, Duration) {
        passage.has_turn = false;
        let permit = tokio::select! {
            permit = self.quarantine.acquire() => permit,
            () = run.closing.cancelled() => return (End::Cancelled, Duration::ZERO),
        };
        let started = Record { started: Some(passage.delivered), ..passage.record.clone() };
        let (origin, sequence) = passage.place();
        self.ledger.write(origin, sequence, &started).await;
        let ended = self.invoke(passage, Company::Apart, run).await;
        drop(permit);
        ended
    }

    /// What the function's words mean for its binding.
    fn understand<C>(&self, passage: &mut Passage<C>, reply: Reply) -> End {
        let Reply { mut verdicts, state } = reply;
        if let (Some(entry), Some(State(state))) = (&mut passage.state, state) {
            entry.next = Some(state);
        }
        match (verdicts.pop(), verdicts.is_empty()) {
            (Some(verdict), true) => self.mean(passage, verdict),
            _ => End::Fault(Fault::BadReply("not one verdict for one event".to_owned())),
        }
    }

    /// What one verdict means for its event.
    pub(super) fn mean<C>(&self, passage: &Passage<C>, verdict: Verdict) -> End {
        let outputs = match verdict {
            Verdict::Done(outputs) if outputs.is_empty() => return End::Done(Vec::new()),
            Verdict::Done(outputs) => outputs,
            Verdict::Retry { reason, after } => return End::Retry { reason, after },
            Verdict::Reject { cause, reason } => return End::Reject { cause, reason },
        };
        let publish = self.spec.publish.as_ref();
        match outputs::address(outputs, publish, self.from(passage), OffsetDateTime::now_utc()) {
            Ok((messages, discarded)) => {
                self.metrics.published_discarded.inc_by(discarded as u64);
                End::Done(messages)
            }
            Err(why) => End::Fault(Fault::BadReply(why)),
        }
    }

    pub(super) fn from<'a, C>(&'a self, passage: &'a Passage<C>) -> Provenance<'a> {
        Provenance {
            name: &self.name,
            binding: self.spec.identity(),
            origin: &passage.origin,
            event: &passage.event,
            replay: self.replay.as_ref().and_then(Replay::of_outputs),
        }
    }
}
