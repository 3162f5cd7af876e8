//! What the server says of a manifest's bindings; changes nothing.

mod replays;

use std::collections::BTreeMap;

use async_nats::jetstream::consumer;
use futures_util::TryStreamExt as _;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    connect::Connection,
    deferred::{deferred, defers},
    each::each,
    lookup::{ProvisionError, find, find_stream, stream_of},
    message,
    names::{comebacks_name, durable_name},
    orphans::{Orphan, consumers_of, orphans_among},
    pause,
    provision::{Consumer, Provisioned, part_infos},
};
use crate::{
    manifest::{Binding, Manifest},
    metrics::{ConsumerGauges, Metrics},
    partition,
};
pub use replays::ReplayReport;

/// A manifest as it stands in NATS.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its bindings, in the manifest's order.
    pub bindings: Vec<BindingReport>,
    /// Replays that are under way, or were begun and left.
    pub replays: Vec<ReplayReport>,
    /// Durables of this manifest's name that no binding owns.
    pub orphans: Vec<Orphan>,
}

/// A binding as it stands in NATS.
#[derive(Debug, Clone, Serialize)]
pub struct BindingReport {
    /// Its name.
    pub binding: String,
    /// Its function.
    pub function: String,
    /// Its subjects.
    pub subjects: Vec<String>,
    /// The stream, when there is one.
    pub stream: Option<String>,
    /// `missing`, `paused`, `active` (a runner asks for events) or `idle` (none does).
    pub state: &'static str,
    /// Events not delivered yet, those that come back from the dead letters among them.
    pub pending: u64,
    /// Events delivered and not acknowledged, in the same way.
    pub ack_pending: u64,
    /// Pending and unacknowledged events together.
    pub lag: u64,
    /// Events that wait for a try that is more than a minute ahead; not part of the lag.
    pub deferred: u64,
    /// Dead letters that wait.
    pub dead_letters: u64,
    /// Why it is paused, if it is; else reason, error and time of the newest dead letter.
    pub last_error: Option<String>,
}

impl Report {
    /// Looks at every binding of a manifest.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn of(connection: &Connection, manifest: &Manifest) -> Result<Self, ProvisionError> {
        let deferred = match defers(connection, manifest).await? {
            true => deferred(connection, manifest).await?,
            false => BTreeMap::new(),
        };
        let mut bindings = Vec::with_capacity(manifest.bindings.len());
        let mut streams: Vec<String> = manifest.streams.iter().map(|s| s.name.clone()).collect();
        for binding in &manifest.bindings {
            let deferred = deferred.get(&binding.name).copied().unwrap_or(0);
            let report = binding_report(connection, manifest, binding, deferred).await?;
            streams.extend(report.stream.clone());
            bindings.push(report);
        }
        streams.push(manifest.dead_letter.stream.clone());
        streams.sort();
        streams.dedup();
        let (mut replays, mut orphans) = (Vec::new(), Vec::new());
        for stream in streams {
            let consumers = consumers_of(connection, &stream).await?;
            replays.extend(consumers.iter().filter_map(|info| replays::of(manifest, info)));
            orphans.extend(orphans_among(manifest, &consumers));
        }
        Ok(Self { bindings, replays, orphans })
    }
}

/// Reads the consumers of a running manifest into its gauges; returns which bindings are paused, and
/// why.
///
/// # Errors
/// When `JetStream` does not answer.
pub(crate) async fn read_gauges(
    connection: &Connection,
    manifest: &Manifest,
    provisioned: &Provisioned,
    metrics: &Metrics,
) -> Result<BTreeMap<String, String>, ProvisionError> {
    let mut paused = BTreeMap::new();
    let look = |consumer| look(connection, manifest, provisioned, consumer);
    let looks = each(provisioned.consumers(), look).await?;
    for (consumer, (seen, why)) in provisioned.consumers().iter().zip(looks) {
        paused.extend(why.map(|why| (consumer.binding.clone(), why)));
        if let Some(seen) = seen {
            metrics.consumer(&consumer.binding, seen);
        }
    }
    let spec = &manifest.dead_letter;
    let stream = connection
        .context
        .get_stream_no_info(&spec.stream)
        .await
        .map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    let info = stream
        .info_with_subjects(format!("{}.>", spec.subject))
        .await
        .map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    let counts: Vec<(String, usize)> =
        info.try_collect().await.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    for binding in &manifest.bindings {
        let subject = format!("{}.{}", spec.subject, binding.name);
        let waiting = counts.iter().find(|(held, _)| *held == subject).map_or(0, |(_, n)| *n);
        metrics.dead_letters_waiting(&binding.name, waiting as u64);
    }
    if provisioned.may_defer() {
        let deferred = deferred(connection, manifest).await?;
        for binding in &manifest.bindings {
            metrics.deferred(&binding.name, deferred.get(&binding.name).copied().unwrap_or(0));
        }
    }
    Ok(paused)
}

/// The gauges of a binding, if its consumer is there, and why it is paused, if it is.
async fn look(
    connection: &Connection,
    manifest: &Manifest,
    provisioned: &Provisioned,
    consumer: &Consumer,
) -> Result<(Option<ConsumerGauges>, Option<String>), ProvisionError> {
    let Some(info) = consumer.info(connection).await? else { return Ok((None, None)) };
    let binding = manifest.bindings.iter().find(|known| known.name == consumer.binding);
    let why = match binding {
        Some(binding) => pause::reason(connection, manifest, binding, &info).await,
        None => None,
    };
    let mut seen = gauges(connection, &info).await;
    for part in provisioned.parts(&consumer.binding) {
        if let Some(info) = part.info(connection).await? {
            let part = gauges(connection, &info).await;
            seen.max_ack_pending += part.max_ack_pending;
            add(&mut seen, &part);
        }
    }
    // What comes back from the dead letters is the binding's to do as well.
    for comebacks in provisioned.comeback_consumers(&consumer.binding) {
        if let Some(info) = comebacks.info(connection).await? {
            add(&mut seen, &gauges(connection, &info).await);
        }
    }
    Ok((Some(seen), why))
}

fn add(sum: &mut ConsumerGauges, more: &ConsumerGauges) {
    sum.pending += more.pending;
    sum.ack_pending += more.ack_pending;
    sum.oldest_unacked = sum.oldest_unacked.max(more.oldest_unacked);
}

async fn gauges(connection: &Connection, info: &consumer::Info) -> ConsumerGauges {
    ConsumerGauges {
        pending: info.num_pending,
        ack_pending: info.num_ack_pending as u64,
        max_ack_pending: info.config.max_ack_pending,
        paused: info.paused,
        oldest_unacked: oldest_unacked(connection, info).await,
    }
}

async fn binding_report(
    connection: &Connection,
    manifest: &Manifest,
    binding: &Binding,
    deferred: u64,
) -> Result<BindingReport, ProvisionError> {
    let stream = stream_of(connection, binding).await?;
    let (name, letters) = (&manifest.name, &manifest.dead_letter.stream);
    let info = match &stream {
        Some(stream) => find(connection, stream, &durable_name(name, &binding.name)).await?,
        None => None,
    };
    let comebacks = find(connection, letters, &comebacks_name(name, &binding.name)).await?;
    let parts = match binding.partitions() {
        Some(_) => part_infos(connection, manifest, binding).await?,
        None => Vec::new(),
    };
    let all = || info.iter().chain(&comebacks).chain(&parts);
    let pending = all().map(|info| info.num_pending).sum();
    let ack_pending = all().map(|info| info.num_ack_pending as u64).sum();
    let (dead_letters, last_error) = dead_letters(connection, manifest, binding).await?;
    let paused = match &info {
        Some(info) => pause::reason(connection, manifest, binding, info).await,
        None => None,
    };
    Ok(BindingReport {
        binding: binding.name.clone(),
        function: binding.function.clone(),
        subjects: binding.subjects.clone(),
        stream,
        state: match &info {
            None => "missing",
            Some(info) if info.paused => "paused",
            Some(_) if all().any(|info| info.num_waiting > 0) => "active",
            Some(_) => "idle",
        },
        pending,
        ack_pending,
        lag: pending + ack_pending,
        deferred,
        dead_letters,
        last_error: paused.or(last_error),
    })
}

async fn dead_letters(
    connection: &Connection,
    manifest: &Manifest,
    binding: &Binding,
) -> Result<(u64, Option<String>), ProvisionError> {
    let spec = &manifest.dead_letter;
    let Some(stream) = find_stream(connection, &spec.stream).await? else { return Ok((0, None)) };
    let subject = format!("{}.{}", spec.subject, binding.name);
    let info = stream
        .info_with_subjects(&subject)
        .await
        .map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    let counts: Vec<(String, usize)> =
        info.try_collect().await.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    let count: usize = counts.iter().map(|(_, count)| count).sum();
    let last = match count {
        0 => None,
        _ => stream.get_last_raw_message_by_subject(&subject).await.ok().map(|letter| {
            let headers = message::headers(&letter.headers);
            let value = |name| headers.get(name).unwrap_or_default();
            let error = percent_encoding::percent_decode_str(value("pelton-dead-letter-error"))
                .decode_utf8_lossy()
                .into_owned();
            let time = letter.time.format(&Rfc3339).unwrap_or_default();
            format!("{}: {error} ({time})", value("pelton-dead-letter-reason"))
        }),
    };
    Ok((count as u64, last))
}

/// Age in seconds of the first event behind the acknowledged ones.
async fn oldest_unacked(connection: &Connection, info: &consumer::Info) -> Option<u64> {
    if info.num_pending == 0 && info.num_ack_pending == 0 {
        return None;
    }
    let filter = match (&info.config.filter_subject, info.config.filter_subjects.as_slice()) {
        (one, []) if !one.is_empty() => one.clone(),
        _ => ">".to_owned(),
    };
    let stream = connection.context.get_stream_no_info(&info.stream_name).await.ok()?;
    let message = stream
        .raw_message_builder()
        .sequence(info.ack_floor.stream_sequence + 1)
        .next_by_subject(filter)
        .send()
        .await
        .ok()?;
    let copied = partition::copied(&message::headers(&message.headers));
    let stored = copied.map_or(message.time, |copied| copied.time);
    let age = OffsetDateTime::now_utc() - stored;
    u64::try_from(age.whole_seconds()).ok()
}
