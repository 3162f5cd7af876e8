//! The group of one worker.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Microseconds over which processors are shared out.
const PERIOD: u64 = 100_000;
/// How often a group is tried to be removed whose processes were killed.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(2);

/// A group; what runs in it is killed when it is dropped.
#[derive(Debug)]
pub(in crate::runtime) struct Cell {
    dir: PathBuf,
    /// Takes what cannot be removed yet.
    left: &'static Mutex<Vec<PathBuf>>,
    removed: bool,
}

impl Cell {
    pub(super) fn create(dir: PathBuf, left: &'static Mutex<Vec<PathBuf>>) -> io::Result<Self> {
        fs::create_dir(&dir).map_err(|err| told(&dir, &err))?;
        Ok(Self { dir, left, removed: false })
    }

    pub(super) fn bound_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        // Half a worker is of no use to anyone.
        self.write("memory.oom.group", "1")?;
        let Some(bytes) = bytes else { return Ok(()) };
        self.write("memory.max", &bytes.to_string())?;
        match self.dir.join("memory.swap.max").exists() {
            true => self.write("memory.swap.max", "0"),
            false => Ok(()),
        }
    }

    pub(super) fn bound_cpu(&self, thousandths: Option<u64>) -> io::Result<()> {
        let Some(thousandths) = thousandths else { return Ok(()) };
        let quota = thousandths.saturating_mul(PERIOD / 1000);
        self.write("cpu.max", &format!("{quota} {PERIOD}"))
    }

    /// What a process writes `0` into to be in the group.
    pub(in crate::runtime) fn processes(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Kills what is in the group, wherever it has gone.
    pub(in crate::runtime) fn kill(&self) {
        if let Err(err) = self.write("cgroup.kill", "1") {
            tracing::debug!(%err, "a worker's group cannot be killed");
        }
    }

    /// Whether the kernel killed something in it because there was no memory left.
    pub(in crate::runtime) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills != "0")
    }

    /// Kills what is left in the group, and removes it.
    pub(in crate::runtime) async fn end(mut self) {
        self.kill();
        for _ in 0..TRIES {
            if fs::remove_dir(&self.dir).is_ok() {
                self.removed = true;
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let file = self.dir.join(file);
        fs::write(&file, value).map_err(|err| told(&file, &err))
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        self.kill();
        if fs::remove_dir(&self.dir).is_err() {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.push(std::mem::take(&mut self.dir));
        }
    }
}

fn told(file: &Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("{}: {err}", file.display()))
}
