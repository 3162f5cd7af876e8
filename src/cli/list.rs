//! `pelton list`.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::{
    Failure, connect, json, load,
    terminal::{self, say},
};
use pelton::nats::{Orphan, ReplayReport, Report};

/// Arguments of `pelton list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The manifest [default: pelton.yaml].
    file: Option<PathBuf>,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let manifest = load(args.file.as_deref())?.manifest;
    let connection = connect(&manifest).await?;
    let report = Report::of(&connection, &manifest).await?;
    let text = match args.output {
        Output::Json => json(&report)?,
        Output::Table => describe(&report),
    };
    say!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn describe(report: &Report) -> String {
    let header = [
        "BINDING",
        "FUNCTION",
        "SUBJECT",
        "STREAM",
        "STATE",
        "LAG",
        "UNACKED",
        "DEFERRED",
        "DEAD",
        "LAST ERROR",
    ];
    let rows: Vec<Vec<String>> = report
        .bindings
        .iter()
        .map(|binding| {
            vec![
                binding.binding.clone(),
                binding.function.clone(),
                binding.subjects.join(", "),
                binding.stream.clone().unwrap_or_else(|| "–".to_owned()),
                binding.state.to_owned(),
                binding.lag.to_string(),
                binding.ack_pending.to_string(),
                binding.deferred.to_string(),
                binding.dead_letters.to_string(),
                binding.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let mut text = terminal::table(&header, &rows);
    if !report.replays.is_empty() {
        text.push_str(
            "\n\nReplays (an idle one goes on with the same command, `--restart` drops it):\n",
        );
        text.push_str(&replays(&report.replays));
    }
    if !report.orphans.is_empty() {
        text.push_str(
            "\n\nConsumers that no binding owns any more (nothing deletes them for you):\n",
        );
        text.push_str(&orphans(&report.orphans));
    }
    text
}

fn replays(replays: &[ReplayReport]) -> String {
    let rows: Vec<Vec<String>> = replays
        .iter()
        .map(|replay| {
            let ReplayReport { binding, stream, state, first, last, done_to, .. } = replay;
            let whole = replay.to.as_deref().map(|to| format!(" to {to}")).unwrap_or_default();
            vec![
                binding.clone(),
                stream.clone(),
                format!("{}{whole}", replay.from),
                (*state).to_owned(),
                format!("{done_to} of {first}..{last}"),
                replay.pending.to_string(),
                replay.last_activity.clone().unwrap_or_else(|| "–".to_owned()),
            ]
        })
        .collect();
    let header = ["BINDING", "STREAM", "FROM", "STATE", "DONE TO", "LEFT AT MOST", "LAST ACTIVITY"];
    terminal::table(&header, &rows)
}

fn orphans(orphans: &[Orphan]) -> String {
    let rows: Vec<Vec<String>> = orphans
        .iter()
        .map(|orphan| vec![orphan.consumer.clone(), orphan.stream.clone(), orphan.lag.to_string()])
        .collect();
    terminal::table(&["CONSUMER", "STREAM", "LAG"], &rows)
}
