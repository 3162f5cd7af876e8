//! A private nats-server. The one place in the tests that starts one.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use super::{Streams, eventually, patience::PATIENCE, site::Site};

/// A nats-server with JetStream on a loopback port of its own, killed by drop.
#[derive(Debug)]
pub(crate) struct NatsServer {
    child: Option<Child>,
    port: u16,
    config: String,
    /// How much JetStream may store.
    room: Option<&'static str>,
    site: Site,
}

impl NatsServer {
    /// One that anybody may use.
    pub(crate) async fn start() -> Self {
        Self::with_config("").await
    }

    /// One with more configuration than port and store.
    pub(crate) async fn with_config(config: &str) -> Self {
        Self::of(config, None).await
    }

    /// One with so much room on its disk for JetStream.
    pub(crate) async fn with_room(room: &'static str) -> Self {
        Self::of("", Some(room)).await
    }

    async fn of(config: &str, room: Option<&'static str>) -> Self {
        let (port, config) = (free_port(), config.to_owned());
        let mut server = Self { child: None, port, config, room, site: Site::new() };
        server.up().await;
        server
    }

    /// Other configuration from the next start on.
    pub(crate) fn configure(&mut self, config: &str) {
        config.clone_into(&mut self.config);
    }

    /// Other room from the next start on.
    pub(crate) const fn give_room(&mut self, room: &'static str) {
        self.room = Some(room);
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// A connection of the test's own to a server that anybody may use.
    pub(crate) async fn streams(&self) -> Streams {
        Streams::connect(&self.url()).await
    }

    /// Ends the process the hard way; the store stays.
    pub(crate) async fn kill9(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// Asks the process to end and waits for it.
    pub(crate) async fn stop(&mut self) {
        self.end(Signal::TERM).await;
    }

    /// Starts it again on the same port and store; returns once it accepts connections.
    pub(crate) async fn up(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let store = self.site.path("store");
        let room = self.room.map(|room| format!(", max_file_store: {room}")).unwrap_or_default();
        let config = format!(
            "listen: 127.0.0.1:{}\njetstream {{ store_dir: {store:?}{room} }}\n{}\n",
            self.port, self.config
        );
        let path = self.site.path("nats.conf");
        fs::write(&path, config).expect("the configuration is written");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.site.path("log"))
            .expect("a log file");
        let child = Command::new(binary())
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect(
                "nats-server starts: set PELTON_NATS_SERVER, or put one on the PATH or in .tools/",
            );
        let child = self.child.insert(child);
        let address = (Ipv4Addr::LOCALHOST, self.port);
        eventually("nats-server accepts connections", async || {
            if let Some(status) = child.try_wait().expect("the server can be asked") {
                panic!("nats-server ended with {status}: {}", self.site.lines("log").join("\n"));
            }
            let mut socket = tokio::net::TcpStream::connect(address).await.ok()?;
            let mut greeting = [0; 4];
            socket.read_exact(&mut greeting).await.ok()?;
            (&greeting == b"INFO").then_some(())
        })
        .await;
    }

    /// Removes a consumer from the store of a server that does not run.
    pub(crate) fn forget_consumer(&self, stream: &str, durable: &str) {
        assert!(self.child.is_none(), "the server runs");
        let folder = format!("store/jetstream/$G/streams/{stream}/obs/{durable}");
        fs::remove_dir_all(self.site.path(&folder)).expect("the consumer was in the store");
    }

    async fn end(&mut self, signal: Signal) {
        let mut child = self.child.take().expect("the server runs");
        let pid = child.id().expect("it was not waited for");
        kill_process(pid_of(pid), signal).expect("the server gets the signal");
        timeout(PATIENCE, child.wait()).await.expect("the server ends").expect("it has a status");
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill_and_reap(child);
        }
        if thread::panicking() {
            let log = self.site.lines("log");
            let banner = log.iter().position(|line| line.ends_with("Server is ready"));
            let said = log.iter().skip(banner.unwrap_or(0));
            eprintln!("--- nats-server ---\n{}", said.cloned().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A port that nobody listens on, outside the range that outgoing connections use: it is still
/// free when a server comes back to it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run side by side start at different places.
    let start = u16::try_from(process::id() % 150).unwrap_or(0) * 100;
    for _ in 0..16_000 {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        let port = 16_000 + offset;
        let taken = TcpStream::connect_timeout(
            &(Ipv4Addr::LOCALHOST, port).into(),
            Duration::from_millis(100),
        );
        if taken.is_err() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Ends a child and waits until it is gone, so that its folder can go too.
pub(super) fn kill_and_reap(child: &mut Child) {
    if child.start_kill().is_err() {
        return;
    }
    for _ in 0..500 {
        match child.try_wait() {
            Ok(None) => thread::park_timeout(Duration::from_millis(10)),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

pub(super) fn pid_of(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Where the nats-server of the tests is.
pub(super) fn binary() -> PathBuf {
    if let Some(path) = env::var_os("PELTON_NATS_SERVER") {
        return path.into();
    }
    let named = |dir: PathBuf| Some(dir.join("nats-server")).filter(|path| path.is_file());
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .find_map(named)
        .or_else(|| named(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools")))
        .unwrap_or_else(|| "nats-server".into())
}
