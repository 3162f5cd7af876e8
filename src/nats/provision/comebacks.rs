//! The durables of events that come back from the dead letters, one for each binding.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    consumer::{self, AckPolicy, pull},
    stream::Stream,
};
use tracing::debug;

use super::{
    Consumer, Provisioned,
    plan::{Deed, Durable, Object, Step},
    site::Site,
    stream::Claim,
};
use crate::{
    manifest::Binding,
    nats::{
        connect::Connection,
        each::each,
        lookup::{ProvisionError, find},
        names::{BINDING, DIGEST, OWNER, comebacks_name},
    },
};

/// Longer than what any of them may take to be begun.
const ACK_WAIT: Duration = Duration::from_secs(30);

impl Provisioned {
    /// The consumer of a binding's events that came back, and the stream they leave in the end.
    pub(in crate::nats) fn comebacks(&self, binding: &Binding) -> Option<(Consumer, Stream<()>)> {
        let consumer = self.comeback_consumer(&binding.name)?;
        Some((consumer.clone(), self.dead_letters.clone()))
    }
}

impl Consumer {
    /// Takes away what a runner acknowledged and, killed, did not take away itself.
    pub(in crate::nats) async fn sweep(&self, connection: &Connection, stream: &Stream<()>) {
        let Ok(Some(info)) = self.info(connection).await else { return };
        let config = info.config;
        let subjects = config.filter_subjects.iter().chain([&config.filter_subject]);
        for subject in subjects.filter(|subject| !subject.is_empty()) {
            let purge = stream.purge().filter(subject);
            if let Err(err) = purge.sequence(info.ack_floor.stream_sequence + 1).await {
                debug!(%err, consumer = self.name, "events that are dealt with were left behind");
            }
        }
    }
}

impl Site<'_> {
    /// The durables of events that come back.
    pub(super) async fn comebacks(&mut self) -> Result<(), ProvisionError> {
        let manifest = self.manifest;
        let stream = &manifest.dead_letter.stream;
        let durable = |binding: &Binding| comebacks_name(&manifest.name, &binding.name);
        let durables: Vec<String> = manifest.bindings.iter().map(durable).collect();
        let found = each(&durables, |durable| find(self.connection, stream, durable)).await?;
        for (binding, found) in manifest.bindings.iter().zip(found) {
            self.comebacks_of(binding, found);
            self.comebacks_left(binding).await?;
        }
        Ok(())
    }

    fn comebacks_of(&mut self, binding: &Binding, found: Option<consumer::Info>) {
        let stream = self.manifest.dead_letter.stream.clone();
        let config = self.comeback_config(binding);
        let name = config.durable_name.clone().unwrap_or_default();
        let object = Object::consumer(&stream, &name);
        match found {
            None => {
                let detail = format!("what comes back to {}", binding.name);
                let step = Step::Create { object, detail };
                self.step(step, Deed::CreateConsumer(Box::new(config.clone())));
            }
            Some(found) => {
                let more = [(BINDING, binding.name.clone())];
                if let Claim::Foreign(owner) = self.claim(&object, &found.config.metadata, &more) {
                    let whose = owner.map_or_else(
                        || "was not made by Pelton".to_owned(),
                        |owner| format!("belongs to the manifest named `{owner}`"),
                    );
                    self.problem(format!(
                        "{object}, for what comes back to binding `{}`, {whose}: take it over with `--adopt`, or delete it if nobody needs it",
                        binding.name
                    ));
                }
            }
        }
        self.plan.comebacks.push(Durable { binding: binding.name.clone(), stream, config });
    }

    /// What was sent to a binding's former name comes to it as well.
    pub(super) fn comeback_config(&self, binding: &Binding) -> pull::Config {
        let name = &self.manifest.name;
        let subject = |binding: &String| format!("redrive.{name}.{binding}");
        let (filter_subject, filter_subjects) = match &binding.renamed_from {
            None => (subject(&binding.name), Vec::new()),
            Some(old) => (String::new(), vec![subject(&binding.name), subject(old)]),
        };
        pull::Config {
            durable_name: Some(comebacks_name(name, &binding.name)),
            description: Some(format!("redriven events of binding {} of {name}", binding.name)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            filter_subject,
            filter_subjects,
            metadata: HashMap::from([
                (OWNER.to_owned(), name.clone()),
                (BINDING.to_owned(), binding.name.clone()),
                (DIGEST.to_owned(), self.manifest.digest.clone()),
            ]),
            ..pull::Config::default()
        }
    }
}
