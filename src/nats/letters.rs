//! The dead letters of a manifest as they are stored: read, sent again, thrown away.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    connect::Connection,
    lookup::{ProvisionError, find_stream},
    message,
    publish::NatsSink,
};
use crate::{
    event::Headers,
    letter::PREFIX,
    manifest::{Binding, Manifest},
    redrive,
    source::{Sink, Stored},
    subject,
};

/// The dead letters of a manifest.
#[derive(Debug)]
pub struct Letters {
    connection: Connection,
    stream: Stream,
    /// `dlq.<name>.`
    prefix: String,
    /// `redrive.<name>.`
    redrive: String,
    /// The bindings there are, by each name that their letters may have.
    heirs: BTreeMap<String, String>,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct StoredLetter {
    /// Its sequence in the dead-letter stream: its name.
    pub sequence: u64,
    /// The binding that gave its event up.
    pub binding: String,
    /// When it was stored.
    pub time: OffsetDateTime,
    /// Those of the event, and those that speak of its death.
    pub headers: Headers,
    /// The event's payload.
    pub data: Bytes,
}

/// Which letters are meant; what is not said does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this binding.
    pub binding: Option<String>,
    /// With this reason.
    pub reason: Option<String>,
    /// Whose event had a subject that this matches.
    pub subject: Option<String>,
    /// Whose error contains this, in any case.
    pub error: Option<String>,
    /// Stored at or after.
    pub since: Option<OffsetDateTime>,
    /// Stored before.
    pub until: Option<OffsetDateTime>,
    /// These alone, by sequence; none: all.
    pub sequences: Vec<u64>,
}

impl StoredLetter {
    /// A header of the letter, without its prefix; empty when it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.headers.get(&format!("{PREFIX}{name}")).unwrap_or_default()
    }

    /// What failed last, for people.
    #[must_use]
    pub fn error(&self) -> String {
        percent_decode_str(self.get("error")).decode_utf8_lossy().into_owned()
    }

    /// `stream:sequence` of its event.
    #[must_use]
    pub fn event(&self) -> String {
        format!("{}:{}", self.get("stream"), self.get("sequence"))
    }

    /// The failed attempts, those of earlier lives first: time, outcome and error of each.
    #[must_use]
    pub fn attempts(&self) -> Vec<Value> {
        redrive::attempts(&self.headers)
    }

    /// How often its event came back from the dead letters before.
    #[must_use]
    pub fn lives(&self) -> u64 {
        redrive::lives(&self.headers)
    }

    /// Whether its payload stayed behind in the event's stream.
    #[must_use]
    pub fn is_without_payload(&self) -> bool {
        self.get("payload") == "omitted"
    }
}

impl Filter {
    fn matches(&self, letter: &StoredLetter) -> bool {
        let contains = |text: &String| letter.error().to_lowercase().contains(&text.to_lowercase());
        self.binding.as_ref().is_none_or(|binding| *binding == letter.binding)
            && self.reason.as_ref().is_none_or(|reason| *reason == letter.get("reason"))
            && self.subject.as_ref().is_none_or(|s| subject::matches(s, letter.get("subject")))
            && self.error.as_ref().is_none_or(contains)
            && self.since.is_none_or(|since| letter.time >= since)
            && self.until.is_none_or(|until| letter.time < until)
            && (self.sequences.is_empty() || self.sequences.contains(&letter.sequence))
    }
}

impl Letters {
    /// Finds them.
    ///
    /// # Errors
    /// When there is no dead-letter stream, or `JetStream` does not answer.
    pub async fn of(connection: &Connection, manifest: &Manifest) -> Result<Self, ProvisionError> {
        let spec = &manifest.dead_letter;
        let stream = find_stream(connection, &spec.stream).await?.ok_or_else(|| {
            ProvisionError::Problems(vec![format!(
                "there is no stream {}: nothing of `{}` has run on this server yet",
                spec.stream, manifest.name
            )])
        })?;
        Ok(Self {
            connection: connection.clone(),
            stream,
            prefix: format!("{}.", spec.subject),
            redrive: format!("redrive.{}.", manifest.name),
            heirs: manifest.bindings.iter().flat_map(names).collect(),
        })
    }

    /// The next letter behind a sequence that the filter lets through.
    ///
    /// # Errors
    /// When `JetStream` does not answer.
    pub async fn next(
        &self,
        filter: &Filter,
        mut after: u64,
    ) -> Result<Option<StoredLetter>, ProvisionError> {
        let subject = match &filter.binding {
            Some(binding) => format!("{}{binding}", self.prefix),
            None => format!("{}>", self.prefix),
        };
        loop {
            let request = self.stream.raw_message_builder().sequence(after + 1);
            let found = match request.next_by_subject(subject.clone()).send().await {
                Ok(found) => found,
                Err(err) if err.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(None);
                }
                Err(err) => return Err(ProvisionError::Unavailable(err.to_string())),
            };
            after = found.sequence;
            let letter = StoredLetter {
                sequence: found.sequence,
                binding: found.subject.strip_prefix(&self.prefix).unwrap_or_default().to_owned(),
                time: found.time,
                headers: message::headers(&found.headers),
                data: found.payload,
            };
            if filter.matches(&letter) {
                return Ok(Some(letter));
            }
        }
    }

    /// The binding that a letter's event goes to when it is sent again: the one that gave it up, by
    /// the name it has now; `None` when there is no such binding any more.
    #[must_use]
    pub fn heir(&self, letter: &StoredLetter) -> Option<&str> {
        self.heirs.get(&letter.binding).map(String::as_str)
    }

    /// Sends a letter's event again to the binding that gave it up, with another payload if one is
    /// given, and takes the letter away once that is stored. Doing it twice sends once.
    ///
    /// # Errors
    /// When it was not sent; the letter is still there then.
    pub async fn redrive(
        &self,
        letter: &StoredLetter,
        edited: Option<Bytes>,
    ) -> Result<Stored, String> {
        let created = self.stream.cached_info().created.unix_timestamp_nanos();
        let id = format!("redrive:{created}:{}:{}", letter.sequence, letter.lives());
        let heir = self.heir(letter);
        let heir = heir.ok_or_else(|| format!("there is no binding `{}`", letter.binding))?;
        let subject = format!("{}{heir}", self.redrive);
        let original = edited.is_some().then_some(&letter.data);
        let data = edited.unwrap_or_else(|| letter.data.clone());
        let message = redrive::write(&letter.headers, data, original, &subject, id);
        let sink = NatsSink::new(self.connection.clone());
        let stored = sink.publish(message).await.map_err(|err| err.to_string())?;
        self.delete(letter.sequence).await?;
        Ok(stored)
    }

    /// Throws a letter away. One that is gone already is no error.
    ///
    /// # Errors
    /// When it may still be there.
    pub async fn delete(&self, sequence: u64) -> Result<(), String> {
        let Err(err) = self.stream.delete_message(sequence).await else { return Ok(()) };
        // The server has one code for whatever kept it from deleting.
        match self.stream.get_raw_message(sequence).await {
            Err(gone) if gone.kind() == RawMessageErrorKind::NoMessageFound => Ok(()),
            _ => Err(err.to_string()),
        }
    }
}

/// A binding's own name by each name it goes by.
fn names(binding: &Binding) -> impl Iterator<Item = (String, String)> {
    let names = std::iter::once(&binding.name).chain(&binding.renamed_from);
    names.map(|name| (name.clone(), binding.name.clone()))
}
