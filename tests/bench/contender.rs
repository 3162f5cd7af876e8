//! Who is compared, and how each is started.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use async_nats::jetstream::consumer::DeliverPolicy;

use super::{
    bench::Bench,
    workload::{Work, Workload},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The loop that the client's documentation shows, in Rust.
    Bare,
    /// The same, with outputs that have the id and the attributes of Pelton's: what these cost the server.
    BareAlike,
    /// Pelton with a function that is compiled in.
    Native,
    /// Pelton's program with a function in that runtime.
    Python,
    Node,
    Wasm,
    FastStream,
    NatsJs,
}

/// One thing to run, in so many processes that share its consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) processes: usize,
}

/// A contender at work, killed by drop.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) stream: String,
    pub(crate) durables: Vec<String>,
    /// What the streams that Pelton makes for it begin with.
    pub(crate) owned: String,
    commands: Vec<Command>,
    children: Vec<Child>,
    log: PathBuf,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::BareAlike => "bare, ids",
            Self::Native => "native",
            Self::Python => "python",
            Self::Node => "node",
            Self::Wasm => "wasm",
            Self::FastStream => "faststream",
            Self::NatsJs => "nats.js",
        }
    }

    /// Whether this build has what it takes.
    pub(crate) const fn is_there(self) -> bool {
        cfg!(feature = "wasm") || !matches!(self, Self::Wasm)
    }

    const fn is_pelton(self) -> bool {
        matches!(self, Self::Native | Self::Python | Self::Node | Self::Wasm)
    }
}

impl Contender {
    pub(crate) const fn one(kind: Kind) -> Self {
        Self { kind, processes: 1 }
    }

    pub(crate) fn name(self) -> String {
        match self.processes {
            1 => self.kind.name().to_owned(),
            count => format!("{} × {count}", self.kind.name()),
        }
    }
}

impl Bench {
    /// Starts a contender on what a stream holds or, with [`DeliverPolicy::New`], on what will come.
    pub(crate) async fn start(
        &self,
        contender: Contender,
        workload: &Workload,
        from: DeliverPolicy,
    ) -> Running {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = format!("b{}", RUNS.fetch_add(1, Ordering::Relaxed));
        let durables: Vec<String> = (0..workload.bindings).map(|n| format!("{run}-f{n}")).collect();
        if contender.kind.is_pelton() {
            self.manifest(&run, contender.kind, workload, from);
        } else {
            for durable in &durables {
                self.consumer(workload.stream, durable, from).await;
            }
        }
        let log = self.site.path(&format!("{run}.log"));
        let commands = (0..contender.processes).map(|_| {
            let mut command = self.command(contender.kind, workload, &durables, &run);
            let output = fs::File::options().create(true).append(true).open(&log).expect("a log");
            command
                .stdin(Stdio::null())
                .stdout(output.try_clone().expect("a handle"))
                .stderr(output);
            command
        });
        let mut running = Running {
            name: format!("{} in {}", contender.name(), workload.name),
            stream: workload.stream.to_owned(),
            commands: commands.collect(),
            children: Vec::new(),
            durables,
            owned: run,
            log,
        };
        running.start_again();
        running
    }

    /// Ends a contender and removes what it left on the server.
    pub(crate) async fn end(&self, running: Running) {
        let (stream, durables, owned) =
            (running.stream.clone(), running.durables.clone(), running.owned.clone());
        drop(running);
        self.tidy(&stream, &durables, &owned).await;
    }

    fn command(&self, kind: Kind, workload: &Workload, durables: &[String], run: &str) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = self.site.path(&format!("{run}.yaml"));
        let mut command = match kind {
            Kind::Bare | Kind::BareAlike | Kind::Native => {
                let mut command = Command::new(env::current_exe().expect("this program"));
                command.env("CONTENDER", kind.name()).env("MANIFEST", manifest);
                command
            }
            Kind::Python | Kind::Node | Kind::Wasm => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
                command.arg("run").arg(manifest).env("PELTON_LOG", "warn");
                command
            }
            Kind::FastStream => {
                let mut command = Command::new(root.join(".tools/bench-python/bin/python"));
                command.arg(root.join("tests/bench/peers/subscriber.py"));
                command
            }
            Kind::NatsJs => {
                let mut command = Command::new("node");
                command.arg(root.join("tests/bench/peers/consume.mjs"));
                command.env("PEERS", root.join(".tools/bench-node"));
                command
            }
        };
        command
            .env("NATS_URL", self.server.url())
            .env("WORK", workload.work.name())
            .env("STREAM", workload.stream)
            .env("SUBJECT", workload.subject)
            .env("CONSUMER", &durables[0])
            .env("CONSUMERS", durables.join(","))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn manifest(&self, run: &str, kind: Kind, workload: &Workload, from: DeliverPolicy) {
        let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/functions");
        let file = |suffix| functions.join(format!("{}.{suffix}", workload.work.function()));
        let function = match kind {
            Kind::Python => format!("run: {:?}", file("py")),
            Kind::Node => format!("run: {:?}", file("mjs")),
            Kind::Wasm => format!("run: {:?}", self.component),
            _ => "native: true".to_owned(),
        };
        let start = if from == DeliverPolicy::New { "new" } else { "all" };
        let mut text = format!(
            "version: 1\nname: {run}\nnats: {{ servers: [\"{}\"] }}\nadmin: {{ listen: 127.0.0.1:{} }}\n\
             functions: {{ f: {{ {function} }} }}\nbindings:\n",
            self.server.url(),
            workload.admin
        );
        for n in 0..workload.bindings {
            let subject = workload.subject.replace('*', &n.to_string());
            writeln!(
                text,
                "  - {{ subject: {subject}, function: f, name: f{n}, start: {start}, {} }}",
                workload.binding
            )
            .expect("text");
        }
        self.site.file(&format!("{run}.yaml"), text);
    }
}

impl Running {
    pub(crate) fn start_again(&mut self) {
        for command in &mut self.commands {
            let child = command.spawn();
            let child = child.unwrap_or_else(|err| panic!("{command:?} does not start: {err}"));
            self.children.push(child);
        }
    }

    pub(crate) fn kill(&mut self) {
        for mut child in self.children.drain(..) {
            child.kill().expect("a contender is killed");
            child.wait().expect("a contender ends");
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    pub(crate) fn assert_alive(&mut self) {
        let ended =
            self.children.iter_mut().find_map(|child| child.try_wait().expect("it can be asked"));
        if let Some(status) = ended {
            panic!("{} ended with {status}: {}", self.name, self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
