//! Which runner works on a partition whose events are to run in order: a key of a bucket, renewed
//! by its owner, and taken over by compare-and-set once it has not changed for as long as it lives.
//!
//! An owner counts its time from before it sends a renewal, an observer from after it has read one:
//! by each one's own clock, the owner has stopped before anybody takes over.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use crate::{
    keyvalue::{Bucket, BucketError, Entry},
    source::Fence,
};

/// Renewals in the life of an ownership.
const RENEWALS: u32 = 3;
/// Looks at somebody else's ownership in its life.
const LOOKS: u32 = 5;
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Renewals that are asked for in its life, if none is answered: an answer may be lost, or late.
const TRIES: u32 = 6;

/// A partition that one runner at a time works on.
#[derive(Clone)]
pub struct Seat {
    bucket: Arc<dyn Bucket>,
    key: String,
    /// Names this runner.
    me: String,
    life: Duration,
}

/// The right to work on a partition.
pub struct Ownership {
    seat: Seat,
    revision: u64,
    until: watch::Sender<Instant>,
}

/// Which revision of a seat's key was seen last, and since when.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen(Option<(u64, Instant)>);

/// What came of asking for a renewal.
enum Renewal {
    /// It lasts until then.
    Done { revision: u64, end: Instant },
    /// It is somebody else's.
    Taken,
    /// It may still be had.
    Failed,
}

/// What the key says.
#[derive(Debug, Serialize, Deserialize)]
struct Owner<'a> {
    /// Nobody, once it was given up.
    owner: Option<&'a str>,
}

impl Seat {
    /// `me` is a name that no other runner has.
    #[must_use]
    pub const fn new(bucket: Arc<dyn Bucket>, key: String, me: String, life: Duration) -> Self {
        Self { bucket, key, me, life }
    }

    /// Waits until this runner may work on the partition.
    pub async fn take(self) -> Ownership {
        let mut seen = Seen::default();
        loop {
            if let Some(ownership) = self.try_to_take(&mut seen).await {
                return ownership;
            }
            sleep(self.between_looks()).await;
        }
    }

    /// How long to wait from one look to the next.
    #[must_use]
    pub fn between_looks(&self) -> Duration {
        (self.life / LOOKS).min(LOOK_MAX)
    }

    /// Looks once whether this runner may work on the partition; `seen` is what was seen by the
    /// looks before.
    pub async fn try_to_take(&self, seen: &mut Seen) -> Option<Ownership> {
        let read = self.bucket.get(&self.key);
        let entry = match timeout(self.life, read).await {
            Ok(Ok(entry)) => entry,
            Ok(Err(err)) => {
                debug!(key = self.key, %err, "the owner cannot be read");
                return None;
            }
            Err(_) => {
                debug!(key = self.key, "nobody says in time who the owner is");
                return None;
            }
        };
        let read = Instant::now();
        let since = match seen.0 {
            Some((revision, since)) if revision == entry.revision => since,
            _ => read,
        };
        seen.0 = Some((entry.revision, since));
        // It is this runner's own when the answer to a claim was lost.
        let free = owner(&entry).is_none_or(|owner| owner == self.me);
        if !free && read - since < self.life {
            return None;
        }
        let (revision, until) = self.claim(entry.revision).await?;
        Some(Ownership { seat: self.clone(), revision, until: watch::Sender::new(until) })
    }

    async fn claim(&self, revision: u64) -> Option<(u64, Instant)> {
        let asked = Instant::now();
        match self.write(Some(&self.me), revision).await {
            Ok(revision) => Some((revision, asked + self.life)),
            Err(BucketError::Conflict) => None,
            Err(err) => {
                warn!(key = self.key, %err, "ownership cannot be taken; trying again");
                None
            }
        }
    }

    /// One renewal of what was this runner's at a revision. One before it whose answer was lost, or is
    /// on its way, has changed that.
    async fn renewal(&self, mut revision: u64) -> Renewal {
        loop {
            let asked = Instant::now();
            match self.write(Some(&self.me), revision).await {
                Ok(revision) => return Renewal::Done { revision, end: asked + self.life },
                Err(BucketError::Conflict) => {}
                Err(err) => return self.failed(&err),
            }
            match self.bucket.get(&self.key).await {
                Ok(entry) if owner(&entry) == Some(&self.me) => revision = entry.revision,
                Ok(_) => return Renewal::Taken,
                Err(err) => return self.failed(&err),
            }
        }
    }

    fn failed(&self, err: &BucketError) -> Renewal {
        debug!(key = self.key, %err, "ownership was not renewed");
        Renewal::Failed
    }

    async fn write(&self, owner: Option<&str>, revision: u64) -> Result<u64, BucketError> {
        let value = serde_json::to_vec(&Owner { owner }).unwrap_or_default();
        self.bucket.replace(&self.key, value.into(), revision).await
    }
}

impl Ownership {
    /// Holds for as long as the ownership does.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence::new(self.until.subscribe())
    }

    /// Renews the ownership; returns once it is lost.
    pub async fn keep(&mut self) {
        loop {
            let until = *self.until.borrow();
            sleep_until(until - self.seat.life + self.seat.life / RENEWALS).await;
            if !self.renew(until).await {
                let now = Instant::now();
                self.until.send_modify(|until| *until = (*until).min(now));
                return;
            }
        }
    }

    /// Whether it was renewed in time. What is not answered soon is asked for once more, and any of the
    /// answers counts: over a slow connection they come late, but they come.
    async fn renew(&mut self, until: Instant) -> bool {
        let seat = self.seat.clone();
        let mut renewals = FuturesUnordered::new();
        loop {
            renewals.push(seat.renewal(self.revision));
            let next = sleep_until(until.min(Instant::now() + seat.life / TRIES));
            tokio::pin!(next);
            loop {
                tokio::select! {
                    Some(renewal) = renewals.next() => match renewal {
                        Renewal::Done { revision, end } => {
                            self.revision = revision;
                            return self.extend(end);
                        }
                        Renewal::Taken => return false,
                        Renewal::Failed => {}
                    },
                    () = &mut next => break,
                }
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Whether it had not run out before: events that ended meanwhile were dropped, so that it must
    /// not come back to life.
    fn extend(&self, end: Instant) -> bool {
        self.until.send_if_modified(|until| {
            let in_time = Instant::now() < *until;
            if in_time {
                *until = end;
            }
            in_time
        })
    }

    /// Works, and renews the ownership meanwhile. The work has to end by the [`fence`](Self::fence)
    /// once that is lost.
    pub async fn during<T>(&mut self, working: impl Future<Output = T>) -> T {
        tokio::pin!(working);
        tokio::select! {
            ended = &mut working => ended,
            () = self.keep() => working.await,
        }
    }

    /// Lets others take over at once.
    pub async fn give_up(self) {
        if let Err(err) = self.seat.write(None, self.revision).await {
            debug!(key = self.seat.key, %err, "ownership was not given up; it runs out by itself");
        }
    }
}

/// A name for one who takes seats, that nobody else has.
#[must_use]
pub fn a_name() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

fn owner(entry: &Entry) -> Option<&str> {
    let value = entry.value.as_deref()?;
    serde_json::from_slice::<Owner<'_>>(value).ok()?.owner
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use futures_util::future::{BoxFuture, ready};

    use super::*;

    const LIFE: Duration = Duration::from_millis(60);

    /// Takes a first value at once, a second one too late, and no third one.
    #[derive(Default)]
    struct Slow(AtomicU64);

    impl Bucket for Slow {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Entry, BucketError>> {
            Box::pin(ready(Ok(Entry::default())))
        }

        fn put<'a>(&'a self, _: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), BucketError>> {
            Box::pin(ready(Ok(())))
        }

        fn replace<'a>(
            &'a self,
            _: &'a str,
            _: Bytes,
            _: u64,
        ) -> BoxFuture<'a, Result<u64, BucketError>> {
            Box::pin(async {
                match self.0.fetch_add(1, Ordering::Relaxed) {
                    0 => Ok(1),
                    // Blocks, as a machine does that has no time for this runner.
                    1 => {
                        std::thread::sleep(LIFE);
                        Ok(2)
                    }
                    _ => Err(BucketError::Conflict),
                }
            })
        }

        fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), BucketError>> {
            Box::pin(ready(Ok(())))
        }

        fn keys(&self, _: usize, _: usize) -> BoxFuture<'_, Result<Vec<String>, BucketError>> {
            Box::pin(ready(Ok(Vec::new())))
        }
    }

    /// Answers everything, each time after so long.
    struct Far {
        wait: Duration,
        revision: AtomicU64,
    }

    impl Bucket for Far {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Entry, BucketError>> {
            Box::pin(async {
                sleep(self.wait).await;
                let revision = self.revision.load(Ordering::Relaxed);
                let value = (revision > 0).then(|| Bytes::from_static(br#"{"owner":"me"}"#));
                Ok(Entry { value, revision })
            })
        }

        fn put<'a>(&'a self, _: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), BucketError>> {
            Box::pin(ready(Ok(())))
        }

        fn replace<'a>(
            &'a self,
            _: &'a str,
            _: Bytes,
            revision: u64,
        ) -> BoxFuture<'a, Result<u64, BucketError>> {
            Box::pin(async move {
                let (old, new) = (revision, revision + 1);
                let kept =
                    self.revision.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
                sleep(self.wait).await;
                kept.map(|_| new).map_err(|_| BucketError::Conflict)
            })
        }

        fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), BucketError>> {
            Box::pin(ready(Ok(())))
        }

        fn keys(&self, _: usize, _: usize) -> BoxFuture<'_, Result<Vec<String>, BucketError>> {
            Box::pin(ready(Ok(Vec::new())))
        }
    }

    /// Over a connection whose answers take 0.4 of its life.
    #[tokio::test(start_paused = true)]
    async fn an_ownership_is_kept_over_a_slow_connection() {
        let bucket = Arc::new(Far { wait: LIFE * 2 / 5, revision: AtomicU64::new(0) });
        let seat = Seat::new(bucket, "f".to_owned(), "me".to_owned(), LIFE);
        let mut ownership = seat.take().await;
        let fence = ownership.fence();
        tokio::select! {
            () = ownership.keep() => panic!("it was lost"),
            () = sleep(LIFE * 50) => assert!(fence.holds()),
        }
    }

    #[tokio::test]
    async fn an_ownership_that_ran_out_is_not_renewed() {
        let bucket = Arc::new(Slow::default());
        let kept: Arc<dyn Bucket> = Arc::clone(&bucket) as _;
        let seat = Seat::new(kept, "f".to_owned(), "me".to_owned(), LIFE);
        let mut ownership = seat.take().await;
        let fence = ownership.fence();
        ownership.keep().await;
        assert!(!fence.holds());
        assert_eq!(bucket.0.load(Ordering::Relaxed), 2);
    }
}
