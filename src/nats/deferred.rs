//! How many events wait for a try that is long ahead.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    connect::Connection,
    lookup::{ProvisionError, find_stream},
};
use crate::{deferral, manifest::Manifest};

/// The deferred events of each binding that has any.
///
/// # Errors
/// When `JetStream` does not answer.
pub(super) async fn deferred(
    connection: &Connection,
    manifest: &Manifest,
) -> Result<BTreeMap<String, u64>, ProvisionError> {
    let mut counts = BTreeMap::new();
    if all_deferred(connection, manifest).await? == 0 {
        return Ok(counts);
    }
    for binding in &manifest.bindings {
        let subjects = format!("{}{}.>", deferral::prefix(&manifest.name), binding.name);
        let count = count(connection, &manifest.dead_letter.stream, &subjects).await?;
        if count > 0 {
            counts.insert(binding.name.clone(), count);
        }
    }
    Ok(counts)
}

/// The deferred events of all bindings together.
///
/// # Errors
/// When `JetStream` does not answer.
pub(super) async fn all_deferred(
    connection: &Connection,
    manifest: &Manifest,
) -> Result<u64, ProvisionError> {
    let subjects = format!("{}>", deferral::prefix(&manifest.name));
    count(connection, &manifest.dead_letter.stream, &subjects).await
}

/// Whether a stream keeps events until they are due; one that is not Pelton's may not.
pub(super) async fn defers(
    connection: &Connection,
    manifest: &Manifest,
) -> Result<bool, ProvisionError> {
    let stream = find_stream(connection, &manifest.dead_letter.stream).await?;
    let subject = format!("{}binding.event", deferral::prefix(&manifest.name));
    Ok(stream.is_some_and(|stream| {
        let config = &stream.cached_info().config;
        let held = |held: &String| crate::subject::matches(held, &subject);
        config.allow_message_schedules && config.allow_direct && config.subjects.iter().any(held)
    }))
}

/// Messages of a stream under some subjects: what a batched direct get (ADR-31) says of them beside
/// the first. Subjects need not be listed for it, and there may be very many.
async fn count(
    connection: &Connection,
    stream: &str,
    subjects: &str,
) -> Result<u64, ProvisionError> {
    let subject = format!("{}.DIRECT.GET.{stream}", connection.api);
    let question = json!({ "seq": 1, "next_by_subj": subjects, "batch": 1 });
    let answer = connection.client.request(subject, question.to_string().into()).await;
    let answer = answer.map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    let behind = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Num-Pending"));
    let behind = behind.and_then(|behind| behind.as_str().parse::<u64>().ok());
    Ok(match answer.status {
        // Nothing there.
        Some(_) => 0,
        None => behind.map_or(0, |behind| behind + 1),
    })
}
