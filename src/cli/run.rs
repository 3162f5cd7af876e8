//! `pelton run`.

mod follow;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::error;

use super::{DEFAULT_FILE, Failure, connect, load, signals, terminal::say};
use pelton::{
    admin,
    manifest::Manifest,
    metrics::Metrics,
    nats::{Provisioned, Provisioning, Windows, warnings},
    runner::{FirstStart, Runner, Status},
    runtime::{Launcher, Natives},
    shutdown::Shutdown,
};

use follow::Followed;

/// Arguments of `pelton run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The manifest [default: pelton.yaml].
    file: Option<PathBuf>,

    /// Verify the manifest and everything it needs in NATS, then end.
    #[arg(long)]
    check_only: bool,

    /// Verify streams and consumers, create nothing.
    #[arg(long)]
    no_provision: bool,

    /// Take over streams and consumers that are nobody's, or another manifest's.
    #[arg(long, conflicts_with_all = ["no_provision", "check_only"])]
    adopt: bool,

    /// Drain and end once nothing is pending for any binding.
    #[arg(long, conflicts_with = "check_only")]
    exit_when_idle: bool,

    /// Read the manifest again on SIGHUP alone, not when a file changes.
    #[arg(long, conflicts_with = "check_only")]
    no_watch: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let file = args.file.as_deref().unwrap_or_else(|| Path::new(DEFAULT_FILE));
    let mut followed = Followed::new(file);
    let manifest = Arc::new(load(args.file.as_deref())?.manifest);
    followed.take_up(&manifest);
    if args.check_only {
        return check(&manifest).await;
    }
    let metrics = Arc::new(Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?);
    let provisioning = match (args.no_provision, args.adopt) {
        (true, _) => Provisioning::VerifyOnly,
        (false, true) => Provisioning::Adopt,
        (false, false) => Provisioning::CreateMissing,
    };
    let listener = admin::bind(manifest.admin).await.map_err(Failure::Problem)?;
    let (status, seen) = watch::channel(Status::default());
    let shutdown = Shutdown::default();
    let mut background = JoinSet::new();
    background.spawn(signals::obey(shutdown.clone()));
    let (tell, editions) = mpsc::channel(1);
    background.spawn(followed.tell(!args.no_watch, tell));
    background.spawn({
        let metrics = Arc::clone(&metrics);
        async move {
            if let Err(err) = admin::serve(listener, metrics, seen).await {
                error!(%err, "the admin port is gone");
            }
        }
    });
    let runner = Runner {
        manifest,
        natives: Natives::new(),
        launcher: Launcher::default(),
        metrics,
        observer: None,
        provisioning,
        first_start: FirstStart::WithFirstEvent,
        exit_when_idle: args.exit_when_idle,
        editions: Some(editions),
    };
    runner.run(shutdown, &status).await?;
    Ok(ExitCode::SUCCESS)
}

async fn check(manifest: &Manifest) -> Result<ExitCode, Failure> {
    let connection = connect(manifest).await?;
    let found = Provisioned::ensure(&connection, manifest, Provisioning::VerifyOnly).await?;
    for drift in &found.drift {
        say!("differs: {drift}");
    }
    for warning in warnings(&connection, manifest, Windows::AsTheyAre).await? {
        say!("warning: {warning}");
    }
    say!("ok: {} can run here", manifest.name);
    connection.close().await;
    Ok(ExitCode::SUCCESS)
}
