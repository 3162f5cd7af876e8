//! Durables that were made for bindings that are no more.

use async_nats::jetstream::consumer;
use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::{
    connect::Connection,
    lookup::{ProvisionError, find_stream},
    names::{BINDING, OWNER},
};
use crate::manifest::Manifest;

/// A durable that no binding owns.
#[derive(Debug, Clone, Serialize)]
pub struct Orphan {
    /// Its name.
    pub consumer: String,
    /// Its stream.
    pub stream: String,
    /// The binding it was made for.
    pub binding: String,
    /// Events it has not acknowledged.
    pub lag: u64,
}

/// Those on one stream.
pub(super) async fn orphans_of(
    connection: &Connection,
    manifest: &Manifest,
    stream: &str,
) -> Result<Vec<Orphan>, ProvisionError> {
    Ok(orphans_among(manifest, &consumers_of(connection, stream).await?))
}

pub(super) async fn consumers_of(
    connection: &Connection,
    stream: &str,
) -> Result<Vec<consumer::Info>, ProvisionError> {
    let Some(handle) = find_stream(connection, stream).await? else { return Ok(Vec::new()) };
    let consumers = handle.consumers().try_collect().await;
    consumers.map_err(|err| ProvisionError::Unavailable(err.to_string()))
}

pub(super) fn orphans_among(manifest: &Manifest, consumers: &[consumer::Info]) -> Vec<Orphan> {
    let orphan = |info: &consumer::Info| {
        let binding = info.config.metadata.get(BINDING)?;
        let ours = info.config.metadata.get(OWNER) == Some(&manifest.name);
        // What was sent again to a binding's former name is read under its new one.
        let letters = info.stream_name == manifest.dead_letter.stream;
        let owned = manifest.bindings.iter().any(|known| {
            known.name == *binding || letters && known.renamed_from.as_ref() == Some(binding)
        });
        (ours && !owned).then(|| Orphan {
            consumer: info.name.clone(),
            stream: info.stream_name.clone(),
            binding: binding.clone(),
            lag: info.num_pending + info.num_ack_pending as u64,
        })
    };
    consumers.iter().filter_map(orphan).collect()
}
