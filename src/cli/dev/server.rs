//! A private nats-server: found, started on loopback with a store of its own, stopped in the end.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::process::{Child, Command};

const START_PATIENCE: Duration = Duration::from_secs(15);
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 4222;

/// A nats-server that ends with this value.
#[derive(Debug)]
pub(super) struct NatsServer {
    child: Child,
    /// Where it listens.
    pub(super) url: String,
    /// Its version.
    pub(super) version: String,
    scratch: Scratch,
}

impl NatsServer {
    /// Starts one on `port`, or on the usual port if that is free, or on any.
    pub(super) async fn start(port: Option<u16>, store: Option<PathBuf>) -> Result<Self, String> {
        let program = find()?;
        let scratch = Scratch::new()?;
        let store = store.unwrap_or_else(|| scratch.0.join("jetstream"));
        let port = match port {
            Some(port) => i32::from(port),
            None if is_free(DEFAULT_PORT).await => i32::from(DEFAULT_PORT),
            None => -1,
        };
        let log = scratch.0.join("nats-server.log");
        let child = Command::new(&program)
            .args(["--addr", "127.0.0.1", "--jetstream", "--port", &port.to_string()])
            .arg("--store_dir")
            .arg(&store)
            .arg("--ports_file_dir")
            .arg(&scratch.0)
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C is for us: the server must outlive the drain.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|err| format!("{} cannot be started: {err}", program.display()))?;
        let version = version(&program).await;
        let mut server = Self { child, url: String::new(), version, scratch };
        server.url = server.wait(&log).await?;
        Ok(server)
    }

    /// Stops it in order.
    pub(super) async fn stop(mut self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
            && rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
            && tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await.is_ok()
        {
            return;
        }
        if let Err(err) = self.child.kill().await {
            eprintln!("  the private nats-server did not end: {err}");
        }
    }

    /// The server writes its addresses into a file once it takes connections.
    async fn wait(&mut self, log: &Path) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Ports {
            nats: Vec<String>,
        }
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        loop {
            let written = self.scratch.ports_file().and_then(|path| std::fs::read(path).ok());
            let ports = written.and_then(|bytes| serde_json::from_slice::<Ports>(&bytes).ok());
            if let Some(url) = ports.and_then(|ports| ports.nats.into_iter().next()) {
                return Ok(url);
            }
            let ended = self.child.try_wait().map_err(|err| err.to_string())?;
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing");
                return Err(format!("the private nats-server did not start: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A temporary folder, removed in the end.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let name = format!("pelton-dev-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        Ok(Self(path))
    }

    fn ports_file(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(&self.0).ok()?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "ports"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_dir_all(&self.0) {
            eprintln!("  {} was left behind: {err}", self.0.display());
        }
    }
}

/// `$PELTON_NATS_SERVER`, then the PATH, then `.tools/` here or above.
fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("PELTON_NATS_SERVER").map(PathBuf::from) {
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("PELTON_NATS_SERVER: there is no {}", path.display())),
        };
    }
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("nats-server")).collect::<Vec<_>>()
    });
    let here = std::env::current_dir().unwrap_or_default();
    let in_tools = here.ancestors().map(|dir| dir.join(".tools/nats-server")).collect::<Vec<_>>();
    on_path.chain(in_tools).find(|path| path.is_file()).ok_or_else(|| {
        "no nats-server found: install one (https://docs.nats.io) and put it on the PATH, or name it in PELTON_NATS_SERVER; in a checkout of Pelton, `make setup` fetches one".to_owned()
    })
}

async fn is_free(port: u16) -> bool {
    tokio::net::TcpListener::bind(("127.0.0.1", port)).await.is_ok()
}

async fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.rsplit(['v', ' ']).next().unwrap_or_default().trim().to_owned()
}
