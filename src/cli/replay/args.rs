//! What `pelton replay` is asked for.

use std::path::PathBuf;

use crate::cli::{dlq::moment, plan::Output};
use pelton::replay::Bound;

/// Arguments of `pelton replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pelton replay payment --from 2030-01-31T12:00:00Z --to 2030-01-31T14:00:00Z
  pelton replay payment --from 4711 --dry-run
  pelton replay audit --from 30d --as-new --yes

Outputs have the ids that they had: within the duplicate window of its stream an output that is
there already is not stored again. Interrupted, or killed, the same command goes on where it was.")]
pub(in crate::cli) struct Args {
    /// The binding.
    pub(super) binding: String,

    /// The manifest [default: pelton.yaml].
    pub(super) file: Option<PathBuf>,

    /// The first event: its sequence, or the time (RFC 3339) since which it was stored, or so long
    /// ago: `2h`, `30d`.
    #[arg(long, value_parser = written)]
    pub(super) from: Written,

    /// The last event: its sequence, or the time before which it was stored, or so long ago [default:
    /// the last one there is].
    #[arg(long, value_parser = written)]
    pub(super) to: Option<Written>,

    /// Call the function, and store nothing: no outputs, no state, no dead letters. State begins
    /// with nothing, in memory.
    #[arg(long, conflicts_with = "as_new")]
    pub(super) dry_run: bool,

    /// Give outputs new ids, so that they are stored whatever was stored before.
    #[arg(long)]
    pub(super) as_new: bool,

    /// Begin anew instead of going on with a replay that was interrupted.
    #[arg(long)]
    pub(super) restart: bool,

    /// Do not ask.
    #[arg(short, long)]
    pub(super) yes: bool,

    /// How to print what came of it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// A bound, and how it was written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) bound: Bound,
}

fn written(text: &str) -> Result<Written, String> {
    let bound = match text.parse() {
        Ok(sequence) => Bound::Sequence(sequence),
        Err(_) => Bound::Time(moment(text).map_err(|why| format!("a sequence, {why}"))?),
    };
    Ok(Written { text: text.to_owned(), bound })
}
