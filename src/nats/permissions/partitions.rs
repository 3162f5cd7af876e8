//! What partitions need besides: a stream of copies, and two consumers each.

use super::needs::Needs;
use crate::{
    manifest::Binding,
    nats::names::{part_comeback, parts_name},
};

/// The partitions of a binding.
struct Partitions {
    binding: String,
    /// The stream of the copies.
    copies: String,
    /// `<name>.<binding>.<N>`, below which each has a subject.
    subject: String,
    /// The consumers of what comes back, and the subject of each.
    comebacks: Vec<(String, String)>,
}

impl Needs<'_> {
    fn partitions(&self, which: impl Fn(&Binding) -> bool) -> Vec<Partitions> {
        let manifest = self.manifest;
        let name = &manifest.name;
        let partitions = |binding: &Binding| {
            let count = binding.partitions()?;
            let comeback = |number| {
                let part = part_comeback(&binding.name, count, number);
                let durable = format!("{name}-{}-redrive-p{number}", binding.name);
                (durable, format!("redrive.{name}.{part}"))
            };
            Some(Partitions {
                binding: binding.name.clone(),
                copies: parts_name(manifest, binding),
                subject: format!("{name}.{}.{count}", binding.name),
                comebacks: (0..count.get()).map(comeback).collect(),
            })
        };
        manifest.bindings.iter().filter(|binding| which(binding)).filter_map(partitions).collect()
    }

    /// For each consumer of partitions: `<question>.<stream>.<durable>`.
    fn ask_of_partitions(&mut self, question: &str, why: &str, which: impl Fn(&Binding) -> bool) {
        let letters = &self.manifest.dead_letter.stream;
        for Partitions { binding, copies, comebacks, .. } in self.partitions(which) {
            let why = format!("{why} the partitions of {binding}");
            self.ask(&format!("{question}.{copies}.*"), &why);
            for (durable, _) in comebacks {
                self.ask(&format!("{question}.{letters}.{durable}"), &why);
            }
        }
    }

    pub(super) fn survey_partitions(&mut self) {
        self.ask_of_partitions("CONSUMER.INFO", "looks at", |_| true);
    }

    pub(super) fn create_partitions(&mut self) {
        let letters = &self.manifest.dead_letter.stream;
        for Partitions { binding, copies, comebacks, .. } in self.partitions(|_| true) {
            let why = format!("makes the partitions of {binding}");
            self.ask(&format!("STREAM.CREATE.{copies}"), &why);
            self.ask(&format!("CONSUMER.CREATE.{copies}.>"), &why);
            for (durable, subject) in comebacks {
                self.ask(&format!("CONSUMER.CREATE.{letters}.{durable}.{subject}"), &why);
            }
        }
    }

    pub(super) fn change_partitions(&mut self) {
        for Partitions { binding, copies, .. } in self.partitions(|_| true) {
            let why = format!("another number of partitions of {binding}");
            for question in ["STREAM.UPDATE", "STREAM.DELETE", "CONSUMER.LIST"] {
                self.ask(&format!("{question}.{copies}"), &why);
            }
        }
    }

    pub(super) fn work_partitions(&mut self) {
        self.ask_of_partitions("CONSUMER.MSG.NEXT", "asks for events of", |_| true);
        let letters = &self.manifest.dead_letter.stream;
        for Partitions { binding, copies, subject, comebacks } in self.partitions(|_| true) {
            let why = format!("settles events of the partitions of {binding}");
            let durables = comebacks.into_iter().map(|(durable, _)| format!("{letters}.{durable}"));
            for place in std::iter::once(copies.clone()).chain(durables) {
                self.allow(format!("$JS.ACK.{place}.>"), &why);
                self.allow(format!("$JS.ACK.*.*.{place}.>"), &why);
            }
            self.allow(format!("parts.{subject}.*"), format!("copies events of {binding}"));
            self.allow(
                format!("redrive.{subject}.*"),
                format!("the same of what comes back to {binding}"),
            );
            self.ask(&format!("STREAM.MSG.GET.{copies}"), format!("how far {binding} is copied"));
            self.ask(&format!("STREAM.PURGE.{copies}"), "takes out copies that are settled");
        }
    }

    pub(super) fn list_partitions(&mut self) {
        for Partitions { binding, copies, .. } in self.partitions(|_| true) {
            let why = format!("how far the partitions of {binding} are");
            self.ask(&format!("STREAM.INFO.{copies}"), &why);
            self.ask(&format!("CONSUMER.LIST.{copies}"), &why);
        }
    }

    pub(super) fn pause_partitions(&mut self, which: impl Fn(&Binding) -> bool) {
        self.ask_of_partitions("CONSUMER.PAUSE", "pauses and resumes", which);
    }
}
