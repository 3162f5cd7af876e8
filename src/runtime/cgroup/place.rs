//! Where the groups of workers are, and whose.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Cell, Limits};

/// What the names of groups start with that a runner makes.
const PREFIX: &str = "pelton-";
/// The group into which a runner moves.
const RUNNER: &str = "runner";
/// How often a group is tried to be removed whose processes were killed.
const TRIES: usize = 400;
const PAUSE: Duration = Duration::from_millis(5);

/// The groups of one runner.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    /// Held for as long as the runner lives: what nobody holds was left behind.
    _held: File,
    /// Why memory cannot be bounded.
    pub(super) memory: Result<(), String>,
    /// Why processors cannot be bounded.
    pub(super) cpu: Result<(), String>,
    count: AtomicU64,
    /// Groups whose processes had not ended yet when they should have gone.
    left: &'static Mutex<Vec<PathBuf>>,
}

impl Place {
    /// Finds the runner's own group, takes away what others left there, and settles in it.
    pub(super) fn find() -> Result<Self, String> {
        static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let own = own()?;
        let (dir, held) = claim(&own)?;
        if !dir.join("cgroup.kill").exists() {
            drop(fs::remove_dir(&dir));
            return Err("the kernel is older than 5.14: it has no cgroup.kill".to_owned());
        }
        sweep(&own);
        let shared = share(&own, &dir);
        let offered = read(&dir.join("cgroup.subtree_control"));
        let bound = |controller: &str| match has(&offered, controller) {
            true => Ok(()),
            false => Err(shared.clone().err().unwrap_or_else(|| {
                format!("{} has no {controller} controller of cgroup v2", own.display())
            })),
        };
        let (memory, cpu) = (bound("memory"), bound("cpu"));
        Ok(Self { dir, _held: held, memory, cpu, count: 0.into(), left: &LEFT })
    }

    pub(super) fn cell(&self, limits: Limits) -> io::Result<Cell> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|dir| fs::remove_dir(dir).is_err() && dir.exists());
        drop(left);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let cell = Cell::create(self.dir.join(format!("worker-{number}")), self.left)?;
        if self.memory.is_ok() {
            cell.bound_memory(limits.memory)?;
        }
        if self.cpu.is_ok() {
            cell.bound_cpu(limits.cpu)?;
        }
        Ok(cell)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dir.display())?;
        for (name, bound) in [("memory", &self.memory), ("cpu", &self.cpu)] {
            match bound {
                Ok(()) => write!(f, "; bounds {name}")?,
                Err(why) => write!(f, "; does not bound {name}: {why}")?,
            }
        }
        Ok(())
    }
}

/// The folder of the group that this process is in.
fn own() -> Result<PathBuf, String> {
    let groups = read(Path::new("/proc/self/cgroup"));
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or("the kernel has no cgroup v2")?;
    let mounts = read(Path::new("/proc/self/mountinfo"));
    // 35 24 0:30 /root/of/mount /mount/point rw,… shared:1 - cgroup2 cgroup2 rw,…
    let folders = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ").then(|| Path::new(point).join(below))
    });
    let mut folders = folders.filter(|folder| folder.join("cgroup.procs").exists());
    folders.next().ok_or_else(|| format!("cgroup v2 is not mounted with the group {path} in it"))
}

/// Makes the folder of this runner, and holds it.
fn claim(own: &Path) -> Result<(PathBuf, File), String> {
    let refused = |err: io::Error| format!("{} cannot be written to: {err}", own.display());
    loop {
        let name = format!("{PREFIX}{}-{:08x}", std::process::id(), fastrand::u32(..));
        let dir = own.join(name);
        fs::create_dir(&dir).map_err(refused)?;
        // Whoever sweeps may have taken it for one that nobody holds.
        let held = match File::open(&dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            held => held.map_err(refused)?,
        };
        match held.try_lock() {
            Ok(()) if dir.exists() => return Ok((dir, held)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(err)) => return Err(refused(err)),
        }
    }
}

/// Has memory and processors shared out among the groups below `dir`, as far as they are there.
fn share(own: &Path, dir: &Path) -> Result<(), String> {
    let there = read(&own.join("cgroup.controllers"));
    let wanted: Vec<&str> =
        ["memory", "cpu"].into_iter().filter(|name| has(&there, name)).collect();
    let shared = read(&own.join("cgroup.subtree_control"));
    if wanted.iter().any(|name| !has(&shared, name)) {
        // The root of all groups, which alone has no type, may have processes.
        let moves = own.join("cgroup.type").exists();
        if moves {
            step_down(own, dir)?;
        }
        if let Err(why) = enable(own, &wanted) {
            if moves && let Err(err) = fs::write(own.join("cgroup.procs"), "0") {
                tracing::debug!(%err, "the runner stays in a group of its own");
            }
            return Err(why);
        }
    }
    enable(dir, &wanted)
}

/// Moves the runner into a group below its own, which may have no processes.
fn step_down(own: &Path, dir: &Path) -> Result<(), String> {
    let me = std::process::id().to_string();
    if read(&own.join("cgroup.procs")).lines().any(|process| process != me) {
        return Err(format!(
            "other processes are in the runner's group {}: start it in one of its own, \
             as a service of systemd with Delegate=yes is",
            own.display()
        ));
    }
    let leaf = dir.join(RUNNER);
    let moved = fs::create_dir(&leaf).and_then(|()| fs::write(leaf.join("cgroup.procs"), "0"));
    moved.map_err(|err| format!("the runner cannot move to {}: {err}", leaf.display()))
}

fn enable(dir: &Path, controllers: &[&str]) -> Result<(), String> {
    let file = dir.join("cgroup.subtree_control");
    for controller in controllers {
        fs::write(&file, format!("+{controller}"))
            .map_err(|err| format!("{} does not take +{controller}: {err}", file.display()))?;
    }
    Ok(())
}

/// Ends and takes away what runners left behind that were killed.
fn sweep(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else { return };
    let ours = entries.flatten().map(|entry| entry.path()).filter(|dir| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX)) && dir.join("cgroup.procs").exists()
    });
    let left: Vec<(PathBuf, File)> = ours
        .filter_map(|dir| {
            let held = File::open(&dir).ok()?;
            held.try_lock().ok()?;
            Some((dir, held))
        })
        .collect();
    if left.is_empty() {
        return;
    }
    // Ends by itself, and nobody waits for it.
    let swept = std::thread::Builder::new().name("pelton-sweep".to_owned()).spawn(move || {
        for (dir, _held) in left {
            tracing::debug!(dir = %dir.display(), "a runner that was killed left this group");
            remove(&dir);
        }
    });
    if let Err(err) = swept {
        tracing::debug!(%err, "groups that were left behind stay");
    }
}

fn remove(dir: &Path) {
    if let Err(err) = fs::write(dir.join("cgroup.kill"), "1") {
        tracing::debug!(%err, dir = %dir.display(), "cannot be ended");
    }
    for _ in 0..TRIES {
        if remove_all(dir).is_ok() {
            return;
        }
        std::thread::park_timeout(PAUSE);
    }
    tracing::debug!(dir = %dir.display(), "is still in use");
}

/// Removes a group with those below it; their files go with them.
fn remove_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn has(controllers: &str, name: &str) -> bool {
    controllers.split_ascii_whitespace().any(|controller| controller == name)
}

/// What cannot be read says nothing.
fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}
