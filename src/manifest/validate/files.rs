//! Whether what the manifest names is there.

use std::path::Path as FilePath;

use crate::manifest::{path::Path, report::Report};

/// A file that a function needs.
pub(super) fn exists(full: &FilePath, shown: &str, path: &Path, report: &mut Report) {
    if !full.is_file() {
        degraded(path, format!("there is no file `{shown}`"), report);
    }
}

/// A missing file is mended by putting it there: no reason to stop the other bindings.
pub(super) fn degraded(path: &Path, message: String, report: &mut Report) {
    let hint = "paths are relative to the manifest; until it is there, no event is charged for it";
    report.warn(path, message, hint);
}
