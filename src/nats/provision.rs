//! Creates what a manifest needs in NATS and is missing, verifies what is there, and changes
//! nothing that exists.

mod bucket;
mod comebacks;
mod consumer;
mod stream;

use async_nats::jetstream::{self, context::RequestErrorKind, stream::Stream};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use super::{connect::Connection, ledger::NatsLedger};
use crate::manifest::{Binding, Manifest};

pub(super) use bucket::ledger_name;
pub use bucket::owners_name;
pub(super) use consumer::{Consumer, Restored, find};
pub(super) use stream::find_stream;

/// The oldest server that can do what Pelton asks of it.
const OLDEST_SERVER: (u64, u64) = (2, 10);

/// Metadata key: the manifest's name, which owns the object.
pub(super) const OWNER: &str = "pelton.name";
/// Metadata key: the binding.
pub(super) const BINDING: &str = "pelton.binding";
/// Metadata key: digest of the manifest that created the object.
const DIGEST: &str = "pelton.manifest";
/// Metadata key: `start` of the binding when the durable was created.
const START: &str = "pelton.start";

/// Whether missing things are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Yes.
    CreateMissing,
    /// No: what is missing is an error.
    VerifyOnly,
}

/// Everything a manifest needs, in place.
#[derive(Debug)]
pub struct Provisioned {
    ledger: Stream<()>,
    /// In the order of the manifest's bindings.
    consumers: Vec<Consumer>,
    /// Those of events that come back from the dead letters.
    comebacks: Vec<Consumer>,
    dead_letters: Stream<()>,
    /// What was created, for people.
    pub created: Vec<String>,
    /// Where what exists differs from the manifest, for people.
    pub drift: Vec<String>,
}

/// Why a manifest cannot be run on this server.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// As found, all at once.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// `JetStream` did not answer; it may later.
    #[error("JetStream did not answer: {0}")]
    Unavailable(String),
}

impl Provisioned {
    /// Provisions for `manifest`.
    ///
    /// # Errors
    /// Every problem found, or that `JetStream` did not answer.
    pub async fn ensure(
        connection: &Connection,
        manifest: &Manifest,
        mode: Provisioning,
    ) -> Result<Self, ProvisionError> {
        check_version(&connection.server_version())?;
        let mut site = Site { connection, manifest, mode, findings: Findings::default() };
        for spec in &manifest.streams {
            site.listed_stream(spec).await?;
        }
        site.dead_letter_stream().await?;
        let ledger = site.ledger_bucket().await?;
        site.keyed_buckets().await?;
        site.publish_subjects().await?;
        let mut consumers = Vec::with_capacity(manifest.bindings.len());
        for binding in &manifest.bindings {
            consumers.extend(site.consumer(binding).await?);
        }
        let comebacks = site.comeback_consumers().await?;
        let dead_letters = site.context().get_stream_no_info(&manifest.dead_letter.stream).await;
        let dead_letters =
            dead_letters.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        let Findings { problems, created, drift } = site.findings;
        match (ledger, problems.is_empty()) {
            (Some(ledger), true) => {
                Ok(Self { ledger, consumers, comebacks, dead_letters, created, drift })
            }
            _ => Err(ProvisionError::Problems(problems)),
        }
    }

    /// The record of a binding's events.
    #[must_use]
    pub fn ledger(
        &self,
        connection: &Connection,
        manifest: &Manifest,
        binding: &Binding,
    ) -> NatsLedger {
        let bucket = ledger_name(manifest);
        NatsLedger::new(connection.clone(), self.ledger.clone(), &bucket, &binding.name)
    }

    /// Events of all bindings that are not acknowledged yet, delivered or not.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn lag(&self, connection: &Connection) -> Result<u64, ProvisionError> {
        let mut lag = 0;
        for consumer in self.consumers.iter().chain(&self.comebacks) {
            if let Some(info) = consumer.info(connection).await? {
                lag += info.num_pending + info.num_ack_pending as u64;
            }
        }
        Ok(lag)
    }

    pub(super) fn consumer(&self, binding: &Binding) -> Option<&Consumer> {
        self.consumers.iter().find(|known| known.binding == binding.name)
    }

    pub(super) fn consumers(&self) -> &[Consumer] {
        &self.consumers
    }
}

/// One provisioning under way.
struct Site<'a> {
    connection: &'a Connection,
    manifest: &'a Manifest,
    mode: Provisioning,
    findings: Findings,
}

#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    created: Vec<String>,
    drift: Vec<String>,
}

impl Site<'_> {
    fn context(&self) -> &jetstream::Context {
        &self.connection.context
    }

    fn problem(&mut self, problem: String) {
        self.findings.problems.push(problem);
    }

    /// Every literal subject that a binding publishes to must be held by a stream, or the first
    /// output would be the first to know.
    async fn publish_subjects(&mut self) -> Result<(), ProvisionError> {
        use crate::manifest::Publish::{Many, One};
        for binding in &self.manifest.bindings {
            let literal: Vec<&str> = match &binding.publish {
                None => continue,
                Some(One(subject)) => vec![subject],
                Some(Many { first, others }) => std::iter::once(first)
                    .chain(others)
                    .map(String::as_str)
                    .filter(|subject| crate::subject::is_literal(subject))
                    .collect(),
            };
            for subject in literal {
                if streams_holding(self.connection, subject).await?.is_empty() {
                    self.problem(format!(
                        "binding `{}` publishes to `{subject}`, which no stream holds: list a stream with it under `streams`",
                        binding.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// The stream of a binding's subjects.
    pub(super) async fn stream_of(
        &mut self,
        binding: &Binding,
    ) -> Result<Option<String>, ProvisionError> {
        if let Some(stream) = &binding.stream {
            return Ok(Some(stream.clone()));
        }
        let mut found: Option<String> = None;
        for subject in &binding.subjects {
            let holding = streams_holding(self.connection, subject).await?;
            let problem = match (holding.as_slice(), &found) {
                ([], _) => format!(
                    "no stream holds `{subject}`, the subject of binding `{}`: list one under `streams`",
                    binding.name
                ),
                ([one], None) => {
                    found = Some(one.clone());
                    continue;
                }
                ([one], Some(other)) if one == other => continue,
                ([one], Some(other)) => format!(
                    "the subjects of binding `{}` are in two streams, {other} and {one}: write a binding for each",
                    binding.name
                ),
                (several, _) => format!(
                    "`{subject}`, the subject of binding `{}`, is in several streams ({}): say which with `stream:`",
                    binding.name,
                    several.join(", ")
                ),
            };
            self.problem(problem);
            return Ok(None);
        }
        Ok(found)
    }
}

/// The names of the streams whose subjects overlap `subject`.
pub(super) async fn streams_holding(
    connection: &Connection,
    subject: &str,
) -> Result<Vec<String>, ProvisionError> {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        streams: Option<Vec<String>>,
    }
    let answer: jetstream::response::Response<Names> =
        connection.context.request("STREAM.NAMES", &json!({ "subject": subject })).await?;
    match answer {
        jetstream::response::Response::Ok(names) => Ok(names.streams.unwrap_or_default()),
        jetstream::response::Response::Err { error } => {
            Err(ProvisionError::Unavailable(error.to_string()))
        }
    }
}

fn check_version(version: &str) -> Result<(), ProvisionError> {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_SERVER => {
            Err(ProvisionError::Problems(vec![format!(
                "this nats-server is {version}; Pelton needs {}.{} or later",
                OLDEST_SERVER.0, OLDEST_SERVER.1
            )]))
        }
        _ => Ok(()),
    }
}

impl From<jetstream::context::RequestError> for ProvisionError {
    fn from(err: jetstream::context::RequestError) -> Self {
        match err.kind() {
            RequestErrorKind::NoResponders => {
                Self::Unavailable("is it enabled on this server, for this account?".to_owned())
            }
            _ => Self::Unavailable(err.to_string()),
        }
    }
}
