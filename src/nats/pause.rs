//! Keeps the events of a binding from being delivered for a while.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_nats::jetstream::consumer;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    connect::Connection,
    lookup::{ProvisionError, stream_of},
    names::{comebacks_name, durable_name, ledger_name, parts_name},
};
use crate::{
    manifest::{Binding, Manifest},
    settle::cut,
    source::Brake,
};

/// As good as for ever.
pub const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The longest text that tells why a binding is paused.
const WHY_MAX: usize = 1024;

impl Connection {
    /// Keeps the consumers of a binding from being delivered to, for so long; `None` lets them go on.
    ///
    /// # Errors
    /// When a consumer is missing, the server is older than 2.11, or does not answer.
    pub async fn pause(
        &self,
        manifest: &Manifest,
        binding: &Binding,
        span: Option<Duration>,
    ) -> Result<(), ProvisionError> {
        let until = span.map(|span| OffsetDateTime::now_utc() + span);
        self.pause_until(manifest, binding, until).await
    }

    async fn pause_until(
        &self,
        manifest: &Manifest,
        binding: &Binding,
        until: Option<OffsetDateTime>,
    ) -> Result<(), ProvisionError> {
        let stream = stream_of(self, binding).await?;
        let durable = durable_name(&manifest.name, &binding.name);
        let comebacks = comebacks_name(&manifest.name, &binding.name);
        let Some(stream) = stream else {
            return Err(ProvisionError::Problems(vec![format!(
                "binding `{}` has no stream yet: run it once",
                binding.name
            )]));
        };
        let letters = &manifest.dead_letter.stream;
        let mut all = vec![(letters.clone(), comebacks.clone())];
        for number in 0..binding.partitions().map_or(0, NonZeroUsize::get) {
            all.push((letters.clone(), format!("{comebacks}-p{number}")));
            all.push((parts_name(manifest, binding), format!("{durable}-p{number}")));
        }
        // What may be missing first, so that nothing is paused by half.
        all.push((stream, durable));
        for (stream, durable) in all {
            self.pause_one(&stream, &durable, until).await?;
        }
        Ok(())
    }

    async fn pause_one(
        &self,
        stream: &str,
        durable: &str,
        until: Option<OffsetDateTime>,
    ) -> Result<(), ProvisionError> {
        let handle = self.context.get_stream_no_info(stream).await;
        let handle = handle.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        let answer = match until {
            Some(until) => handle.pause_consumer(durable, until).await,
            None => handle.resume_consumer(durable).await,
        };
        let paused = answer.map_err(|err| {
            ProvisionError::Problems(vec![format!(
                "consumer {durable} on stream {stream} cannot be paused or resumed: {err} (it needs nats-server 2.11 or later, and a binding that has run once)"
            )])
        })?;
        if paused.paused == until.is_some() {
            return Ok(());
        }
        Err(ProvisionError::Problems(vec![format!(
            "consumer {durable} on stream {stream} did not change: pausing needs nats-server 2.11 or later"
        )]))
    }
}

/// Pauses a binding whose events use up their tries.
#[derive(Debug)]
pub struct NatsBrake {
    connection: Connection,
    manifest: Arc<Manifest>,
    binding: Binding,
}

/// Why a binding was paused, beside the records of its events. It holds for as long as the consumer
/// has that very end of its pause.
#[derive(Debug, Serialize, Deserialize)]
struct Reason {
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    why: String,
}

impl NatsBrake {
    /// That of one binding.
    #[must_use]
    pub fn new(connection: &Connection, manifest: &Arc<Manifest>, binding: &Binding) -> Self {
        Self {
            connection: connection.clone(),
            manifest: Arc::clone(manifest),
            binding: binding.clone(),
        }
    }

    async fn pause(&self, why: &str) -> Result<(), String> {
        let Self { connection, manifest, binding } = self;
        let until = OffsetDateTime::now_utc() + CENTURY;
        let reason = Reason { until, why: cut(why, WHY_MAX).to_owned() };
        let value = serde_json::to_vec(&reason).map_err(|err| err.to_string())?;
        let key = reason_key(manifest, binding);
        let stored = connection.context.publish(key, value.into()).await;
        stored.map_err(|err| err.to_string())?.await.map_err(|err| err.to_string())?;
        let paused = connection.pause_until(manifest, binding, Some(until)).await;
        paused.map_err(|err| err.to_string())
    }
}

impl Brake for NatsBrake {
    fn stop<'a>(&'a self, why: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.pause(why))
    }
}

/// Why a binding is paused, for people; `None` when it is not.
pub(super) async fn reason(
    connection: &Connection,
    manifest: &Manifest,
    binding: &Binding,
    info: &consumer::Info,
) -> Option<String> {
    info.paused.then_some(())?;
    let known = told(connection, manifest, binding).await;
    // Two runners may pause at the same moment, and one of them tells why.
    let fits = |reason: &Reason| {
        info.config.pause_until.is_some_and(|until| (until - reason.until).abs() < SAME)
    };
    let why = known.filter(fits).map(|reason| format!(": {}", reason.why)).unwrap_or_default();
    Some(format!("paused{why}; `pelton resume {}` lets it go on", binding.name))
}

const SAME: time::Duration = time::Duration::minutes(1);

async fn told(connection: &Connection, manifest: &Manifest, binding: &Binding) -> Option<Reason> {
    let bucket = format!("KV_{}", ledger_name(manifest));
    let stream = connection.context.get_stream_no_info(bucket).await.ok()?;
    let key = reason_key(manifest, binding);
    let message = stream.get_last_raw_message_by_subject(&key).await.ok()?;
    serde_json::from_slice(&message.payload).ok()
}

fn reason_key(manifest: &Manifest, binding: &Binding) -> String {
    format!("$KV.{}.{}.paused", ledger_name(manifest), binding.name)
}
