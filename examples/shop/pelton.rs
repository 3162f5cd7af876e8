//! The `pelton` binary that was built beside this example.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// How long `pelton dev` may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `pelton dev`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Pelton {
    child: Child,
    url: String,
    printer: JoinHandle<()>,
    notes: PathBuf,
}

impl Pelton {
    /// Starts `pelton dev` with a nats-server of its own, and waits until it has shown its bindings.
    pub(crate) async fn dev(manifest: &str) -> Result<Self> {
        let notes = env::temp_dir().join(format!("pelton-shop-{}", std::process::id()));
        let mut child = command()?
            .args(["dev", manifest])
            .env("SHOP_DIR", &notes)
            .env("PELTON_LOG_FORMAT", "text")
            .stdin(Stdio::null())
            // Its lines tell of failures; the functions' own tracebacks would drown them.
            .env("PELTON_LOG", "error")
            .stdout(Stdio::piped())
            // Ctrl-C goes to a whole group; this child is told by us, once.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("pelton has no output")?;
        let (started, starting) = oneshot::channel();
        let printer = tokio::spawn(print(BufReader::new(output).lines(), started));
        let url = timeout(PATIENCE, starting).await.context("pelton dev does not start")?;
        let url = url.context("pelton dev ended before it was ready")?;
        Ok(Self { child, url, printer, notes })
    }

    /// Where NATS is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it ends by itself, which it should not.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        bail!("pelton dev ended by itself: {}", self.child.wait().await?)
    }

    /// Asks it to drain, and waits until it has.
    pub(crate) async fn close(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            let pid = Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
            kill_process(pid, Signal::TERM)?;
        }
        let status =
            timeout(PATIENCE, self.child.wait()).await.context("pelton does not end")??;
        self.printer.await?;
        if self.notes.exists() {
            std::fs::remove_dir_all(&self.notes)?;
        }
        ensure!(status.success(), "pelton dev ended with {status}");
        Ok(())
    }
}

/// Stores one event with `pelton send`.
pub(crate) async fn send(url: &str, subject: &str, data: &str) -> Result<()> {
    let mut send = command()?;
    send.args(["send", subject, data, "--header", "content-type: application/json"]);
    send.env("NATS_URL", url).stdout(Stdio::null());
    let status = send.status().await?;
    ensure!(status.success(), "pelton send ended with {status}");
    Ok(())
}

/// Shows what pelton writes, and says where its nats-server is once it has shown its bindings.
async fn print(mut lines: Lines<BufReader<ChildStdout>>, started: oneshot::Sender<String>) {
    let mut url = None;
    let mut started = Some(started);
    while let Ok(Some(line)) = lines.next_line().await {
        println!("  | {line}");
        let mut words = line.split_whitespace();
        url = url
            .or_else(|| words.clone().find(|word| word.starts_with("nats://")).map(str::to_owned));
        // The bindings are the table under this heading; one line for each.
        if words.next() == Some("BINDING")
            && let Some(url) = url.clone()
            && let Some(started) = started.take()
            && started.send(url).is_err()
        {
            return;
        }
    }
}

fn command() -> Result<Command> {
    let example = env::current_exe()?;
    let binary = example.parent().and_then(Path::parent).map(|target| target.join("pelton"));
    let binary =
        binary.filter(|path| path.is_file()).context("no pelton: run `cargo build` first")?;
    Ok(Command::new(binary))
}
