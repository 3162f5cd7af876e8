//! The bindings that run, each with a shutdown of its own.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
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
    /// Of the function's file.
    content: Option<u64>,
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
    pub(super) changed: Vec<(String, &'static str)>,
    pub(super) removed: Vec<String>,
}

impl Makeup {
    /// Those of a manifest, by the names of its bindings.
    pub(super) fn all(manifest: &Manifest) -> BTreeMap<String, Self> {
        let makeup = |binding: &Binding| {
            let function = manifest.functions.get(&binding.function)?.clone();
            let file = function.runtime.source(&function.cwd);
            let content = file.and_then(|file| std::fs::read(file).ok()).map(|content| {
                let mut hasher = DefaultHasher::new();
                content.hash(&mut hasher);
                hasher.finish()
            });
            Some((binding.name.clone(), Self { binding: binding.clone(), function, content }))
        };
        manifest.bindings.iter().filter_map(makeup).collect()
    }

    fn differs_in(&self, other: &Self) -> Option<&'static str> {
        match () {
            () if self.binding != other.binding => Some("binding"),
            () if self.function != other.function => Some("function"),
            () if self.content != other.content => Some("the function's file"),
            () => None,
        }
    }
}

impl Crew {
    pub(super) fn compare(&self, next: &BTreeMap<String, Makeup>) -> Changes {
        let mut changes = Changes::default();
        for (name, makeup) in next {
            match self.0.get(name) {
                None => changes.added.push(name.clone()),
                Some(member) => {
                    let differs = member.makeup.differs_in(makeup);
                    changes.changed.extend(differs.map(|what| (name.clone(), what)));
                }
            }
        }
        changes.removed = self.0.keys().filter(|name| !next.contains_key(*name)).cloned().collect();
        changes
    }

    /// Begins to run bindings, until `shutdown` or until they are told to [stop](Self::stop).
    pub(super) fn start(
        &mut self,
        bindings: Vec<(Makeup, Supervised)>,
        paused: &Paused,
        shutdown: &Shutdown,
    ) {
        for (makeup, binding) in bindings {
            let shutdown = shutdown.child();
            let member = Member {
                handler: binding.handler(),
                status: binding.status(paused),
                running: AbortOnDropHandle::new(tokio::spawn(binding.run(shutdown.clone()))),
                shutdown,
                makeup,
            };
            self.0.insert(member.makeup.binding.name.clone(), member);
        }
    }

    /// Drains some bindings, and returns once they have ended; what they have not finished after
    /// `patience` is given back.
    pub(super) async fn stop(&mut self, names: &[&String], patience: Duration) {
        let members: Vec<Member> = names.iter().filter_map(|name| self.0.remove(*name)).collect();
        join_all(members.into_iter().map(async |member| {
            member.shutdown.drain.cancel();
            let enforced = member.shutdown.clone().enforce(patience);
            let ended = member.end();
            tokio::pin!(ended);
            tokio::select! {
                () = &mut ended => {}
                () = enforced => ended.await,
            }
        }))
        .await;
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
