//! The durable of a binding.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy, pull},
    stream::Info,
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    change::Difference,
    compare::{set, span},
    plan::{Durable, Object},
    site::Site,
    stream::Claim,
};
use crate::{
    manifest::{Binding, Start},
    nats::{
        connect::Connection,
        each::each,
        ledger::Ancestor,
        lookup::{ProvisionError, find, find_stream},
        names::{BINDING, DIGEST, OWNER, START, durable_name},
    },
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
    /// Whose place it took.
    pub(super) ancestor: Option<Ancestor>,
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

impl Durable {
    /// Durables as they are now that everything is in place; `streams` is when theirs were created,
    /// as far as that is known already.
    pub(super) async fn open_all(
        durables: Vec<Self>,
        connection: &Connection,
        streams: &mut BTreeMap<String, OffsetDateTime>,
    ) -> Result<Vec<Consumer>, ProvisionError> {
        for Self { stream, config, .. } in &durables {
            if !streams.contains_key(stream) {
                let found = find_stream(connection, stream).await?;
                let found = found.ok_or_else(|| not_there(config))?;
                streams.insert(stream.clone(), found.cached_info().created);
            }
        }
        each(durables, |durable| durable.open(connection, streams)).await
    }

    async fn open(
        self,
        connection: &Connection,
        streams: &BTreeMap<String, OffsetDateTime>,
    ) -> Result<Consumer, ProvisionError> {
        let Self { binding, stream, config } = self;
        let name = config.durable_name.clone().unwrap_or_default();
        let created = *streams.get(&stream).ok_or_else(|| not_there(&config))?;
        let found = find(connection, &stream, &name).await?.ok_or_else(|| not_there(&config))?;
        Ok(Consumer {
            binding,
            origin: Origin { stream: stream.as_str().into(), created },
            ack_wait: found.config.ack_wait,
            ancestor: Ancestor::of(&found.config.metadata),
            floor: Arc::new(AtomicU64::new(found.ack_floor.stream_sequence)),
            name,
            config,
        })
    }
}

impl Site<'_> {
    /// The durables of all bindings.
    pub(super) async fn consumers(&mut self) -> Result<(), ProvisionError> {
        let bindings = &self.manifest.bindings;
        let streams = each(bindings, |binding| self.stream_of(binding)).await?;
        let mut infos = BTreeMap::new();
        for stream in streams.iter().flatten() {
            if !infos.contains_key(stream) {
                infos.insert(stream.clone(), self.stream_info(stream).await?);
            }
        }
        let find = async |binding: &Binding, stream: &Result<String, String>| match stream {
            Ok(stream) => {
                find(self.connection, stream, &durable_name(&self.manifest.name, &binding.name))
                    .await
            }
            Err(_) => Ok(None),
        };
        let both = bindings.iter().zip(&streams);
        let found = each(both, |(binding, stream)| find(binding, stream)).await?;
        for ((binding, stream), found) in bindings.iter().zip(streams).zip(found) {
            match stream {
                Ok(stream) => {
                    let info = infos.get(&stream).and_then(Option::as_ref);
                    self.consumer(binding, stream, info, found).await?;
                }
                Err(problem) => self.problem(problem),
            }
        }
        Ok(())
    }

    async fn consumer(
        &mut self,
        binding: &Binding,
        stream: String,
        info: Option<&Info>,
        found: Option<consumer::Info>,
    ) -> Result<(), ProvisionError> {
        if info.is_none() && !self.after.contains_key(&stream) {
            self.problem(format!("binding `{}`: {}", binding.name, gone(&stream)));
            return Ok(());
        }
        let mut config = self.consumer_config(binding);
        match found {
            Some(found) => {
                self.verify(binding, &config, &found);
                self.predecessor_left(binding, &stream).await?;
            }
            None => {
                let retention = info.map(|info| info.config.retention).unwrap_or_default();
                self.begin(binding, &stream, retention, &mut config).await?;
            }
        }
        self.plan.durables.push(Durable { binding: binding.name.clone(), stream, config });
        Ok(())
    }

    pub(super) fn consumer_config(&self, binding: &Binding) -> pull::Config {
        let name = durable_name(&self.manifest.name, &binding.name);
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
        let object = Object::consumer(&found.stream_name, name);
        let start = start_text(binding.start);
        let adopted = config.metadata.get(OWNER) != Some(&self.manifest.name);
        if config.deliver_subject.is_some() || config.ack_policy != AckPolicy::Explicit {
            let floor = found.ack_floor.stream_sequence;
            return self.problem(format!(
                "{object} is not a pull consumer with explicit acknowledgements, which Pelton needs, and cannot be made one: give the binding another `name` and `start: {}`, where this one stands",
                floor + 1
            ));
        }
        let more = [(BINDING, binding.name.clone()), (START, start.clone())];
        if let Claim::Foreign(owner) = self.claim(&object, &config.metadata, &more) {
            let problem = match owner {
                Some(owner) => format!(
                    "consumer {name} belongs to the manifest named `{owner}`: give this manifest another `name`, or take it over with `--adopt`"
                ),
                None => format!(
                    "consumer {name} exists and was not made by Pelton: rename binding `{}`, take the consumer over with `--adopt`, or delete it if nobody needs it",
                    binding.name
                ),
            };
            return self.problem(problem);
        }
        let before = config.metadata.get(START).filter(|before| **before != start && !adopted);
        if let Some(before) = before {
            return self.problem(format!(
                "binding `{}`: `start: {start}` counts for a new consumer only, and {name} was made with `start: {before}`: write that again, or give the binding another name to begin anew",
                binding.name
            ));
        }
        let held = filters(config);
        let added = binding.subjects.iter().any(|subject| !held.contains(subject));
        let note = added.then_some(
            "what was stored under an added subject before this change is not delivered",
        );
        self.differ(&object, differences(binding, wanted, config), note);
    }
}

fn filters(config: &consumer::Config) -> Vec<String> {
    let mut filters = config.filter_subjects.clone();
    filters.extend(Some(config.filter_subject.clone()).filter(|one| !one.is_empty()));
    filters
}

/// Where a durable differs from what Pelton needs it to be. It is Pelton's own: what the manifest
/// leaves open has its default.
pub(super) fn differences(
    binding: &Binding,
    wanted: &pull::Config,
    found: &consumer::Config,
) -> Vec<Difference> {
    let subjects = set("subject", &binding.subjects, &filters(found)).map(|differs| {
        let (one, several) = match binding.subjects.as_slice() {
            [one] => (json!(one), Value::Null),
            several => (Value::Null, json!(several)),
        };
        Difference { set: vec![("filter_subject", one), ("filter_subjects", several)], ..differs }
    });
    let mut all = Vec::from_iter(subjects);
    let mut compare = |key, (new, value): (String, Value), old: String| {
        if old != new {
            all.push(Difference::new(key, old, new, value));
        }
    };
    let number = |number: i64| (number.to_string(), json!(number));
    let show = crate::duration::show;
    compare("ack_wait", span(wanted.ack_wait), show(found.ack_wait));
    let pending = found.max_ack_pending.to_string();
    compare("max_ack_pending", number(wanted.max_ack_pending), pending);
    compare("max_deliver", number(wanted.max_deliver), found.max_deliver.to_string());
    // What would come between the server and a pull, or end the durable, on one that was adopted.
    let backoff: Vec<String> = found.backoff.iter().copied().map(show).collect();
    compare("backoff", (String::new(), Value::Null), backoff.join(", "));
    let off = || ("false".to_owned(), Value::Null);
    compare("headers_only", off(), found.headers_only.to_string());
    let never = || ("0s".to_owned(), Value::Null);
    compare("inactive_threshold", never(), show(found.inactive_threshold));
    compare("max_expires", never(), show(found.max_expires));
    let no_limit = || ("0".to_owned(), Value::Null);
    compare("max_batch", no_limit(), found.max_batch.to_string());
    compare("max_bytes", no_limit(), found.max_bytes.to_string());
    all
}

pub(super) fn start_text(start: Start) -> String {
    match start {
        Start::All => "all".to_owned(),
        Start::New => "new".to_owned(),
        Start::Sequence(sequence) => sequence.to_string(),
        Start::Time(time) => time.format(&Rfc3339).unwrap_or_default(),
    }
}

fn not_there(config: &pull::Config) -> ProvisionError {
    let name = config.durable_name.as_deref().unwrap_or_default();
    ProvisionError::Unavailable(format!("consumer {name} is not there yet"))
}

fn gone(stream: &str) -> String {
    format!("stream {stream} does not exist: list it under `streams`, or create it")
}
