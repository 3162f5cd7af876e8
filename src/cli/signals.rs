//! SIGINT and SIGTERM: the first drains, the second forces.

use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use pelton::shutdown::Shutdown;

/// Turns signals into a shutdown for as long as it is polled.
pub(crate) async fn obey(shutdown: Shutdown) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        warn!("signals cannot be handled; a signal ends this process at once");
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if shutdown.drain.is_cancelled() {
            warn!("forced to end; what still runs will be delivered again");
            shutdown.force();
        }
        shutdown.drain.cancel();
    }
}
