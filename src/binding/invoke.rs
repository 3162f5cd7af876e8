//! One event, from delivery to acknowledgement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use time::OffsetDateTime;
use tracing::{Instrument as _, Span, debug_span, error, field, info, warn};

use super::Binding;
use crate::{
    cloudevents,
    event::{Cause, Event, Publish, Verdict},
    handler::{Call, Company, Fault, NonEmpty, Reply},
    letter::{self, Written},
    observer::Invocation,
    outputs::{self, Provenance},
    settle::{
        Ack, Admission, End, Letter, Memory, Now, Outcome, RETRY_AFTER_MAX, Reason, Record,
        Settlement, admit, give_up, settle, stay_parked,
    },
    shutdown::Shutdown,
    source::{Delivery, Lease, Ledger, Origin, PublishError, Sink, Stored},
};

/// An event on its way through its binding.
struct Passage {
    event: Event,
    origin: Arc<Origin>,
    delivered: u64,
    record: Record,
}

/// How an event's way through its function ended.
enum Ended {
    /// The function ran, or could not.
    Ran(End),
    /// It was not let run.
    GivenUp(Letter),
    /// Nor was it, for good.
    Parked,
}

/// How an invocation went, for whoever watches.
struct Told {
    outcome: Outcome,
    took: Duration,
    error: Option<String>,
    outputs: Vec<String>,
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    pub(super) async fn handle<C: Lease>(
        self: Arc<Self>,
        delivery: Delivery<C>,
        shutdown: Shutdown,
    ) {
        let Delivery { event, origin, delivered, lease } = delivery;
        let span = debug_span!(
            "invocation",
            binding = self.spec.name,
            event = %event.id,
            attempt = field::Empty,
            outcome = field::Empty,
        );
        async {
            let mut passage = Passage { event, origin, delivered, record: Record::default() };
            let admission = self.recall(&mut passage).await;
            Span::current().record("attempt", passage.event.attempt);
            let (end, told) = self.attempt(&passage, admission, &shutdown).await;
            Span::current().record("outcome", told.outcome.as_str());
            self.settle(passage, end, told, lease).await;
        }
        .instrument(span)
        .await;
    }

    /// What is known of an event that was delivered before, and what that means for it now.
    async fn recall(&self, passage: &mut Passage) -> Admission {
        if passage.delivered <= 1 {
            return Admission::Run;
        }
        self.metrics.redeliveries.inc();
        let sequence = passage.event.id.sequence;
        passage.record = self.ledger.read(&passage.origin, sequence).await;
        if passage.record.account(passage.delivered) {
            self.metrics.losses.inc();
            warn!(event = %passage.event.id, losses = passage.record.losses, "a runner vanished with this event");
            self.ledger.write(&passage.origin, sequence, &passage.record).await;
        }
        passage.event.attempt = passage.record.attempt();
        admit(&passage.record, &self.policy())
    }

    /// Runs the function if it may run, and counts how that ended.
    async fn attempt(
        &self,
        passage: &Passage,
        admission: Admission,
        shutdown: &Shutdown,
    ) -> (Ended, Told) {
        let started = Instant::now();
        let end = match admission {
            Admission::Run => self.invoke(passage, Company::Shared, shutdown).await,
            Admission::Apart => self.invoke(passage, Company::Apart, shutdown).await,
            Admission::Quarantine => self.invoke_in_quarantine(passage, shutdown).await,
            Admission::DeadLetter(letter) => return self.not_run(Ended::GivenUp(letter)),
            Admission::Parked => return self.not_run(Ended::Parked),
        };
        let took = started.elapsed();
        match &end {
            End::Fault(Fault::Unavailable(reason)) => self.health.could_not_start(reason),
            End::Cancelled => {}
            _ => self.health.ran(),
        }
        let outcome = end.outcome();
        self.all_metrics.step(|| self.metrics.outcome(outcome));
        let outputs = match &end {
            End::Done(messages) => messages.iter().map(|message| message.subject.clone()).collect(),
            _ => Vec::new(),
        };
        let error = end.error();
        (Ended::Ran(end), Told { outcome, took, error, outputs })
    }

    fn not_run(&self, ended: Ended) -> (Ended, Told) {
        let (outcome, error) = match &ended {
            Ended::GivenUp(letter) => (
                letter.failed.last().map_or(Outcome::Crash, |last| last.outcome),
                letter.error.clone(),
            ),
            _ => (Outcome::Unavailable, "its letter is stored, its payload stays here".to_owned()),
        };
        self.all_metrics.step(|| self.metrics.outcome(outcome));
        let told = Told { outcome, took: Duration::ZERO, error: Some(error), outputs: Vec::new() };
        (ended, told)
    }

    async fn invoke(&self, passage: &Passage, company: Company, shutdown: &Shutdown) -> End {
        let event = match cloudevents::unpack(passage.event.clone()) {
            Ok(event) => event,
            Err(reason) => {
                return End::Reject { cause: Cause::Undecodable, reason };
            }
        };
        let waited = OffsetDateTime::now_utc() - event.time;
        self.metrics.queue_wait.observe(waited.as_seconds_f64().max(0.0));
        let started = Instant::now();
        let call =
            Call { events: NonEmpty::one(event), state: None, timeout: self.spec.timeout, company };
        let end = tokio::select! {
            biased;
            answer = self.handler.call(call) => match answer {
                Ok(reply) => self.understand(passage, reply),
                Err(fault) => End::Fault(fault),
            },
            () = shutdown.abort.cancelled() => End::Cancelled,
        };
        self.metrics.invocation_duration.observe(started.elapsed().as_secs_f64());
        end
    }

    /// One suspect at a time, and on record before it starts: if this runner dies now, it is known
    /// which of the events that it held was running.
    async fn invoke_in_quarantine(&self, passage: &Passage, shutdown: &Shutdown) -> End {
        let permit = tokio::select! {
            permit = self.quarantine.acquire() => permit,
            () = shutdown.drain.cancelled() => return End::Cancelled,
        };
        let started = Record { started: Some(passage.delivered), ..passage.record.clone() };
        self.ledger.write(&passage.origin, passage.event.id.sequence, &started).await;
        let end = self.invoke(passage, Company::Apart, shutdown).await;
        drop(permit);
        end
    }

    /// What the function's words mean for its binding.
    fn understand(&self, passage: &Passage, reply: Reply) -> End {
        let mut verdicts = reply.verdicts;
        let outputs = match (verdicts.pop(), verdicts.is_empty()) {
            (Some(Verdict::Done(outputs)), true) => outputs,
            (Some(Verdict::Retry { reason, after }), true) => return End::Retry { reason, after },
            (Some(Verdict::Reject { cause, reason }), true) => {
                return End::Reject { cause, reason };
            }
            _ => return End::Fault(Fault::BadReply("not one verdict for one event".to_owned())),
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

    /// Settles an event, the order being the guarantee: its record, its outputs, its dead letter,
    /// and only then the word that lets the server forget it.
    async fn settle<C: Lease>(&self, mut passage: Passage, ended: Ended, mut told: Told, lease: C) {
        // A delivery that only renewed the claim did not vanish with anyone.
        passage.delivered = lease.delivered();
        let sequence = passage.event.id.sequence;
        let mut settlement = self.decide(&passage, ended);
        if let Err(err) = self.publish(std::mem::take(&mut settlement.publish)).await {
            told.error = Some(err.to_string());
            settlement = self.decide(&passage, Ended::Ran(End::Output(err.to_string())));
        }
        let Settlement { memory, letter, mut ack, .. } = settlement;
        if let Memory::Write(record) = &memory {
            self.ledger.write(&passage.origin, sequence, record).await;
        }
        let dead_letter = letter.as_ref().map(|letter| letter.reason);
        if let Some(letter) = letter
            && !self.bury(&letter, &passage).await
        {
            ack = Ack::Redeliver { after: RETRY_AFTER_MAX };
        }
        let released = lease.release(&ack).await;
        self.all_metrics.step(|| {
            match &released {
                Ok(()) => self.metrics.settled(&ack),
                Err(_) => self.metrics.settlement_errors.inc(),
            }
            self.metrics.in_flight.dec();
        });
        if let Err(err) = released {
            warn!(event = %passage.event.id, %err, "the event will be delivered again");
            return;
        }
        if memory == Memory::Forget && !matches!(ack, Ack::Redeliver { .. }) {
            self.ledger.forget(&passage.origin, sequence).await;
        }
        if ack == Ack::Done {
            self.metrics.last_success.set(OffsetDateTime::now_utc().unix_timestamp());
        }
        self.tell(&passage, told, dead_letter, ack);
    }

    fn decide(&self, passage: &Passage, ended: Ended) -> Settlement {
        match ended {
            Ended::Ran(end) => {
                let jitter = fastrand::f64();
                let now = Now {
                    time: OffsetDateTime::now_utc(),
                    stored: passage.event.time,
                    jitter,
                    unavailable: self.health.wait(jitter),
                };
                settle(end, passage.record.clone(), passage.delivered, &self.policy(), now)
            }
            Ended::GivenUp(letter) => give_up(letter),
            Ended::Parked => stay_parked(),
        }
    }

    /// Stores every output and waits for every `PubAck`.
    async fn publish(&self, messages: Vec<Publish>) -> Result<(), PublishError> {
        let store = async |message| {
            let started = Instant::now();
            let stored = self.sink.publish(message).await;
            self.metrics.publish_duration.observe(started.elapsed().as_secs_f64());
            match &stored {
                Ok(Stored::New) => self.metrics.published_stored.inc(),
                Ok(Stored::Duplicate) => self.metrics.published_duplicate.inc(),
                Err(_) => self.metrics.published_failed.inc(),
            }
            stored
        };
        join_all(messages.into_iter().map(store)).await.into_iter().try_for_each(|r| r.map(drop))
    }

    /// Stores a dead letter, however long that takes: the event is not given up before. Returns
    /// whether its payload is in it.
    async fn bury(&self, letter: &Letter, passage: &Passage) -> bool {
        let from = self.from(passage);
        let subject = format!("{}.{}", self.dead_letter_subject, self.spec.name);
        let max = self.sink.max_payload();
        let now = OffsetDateTime::now_utc();
        let written = letter::write(letter, from, &subject, &self.consumer, now, max);
        let (whole, message) = match written {
            Written::Whole(message) => (true, message),
            Written::WithoutPayload(message) => (false, message),
        };
        let mut pause = Duration::from_millis(200);
        while let Err(err) = self.sink.publish(message.clone()).await {
            self.metrics.dead_letter_publish_errors.inc();
            error!(event = %passage.event.id, %err, "a dead letter cannot be stored; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        self.metrics.dead_letter(letter.reason);
        if !whole {
            let parked = Record { parked: true, seen: passage.delivered, ..passage.record.clone() };
            self.ledger.write(&passage.origin, passage.event.id.sequence, &parked).await;
            warn!(event = %passage.event.id, "the dead letter has no room for the payload, which stays in its stream");
        }
        whole
    }

    fn tell(&self, passage: &Passage, told: Told, dead_letter: Option<Reason>, ack: Ack) {
        let Told { outcome, took, error, outputs } = told;
        if let Some(reason) = dead_letter {
            warn!(
                event = %passage.event.id, binding = self.spec.name, reason = reason.as_str(),
                attempt = passage.event.attempt, error, "dead letter"
            );
        } else if outcome != Outcome::Done {
            info!(
                event = %passage.event.id, binding = self.spec.name, outcome = outcome.as_str(),
                attempt = passage.event.attempt, error, "given back"
            );
        }
        let Some(observer) = &self.observer else { return };
        observer.settled(&Invocation {
            binding: self.spec.name.clone(),
            event: passage.event.id.to_string(),
            subject: passage.event.subject.clone(),
            trace: passage.event.headers.get("traceparent").map(str::to_owned),
            attempt: passage.event.attempt,
            outcome,
            took,
            error,
            outputs,
            dead_letter,
            ack,
        });
    }

    fn from<'a>(&'a self, passage: &'a Passage) -> Provenance<'a> {
        Provenance {
            name: &self.name,
            binding: &self.spec.name,
            origin: &passage.origin,
            event: &passage.event,
        }
    }
}
