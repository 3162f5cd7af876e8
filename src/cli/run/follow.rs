//! Reads a manifest again when it changes. Files are looked at rather than watched: that works for the
//! links that Kubernetes swaps in a mounted ConfigMap as for any editor and file system.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
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
    /// The last one that could be read.
    manifest: Option<Arc<Manifest>>,
    /// How the files looked before they were read: what changes while they are is seen by the next look.
    known: Looks,
}

type Looks = BTreeMap<PathBuf, Look>;

/// What tells one state of a file from another: where it really is, when it was changed, its size, its
/// number. `None` while it is not there.
type Look = Option<(PathBuf, SystemTime, u64, u64)>;

impl Followed {
    /// To be made before the file is read for the first time.
    pub(super) fn new(file: &Path) -> Self {
        let mut followed =
            Self { file: file.to_path_buf(), manifest: None, known: Looks::default() };
        followed.known = followed.look();
        followed
    }

    /// Follows the files of what was read as well; to be called before they are.
    pub(super) fn take_up(&mut self, manifest: &Arc<Manifest>) {
        self.manifest = Some(Arc::clone(manifest));
        let before = std::mem::take(&mut self.known);
        self.known = self.look();
        for (path, look) in before {
            self.known.entry(path).and_modify(|known| *known = look);
        }
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
        let mut before = self.known.clone();
        loop {
            tokio::select! {
                _ = hangups.recv() => self.known = self.look(),
                _ = looks.tick(), if watch => {
                    let now = self.look();
                    let settled = now == std::mem::replace(&mut before, now.clone());
                    if now == self.known || !settled {
                        continue;
                    }
                    self.known = now;
                }
            }
            if tell.send(self.read()).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn read(&mut self) -> Edition {
        let loaded = Manifest::load(&self.file).map_err(|found| found.to_string())?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let manifest = Arc::new(loaded.manifest);
        self.take_up(&manifest);
        Ok(manifest)
    }

    fn look(&self) -> Looks {
        let look = |path: &Path| {
            let place = path.canonicalize().ok()?;
            let found = fs::metadata(&place).ok()?;
            Some((place, found.modified().ok()?, found.len(), found.ino()))
        };
        let sources = self.manifest.iter().flat_map(|manifest| manifest.sources().into_values());
        let sources = sources.flatten();
        let paths = sources.chain([self.file.clone()]);
        paths.map(|path| (path.clone(), look(&path))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_while_it_is_read_is_seen_by_the_next_look() {
        let site = std::env::temp_dir().join(format!("pelton-follow-{}", std::process::id()));
        fs::create_dir_all(&site).expect("a folder");
        let (file, function) = (site.join("pelton.yaml"), site.join("f.py"));
        let text = |more: &str| {
            format!(
                "version: 1\nname: t\nfunctions: {{ f: {{ run: f.py }} }}\nbindings:\n  - {{ subject: a, function: f }}\n{more}"
            )
        };
        fs::write(&function, "").expect("a function");
        fs::write(&file, text("")).expect("a manifest");
        let mut followed = Followed::new(&file);
        let loaded = Manifest::load(&file).expect("a manifest");
        fs::write(&file, text("# changed meanwhile\n")).expect("a change");
        followed.take_up(&Arc::new(loaded.manifest));
        assert_ne!(followed.look(), followed.known, "before the first look");

        followed.known = followed.look();
        fs::write(&file, text("# more\n# and more\n")).expect("a change");
        assert!(followed.read().is_ok());
        assert_ne!(followed.look(), followed.known, "before it was read again");

        followed.known = followed.look();
        fs::write(&function, "# changed").expect("a change");
        assert_ne!(followed.look(), followed.known, "of a function");
        fs::remove_dir_all(&site).expect("the folder is there");
    }
}
