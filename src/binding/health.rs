//! Whether a binding's function can be called.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
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
    /// When the last of them was counted.
    counted: Mutex<Option<Instant>>,
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
            counted: Mutex::new(None),
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
        self.count();
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

    /// Events that fail together tell of one failure: the wait grows with time, not with them.
    fn count(&self) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_up() || counted.is_none_or(|last| last.elapsed() >= self.wait(0.0)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            *counted = Some(Instant::now());
        }
    }

    /// How long to leave the function alone.
    pub(super) fn wait(&self, jitter: f64) -> Duration {
        backoff(WAIT_MIN, WAIT_MAX, self.failures.load(Ordering::Relaxed), jitter)
    }
}
