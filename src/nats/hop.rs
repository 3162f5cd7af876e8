//! Copies events into the partitions of their binding, in the order of their stream and once each.
//!
//! A copy is stored only directly behind the one before it (`Nats-Expected-Last-Sequence`), and the
//! last copy says how far the stream was copied. Whoever begins reads that first; what a runner that
//! was replaced still sends is refused, or is the very copy that comes next.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use async_nats::jetstream::{
    context::PublishErrorKind, message::PublishMessage, publish::PublishAck,
    stream::RawMessageErrorKind,
};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, error, warn};

use super::{
    connect::Connection,
    lease::NatsLease,
    message,
    provision::{
        Consumer, ProvisionError, Provisioned, find_stream, part_comeback, part_subject, parts_name,
    },
    publish::NatsSink,
};
use crate::{
    event::{Event, Headers, Publish},
    letter::{self, Written},
    manifest::{Binding, KeyAt, Manifest},
    metrics::BindingMetrics,
    outputs::Provenance,
    partition,
    settle::{Ack, Letter, Reason},
    shutdown::Shutdown,
    source::{Delivery, Fence, Lease, Origin, Room, Sink, Source, SourceError},
};

/// How often copies that were worked on are taken away.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// How long a `PubAck` may take before it is looked at what was stored.
const ACK_WAIT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// What a copy's message takes beyond its headers and payload: `Nats-Expected-Last-Sequence`.
const ENVELOPE: usize = 64;
/// When an event that came back and cannot be passed on is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Copies the events of one binding.
pub struct Hop<S> {
    source: S,
    binding: Binding,
    key: KeyAt,
    count: NonZeroUsize,
    /// The manifest's name.
    name: String,
    dead_letter_subject: String,
    metrics: BindingMetrics,
    sink: NatsSink,
    copies: Copies,
}

/// The stream of copies.
struct Copies {
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
struct Copy {
    subject: String,
    headers: Headers,
    data: Bytes,
    of: (OffsetDateTime, u64),
}

impl<S: Source<Lease = NatsLease>> Hop<S> {
    /// Copies what comes out of `source`; `None` for a binding without partitions.
    #[must_use]
    pub fn new(
        source: S,
        connection: &Connection,
        provisioned: &Provisioned,
        manifest: &Manifest,
        binding: &Binding,
        metrics: BindingMetrics,
    ) -> Option<Self> {
        let order = binding.order.as_ref()?;
        let copies = Copies {
            connection: connection.clone(),
            stream: parts_name(manifest, binding),
            partitions: provisioned.parts(&binding.name).cloned().collect(),
            end: None,
            swept: BTreeMap::new(),
        };
        Some(Self {
            source,
            binding: binding.clone(),
            key: order.key.clone(),
            count: order.partitions?,
            name: manifest.name.clone(),
            dead_letter_subject: manifest.dead_letter.subject.clone(),
            metrics,
            sink: NatsSink::new(connection.clone()),
            copies,
        })
    }

    /// Copies until the shutdown drains, for as long as the fence holds.
    ///
    /// # Errors
    /// When the source gives up, or the copies cannot be stored. When the fence is broken.
    pub async fn run(mut self, shutdown: &Shutdown, mut fence: Fence) -> Result<(), SourceError> {
        let room = Room { events: self.binding.slots.get(), bytes: self.binding.slot_bytes };
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        let abort = shutdown.abort.clone();
        loop {
            tokio::select! {
                biased;
                () = abort.cancelled() => return Ok(()),
                () = fence.broken() => return Err(SourceError::TakenOver),
                () = shutdown.drain.cancelled(), if !draining => {
                    draining = true;
                    self.source.stop();
                }
                _ = sweep.tick() => self.copies.sweep(&self.name, &self.binding.name, self.count).await,
                pulled = self.source.pull(room) => {
                    let deliveries = pulled?;
                    if deliveries.is_empty() {
                        return Ok(());
                    }
                    tokio::select! {
                        done = self.pass_on(deliveries) => done?,
                        () = abort.cancelled() => return Ok(()),
                        () = fence.broken() => return Err(SourceError::TakenOver),
                    }
                }
            }
        }
    }

    async fn pass_on(&mut self, deliveries: Vec<Delivery<NatsLease>>) -> Result<(), SourceError> {
        let mut copied = Vec::with_capacity(deliveries.len());
        let mut copies = Vec::with_capacity(deliveries.len());
        for Delivery { event, origin, place, lease, .. } in deliveries {
            let number = partition::of(&event, &self.key, self.count.get());
            let headers = partition::write(&event, &origin);
            if place.is_some() {
                self.send_back(event, headers, number, lease).await;
            } else if headers.wire_len() + event.data.len() + ENVELOPE > self.sink.max_payload() {
                // Those before it first: it may take long.
                self.copies.store(std::mem::take(&mut copies)).await?;
                self.bury(&event, &origin).await;
                copied.push(lease);
            } else {
                let of = (origin.created, event.id.sequence);
                let subject = part_subject(&self.name, &self.binding.name, self.count, number);
                copies.push(Copy { subject, headers, data: event.data, of });
                copied.push(lease);
            }
        }
        self.copies.store(copies).await?;
        for lease in copied {
            if let Err(err) = lease.release(&Ack::Done).await {
                debug!(binding = self.binding.name, %err, "an event that was copied comes again");
            }
        }
        Ok(())
    }

    /// Passes an event on that came back from the dead letters.
    async fn send_back(&self, event: Event, headers: Headers, number: usize, lease: NatsLease) {
        let life = crate::outputs::life_in(&event.headers).to_owned();
        let name = part_comeback(&self.binding.name, self.count, number);
        let message = Publish {
            subject: format!("redrive.{}.{name}", self.name),
            id: format!("back:{}:{}:{life}", self.binding.name, event.id),
            headers,
            data: event.data,
        };
        let ack = match self.sink.publish(message).await {
            Ok(_) => Ack::Done,
            Err(err) => {
                error!(event = %event.id, %err, "an event that came back cannot be passed on; trying again");
                Ack::Redeliver { after: AGAIN_AFTER }
            }
        };
        if let Err(err) = lease.release(&ack).await {
            debug!(event = %event.id, %err, "an event that was passed on comes again");
        }
    }

    /// An event that leaves no room for what its copy says of it.
    async fn bury(&self, event: &Event, origin: &Origin) {
        let max = self.sink.max_payload();
        let error =
            format!("the event leaves no room for its copy in a partition; {max} bytes fit");
        let letter = Letter { reason: Reason::Output, error, failed: Vec::new() };
        let binding = self.binding.identity();
        let from = Provenance { name: &self.name, binding, origin, event };
        let subject = format!("{}.{}", self.dead_letter_subject, self.binding.name);
        let consumer = format!("{}-{}", self.name, self.binding.name);
        let now = OffsetDateTime::now_utc();
        let (Written::Whole(message) | Written::WithoutPayload(message)) =
            letter::write(&letter, from, &subject, &consumer, now, max);
        let mut pause = PAUSE_MIN;
        while let Err(err) = self.sink.publish(message.clone()).await {
            self.metrics.dead_letter_publish_errors.inc();
            error!(event = %event.id, %err, "a dead letter cannot be stored; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        warn!(event = %event.id, "too large for a copy: a dead letter");
        self.metrics.dead_letter(Reason::Output);
    }
}

impl Copies {
    /// Stores copies that are not stored yet, in order, however long that takes.
    async fn store(&mut self, mut copies: Vec<Copy>) -> Result<(), SourceError> {
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
    async fn sweep(&mut self, name: &str, binding: &str, count: NonZeroUsize) {
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

/// Events as they were before they were copied.
pub struct Originals<S>(pub S);

impl<S: Source<Lease = NatsLease>> Source for Originals<S> {
    type Lease = NatsLease;

    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        let original = |delivery: Delivery<NatsLease>| {
            let (event, origin): (Event, Arc<Origin>) =
                partition::read(delivery.event, delivery.origin);
            Delivery { event, origin, ..delivery }
        };
        Ok(self.0.pull(room).await?.into_iter().map(original).collect())
    }

    fn stop(&mut self) {
        self.0.stop();
    }
}
