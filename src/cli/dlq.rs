//! `pelton dlq`: dead letters, looked at, sent again, thrown away.

mod edit;
mod list;
mod purge;
mod redrive;
mod show;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Subcommand;
use indicatif::ProgressBar;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Failure, connect, load, terminal};
use pelton::{
    duration,
    manifest::Manifest,
    nats::{Filter, Letters, StoredLetter},
};

/// Arguments of `pelton dlq`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pelton dlq list --binding payment --since 2h
  pelton dlq show 17
  pelton dlq redrive --reason timeout --rate 50/s
  pelton dlq redrive 17 --edit
  pelton dlq purge --binding payment --until 2030-01-31T00:00:00Z --dry-run")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show dead letters, a line each.
    List(list::Args),
    /// Show one with its headers, its history and its payload.
    Show(show::Args),
    /// Send events again, each to the binding that gave it up, and take their letters away.
    Redrive(redrive::Args),
    /// Throw dead letters away.
    Purge(purge::Args),
}

/// Which letters are meant.
#[derive(Debug, clap::Args)]
struct Which {
    /// Letters by their number in the dead-letter stream; all that the options below let through
    /// otherwise.
    sequences: Vec<u64>,

    /// Of this binding.
    #[arg(short, long)]
    binding: Option<String>,

    /// With this reason: `attempts_exhausted`, `rejected`, `timeout`, `crashed` …
    #[arg(long)]
    reason: Option<String>,

    /// Whose event had this subject; wildcards allowed.
    #[arg(long)]
    subject: Option<String>,

    /// Whose error contains this text.
    #[arg(long)]
    error: Option<String>,

    /// Stored since: a time (RFC 3339), or so long ago: `2h`, `30d`.
    #[arg(long, value_parser = moment)]
    since: Option<OffsetDateTime>,

    /// Stored before: a time (RFC 3339), or so long ago.
    #[arg(long, value_parser = moment)]
    until: Option<OffsetDateTime>,

    /// The manifest [default: pelton.yaml].
    #[arg(short = 'f', long = "file")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::List(args) => list::run(args).await,
        Verb::Show(args) => show::run(args).await,
        Verb::Redrive(args) => redrive::run(args).await,
        Verb::Purge(args) => purge::run(args).await,
    }
}

/// The letters that are meant, and where they are.
struct Found {
    letters: Letters,
    filter: Filter,
}

impl Which {
    async fn find(self) -> Result<Found, Failure> {
        let manifest = load(self.file.as_deref())?.manifest;
        if let Some(binding) = &self.binding {
            check_binding(&manifest, binding)?;
        }
        let connection = connect(&manifest).await?;
        let filter = Filter {
            binding: self.binding,
            reason: self.reason,
            subject: self.subject,
            error: self.error,
            since: self.since,
            until: self.until,
            sequences: self.sequences,
        };
        Ok(Found { letters: Letters::of(&connection, &manifest).await?, filter })
    }
}

impl Found {
    /// All of them as they are now, without their payloads.
    async fn all(&self) -> Result<Vec<StoredLetter>, Failure> {
        let mut all = Vec::new();
        let mut after = 0;
        while let Some(mut letter) = self.letters.next(&self.filter, after).await? {
            after = letter.sequence;
            letter.data = letter.data.slice(..0);
            all.push(letter);
        }
        self.check(&all)?;
        Ok(all)
    }

    /// A letter again, with its payload; `None` when it is gone by now.
    async fn again(&self, sequence: u64) -> Result<Option<StoredLetter>, Failure> {
        let filter = Filter { sequences: vec![sequence], ..Filter::default() };
        let found = self.letters.next(&filter, sequence.saturating_sub(1)).await?;
        Ok(found.filter(|letter| letter.sequence == sequence))
    }

    /// Numbers that were named and are no letters are mistakes.
    fn check(&self, found: &[StoredLetter]) -> Result<(), Failure> {
        let missing = |sequence: &&u64| !found.iter().any(|letter| letter.sequence == **sequence);
        match self.filter.sequences.iter().find(missing) {
            Some(sequence) => Err(Failure::Problem(format!(
                "there is no dead letter {sequence}, or the options do not let it through\n  `pelton dlq list` shows those that there are"
            ))),
            None => Ok(()),
        }
    }
}

/// Whether the manifest has a binding of this name.
pub(super) fn check_binding(manifest: &Manifest, name: &str) -> Result<(), Failure> {
    if manifest.bindings.iter().any(|binding| binding.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = manifest.bindings.iter().map(|binding| binding.name.as_str()).collect();
    Err(Failure::Usage(format!(
        "there is no binding `{name}`\n  {} has {}",
        manifest.name,
        names.join(", ")
    )))
}

/// A moment: a time, or how long ago it was.
pub(super) fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time);
    }
    let ago: Duration = duration::parse(text)
        .map_err(|_| "a time like 2030-01-31T12:00:00Z, or an age like 2h".to_owned())?;
    Ok(OffsetDateTime::now_utc() - ago)
}

/// A bar of so many letters; drawn on a terminal only.
fn bar(count: usize) -> ProgressBar {
    terminal::progress(count as u64, "{bar:30} {pos}/{len} {per_sec} {eta}")
}

fn letters(count: usize) -> String {
    format!("{count} dead {}", if count == 1 { "letter" } else { "letters" })
}
