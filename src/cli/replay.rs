//! `pelton replay`: stored events of a binding, through its function once more.

mod args;
mod tally;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    Failure, connect,
    dlq::check_binding,
    json, load,
    plan::Output,
    signals,
    terminal::{self, say},
};
pub(super) use args::Args;
use pelton::{
    manifest::{Binding, Manifest},
    metrics::Metrics,
    nats::{Connection, Replays},
    observer::Observer,
    ownership::Ownership,
    replay::{Bound, Outputs, Replay},
    runner::{ReplayError, Replayer},
    runtime::{Launcher, Natives},
    shutdown::Shutdown,
};
use tally::Tally;

/// How long another replay may take to end before it is said that it is waited for.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let manifest = Arc::new(load(args.file.as_deref())?.manifest);
    let binding = find(&manifest, &args)?;
    let connection = connect(&manifest).await?;
    let replays = Replays::of(&connection, &manifest, &binding).await?;
    let stage = Stage { args, manifest, binding, connection, replays };
    let code = stage.play().await;
    stage.connection.close().await;
    code
}

fn find(manifest: &Manifest, args: &Args) -> Result<Binding, Failure> {
    check_binding(manifest, &args.binding)?;
    let found = manifest.bindings.iter().find(|known| known.name == args.binding);
    let binding = found.cloned().ok_or_else(|| Failure::Usage("no such binding".to_owned()))?;
    if binding.state.is_some() && !args.dry_run {
        return Err(Failure::Usage(format!(
            "binding `{}` keeps state, and its events were applied to that already: they cannot be applied twice\n  look with `--dry-run`, which begins with no state; to build the state anew, give the binding another name and another `state.bucket`, with `start: all`",
            binding.name
        )));
    }
    Ok(binding)
}

/// A replay, and whether it was begun already.
enum Plan {
    Begin { replay: Replay, events: u64 },
    GoOn { replay: Replay, events: u64 },
}

struct Stage {
    args: Args,
    manifest: Arc<Manifest>,
    binding: Binding,
    connection: Connection,
    replays: Replays,
}

impl Stage {
    async fn play(&self) -> Result<ExitCode, Failure> {
        let plan = self.plan().await?;
        let (Plan::Begin { replay, events } | Plan::GoOn { replay, events }) = &plan;
        let what = self.describe(replay, *events);
        let tally = Arc::new(Tally::new(&self.binding.name, *events));
        let replayer = self.replayer(&tally)?;
        match &plan {
            Plan::GoOn { .. } => eprintln!("going on with a replay: {what} left"),
            Plan::Begin { events: 0, .. } => {
                eprintln!("nothing to replay: {what}");
                return self.tell(&tally, &replayer, replay, true);
            }
            Plan::Begin { .. } if !self.args.yes && !self.args.dry_run && !confirmed(&what)? => {
                say!("nothing was replayed");
                return Ok(ExitCode::FAILURE);
            }
            Plan::Begin { .. } => {}
        }
        let shutdown = Shutdown::default();
        let mut background = JoinSet::new();
        background.spawn(signals::obey(shutdown.clone()));
        let turn = self.turn(&replayer);
        let mut ownership = tokio::select! {
            turn = turn => turn?,
            () = shutdown.drain.cancelled() => {
                return Err(Failure::Problem("stopped before it began".to_owned()));
            }
        };
        let now = self.replays.under_way().await?;
        match &plan {
            Plan::GoOn { .. } if now.as_ref() != Some(replay) => {
                ownership.give_up().await;
                say!("the replay was ended by another command meanwhile");
                return Ok(ExitCode::SUCCESS);
            }
            Plan::GoOn { .. } => {}
            Plan::Begin { .. } if now.is_some() && !self.begins_anew() => {
                ownership.give_up().await;
                return Err(Failure::Problem("another replay was begun meanwhile".to_owned()));
            }
            Plan::Begin { .. } => self.replays.begin(replay).await?,
        }
        background.spawn(Arc::clone(&tally).show());
        let done =
            replayer.run(&self.connection, &self.replays, replay, &mut ownership, &shutdown).await;
        if let (Plan::Begin { .. }, Err(ReplayError::Build(_) | ReplayError::Function(_))) =
            (&plan, &done)
        {
            // Nothing has run: there is nothing to go on with.
            self.replays.end().await?;
        }
        ownership.give_up().await;
        tally.hide();
        self.tell(&tally, &replayer, replay, done?)
    }

    /// What to do, from what was asked for and what was begun before.
    async fn plan(&self) -> Result<Plan, Failure> {
        let asked = self.asked().await?;
        match self.replays.under_way().await? {
            Some(before) if !self.begins_anew() => {
                if !before.is_same(&asked) {
                    return Err(Failure::Usage(format!(
                        "another replay of `{}` is not done yet: {}\n  say that again to go on with it, or `--restart` to drop it",
                        self.binding.name,
                        in_words(&before)
                    )));
                }
                let events = self.replays.left(&before).await?;
                Ok(Plan::GoOn { replay: before, events })
            }
            _ => {
                let events = match asked.first > asked.last {
                    true => 0,
                    false => self.replays.count(asked.first, asked.last).await?,
                };
                Ok(Plan::Begin { replay: asked, events })
            }
        }
    }

    /// Whether nothing counts of a replay that was begun before. State in memory went with it.
    const fn begins_anew(&self) -> bool {
        self.args.restart || self.binding.state.is_some()
    }

    async fn asked(&self) -> Result<Replay, Failure> {
        let Args { from, to, dry_run, as_new, .. } = &self.args;
        let last = match to.as_ref().map(|to| to.bound) {
            None => self.replays.last(),
            Some(Bound::Sequence(sequence)) => sequence.min(self.replays.last()),
            Some(time) => self.replays.first_at(time).await?.saturating_sub(1),
        };
        Ok(Replay {
            id: format!("{:016x}", fastrand::u64(..)),
            from: from.text.clone(),
            to: to.as_ref().map(|to| to.text.clone()),
            first: self.replays.first_at(from.bound).await?.max(1),
            last,
            outputs: match (dry_run, as_new) {
                (true, _) => Outputs::Nowhere,
                (false, true) => Outputs::AsNew,
                (false, false) => Outputs::AsBefore,
            },
        })
    }

    fn describe(&self, replay: &Replay, events: u64) -> String {
        let noun = if events == 1 { "event" } else { "events" };
        let Replay { first, last, .. } = replay;
        let (stream, function) = (self.replays.stream(), &self.binding.function);
        format!("{events} {noun} of {stream} ({first} to {last}) through {function}")
    }

    fn replayer(&self, tally: &Arc<Tally>) -> Result<Replayer, Failure> {
        let metrics = Metrics::new().map_err(|err| Failure::Problem(err.to_string()))?;
        Ok(Replayer {
            manifest: Arc::clone(&self.manifest),
            binding: self.binding.clone(),
            natives: Natives::new(),
            launcher: Launcher::default(),
            metrics: Arc::new(metrics),
            observer: Arc::clone(tally) as Arc<dyn Observer>,
        })
    }

    /// Two replays of one binding would not keep order, nor know when they are done.
    async fn turn(&self, replayer: &Replayer) -> Result<Ownership, Failure> {
        let turn = replayer.take_turn(&self.replays);
        tokio::pin!(turn);
        tokio::select! {
            turn = &mut turn => return Ok(turn?),
            () = tokio::time::sleep(TURN_PATIENCE) => {}
        }
        eprintln!("waiting: another replay of `{}` runs, or ran a moment ago", self.binding.name);
        Ok(turn.await?)
    }

    fn tell(
        &self,
        tally: &Tally,
        replayer: &Replayer,
        replay: &Replay,
        complete: bool,
    ) -> Result<ExitCode, Failure> {
        let report = tally.report(replay, self.replays.stream(), &replayer.metrics, complete);
        match self.args.output {
            Output::Json => say!("{}", json(&report)?),
            Output::Text => say!("{report}"),
        }
        let well = complete && report.dead_letters == 0;
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A replay as one would ask for it.
fn in_words(replay: &Replay) -> String {
    let mut words = format!("--from {}", replay.from);
    if let Some(to) = &replay.to {
        words.push_str(&format!(" --to {to}"));
    }
    words.push_str(match replay.outputs {
        Outputs::AsBefore => "",
        Outputs::AsNew => " --as-new",
        Outputs::Nowhere => " --dry-run",
    });
    words
}

fn confirmed(what: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "this runs {what}: say `--yes`, or look with `--dry-run`"
        )));
    }
    terminal::confirmed(&format!("run {what}?"))
}

impl From<ReplayError> for Failure {
    fn from(err: ReplayError) -> Self {
        match err {
            ReplayError::Provision(err) => err.into(),
            ReplayError::Source(err) => {
                Self::Nats(format!("{err}\n  the same command goes on where it was"))
            }
            ReplayError::Build(_) | ReplayError::Function(_) | ReplayError::Bucket(_) => {
                Self::Problem(err.to_string())
            }
        }
    }
}
