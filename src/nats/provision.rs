//! What a manifest needs in NATS: one plan, made of the manifest and what the server has. `run`
//! creates what is missing and tells the rest as drift, `apply` carries all of it out.

mod bucket;
mod carry;
mod change;
mod comebacks;
mod compare;
mod consumer;
mod partitions;
mod plan;
mod rename;
mod replay;
mod site;
mod stream;
mod version;

use std::collections::BTreeMap;

use async_nats::jetstream::stream::Stream;

use super::{
    connect::Connection,
    deferred::{all_deferred, defers},
    each::each,
    ledger::NatsLedger,
    lookup::ProvisionError,
    names::ledger_name,
    orphans::orphans_of,
    windows::{Windows, output_warnings},
};
use crate::{
    deferral::Deferral,
    manifest::{Binding, Manifest},
};

pub use carry::{Applied, Failed};
use change::Refusal;
pub(super) use consumer::{Consumer, Restored};
pub(super) use partitions::part_infos;
use plan::{Deed, Durable};
pub use plan::{Field, Kind, Object, Plan, Planned, Step};
pub use replay::Replays;
pub(super) use replay::{REPLAY_SUFFIX, replay_of};
use site::Site;

/// What a runner may do before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Create what is missing.
    CreateMissing,
    /// That, and take over what is somebody else's.
    Adopt,
    /// Nothing: what is missing is an error.
    VerifyOnly,
}

/// What to do about objects that are nobody's, or another manifest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// They are left alone.
    Refuse,
    /// They are taken over.
    Take,
}

/// Everything a manifest needs, in place.
#[derive(Debug)]
pub struct Provisioned {
    ledger: Stream<()>,
    /// In the order of the manifest's bindings.
    consumers: Vec<Consumer>,
    /// Those of events that come back from the dead letters.
    comebacks: Vec<Consumer>,
    /// Those of partitions, on the streams of copies, and of what comes back to them.
    parts: Vec<Consumer>,
    part_comebacks: Vec<Consumer>,
    dead_letters: Stream<()>,
    /// Whether long waits can be waited for among the dead letters.
    defers: bool,
    /// What was created, for people.
    pub created: Vec<String>,
    /// Where what exists differs from the manifest, for people.
    pub drift: Vec<String>,
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
        let adoption = match mode {
            Provisioning::Adopt => Adoption::Take,
            _ => Adoption::Refuse,
        };
        let Plan { steps, mut problems, durables, comebacks, parts, part_comebacks, .. } =
            Site::new(connection, manifest, adoption, false).survey().await?;
        let (mut wanted, mut drift) = (Vec::new(), Vec::new());
        for Planned { step, deed } in steps {
            let object = step.object();
            match deed {
                Deed::CreateStream(_) | Deed::CreateConsumer(_)
                    if mode == Provisioning::VerifyOnly =>
                {
                    let how = "run once without --no-provision";
                    problems.push(format!("{object} does not exist: {how}"));
                }
                Deed::ReplaceConsumer { old, .. } => problems.push(format!(
                    "{object} takes the place of {old}, which has to go first: `pelton apply` does that"
                )),
                Deed::DeleteCopies => problems.push(format!(
                    "{object} has to go first: `pelton apply` does that"
                )),
                deed if makes_or_adopts(&step) => wanted.push(Planned { step, deed }),
                _ => drift.extend(step.drift()),
            }
        }
        // With a problem nothing is made that may not be wanted in the end.
        if !problems.is_empty() {
            return Err(ProvisionError::Problems(problems));
        }
        let created = make(wanted, connection).await?;
        let bucket = format!("KV_{}", ledger_name(manifest));
        let ledger = connection.context.get_stream_no_info(&bucket).await;
        let ledger = ledger.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        let mut created_at = BTreeMap::new();
        let consumers = Durable::open_all(durables, connection, &mut created_at).await?;
        let comebacks = Durable::open_all(comebacks, connection, &mut created_at).await?;
        let parts = Durable::open_all(parts, connection, &mut created_at).await?;
        let part_comebacks = Durable::open_all(part_comebacks, connection, &mut created_at).await?;
        let dead_letters = connection.context.get_stream_no_info(&manifest.dead_letter.stream);
        let dead_letters =
            dead_letters.await.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
        let defers = defers(connection, manifest).await?;
        Ok(Self {
            ledger,
            consumers,
            comebacks,
            parts,
            part_comebacks,
            dead_letters,
            defers,
            created,
            drift,
        })
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
        let ancestor = self.consumer(binding).and_then(|consumer| consumer.ancestor.as_ref());
        let stream = self.ledger.clone();
        NatsLedger::new(connection.clone(), stream, &bucket, &binding.name, ancestor)
    }

    /// Where a binding's events wait for long; nowhere, in order or on a server that cannot send them
    /// on.
    #[must_use]
    pub fn deferral(&self, manifest: &Manifest, binding: &Binding) -> Option<Deferral> {
        let defers = self.defers && binding.order.is_none();
        defers.then(|| Deferral::new(&manifest.name, &binding.name))
    }

    /// Whether any binding may have deferred events.
    pub(super) const fn may_defer(&self) -> bool {
        self.defers
    }

    /// Events of all bindings that are not acknowledged yet, delivered or not, deferred ones among
    /// them.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn lag(
        &self,
        connection: &Connection,
        manifest: &Manifest,
    ) -> Result<u64, ProvisionError> {
        // Before the consumers, whose one comes to have what is due.
        let mut lag = match self.defers {
            true => all_deferred(connection, manifest).await?,
            false => 0,
        };
        // An event that is copied meanwhile is seen in both places rather than in none.
        for consumer in self.durables() {
            if let Some(info) = consumer.info(connection).await? {
                lag += info.num_pending + info.num_ack_pending as u64;
            }
        }
        Ok(lag)
    }

    pub(super) fn consumer(&self, binding: &Binding) -> Option<&Consumer> {
        self.consumers.iter().find(|known| known.binding == binding.name)
    }

    /// The consumer of what comes back to a binding.
    pub(super) fn comeback_consumer(&self, binding: &str) -> Option<&Consumer> {
        self.comebacks.iter().find(|known| known.binding == binding)
    }

    /// All consumers of what comes back to a binding, those of its partitions among them.
    pub(super) fn comeback_consumers<'a>(
        &'a self,
        binding: &'a str,
    ) -> impl Iterator<Item = &'a Consumer> {
        let all = self.comebacks.iter().chain(&self.part_comebacks);
        all.filter(move |known| known.binding == binding)
    }

    pub(super) fn consumers(&self) -> &[Consumer] {
        &self.consumers
    }

    /// All that hand out events of a binding: its own, and those of what came back.
    pub(super) fn durables(&self) -> impl Iterator<Item = &Consumer> {
        let copied = self.parts.iter().chain(&self.part_comebacks);
        self.consumers.iter().chain(&self.comebacks).chain(copied)
    }
}

/// Carries out what was planned: streams one after the other, then the durables on them side by side.
/// Returns what was created, for whoever lists it.
async fn make(
    planned: Vec<Planned>,
    connection: &Connection,
) -> Result<Vec<String>, ProvisionError> {
    let is_durable = |planned: &Planned| matches!(planned.deed, Deed::CreateConsumer(_));
    let (durables, others): (Vec<_>, Vec<_>) = planned.into_iter().partition(is_durable);
    let mut created = Vec::new();
    for planned in others {
        match make_one(planned, connection).await? {
            Ok(made) => created.extend(made),
            Err(problem) => return Err(ProvisionError::Problems(vec![problem])),
        }
    }
    let durables = each(durables, |planned| make_one(planned, connection)).await?;
    let (made, problems): (Vec<_>, Vec<_>) = durables.into_iter().partition(Result::is_ok);
    if !problems.is_empty() {
        return Err(ProvisionError::Problems(
            problems.into_iter().filter_map(Result::err).collect(),
        ));
    }
    created.extend(made.into_iter().flatten().flatten());
    Ok(created)
}

/// What was created, or why it cannot be.
async fn make_one(
    Planned { step, deed }: Planned,
    connection: &Connection,
) -> Result<Result<Option<String>, String>, ProvisionError> {
    match deed.carry_out(connection, step.object()).await {
        Ok(()) => Ok(Ok(tell(&step))),
        Err(Refusal::Provision(err)) => Err(err),
        Err(err) => Ok(Err(format!("{}: {err}", cannot(&step)))),
    }
}

const fn makes_or_adopts(step: &Step) -> bool {
    matches!(step, Step::Create { .. } | Step::Adopt { .. })
}

/// What was created, for whoever lists it.
fn tell(step: &Step) -> Option<String> {
    let object = step.object();
    match step {
        Step::Create { detail, .. } => Some(format!("{object} ({detail})")),
        _ => {
            tracing::info!("took over {object}");
            None
        }
    }
}

fn cannot(step: &Step) -> String {
    let what = match step {
        Step::Create { .. } => "created",
        _ => "taken over",
    };
    format!("{} cannot be {what}", step.object())
}

impl Plan {
    /// What stands between `manifest` and the server.
    ///
    /// # Errors
    /// When the server is too old, or `JetStream` does not answer.
    pub async fn of(
        connection: &Connection,
        manifest: &Manifest,
        adoption: Adoption,
    ) -> Result<Self, ProvisionError> {
        let mut plan = Site::new(connection, manifest, adoption, true).survey().await?;
        plan.warnings = warnings(connection, manifest, Windows::AsWritten).await?;
        let mut streams: Vec<&str> = manifest.streams.iter().map(|s| s.name.as_str()).collect();
        streams.extend(plan.durables.iter().map(|durable| durable.stream.as_str()));
        streams.push(&manifest.dead_letter.stream);
        streams.sort_unstable();
        streams.dedup();
        for stream in streams {
            let orphans = orphans_of(connection, manifest, stream).await?;
            plan.orphans.extend(orphans);
        }
        let named: Vec<&str> = plan.steps.iter().map(|p| p.step.object().name.as_str()).collect();
        plan.orphans.retain(|orphan| !named.contains(&orphan.consumer.as_str()));
        Ok(plan)
    }
}

/// What runs on this server, but not as well as it could.
///
/// # Errors
/// When `JetStream` does not answer.
pub async fn warnings(
    connection: &Connection,
    manifest: &Manifest,
    windows: Windows,
) -> Result<Vec<String>, ProvisionError> {
    let mut warnings = version::long_waits(&connection.server_version(), &manifest.bindings);
    warnings.extend(output_warnings(connection, manifest, windows).await?);
    Ok(warnings)
}
