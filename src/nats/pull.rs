//! The puller: asks for as many events as there is room for, with pulls that overlap, and keeps
//! exact count. Built on raw pulls, because the client's own streams prefetch half a batch more
//! than was asked for, and stall after a reconnect when replicas share a consumer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, StatusCode, Subscriber, jetstream::stream::Stream};
use futures_util::{FutureExt as _, StreamExt as _};
use prometheus::IntCounter;
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    connect::{Connection, State},
    lease::{Leases, NatsLease},
    lookup::ProvisionError,
    message,
    provision::{Consumer, Provisioned, Restored},
    reply::Reply,
};
use crate::{
    manifest::Binding,
    settle::{GIVEN_BACK_FOR, Record},
    source::{Delivery, Origin, Room, Source, SourceError},
};

/// How long the server keeps a pull that it cannot fill. A pull cannot be taken back, and giving up
/// the subscription strands what the server is about to deliver: a drain waits for this long.
const EXPIRES: Duration = Duration::from_secs(3);
const _: () = assert!(EXPIRES.as_secs() < GIVEN_BACK_FOR.as_secs());
/// How long after that a pull counts as forgotten by the server.
const GRACE: Duration = Duration::from_secs(3);
/// How many deliveries are expected at once, at most.
const MANY: usize = 64;
/// What a message takes beyond headers and payload, generously.
const ENVELOPE: usize = 64 * 1024;

/// One consumer's events.
#[derive(Debug)]
pub struct NatsSource {
    connection: Connection,
    consumer: Consumer,
    origin: Arc<Origin>,
    leases: Arc<Leases>,
    subscriber: Subscriber,
    inbox: String,
    capacity: usize,
    pulls: u64,
    credit: Credit,
    state: watch::Receiver<State>,
    refusals: watch::Receiver<BTreeSet<String>>,
    generation: u64,
    heard: Instant,
    watchdog: Interval,
    trouble: Trouble,
    stopped: bool,
}

/// What was asked for and has not come yet, in sum over all pulls: the server spreads messages over
/// waiting pulls and ends filled ones without a word, so counting per pull is not possible.
#[derive(Debug, Default, Clone, Copy)]
struct Credit {
    events: usize,
    bytes: usize,
}

/// How far a consumer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Events delivered and not acknowledged.
    pub(super) unacknowledged: usize,
    /// The last consumer sequence that was given out.
    pub(super) delivered: u64,
    /// The last stream sequence that was given out, as far as the server remembers.
    pub(super) reached: u64,
}

/// How long to leave the server alone after it refused a pull.
#[derive(Debug)]
struct Trouble {
    until: Instant,
    pause: Duration,
}

impl NatsSource {
    /// Opens the events of a binding, and what extends their leases for as long as it is polled.
    ///
    /// # Errors
    /// When nothing was provisioned for the binding, or the connection is closed.
    pub async fn open(
        connection: &Connection,
        provisioned: &Provisioned,
        binding: &Binding,
        extensions: IntCounter,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), SourceError> {
        let missing = || SourceError::NotProvisioned(binding.name.clone());
        let consumer = provisioned.consumer(binding).ok_or_else(missing)?.clone();
        let slots = binding.slots.get();
        Self::of(connection, consumer, slots, extensions, None).await
    }

    /// As [`open`](Self::open), of one partition's copies.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_partition(
        connection: &Connection,
        provisioned: &Provisioned,
        (binding, number): (&Binding, usize),
        extensions: IntCounter,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), SourceError> {
        let missing = || SourceError::NotProvisioned(binding.name.clone());
        let consumer = provisioned.part(binding, number).ok_or_else(missing)?.copies;
        Self::of(connection, consumer, binding.slots.get(), extensions, None).await
    }

    /// As [`open`](Self::open), of any consumer; from `empties` events go once they are dealt with.
    pub(super) async fn of(
        connection: &Connection,
        consumer: Consumer,
        capacity: usize,
        extensions: IntCounter,
        empties: Option<Stream<()>>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), SourceError> {
        let connection = connection.clone();
        let leases = Leases::new(connection.clone(), consumer.ack_wait, extensions, empties);
        let leases = Arc::new(leases);
        let extender = Arc::clone(&leases).extend_for_ever();
        let inbox = connection.client.new_inbox();
        let subscriber = connection.client.subscribe(format!("{inbox}.*")).await;
        let subscriber = subscriber.map_err(|_| SourceError::Closed)?;
        let state = connection.state();
        let refusals = connection.refusals();
        let generation = state.borrow().generation;
        let mut watchdog = tokio::time::interval(GRACE / 3);
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let source = Self {
            origin: Arc::new(consumer.origin.clone()),
            connection,
            consumer,
            leases,
            subscriber,
            inbox,
            capacity,
            pulls: 0,
            credit: Credit::default(),
            state,
            refusals,
            generation,
            heard: Instant::now(),
            watchdog,
            trouble: Trouble::none(),
            stopped: false,
        };
        Ok((source, extender))
    }

    pub(super) fn name(&self) -> &str {
        &self.consumer.name
    }

    /// For how long a claim lasts that nobody extends.
    pub(super) const fn ack_wait(&self) -> Duration {
        self.consumer.ack_wait
    }

    /// How many events this runner has claims on, of those up to a sequence of the stream.
    pub(super) fn claimed_up_to(&self, sequence: u64) -> usize {
        self.leases.count_up_to(sequence)
    }

    /// How far the consumer is, whoever has its events; `None` when it is gone.
    pub(super) async fn progress(&self) -> Result<Option<Progress>, ProvisionError> {
        let info = self.consumer.info(&self.connection).await?;
        Ok(info.map(|info| Progress {
            unacknowledged: info.num_ack_pending,
            delivered: info.delivered.consumer_sequence,
            reached: info.delivered.stream_sequence,
        }))
    }

    /// Asks for more once a quarter of all slots is free, or nothing is on its way.
    async fn ask(&mut self, room: Room) -> Result<(), SourceError> {
        let free = room.events.saturating_sub(self.credit.events);
        let due = free >= (self.capacity / 4).max(1) || (self.credit.events == 0 && free > 0);
        // A pull for less than the largest message would be answered with an error, at once, and
        // for ever.
        let least = self.connection.client.max_payload() + ENVELOPE;
        let bytes = room.bytes.saturating_sub(self.credit.bytes);
        let enough = bytes >= least || (self.credit.events == 0 && room.events == self.capacity);
        if !due || !enough || Instant::now() < self.trouble.until {
            return Ok(());
        }
        self.check_permission()?;
        let bytes = bytes.max(least);
        let request =
            format!(r#"{{"batch":{free},"max_bytes":{bytes},"expires":{}}}"#, EXPIRES.as_nanos());
        self.pulls += 1;
        let inbox = format!("{}.{}", self.inbox, self.pulls);
        let subject = self.consumer.next_subject(&self.connection.api);
        if self.credit.events == 0 {
            self.heard = Instant::now();
        }
        self.connection
            .client
            .publish_with_reply(subject, inbox, request.into())
            .await
            .map_err(|_| SourceError::Closed)?;
        self.credit.events += free;
        self.credit.bytes += bytes;
        Ok(())
    }

    /// Everything that has arrived by now, `first` included.
    fn collect(&mut self, first: Message) -> (Vec<Delivery<NatsLease>>, Option<Notice>) {
        let mut deliveries = Vec::with_capacity(self.credit.events.clamp(1, MANY));
        let mut next = Some(first);
        self.heard = Instant::now();
        while let Some(message) = next {
            if let Some(status) = message.status {
                if let Some(notice) = self.status(status, &message) {
                    return (deliveries, Some(notice));
                }
            } else {
                deliveries.extend(self.delivery(message));
            }
            if deliveries.len() >= self.capacity {
                break;
            }
            next = self.subscriber.next().now_or_never().flatten();
        }
        (deliveries, None)
    }

    fn delivery(&mut self, message: Message) -> Option<Delivery<NatsLease>> {
        self.credit.events = self.credit.events.saturating_sub(1);
        self.credit.bytes = match self.credit.events {
            0 => 0,
            _ => self.credit.bytes.saturating_sub(message.length),
        };
        if self.trouble.is_there() {
            self.trouble = Trouble::none();
        }
        let subject = message.reply.clone()?;
        let Some(reply) = Reply::parse(&subject) else {
            warn!(reply = %subject, "a message without a delivery's reply subject was left alone");
            return None;
        };
        let lease = self.leases.take(reply, subject, self.heard)?;
        Some(Delivery {
            event: message::event(message, reply, &self.origin),
            origin: Arc::clone(&self.origin),
            place: None,
            record: Record::default(),
            delivered: reply.delivered,
            lease,
        })
    }

    fn status(&mut self, status: StatusCode, message: &Message) -> Option<Notice> {
        let text = message.description.as_deref().unwrap_or_default();
        match status.as_u16() {
            100 => None,
            409 if text == "Consumer Deleted" => {
                self.credit = Credit::default();
                Some(Notice::Check)
            }
            408 | 409 if let Some((events, bytes)) = unfilled(message.headers.as_ref()) => {
                self.credit.events = self.credit.events.saturating_sub(events);
                self.credit.bytes = match self.credit.events {
                    0 => 0,
                    _ => self.credit.bytes.saturating_sub(bytes),
                };
                None
            }
            _ => {
                debug!(%status, text, consumer = self.consumer.name, "pull ended");
                self.credit = Credit::default();
                match (status.as_u16(), text) {
                    (404 | 503, _) => Some(Notice::Check),
                    (409, "Leadership Change" | "Server Shutdown" | "Batch Completed") => None,
                    _ => Some(Notice::Refused(text.to_owned())),
                }
            }
        }
    }

    /// Looks whether the consumer is still there, and makes it anew when it is not.
    async fn check(&mut self) -> Result<(), SourceError> {
        self.trouble.grow();
        match self.consumer.restore(&self.connection).await {
            Ok(Restored::Present) => {}
            Ok(Restored::Created) => {
                self.origin = Arc::new(self.consumer.origin.clone());
                self.trouble = Trouble::none();
            }
            Err(err) => {
                warn!(consumer = self.consumer.name, %err, "the consumer cannot be reached; trying again")
            }
        }
        Ok(())
    }

    fn check_permission(&self) -> Result<(), SourceError> {
        let subject = self.consumer.next_subject(&self.connection.api);
        if self.connection.may_not_publish(&subject) {
            return Err(SourceError::Refused(format!(
                "NATS permissions do not allow to publish on `{subject}`, which asks for events"
            )));
        }
        Ok(())
    }

    /// A new connection knows nothing of the pulls of the old one.
    fn reconnected(&mut self) {
        let state = *self.state.borrow_and_update();
        if state.connected && state.generation != self.generation {
            self.generation = state.generation;
            self.credit = Credit::default();
            self.trouble = Trouble::none();
        }
    }

    /// Not even the end of a pull came: whatever was asked for is not coming.
    fn silent(&self) -> bool {
        self.credit.events > 0 && self.heard.elapsed() > EXPIRES + GRACE
    }

    /// Whether anything may still come without being asked for. A connection that breaks takes the
    /// pulls with it.
    fn under_way(&self) -> bool {
        self.credit.events > 0 && self.state.borrow().connected
    }
}

impl Source for NatsSource {
    type Lease = NatsLease;

    async fn pull(&mut self, room: Room) -> Result<Vec<Delivery<NatsLease>>, SourceError> {
        loop {
            if !self.stopped {
                self.ask(room).await?;
            } else if !self.under_way() {
                return Ok(Vec::new());
            }
            tokio::select! {
                biased;
                message = self.subscriber.next() => {
                    let (deliveries, notice) = self.collect(message.ok_or(SourceError::Closed)?);
                    match notice {
                        Some(Notice::Refused(text)) => {
                            self.trouble.grow();
                            warn!(consumer = self.consumer.name, text, "the server refused a pull");
                        }
                        // Never await while holding deliveries: this future may be dropped.
                        Some(Notice::Check) if deliveries.is_empty() && !self.stopped => {
                            self.check().await?;
                        }
                        Some(Notice::Check) | None => {}
                    }
                    if !deliveries.is_empty() {
                        return Ok(deliveries);
                    }
                }
                changed = self.state.changed() => {
                    changed.map_err(|_| SourceError::Closed)?;
                    self.reconnected();
                }
                changed = self.refusals.changed() => {
                    changed.map_err(|_| SourceError::Closed)?;
                    self.check_permission()?;
                }
                () = tokio::time::sleep_until(self.trouble.until), if self.trouble.pending() => {}
                _ = self.watchdog.tick() => if self.silent() {
                    self.credit = Credit::default();
                    if !self.stopped {
                        self.check().await?;
                    }
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}

/// What a status message asks for.
enum Notice {
    /// See whether the consumer is still there.
    Check,
    /// Wait before asking again.
    Refused(String),
}

impl Trouble {
    fn none() -> Self {
        Self { until: Instant::now(), pause: Duration::ZERO }
    }

    const fn is_there(&self) -> bool {
        !self.pause.is_zero()
    }

    fn pending(&self) -> bool {
        self.is_there() && Instant::now() < self.until
    }

    fn grow(&mut self) {
        let pause = (self.pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(5));
        *self = Self { until: Instant::now() + pause, pause };
    }
}

/// What an ended pull still had to its credit: `Nats-Pending-Messages` and `Nats-Pending-Bytes`.
fn unfilled(headers: Option<&HeaderMap>) -> Option<(usize, usize)> {
    let number = |name| headers?.get(name)?.as_str().parse::<usize>().ok();
    Some((number("Nats-Pending-Messages")?, number("Nats-Pending-Bytes").unwrap_or(0)))
}
