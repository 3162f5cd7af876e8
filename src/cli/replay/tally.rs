//! What a replay has come to.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::cli::terminal;
use pelton::{
    metrics::Metrics,
    observer::{Invocation, Observer},
    replay::{Outputs, Replay},
    settle::Ack,
};

/// Dead letters that are listed in the end; the rest is counted.
const LISTED_MAX: usize = 100;

/// How often progress is told where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often it is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Counts invocations as they end, and shows how many did.
#[derive(Debug)]
pub(super) struct Tally {
    binding: String,
    events: u64,
    done: AtomicU64,
    again: AtomicU64,
    dead: AtomicU64,
    listed: Mutex<Vec<Dead>>,
    bar: ProgressBar,
}

/// An event that was given up.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Dead {
    event: String,
    subject: String,
    reason: &'static str,
    error: Option<String>,
}

/// What came of a replay, in this run of the command.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    binding: String,
    stream: String,
    first: u64,
    last: u64,
    dry_run: bool,
    /// Whether every event was dealt with.
    complete: bool,
    done: u64,
    /// Tries that did not succeed and were followed by another one.
    retries: u64,
    pub(super) dead_letters: u64,
    outputs: Published,
    /// The first of the dead letters.
    failed: Vec<Dead>,
}

#[derive(Debug, Serialize)]
struct Published {
    stored: u64,
    duplicate: u64,
    discarded: u64,
}

impl Tally {
    pub(super) fn new(binding: &str, events: u64) -> Self {
        Self {
            binding: binding.to_owned(),
            events,
            done: AtomicU64::new(0),
            again: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            listed: Mutex::default(),
            bar: terminal::progress(events, "{bar:30} {pos}/{len} {per_sec} {eta} {msg}"),
        }
    }

    /// Shows progress for as long as it is polled.
    pub(super) async fn show(self: Arc<Self>) {
        let drawn = io::stderr().is_terminal();
        let mut tick = tokio::time::interval(if drawn { DRAW_EVERY } else { TELL_EVERY });
        tick.tick().await;
        loop {
            tick.tick().await;
            let (done, dead) = (load(&self.done), load(&self.dead));
            let letters = if dead > 0 { format!("({dead} dead letters)") } else { String::new() };
            if drawn {
                self.bar.set_position(done + dead);
                self.bar.set_message(letters);
            } else {
                eprintln!("{}: {} of {} events {letters}", self.binding, done + dead, self.events);
            }
        }
    }

    pub(super) fn hide(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn report(
        &self,
        replay: &Replay,
        stream: &str,
        metrics: &Metrics,
        complete: bool,
    ) -> Report {
        let handles = metrics.binding(&self.binding);
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            binding: self.binding.clone(),
            stream: stream.to_owned(),
            first: replay.first,
            last: replay.last,
            dry_run: replay.outputs == Outputs::Nowhere,
            complete,
            done: load(&self.done),
            retries: load(&self.again),
            dead_letters: load(&self.dead),
            outputs: Published {
                stored: handles.published_stored.get(),
                duplicate: handles.published_duplicate.get(),
                discarded: handles.published_discarded.get(),
            },
            failed: listed.clone(),
        }
    }
}

impl Observer for Tally {
    fn settled(&self, invocation: &Invocation) {
        let counter = match (&invocation.ack, invocation.dead_letter) {
            (Ack::Redeliver { .. }, _) => &self.again,
            (_, None) => &self.done,
            (_, Some(_)) => &self.dead,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let Some(reason) = invocation.dead_letter else { return };
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() < LISTED_MAX {
            listed.push(Dead {
                event: invocation.event.clone(),
                subject: invocation.subject.clone(),
                reason: reason.as_str(),
                error: invocation.error.clone(),
            });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { binding, done, retries, dead_letters: dead, outputs, .. } = self;
        let Published { stored, duplicate, discarded } = outputs;
        for Dead { event, subject, reason, error } in &self.failed {
            let error = error.as_deref().unwrap_or_default();
            writeln!(f, "{event} {subject}: {reason}: {error}")?;
        }
        let more = dead.saturating_sub(self.failed.len() as u64);
        if more > 0 {
            writeln!(f, "and {more} more")?;
        }
        let (would, letters) = match self.dry_run {
            true => ("would be ", "would be dead letters"),
            false => ("", "dead letters (`pelton dlq list` shows them)"),
        };
        writeln!(f, "{binding}: {done} events done, {dead} {letters}, {retries} retries")?;
        write!(f, "outputs: {stored} {would}stored, {duplicate} were there already")?;
        if *discarded > 0 {
            write!(f, ", {discarded} had nowhere to go")?;
        }
        if !self.complete {
            write!(f, "\nstopped before the end: the same command goes on from here")?;
        }
        Ok(())
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
