//! Compiled components on disk, so that a component is compiled once for each machine and version.
//!
//! Loading machine code trusts whoever wrote the file. So it is loaded only from a folder that
//! belongs to this user and that nobody else can write to, under a name that only this module
//! gives: the digest of the component and that of everything its compilation depends on. Nothing
//! in a manifest can name such a file.
//!
//! A file's time of modification is when it was last used. What nobody used for long goes, and the
//! oldest of what is too much. Runners that do this at the same time do no harm: code that is
//! mapped stays when its file goes, and what is missing is compiled again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use tracing::{debug, warn};
use wasmtime::{Engine, component::Component};

/// How long a file is kept that nobody uses.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Bytes of all files together: components that are built again and again leave one each time.
const KEPT_MAX: u64 = 2 << 30;
/// A use within this of another is not noted: it would be a write for nothing.
const NOTED_EVERY: Duration = Duration::from_secs(60 * 60);
/// Digits of the digests in a name.
const DIGITS: (usize, usize) = (64, 16);

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
        if let Err(err) = note_use(&file) {
            debug!(file = %file.display(), %err, "a use cannot be noted");
        }
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

/// Removes what nobody has used for long, and the oldest of what is too much.
pub(super) fn tidy() {
    let Some(folder) = folder() else { return };
    match old(&folder) {
        Ok(files) => {
            for file in files {
                match fs::remove_file(&file) {
                    Ok(()) => debug!(file = %file.display(), "removed compiled code"),
                    // Another runner may have been faster.
                    Err(err) => debug!(file = %file.display(), %err, "compiled code stays"),
                }
            }
        }
        Err(err) => debug!(folder = %folder.display(), %err, "cannot look for old compiled code"),
    }
}

/// The files to remove.
fn old(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut ours = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let named = entry.file_name().to_str().is_some_and(is_name);
        // Gone between the two looks: somebody else tidies.
        let Some(here) = entry.metadata().ok().filter(|here| named && here.is_file()) else {
            continue;
        };
        ours.push((here.modified()?, here.len(), entry.path()));
    }
    // The one used last first.
    ours.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
    let (now, mut kept) = (SystemTime::now(), 0);
    ours.retain(|(used, size, _)| {
        let unused = now.duration_since(*used).is_ok_and(|unused| unused > UNUSED_MAX);
        let goes = unused || kept + size > KEPT_MAX;
        kept += if goes { 0 } else { *size };
        goes
    });
    Ok(ours.into_iter().map(|(.., file)| file).collect())
}

/// Whether a file's name is one that [`name`] gives, or one that [`store`] began with.
fn is_name(name: &str) -> bool {
    let mut parts = name.splitn(2, '.');
    let digests = parts.next().and_then(|digests| digests.split_once('-'));
    let digits = |text: &str, count| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let unfinished = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    digests.is_some_and(|(component, settings)| {
        digits(component, DIGITS.0) && digits(settings, DIGITS.1)
    }) && parts.next().is_some_and(|rest| rest == "cwasm" || unfinished(rest))
}

fn note_use(file: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    let used = fs::metadata(file)?.modified()?;
    match now.duration_since(used) {
        Ok(since) if since > NOTED_EVERY => File::open(file)?.set_modified(now),
        _ => Ok(()),
    }
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
