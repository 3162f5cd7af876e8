//! `pelton send`.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
};

use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{
    DEFAULT_FILE, Failure, PATIENCE, load, payload,
    terminal::{self, say},
};
use pelton::{
    event::Headers,
    manifest::{Auth, Nats, Server},
    metrics::Metrics,
    nats::{Connection, Receipt},
    subject, telemetry,
};

/// Events under way at once.
const WINDOW: usize = 512;

/// Arguments of `pelton send`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pelton send orders.placed '{\"orderId\": \"A1\"}'
  pelton send orders.placed --lines orders.ndjson
  cat photo.jpg | pelton send photos.new -")]
pub(super) struct Args {
    /// Where to.
    subject: String,

    /// The payload; `-` reads it from standard input.
    #[arg(required_unless_present_any = ["file", "lines"])]
    data: Option<String>,

    /// A file that is the payload.
    #[arg(long, conflicts_with_all = ["data", "lines"])]
    file: Option<PathBuf>,

    /// A file with one event a line; `-` is standard input.
    #[arg(long, conflicts_with = "data")]
    lines: Option<PathBuf>,

    /// A header, as `name: value`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,

    /// Message id: the stream drops an event whose id it has seen.
    #[arg(long, conflicts_with = "lines")]
    id: Option<String>,

    /// The server, or several with commas, instead of the manifest's; who we are to it and TLS stay
    /// the manifest's, unless the URL names a user.
    #[arg(short, long, env = "NATS_URL")]
    server: Option<String>,

    /// The manifest whose connection to use [default: pelton.yaml].
    #[arg(short, long)]
    manifest: Option<PathBuf>,
}

type Receipts = VecDeque<Pin<Box<dyn Future<Output = Result<Receipt, String>> + Send>>>;

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Some(wrong) = subject::complaint(&args.subject) {
        return Err(Failure::Usage(format!("`{}`: {wrong}", args.subject)));
    }
    if !subject::is_literal(&args.subject) {
        return Err(Failure::Usage(format!("`{}` has wildcards: name one subject", args.subject)));
    }
    let headers = headers(&args)?;
    let connection = connect(&args).await?;
    match &args.lines {
        Some(path) => send_lines(&connection, &args.subject, &headers, path).await?,
        None => send_one(&connection, &args, &headers).await?,
    }
    connection.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn send_one(connection: &Connection, args: &Args, headers: &Headers) -> Result<(), Failure> {
    let data = payload::read(args.data.as_deref(), args.file.as_deref())?;
    let sent = publish(connection, &args.subject, headers, data).await;
    let receipt = sent.map_err(Failure::Problem)?.await.map_err(Failure::Problem)?;
    let duplicate = if receipt.duplicate { " (was there already)" } else { "" };
    say!("stored as {}:{}{duplicate}", receipt.stream, receipt.sequence);
    Ok(())
}

async fn send_lines(
    connection: &Connection,
    subject: &str,
    headers: &Headers,
    path: &Path,
) -> Result<(), Failure> {
    let unreadable = |err| Failure::Usage(format!("{}: {err}", path.display()));
    let (reader, size): (Box<dyn tokio::io::AsyncRead + Unpin>, u64) = if path == Path::new("-") {
        (Box::new(tokio::io::stdin()), 0)
    } else {
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let size = file.metadata().await.map_err(unreadable)?.len();
        (Box::new(file), size)
    };
    let bar = progress(size);
    let mut lines = BufReader::new(reader).lines();
    let mut receipts = Receipts::new();
    let mut number = 0_u64;
    let mut stored = 0_u64;
    while let Some(line) = lines.next_line().await.map_err(unreadable)? {
        number += 1;
        bar.inc(line.len() as u64 + 1);
        if line.trim().is_empty() {
            continue;
        }
        let stopped =
            |err| Failure::Problem(format!("line {number}: {err} ({stored} events were stored)"));
        let sent = publish(connection, subject, headers, line.into()).await.map_err(stopped)?;
        receipts.push_back(Box::pin(sent));
        if receipts.len() >= WINDOW {
            stored += settle(&mut receipts, WINDOW / 2).await.map_err(stopped)?;
        }
    }
    let stopped = |err| Failure::Problem(format!("{err} ({stored} events were stored for sure)"));
    stored += settle(&mut receipts, 0).await.map_err(stopped)?;
    bar.finish_and_clear();
    say!("stored {stored} events on {subject}");
    Ok(())
}

/// Publishes an event, with which a trace begins or goes on.
async fn publish(
    connection: &Connection,
    subject: &str,
    headers: &Headers,
    data: Bytes,
) -> Result<impl Future<Output = Result<Receipt, String>> + Send + use<>, String> {
    let mut headers = headers.clone();
    let mut step = telemetry::sent(subject, data.len(), &mut headers);
    let sent = connection.send(subject, &headers, data).await;
    let sent = sent.inspect_err(|err| step.failed(err))?;
    Ok(async move { sent.await.inspect_err(|err| step.failed(err)) })
}

/// Waits for the oldest receipts until `left` are open; how many came.
async fn settle(receipts: &mut Receipts, left: usize) -> Result<u64, String> {
    let mut stored = 0;
    while receipts.len() > left {
        if let Some(receipt) = receipts.pop_front() {
            receipt.await?;
            stored += 1;
        }
    }
    Ok(stored)
}

fn progress(size: u64) -> ProgressBar {
    terminal::progress(size, "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

fn headers(args: &Args) -> Result<Headers, Failure> {
    let mut headers = payload::headers(&args.headers)?;
    if let Some(id) = &args.id {
        headers.set("Nats-Msg-Id", id);
    }
    Ok(headers)
}

/// To the server named, or to the manifest's, or to the one on this machine.
async fn connect(args: &Args) -> Result<Connection, Failure> {
    let metrics = Arc::new(Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?);
    let has_manifest = args.manifest.is_some() || Path::new(DEFAULT_FILE).exists();
    let mut nats = match has_manifest {
        true => load(args.manifest.as_deref())?.manifest.nats,
        false => local(),
    };
    if let Some(named) = &args.server {
        let parsed: Result<Vec<Server>, _> =
            named.split(',').map(str::trim).map(Server::parse).collect();
        let servers = parsed
            .map_err(|wrong| Failure::Usage(format!("--server: {wrong}\n  {}", wrong.hint())))?;
        if let Some(user) = servers.iter().find(|server| server.auth != Auth::None) {
            nats.auth = user.auth.clone();
        }
        nats.servers = servers.into_iter().map(|server| server.url).collect();
    }
    Ok(Connection::open(&nats, "pelton send", Some(PATIENCE), metrics).await?)
}

fn local() -> Nats {
    Nats {
        servers: vec!["nats://127.0.0.1:4222".to_owned()],
        auth: Auth::None,
        tls: None,
        domain: None,
        api_prefix: None,
        inbox_prefix: None,
    }
}
