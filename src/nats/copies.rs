//! The stream of the copies of a binding's events.
//!
//! A copy is stored only directly behind the one before it (`Nats-Expected-Last-Sequence`), and the
//! last copy says how far the stream was copied. Whoever begins reads that first; what a runner that
//! was replaced still sends is refused, or is the very copy that comes next.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use async_nats::jetstream::{
    context::PublishErrorKind, message::PublishMessage, publish::PublishAck,
    stream::RawMessageErrorKind,
};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    connect::Connection,
    lookup::{ProvisionError, find_stream},
    message,
    names::part_subject,
    provision::Consumer,
};
use crate::{event::Headers, partition, source::SourceError};

/// How long a `PubAck` may take before it is looked at what was stored.
const ACK_WAIT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The stream of copies.
pub(super) struct Copies {
    connection: Connection,
    stream: String,
    partitions: Vec<Consumer>,
    /// Where it ends, while that is known.
    end: Option<End>,
    /// Up to where the copies of each partition were taken away.
    swept: BTreeMap<usize, u64>,
}

/// Where the stream of copies ends.
#[derive(Debug, Clone, Copy)]
struct End {
    /// The sequence of the last copy.
    last: u64,
    /// What it is a copy of: when the stream was created, and the sequence in that.
    copied: Option<(OffsetDateTime, u64)>,
}

/// An event's copy before it is stored.
pub(super) struct Copy {
    pub(super) subject: String,
    pub(super) headers: Headers,
    pub(super) data: Bytes,
    pub(super) of: (OffsetDateTime, u64),
}

impl Copies {
    pub(super) fn new(connection: &Connection, stream: String, partitions: Vec<Consumer>) -> Self {
        let connection = connection.clone();
        Self { connection, stream, partitions, end: None, swept: BTreeMap::new() }
    }

    /// Stores copies that are not stored yet, in order, however long that takes.
    pub(super) async fn store(&mut self, mut copies: Vec<Copy>) -> Result<(), SourceError> {
        let mut pause = PAUSE_MIN;
        loop {
            let end = match self.end {
                Some(end) => end,
                None => self.look().await?,
            };
            copies.retain(|copy| !end.has(copy));
            if copies.is_empty() {
                self.end = Some(end);
                return Ok(());
            }
            let Err(failure) = self.try_to_store(&copies, end).await else { return Ok(()) };
            self.end = None;
            let denied = copies.iter().find(|copy| self.connection.may_not_publish(&copy.subject));
            if let Some(Copy { subject, .. }) = denied {
                return Err(SourceError::Refused(format!(
                    "NATS permissions do not allow to publish on `{subject}`, where copies of events go"
                )));
            }
            debug!(stream = self.stream, failure, "copies were not stored; looking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Stores all, each directly behind the one before; stops at the first that was not stored.
    async fn try_to_store(&mut self, copies: &[Copy], mut end: End) -> Result<(), String> {
        let mut sent = Vec::with_capacity(copies.len());
        for (copy, behind) in copies.iter().zip(end.last..) {
            let headers = message::header_map(&copy.headers)?;
            let message = PublishMessage::build()
                .payload(copy.data.clone())
                .headers(headers)
                .expected_last_sequence(behind);
            let context = &self.connection.context;
            let answer = context.send_publish(copy.subject.clone(), message).await;
            sent.push(answer.map_err(|err| err.to_string())?);
        }
        for (answer, copy) in sent.into_iter().zip(copies) {
            let answer = self.connection.answered(answer.into_future());
            let PublishAck { sequence, .. } = match timeout(ACK_WAIT, answer).await {
                Ok(Some(Ok(ack))) => ack,
                Ok(Some(Err(err))) if err.kind() == PublishErrorKind::WrongLastSequence => {
                    return Err("somebody else stored one".to_owned());
                }
                Ok(Some(Err(err))) => {
                    warn!(stream = self.stream, %err, "a copy cannot be stored; trying again");
                    return Err(err.to_string());
                }
                Ok(None) | Err(_) => return Err("no answer".to_owned()),
            };
            end = End { last: sequence, copied: Some(copy.of) };
        }
        self.end = Some(end);
        Ok(())
    }

    /// Where the stream ends, as its leader has it.
    async fn look(&self) -> Result<End, SourceError> {
        loop {
            match timeout(ACK_WAIT, self.try_to_look()).await {
                Ok(Ok(Some(end))) => return Ok(end),
                Ok(Ok(None)) => {
                    return Err(SourceError::Refused(format!(
                        "stream {} is gone, and what waited in it: start this runner again to have it made anew",
                        self.stream
                    )));
                }
                Ok(Err(err)) => {
                    warn!(stream = self.stream, %err, "it cannot be told what was copied")
                }
                Err(_) => warn!(stream = self.stream, "it cannot be told in time what was copied"),
            }
            tokio::time::sleep(PAUSE_MAX).await;
        }
    }

    async fn try_to_look(&self) -> Result<Option<End>, ProvisionError> {
        let Some(stream) = find_stream(&self.connection, &self.stream).await? else {
            return Ok(None);
        };
        let last = stream.cached_info().state.last_sequence;
        if last == 0 {
            return Ok(Some(End { last, copied: None }));
        }
        let copied = match stream.get_raw_message(last).await {
            Ok(found) => partition::copied(&message::headers(&found.headers))
                .map(|copied| (copied.created, copied.id.sequence)),
            // Somebody has purged it.
            Err(err) if err.kind() == RawMessageErrorKind::NoMessageFound => None,
            Err(err) => return Err(ProvisionError::Unavailable(err.to_string())),
        };
        Ok(Some(End { last, copied }))
    }

    /// Takes away the copies that were worked on, but the last of all: it says how far the stream
    /// was copied.
    pub(super) async fn sweep(&mut self, name: &str, binding: &str, count: NonZeroUsize) {
        // A stream of little else than its end needs no sweeping.
        let found = timeout(ACK_WAIT, find_stream(&self.connection, &self.stream)).await;
        let Ok(Ok(Some(stream))) = found else { return };
        let state = &stream.cached_info().state;
        if state.messages <= 1 {
            return;
        }
        for (number, consumer) in self.partitions.iter().enumerate() {
            let info = timeout(ACK_WAIT, consumer.info(&self.connection)).await;
            let Ok(Ok(Some(info))) = info else { continue };
            let until = (info.ack_floor.stream_sequence + 1).min(state.last_sequence);
            if self.swept.get(&number) == Some(&until) {
                continue;
            }
            let purge = stream.purge().filter(part_subject(name, binding, count, number));
            match timeout(ACK_WAIT, purge.sequence(until).into_future()).await {
                Ok(Ok(_)) => drop(self.swept.insert(number, until)),
                Ok(Err(err)) => debug!(stream = self.stream, %err, "copies were left behind"),
                Err(_) => debug!(stream = self.stream, "copies were left behind"),
            }
        }
    }
}

impl End {
    fn has(&self, copy: &Copy) -> bool {
        self.copied.is_some_and(|(created, last)| created == copy.of.0 && last >= copy.of.1)
    }
}
