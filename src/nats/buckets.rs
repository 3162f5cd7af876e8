//! Key-value buckets: streams `KV_<bucket>`.

use std::{fmt::Display, sync::Arc};

use async_nats::{
    HeaderMap,
    jetstream::{
        ErrorCode,
        context::GetStreamErrorKind,
        kv::{Store, UpdateErrorKind},
        stream::LastRawMessageErrorKind,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture};

use super::connect::Connection;
use crate::keyvalue::{Bucket, BucketError, Buckets, Entry};

/// The buckets of a connection.
#[derive(Debug, Clone)]
pub struct NatsBuckets(Connection);

impl NatsBuckets {
    /// Those that this connection may reach.
    #[must_use]
    pub const fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

impl Buckets for NatsBuckets {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn Bucket>, BucketError>> {
        Box::pin(async move {
            let Self(connection) = self;
            let context = &connection.context;
            // Asked first: the client's own word for a missing bucket is that for every failure.
            let found = connection.answered(context.get_stream(format!("KV_{name}"))).await;
            if let Err(err) = found.ok_or_else(lost)? {
                return Err(match err.kind() {
                    GetStreamErrorKind::JetStream(error)
                        if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                    {
                        BucketError::Missing(name.to_owned())
                    }
                    _ => failed(format!("bucket `{name}`: {err}")),
                });
            }
            let store = connection.answered(context.get_key_value(name)).await.ok_or_else(lost)?;
            let store = store.map_err(|err| failed(format!("bucket `{name}`: {err}")))?;
            Ok(Arc::new(NatsBucket { store, connection: connection.clone() }) as Arc<dyn Bucket>)
        })
    }
}

#[derive(Debug)]
struct NatsBucket {
    store: Store,
    connection: Connection,
}

impl Bucket for NatsBucket {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Entry, BucketError>> {
        Box::pin(async move {
            check(key)?;
            let subject = format!("{}{key}", self.store.prefix);
            // The leader's word: a follower may not have heard yet of what this function wrote.
            let read = self.store.stream.get_last_raw_message_by_subject(&subject);
            match self.connection.answered(read).await.ok_or_else(lost)? {
                Ok(message) => Ok(Entry {
                    value: has_value(&message.headers).then_some(message.payload),
                    revision: message.sequence,
                }),
                Err(err) if err.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    Ok(Entry::default())
                }
                Err(err) => Err(failed(err)),
            }
        })
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), BucketError>> {
        Box::pin(async move {
            let stored = self.connection.answered(self.store.put(key, value)).await;
            stored.ok_or_else(lost)?.map(drop).map_err(failed)
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: u64,
    ) -> BoxFuture<'a, Result<u64, BucketError>> {
        Box::pin(async move {
            let stored = self.connection.answered(self.store.update(key, value, revision)).await;
            stored.ok_or_else(lost)?.map_err(|err| match err.kind() {
                UpdateErrorKind::WrongLastRevision => BucketError::Conflict,
                _ if is_too_large(&err) => BucketError::TooLarge(err.to_string()),
                _ => failed(err),
            })
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BucketError>> {
        Box::pin(async move {
            let deleted = self.connection.answered(self.store.delete(key)).await;
            deleted.ok_or_else(lost)?.map_err(failed)
        })
    }

    fn keys(&self, skip: usize, count: usize) -> BoxFuture<'_, Result<Vec<String>, BucketError>> {
        Box::pin(async move {
            let keys = self.store.keys().await.map_err(failed)?;
            keys.skip(skip).take(count).try_collect().await.map_err(failed)
        })
    }
}

/// The client checks what it writes; what is read goes past it.
fn check(key: &str) -> Result<(), BucketError> {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'=' | b'.');
    let dots = key.starts_with('.') || key.ends_with('.');
    if key.is_empty() || dots || !key.bytes().all(fits) {
        return Err(failed(format!("`{key}` is no key: letters, digits and `-/_=.`")));
    }
    Ok(())
}

/// Whether a message of a bucket is a value: others say that there is none any more.
fn has_value(headers: &HeaderMap) -> bool {
    ["KV-Operation", "Nats-Marker-Reason"].iter().all(|name| headers.get(*name).is_none())
}

/// Looks for the server's word for it, however deep.
fn is_too_large(err: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(err), |err| err.source())
        .filter_map(|err| err.downcast_ref::<async_nats::jetstream::Error>())
        .any(|err| err.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}

fn lost() -> BucketError {
    failed("the connection to NATS broke before the answer came")
}

fn failed(err: impl Display) -> BucketError {
    BucketError::Failed(err.to_string())
}
