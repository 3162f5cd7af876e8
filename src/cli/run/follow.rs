//! Reads a manifest again when it changes. Files are looked at rather than watched: that works for the
//! links that Kubernetes swaps in a mounted ConfigMap as for any editor and file system.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use pelton::{manifest::Manifest, runner::Edition};

/// How often files are looked at. What has changed must look the same at two looks: a file may be
/// half written.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A manifest's file, and those of its functions.
pub(super) struct Followed {
    file: PathBuf,
    functions: Vec<PathBuf>,
}

/// What tells one state of a file from another: where it really is, when it was changed, its size, its
/// number. `None` while it is not there.
type Look = Option<(PathBuf, SystemTime, u64, u64)>;

impl Followed {
    pub(super) fn new(file: &Path, manifest: &Manifest) -> Self {
        let mut followed = Self { file: file.to_path_buf(), functions: Vec::new() };
        followed.take_up(manifest);
        followed
    }

    /// Tells of the manifest when `SIGHUP` asks for it and, if `watch`, when a file changes; for as long
    /// as it is polled.
    pub(super) async fn tell(mut self, watch: bool, tell: mpsc::Sender<Edition>) {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            warn!("SIGHUP cannot be handled; it ends this process");
            return std::future::pending().await;
        };
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = self.look();
        let mut before = known.clone();
        loop {
            tokio::select! {
                _ = hangups.recv() => {}
                _ = looks.tick(), if watch => {
                    let now = self.look();
                    let settled = std::mem::replace(&mut before, now.clone()) == now;
                    if now == known || !settled {
                        continue;
                    }
                }
            }
            known = self.look();
            let edition = self.read();
            if let Ok(manifest) = &edition {
                self.take_up(manifest);
                known = self.look();
            }
            before.clone_from(&known);
            if tell.send(edition).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn read(&self) -> Edition {
        let loaded = Manifest::load(&self.file).map_err(|found| found.to_string())?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        Ok(Box::new(loaded.manifest))
    }

    fn take_up(&mut self, manifest: &Manifest) {
        let functions = manifest.functions.values();
        self.functions =
            functions.filter_map(|function| function.runtime.source(&function.cwd)).collect();
    }

    fn look(&self) -> Vec<Look> {
        let look = |path: &PathBuf| {
            let place = path.canonicalize().ok()?;
            let found = fs::metadata(&place).ok()?;
            Some((place, found.modified().ok()?, found.len(), found.ino()))
        };
        std::iter::once(&self.file).chain(&self.functions).map(look).collect()
    }
}
