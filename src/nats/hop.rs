//! Copies events into the partitions of their binding, in the order of their stream and once each.

use std::{num::NonZeroUsize, time::Duration};

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, warn};

use super::{
    connect::Connection,
    copies::{Copies, Copy},
    lease::NatsLease,
    names::{durable_name, part_comeback, part_subject, parts_name},
    provision::Provisioned,
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
        let partitions = provisioned.parts(&binding.name).cloned().collect();
        let copies = Copies::new(connection, parts_name(manifest, binding), partitions);
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
                        self.give_back().await;
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

    /// Whoever copies next shall not have to wait for what was not copied.
    async fn give_back(&mut self) {
        for Delivery { event, lease, .. } in self.source.left_over() {
            if let Err(err) = lease.release(&Ack::Redeliver { after: Duration::ZERO }).await {
                debug!(event = %event.id, %err, "an event that was not copied comes later");
            }
        }
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
        let from = Provenance { name: &self.name, binding, origin, event, replay: None };
        let subject = format!("{}.{}", self.dead_letter_subject, self.binding.name);
        let consumer = durable_name(&self.name, &self.binding.name);
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

/// Events as they were before they were copied.
pub struct Originals<S>(pub S);

impl<S: Source<Lease = NatsLease>> Source for Originals<S> {
    type Lease = NatsLease;

    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        Ok(originals(self.0.pull(room).await?))
    }

    fn stop(&mut self) {
        self.0.stop();
    }

    fn left_over(&mut self) -> Vec<Delivery<NatsLease>> {
        originals(self.0.left_over())
    }
}

fn originals(copies: Vec<Delivery<NatsLease>>) -> Vec<Delivery<NatsLease>> {
    let original = |delivery: Delivery<NatsLease>| {
        let (event, origin) = partition::read(delivery.event, delivery.origin);
        Delivery { event, origin, ..delivery }
    };
    copies.into_iter().map(original).collect()
}
