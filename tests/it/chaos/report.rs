//! What a scenario has come to.

use std::{fmt::Display, time::Instant};

use super::fleet::Fleet;

/// A table, and what in it had to be 0.
#[derive(Debug)]
pub(super) struct Report {
    scenario: &'static str,
    begun: Instant,
    rows: Vec<(String, String)>,
    wrong: Vec<String>,
}

impl Report {
    pub(super) fn new(scenario: &'static str, seed: u64) -> Self {
        println!("{scenario}: SEED={seed}");
        Self {
            scenario,
            begun: Instant::now(),
            rows: vec![("seed".to_owned(), seed.to_string())],
            wrong: Vec::new(),
        }
    }

    pub(super) fn line(&mut self, what: &str, value: impl Display) {
        self.rows.push((what.to_owned(), value.to_string()));
    }

    /// A count that must be 0.
    pub(super) fn zero(&mut self, what: &str, count: usize) {
        self.line(what, count);
        if count != 0 {
            self.wrong.push(format!("{what}: {count}"));
        }
    }

    /// A count that shows that the faults did something.
    pub(super) fn some(&mut self, what: &str, count: f64) {
        self.line(what, count);
        if count < 0.5 {
            self.wrong.push(format!("{what}: none"));
        }
    }

    pub(super) fn faults(&mut self, fleet: &Fleet<'_>) {
        for (what, count) in &fleet.injected {
            self.line(what, count);
        }
    }

    /// What the runners have seen of it.
    pub(super) async fn runners(&mut self, fleet: &Fleet<'_>) {
        self.line("reconnects", fleet.sum("nats_reconnects_total", &[]).await);
        self.line("publishes tried again", fleet.said("publish failed; trying again"));
        let known = [("outcome", "duplicate")];
        self.line("outputs known already", fleet.sum("published_events_total", &known).await);
        self.line("events delivered again", fleet.sum("redeliveries_total", &[]).await);
    }

    /// Shows the table.
    ///
    /// # Panics
    /// When something is not 0 that must be, or the other way round.
    pub(super) fn print(mut self) {
        let seconds = self.begun.elapsed().as_secs();
        self.line("seconds in all", seconds);
        println!("\n{}", self.scenario);
        for (what, value) in &self.rows {
            println!("  {what:<32} {value:>12}");
        }
        assert!(self.wrong.is_empty(), "{}: {:?}", self.scenario, self.wrong);
    }
}
