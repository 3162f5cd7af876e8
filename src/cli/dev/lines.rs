//! What `pelton dev` shows: the table of bindings, and a line for each invocation.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use time::{OffsetDateTime, macros::format_description};

use crate::cli::terminal::{self, say};
use pelton::{
    duration,
    manifest::{Manifest, Runtime},
    observer::{Invocation, Observer},
    runner::Start,
    settle::{Ack, Exhausted, Outcome},
};

/// Colours, when there is a terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn new() -> Self {
        Self(terminal::colours(&std::io::stdout()))
    }

    pub(super) fn good(self, text: &str) -> String {
        self.code(32, text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.code(31, text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.code(1, text)
    }

    fn code(self, code: u8, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Prints invocations as they end, and counts them.
#[derive(Debug)]
pub(super) struct Lines {
    paint: Paint,
    name_width: usize,
    subject_width: usize,
    acked: AtomicU64,
    given_back: AtomicU64,
    dead: AtomicU64,
}

impl Lines {
    pub(super) fn new(manifest: &Manifest, paint: Paint) -> Self {
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0).min(32);
        let bindings = &manifest.bindings;
        Self {
            paint,
            name_width: longest(&mut bindings.iter().map(|binding| binding.name.len())),
            subject_width: longest(
                &mut bindings.iter().flat_map(|binding| binding.subjects.iter().map(String::len)),
            ),
            acked: AtomicU64::new(0),
            given_back: AtomicU64::new(0),
            dead: AtomicU64::new(0),
        }
    }

    pub(super) fn table(&self, manifest: &Manifest, starts: &[Start]) -> String {
        let header = ["BINDING", "TRIGGER", "RUNTIME", "CONC", "RETRY", "READY"];
        let rows: Vec<Vec<String>> = manifest
            .bindings
            .iter()
            .zip(starts)
            .map(|(binding, start)| {
                let runtime = manifest.functions.get(&binding.function).map(|f| &f.runtime);
                let retry = &binding.retry;
                vec![
                    binding.name.clone(),
                    binding.subjects.join(", "),
                    runtime.map(Runtime::shown).unwrap_or_default(),
                    binding.concurrency.to_string(),
                    format!(
                        "{}× {}→{}",
                        retry.attempts,
                        duration::show(retry.backoff_min),
                        duration::show(retry.backoff_max)
                    ),
                    match start {
                        Start::Ready(took) => self.paint.good(&format!("✓ {}", short(*took))),
                        Start::Failed(why) => {
                            let first = why.lines().next().unwrap_or_default();
                            self.paint.bad(&format!("! {first} (retrying)"))
                        }
                        Start::Pending => "starting".to_owned(),
                    },
                ]
            })
            .collect();
        let table = terminal::table(&header, &rows);
        let indented: Vec<String> = table.lines().map(|line| format!("  {line}")).collect();
        format!("\n{}\n", indented.join("\n"))
    }

    pub(super) fn summary(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} ok, {} given back, {} dead",
            count(&self.acked),
            count(&self.given_back),
            count(&self.dead)
        )
    }

    fn ending(&self, invocation: &Invocation) -> String {
        let error = invocation.error.as_deref().unwrap_or_default();
        let error = error.lines().next().unwrap_or_default();
        match invocation.exhausted {
            Some(Exhausted::Dropped(reason)) => {
                return format!("thrown away, {}: {error}", reason.as_str());
            }
            Some(Exhausted::Pauses(_)) => return format!("nak, the binding is paused: {error}"),
            None => {}
        }
        match (&invocation.ack, invocation.dead_letter) {
            (_, Some(reason)) => format!("dead letter, {}: {error}", reason.as_str()),
            (Ack::Done, _) if invocation.outputs.is_empty() => "ack".to_owned(),
            (Ack::Done, _) => format!("ack → {}", invocation.outputs.join(", ")),
            (Ack::Redeliver { after }, _) if invocation.outcome == Outcome::Unavailable => {
                format!("waits {}: {error}", short(*after))
            }
            (Ack::Redeliver { after }, _) => format!("nak, retry in {}: {error}", short(*after)),
            (Ack::Terminate { reason }, _) => format!("terminated: {reason}"),
        }
    }
}

impl Observer for Lines {
    fn settled(&self, invocation: &Invocation) {
        let dropped = matches!(invocation.exhausted, Some(Exhausted::Dropped(_)));
        let (mark, counter) = match (&invocation.ack, invocation.dead_letter) {
            (_, Some(_)) => (self.paint.bad("☠"), &self.dead),
            _ if dropped => (self.paint.bad("☠"), &self.dead),
            (Ack::Done, _) => (self.paint.good("✓"), &self.acked),
            _ => (self.paint.bad("✗"), &self.given_back),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let clock = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let time = OffsetDateTime::now_utc().format(&clock).unwrap_or_default();
        let sequence = invocation.event.rsplit(':').next().unwrap_or_default();
        let mut line = format!(
            "{time} {mark} {:<names$}  {:<subjects$}  #{sequence:<4} try {:<2} {:>8}  {}",
            invocation.binding,
            invocation.subject,
            invocation.attempt,
            short(invocation.took),
            self.ending(invocation),
            names = self.name_width,
            subjects = self.subject_width,
        );
        // 00-<trace id>-<span id>-<flags>: its first 8 digits are enough to find it again.
        if let Some(trace) = invocation.trace.as_deref().and_then(|trace| trace.get(3..11)) {
            write!(line, "  {trace}").unwrap_or_default();
        }
        say!("{line}");
    }
}

fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.1}ms", seconds * 1000.0) } else { format!("{seconds:.1}s") }
}
