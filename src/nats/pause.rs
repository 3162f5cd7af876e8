//! Keeps the events of a binding from being delivered for a while.

use std::{num::NonZeroUsize, time::Duration};

use time::OffsetDateTime;

use super::{
    connect::Connection,
    provision::{ProvisionError, parts_name, stream_of},
};
use crate::manifest::{Binding, Manifest};

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
        let stream = stream_of(self, binding).await?;
        let durable = format!("{}-{}", manifest.name, binding.name);
        let Some(stream) = stream else {
            return Err(ProvisionError::Problems(vec![format!(
                "binding `{}` has no stream yet: run it once",
                binding.name
            )]));
        };
        let until = span.map(|span| OffsetDateTime::now_utc() + span);
        let letters = &manifest.dead_letter.stream;
        let mut all = vec![(letters.clone(), format!("{durable}-redrive"))];
        for number in 0..binding.partitions().map_or(0, NonZeroUsize::get) {
            all.push((letters.clone(), format!("{durable}-redrive-p{number}")));
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
