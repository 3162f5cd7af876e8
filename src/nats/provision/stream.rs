//! Streams: those the manifest lists, the dead letters, and what buckets are made of.

use std::collections::HashMap;

use async_nats::jetstream::stream::{Config, Info, RetentionPolicy, StorageType};
use serde_json::json;

use super::{
    Adoption,
    change::{Change, Difference},
    compare::{differences, discard_policy, place_of, retention_policy, storage_type},
    plan::{Deed, Object, Step},
    site::Site,
    version,
};
use crate::{
    deferral,
    manifest::{self, defaults},
    nats::{
        lookup::{ProvisionError, find_stream},
        names::{DIGEST, OWNER},
    },
};

/// Whose an object is.
pub(super) enum Claim {
    /// This manifest's, or it will be.
    Ours,
    /// Another manifest's, or nobody's.
    Foreign(Option<String>),
}

impl Site<'_> {
    pub(super) async fn listed_stream(
        &mut self,
        spec: &manifest::Stream,
    ) -> Result<(), ProvisionError> {
        let Some(info) = self.stream_info(&spec.name).await? else {
            let config = self.listed_config(spec);
            self.create_stream(config);
            return Ok(());
        };
        let object = Object::stream(&spec.name);
        let replicas = spec.num_replicas.or_else(|| self.replicas_written());
        let differences = differences(spec, replicas.map(|count| count.get()), &info.config);
        let mut subjects = &info.config.subjects;
        match self.claim(&object, &info.config.metadata, &[]) {
            Claim::Ours => {
                if self.changes {
                    subjects = &spec.subjects;
                }
                self.differ(&object, differences, None);
            }
            Claim::Foreign(owner) if !differences.is_empty() => {
                let why = owner.map_or_else(
                    || "it was not made by Pelton".to_owned(),
                    |owner| format!("it belongs to the manifest named `{owner}`"),
                );
                let fields = differences.into_iter().map(|differs| differs.field).collect();
                let way_out = "take it over with `--adopt`, or write what it has".to_owned();
                self.step(Step::Refused { object, fields, why, way_out }, Deed::None);
            }
            Claim::Foreign(_) => {}
        }
        self.after.insert(spec.name.clone(), subjects.clone());
        Ok(())
    }

    pub(super) async fn dead_letter_stream(&mut self) -> Result<(), ProvisionError> {
        let spec = &self.manifest.dead_letter;
        let letters = format!("{}.>", spec.subject);
        let redrive = format!("redrive.{}.>", self.manifest.name);
        let deferred = format!("{}>", deferral::prefix(&self.manifest.name));
        let schedules = version::has_schedules(&self.connection.server_version());
        let Some(info) = self.stream_info(&spec.stream).await? else {
            let config = Config {
                subjects: match schedules {
                    true => vec![letters, redrive, deferred],
                    false => vec![letters, redrive],
                },
                allow_message_schedules: schedules,
                allow_direct: true,
                ..self.owned_config(&spec.stream)
            };
            self.create_stream(config);
            return Ok(());
        };
        let config = info.config;
        if config.retention != RetentionPolicy::Limits {
            self.problem(format!(
                "stream {} would drop dead letters: its retention must be `limits`",
                spec.stream
            ));
            return Ok(());
        }
        let held = |subject: &str| {
            let subject = subject.replace('>', "binding");
            config.subjects.iter().any(|held| crate::subject::matches(held, &subject))
        };
        let wanted = [&letters, &redrive].into_iter().chain(schedules.then_some(&deferred));
        let missing: Vec<&String> = wanted.filter(|subject| !held(subject)).collect();
        let object = Object::stream(&spec.stream);
        let ours = self.owned(&object, &config.metadata);
        if !held(&letters) && (!ours || !self.changes) {
            let way_out = if ours {
                "`pelton apply` adds the subject"
            } else {
                "add the subject, or name another stream under `dead_letter`"
            };
            self.problem(format!(
                "stream {} exists but does not hold `{letters}`, where dead letters go: {way_out}",
                spec.stream
            ));
        } else if ours {
            let mut differences = self.replicas(&config);
            if !missing.is_empty() {
                let mut all = config.subjects.clone();
                all.extend(missing.into_iter().cloned());
                let (old, new) = (config.subjects.join(", "), all.join(", "));
                differences.push(Difference::new("subjects", old, new, json!(all)));
            }
            let needed = [
                ("allow_msg_schedules", config.allow_message_schedules),
                ("allow_direct", config.allow_direct),
            ];
            for (key, _) in needed.into_iter().filter(|(_, there)| schedules && !there) {
                let (old, new) = ("false".to_owned(), "true".to_owned());
                differences.push(Difference::new(key, old, new, json!(true)));
            }
            self.differ(&object, differences, None);
        }
        Ok(())
    }

    /// Whose an object is; what is not ours is taken over when that was asked for.
    pub(super) fn claim(
        &mut self,
        object: &Object,
        metadata: &HashMap<String, String>,
        more: &[(&'static str, String)],
    ) -> Claim {
        let name = &self.manifest.name;
        let owner = metadata.get(OWNER);
        if owner == Some(name) {
            return Claim::Ours;
        }
        if self.adoption == Adoption::Refuse {
            return Claim::Foreign(owner.cloned());
        }
        let mut ours = vec![(OWNER, name.clone()), (DIGEST, self.manifest.digest.clone())];
        ours.extend_from_slice(more);
        let step = Step::Adopt { object: object.clone(), owner: owner.cloned() };
        self.step(step, Deed::Update(Change::metadata(ours)));
        Claim::Ours
    }

    /// Whether a stream that Pelton uses for itself may be changed by this manifest. One that
    /// nobody claims may be used, one of another manifest may not.
    pub(super) fn owned(&mut self, object: &Object, metadata: &HashMap<String, String>) -> bool {
        match self.claim(object, metadata, &[]) {
            Claim::Ours => true,
            Claim::Foreign(None) => false,
            Claim::Foreign(Some(owner)) => {
                self.problem(format!(
                    "{object} belongs to the manifest named `{owner}`: give this manifest another `name`, or take it over with `--adopt`"
                ));
                false
            }
        }
    }

    /// Steps for what differs: what can be changed together, what cannot each with its reason.
    pub(super) fn differ(
        &mut self,
        object: &Object,
        differences: Vec<Difference>,
        note: Option<&'static str>,
    ) {
        let (fixed, free): (Vec<_>, Vec<_>) =
            differences.into_iter().partition(|differs| differs.fixed.is_some());
        if !free.is_empty() {
            let fields = free.iter().map(|differs| differs.field.clone()).collect();
            let step = Step::Change { object: object.clone(), fields, note };
            self.step(step, Deed::Update(Change::fields(free)));
        }
        for Difference { field, fixed, .. } in fixed {
            let step = Step::Refused {
                object: object.clone(),
                fields: vec![field],
                why: fixed.unwrap_or_default().to_owned(),
                way_out: MAKE_ANEW.to_owned(),
            };
            self.step(step, Deed::None);
        }
    }

    /// `defaults.num_replicas`, unless it is what one gets without.
    fn replicas_written(&self) -> Option<std::num::NonZeroUsize> {
        Some(self.manifest.num_replicas).filter(|count| count.get() > 1)
    }

    /// Where the copies of a stream that Pelton owns are not as many as the manifest says.
    pub(super) fn replicas(&self, found: &Config) -> Vec<Difference> {
        let Some(wanted) = self.replicas_written() else { return Vec::new() };
        let (wanted, found) = (wanted.get(), found.num_replicas);
        let differs =
            Difference::new("num_replicas", found.to_string(), wanted.to_string(), json!(wanted));
        if wanted == found { Vec::new() } else { vec![differs] }
    }

    /// What Pelton makes for itself: kept on disk, owned by name.
    pub(super) fn owned_config(&self, name: &str) -> Config {
        Config {
            name: name.to_owned(),
            description: Some(format!("made by Pelton for {}", self.manifest.name)),
            storage: StorageType::File,
            num_replicas: self.manifest.num_replicas.get(),
            duplicate_window: defaults::DUPLICATE_WINDOW,
            metadata: self.metadata(),
            ..Config::default()
        }
    }

    fn listed_config(&self, spec: &manifest::Stream) -> Config {
        let count = |value: Option<u64>| value.map_or(-1, |v| i64::try_from(v).unwrap_or(i64::MAX));
        let mut config = Config {
            name: spec.name.clone(),
            subjects: spec.subjects.clone(),
            num_replicas: spec.num_replicas.unwrap_or(self.manifest.num_replicas).get(),
            max_age: spec.max_age.unwrap_or_default(),
            max_bytes: count(spec.max_bytes),
            max_messages: count(spec.max_msgs),
            max_messages_per_subject: count(spec.max_msgs_per_subject),
            duplicate_window: spec.window(),
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
        config.placement = spec.placement.as_ref().map(place_of);
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

    pub(super) fn create_stream(&mut self, config: Config) {
        self.after.insert(config.name.clone(), config.subjects.clone());
        let detail = config.subjects.join(", ");
        let step = Step::Create { object: Object::stream(&config.name), detail };
        self.step(step, Deed::CreateStream(Box::new(config)));
    }
}

/// What to do about a stream whose kind cannot be changed.
const MAKE_ANEW: &str = "write what it has; or make it anew: delete it, its events with it, and apply again; or list a stream of another name";
