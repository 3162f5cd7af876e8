//! The real `pelton` binary.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::process::{Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use super::{
    NatsServer, Scrape, Site, eventually,
    nats_server::{self, free_port, kill_and_reap, pid_of},
    patience::PATIENCE,
};

/// A runner, killed by drop.
#[derive(Debug)]
pub(crate) struct Runner {
    child: Child,
    admin: u16,
    log: PathBuf,
}

impl Runner {
    /// `pelton run` on the site's manifest, ready.
    pub(crate) async fn start(site: &Site, server: &NatsServer) -> Self {
        let mut runner = Self::spawn(site, &server.url(), &[]);
        runner.wait_ready().await;
        runner
    }

    /// `pelton run` with more arguments, not waited for.
    pub(crate) fn spawn(site: &Site, url: &str, arguments: &[&str]) -> Self {
        let manifest = site.path("pelton.yaml");
        let manifest = manifest.to_str().expect("a path in UTF-8");
        let mut all = vec!["run", manifest];
        all.extend(arguments);
        Self::command(site, &all, &[("NATS_URL", url)])
    }

    /// `pelton run` on the site's manifest, ready, in a control group.
    pub(crate) async fn start_in(group: &Path, site: &Site, server: &NatsServer) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec \"$@\""]).arg(group);
        shell.arg(env!("CARGO_BIN_EXE_pelton"));
        let manifest = site.path("pelton.yaml");
        let manifest = manifest.to_str().expect("a path in UTF-8");
        let env = [("NATS_URL", server.url())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut runner = Self::run(shell, site, &["run", manifest], &env);
        runner.wait_ready().await;
        runner
    }

    /// Any long-lived verb, with these environment variables besides the usual ones.
    pub(crate) fn command(site: &Site, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_pelton")), site, arguments, env)
    }

    fn run(mut command: Command, site: &Site, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        static LIVES: AtomicU32 = AtomicU32::new(0);
        let admin = free_port();
        let life = LIVES.fetch_add(1, Ordering::Relaxed);
        let log = site.path(&format!("runner-{life}.log"));
        let output = fs::File::create(&log).expect("a log file");
        let child = command
            .args(arguments)
            .current_dir(site.dir())
            .env("PELTON_ADMIN_LISTEN", format!("127.0.0.1:{admin}"))
            .env("SITE", site.dir())
            // Found here by the checkout's folder, which is not where it runs.
            .env("PELTON_NATS_SERVER", nats_server::binary())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("pelton starts");
        Self { child, admin, log }
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn wait_ready(&mut self) {
        let (admin, child) = (self.admin, &mut self.child);
        let mut said = None;
        eventually("the runner is ready", async || {
            if let Some(status) = child.try_wait().expect("the runner can be asked") {
                panic!("the runner ended with {status} before it was ready");
            }
            let (status, body) = get(admin, "/readyz").await?;
            if status != 200 && said.as_ref() != Some(&body) {
                eprintln!("not ready yet: {body}");
                said = Some(body);
            }
            (status == 200).then_some(())
        })
        .await;
    }

    /// What a path of the admin server answers: status and body; `None` while nobody answers.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.admin, path).await
    }

    /// What `/metrics` says; `None` while nobody answers.
    pub(crate) async fn try_scrape(&self) -> Option<Scrape> {
        let (status, body) = self.get("/metrics").await?;
        (status == 200).then(|| Scrape::parse(&body))
    }

    /// What `/metrics` says.
    pub(crate) async fn scrape(&self) -> Scrape {
        eventually("the runner answers /metrics", async || self.try_scrape().await).await
    }

    /// Waits until a metric, summed over these labels, has a value that `is` accepts.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)], is: fn(f64) -> bool) {
        eventually(&format!("{name} {labels:?}"), async || {
            let value = self.try_scrape().await?.find(name, labels)?;
            is(value).then_some(())
        })
        .await;
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("the runner was not waited for")
    }

    /// Asks for a drain and waits for the end.
    pub(crate) async fn sigterm(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait().await
    }

    /// Ends it the hard way.
    pub(crate) async fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.wait().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.id()), signal).expect("the runner gets the signal");
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("the runner ends")
            .expect("it has a status")
    }

    /// Its end, if it came already.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the runner can be asked")
    }

    /// Everything it wrote.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        kill_and_reap(&mut self.child);
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.log());
        }
    }
}

async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
