//! Whether the streams that outputs go to remember for long enough what they were given.

use async_nats::jetstream::stream::RetentionPolicy;

use super::{
    connect::Connection,
    lookup::{ProvisionError, find_stream, streams_holding},
};
use crate::manifest::{Manifest, Publish, Retention, window::forgetful};

/// Which streams are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// Those of the server.
    AsTheyAre,
    /// Those of the server, with the windows that the manifest writes.
    AsWritten,
}

/// Why outputs of a manifest's bindings could be stored twice, as the real streams are. What `lint`
/// could tell from the manifest is left out.
///
/// # Errors
/// When `JetStream` does not answer.
pub(super) async fn output_warnings(
    connection: &Connection,
    manifest: &Manifest,
    windows: Windows,
) -> Result<Vec<String>, ProvisionError> {
    let mut warnings = Vec::new();
    for binding in &manifest.bindings {
        let mut streams = Vec::new();
        for subject in binding.publish.iter().flat_map(Publish::subjects) {
            streams.extend(streams_holding(connection, subject).await?);
        }
        streams.sort();
        streams.dedup();
        for name in streams {
            let Some(stream) = find_stream(connection, &name).await? else { continue };
            let config = &stream.cached_info().config;
            let retention = match config.retention {
                RetentionPolicy::Limits => Retention::Limits,
                RetentionPolicy::Interest => Retention::Interest,
                RetentionPolicy::WorkQueue => Retention::Workqueue,
            };
            let linted = manifest.streams.iter().any(|listed| {
                listed.name == name
                    && (listed.window() == config.duplicate_window
                        || windows == Windows::AsWritten && listed.duplicate_window.is_some())
                    && listed.retention.unwrap_or(Retention::Limits) == retention
            });
            if !linted {
                let found = forgetful(binding, &name, config.duplicate_window, retention);
                warnings.extend(
                    found
                        .into_iter()
                        .map(|(what, hint)| format!("binding `{}`: {what}: {hint}", binding.name)),
                );
            }
        }
    }
    Ok(warnings)
}
