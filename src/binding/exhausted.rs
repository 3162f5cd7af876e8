//! What is done in place of a dead letter: the event is thrown away, or its binding stops.

use std::time::Duration;

use tracing::{error, warn};

use super::{Binding, intake::Run, passage::Passage};
use crate::{
    settle::Exhausted,
    source::{Ledger, Sink},
};

impl<K: Sink + 'static, L: Ledger + 'static> Binding<K, L> {
    /// Counts and tells; a binding that is to stop has stopped when this returns, unless the runner
    /// ends meanwhile.
    pub(super) async fn exhaust<C>(
        &self,
        how: Exhausted,
        why: &str,
        passage: &Passage<C>,
        run: &Run,
    ) {
        let (event, binding) = (&passage.event.id, &self.spec.name);
        match how {
            Exhausted::Dropped(reason) => {
                let attempt = passage.event.attempt;
                let reason = reason.as_str();
                self.metrics.dropped.with_label_values(&[binding, reason]).inc();
                warn!(%event, binding, reason, attempt, error = why, "thrown away");
            }
            Exhausted::Pauses(_) => {
                let why = format!("{event} used up its tries: {why}");
                if self.stop_in_place(&why, run).await {
                    self.metrics.pauses.inc();
                    warn!(
                        binding,
                        why, "the binding is paused; `pelton resume {binding}` lets it go on"
                    );
                }
            }
        }
    }

    /// However long it takes: the event is not given back before, or it would run again at once.
    async fn stop_in_place(&self, why: &str, run: &Run) -> bool {
        let mut wait = Duration::from_millis(200);
        while let Err(err) = self.brake.stop(why).await {
            error!(binding = self.spec.name, err, "the binding cannot be paused; trying again");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = run.shutdown.drain.cancelled() => return false,
            }
            wait = (wait * 2).min(Duration::from_secs(10));
        }
        true
    }
}
