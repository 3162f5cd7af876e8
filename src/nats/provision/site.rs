//! A look at everything that a manifest needs, which makes the plan.

use std::collections::BTreeMap;

use super::{
    Adoption,
    plan::{Deed, Plan, Planned, Step},
    version,
};
use crate::{
    manifest::{Binding, Manifest, Publish},
    nats::{
        connect::Connection,
        each::each,
        lookup::{ProvisionError, streams_holding},
    },
};

/// A look at everything that a manifest needs.
pub(super) struct Site<'a> {
    pub(super) connection: &'a Connection,
    pub(super) manifest: &'a Manifest,
    pub(super) adoption: Adoption,
    /// Whether what differs is going to be changed.
    pub(super) changes: bool,
    pub(super) plan: Plan,
    /// The subjects of the manifest's streams, once the plan is carried out.
    pub(super) after: BTreeMap<String, Vec<String>>,
}

impl<'a> Site<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        manifest: &'a Manifest,
        adoption: Adoption,
        changes: bool,
    ) -> Self {
        let (plan, after) = (Plan::default(), BTreeMap::new());
        Self { connection, manifest, adoption, changes, plan, after }
    }

    pub(super) async fn survey(mut self) -> Result<Plan, ProvisionError> {
        version::check(&self.connection.server_version())?;
        let manifest = self.manifest;
        self.pauses();
        for spec in &manifest.streams {
            self.listed_stream(spec).await?;
        }
        self.dead_letter_stream().await?;
        self.ledger_bucket().await?;
        self.keyed_buckets().await?;
        self.publish_subjects().await?;
        self.consumers().await?;
        self.comebacks().await?;
        for binding in &manifest.bindings {
            self.partitions(binding).await?;
        }
        Ok(self.plan)
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.plan.problems.push(problem);
    }

    pub(super) fn step(&mut self, step: Step, deed: Deed) {
        self.plan.steps.push(Planned { step, deed });
    }

    /// The streams that hold a subject once the plan is carried out.
    async fn holding(&self, subject: &str) -> Result<Vec<String>, ProvisionError> {
        let mut names = streams_holding(self.connection, subject).await?;
        names.retain(|name| !self.after.contains_key(name));
        let overlaps = |subjects: &Vec<String>| {
            subjects.iter().any(|held| crate::subject::overlap(held, subject))
        };
        let after = self.after.iter().filter(|(_, subjects)| overlaps(subjects));
        names.extend(after.map(|(name, _)| name.clone()));
        Ok(names)
    }

    /// Every literal subject that a binding publishes to must be held by a stream, or the first
    /// output would be the first to know.
    async fn publish_subjects(&mut self) -> Result<(), ProvisionError> {
        let literal = |binding: &'a Binding| {
            let subjects = binding.publish.iter().flat_map(Publish::subjects);
            let subjects = subjects.filter(|subject| crate::subject::is_literal(subject));
            subjects.map(move |subject| (binding, subject))
        };
        let published: Vec<_> = self.manifest.bindings.iter().flat_map(literal).collect();
        let holding = each(&published, |(_, subject)| self.holding(subject)).await?;
        for ((binding, subject), holding) in published.into_iter().zip(holding) {
            if holding.is_empty() {
                self.problem(format!(
                    "binding `{}` publishes to `{subject}`, which no stream holds: list a stream with it under `streams`",
                    binding.name
                ));
            }
        }
        Ok(())
    }

    /// The stream of a binding's subjects, or why there is none.
    pub(super) async fn stream_of(
        &self,
        binding: &Binding,
    ) -> Result<Result<String, String>, ProvisionError> {
        if let Some(stream) = &binding.stream {
            return Ok(Ok(stream.clone()));
        }
        let mut found: Option<String> = None;
        for subject in &binding.subjects {
            let holding = self.holding(subject).await?;
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
            return Ok(Err(problem));
        }
        Ok(found.ok_or_else(|| format!("binding `{}` has no subject", binding.name)))
    }
}
