//! What a replay that shall leave no trace has in place of streams and buckets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};

use crate::{
    event::Publish,
    keyvalue::{Bucket, BucketError, Buckets, Entry},
    nats::NatsSink,
    source::{PublishError, Sink, Stored},
};

/// Where outputs and dead letters of a replay go.
#[derive(Debug)]
pub(super) enum Outlet {
    /// To their streams.
    Streams(NatsSink),
    /// Nowhere; only what fits is asked.
    Nowhere(NatsSink),
}

impl Sink for Outlet {
    async fn publish(&self, publish: Publish) -> Result<Stored, PublishError> {
        match self {
            Self::Streams(sink) => sink.publish(publish).await,
            Self::Nowhere(_) => Ok(Stored::New),
        }
    }

    fn max_payload(&self) -> usize {
        match self {
            Self::Streams(sink) | Self::Nowhere(sink) => sink.max_payload(),
        }
    }
}

/// A bucket in memory, empty at first: whatever name it is asked for by.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch(Arc<Mutex<BTreeMap<String, Entry>>>);

impl Scratch {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the revision was `expected`, if any was.
    fn change(
        &self,
        key: &str,
        value: Option<Bytes>,
        expected: Option<u64>,
    ) -> Result<u64, BucketError> {
        let mut entries = self.entries();
        let entry = entries.entry(key.to_owned()).or_default();
        if expected.is_some_and(|expected| expected != entry.revision) {
            return Err(BucketError::Conflict);
        }
        *entry = Entry { value, revision: entry.revision + 1 };
        Ok(entry.revision)
    }
}

impl Buckets for Scratch {
    fn open<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Arc<dyn Bucket>, BucketError>> {
        let bucket: Arc<dyn Bucket> = Arc::new(self.clone());
        Box::pin(ready(Ok(bucket)))
    }
}

impl Bucket for Scratch {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Entry, BucketError>> {
        Box::pin(ready(Ok(self.entries().get(key).cloned().unwrap_or_default())))
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), BucketError>> {
        Box::pin(ready(self.change(key, Some(value), None).map(drop)))
    }

    fn replace<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: u64,
    ) -> BoxFuture<'a, Result<u64, BucketError>> {
        Box::pin(ready(self.change(key, Some(value), Some(revision))))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BucketError>> {
        Box::pin(ready(self.change(key, None, None).map(drop)))
    }

    fn keys(&self, skip: usize, count: usize) -> BoxFuture<'_, Result<Vec<String>, BucketError>> {
        let entries = self.entries();
        let full = entries.iter().filter(|(_, entry)| entry.value.is_some());
        let keys = full.map(|(key, _)| key.clone()).skip(skip).take(count).collect();
        Box::pin(ready(Ok(keys)))
    }
}
