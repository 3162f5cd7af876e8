//! `pelton dev`: a manifest on a private nats-server, one line for each invocation, reloaded when a
//! file changes.

mod lines;
mod server;
mod watch;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch as channel, task::JoinSet};

use super::{Failure, load, signals, terminal::say};
use lines::{Lines, Paint};
use pelton::{
    admin,
    manifest::{Auth, Loaded, Manifest},
    metrics::Metrics,
    nats::{Connection, Provisioned, Provisioning},
    observer::Observer,
    runner::{FirstStart, Phase, Runner, Start, Status},
    runtime::{Launcher, Natives},
    shutdown::Shutdown,
};
use server::NatsServer;
use watch::Watch;

/// How long the table waits for functions that start slowly.
const TABLE_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `pelton dev`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The manifest [default: pelton.yaml].
    file: Option<PathBuf>,

    /// Keep streams in this folder; otherwise they are gone in the end.
    #[arg(long, value_name = "DIR")]
    persist: Option<PathBuf>,

    /// Port of the private nats-server [default: 4222, or any other when that is taken].
    #[arg(long)]
    port: Option<u16>,
}

/// How one life of the runner, between two reloads, ended.
enum Ended {
    Shutdown,
    Reload(Box<Loaded>),
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(super::DEFAULT_FILE));
    let mut loaded = load(args.file.as_deref())?;
    let paint = Paint::new();
    say!(
        "\n  {} {} · {} · {} functions, {} bindings",
        paint.bold("pelton"),
        env!("CARGO_PKG_VERSION"),
        path.display(),
        loaded.manifest.functions.len(),
        loaded.manifest.bindings.len(),
    );
    let server =
        NatsServer::start(args.port, args.persist.clone()).await.map_err(Failure::Problem)?;
    let kept = match &args.persist {
        Some(dir) => format!("kept in {}", dir.display()),
        None => "private, gone in the end; --persist DIR keeps it".to_owned(),
    };
    say!(
        "  {} nats-server {} started   {}   ({kept})",
        paint.good("✓"),
        server.version,
        server.url
    );

    let shutdown = Shutdown::default();
    let mut background = JoinSet::new();
    background.spawn(signals::obey(shutdown.clone()));
    let lines = Arc::new(Lines::new(&loaded.manifest, paint));
    let metrics = Arc::new(Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?);
    let (status, seen) = channel::channel(Status::default());
    let listener = listen(loaded.manifest.admin).await?;
    let admin_at = listener.local_addr().map_err(|err| Failure::Problem(err.to_string()))?;
    background.spawn({
        let metrics = Arc::clone(&metrics);
        let seen = seen.clone();
        async move {
            if let Err(err) = admin::serve(listener, metrics, seen).await {
                eprintln!("  the admin port is gone: {err}");
            }
        }
    });
    let mut watch = Watch::new();
    let mut first = true;
    loop {
        let secrets = std::mem::take(&mut loaded.secrets);
        let manifest = Arc::new(on_private_server(loaded.manifest, &server));
        watch.follow(&path, &manifest);
        let stage = Stage { manifest, metrics: &metrics, lines: &lines, status: &status, paint };
        if first {
            stage.introduce(&admin_at, &secrets);
        }
        first = false;
        match stage.live(&path, &mut watch, &shutdown).await? {
            Ended::Shutdown => break,
            Ended::Reload(changed) => loaded = *changed,
        }
    }
    say!("  {}", lines.summary());
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// What one life of the runner is played on.
struct Stage<'a> {
    manifest: Arc<Manifest>,
    metrics: &'a Arc<Metrics>,
    lines: &'a Arc<Lines>,
    status: &'a channel::Sender<Status>,
    paint: Paint,
}

impl Stage<'_> {
    fn introduce(&self, admin: &SocketAddr, secrets: &[String]) {
        let hidden = match secrets {
            [] => String::new(),
            names => format!(" · from the environment (hidden): {}", names.join(", ")),
        };
        say!("  metrics http://{admin}/metrics · health /readyz{hidden}");
    }

    /// Runs until a shutdown, or until a file changed and what ran is finished.
    async fn live(
        &self,
        path: &Path,
        watch: &mut Watch,
        shutdown: &Shutdown,
    ) -> Result<Ended, Failure> {
        self.say_what_is_created().await?;
        let life = shutdown.child();
        let observer: Arc<dyn Observer> = Arc::clone(self.lines) as _;
        let runner = Runner {
            manifest: Arc::clone(&self.manifest),
            natives: Natives::new(),
            launcher: Launcher::default(),
            metrics: Arc::clone(self.metrics),
            observer: Some(observer),
            provisioning: Provisioning::CreateMissing,
            first_start: FirstStart::AtOnce,
            exit_when_idle: false,
            editions: None,
        };
        self.status.send_replace(Status::default());
        let running = runner.run(life.clone(), self.status);
        let mut changed = None;
        let reload = async {
            self.table().await;
            changed = Some(self.changed(path, watch).await);
            life.drain.cancel();
            std::future::pending::<()>().await;
        };
        let goodbye = async {
            shutdown.drain.cancelled().await;
            say!("\n  draining (at most {:?}; ^C again to force) …", self.manifest.drain);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = running => ended?,
            () = reload => {}
            () = goodbye => {}
        }
        Ok(match changed {
            Some(loaded) if !shutdown.drain.is_cancelled() => Ended::Reload(Box::new(loaded)),
            _ => Ended::Shutdown,
        })
    }

    /// The manifest, once it or a function has changed and it can be used.
    async fn changed(&self, path: &Path, watch: &mut Watch) -> Loaded {
        loop {
            watch.change().await;
            match load(Some(path)) {
                Ok(loaded) => {
                    say!("  {} changed: reloading", self.paint.good("↻"));
                    return loaded;
                }
                Err(failure) => eprintln!(
                    "  {} {failure}\n  what ran before goes on until this is mended",
                    self.paint.bad("✗")
                ),
            }
        }
    }

    async fn say_what_is_created(&self) -> Result<(), Failure> {
        let metrics = Arc::new(Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?);
        let patience = Some(super::PATIENCE);
        let nats = &self.manifest.nats;
        let connection = Connection::open(nats, "pelton dev", patience, metrics).await?;
        let mode = Provisioning::CreateMissing;
        let provisioned = Provisioned::ensure(&connection, &self.manifest, mode).await?;
        for what in provisioned.created {
            say!("  {} {what} created", self.paint.good("✓"));
        }
        for what in provisioned.drift {
            say!("  {} {what}", self.paint.bad("!"));
        }
        connection.close().await;
        Ok(())
    }

    /// The bindings, once every function has started or failed to.
    async fn table(&self) {
        let mut status = self.status.subscribe();
        if status.wait_for(|status| status.phase == Phase::Running).await.is_err() {
            return;
        }
        let bindings = status.borrow().bindings.clone();
        let deadline = tokio::time::Instant::now() + TABLE_PATIENCE;
        let mut starts = Vec::with_capacity(bindings.len());
        for mut binding in bindings {
            let known = binding.start.wait_for(|start| *start != Start::Pending);
            let waited = tokio::time::timeout_at(deadline, known).await;
            starts.push(match waited {
                Ok(Ok(start)) => start.clone(),
                _ => Start::Pending,
            });
        }
        say!("{}", self.lines.table(&self.manifest, &starts));
    }
}

/// The manifest as it runs here: on the private server, as nobody in particular.
fn on_private_server(mut manifest: Manifest, server: &NatsServer) -> Manifest {
    manifest.nats.servers = vec![server.url.clone()];
    manifest.nats.auth = Auth::None;
    manifest.nats.tls = None;
    manifest.nats.domain = None;
    manifest.nats.api_prefix = None;
    manifest
}

/// The admin address, or any free port beside it: another runner may be at work here.
async fn listen(wanted: SocketAddr) -> Result<tokio::net::TcpListener, Failure> {
    match admin::bind(wanted).await {
        Ok(listener) => Ok(listener),
        Err(_) if std::env::var_os("PELTON_ADMIN_LISTEN").is_none() => {
            admin::bind(SocketAddr::new(wanted.ip(), 0)).await.map_err(Failure::Problem)
        }
        Err(err) => Err(Failure::Problem(err)),
    }
}
