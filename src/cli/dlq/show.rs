//! `pelton dlq show`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{Failure, Which, list::described};
use crate::cli::{
    list::Output,
    terminal::{self, say},
};
use pelton::{event::Headers, letter::is_of_letters, nats::StoredLetter};

/// How much of a payload that is no text is shown, in bytes.
const BYTES_SHOWN: usize = 1024;

/// Arguments of `pelton dlq show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,

    /// Write the payload alone, as it is, to standard output.
    #[arg(long)]
    raw: bool,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "raw")]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let found = args.which.find().await?;
    let all = found.all().await?;
    if args.raw && all.len() != 1 {
        return Err(Failure::Usage(format!(
            "`--raw` is for one letter, and these are {}: name its number",
            all.len()
        )));
    }
    for (index, known) in all.iter().enumerate() {
        let Some(letter) = found.again(known.sequence).await? else { continue };
        match args.output {
            _ if args.raw => io::stdout().lock().write_all(&letter.data)?,
            Output::Json => say!("{:#}", whole(&letter)),
            Output::Table => {
                if index > 0 {
                    say!("");
                }
                say!("{}", text(&letter));
            }
        }
    }
    if all.is_empty() {
        eprintln!("no dead letters");
    }
    Ok(ExitCode::SUCCESS)
}

fn whole(letter: &StoredLetter) -> Value {
    // Those of the event are not in its letter: what is there says how the letter was stored.
    let headers: Vec<_> =
        letter.headers.iter().filter(|(name, _)| !Headers::is_of_server(name)).collect();
    let text = std::str::from_utf8(&letter.data).ok();
    let payload = serde_json::from_slice(&letter.data).ok().or_else(|| text.map(Value::from));
    json!({ "letter": described(letter), "headers": headers, "payload": payload })
}

fn text(letter: &StoredLetter) -> String {
    let mut text = format!(
        "dead letter {} of {}: {}\n{}\n\nevent    {} on {}, stored {}\nlives    {}\n",
        letter.sequence,
        letter.binding,
        letter.get("reason"),
        letter.error(),
        letter.event(),
        letter.get("subject"),
        letter.get("event-time"),
        letter.lives() + 1,
    );
    let cell = |attempt: &Value, key: &str| {
        attempt.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let rows: Vec<Vec<String>> = letter
        .attempts()
        .iter()
        .map(|attempt| ["time", "outcome", "error"].map(|key| cell(attempt, key)).to_vec())
        .collect();
    text.push_str(&format!("\n{}\n", terminal::table(&["TRIED", "OUTCOME", "ERROR"], &rows)));
    let headers: Vec<Vec<String>> = letter
        .headers
        .iter()
        .filter(|(name, _)| !is_of_letters(name) && !Headers::is_of_server(name))
        .map(|(name, value)| vec![name.to_owned(), value.to_owned()])
        .collect();
    if !headers.is_empty() {
        text.push_str(&format!("\n{}\n", terminal::table(&["HEADER", "VALUE"], &headers)));
    }
    text.push('\n');
    text.push_str(&payload(letter));
    text
}

fn payload(letter: &StoredLetter) -> String {
    if letter.is_without_payload() {
        return format!("(the payload had no room here and stayed in {})", letter.event());
    }
    if let Ok(json) = serde_json::from_slice::<Value>(&letter.data) {
        return format!("{json:#}");
    }
    if let Ok(text) = std::str::from_utf8(&letter.data) {
        return text.to_owned();
    }
    let lines: Vec<String> = letter
        .data
        .chunks(16)
        .take(BYTES_SHOWN / 16)
        .enumerate()
        .map(|(line, bytes)| {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let plain: String = bytes
                .iter()
                .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
                .collect();
            format!("{:08x}  {:<47}  {plain}", line * 16, hex.join(" "))
        })
        .collect();
    format!("{}\n({} bytes; `--raw` writes them all)", lines.join("\n"), letter.data.len())
}
