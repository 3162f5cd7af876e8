//! `pelton dlq redrive`.

use std::{process::ExitCode, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Failure, Found, Which, bar, edit::edit, letters};
use crate::cli::terminal::say;
use pelton::{nats::StoredLetter, source::Stored};

/// An event that came back as often as this and died again wants somebody to look at it.
const LIVES: u64 = 10;

/// Arguments of `pelton dlq redrive`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,

    /// Say what would be sent, and send nothing.
    #[arg(long)]
    dry_run: bool,

    /// Change the payload of the one letter in `$EDITOR` first; the digest of what it was is kept.
    #[arg(long)]
    edit: bool,

    /// Letters in a second at most: `100` or `100/s`.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,

    /// Also those whose event came back ten times already.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let found = args.which.find().await?;
    let (mut ready, mut left) = (Vec::new(), 0);
    for letter in found.all().await? {
        match obstacle(&found, &letter, args.force) {
            None => ready.push(letter),
            Some(why) => {
                eprintln!("dead letter {} stays: {why}", letter.sequence);
                left += 1;
            }
        }
    }
    if args.edit && ready.len() != 1 {
        return Err(Failure::Usage(format!(
            "`--edit` is for one letter, and these are {}: name its number",
            ready.len()
        )));
    }
    if args.dry_run {
        for letter in &ready {
            let binding = found.letters.heir(letter).unwrap_or_default();
            let event = letter.event();
            say!("dead letter {} would go to {binding} again: {event}", letter.sequence);
        }
        say!("{} would be sent again", letters(ready.len()));
        return Ok(code(left));
    }
    let sent = send(&found, &ready, args.edit, args.rate).await?;
    say!("{} sent again", letters(sent));
    Ok(code(left))
}

/// What keeps a letter from being sent again, for people.
fn obstacle(found: &Found, letter: &StoredLetter, force: bool) -> Option<String> {
    if found.letters.heir(letter).is_none() {
        return Some(format!(
            "the manifest has no binding `{}` any more; if it has another name now, that binding wants `renamed_from: {}`",
            letter.binding, letter.binding
        ));
    }
    if letter.is_without_payload() {
        return Some(format!(
            "its payload had no room and stayed in {}; publish that again where it belongs",
            letter.event()
        ));
    }
    let lives = letter.lives();
    (lives >= LIVES && !force).then(|| {
        format!("its event came back {lives} times already (--force sends it all the same)")
    })
}

async fn send(
    found: &Found,
    ready: &[StoredLetter],
    edited: bool,
    rate: Option<f64>,
) -> Result<usize, Failure> {
    let bar = bar(ready.len());
    let pause = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
    let mut due = Instant::now();
    let mut sent = 0;
    for known in ready {
        sleep_until(due).await;
        due += pause.unwrap_or_default();
        bar.inc(1);
        // Somebody else may have sent it meanwhile.
        let Some(letter) = found.again(known.sequence).await? else { continue };
        let changed = if edited { edit(&letter)? } else { None };
        let was_changed = changed.is_some();
        let stored = found.letters.redrive(&letter, changed).await.map_err(|why| {
            Failure::Problem(format!("dead letter {}: {why} ({sent} were sent)", letter.sequence))
        })?;
        sent += usize::from(stored == Stored::New);
        if was_changed && stored == Stored::Duplicate {
            eprintln!(
                "dead letter {} was sent before, as it was: the change is lost",
                letter.sequence
            );
        }
    }
    bar.finish_and_clear();
    Ok(sent)
}

fn code(left: usize) -> ExitCode {
    if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a number of letters in a second, like 100/s".to_owned()),
    }
}
