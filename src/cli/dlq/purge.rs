//! `pelton dlq purge`.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use super::{Failure, Which, bar, letters};
use crate::cli::terminal::{self, say};

/// Arguments of `pelton dlq purge`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,

    /// Say what would go, and throw nothing away.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let found = args.which.find().await?;
    let all = found.all().await?;
    if args.dry_run || all.is_empty() {
        say!("{} would be thrown away", letters(all.len()));
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed(all.len())? {
        say!("nothing was thrown away");
        return Ok(ExitCode::FAILURE);
    }
    let bar = bar(all.len());
    for letter in &all {
        found.letters.delete(letter.sequence).await.map_err(Failure::Problem)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    say!("{} thrown away", letters(all.len()));
    Ok(ExitCode::SUCCESS)
}

/// Asks whoever sits at the terminal.
fn confirmed(count: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "this throws {} away for good: say `--yes`, or look with `--dry-run`",
            letters(count)
        )));
    }
    terminal::confirmed(&format!("throw {} away for good?", letters(count)))
}
