//! What each verb asks of the server, subject by subject.

use super::{
    Allowed, Permissions, Purpose, UnknownStream,
    durable::{Durable, listed},
};
use crate::{
    deferral,
    manifest::{Binding, Manifest, Publish, Runtime},
    nats::{
        connect::{API, api},
        names::{ledger_name, owners_name, parts_name},
    },
    settle::OnExhausted,
};

/// Collects what is needed.
pub(super) struct Needs<'a> {
    pub(super) manifest: &'a Manifest,
    /// `$JS.API`, or what replaces it.
    api: String,
    pub(super) durables: Vec<Durable<'a>>,
    publish: Allowed,
    subscribe: Allowed,
}

impl<'a> Needs<'a> {
    pub(super) fn new(manifest: &'a Manifest) -> Result<Self, UnknownStream> {
        let mut durables = Vec::with_capacity(2 * manifest.bindings.len());
        for binding in &manifest.bindings {
            durables.push(Durable::main(manifest, binding)?);
            durables.push(Durable::comebacks(manifest, binding));
        }
        let (publish, subscribe) = (Allowed::default(), Allowed::default());
        Ok(Self { manifest, api: api(&manifest.nats), durables, publish, subscribe })
    }

    pub(super) fn permissions(self) -> Permissions {
        Permissions { publish: self.publish, subscribe: self.subscribe }
    }

    pub(super) fn add(&mut self, purpose: Purpose) {
        let inbox = self.manifest.nats.inbox_prefix.as_deref().unwrap_or("_INBOX");
        self.subscribe.add(format!("{inbox}.>"), "answers, and events as they come".to_owned());
        match purpose {
            Purpose::Run => {
                self.survey();
                self.create();
                self.work();
            }
            Purpose::RunOnly => {
                self.survey();
                self.work();
            }
            Purpose::Plan => {
                self.survey();
                self.orphans();
                self.goodbye();
            }
            Purpose::Apply => {
                self.survey();
                self.orphans();
                self.create();
                self.change();
                self.goodbye();
            }
            Purpose::List => self.list(),
            Purpose::Dlq => self.dlq(),
            Purpose::Replay => self.replay(),
            Purpose::Pause => self.pause(),
            Purpose::Send => self.send(),
        }
    }

    pub(super) fn allow(&mut self, subject: impl Into<String>, why: impl Into<String>) {
        self.publish.add(subject.into(), why.into());
    }

    pub(super) fn ask(&mut self, question: &str, why: impl Into<String>) {
        self.allow(format!("{}.{question}", self.api), why);
    }

    /// For each durable: `<question>.<stream>.<durable>`.
    fn ask_of_durables(&mut self, question: &str, why: &str) {
        let questions = |durable: &Durable<'_>| {
            (format!("{question}.{}.{}", durable.stream, durable.name), durable.about())
        };
        for (question, about) in self.durables.iter().map(questions).collect::<Vec<_>>() {
            self.ask(&question, format!("{why} {about}"));
        }
    }

    /// What is there, and whether it is as wanted.
    pub(super) fn survey(&mut self) {
        let bindings = &self.manifest.bindings;
        if bindings.iter().any(|binding| binding.stream.is_none() || binding.publish.is_some()) {
            self.find_streams();
        }
        if bindings.iter().flat_map(outputs).any(|o| listed(self.manifest, o).is_none()) {
            self.ask("STREAM.INFO.*", "the streams of outputs, which the manifest does not list");
        }
        for stream in self.made() {
            self.ask(&format!("STREAM.INFO.{stream}"), format!("looks at {stream}"));
        }
        for stream in self.read() {
            self.ask(&format!("STREAM.INFO.{stream}"), format!("looks at {stream}"));
        }
        self.ask_of_durables("CONSUMER.INFO", "looks at the consumer of");
        for (stream, old) in self.predecessors() {
            self.ask(&format!("CONSUMER.INFO.{stream}.{old}"), "looks at that of the old name");
        }
        for binding in bindings.iter().filter(|binding| binding.order.is_some()) {
            let parts = parts_name(self.manifest, binding);
            let why = format!("whether {} has partitions, or had", binding.name);
            self.ask(&format!("STREAM.INFO.{parts}"), why);
        }
        self.survey_partitions();
    }

    fn find_streams(&mut self) {
        self.ask("STREAM.NAMES", "which stream holds a subject");
    }

    fn create(&mut self) {
        for stream in self.made() {
            self.ask(&format!("STREAM.CREATE.{stream}"), format!("makes {stream}"));
        }
        let creations = |durable: &Durable<'_>| {
            let Durable { stream, name, .. } = durable;
            let filter = durable.filter.as_ref().map(|filter| format!(".{filter}"));
            let filter = filter.unwrap_or_default();
            (format!("CONSUMER.CREATE.{stream}.{name}{filter}"), durable.about())
        };
        for (question, about) in self.durables.iter().map(creations).collect::<Vec<_>>() {
            self.ask(&question, format!("makes the consumer of {about}"));
        }
        self.create_partitions();
    }

    fn change(&mut self) {
        for stream in self.made() {
            self.ask(&format!("STREAM.UPDATE.{stream}"), format!("changes {stream}"));
        }
        for (stream, old) in self.predecessors() {
            self.ask(&format!("CONSUMER.DELETE.{stream}.{old}"), "ends the old name");
        }
        self.change_partitions();
    }

    fn orphans(&mut self) {
        for stream in self.watched() {
            let why = format!("whether a consumer on {stream} has lost its binding");
            self.ask(&format!("CONSUMER.LIST.{stream}"), why);
        }
    }

    /// The server's last answer proves that it has read everything.
    pub(super) fn goodbye(&mut self) {
        self.ask("INFO", "proof at the end that the server has heard everything");
    }

    fn work(&mut self) {
        let manifest = self.manifest;
        self.ask_of_durables("CONSUMER.MSG.NEXT", "asks for events of");
        let acks = |durable: &Durable<'_>| {
            let Durable { stream, name, .. } = durable;
            (format!("{stream}.{name}"), format!("events of {}", durable.about()))
        };
        for (place, about) in self.durables.iter().map(acks).collect::<Vec<_>>() {
            self.settle(&place, &about);
        }
        for stream in self.read() {
            self.ask(&format!("STREAM.MSG.GET.{stream}"), "the age of the oldest event that waits");
        }
        for binding in &manifest.bindings {
            for output in outputs(binding) {
                self.allow(output, format!("outputs of {}", binding.name));
            }
            let letters = format!("{}.{}", manifest.dead_letter.subject, binding.name);
            self.allow(letters, format!("dead letters of {}", binding.name));
            if binding.order.is_none() {
                let deferred = format!("{}{}.*", deferral::prefix(&manifest.name), binding.name);
                self.allow(deferred, format!("events of {} that wait for long", binding.name));
            }
        }
        let letters = &manifest.dead_letter.stream;
        self.ask(&format!("DIRECT.GET.{letters}"), "how many events are deferred");
        self.ask(
            &format!("STREAM.MSG.DELETE.{letters}"),
            "takes out what came back and is settled",
        );
        self.ask(
            &format!("STREAM.PURGE.{letters}"),
            "the same for a runner that died before it did",
        );
        let ledger = ledger_name(manifest);
        self.allow(format!("$KV.{ledger}.>"), "writes down failed attempts");
        self.ask(&format!("STREAM.MSG.GET.KV_{ledger}"), "reads them");
        self.ask(&format!("STREAM.PURGE.KV_{ledger}"), "forgets them");
        for binding in &manifest.bindings {
            if binding.retry.on_exhausted == OnExhausted::Pause {
                self.pause_durables(|durable| durable.is_of(binding));
                self.pause_partitions(|paused| paused.name == binding.name);
            }
        }
        self.work_partitions();
        self.buckets();
        self.goodbye();
    }

    fn buckets(&mut self) {
        let manifest = self.manifest;
        if manifest.bindings.iter().any(|binding| binding.order.is_some()) {
            let parted = manifest.bindings.iter().any(|binding| binding.partitions().is_some());
            let keys = if parted { ">" } else { "*" };
            self.bucket(&owners_name(manifest), keys, "who works on what is to run in order");
        }
        for binding in &manifest.bindings {
            if let Some(state) = &binding.state {
                self.bucket(&state.bucket, ">", &format!("the state of {}", binding.name));
            }
        }
        self.granted_buckets();
    }

    pub(super) fn granted_buckets(&mut self) {
        for function in self.manifest.functions.values() {
            let Runtime::Wasm(component) = &function.runtime else { continue };
            for bucket in &component.allow.kv {
                let why = format!("what {} is granted", function.name);
                self.ask(&format!("STREAM.INFO.KV_{bucket}"), &why);
                self.bucket(bucket, ">", &why);
                self.ask(&format!("CONSUMER.CREATE.KV_{bucket}"), format!("{why}: its keys"));
                self.allow(format!("$JS.FC.KV_{bucket}.>"), format!("{why}: its keys"));
            }
        }
    }

    /// Settles what a consumer, `<stream>.<durable>`, has handed out.
    pub(super) fn settle(&mut self, place: &str, what: &str) {
        self.allow(format!("$JS.ACK.{place}.>"), format!("settles {what}"));
        let newer = "the same, where the server has `js_ack_fc_v2`";
        self.allow(format!("$JS.ACK.*.*.{place}.>"), newer);
    }

    /// Keys of a bucket that are written through the client, which writes past another API prefix.
    pub(super) fn write(&mut self, bucket: &str, keys: &str, why: impl Into<String>) {
        let prefix = if self.api == API { String::new() } else { format!("{}.", self.api) };
        self.allow(format!("{prefix}$KV.{bucket}.{keys}"), why);
    }

    /// A bucket that is read and written through the client.
    fn bucket(&mut self, bucket: &str, keys: &str, why: &str) {
        self.write(bucket, keys, format!("writes {why}"));
        self.ask(&format!("STREAM.MSG.GET.KV_{bucket}"), format!("reads {why}"));
    }

    fn list(&mut self) {
        if self.manifest.bindings.iter().any(|binding| binding.stream.is_none()) {
            self.find_streams();
        }
        self.ask_of_durables("CONSUMER.INFO", "how far is");
        self.list_partitions();
        let ledger = ledger_name(self.manifest);
        self.ask(&format!("STREAM.MSG.GET.KV_{ledger}"), "why a binding is paused");
        let letters = &self.manifest.dead_letter.stream;
        self.ask(&format!("STREAM.INFO.{letters}"), "how many dead letters wait");
        self.ask(&format!("STREAM.MSG.GET.{letters}"), "the last error");
        self.ask(&format!("DIRECT.GET.{letters}"), "how many events are deferred");
        for stream in self.watched() {
            self.ask(&format!("STREAM.INFO.{stream}"), format!("whether {stream} is there"));
        }
        self.orphans();
    }

    fn dlq(&mut self) {
        let Manifest { name, dead_letter, bindings, .. } = self.manifest;
        let stream = &dead_letter.stream;
        self.ask(&format!("STREAM.INFO.{stream}"), "whether there are dead letters");
        self.ask(&format!("STREAM.MSG.GET.{stream}"), "reads them");
        self.ask(&format!("STREAM.MSG.DELETE.{stream}"), "takes them away");
        for binding in bindings {
            let redrive = format!("redrive.{name}.{}", binding.name);
            self.allow(redrive, format!("sends them again to {}", binding.name));
        }
        self.find_streams();
    }

    fn pause(&mut self) {
        if self.manifest.bindings.iter().any(|binding| binding.stream.is_none()) {
            self.find_streams();
        }
        self.pause_durables(|_| true);
        self.pause_partitions(|_| true);
    }

    fn pause_durables(&mut self, which: impl Fn(&Durable<'_>) -> bool) {
        let durables = self.durables.iter().filter(|durable| which(durable));
        let paused = durables.map(|d| (d.stream, d.name.clone(), d.about())).collect::<Vec<_>>();
        for (stream, name, about) in paused {
            let question = format!("CONSUMER.PAUSE.{stream}.{name}");
            self.ask(&question, format!("pauses and resumes {about}"));
        }
    }

    fn send(&mut self) {
        for binding in &self.manifest.bindings {
            for subject in &binding.subjects {
                self.allow(subject, format!("events for {}", binding.name));
            }
        }
        self.goodbye();
    }

    /// Every stream that is made if it is missing.
    fn made(&self) -> Vec<String> {
        let manifest = self.manifest;
        let mut made: Vec<String> = manifest.streams.iter().map(|s| s.name.clone()).collect();
        made.push(manifest.dead_letter.stream.clone());
        made.push(format!("KV_{}", ledger_name(manifest)));
        if manifest.bindings.iter().any(|binding| binding.order.is_some()) {
            made.push(format!("KV_{}", owners_name(manifest)));
        }
        let states = manifest.bindings.iter().filter_map(|binding| binding.state.as_ref());
        made.extend(states.map(|state| format!("KV_{}", state.bucket)));
        made
    }

    /// The streams that bindings read.
    fn read(&self) -> Vec<&'a str> {
        let mains = self.durables.iter().filter(|durable| !durable.comes_back);
        mains.map(|durable| durable.stream).collect()
    }

    /// The streams that are looked through for consumers without a binding.
    fn watched(&self) -> Vec<&'a str> {
        let listed = self.manifest.streams.iter().map(|stream| stream.name.as_str());
        let letters = std::iter::once(self.manifest.dead_letter.stream.as_str());
        listed.chain(self.read()).chain(letters).collect()
    }

    /// Stream and consumer of the names that bindings had before.
    fn predecessors(&self) -> Vec<(&'a str, String)> {
        let old = |durable: &Durable<'a>| Some((durable.stream, durable.predecessor.clone()?));
        self.durables.iter().filter_map(old).collect()
    }
}

pub(super) fn outputs(binding: &Binding) -> impl Iterator<Item = &str> {
    binding.publish.iter().flat_map(Publish::subjects)
}
