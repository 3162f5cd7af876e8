//! Compiled components on disk, so that a component is compiled once for each machine and version.
//!
//! Loading machine code trusts whoever wrote the file. So it is loaded only from a folder that
//! belongs to this user and that nobody else can write to, under a name that only this module
//! gives: the digest of the component and that of everything its compilation depends on. Nothing
//! in a manifest can name such a file.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use sha2::{Digest, Sha256};
use tracing::{debug, warn};
use wasmtime::{Engine, component::Component};

/// Compiles a component, or finds it compiled. Takes seconds for a large one: not for a thread that
/// others wait for.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, wasmtime::Error> {
    let Some(folder) = folder() else {
        warn!("there is no folder that only this user can write to: nothing compiled is kept");
        return Component::new(engine, bytes);
    };
    let file = folder.join(name(engine, bytes));
    if let Some(component) = load(engine, &file) {
        debug!(file = %file.display(), "loaded a compiled component");
        return Ok(component);
    }
    let component = Component::new(engine, bytes)?;
    if let Err(err) = store(&file, &component.serialize()?) {
        warn!(file = %file.display(), %err, "a compiled component cannot be kept");
        return Ok(component);
    }
    // Mapped from its file, the code is shared with other runners and can be paged out.
    Ok(load(engine, &file).unwrap_or(component))
}

#[expect(
    unsafe_code,
    reason = "loading machine code is unsafe by nature; the module says why this may be trusted"
)]
fn load(engine: &Engine, file: &Path) -> Option<Component> {
    let here = fs::symlink_metadata(file).ok()?;
    if !here.is_file() || !ours(&here) {
        return None;
    }
    // SAFETY: the file is one that `store` put into place whole: it is ours, nobody else can write
    // to it or to its folder, and its name says that this engine's settings made it.
    let loaded = unsafe { Component::deserialize_file(engine, file) };
    match loaded {
        Ok(component) => Some(component),
        Err(err) => {
            debug!(file = %file.display(), %err, "a compiled component is of no use");
            None
        }
    }
}

fn name(engine: &Engine, bytes: &[u8]) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let digest = Sha256::digest(bytes);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digest}-{:016x}.cwasm", settings.finish())
}

/// The first folder of those that would do.
fn folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let user = rustix::process::geteuid().as_raw();
    let candidates = [
        variable("XDG_CACHE_HOME").map(|cache| cache.join("pelton")),
        variable("HOME").map(|home| home.join(".cache").join("pelton")),
        Some(std::env::temp_dir().join(format!("pelton-{user}"))),
    ];
    candidates.into_iter().flatten().find(|folder| {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let here = fs::symlink_metadata(folder);
        made.is_ok() && here.is_ok_and(|here| here.is_dir() && ours(&here))
    })
}

/// Whether it belongs to this user, and nobody else can write to it.
fn ours(here: &fs::Metadata) -> bool {
    here.uid() == rustix::process::geteuid().as_raw() && here.mode() & 0o022 == 0
}

/// Puts a file into place whole or not at all, also if the machine goes down meanwhile.
fn store(file: &Path, compiled: &[u8]) -> io::Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let unfinished = file.with_extension(format!("{}-{next}", std::process::id()));
    let write = || {
        let mut options = OpenOptions::new();
        let mut out: File = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        out.write_all(compiled)?;
        out.sync_all()?;
        fs::rename(&unfinished, file)
    };
    write().inspect_err(|_| {
        if let Err(err) = fs::remove_file(&unfinished) {
            debug!(%err, "an unfinished file stays behind");
        }
    })
}
