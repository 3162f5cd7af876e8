//! Carries out what becomes of an event, the order being the guarantee: its state, its outputs, its
//! record, its dead letter, and only then the word that lets the server forget it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use time::OffsetDateTime;
use tracing::{info, warn};

use super::{
    Binding,
    intake::Run,
    invoke::{Ended, Told},
    passage::{Left, Passage},
    store::Written,
};
use crate::{
    event::{Event, Publish},
    observer::Invocation,
    settle::{
        Ack, Admission, End, Exhausted, GIVEN_BACK_FOR, Memory, Now, Outcome, RETRY_AFTER_MAX,
        Reason, Settlement, done, give_up, settle, stay_deferred, stay_parked,
    },
    source::{Lease, Ledger, PublishError, SettleError, Sink, Stored},
    telemetry::{Step, Trace},
};

/// What an event that shall run again does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// It goes back to its stream.
    InStream,
    /// It keeps its claim and holds up its key.
    InLane,
    /// It keeps its claim and holds up nothing.
    Aside,
}

/// What became of an event.
struct Settled {
    told: Told,
    dead_letter: Option<Reason>,
    exhausted: Option<Exhausted>,
    ack: Ack,
    /// Whether its record has no more use once it is released.
    forget: bool,
    /// Whether it waits elsewhere, so that this delivery is done with.
    deferred: bool,
    /// Whether it keeps its claim.
    held: bool,
}

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    /// Settles an event. What few events need is in boxes, or the future of each would have room for it.
    /// One that a fence keeps from it is dropped: whoever has taken over does it.
    pub(super) async fn settle<C: Lease>(
        &self,
        mut passage: Box<Passage<C>>,
        ended: Ended,
        mut told: Told,
        run: &Run,
    ) -> Left<C> {
        // A delivery that only renewed the claim did not vanish with anyone.
        passage.delivered = passage.lease.delivered();
        if !run.fence.holds() {
            return Left::nothing();
        }
        let mut wait = self.wait(&ended);
        let mut due = match ended {
            Ended::Deferred(due) => Some(due),
            _ => None,
        };
        let mut settlement = self.decide(&passage, ended);
        match self.keep(&mut passage, &settlement).await {
            Written::Stored => {}
            Written::Outrun => return self.hold(passage, Duration::ZERO),
            Written::Refused(why) => {
                told.error = Some(why.clone());
                settlement = self.decide(&passage, Ended::Ran(End::State(why)));
            }
        }
        let outputs = std::mem::take(&mut settlement.publish);
        if let Err(err) = self.publish(outputs, &passage).await {
            told.error = Some(err.to_string());
            settlement = self.decide(&passage, Ended::Ran(End::Output(err.to_string())));
        }
        let Settlement { memory, letter, exhausted, mut ack, .. } = settlement;
        let stops = matches!(exhausted, Some(Exhausted::Pauses(_)));
        if stops {
            wait = Wait::InStream;
        }
        let stays = matches!(ack, Ack::Redeliver { .. }) && wait != Wait::InStream;
        let forget = memory == Memory::Forget;
        if let Memory::Write(mut record) = memory {
            if stays {
                record.goes_on(passage.delivered);
            } else if !stops {
                due = due.or_else(|| self.defers(&ack));
            }
            record.deferred = due;
            Box::pin(self.remember(&mut passage, record)).await;
        }
        let deferred = match due {
            Some(due) => Box::pin(self.defer(&mut passage, due)).await,
            None => false,
        };
        let dead_letter = letter.as_ref().map(|letter| letter.reason);
        if let Some(letter) = letter
            && !Box::pin(self.bury(&letter, &passage, told.trace.as_deref())).await
        {
            ack = Ack::Redeliver { after: RETRY_AFTER_MAX };
            wait = if self.spec.order.is_some() { Wait::Aside } else { Wait::InStream };
        }
        if let Some(how) = exhausted {
            let error = told.error.as_deref().unwrap_or_default();
            Box::pin(self.exhaust(how, error, &passage, run)).await;
        }
        let end = Settled { told, dead_letter, exhausted, ack, forget, deferred, held: false };
        let after = match end.ack {
            Ack::Redeliver { after } if wait != Wait::InStream => after,
            _ => return Left { stops, ..self.release(passage, end).await },
        };
        self.tell(&passage.event, Settled { held: true, ..end });
        match wait {
            Wait::Aside => self.set_aside(passage, after),
            Wait::InStream | Wait::InLane => self.hold(passage, after),
        }
    }

    /// Gives an event back that never ran, or shall not run again here.
    pub(super) async fn give_back<C: Lease>(&self, mut passage: Box<Passage<C>>, run: &Run) {
        let (ended, told) = match self.recall(&mut passage).await {
            Admission::Deferred(due) => self.not_run(&mut passage, Ended::Deferred(due)),
            _ => self.ended(&mut passage, End::Cancelled, Duration::ZERO),
        };
        self.settle(passage, ended, told, run).await;
    }

    /// In order, an event that runs again waits in its place.
    fn wait(&self, ended: &Ended) -> Wait {
        match ended {
            _ if self.spec.order.is_none() => Wait::InStream,
            Ended::Ran(End::Cancelled) => Wait::InStream,
            Ended::Parked => Wait::Aside,
            _ => Wait::InLane,
        }
    }

    fn hold<C>(&self, mut passage: Box<Passage<C>>, after: Duration) -> Left<C> {
        self.all_metrics.step(|| {
            self.metrics.settlements_held.inc();
            passage.slot.open = false;
        });
        passage.recalled = true;
        passage.state = None;
        passage.trace = Trace::default();
        Left::held(after, passage)
    }

    fn set_aside<C>(&self, mut passage: Box<Passage<C>>, after: Duration) -> Left<C> {
        let freed = Left::settled(passage.key.take());
        self.hold(passage, after).and(freed)
    }

    async fn release<C: Lease>(&self, passage: Box<Passage<C>>, end: Settled) -> Left<C> {
        let word = if end.deferred { &Ack::Done } else { &end.ack };
        let forget = (end.forget || end.deferred) && !matches!(word, Ack::Redeliver { .. });
        let recorded = forget.then(|| passage.place()).map(|(origin, n)| (origin.clone(), n));
        let place = self.place(&passage.event.id.stream);
        let settling = passage.trace.settle(word.word(), place);
        let Passage { event, lease, mut slot, key, called, .. } = *passage;
        let released = say(lease, word, settling).await;
        self.all_metrics.step(|| {
            match &released {
                Ok(()) => self.metrics.settled(&end.ack),
                Err(_) => self.metrics.settlement_errors.inc(),
            }
            self.metrics.in_flight.dec();
            slot.settled = true;
        });
        if let Err(err) = released {
            warn!(event = %event.id, %err, "the event will be delivered again");
            return Left::settled(key);
        }
        if let Some((origin, sequence)) = recorded {
            Box::pin(self.ledger.forget(&origin, sequence)).await;
        }
        if end.ack == Ack::Done {
            self.metrics.last_success.set((called + end.told.took).unix_timestamp());
        }
        self.tell(&event, end);
        Left::settled(key)
    }

    fn decide<C>(&self, passage: &Passage<C>, ended: Ended) -> Settlement {
        match ended {
            Ended::Ran(End::Done(messages)) => done(messages, &passage.record),
            Ended::Ran(end) => {
                let jitter = fastrand::f64();
                // In order, a source has nothing under way once events are given back.
                let given_back =
                    if self.spec.order.is_some() { Duration::ZERO } else { GIVEN_BACK_FOR };
                let now = Now {
                    time: OffsetDateTime::now_utc(),
                    stored: passage.event.time,
                    jitter,
                    unavailable: self.health.wait(jitter),
                    given_back,
                };
                settle(end, passage.record.clone(), passage.delivered, &self.policy(), now)
            }
            Ended::GivenUp(letter) => give_up(letter),
            Ended::Parked => stay_parked(),
            Ended::Deferred(due) => stay_deferred(due - OffsetDateTime::now_utc()),
        }
    }

    /// Stores what a successful call makes of the state of its key.
    async fn keep<C>(&self, passage: &mut Passage<C>, settlement: &Settlement) -> Written {
        let entry = passage.state.take().filter(|_| settlement.ack == Ack::Done);
        let (Some(store), Some(key), Some(entry)) = (&self.store, &passage.key, entry) else {
            return Written::Stored;
        };
        let about = (&passage.event, &*passage.origin);
        let max = self.sink.max_payload();
        Box::pin(store.write(key, *entry, about, &settlement.publish, max)).await
    }

    /// Stores every output and waits for every `PubAck`.
    async fn publish<C>(
        &self,
        messages: Vec<Publish>,
        passage: &Passage<C>,
    ) -> Result<(), PublishError> {
        let (trace, event) = (&passage.trace, &passage.event);
        if messages.is_empty() {
            return Ok(());
        }
        let store = async |mut message: Publish| {
            let started = Instant::now();
            let mut publishing = trace.publish(&mut message, event);
            let stored = self.sink.publish(message).await;
            if let Err(err) = &stored {
                publishing.failed(&err.to_string());
            }
            self.metrics.publish_duration.observe(started.elapsed().as_secs_f64());
            match &stored {
                Ok(Stored::New) => self.metrics.published_stored.inc(),
                Ok(Stored::Duplicate) => self.metrics.published_duplicate.inc(),
                Err(_) => self.metrics.published_failed.inc(),
            }
            stored
        };
        match <[Publish; 1]>::try_from(messages) {
            Ok([message]) => Box::pin(store(message)).await.map(drop),
            Err(messages) => {
                let stored = join_all(messages.into_iter().map(store)).await;
                stored.into_iter().try_for_each(|stored| stored.map(drop))
            }
        }
    }

    fn tell(&self, event: &Event, end: Settled) {
        let Settled { told, dead_letter, exhausted, ack, deferred, held, .. } = end;
        let Told { outcome, took, error, outputs, trace } = told;
        if let Some(reason) = dead_letter {
            warn!(
                event = %event.id, binding = self.spec.name, reason = reason.as_str(),
                attempt = event.attempt, error, trace_id = trace, "dead letter"
            );
        } else if outcome != Outcome::Done && exhausted.is_none() {
            info!(
                event = %event.id, binding = self.spec.name, outcome = outcome.as_str(),
                attempt = event.attempt, error, trace_id = trace,
                "{}", if deferred { "deferred" } else if held { "held back" } else { "given back" }
            );
        }
        let Some(observer) = &self.observer else { return };
        observer.settled(&Invocation {
            binding: self.spec.name.clone(),
            event: event.id.to_string(),
            subject: event.subject.clone(),
            trace: event.headers.get("traceparent").map(str::to_owned),
            attempt: event.attempt,
            outcome,
            took,
            error,
            outputs,
            dead_letter,
            exhausted,
            ack,
            held,
        });
    }
}

/// Says the word that settles an event.
async fn say<C: Lease>(lease: C, ack: &Ack, mut settling: Step) -> Result<(), SettleError> {
    let said = lease.release(ack).await;
    if let Err(err) = &said {
        settling.failed(&err.to_string());
    }
    said
}
