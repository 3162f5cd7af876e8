//! `pelton list`.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::{
    Failure, connect, json, load,
    terminal::{self, say},
};
use pelton::nats::Report;

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
    if !report.orphans.is_empty() {
        text.push_str(
            "\n\nConsumers that no binding owns any more (nothing deletes them for you):\n",
        );
        let rows: Vec<Vec<String>> = report
            .orphans
            .iter()
            .map(|orphan| {
                vec![orphan.consumer.clone(), orphan.stream.clone(), orphan.lag.to_string()]
            })
            .collect();
        text.push_str(&terminal::table(&["CONSUMER", "STREAM", "LAG"], &rows));
    }
    text
}
