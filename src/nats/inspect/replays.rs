//! Replays that are under way or were left behind, as far as their durables tell.

use async_nats::jetstream::consumer;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    manifest::Manifest,
    nats::{
        names::{BINDING, OWNER},
        provision::replay_of,
    },
};

/// A replay that is not done.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayReport {
    /// The binding whose events run once more.
    pub binding: String,
    /// Its durable.
    pub consumer: String,
    /// The stream it reads.
    pub stream: String,
    /// Where it begins, as it was asked for.
    pub from: String,
    /// Where it ends, as it was asked for.
    pub to: Option<String>,
    /// `active` (a command asks for events) or `idle` (none does: it was stopped or killed).
    pub state: &'static str,
    /// The sequences of its first and its last event, or beyond them.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// Up to this sequence all is done.
    pub done_to: u64,
    /// The most events that can be left; behind the last one others of the binding may wait.
    pub pending: u64,
    /// When an event of it was last delivered or acknowledged (RFC 3339).
    pub last_activity: Option<String>,
}

/// The replay behind a durable, if it is one of a binding of the manifest.
pub(super) fn of(manifest: &Manifest, info: &consumer::Info) -> Option<ReplayReport> {
    let metadata = &info.config.metadata;
    let binding = metadata.get(BINDING)?;
    let known = manifest.bindings.iter().any(|known| known.name == *binding);
    if metadata.get(OWNER) != Some(&manifest.name) || !known {
        return None;
    }
    let replay = replay_of(info)?;
    let done_to =
        info.ack_floor.stream_sequence.max(replay.first.saturating_sub(1)).min(replay.last);
    let waiting = info.num_pending + info.num_ack_pending as u64;
    let at: Option<OffsetDateTime> = info.delivered.last_active.max(info.ack_floor.last_active);
    Some(ReplayReport {
        binding: binding.clone(),
        consumer: info.name.clone(),
        stream: info.stream_name.clone(),
        from: replay.from,
        to: replay.to,
        state: if info.num_waiting > 0 { "active" } else { "idle" },
        first: replay.first,
        last: replay.last,
        done_to,
        pending: waiting.min(replay.last - done_to),
        last_activity: at
            .and_then(|at| at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).ok()),
    })
}
