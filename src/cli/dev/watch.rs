//! Waits for files to change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{Event, EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use pelton::manifest::Manifest;

/// Editors save in several steps: wait for quiet.
const QUIET: Duration = Duration::from_millis(150);

/// Returns once the manifest or a function's file has changed.
pub(super) async fn change(manifest_file: &Path, manifest: &Manifest) {
    let functions = manifest.functions.values();
    let functions = functions.filter_map(|function| function.runtime.source(&function.cwd));
    let folders: BTreeSet<PathBuf> = functions
        .chain(Some(manifest_file.to_path_buf()))
        .filter_map(|path| path.canonicalize().ok()?.parent().map(Path::to_path_buf))
        .collect();
    wait(folders).await;
}

async fn wait(folders: BTreeSet<PathBuf>) {
    let (tell, mut told) = mpsc::channel(1);
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
    let mut watcher = match notify::recommended_watcher(notice) {
        Ok(watcher) => watcher,
        Err(err) => {
            eprintln!("  files cannot be watched, changes need a restart: {err}");
            return std::future::pending().await;
        }
    };
    for folder in &folders {
        if let Err(err) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            eprintln!("  {} cannot be watched: {err}", folder.display());
        }
    }
    if told.recv().await.is_none() {
        return std::future::pending().await;
    }
    while tokio::time::timeout(QUIET, told.recv()).await.is_ok() {}
}

/// Not what tools leave beside sources.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let noise = name.starts_with('.') || name.ends_with('~') || name == "__pycache__";
    !noise
        && !matches!(path.extension().and_then(|e| e.to_str()), Some("pyc" | "swp" | "tmp" | "log"))
}
