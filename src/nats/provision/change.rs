//! Changes what exists: reads its whole configuration, replaces the fields that are to change, and
//! writes it back. As JSON, so that what this program does not know of is kept.

use async_nats::jetstream::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::plan::{Field, Kind, Object};
use crate::nats::{connect::Connection, lookup::ProvisionError};

/// Where a configuration differs from what is wanted.
#[derive(Debug, Clone)]
pub(super) struct Difference {
    pub(super) field: Field,
    /// The fields of the configuration; null takes one out.
    pub(super) set: Vec<(&'static str, Value)>,
    /// Why it cannot be changed.
    pub(super) fixed: Option<&'static str>,
}

/// What is to be written into a configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    set: Vec<(&'static str, Value)>,
    /// Merged into what is there.
    metadata: Vec<(&'static str, String)>,
}

/// Why an object could not be created, changed or deleted.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    /// The server's words.
    #[error("{0}")]
    Refused(String),
    #[error("it is gone")]
    Gone,
    #[error(transparent)]
    Provision(#[from] ProvisionError),
}

impl Difference {
    pub(super) fn new(key: &'static str, old: String, new: String, value: Value) -> Self {
        Self { field: Field { key, old, new }, set: vec![(key, value)], fixed: None }
    }
}

impl Change {
    pub(super) fn fields(differences: Vec<Difference>) -> Self {
        let set = differences.into_iter().flat_map(|difference| difference.set).collect();
        Self { set, metadata: Vec::new() }
    }

    pub(super) const fn metadata(metadata: Vec<(&'static str, String)>) -> Self {
        Self { set: Vec::new(), metadata }
    }

    pub(super) async fn carry_out(
        self,
        connection: &Connection,
        object: &Object,
    ) -> Result<(), Refusal> {
        let Object { kind, name, stream } = object;
        let info = match (kind, stream) {
            (Kind::Consumer, Some(stream)) => format!("CONSUMER.INFO.{stream}.{name}"),
            _ => format!("STREAM.INFO.{name}"),
        };
        #[derive(Deserialize)]
        struct Found {
            config: Map<String, Value>,
        }
        let Found { mut config } = ask(connection, info, &json!({})).await?;
        self.merge(&mut config);
        let (subject, body) = match (kind, stream) {
            (Kind::Consumer, Some(stream)) => {
                let filter = config.get("filter_subject").and_then(Value::as_str);
                let subject = match filter.filter(|filter| !filter.is_empty()) {
                    Some(filter) => format!("CONSUMER.CREATE.{stream}.{name}.{filter}"),
                    None => format!("CONSUMER.CREATE.{stream}.{name}"),
                };
                (subject, json!({"stream_name": stream, "config": config, "action": "update"}))
            }
            _ => (format!("STREAM.UPDATE.{name}"), Value::Object(config)),
        };
        let Found { .. } = ask(connection, subject, &body).await?;
        Ok(())
    }

    fn merge(self, config: &mut Map<String, Value>) {
        for (key, value) in self.set {
            match value {
                Value::Null => drop(config.remove(key)),
                value => drop(config.insert(key.to_owned(), value)),
            }
        }
        if self.metadata.is_empty() {
            return;
        }
        let metadata = config.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata
                .extend(self.metadata.into_iter().map(|(key, text)| (key.to_owned(), text.into())));
        }
    }
}

async fn ask<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    subject: String,
    body: &Value,
) -> Result<T, Refusal> {
    let answer = connection.context.request(subject, body).await.map_err(ProvisionError::from)?;
    match answer {
        Response::Ok(answer) => Ok(answer),
        Response::Err { error } if error.code() == 404 => Err(Refusal::Gone),
        Response::Err { error } => Err(Refusal::Refused(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_what_it_names_and_nothing_else() {
        let mut config = json!({
            "ack_wait": 1, "filter_subject": "a", "future": {"x": 1},
            "metadata": {"theirs": "1", "pelton.name": "old"},
        });
        let change = Change {
            set: vec![("ack_wait", json!(2)), ("filter_subject", Value::Null)],
            metadata: vec![("pelton.name", "new".to_owned())],
        };
        let Value::Object(fields) = &mut config else { unreachable!() };
        change.merge(fields);
        let expected = json!({
            "ack_wait": 2, "future": {"x": 1}, "metadata": {"theirs": "1", "pelton.name": "new"},
        });
        assert_eq!(config, expected);
    }
}
