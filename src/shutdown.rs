//! The two steps of ending: drain, then abort.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Handed to everything that runs; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what runs.
    pub drain: CancellationToken,
    /// Cancel what runs and give it back.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// One that ends with this one, and may end before.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), abort: self.abort.child_token() }
    }

    /// Aborts once a drain has gone on for `patience`; returns then.
    pub async fn enforce(self, patience: Duration) {
        self.drain.cancelled().await;
        tokio::select! {
            () = tokio::time::sleep(patience) => self.abort.cancel(),
            () = self.abort.cancelled() => {}
        }
    }
}
