//! What a replay asks of the server: a consumer of its own, and its own part of the ledger.

use super::needs::{Needs, outputs};
use crate::nats::{names::ledger_name, provision::REPLAY_SUFFIX};

impl Needs<'_> {
    pub(super) fn replay(&mut self) {
        self.survey();
        self.replay_consumers();
        let Self { manifest, .. } = *self;
        let ledger = ledger_name(manifest);
        for binding in &manifest.bindings {
            let name = &binding.name;
            // A replay with state is dry: nothing of it is published.
            if binding.state.is_none() {
                for output in outputs(binding) {
                    self.allow(output, format!("outputs of {name}"));
                }
                let letters = format!("{}.{name}", manifest.dead_letter.subject);
                self.allow(letters, format!("dead letters of {name}"));
            }
            let records = format!("$KV.{ledger}.{name}{REPLAY_SUFFIX}.>");
            self.allow(records, format!("writes down failed attempts of a replay of {name}"));
            let seat = format!("{REPLAY_SUFFIX}.{name}");
            self.write(&ledger, &seat, format!("that {name} is being replayed"));
        }
        self.ask(&format!("STREAM.MSG.GET.KV_{ledger}"), "reads failed attempts, and who replays");
        self.ask(&format!("STREAM.PURGE.KV_{ledger}"), "forgets them");
        self.granted_buckets();
        self.goodbye();
    }

    fn replay_consumers(&mut self) {
        let mains = self.durables.iter().filter(|durable| !durable.comes_back);
        let all: Vec<_> = mains
            .map(|durable| {
                let filter = durable.filter.as_ref().map(|filter| format!(".{filter}"));
                let name = format!("{}{REPLAY_SUFFIX}", durable.name);
                (durable.stream, name, filter.unwrap_or_default(), durable.about())
            })
            .collect();
        for (stream, name, filter, about) in all {
            let place = format!("{stream}.{name}");
            self.ask(&format!("CONSUMER.CREATE.{stream}"), format!("counts events in {stream}"));
            let why = format!("a replay of {about}");
            self.ask(&format!("CONSUMER.CREATE.{place}{filter}"), format!("begins {why}"));
            self.ask(&format!("CONSUMER.INFO.{place}"), format!("how far is {why}"));
            self.ask(&format!("CONSUMER.MSG.NEXT.{place}"), format!("asks for events of {why}"));
            self.ask(&format!("CONSUMER.DELETE.{place}"), format!("ends {why}"));
            self.settle(&place, &format!("events of {why}"));
        }
    }
}
