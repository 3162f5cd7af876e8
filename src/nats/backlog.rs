//! What waits for the bindings of a running manifest.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{connect::Connection, lookup::ProvisionError, provision::Provisioned};

/// Events of a binding that are not acknowledged yet, in all runners together.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Backlog {
    /// All of them.
    pub lag: u64,
    /// Those that are not delivered yet.
    pub pending: u64,
    /// Those that are: under way, or waiting for their next try.
    pub ack_pending: u64,
}

impl Provisioned {
    /// What waits for each binding, by its name.
    ///
    /// # Errors
    /// When `JetStream` does not answer, or a consumer is gone: what waits for it is not known.
    pub async fn backlog(
        &self,
        connection: &Connection,
    ) -> Result<BTreeMap<String, Backlog>, ProvisionError> {
        let mut found = BTreeMap::<String, Backlog>::new();
        for consumer in self.durables() {
            let Some(info) = consumer.info(connection).await? else {
                let gone = format!("consumer {} is gone", consumer.name);
                return Err(ProvisionError::Problems(vec![gone]));
            };
            let backlog = found.entry(consumer.binding.clone()).or_default();
            backlog.pending += info.num_pending;
            backlog.ack_pending += info.num_ack_pending as u64;
            backlog.lag = backlog.pending + backlog.ack_pending;
        }
        Ok(found)
    }
}
