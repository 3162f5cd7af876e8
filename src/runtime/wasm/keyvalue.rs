//! Buckets for components: `wasi:keyvalue@0.2.0-draft`, restated here as far as components see it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::WasiView;

use self::generated::wasi::keyvalue::{
    atomics, batch,
    store::{self, Error, KeyResponse},
};
use super::guest::Guest;
use crate::keyvalue::{Bucket, BucketError, Buckets};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod generated {
    wasmtime::component::bindgen!({
        inline: "
            package wasi:keyvalue@0.2.0-draft;

            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<u64> }
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                }
                open: func(identifier: string) -> result<bucket, error>;
            }

            interface atomics {
                use store.{bucket, error};
                increment: func(bucket: borrow<bucket>, key: string, delta: u64)
                    -> result<u64, error>;
            }

            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
                    -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }

            world buckets {
                import store;
                import atomics;
                import batch;
            }
        ",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::Opened },
    });
}

/// Keys in one answer.
const PAGE: usize = 1000;

/// The buckets that a function may use, by name.
pub(super) type Granted = BTreeMap<String, Opened>;

/// A bucket.
#[expect(unreachable_pub, reason = "what is generated exports it")]
#[derive(Clone)]
pub struct Opened(Arc<dyn Bucket>);

/// Links them.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    generated::Buckets::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// Opens what is granted.
///
/// # Errors
/// Why one of them cannot be had.
pub(super) async fn open(
    buckets: Option<&dyn Buckets>,
    names: &[String],
) -> Result<Granted, String> {
    let buckets = buckets.ok_or(
        "it uses key-value buckets, and there are none without NATS: `pelton dev` has one, and `pelton run`",
    )?;
    let mut granted = Granted::new();
    for name in names {
        let bucket = buckets.open(name).await.map_err(|err| err.to_string())?;
        granted.insert(name.clone(), Opened(bucket));
    }
    Ok(granted)
}

/// What a component is told; the outer error would end it.
type Said<T> = wasmtime::Result<Result<T, Error>>;

impl store::Host for Guest {
    async fn open(&mut self, identifier: String) -> Said<Resource<Opened>> {
        match self.reach.buckets.get(&identifier).cloned() {
            Some(bucket) => Ok(Ok(self.ctx().table.push(bucket)?)),
            None => Ok(Err(Error::AccessDenied)),
        }
    }
}

impl store::HostBucket for Guest {
    async fn get(&mut self, bucket: Resource<Opened>, key: String) -> Said<Option<Vec<u8>>> {
        let entry = self.bucket(&bucket)?.get(&key).await;
        Ok(entry.map(|entry| entry.value.map(Vec::from)).map_err(told))
    }

    async fn set(&mut self, bucket: Resource<Opened>, key: String, value: Vec<u8>) -> Said<()> {
        Ok(self.bucket(&bucket)?.put(&key, value.into()).await.map_err(told))
    }

    async fn delete(&mut self, bucket: Resource<Opened>, key: String) -> Said<()> {
        Ok(self.bucket(&bucket)?.delete(&key).await.map_err(told))
    }

    async fn exists(&mut self, bucket: Resource<Opened>, key: String) -> Said<bool> {
        let entry = self.bucket(&bucket)?.get(&key).await;
        Ok(entry.map(|entry| entry.value.is_some()).map_err(told))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Opened>,
        cursor: Option<u64>,
    ) -> Said<KeyResponse> {
        let skip = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let keys = self.bucket(&bucket)?.keys(skip, PAGE).await;
        let page = |keys: Vec<String>| KeyResponse {
            cursor: (keys.len() == PAGE).then_some((skip + PAGE) as u64),
            keys,
        };
        Ok(keys.map(page).map_err(told))
    }

    async fn drop(&mut self, bucket: Resource<Opened>) -> wasmtime::Result<()> {
        self.ctx().table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Guest {
    /// A number is kept as its decimal digits.
    async fn increment(&mut self, bucket: Resource<Opened>, key: String, delta: u64) -> Said<u64> {
        let bucket = self.bucket(&bucket)?;
        Ok(increment(&*bucket, &key, delta).await)
    }
}

impl batch::Host for Guest {
    async fn get_many(
        &mut self,
        bucket: Resource<Opened>,
        keys: Vec<String>,
    ) -> Said<Vec<Option<(String, Vec<u8>)>>> {
        let bucket = self.bucket(&bucket)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            match bucket.get(&key).await {
                Ok(entry) => found.push(entry.value.map(|value| (key, Vec::from(value)))),
                Err(err) => return Ok(Err(told(err))),
            }
        }
        Ok(Ok(found))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Opened>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Said<()> {
        let bucket = self.bucket(&bucket)?;
        for (key, value) in key_values {
            if let Err(err) = bucket.put(&key, value.into()).await {
                return Ok(Err(told(err)));
            }
        }
        Ok(Ok(()))
    }

    async fn delete_many(&mut self, bucket: Resource<Opened>, keys: Vec<String>) -> Said<()> {
        let bucket = self.bucket(&bucket)?;
        for key in keys {
            if let Err(err) = bucket.delete(&key).await {
                return Ok(Err(told(err)));
            }
        }
        Ok(Ok(()))
    }
}

impl Guest {
    fn bucket(&mut self, bucket: &Resource<Opened>) -> wasmtime::Result<Arc<dyn Bucket>> {
        Ok(Arc::clone(&self.ctx().table.get(bucket)?.0))
    }
}

async fn increment(bucket: &dyn Bucket, key: &str, delta: u64) -> Result<u64, Error> {
    // Until nobody comes between; the call's timeout ends it.
    loop {
        let entry = bucket.get(key).await.map_err(told)?;
        let before = entry.value.as_deref().map_or(Some(0), number);
        let before = before.ok_or_else(|| Error::Other(format!("`{key}` holds no number")))?;
        let after = before
            .checked_add(delta)
            .ok_or_else(|| Error::Other(format!("`{key}` would be more than {}", u64::MAX)))?;
        match bucket.replace(key, Bytes::from(after.to_string()), entry.revision).await {
            Err(BucketError::Conflict) => {}
            stored => return stored.map(|_| after).map_err(told),
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn told(err: BucketError) -> Error {
    match err {
        BucketError::Missing(_) => Error::NoSuchStore,
        BucketError::Conflict | BucketError::TooLarge(_) | BucketError::Failed(_) => {
            Error::Other(err.to_string())
        }
    }
}
