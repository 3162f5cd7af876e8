//! The steps of ending: pull nothing more, begin nothing more, abort.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// For how long what was pulled before a drain may still begin. Others who take over what is given
/// back instead begin about as late: a pull that is under way has to end first.
const HANDOVER: Duration = Duration::from_secs(4);

/// Handed to everything that runs; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what is held.
    pub drain: CancellationToken,
    /// Finish what runs, give back what has not begun.
    pub close: CancellationToken,
    /// Cancel what runs and give it back.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// One that ends with this one, and may end before.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            close: self.close.child_token(),
            abort: self.abort.child_token(),
        }
    }

    /// Ends everything at once.
    pub fn force(&self) {
        self.drain.cancel();
        self.close.cancel();
        self.abort.cancel();
    }

    /// Once a drain has begun, closes after a moment and aborts after `patience`; returns then.
    pub async fn enforce(self, patience: Duration) {
        self.drain.cancelled().await;
        let moment = HANDOVER.min(patience);
        tokio::select! {
            () = tokio::time::sleep(moment) => self.close.cancel(),
            () = self.abort.cancelled() => return,
        }
        self.force_after(patience - moment).await;
    }

    /// Once a drain has begun, aborts after `patience`; returns then. Until then everything that was
    /// pulled may begin.
    pub async fn finish(self, patience: Duration) {
        self.drain.cancelled().await;
        self.force_after(patience).await;
    }

    async fn force_after(&self, patience: Duration) {
        tokio::select! {
            () = tokio::time::sleep(patience) => self.force(),
            () = self.abort.cancelled() => {}
        }
    }
}
