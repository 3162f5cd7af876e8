//! `pelton dlq list`.

use std::process::ExitCode;

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::{Failure, Which};
use crate::cli::{
    list::Output,
    terminal::{self, say},
};
use pelton::nats::StoredLetter;

/// Arguments of `pelton dlq list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let found = args.which.find().await?;
    let all = found.all().await?;
    match args.output {
        Output::Json => {
            let list = Value::from(all.iter().map(described).collect::<Vec<_>>());
            say!("{list:#}");
        }
        Output::Table if all.is_empty() => say!("no dead letters"),
        Output::Table => say!("{}", table(&all)),
    }
    Ok(ExitCode::SUCCESS)
}

/// A letter but for its payload, for programs.
pub(super) fn described(letter: &StoredLetter) -> Value {
    json!({
        "sequence": letter.sequence,
        "binding": letter.binding,
        "reason": letter.get("reason"),
        "error": letter.error(),
        "event": letter.event(),
        "subject": letter.get("subject"),
        "time": letter.time.format(&Rfc3339).unwrap_or_default(),
        "lives": letter.lives(),
        "attempts": letter.attempts(),
    })
}

fn table(all: &[StoredLetter]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|letter| {
            let error = letter.error();
            vec![
                letter.sequence.to_string(),
                letter
                    .time
                    .replace_nanosecond(0)
                    .unwrap_or(letter.time)
                    .format(&Rfc3339)
                    .unwrap_or_default(),
                letter.binding.clone(),
                letter.event(),
                letter.get("subject").to_owned(),
                letter.get("reason").to_owned(),
                letter.attempts().len().to_string(),
                error.lines().next().unwrap_or_default().chars().take(80).collect(),
            ]
        })
        .collect();
    let header = ["LETTER", "TIME", "BINDING", "EVENT", "SUBJECT", "REASON", "TRIES", "ERROR"];
    terminal::table(&header, &rows)
}
