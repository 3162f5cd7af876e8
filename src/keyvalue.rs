//! Key-value buckets as functions see them. `nats` is the one implementation; the traits keep it on
//! its side of the wall.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

/// Where buckets are.
pub trait Buckets: Debug + Send + Sync {
    /// Finds a bucket.
    ///
    /// # Errors
    /// When there is none, or nobody can say.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn Bucket>, BucketError>>;
}

/// Values under keys.
pub trait Bucket: Send + Sync {
    /// What is stored under a key. What was written before is read.
    ///
    /// # Errors
    /// Only if it cannot be told.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Entry, BucketError>>;

    /// Stores a value, whatever was there; durably once it returns.
    ///
    /// # Errors
    /// When it may not be stored.
    fn put<'a>(&'a self, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), BucketError>>;

    /// As [`put`](Self::put), if the key's revision is still this one; returns the new one.
    ///
    /// # Errors
    /// [`BucketError::Conflict`] if it is not; else as [`put`](Self::put).
    fn replace<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: u64,
    ) -> BoxFuture<'a, Result<u64, BucketError>>;

    /// Takes a value out, if there is one.
    ///
    /// # Errors
    /// When it may still be there.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BucketError>>;

    /// Up to `count` keys that have values, after the first `skip` of them.
    ///
    /// # Errors
    /// When not all of these can be told.
    fn keys(&self, skip: usize, count: usize) -> BoxFuture<'_, Result<Vec<String>, BucketError>>;
}

/// What is known of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its value, if it has one.
    pub value: Option<Bytes>,
    /// Counts its changes; 0 for a key that never had a value.
    pub revision: u64,
}

/// What goes wrong with a bucket.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum BucketError {
    /// There is no such bucket.
    #[error("there is no key-value bucket `{0}`: create it with `nats kv add {0}`")]
    Missing(String),
    /// Somebody else has changed the value.
    #[error("the value has changed")]
    Conflict,
    /// The bucket takes no value as large as this.
    #[error("{0}")]
    TooLarge(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
