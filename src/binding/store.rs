//! The state of a binding's keys: read before a call, written once it succeeded.

use std::{sync::Arc, time::Duration};

use tokio::sync::OnceCell;
use tracing::warn;

use super::passage::Entry;
use crate::{
    event::{Event, Publish},
    keyvalue::{Bucket, BucketError, Buckets},
    source::Origin,
    state::{Kept, bucket_key},
};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a message of a bucket takes beyond its value, generously: subject and headers.
const ENVELOPE: usize = 1024;

/// Where the state of a binding's keys is.
pub struct Store {
    buckets: Arc<dyn Buckets>,
    bucket: String,
    opened: OnceCell<Arc<dyn Bucket>>,
}

/// How a write went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is stored.
    Stored,
    /// Somebody else has changed the entry.
    Outrun,
    /// It can never be stored.
    Refused(String),
}

impl Store {
    /// The state in a bucket, which is looked for once it is needed.
    #[must_use]
    pub fn new(buckets: Arc<dyn Buckets>, bucket: &str) -> Self {
        Self { buckets, bucket: bucket.to_owned(), opened: OnceCell::new() }
    }

    /// What is kept of a key; waits until it can be told.
    ///
    /// # Errors
    /// When what is there was not written by Pelton.
    pub(super) async fn read(&self, key: &str) -> Result<Entry, String> {
        let name = bucket_key(key);
        let mut pause = PAUSE_MIN;
        loop {
            match self.try_read(&name).await {
                Ok(found) => {
                    let kept =
                        found.value.as_deref().map_or_else(|| Ok(Kept::default()), Kept::read);
                    let kept =
                        kept.map_err(|why| format!("`{name}` in `{}`: {why}", self.bucket))?;
                    return Ok(Entry { revision: found.revision, kept, next: None });
                }
                Err(err) => {
                    warn!(bucket = self.bucket, key = name, %err, "state cannot be read; trying again")
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Applies an event to the entry as it was read.
    pub(super) async fn write(
        &self,
        key: &str,
        entry: Entry,
        (event, origin): (&Event, &Origin),
        outputs: &[Publish],
        max: usize,
    ) -> Written {
        let Entry { revision, kept, next } = entry;
        let value = kept.apply(event, origin, next, outputs).write();
        let max = max.saturating_sub(ENVELOPE);
        if value.len() > max {
            let size = value.len();
            return Written::Refused(format!("state and outputs take {size} bytes; {max} fit"));
        }
        let name = bucket_key(key);
        let mut pause = PAUSE_MIN;
        loop {
            let failure = match self.try_write(&name, &value, revision).await {
                Ok(()) => return Written::Stored,
                Err(BucketError::Conflict) => return Written::Outrun,
                Err(BucketError::TooLarge(why)) => return Written::Refused(why),
                Err(err) => err,
            };
            warn!(bucket = self.bucket, key = name, err = %failure, "state cannot be written; trying again");
            // It may have been written all the same.
            match self.read(key).await {
                Ok(now) if now.revision == revision => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Ok(now) if now.kept.recorded(event, origin).is_some() => return Written::Stored,
                Ok(_) => return Written::Outrun,
                Err(why) => return Written::Refused(why),
            }
        }
    }

    async fn try_read(&self, name: &str) -> Result<crate::keyvalue::Entry, BucketError> {
        self.open().await?.get(name).await
    }

    async fn try_write(&self, name: &str, value: &[u8], revision: u64) -> Result<(), BucketError> {
        self.open().await?.replace(name, value.to_vec().into(), revision).await.map(drop)
    }

    async fn open(&self) -> Result<&Arc<dyn Bucket>, BucketError> {
        self.opened.get_or_try_init(|| self.buckets.open(&self.bucket)).await
    }
}
