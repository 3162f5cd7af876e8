//! The durable of a binding.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{self, AckPolicy, DeliverPolicy, pull},
    context::ConsumerInfoErrorKind,
    stream::ConsumerErrorKind,
};
use time::format_description::well_known::Rfc3339;

use super::{
    BINDING, DIGEST, OWNER, ProvisionError, Provisioning, START, Site, stream::find_stream,
};
use crate::{
    manifest::{Binding, Start},
    nats::connect::Connection,
    source::Origin,
};

/// A durable that is there, and what it takes to make it anew.
#[derive(Debug, Clone)]
pub(in crate::nats) struct Consumer {
    pub(in crate::nats) binding: String,
    pub(in crate::nats) name: String,
    pub(in crate::nats) origin: Origin,
    /// As the server has it, which is what counts for leases.
    pub(in crate::nats) ack_wait: Duration,
    config: pull::Config,
    /// The last stream sequence below which everything is acknowledged, as last heard of.
    floor: Arc<AtomicU64>,
}

/// What [`Consumer::restore`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Restored {
    /// It was there.
    Present,
    /// It was gone and is there again.
    Created,
}

impl Consumer {
    pub(super) fn new(binding: &str, name: String, origin: Origin, config: pull::Config) -> Self {
        Self {
            binding: binding.to_owned(),
            name,
            origin,
            ack_wait: config.ack_wait,
            config,
            floor: Arc::default(),
        }
    }

    /// Where events are asked for.
    pub(in crate::nats) fn next_subject(&self, api: &str) -> String {
        format!("{api}.CONSUMER.MSG.NEXT.{}.{}", self.origin.stream, self.name)
    }

    /// What the server says of it.
    pub(in crate::nats) async fn info(
        &self,
        connection: &Connection,
    ) -> Result<Option<consumer::Info>, ProvisionError> {
        let info = find(connection, &self.origin.stream, &self.name).await?;
        if let Some(info) = &info {
            self.floor.store(info.ack_floor.stream_sequence, Ordering::Relaxed);
        }
        Ok(info)
    }

    /// Makes sure that it is there. One that was deleted starts again behind the last event that
    /// it is known to have acknowledged, so that nothing is lost and little comes twice; on a
    /// stream that was made anew it starts as the binding says.
    pub(in crate::nats) async fn restore(
        &mut self,
        connection: &Connection,
    ) -> Result<Restored, ProvisionError> {
        if find(connection, &self.origin.stream, &self.name).await?.is_some() {
            return Ok(Restored::Present);
        }
        let stream = find_stream(connection, &self.origin.stream)
            .await?
            .ok_or_else(|| ProvisionError::Problems(vec![gone(&self.origin.stream)]))?;
        let created = stream.cached_info().created;
        let mut config = self.config.clone();
        let floor = self.floor.load(Ordering::Relaxed);
        if created != self.origin.created {
            self.origin.created = created;
            self.floor.store(0, Ordering::Relaxed);
        } else if floor > 0 {
            config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: floor + 1 };
        }
        match stream.create_consumer(config).await {
            Ok(_) => {
                tracing::warn!(
                    consumer = self.name,
                    behind = floor,
                    "the consumer was gone; it was made anew behind its last acknowledged event"
                );
                Ok(Restored::Created)
            }
            Err(err) => Err(ProvisionError::Unavailable(err.to_string())),
        }
    }
}

impl Site<'_> {
    /// The durable of a binding, or `None` when a problem was noted.
    pub(super) async fn consumer(
        &mut self,
        binding: &Binding,
    ) -> Result<Option<Consumer>, ProvisionError> {
        let Some(stream_name) = self.stream_of(binding).await? else { return Ok(None) };
        let Some(stream) = find_stream(self.connection, &stream_name).await? else {
            self.problem(format!("binding `{}`: {}", binding.name, gone(&stream_name)));
            return Ok(None);
        };
        let config = self.consumer_config(binding);
        let name = config.durable_name.clone().unwrap_or_default();
        let ack_wait = match find(self.connection, &stream_name, &name).await? {
            Some(found) => {
                self.verify(binding, &config, &found);
                found.config.ack_wait
            }
            None if self.mode == Provisioning::VerifyOnly => {
                self.problem(format!(
                    "consumer {name} on stream {stream_name} does not exist: run once without --no-provision"
                ));
                return Ok(None);
            }
            None => match stream.create_consumer(config.clone()).await {
                Ok(_) => {
                    self.findings.created.push(format!("consumer {name} on stream {stream_name}"));
                    config.ack_wait
                }
                Err(err) => match err.kind() {
                    ConsumerErrorKind::JetStream(error) => {
                        self.problem(format!(
                            "binding `{}`: its consumer cannot be created on stream {stream_name}: {error}",
                            binding.name
                        ));
                        return Ok(None);
                    }
                    _ => return Err(ProvisionError::Unavailable(err.to_string())),
                },
            },
        };
        Ok(Some(Consumer {
            binding: binding.name.clone(),
            name,
            origin: Origin {
                stream: stream_name.as_str().into(),
                created: stream.cached_info().created,
            },
            ack_wait,
            config,
            floor: Arc::default(),
        }))
    }

    fn consumer_config(&self, binding: &Binding) -> pull::Config {
        let name = format!("{}-{}", self.manifest.name, binding.name);
        let (filter_subject, filter_subjects) = match binding.subjects.as_slice() {
            [one] => (one.clone(), Vec::new()),
            several => (String::new(), several.to_vec()),
        };
        pull::Config {
            durable_name: Some(name),
            description: Some(format!("binding {} of {}", binding.name, self.manifest.name)),
            deliver_policy: match binding.start {
                Start::All => DeliverPolicy::All,
                Start::New => DeliverPolicy::New,
                Start::Sequence(start_sequence) => {
                    DeliverPolicy::ByStartSequence { start_sequence }
                }
                Start::Time(start_time) => DeliverPolicy::ByStartTime { start_time },
            },
            ack_policy: AckPolicy::Explicit,
            ack_wait: binding.ack_wait,
            // Attempts are limited on receipt: the server's own limit would only stop delivering.
            max_deliver: -1,
            max_ack_pending: i64::try_from(binding.max_ack_pending.get()).unwrap_or(i64::MAX),
            filter_subject,
            filter_subjects,
            metadata: HashMap::from([
                (OWNER.to_owned(), self.manifest.name.clone()),
                (BINDING.to_owned(), binding.name.clone()),
                (DIGEST.to_owned(), self.manifest.digest.clone()),
                (START.to_owned(), start_text(binding.start)),
            ]),
            ..pull::Config::default()
        }
    }

    fn verify(&mut self, binding: &Binding, wanted: &pull::Config, found: &consumer::Info) {
        let name = &found.name;
        let config = &found.config;
        match config.metadata.get(OWNER) {
            Some(owner) if *owner == self.manifest.name => {}
            Some(owner) => {
                return self.problem(format!(
                    "consumer {name} belongs to the manifest named `{owner}`: give this manifest another `name`"
                ));
            }
            None => {
                return self.problem(format!(
                    "consumer {name} exists and was not made by Pelton: rename binding `{}`, or delete the consumer if nobody needs it",
                    binding.name
                ));
            }
        }
        let start = start_text(binding.start);
        if let Some(before) = config.metadata.get(START).filter(|before| **before != start) {
            return self.problem(format!(
                "binding `{}`: `start: {start}` counts for a new consumer only, and {name} was made with `start: {before}`: write that again, or give the binding another name to begin anew",
                binding.name
            ));
        }
        if config.deliver_subject.is_some() || config.ack_policy != AckPolicy::Explicit {
            return self.problem(format!(
                "consumer {name} was changed by somebody: Pelton needs a pull consumer with explicit acknowledgements"
            ));
        }
        let mut filters = config.filter_subjects.clone();
        filters.extend(Some(config.filter_subject.clone()).filter(|one| !one.is_empty()));
        let mut drift = |key: &str, wanted: String, found: String| {
            if wanted != found {
                self.findings
                    .drift
                    .push(format!("consumer {name}: {key} is {found}, the manifest says {wanted}"));
            }
        };
        drift("subject", binding.subjects.join(", "), filters.join(", "));
        let show = crate::duration::show;
        drift("ack_wait", show(wanted.ack_wait), show(config.ack_wait));
        let pending = config.max_ack_pending.to_string();
        drift("max_ack_pending", wanted.max_ack_pending.to_string(), pending);
        drift("max_deliver", "-1".to_owned(), config.max_deliver.to_string());
    }
}

fn start_text(start: Start) -> String {
    match start {
        Start::All => "all".to_owned(),
        Start::New => "new".to_owned(),
        Start::Sequence(sequence) => sequence.to_string(),
        Start::Time(time) => time.format(&Rfc3339).unwrap_or_default(),
    }
}

fn gone(stream: &str) -> String {
    format!("stream {stream} does not exist: list it under `streams`, or create it")
}

pub(in crate::nats) async fn find(
    connection: &Connection,
    stream: &str,
    name: &str,
) -> Result<Option<consumer::Info>, ProvisionError> {
    let handle = connection
        .context
        .get_stream_no_info(stream)
        .await
        .map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    match handle.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(err) => match err.kind() {
            ConsumerInfoErrorKind::NotFound => Ok(None),
            ConsumerInfoErrorKind::JetStream(error)
                if matches!(
                    error.error_code(),
                    ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::STREAM_NOT_FOUND
                ) =>
            {
                Ok(None)
            }
            _ => Err(ProvisionError::Unavailable(err.to_string())),
        },
    }
}
