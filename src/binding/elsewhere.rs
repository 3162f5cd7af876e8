//! What is stored for an event that is done with in its stream: a dead letter, or the wait for a try
//! that is far ahead.

use std::time::Duration;

use time::OffsetDateTime;
use tracing::{error, warn};

use super::{Binding, passage::Passage};
use crate::{
    deferral,
    event::Headers,
    letter::{self, Written as Letters},
    outputs::Provenance,
    settle::{Ack, Letter, Record},
    source::{Ledger, Sink},
};

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    /// Writes the record of an event.
    pub(super) async fn remember<C>(&self, passage: &mut Passage<C>, record: Record) {
        passage.record = record;
        let (origin, sequence) = passage.place();
        self.ledger.write(origin, sequence, &passage.record).await;
    }

    /// Until when an event waits elsewhere that is to run again so much later.
    pub(super) fn defers(&self, ack: &Ack) -> Option<OffsetDateTime> {
        match ack {
            Ack::Redeliver { after }
                if self.deferral.is_some() && *after > deferral::LONGER_THAN =>
            {
                Some(OffsetDateTime::now_utc() + *after)
            }
            _ => None,
        }
    }

    /// Stores an event where it waits. One for which there is no room there, whatever anybody does,
    /// waits in its stream after all.
    pub(super) async fn defer<C>(&self, passage: &mut Passage<C>, due: OffsetDateTime) -> bool {
        let stored = match &self.deferral {
            Some(deferral) => {
                let message = deferral.write(self.from(passage), &passage.record, due);
                self.sink.publish(message).await.map_err(|err| err.to_string())
            }
            None => Err("this server has no schedules".to_owned()),
        };
        let Err(why) = stored else { return true };
        warn!(event = %passage.event.id, why, "an event waits for its next try in its stream");
        let record = Record { deferred: None, seen: passage.delivered, ..passage.record.clone() };
        self.remember(passage, record).await;
        false
    }

    /// Stores a dead letter, however long that takes: the event is not given up before. Returns
    /// whether its event may go: the payload is in it, or stays in any case.
    pub(super) async fn bury<C>(
        &self,
        letter: &Letter,
        passage: &Passage<C>,
        trace: Option<&str>,
    ) -> bool {
        // A letter that is there from the first run says nothing of this one.
        let replay = self.replay.as_ref().map(|replay| replay.id.as_str());
        let from = Provenance { replay, ..self.from(passage) };
        let subject = format!("{}.{}", self.dead_letter_subject, self.spec.name);
        let trace: Headers = trace.map(|id| (letter::TRACE_HEADER, id)).into_iter().collect();
        let max = self.sink.max_payload().saturating_sub(trace.wire_len());
        let now = OffsetDateTime::now_utc();
        let written = letter::write(letter, from, &subject, &self.consumer, now, max);
        let (whole, mut message) = match written {
            Letters::Whole(message) => (true, message),
            Letters::WithoutPayload(message) => (false, message),
        };
        for (name, value) in trace.iter() {
            message.headers.append(name.to_owned(), value);
        }
        let mut pause = Duration::from_millis(200);
        while let Err(err) = self.sink.publish(message.clone()).await {
            self.metrics.dead_letter_publish_errors.inc();
            error!(event = %passage.event.id, %err, "a dead letter cannot be stored; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        self.metrics.dead_letter(letter.reason);
        // A replay takes nothing out of its stream, whatever it says.
        if !whole && self.replay.is_none() {
            let parked = Record { parked: true, seen: passage.delivered, ..passage.record.clone() };
            let (origin, sequence) = passage.place();
            self.ledger.write(origin, sequence, &parked).await;
            warn!(event = %passage.event.id, "the dead letter has no room for the payload, which stays in its stream");
            return false;
        }
        true
    }
}
