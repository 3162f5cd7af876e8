//! The durables of events that come back from the dead letters, one for each binding.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::{ConsumerErrorKind, Stream},
};

use tracing::debug;

use super::{
    BINDING, Consumer, DIGEST, OWNER, ProvisionError, Provisioned, Provisioning, Site, find,
};
use crate::{manifest::Binding, nats::connect::Connection, source::Origin};

/// Longer than what any of them may take to be begun.
const ACK_WAIT: Duration = Duration::from_secs(30);

impl Provisioned {
    /// The consumer of a binding's events that came back, and the stream they leave in the end.
    pub(in crate::nats) fn comebacks(&self, binding: &Binding) -> Option<(Consumer, Stream<()>)> {
        let consumer = self.comebacks.iter().find(|known| known.binding == binding.name)?;
        Some((consumer.clone(), self.dead_letters.clone()))
    }
}

impl Consumer {
    /// Takes away what a runner acknowledged and, killed, did not take away itself.
    pub(in crate::nats) async fn sweep(&self, connection: &Connection, stream: &Stream<()>) {
        let Ok(Some(info)) = self.info(connection).await else { return };
        let purge = stream.purge().filter(&info.config.filter_subject);
        if let Err(err) = purge.sequence(info.ack_floor.stream_sequence + 1).await {
            debug!(%err, consumer = self.name, "events that are dealt with were left behind");
        }
    }
}

impl Site<'_> {
    /// The durables, or fewer when problems were noted.
    pub(super) async fn comeback_consumers(&mut self) -> Result<Vec<Consumer>, ProvisionError> {
        let name = self.manifest.dead_letter.stream.clone();
        let Some(info) = self.stream_info(&name).await? else { return Ok(Vec::new()) };
        let origin = Origin { stream: name.as_str().into(), created: info.created };
        let mut consumers = Vec::with_capacity(self.manifest.bindings.len());
        for binding in &self.manifest.bindings {
            let config = self.comeback_config(binding);
            let durable = config.durable_name.clone().unwrap_or_default();
            if find(self.connection, &name, &durable).await?.is_none()
                && !self.create_comebacks(&name, config.clone()).await?
            {
                continue;
            }
            consumers.push(Consumer::new(&binding.name, durable, origin.clone(), config));
        }
        Ok(consumers)
    }

    async fn create_comebacks(
        &mut self,
        stream: &str,
        config: pull::Config,
    ) -> Result<bool, ProvisionError> {
        let durable = config.durable_name.clone().unwrap_or_default();
        if self.mode == Provisioning::VerifyOnly {
            self.problem(format!(
                "consumer {durable} on stream {stream} does not exist: run once without --no-provision"
            ));
            return Ok(false);
        }
        let handle = self.context().get_stream_no_info(stream).await;
        let handle = handle.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        match handle.create_consumer(config).await {
            Ok(_) => Ok(true),
            Err(err) => match err.kind() {
                ConsumerErrorKind::JetStream(error) => {
                    self.problem(format!(
                        "consumer {durable} cannot be created on stream {stream}: {error}"
                    ));
                    Ok(false)
                }
                _ => Err(ProvisionError::Unavailable(err.to_string())),
            },
        }
    }

    fn comeback_config(&self, binding: &Binding) -> pull::Config {
        let name = &self.manifest.name;
        pull::Config {
            durable_name: Some(format!("{name}-{}-redrive", binding.name)),
            description: Some(format!("redriven events of binding {} of {name}", binding.name)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            filter_subject: format!("redrive.{name}.{}", binding.name),
            metadata: HashMap::from([
                (OWNER.to_owned(), name.clone()),
                (BINDING.to_owned(), binding.name.clone()),
                (DIGEST.to_owned(), self.manifest.digest.clone()),
            ]),
            ..pull::Config::default()
        }
    }
}
