//! A changed manifest, taken up by a runner at work: only bindings that changed are drained and begun
//! anew. One that cannot be used changes nothing.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{error, info};

use super::{
    Runner, announce,
    crew::{Changes, Crew, Makeup},
    supervise::Supervised,
};
use crate::{
    manifest::Manifest,
    nats::{Connection, Provisioned, Waiting},
};

/// A manifest that was changed, or what is wrong with it.
pub type Edition = Result<Box<Manifest>, String>;

/// A manifest that is going to be run, and how the bindings differ that run now.
pub(super) struct Next {
    pub(super) provisioned: Arc<Provisioned>,
    pub(super) changes: Changes,
    pub(super) begun: Vec<(Makeup, Supervised)>,
}

/// The next edition; never, if nobody tells of any.
pub(super) async fn next(editions: &mut Option<mpsc::Receiver<Edition>>) -> Edition {
    match editions {
        Some(told) => match told.recv().await {
            Some(edition) => edition,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Runner {
    /// Everything that a changed manifest needs, in place; from then on it is the runner's own. What
    /// runs goes on untouched.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) async fn prepare(
        &mut self,
        edition: Edition,
        (crew, connection, waiting): (&Crew, &Connection, &Waiting),
    ) -> Result<Next, String> {
        let manifest = Arc::new(*edition?);
        let fixed = fixed(&self.manifest, &manifest);
        if !fixed.is_empty() {
            let keys = fixed.join("`, `");
            return Err(format!("`{keys}` cannot change while it runs: start it anew"));
        }
        let provisioned = Provisioned::ensure(connection, &manifest, self.provisioning).await;
        let provisioned = Arc::new(provisioned.map_err(|err| err.to_string())?);
        announce(&provisioned);
        let mut makeups = Makeup::all(&manifest);
        let changes = crew.compare(&makeups);
        let before = std::mem::replace(&mut self.manifest, manifest);
        let names = changes.begun();
        let begun = names.into_iter().filter_map(|name| makeups.remove(name));
        let begun = self.build(begun, connection, &provisioned, waiting);
        match begun {
            Ok(begun) => Ok(Next { provisioned, changes, begun }),
            Err(why) => {
                self.manifest = before;
                Err(why.to_string())
            }
        }
    }

    /// Counts and tells how a reload went.
    pub(super) fn tell(&self, reloaded: &Result<Changes, String>) {
        self.metrics.reloaded(reloaded.is_ok());
        match reloaded {
            Err(why) => {
                error!(why, "the changed manifest cannot be used; what ran before goes on");
            }
            Ok(changes) if *changes == Changes::default() => {
                info!("the manifest was read again; no binding is changed by it");
            }
            Ok(Changes { added, changed, removed }) => {
                let changed: Vec<String> =
                    changed.iter().map(|(name, what)| format!("{name} ({what})")).collect();
                let list = |names: &[String]| names.join(", ");
                info!(
                    added = list(added),
                    changed = list(&changed),
                    removed = list(removed),
                    "the changed manifest is in use"
                );
            }
        }
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
