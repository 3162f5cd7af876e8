//! Starts processes in a session of their own that ends with the runner.
//!
//! Session, parent-death signal and limits are set by re-executing our own binary, which sets them
//! on itself and then becomes the program. Doing it between fork and exec would need `unsafe`.
//! Where the kernel lets us, limits are those of a control group, which the launcher joins.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot},
};

use super::cgroup::{self, Cell, Limits};

/// The first argument that makes the binary a launcher.
const ARGUMENT: &str = "__pelton-launch";
/// A worker goes before the runner when memory runs out.
const OOM_SCORE: &str = "500";
/// Started processes that wait for the launching thread.
const QUEUE: usize = 64;

/// Becomes the program that the arguments name if this process was started as a launcher, and
/// returns otherwise. Call it first thing in `main`.
pub fn intercept() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return;
    }
    let Some(order) = Order::read(arguments) else {
        eprintln!("{ARGUMENT} is how Pelton starts workers; it is of no use by hand");
        std::process::exit(2);
    };
    let failure = order.become_program();
    eprintln!("{}{failure}", order.token);
    std::process::exit(127);
}

/// The binary that is re-executed, one that calls [`intercept`].
#[derive(Debug, Clone)]
pub struct Launcher {
    /// Its path.
    pub program: PathBuf,
}

impl Default for Launcher {
    fn default() -> Self {
        // Still the same program after the file was replaced by an upgrade.
        Self { program: PathBuf::from("/proc/self/exe") }
    }
}

/// A program to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Name or path, and arguments.
    pub(crate) command: Vec<OsString>,
    /// Added to PATH, HOME and LANG of the runner; nothing else is inherited.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    pub(crate) limits: Limits,
}

impl Launcher {
    /// Starts a program, its standard output and error piped.
    pub(crate) async fn spawn(
        &self,
        program: &Program,
        more_env: &[(&str, String)],
        stdin: Stdio,
    ) -> io::Result<Process> {
        let token = token();
        let kept = cgroup::cell(program.limits)?;
        let rlimit = if kept.memory { None } else { program.limits.memory };
        let mut command = Command::new(&self.program);
        command.arg0("pelton").arg(ARGUMENT);
        command.arg(std::process::id().to_string()).arg(&token);
        command.arg(rlimit.unwrap_or(0).to_string());
        command.arg(kept.cell.as_ref().map(Cell::processes).unwrap_or_default());
        command.arg(&program.cwd).args(&program.command);
        command.env_clear();
        for name in ["PATH", "HOME", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&program.env).envs(more_env.iter().map(|(name, value)| (name, value)));
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = in_launching_thread(command).await?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Process { child, group, token, cell: kept.cell, memory: Memory::of(program) })
    }
}

/// A process, and everything in its group; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    group: Option<Pid>,
    cell: Option<Cell>,
    memory: Memory,
    token: String,
}

/// What is known of the memory of a process.
#[derive(Debug)]
struct Memory {
    limit: Option<u64>,
    /// The kernel killed it because there was none left.
    ran_out: bool,
}

impl Memory {
    const fn of(program: &Program) -> Self {
        Self { limit: program.limits.memory, ran_out: false }
    }
}

impl Process {
    /// Kills the process and everything it started.
    pub(crate) fn kill(&mut self) {
        if let Some(cell) = &self.cell {
            cell.kill();
        }
        if let Some(group) = self.group {
            // No such group: it has ended, or has not come as far as making one.
            if rustix::process::kill_process_group(group, Signal::KILL).is_err() {
                tracing::trace!(%group, "no process group to kill");
            }
        }
        if let Err(err) = self.child.start_kill() {
            tracing::trace!(%err, "already ended");
        }
    }

    /// Asks the process and everything it started to end.
    pub(crate) fn terminate(&self) {
        if let Some(group) = self.group
            && rustix::process::kill_process_group(group, Signal::TERM).is_err()
        {
            tracing::trace!(%group, "no process group to ask to end");
        }
    }

    /// Waits for the end of the process, then kills what it left behind.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        if let Some(group) = self.group.take() {
            // Its number is not given to anyone else within the moment since.
            if rustix::process::kill_process_group(group, Signal::KILL).is_ok() {
                tracing::trace!(%group, "killed what a process left behind");
            }
        }
        if let Some(cell) = self.cell.take() {
            self.memory.ran_out = cell.ran_out_of_memory();
            cell.end().await;
        }
        Ok(status)
    }

    /// How the process ended, for people.
    pub(crate) fn describe(&self, status: ExitStatus) -> String {
        let ended = describe(status);
        match (self.memory.ran_out, self.memory.limit) {
            (true, Some(limit)) => {
                format!(
                    "{ended}: out of memory, memory_limit is {}",
                    crate::manifest::size::show(limit)
                )
            }
            (true, None) => format!("{ended}: the machine or the container is out of memory"),
            (false, _) => ended,
        }
    }

    /// What starts the line of standard error that says why the program could not be started.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.group.is_some() {
            self.kill();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by {}", signal_name(signal)),
        (None, None) => status.to_string(),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

/// What a launcher is told in its arguments.
struct Order {
    parent: Option<Pid>,
    token: String,
    memory_limit: Option<u64>,
    /// The list of the processes in its control group; empty if it has none.
    processes: PathBuf,
    cwd: PathBuf,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Order {
    fn read(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let number = |text: Option<OsString>| text?.to_str()?.parse::<u64>().ok();
        let parent = number(arguments.next())?;
        let token = arguments.next()?.into_string().ok()?;
        let memory_limit = Some(number(arguments.next())?).filter(|limit| *limit > 0);
        let processes = PathBuf::from(arguments.next()?);
        let cwd = PathBuf::from(arguments.next()?);
        let program = arguments.next()?;
        let parent = i32::try_from(parent).ok().and_then(Pid::from_raw);
        let arguments = arguments.collect();
        Some(Self { parent, token, memory_limit, processes, cwd, program, arguments })
    }

    /// Returns only to say why it could not.
    fn become_program(&self) -> String {
        if let Err(err) = self.prepare() {
            return err;
        }
        let err = std::process::Command::new(&self.program).args(&self.arguments).exec();
        explain(&self.program, &err)
    }

    fn prepare(&self) -> Result<(), String> {
        rustix::process::setsid().map_err(|err| format!("setsid: {err}"))?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|err| format!("parent-death signal: {err}"))?;
        // The runner may have died before the signal was asked for.
        if rustix::process::getppid() != self.parent {
            return Err("the runner has died".to_owned());
        }
        if !self.processes.as_os_str().is_empty() {
            std::fs::write(&self.processes, "0")
                .map_err(|err| explain(self.processes.as_os_str(), &err))?;
        }
        if let Some(limit) = self.memory_limit {
            let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
            rustix::process::setrlimit(Resource::Data, limit)
                .map_err(|err| format!("memory_limit: {err}"))?;
        }
        // Refused where the limit was lowered already: the kernel then chooses by size alone.
        if std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).is_err() {
            tracing::trace!("oom_score_adj stays as it is");
        }
        std::env::set_current_dir(&self.cwd).map_err(|err| explain(self.cwd.as_os_str(), &err))
    }
}

fn explain(what: &OsStr, err: &io::Error) -> String {
    let what = Path::new(what).display();
    match err.kind() {
        io::ErrorKind::NotFound => format!("{what}: not found"),
        io::ErrorKind::PermissionDenied => format!("{what}: permission denied"),
        _ => format!("{what}: {err}"),
    }
}

/// No program can know it, so none can pretend that it was not started.
fn token() -> String {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), ARGUMENT);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{ARGUMENT}:{random:016x}{:08x}: ", now.subsec_nanos())
}

struct Launch {
    command: Command,
    runtime: tokio::runtime::Handle,
    launched: oneshot::Sender<io::Result<Child>>,
}

/// Spawns in a thread that lives as long as the runner. The parent-death signal is sent when the
/// *thread* that spawned ends, and the threads of an async runtime may end at any time.
async fn in_launching_thread(command: Command) -> io::Result<Child> {
    let gone = || io::Error::other("the launching thread has ended");
    let (launched, child) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    launches()?.send(Launch { command, runtime, launched }).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn launches() -> io::Result<&'static mpsc::Sender<Launch>> {
    static LAUNCHES: OnceLock<mpsc::Sender<Launch>> = OnceLock::new();
    if let Some(launches) = LAUNCHES.get() {
        return Ok(launches);
    }
    let (sender, mut receiver) = mpsc::channel::<Launch>(QUEUE);
    std::thread::Builder::new().name("pelton-launch".to_owned()).spawn(move || {
        while let Some(mut launch) = receiver.blocking_recv() {
            let _context = launch.runtime.enter();
            // Whoever asked may have left; the child is then killed as it is dropped.
            if launch.launched.send(launch.command.spawn()).is_err() {
                tracing::trace!("a launched process is not wanted any more");
            }
        }
    })?;
    Ok(LAUNCHES.get_or_init(|| sender))
}
