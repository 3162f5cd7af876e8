//! What is remembered of events between deliveries: a key-value bucket `<NAME>_ATTEMPTS`, touched
//! only when something went wrong.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use async_nats::jetstream::{
    context::PublishError,
    stream::{LastRawMessageErrorKind, Stream},
};
use tracing::warn;

use super::{
    connect::Connection,
    names::{DELIVERED, RENAMED_FROM},
};
use crate::{
    settle::Record,
    source::{Ledger, Origin},
};

/// Whose place a durable took, and what it inherits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Ancestor {
    pub(super) binding: String,
    /// Nothing behind this stream sequence was delivered under the old name.
    pub(super) delivered: u64,
}

impl Ancestor {
    pub(in crate::nats) fn of(metadata: &HashMap<String, String>) -> Option<Self> {
        let binding = metadata.get(RENAMED_FROM)?.clone();
        let delivered = metadata.get(DELIVERED)?.parse().ok()?;
        Some(Self { binding, delivered })
    }
}

/// The record of events of one binding.
#[derive(Debug, Clone)]
pub struct NatsLedger {
    connection: Connection,
    stream: Stream<()>,
    /// `$KV.<bucket>.<binding>`
    prefix: String,
    inherited: Option<Inherited>,
}

/// What was remembered under the binding's old name.
#[derive(Debug, Clone)]
struct Inherited {
    prefix: String,
    /// Nothing was, of events behind this sequence.
    until: u64,
}

impl NatsLedger {
    pub(super) fn new(
        connection: Connection,
        stream: Stream<()>,
        bucket: &str,
        binding: &str,
        ancestor: Option<&Ancestor>,
    ) -> Self {
        let prefix = |binding: &str| format!("$KV.{bucket}.{binding}");
        let inherited = ancestor.map(|ancestor| Inherited {
            prefix: prefix(&ancestor.binding),
            until: ancestor.delivered,
        });
        Self { connection, stream, prefix: prefix(binding), inherited }
    }

    fn key(&self, origin: &Origin, sequence: u64) -> String {
        key(&self.prefix, origin, sequence)
    }

    /// The key under the binding's old name, of events that it may have seen.
    fn old_key(&self, origin: &Origin, sequence: u64) -> Option<String> {
        let inherited = self.inherited.as_ref().filter(|_| self.inherits(sequence))?;
        Some(key(&inherited.prefix, origin, sequence))
    }

    async fn look_up(&self, key: &str) -> Option<Record> {
        let mut pause = Pause::default();
        loop {
            // The leader's word: a follower may not have heard yet of a failure a moment ago.
            let read = self.stream.get_last_raw_message_by_subject(key);
            match self.connection.answered(read).await {
                Some(Ok(message)) => return Some(decode(key, &message.payload)),
                Some(Err(err)) if err.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return None;
                }
                Some(Err(err)) => pause.after("read", &err).await,
                None => {}
            }
        }
    }

    async fn store(&self, key: &str, value: Vec<u8>) -> Result<(), PublishError> {
        self.connection.context.publish(key.to_owned(), value.into()).await?.await?;
        Ok(())
    }
}

impl Ledger for NatsLedger {
    async fn read(&self, origin: &Origin, sequence: u64) -> Record {
        if let Some(record) = self.look_up(&self.key(origin, sequence)).await {
            return record;
        }
        match self.old_key(origin, sequence) {
            // The durable is another one, and has counted no deliveries.
            Some(old) => {
                Record { seen: 0, started: None, ..self.look_up(&old).await.unwrap_or_default() }
            }
            None => Record::default(),
        }
    }

    fn inherits(&self, sequence: u64) -> bool {
        self.inherited.as_ref().is_some_and(|inherited| sequence <= inherited.until)
    }

    async fn write(&self, origin: &Origin, sequence: u64, record: &Record) {
        let key = self.key(origin, sequence);
        let value = serde_json::to_vec(record).unwrap_or_default();
        let mut pause = Pause::default();
        loop {
            match self.connection.answered(self.store(&key, value.clone())).await {
                Some(Ok(())) => return,
                Some(Err(err)) => pause.after("written", &err).await,
                None => {}
            }
        }
    }

    async fn forget(&self, origin: &Origin, sequence: u64) {
        for key in [Some(self.key(origin, sequence)), self.old_key(origin, sequence)] {
            let Some(key) = key else { continue };
            // Not repeated: an entry left behind is never read again, and the bucket's age limit ends it.
            if let Err(err) = self.stream.purge().filter(&key).await {
                warn!(%err, key, "a settled event's record was left behind");
            }
        }
    }
}

/// A record that cannot be read must not stop the event it speaks of.
fn decode(key: &str, value: &[u8]) -> Record {
    if value.is_empty() {
        return Record::default();
    }
    serde_json::from_slice(value).unwrap_or_else(|err| {
        warn!(%err, key, "the record of an event is unreadable; starting it anew");
        Record::default()
    })
}

fn key(prefix: &str, origin: &Origin, sequence: u64) -> String {
    let created = origin.created.unix_timestamp();
    format!("{prefix}.{}.{created}.{sequence}", token(&origin.stream))
}

/// A stream's name as one token of a key: what keys do not allow becomes `=XX`.
fn token(stream: &str) -> String {
    stream.bytes().fold(String::with_capacity(stream.len()), |mut token, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(char::from(byte));
        } else {
            write!(token, "={byte:02X}").unwrap_or_default();
        }
        token
    })
}

/// The growing wait between tries that must succeed in the end.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(50))
    }
}

impl Pause {
    async fn after(&mut self, what: &str, err: &(dyn std::error::Error + Send + Sync)) {
        warn!(%err, "an event's record cannot be {what}; trying again");
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(2));
    }
}
