//! Streams: those the manifest lists, the dead letters, the ledger's bucket.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream},
};

use super::{DIGEST, OWNER, ProvisionError, Provisioning, Site};
use crate::{
    manifest::{self, Discard, Retention, Storage},
    nats::connect::Connection,
};

/// `duplicate_window` of the streams that Pelton owns.
const OWNED_WINDOW: Duration = Duration::from_secs(10 * 60);
impl Site<'_> {
    pub(super) async fn listed_stream(
        &mut self,
        spec: &manifest::Stream,
    ) -> Result<(), ProvisionError> {
        match self.stream_info(&spec.name).await? {
            Some(info) => {
                let drift = differences(spec, &info.config);
                self.findings
                    .drift
                    .extend(drift.into_iter().map(|what| format!("stream {}: {what}", spec.name)));
                Ok(())
            }
            None => {
                let config = self.listed_config(spec);
                self.create_stream(config).await.map(drop)
            }
        }
    }

    pub(super) async fn dead_letter_stream(&mut self) -> Result<(), ProvisionError> {
        let spec = &self.manifest.dead_letter;
        let letters = format!("{}.>", spec.subject);
        let Some(info) = self.stream_info(&spec.stream).await? else {
            let redrive = format!("redrive.{}.>", self.manifest.name);
            let config = Config {
                subjects: vec![letters, redrive],
                allow_direct: true,
                ..self.owned_config(&spec.stream)
            };
            return self.create_stream(config).await.map(drop);
        };
        let holds = info
            .config
            .subjects
            .iter()
            .any(|held| crate::subject::matches(held, &format!("{}.binding", spec.subject)));
        if !holds {
            self.problem(format!(
                "stream {} exists but does not hold `{letters}`, where dead letters go: add the subject, or name another stream under `dead_letter`",
                spec.stream
            ));
        } else if info.config.retention != RetentionPolicy::Limits {
            self.problem(format!(
                "stream {} would drop dead letters: its retention must be `limits`",
                spec.stream
            ));
        } else {
            self.check_owner(&spec.stream, &info.config.metadata);
        }
        Ok(())
    }

    /// What Pelton makes for itself: kept on disk, owned by name.
    pub(super) fn owned_config(&self, name: &str) -> Config {
        Config {
            name: name.to_owned(),
            description: Some(format!("made by Pelton for {}", self.manifest.name)),
            storage: StorageType::File,
            num_replicas: self.manifest.num_replicas.get(),
            duplicate_window: OWNED_WINDOW,
            metadata: self.metadata(),
            ..Config::default()
        }
    }

    fn listed_config(&self, spec: &manifest::Stream) -> Config {
        let count = |value: Option<u64>| value.map_or(-1, |v| i64::try_from(v).unwrap_or(i64::MAX));
        let window =
            spec.duplicate_window.or_else(|| spec.max_age.map(|age| age.min(OWNED_WINDOW)));
        let mut config = Config {
            name: spec.name.clone(),
            subjects: spec.subjects.clone(),
            num_replicas: spec.num_replicas.unwrap_or(self.manifest.num_replicas).get(),
            max_age: spec.max_age.unwrap_or_default(),
            max_bytes: count(spec.max_bytes),
            max_messages: count(spec.max_msgs),
            max_messages_per_subject: count(spec.max_msgs_per_subject),
            duplicate_window: window.unwrap_or(OWNED_WINDOW),
            allow_direct: spec.allow_direct.unwrap_or(true),
            metadata: self.metadata(),
            ..Config::default()
        };
        if let Some(retention) = spec.retention {
            config.retention = retention_policy(retention);
        }
        if let Some(storage) = spec.storage {
            config.storage = storage_type(storage);
        }
        if let Some(discard) = spec.discard {
            config.discard = discard_policy(discard);
        }
        config.placement = spec.placement.as_ref().map(|place| jetstream::stream::Placement {
            cluster: place.cluster.clone(),
            tags: place.tags.clone(),
        });
        config
    }

    fn metadata(&self) -> HashMap<String, String> {
        HashMap::from([
            (OWNER.to_owned(), self.manifest.name.clone()),
            (DIGEST.to_owned(), self.manifest.digest.clone()),
        ])
    }

    pub(super) async fn stream_info(&self, name: &str) -> Result<Option<Info>, ProvisionError> {
        let found = find_stream(self.connection, name).await?;
        Ok(found.map(|stream| stream.cached_info().clone()))
    }

    /// Whether it is there now.
    pub(super) async fn create_stream(&mut self, config: Config) -> Result<bool, ProvisionError> {
        let name = config.name.clone();
        if self.mode == Provisioning::VerifyOnly {
            self.problem(format!("stream {name} does not exist: run once without --no-provision"));
            return Ok(false);
        }
        let what = format!("stream {name} ({})", config.subjects.join(", "));
        match self.context().create_stream(config).await {
            Ok(_) => {
                self.findings.created.push(what);
                Ok(true)
            }
            Err(err) => match err.kind() {
                // Another runner of the same manifest was faster.
                CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    Ok(true)
                }
                CreateStreamErrorKind::JetStream(error) => {
                    self.problem(format!("stream {name} cannot be created: {error}"));
                    Ok(false)
                }
                _ => Err(ProvisionError::Unavailable(err.to_string())),
            },
        }
    }

    pub(super) fn check_owner(&mut self, object: &str, metadata: &HashMap<String, String>) {
        match metadata.get(OWNER) {
            Some(owner) if *owner != self.manifest.name => {
                let problem = format!(
                    "stream {object} belongs to the manifest named `{owner}`: give this manifest another `name`"
                );
                self.problem(problem);
            }
            _ => {}
        }
    }
}

pub(in crate::nats) async fn find_stream(
    connection: &Connection,
    name: &str,
) -> Result<Option<Stream>, ProvisionError> {
    match connection.context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(err) => match err.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(ProvisionError::Unavailable(err.to_string())),
        },
    }
}

/// Where an existing stream differs from what the manifest writes; what it leaves open is free.
fn differences(spec: &manifest::Stream, found: &Config) -> Vec<String> {
    let mut drift = Vec::new();
    let mut compare = |key: &str, wanted: Option<String>, found: String| {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            drift.push(format!("{key} is {found}, the manifest says {wanted}"));
        }
    };
    let number = |value: Option<u64>| value.map(|v| v.to_string());
    let age = |value: Option<Duration>| value.map(crate::duration::show);
    let mut wanted = spec.subjects.clone();
    let mut held = found.subjects.clone();
    wanted.sort();
    held.sort();
    compare("subjects", Some(wanted.join(", ")), held.join(", "));
    compare("max_age", age(spec.max_age), crate::duration::show(found.max_age));
    let window = crate::duration::show(found.duplicate_window);
    compare("duplicate_window", age(spec.duplicate_window), window);
    compare("max_bytes", number(spec.max_bytes), found.max_bytes.to_string());
    compare("max_msgs", number(spec.max_msgs), found.max_messages.to_string());
    let per_subject = found.max_messages_per_subject.to_string();
    compare("max_msgs_per_subject", number(spec.max_msgs_per_subject), per_subject);
    let replicas = spec.num_replicas.map(|count| count.to_string());
    compare("num_replicas", replicas, found.num_replicas.to_string());
    let direct = spec.allow_direct.map(|allow| allow.to_string());
    compare("allow_direct", direct, found.allow_direct.to_string());
    let retention = spec.retention.map(|kind| format!("{:?}", retention_policy(kind)));
    compare("retention", retention, format!("{:?}", found.retention));
    let storage = spec.storage.map(|kind| format!("{:?}", storage_type(kind)));
    compare("storage", storage, format!("{:?}", found.storage));
    let discard = spec.discard.map(|kind| format!("{:?}", discard_policy(kind)));
    compare("discard", discard, format!("{:?}", found.discard));
    drift
}

const fn retention_policy(retention: Retention) -> RetentionPolicy {
    match retention {
        Retention::Limits => RetentionPolicy::Limits,
        Retention::Interest => RetentionPolicy::Interest,
        Retention::Workqueue => RetentionPolicy::WorkQueue,
    }
}

const fn storage_type(storage: Storage) -> StorageType {
    match storage {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    }
}

const fn discard_policy(discard: Discard) -> DiscardPolicy {
    match discard {
        Discard::Old => DiscardPolicy::Old,
        Discard::New => DiscardPolicy::New,
    }
}
