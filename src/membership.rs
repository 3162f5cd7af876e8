//! Which runners share the partitions of a binding: a key of a bucket in which each of them counts
//! on. Who has not counted for a while is gone. It decides how many partitions a runner takes, never
//! whether it may work on one: that is for [`ownership`](crate::ownership).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::keyvalue::{Bucket, BucketError, Entry};

/// Tries to write the key, which others write too.
const TRIES: u32 = 8;
/// The longest wait between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(60);

/// This runner among those of a binding.
pub struct Membership {
    bucket: Arc<dyn Bucket>,
    key: String,
    /// Names this runner.
    me: String,
    life: Duration,
    /// What the others had counted to, and since when.
    seen: HashMap<String, (u64, Instant)>,
}

/// How many runners there are, and which of them this one is, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// At least this one.
    pub count: usize,
    /// In an order that all agree on.
    pub rank: usize,
}

impl Crowd {
    /// How many partitions this runner takes: all shares together are all partitions.
    #[must_use]
    pub const fn share(self, partitions: usize) -> usize {
        partitions / self.count + if self.rank < partitions % self.count { 1 } else { 0 }
    }

    /// How many it keeps: no more than the largest share, so that nothing moves for nothing.
    #[must_use]
    pub const fn most(self, partitions: usize) -> usize {
        partitions.div_ceil(self.count)
    }
}

/// What every runner has counted to.
type Counts = BTreeMap<String, u64>;

impl Membership {
    /// `me` is a name that no other runner has.
    #[must_use]
    pub fn new(bucket: Arc<dyn Bucket>, key: String, me: String, life: Duration) -> Self {
        Self { bucket, key, me, life, seen: HashMap::new() }
    }

    /// Says that this runner is there, and who else is; `None` when that cannot be told now.
    pub async fn show_up(&mut self) -> Option<Crowd> {
        for _ in 0..TRIES {
            match timeout(self.life, self.try_to_show_up()).await {
                Ok(Ok(crowd)) => return Some(crowd),
                Ok(Err(BucketError::Conflict)) => sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await,
                Ok(Err(err)) => {
                    debug!(key = self.key, %err, "the runners of a binding cannot be told");
                    return None;
                }
                Err(_) => return None,
            }
        }
        None
    }

    async fn try_to_show_up(&mut self) -> Result<Crowd, BucketError> {
        let entry = self.bucket.get(&self.key).await?;
        let mut counts = counts(&entry);
        self.forget_the_gone(&mut counts, Instant::now());
        *counts.entry(self.me.clone()).or_default() += 1;
        self.write(&counts, entry.revision).await?;
        let rank = counts.keys().position(|name| *name == self.me).unwrap_or(0);
        Ok(Crowd { count: counts.len(), rank })
    }

    fn forget_the_gone(&mut self, counts: &mut Counts, now: Instant) {
        self.seen.retain(|name, _| counts.contains_key(name));
        counts.retain(|name, count| {
            let seen = self.seen.entry(name.clone()).or_insert((*count, now));
            if seen.0 != *count {
                *seen = (*count, now);
            }
            *name == self.me || now - seen.1 < self.life
        });
    }

    async fn write(&self, counts: &Counts, revision: u64) -> Result<(), BucketError> {
        let value = serde_json::to_vec(counts).unwrap_or_default();
        self.bucket.replace(&self.key, value.into(), revision).await.map(drop)
    }

    /// Says that this runner is not there any more, so that others take its share at once.
    pub async fn leave(self) {
        for _ in 0..TRIES {
            let left = async {
                let entry = self.bucket.get(&self.key).await?;
                let mut counts = counts(&entry);
                counts.remove(&self.me);
                self.write(&counts, entry.revision).await
            };
            match timeout(self.life, left).await {
                Ok(Err(BucketError::Conflict)) => sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await,
                Ok(Ok(())) => return,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        debug!(key = self.key, "this runner could not say that it leaves; the others will notice");
    }
}

fn counts(entry: &Entry) -> Counts {
    let value = entry.value.as_deref().unwrap_or_default();
    serde_json::from_slice(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_all_there_is() {
        for partitions in 1..20 {
            for count in 1..8 {
                let crowd = |rank| Crowd { count, rank };
                let shares: Vec<usize> = (0..count).map(|n| crowd(n).share(partitions)).collect();
                assert_eq!(shares.iter().sum::<usize>(), partitions);
                assert!(shares.iter().all(|share| *share <= crowd(0).most(partitions)));
                assert!(shares.iter().all(|share| share + 1 >= crowd(0).most(partitions)));
            }
        }
    }
}
