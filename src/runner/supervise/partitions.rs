//! The partitions of a binding, shared out among its runners: each takes its share of the seats
//! that nobody holds, and gives up what is beyond the largest share.

use std::{num::NonZeroUsize, sync::Arc};

use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Supervised, hold, what_ended};
use crate::{
    keyvalue::Bucket,
    membership::{Crowd, Membership},
    nats::{Hop, NatsLease, NatsSource, OrderedSource, Originals, WithComebacks},
    ownership::{Ownership, Seat, Seen, a_name},
    shutdown::Shutdown,
    source::{Fence, Source},
};

/// How often a runner shows up in the life of an ownership.
const BEATS: u32 = 3;

/// One partition as this runner sees it.
struct Place {
    seat: Seat,
    seen: Seen,
    held: Option<Held>,
}

/// A partition that this runner works on, or still finishes.
struct Held {
    task: Id,
    drain: CancellationToken,
}

impl Supervised {
    /// Works on this runner's share of the partitions until the shutdown has drained them.
    pub(super) async fn share_out(self: Arc<Self>, count: NonZeroUsize, shutdown: &Shutdown) {
        let Some(bucket) = self.owners(shutdown).await else { return };
        let (me, name) = (a_name(), &self.whole.name);
        let place = |number: usize| {
            let key = format!("{name}.{number}");
            let seat = Seat::new(Arc::clone(&bucket), key, me.clone(), self.life());
            Place { seat, seen: Seen::default(), held: None }
        };
        let mut places: Vec<Place> = (0..count.get()).map(place).collect();
        let between = places.first().map_or(self.life(), |place| place.seat.between_looks());
        let key = format!("{name}.runners");
        let mut membership = Membership::new(Arc::clone(&bucket), key, me.clone(), self.life());
        let mut crowd: Option<Crowd> = None;
        let mut next_beat = Instant::now();
        let mut workers = JoinSet::new();
        while !shutdown.drain.is_cancelled() {
            if next_beat <= Instant::now() {
                next_beat = Instant::now() + self.life() / BEATS;
                crowd = membership.show_up().await.or(crowd);
            }
            if let Some(crowd) = crowd {
                give_up_surplus(&mut places, crowd);
                self.take_share(&mut places, crowd, &mut workers, shutdown).await;
            }
            tokio::select! {
                Some(ended) = workers.join_next_with_id() => forget(&mut places, ended),
                () = sleep(between) => {}
                () = shutdown.drain.cancelled() => {}
            }
        }
        membership.leave().await;
        while let Some(ended) = workers.join_next_with_id().await {
            forget(&mut places, ended);
        }
    }

    async fn owners(&self, shutdown: &Shutdown) -> Option<Arc<dyn Bucket>> {
        while !shutdown.drain.is_cancelled() {
            match self.buckets.open(&self.owners).await {
                Ok(bucket) => return Some(bucket),
                Err(err) => self.complain(err.to_string(), shutdown).await,
            }
        }
        None
    }

    async fn take_share(
        self: &Arc<Self>,
        places: &mut [Place],
        crowd: Crowd,
        workers: &mut JoinSet<usize>,
        shutdown: &Shutdown,
    ) {
        let share = crowd.share(places.len());
        let mut held = places.iter().filter(|place| place.held.is_some()).count();
        // Runners that start together begin in different places.
        let first = fastrand::usize(..places.len());
        for number in (first..places.len()).chain(0..first) {
            if held >= share || shutdown.drain.is_cancelled() {
                return;
            }
            let Some(place) = places.get_mut(number).filter(|place| place.held.is_none()) else {
                continue;
            };
            let Some(ownership) = place.seat.try_to_take(&mut place.seen).await else { continue };
            let own = shutdown.child();
            let drain = own.drain.clone();
            let task = workers.spawn(Arc::clone(self).work_on(number, ownership, own)).id();
            place.held = Some(Held { task, drain });
            held += 1;
        }
    }

    /// Works on one partition until it is given up; returns which one.
    async fn work_on(
        self: Arc<Self>,
        number: usize,
        ownership: Ownership,
        shutdown: Shutdown,
    ) -> usize {
        let spec = &self.binding.spec;
        let metrics = &self.binding.metrics;
        let slots = i64::try_from(spec.slots.get()).unwrap_or(i64::MAX);
        info!(
            binding = spec.name,
            partition = number,
            "this runner works on the partition from here on"
        );
        metrics.partitions_owned.inc();
        metrics.slots.add(slots);
        let fence = ownership.fence();
        let extensions = metrics.lease_extensions.clone();
        let working = async {
            let which = (spec, number);
            let (connection, provisioned) = (&self.connection, &self.provisioned);
            let opened =
                NatsSource::open_partition(connection, provisioned, which, extensions.clone());
            let (source, extender) = opened.await.map_err(|err| err.to_string())?;
            let source = OrderedSource::new(source, spec.slot_bytes);
            let waiting = self.waiting.clone();
            let source = WithComebacks::of_partition(
                source,
                connection,
                provisioned,
                which,
                extensions,
                waiting,
            );
            self.work(Originals(source), extender, &shutdown, fence).await
        };
        let ended = hold(ownership, working).await;
        metrics.partitions_owned.dec();
        metrics.slots.sub(slots);
        info!(
            binding = spec.name,
            partition = number,
            "this runner no longer works on the partition"
        );
        if let Err(why) = ended {
            self.complain(why, &shutdown).await;
        }
        number
    }

    /// Copies the binding's events into its partitions.
    pub(super) async fn copy<S: Source<Lease = NatsLease>>(
        &self,
        source: S,
        extender: impl Future<Output = ()> + Send + 'static,
        shutdown: &Shutdown,
        fence: Fence,
    ) -> Result<(), String> {
        let mut background = JoinSet::new();
        background.spawn(extender);
        let metrics = self.binding.metrics.clone();
        let hop = Hop::new(
            source,
            &self.connection,
            &self.provisioned,
            &self.manifest,
            &self.whole,
            metrics,
        );
        let hop = hop.ok_or_else(|| "the binding has no partitions".to_owned())?;
        what_ended(hop.run(shutdown, fence).await)
    }
}

/// Lets go of what is beyond the largest share: what runs in it is finished first.
fn give_up_surplus(places: &mut [Place], crowd: Crowd) {
    let most = crowd.most(places.len());
    let kept = places.iter().filter_map(|place| place.held.as_ref());
    let kept: Vec<_> = kept.filter(|held| !held.drain.is_cancelled()).collect();
    for held in kept.iter().skip(most) {
        held.drain.cancel();
    }
}

fn forget(places: &mut [Place], ended: Result<(Id, usize), tokio::task::JoinError>) {
    let id = match &ended {
        Ok((id, _)) => *id,
        Err(err) => {
            error!(%err, "the work on a partition broke off");
            err.id()
        }
    };
    for place in places {
        if place.held.as_ref().is_some_and(|held| held.task == id) {
            place.held = None;
        }
    }
}
