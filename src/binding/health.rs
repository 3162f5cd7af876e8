//! Whether a binding's function can be called.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::settle::backoff;

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Up, or degraded and why.
#[derive(Debug)]
pub struct Health {
    binding: String,
    /// Failed starts in a row; 0 means up.
    failures: AtomicU32,
    why: watch::Sender<Option<String>>,
    gauge: IntGauge,
}

impl Health {
    /// A binding that is up until shown otherwise.
    #[must_use]
    pub fn new(binding: &str, gauge: IntGauge) -> Self {
        gauge.set(1);
        Self {
            binding: binding.to_owned(),
            failures: AtomicU32::new(0),
            why: watch::Sender::new(None),
            gauge,
        }
    }

    /// Why the binding is degraded, as it changes; `None` while it is up.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<String>> {
        self.why.subscribe()
    }

    pub(super) fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    /// The function ran, however it ended.
    pub(crate) fn ran(&self) {
        if !self.is_up() {
            self.failures.store(0, Ordering::Relaxed);
            self.why.send_replace(None);
            self.gauge.set(1);
            info!(binding = self.binding, "the function starts again");
        }
    }

    /// The function could not be started.
    pub(crate) fn could_not_start(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.gauge.set(0);
        let changed = self.why.send_if_modified(|known| {
            let new = known.as_deref() != Some(why);
            if new {
                *known = Some(why.to_owned());
            }
            new
        });
        if changed {
            warn!(binding = self.binding, why, "the function cannot start; its events wait");
        }
    }

    /// How long to leave the function alone.
    pub(super) fn wait(&self, jitter: f64) -> Duration {
        backoff(WAIT_MIN, WAIT_MAX, self.failures.load(Ordering::Relaxed), jitter)
    }
}
