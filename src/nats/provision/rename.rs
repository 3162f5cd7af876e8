//! A binding that was renamed: its new durable takes the place of the old one.

use async_nats::jetstream::{
    consumer::{self, DeliverPolicy, pull},
    stream::RetentionPolicy,
};

use super::{
    Adoption,
    consumer::start_text,
    plan::{Deed, Object, Step},
    site::Site,
};
use crate::{
    manifest::Binding,
    nats::{
        lookup::{ProvisionError, find},
        names::{DELIVERED, OWNER, RENAMED_FROM, comebacks_name, durable_name},
    },
};

impl Site<'_> {
    /// A new durable: where the binding says, or where the one stands whose place it takes.
    pub(super) async fn begin(
        &mut self,
        binding: &Binding,
        stream: &str,
        retention: RetentionPolicy,
        config: &mut pull::Config,
    ) -> Result<(), ProvisionError> {
        let object = Object::consumer(stream, config.durable_name.as_deref().unwrap_or_default());
        let Some((from, old)) = self.predecessor(binding, stream).await? else {
            let detail = format!("start: {}", start_text(binding.start));
            let step = Step::Create { object, detail };
            self.step(step, Deed::CreateConsumer(Box::new(config.clone())));
            return Ok(());
        };
        if !self.may_replace(&old) {
            return Ok(());
        }
        let floor = old.ack_floor.stream_sequence;
        config.metadata.insert(RENAMED_FROM.to_owned(), from);
        config.metadata.insert(DELIVERED.to_owned(), old.delivered.stream_sequence.to_string());
        let detail = format!("behind sequence {floor}, where {} stands", old.name);
        let step = Step::Create { object, detail };
        // A work queue has no two consumers of one subject; what is done is gone from it.
        let queue = retention == RetentionPolicy::WorkQueue;
        if (queue || binding.order.is_some()) && is_at_work(&old) {
            self.problem(format!(
                "a runner still works as {}, whose place binding `{}` takes: stop it first, events would run under both names",
                old.name, binding.name
            ));
            return Ok(());
        }
        if queue {
            config.deliver_policy = DeliverPolicy::All;
            let deed =
                Deed::ReplaceConsumer { old: old.name.clone(), config: Box::new(config.clone()) };
            self.step(step, deed);
            return Ok(());
        }
        config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: floor + 1 };
        self.step(step, Deed::CreateConsumer(Box::new(config.clone())));
        self.dismiss(binding, stream, &old);
        Ok(())
    }

    /// What is left of the binding's old name now that the new durable is there.
    pub(super) async fn predecessor_left(
        &mut self,
        binding: &Binding,
        stream: &str,
    ) -> Result<(), ProvisionError> {
        if let Some((_, old)) = self.predecessor(binding, stream).await?
            && old.config.metadata.get(OWNER) == Some(&self.manifest.name)
        {
            self.dismiss(binding, stream, &old);
        }
        Ok(())
    }

    /// What is left under the binding's old name of what comes back from the dead letters: the new
    /// durable reads that too, so the old one can go once nothing waits for it.
    pub(super) async fn comebacks_left(&mut self, binding: &Binding) -> Result<(), ProvisionError> {
        let Some(from) = &binding.renamed_from else { return Ok(()) };
        let letters = &self.manifest.dead_letter.stream;
        let durable = comebacks_name(&self.manifest.name, from);
        let Some(old) = find(self.connection, letters, &durable).await? else { return Ok(()) };
        let waiting = old.num_pending > 0 || old.num_ack_pending > 0;
        if waiting || old.config.metadata.get(OWNER) != Some(&self.manifest.name) {
            return Ok(());
        }
        // A runner asks here only when there is something: its other durable tells whether it lives.
        let read = self.plan.durables.iter().find(|durable| durable.binding == binding.name);
        if let Some(stream) = read.map(|durable| durable.stream.clone())
            && let Some((_, main)) = self.predecessor(binding, &stream).await?
            && is_at_work(&main)
        {
            return Ok(());
        }
        self.dismiss(binding, letters, &old);
        Ok(())
    }

    async fn predecessor(
        &self,
        binding: &Binding,
        stream: &str,
    ) -> Result<Option<(String, consumer::Info)>, ProvisionError> {
        let Some(from) = &binding.renamed_from else { return Ok(None) };
        let durable = durable_name(&self.manifest.name, from);
        let found = find(self.connection, stream, &durable).await?;
        Ok(found.map(|found| (from.clone(), found)))
    }

    fn may_replace(&mut self, old: &consumer::Info) -> bool {
        let owner = old.config.metadata.get(OWNER);
        let may = owner == Some(&self.manifest.name) || self.adoption == Adoption::Take;
        if !may {
            let whose = owner.map_or_else(
                || "was not made by Pelton".to_owned(),
                |owner| format!("belongs to the manifest named `{owner}`"),
            );
            self.problem(format!(
                "consumer {}, whose place `renamed_from` is to take, {whose}: take it over with `--adopt`, or take `renamed_from` out",
                old.name
            ));
        }
        may
    }

    fn dismiss(&mut self, binding: &Binding, stream: &str, old: &consumer::Info) {
        let object = Object::consumer(stream, &old.name);
        if is_at_work(old) {
            let why = "a runner still works on it".to_owned();
            let way_out = format!(
                "stop that runner, then `pelton apply` deletes it; until then events run as `{}` too",
                old.name
            );
            self.step(Step::Refused { object, fields: Vec::new(), why, way_out }, Deed::None);
        } else {
            let why = format!("the binding is now `{}`", binding.name);
            self.step(Step::Remove { object, why }, Deed::DeleteConsumer);
        }
    }
}

/// Whether somebody asks for its events right now.
pub(super) const fn is_at_work(info: &consumer::Info) -> bool {
    info.num_waiting > 0
}
