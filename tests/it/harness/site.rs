//! A folder with a manifest and its functions.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// What every manifest of the tests starts with. `OUT` remembers ids for longer than any test
/// takes, so that an output stored twice is Pelton's doing.
const HEAD: &str = "\
version: 1
name: t
nats: { servers: [\"${NATS_URL}\"] }
streams:
  IN: { subjects: [\"in.>\"] }
  OUT: { subjects: [\"out.>\"], duplicate_window: 30m }
";

/// A temporary folder that goes with its owner.
#[derive(Debug)]
pub(crate) struct Site {
    dir: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pelton-it-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a temporary folder");
        Self { dir }
    }

    /// A folder with a manifest whose functions and bindings are `body`.
    pub(crate) fn with(body: &str) -> Self {
        let site = Self::new();
        site.manifest(body);
        site
    }

    /// Writes `pelton.yaml`: the usual head, then `body`.
    pub(crate) fn manifest(&self, body: &str) {
        self.file("pelton.yaml", format!("{HEAD}{body}"));
    }

    /// Writes a file, whole or not at all for whoever reads it meanwhile.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        let half = self.path(&format!("{name}.half"));
        fs::write(&half, text).expect("a file is written");
        fs::rename(&half, &path).expect("a file is put in its place");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lines of a file that functions append to; none while it does not exist.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_dir_all(&self.dir) {
            eprintln!("{} stays behind: {err}", self.dir.display());
        }
    }
}
