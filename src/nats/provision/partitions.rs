//! The partitions of an ordered binding: a stream of copies, and two durables for each partition,
//! of its copies and of what comes back to it from the dead letters.
//!
//! How many there are is part of every subject: a runner of another number finds no stream for its
//! copies rather than the wrong partition.

use std::num::NonZeroUsize;

use async_nats::jetstream::{
    consumer::{self, pull},
    stream::{Config, Stream},
};
use futures_util::TryStreamExt as _;

use super::{
    Consumer, Provisioned,
    consumer::differences,
    plan::{Deed, Durable, Object, Step},
    rename::is_at_work,
    site::Site,
};
use crate::{
    manifest::{Binding, Manifest, Start},
    nats::{
        connect::Connection,
        lookup::{ProvisionError, find, find_stream},
        names::{comebacks_name, durable_name, part_comeback, part_subject, parts_name},
    },
};

/// Metadata key: how many partitions a stream of copies was made for.
const PARTITIONS: &str = "pelton.partitions";

/// The durables of a binding's partitions on the stream of copies, as far as they are there.
pub(in crate::nats) async fn part_infos(
    connection: &Connection,
    manifest: &Manifest,
    binding: &Binding,
) -> Result<Vec<consumer::Info>, ProvisionError> {
    infos(connection, &parts_name(manifest, binding)).await
}

async fn infos(
    connection: &Connection,
    stream: &str,
) -> Result<Vec<consumer::Info>, ProvisionError> {
    let Some(handle) = find_stream(connection, stream).await? else { return Ok(Vec::new()) };
    let infos = handle.consumers().try_collect().await;
    infos.map_err(|err| ProvisionError::Unavailable(err.to_string()))
}

/// Whether somebody asks for the copies in a stream right now.
pub(super) async fn are_asked_for(
    connection: &Connection,
    stream: &str,
) -> Result<bool, ProvisionError> {
    Ok(infos(connection, stream).await?.iter().any(is_at_work))
}

/// The durables of one partition, and the stream of dead letters.
#[derive(Debug)]
pub(in crate::nats) struct Part {
    pub(in crate::nats) copies: Consumer,
    pub(in crate::nats) comebacks: Consumer,
    pub(in crate::nats) dead_letters: Stream<()>,
}

impl Provisioned {
    /// What is there for one partition of a binding.
    pub(in crate::nats) fn part(&self, binding: &Binding, number: usize) -> Option<Part> {
        let of = |consumers: &[Consumer]| {
            consumers.iter().filter(|known| known.binding == binding.name).nth(number).cloned()
        };
        Some(Part {
            copies: of(&self.parts)?,
            comebacks: of(&self.part_comebacks)?,
            dead_letters: self.dead_letters.clone(),
        })
    }

    /// The durables of all partitions of a binding, on the stream of copies.
    pub(in crate::nats) fn parts<'a>(
        &'a self,
        binding: &'a str,
    ) -> impl Iterator<Item = &'a Consumer> {
        self.parts.iter().filter(move |known| known.binding == binding)
    }
}

impl Site<'_> {
    pub(super) async fn partitions(&mut self, binding: &Binding) -> Result<(), ProvisionError> {
        if binding.order.is_none() {
            return Ok(());
        }
        let name = parts_name(self.manifest, binding);
        let found = self.stream_info(&name).await?;
        let object = Object::stream(&name);
        let mut anew = false;
        if let Some(info) = &found {
            if !self.owned(&object, &info.config.metadata) {
                return Ok(());
            }
            let before = info.config.metadata.get(PARTITIONS).and_then(|n| n.parse().ok());
            if before == binding.partitions() {
                let differences = self.replicas(&info.config);
                self.differ(&object, differences, None);
            } else if self.repartition(binding, object, before).await? {
                anew = true;
            } else {
                return Ok(());
            }
        }
        let Some(count) = binding.partitions() else { return Ok(()) };
        if found.is_none() || anew {
            let mut config = Config {
                subjects: vec![format!("parts.{}.{}.{count}.*", self.manifest.name, binding.name)],
                allow_direct: true,
                ..self.owned_config(&name)
            };
            config.metadata.insert(PARTITIONS.to_owned(), count.to_string());
            self.create_stream(config);
        }
        for number in 0..count.get() {
            self.part(binding, (count, number), found.is_some() && !anew, anew).await?;
        }
        Ok(())
    }

    /// The two durables of one partition.
    async fn part(
        &mut self,
        binding: &Binding,
        (count, number): (NonZeroUsize, usize),
        has_stream: bool,
        anew: bool,
    ) -> Result<(), ProvisionError> {
        let manifest = self.manifest;
        let (stream, name) = (parts_name(manifest, binding), &manifest.name);
        let share = binding.of_one_partition();
        let spec = Binding {
            subjects: vec![part_subject(name, &binding.name, count, number)],
            start: Start::All,
            max_ack_pending: share.slots,
            ..share
        };
        let config = pull::Config {
            durable_name: Some(format!("{name}-{}-p{number}", binding.name)),
            description: Some(format!("partition {number} of {} of {name}", binding.name)),
            ..self.consumer_config(&spec)
        };
        self.part_durable(&spec, &stream, &config, has_stream).await?;
        self.plan.parts.push(Durable { binding: binding.name.clone(), stream, config });
        let comebacks = pull::Config {
            durable_name: Some(comeback_durable(name, binding, number)),
            filter_subject: format!(
                "redrive.{name}.{}",
                part_comeback(&binding.name, count, number)
            ),
            filter_subjects: Vec::new(),
            ..self.comeback_config(binding)
        };
        let stream = manifest.dead_letter.stream.clone();
        let durable = comebacks.durable_name.clone().unwrap_or_default();
        if anew || find(self.connection, &stream, &durable).await?.is_none() {
            let detail = format!("what comes back to partition {number} of {}", binding.name);
            let step = Step::Create { object: Object::consumer(&stream, &durable), detail };
            self.step(step, Deed::CreateConsumer(Box::new(comebacks.clone())));
        }
        let durable = Durable { binding: binding.name.clone(), stream, config: comebacks };
        self.plan.part_comebacks.push(durable);
        Ok(())
    }

    async fn part_durable(
        &mut self,
        spec: &Binding,
        stream: &str,
        config: &pull::Config,
        has_stream: bool,
    ) -> Result<(), ProvisionError> {
        let durable = config.durable_name.as_deref().unwrap_or_default();
        let object = Object::consumer(stream, durable);
        let found = match has_stream {
            true => find(self.connection, stream, durable).await?,
            false => None,
        };
        match found {
            Some(found) => self.differ(&object, differences(spec, config, &found.config), None),
            None => {
                let detail = config.filter_subject.clone();
                let deed = Deed::CreateConsumer(Box::new(config.clone()));
                self.step(Step::Create { object, detail }, deed);
            }
        }
        Ok(())
    }

    /// Takes away the partitions that there were if nothing waits in them and nobody works on
    /// them; returns whether it does.
    async fn repartition(
        &mut self,
        binding: &Binding,
        object: Object,
        before: Option<NonZeroUsize>,
    ) -> Result<bool, ProvisionError> {
        let old = before.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
        let new = binding.partitions().map_or(0, NonZeroUsize::get);
        let comebacks = self.part_comebacks(binding, before).await?;
        if let Some(why) = self.in_use(binding, &object.name, &comebacks).await? {
            let again = match before {
                Some(before) => format!("write `partitions: {before}` again"),
                None => "bring back what was written before".to_owned(),
            };
            self.problem(format!(
                "binding `{}` is to have {new} partitions, and {} was made for {old}, where {why}: events of one key would be in two of them. {again} and let it finish until `pelton list` shows no lag, stop its runners, then change the number and `pelton apply`",
                binding.name, object.name
            ));
            return Ok(false);
        }
        let why = format!("the binding is to have {new} partitions, not {old}");
        for info in comebacks {
            let object = Object::consumer(&info.stream_name, &info.name);
            self.step(Step::Remove { object, why: why.clone() }, Deed::DeleteConsumer);
        }
        self.step(Step::Remove { object, why }, Deed::DeleteCopies);
        Ok(true)
    }

    async fn part_comebacks(
        &self,
        binding: &Binding,
        before: Option<NonZeroUsize>,
    ) -> Result<Vec<consumer::Info>, ProvisionError> {
        let mut found = Vec::new();
        for number in 0..before.map_or(0, NonZeroUsize::get) {
            let durable = comeback_durable(&self.manifest.name, binding, number);
            found.extend(find(self.connection, &self.manifest.dead_letter.stream, &durable).await?);
        }
        Ok(found)
    }

    /// Why the partitions that there are cannot go, if they cannot.
    async fn in_use(
        &self,
        binding: &Binding,
        stream: &str,
        comebacks: &[consumer::Info],
    ) -> Result<Option<&'static str>, ProvisionError> {
        let mut all = infos(self.connection, stream).await?;
        if all.iter().chain(comebacks).any(|info| info.num_pending > 0 || info.num_ack_pending > 0)
        {
            return Ok(Some("events wait"));
        }
        let durable = durable_name(&self.manifest.name, &binding.name);
        if let Ok(original) = self.stream_of(binding).await?
            && let Some(info) = find(self.connection, &original, &durable).await?
        {
            // It may have been copied, and then it is known by its copy alone that it was.
            if info.num_ack_pending > 0 {
                return Ok(Some("events wait"));
            }
            all.push(info);
        }
        Ok(all.iter().any(is_at_work).then_some("a runner is at work"))
    }
}

fn comeback_durable(name: &str, binding: &Binding, number: usize) -> String {
    format!("{}-p{number}", comebacks_name(name, &binding.name))
}
