//! A changed manifest, taken up by a runner at work: only bindings that changed are drained and begun
//! anew. One that cannot be used changes nothing.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tracing::{error, info, warn};

use super::{
    Ground, Runner, announce,
    crew::{Changes, Crew, Makeup},
    supervise::{Paused, Supervised},
};
use crate::{
    manifest::Manifest,
    nats::{ProvisionError, Provisioned},
    shutdown::Shutdown,
};

/// How long to wait before a manifest is tried again that could not be held against the server.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A manifest that was changed, or what is wrong with it.
pub type Edition = Result<Arc<Manifest>, String>;

/// The editions of a manifest, as they come.
pub(super) struct Editions {
    told: Option<mpsc::Receiver<Edition>>,
    /// One that is to be tried again, unless another comes before.
    again: Option<Arc<Manifest>>,
}

/// A manifest that is going to be run, and how the bindings differ that run now.
pub(super) struct Next {
    pub(super) manifest: Arc<Manifest>,
    pub(super) provisioned: Arc<Provisioned>,
    pub(super) changes: Changes,
    pub(super) begun: Vec<(Makeup, Supervised)>,
}

/// Why an edition is not run.
#[derive(Debug)]
pub(super) enum Refused {
    /// It cannot be.
    Rejected(String),
    /// It may be able to later.
    NotYet(Arc<Manifest>, String),
}

impl Editions {
    pub(super) const fn new(told: Option<mpsc::Receiver<Edition>>) -> Self {
        Self { told, again: None }
    }

    /// The next edition; never, if nobody tells of any.
    pub(super) async fn next(&mut self) -> Edition {
        let Self { told, again } = self;
        let newer = async {
            match told {
                Some(told) => told.recv().await,
                None => None,
            }
        };
        let retried = async {
            sleep(AGAIN_AFTER).await;
            again.clone()
        };
        let edition = tokio::select! {
            biased;
            Some(newer) = newer => newer,
            Some(retried) = retried => Ok(retried),
            else => std::future::pending().await,
        };
        self.again = None;
        edition
    }

    /// One that may be taken up later comes again.
    pub(super) fn refused(&mut self, refused: Refused) {
        self.again = match refused {
            Refused::Rejected(_) => None,
            Refused::NotYet(manifest, _) => Some(manifest),
        };
    }
}

impl Runner {
    /// Everything that a changed manifest needs, in place, and nothing made for one that cannot be
    /// used. What runs goes on untouched.
    pub(super) async fn prepare(
        &self,
        edition: Edition,
        crew: &Crew,
        ground: &Ground,
    ) -> Result<Next, Refused> {
        let manifest = edition.map_err(Refused::Rejected)?;
        let fixed = fixed(&self.manifest, &manifest);
        if !fixed.is_empty() {
            let keys = fixed.join("`, `");
            let why = format!("`{keys}` cannot change while it runs: start it anew");
            return Err(Refused::Rejected(why));
        }
        let mut makeups = Makeup::all(&manifest);
        let changes = crew.compare(&makeups);
        let begun = changes.begun().into_iter().filter_map(|name| makeups.remove(name));
        let begun =
            self.handlers(begun, ground).map_err(|err| Refused::Rejected(err.to_string()))?;
        let provisioned = match self.ensure(&manifest, &ground.connection).await {
            Ok(provisioned) => Arc::new(provisioned),
            Err(err) => {
                for (_, handler) in begun {
                    handler.stop().await;
                }
                return Err(match err {
                    ProvisionError::Unavailable(why) => Refused::NotYet(manifest, why),
                    err => Refused::Rejected(err.to_string()),
                });
            }
        };
        announce(&provisioned);
        let begun = self.supervise(begun, &manifest, &provisioned, ground);
        Ok(Next { manifest, provisioned, changes, begun })
    }

    /// Has what was prepared run instead of what runs; returns where it differs.
    pub(super) async fn change(
        &mut self,
        crew: &mut Crew,
        next: Next,
        paused: &Paused,
        shutdown: &Shutdown,
    ) -> Changes {
        let Next { manifest, changes, begun, .. } = next;
        let patience = manifest.drain;
        self.manifest = manifest;
        crew.change(&changes, begun, (paused, shutdown), patience).await;
        changes
    }

    /// Counts and tells of a manifest that is not taken up; why it is not.
    pub(super) fn tell_refused(&self, refused: &Refused) -> String {
        match refused {
            Refused::Rejected(why) => {
                self.metrics.reloaded(false);
                error!(why, "the changed manifest cannot be used; what ran before goes on");
                why.clone()
            }
            Refused::NotYet(_, why) => {
                self.metrics.reload_waits();
                warn!(why, "the changed manifest cannot be taken up yet; trying again");
                format!("not taken up yet, trying again: {why}")
            }
        }
    }

    /// Counts and tells of a manifest that is in use from here on.
    pub(super) fn tell_taken_up(&self, changes: &Changes) {
        self.metrics.reloaded(true);
        if *changes == Changes::default() {
            return info!("the manifest was read again; no binding is changed by it");
        }
        let Changes { added, changed, removed } = changes;
        let changed: Vec<String> =
            changed.iter().map(|(name, keys)| format!("{name} ({})", keys.join(", "))).collect();
        let list = |names: &[String]| names.join(", ");
        info!(
            added = list(added),
            changed = list(&changed),
            removed = list(removed),
            "the changed manifest is in use"
        );
    }
}

/// The keys that differ and that no reload can change.
fn fixed(before: &Manifest, after: &Manifest) -> Vec<&'static str> {
    [
        ("name", before.name != after.name),
        ("nats", before.nats != after.nats),
        ("admin", before.admin != after.admin),
        ("dead_letter", before.dead_letter != after.dead_letter),
        ("drain", before.drain != after.drain),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
