//! What is left of traces without the feature: nothing.

use super::Place;
use crate::event::{Event, Headers, Publish};

/// What sends spans away.
#[derive(Debug)]
pub struct Exporting;

/// Starts nothing.
///
/// # Errors
/// Never.
pub async fn start() -> Result<Exporting, String> {
    Ok(Exporting)
}

impl Exporting {
    /// Ends nothing.
    pub async fn finish(self) {}
}

/// The trace of an event that is handled.
#[derive(Debug, Default)]
pub struct Trace(());

impl Trace {
    /// Begins nothing.
    #[must_use]
    pub const fn begin(_event: &Event, _place: Place<'_>) -> Self {
        Self(())
    }

    /// Puts nothing into headers.
    pub const fn carry(&self, _headers: &mut Headers) {}

    /// None.
    #[must_use]
    pub const fn id(&self, _headers: &Headers) -> Option<String> {
        None
    }

    /// Says nothing of how it went.
    pub const fn ended(&mut self, _outcome: &'static str, _error: Option<&str>) {}

    /// Begins nothing.
    #[must_use]
    pub const fn publish(&self, _message: &mut Publish, _event: &Event) -> Step {
        Step
    }

    /// Begins nothing.
    #[must_use]
    pub const fn settle(&self, _word: &'static str, _place: Place<'_>) -> Step {
        Step
    }
}

/// A part of a trace.
#[derive(Debug)]
pub struct Step;

impl Step {
    /// Says nothing.
    pub const fn failed(&mut self, _why: &str) {}
}

/// Tells nobody that events have come.
pub fn received<'a>(_place: Place<'_>, _events: impl ExactSizeIterator<Item = &'a Event>) {}

/// Begins nothing.
#[must_use]
pub const fn sent(_subject: &str, _bytes: usize, _headers: &mut Headers) -> Step {
    Step
}
