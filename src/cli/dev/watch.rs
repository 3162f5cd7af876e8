//! Waits for files to change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use pelton::manifest::Manifest;

/// Editors save in several steps: wait for quiet.
const QUIET: Duration = Duration::from_millis(150);

/// The folders of a manifest and its functions. A change is remembered until somebody asks, so that
/// one made during a reload is not missed.
pub(super) struct Watch {
    /// `None` when files cannot be watched here.
    watcher: Option<RecommendedWatcher>,
    told: mpsc::Receiver<()>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (tell, told) = mpsc::channel(1);
        let notice = move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            let change = matches!(
                event.kind,
                EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)
            );
            if change && event.paths.iter().any(|path| is_source(path)) {
                // A full channel says what there is to say.
                tell.try_send(()).unwrap_or_default();
            }
        };
        let watcher = notify::recommended_watcher(notice)
            .inspect_err(|err| {
                eprintln!("  files cannot be watched, changes need a restart: {err}");
            })
            .ok();
        Self { watcher, told, folders: BTreeSet::new() }
    }

    /// Looks at what this manifest is made of, besides what it looks at already.
    pub(super) fn follow(&mut self, manifest_file: &Path, manifest: &Manifest) {
        let Some(watcher) = &mut self.watcher else { return };
        let functions = manifest.functions.values();
        let functions = functions.filter_map(|function| function.runtime.source(&function.cwd));
        let folders = functions
            .chain(Some(manifest_file.to_path_buf()))
            .filter_map(|path| path.canonicalize().ok()?.parent().map(Path::to_path_buf));
        for folder in folders {
            if self.folders.contains(&folder) {
                continue;
            }
            if let Err(err) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                eprintln!("  {} cannot be watched: {err}", folder.display());
            }
            self.folders.insert(folder);
        }
    }

    /// Returns once something has changed since the last time, and is quiet.
    pub(super) async fn change(&mut self) {
        if self.told.recv().await.is_none() {
            return std::future::pending().await;
        }
        while tokio::time::timeout(QUIET, self.told.recv()).await.is_ok() {}
    }
}

/// Not what tools leave beside sources.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let noise = name.starts_with('.') || name.ends_with('~') || name == "__pycache__";
    !noise
        && !matches!(path.extension().and_then(|e| e.to_str()), Some("pyc" | "swp" | "tmp" | "log"))
}
