//! The bindings that run, each with a shutdown of its own.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::supervise::{BindingStatus, Paused, Supervised};
use crate::{
    handler::Handler,
    manifest::{Binding, Function, Manifest},
    shutdown::Shutdown,
};

/// All that a binding is made of.
#[derive(Debug)]
pub(super) struct Makeup {
    pub(super) binding: Binding,
    pub(super) function: Function,
    /// Of the function's files.
    content: u64,
}

/// Bindings that run.
#[derive(Default)]
pub(super) struct Crew(BTreeMap<String, Member>);

struct Member {
    makeup: Makeup,
    handler: Arc<dyn Handler>,
    status: BindingStatus,
    shutdown: Shutdown,
    running: AbortOnDropHandle<()>,
}

/// Where a manifest differs from what runs, by the names of bindings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    /// And in what.
    pub(super) changed: Vec<(String, Vec<&'static str>)>,
    pub(super) removed: Vec<String>,
}

impl Makeup {
    /// Those of a manifest, by the names of its bindings.
    pub(super) fn all(manifest: &Manifest) -> BTreeMap<String, Self> {
        let sources = manifest.sources();
        let makeup = |binding: &Binding| {
            let function = manifest.functions.get(&binding.function)?.clone();
            let content = contents(sources.get(function.name.as_str()).into_iter().flatten());
            Some((binding.name.clone(), Self { binding: binding.clone(), function, content }))
        };
        manifest.bindings.iter().filter_map(makeup).collect()
    }

    /// The keys in which it differs, and whether the function's files do.
    fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = self.binding.differs_in(&other.binding);
        keys.extend(self.function.differs_in(&other.function));
        keys.extend((self.content != other.content).then_some("the function's files"));
        keys
    }
}

fn contents<'a>(files: impl Iterator<Item = &'a PathBuf>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file, std::fs::read(file).ok()).hash(&mut hasher);
    }
    hasher.finish()
}

impl Crew {
    pub(super) fn compare(&self, next: &BTreeMap<String, Makeup>) -> Changes {
        let mut changes = Changes::default();
        for (name, makeup) in next {
            match self.0.get(name) {
                None => changes.added.push(name.clone()),
                Some(member) => {
                    let keys = member.makeup.differs_in(makeup);
                    if !keys.is_empty() {
                        changes.changed.push((name.clone(), keys));
                    }
                }
            }
        }
        changes.removed = self.0.keys().filter(|name| !next.contains_key(*name)).cloned().collect();
        changes
    }

    /// Begins to run bindings, until `shutdown` or until others take their place.
    pub(super) fn start(
        &mut self,
        bindings: Vec<(Makeup, Supervised)>,
        paused: &Paused,
        shutdown: &Shutdown,
    ) {
        for (makeup, binding) in bindings {
            let name = makeup.binding.name.clone();
            self.0.insert(name, Member::start(makeup, binding, paused, shutdown));
        }
    }

    /// Drains the bindings that do not go on as they are, and begins those that take their place, each
    /// as soon as the one before has ended; what has not been finished after `patience` is given back.
    pub(super) async fn change(
        &mut self,
        changes: &Changes,
        begun: Vec<(Makeup, Supervised)>,
        (paused, shutdown): (&Paused, &Shutdown),
        patience: Duration,
    ) {
        let mut begun: BTreeMap<String, _> =
            begun.into_iter().map(|next| (next.0.binding.name.clone(), next)).collect();
        let ended = changes.ended().into_iter();
        let turns = ended.filter_map(|name| Some((self.0.remove(name)?, begun.remove(name))));
        let turns: Vec<_> = turns.collect();
        self.start(begun.into_values().collect(), paused, shutdown);
        let turns = turns.into_iter().map(async |(member, next)| {
            member.drain(patience).await;
            next.map(|(makeup, binding)| Member::start(makeup, binding, paused, shutdown))
        });
        for member in join_all(turns).await.into_iter().flatten() {
            self.0.insert(member.makeup.binding.name.clone(), member);
        }
    }

    /// Returns once all have ended, because they were told to.
    pub(super) async fn end(self) {
        join_all(self.0.into_values().map(Member::end)).await;
    }

    /// How each of them is, in the order of `manifest`.
    pub(super) fn statuses(&self, manifest: &Manifest) -> Vec<BindingStatus> {
        let status = |binding: &Binding| Some(self.0.get(&binding.name)?.status.clone());
        manifest.bindings.iter().filter_map(status).collect()
    }
}

impl Member {
    fn start(makeup: Makeup, binding: Supervised, paused: &Paused, shutdown: &Shutdown) -> Self {
        let shutdown = shutdown.child();
        Self {
            handler: binding.handler(),
            status: binding.status(paused),
            running: AbortOnDropHandle::new(tokio::spawn(binding.run(shutdown.clone()))),
            shutdown,
            makeup,
        }
    }

    async fn drain(self, patience: Duration) {
        self.shutdown.drain.cancel();
        let enforced = self.shutdown.clone().finish(patience);
        let ended = self.end();
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => {}
            () = enforced => ended.await,
        }
    }

    async fn end(self) {
        let Self { handler, running, .. } = self;
        if let Err(err) = running.await {
            error!(%err, "a binding broke off inside Pelton");
        }
        handler.stop().await;
    }
}

impl Changes {
    /// Bindings that do not go on as they are.
    pub(super) fn ended(&self) -> Vec<&String> {
        self.changed.iter().map(|(name, _)| name).chain(&self.removed).collect()
    }

    /// Bindings that begin.
    pub(super) fn begun(&self) -> Vec<&String> {
        self.changed.iter().map(|(name, _)| name).chain(&self.added).collect()
    }
}
