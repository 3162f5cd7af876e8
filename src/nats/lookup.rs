//! What is there on the server: streams and consumers.

use async_nats::jetstream::{
    self, ErrorCode, consumer,
    context::{ConsumerInfoErrorKind, GetStreamErrorKind, RequestErrorKind},
    stream::Stream,
};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use super::connect::Connection;
use crate::manifest::Binding;

/// Why a manifest cannot be run on this server.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// As found, all at once.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// `JetStream` did not answer; it may later.
    #[error("JetStream did not answer: {0}")]
    Unavailable(String),
}

/// A stream by its name.
pub(in crate::nats) async fn find_stream(
    connection: &Connection,
    name: &str,
) -> Result<Option<Stream>, ProvisionError> {
    match connection.context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(err) => match err.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(ProvisionError::Unavailable(err.to_string())),
        },
    }
}

/// A consumer by its name.
pub(in crate::nats) async fn find(
    connection: &Connection,
    stream: &str,
    name: &str,
) -> Result<Option<consumer::Info>, ProvisionError> {
    let handle = connection
        .context
        .get_stream_no_info(stream)
        .await
        .map_err(|err| ProvisionError::Unavailable(err.to_string()))?;
    match handle.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(err) => match err.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(None),
            ConsumerInfoErrorKind::JetStream(error)
                if matches!(
                    error.error_code(),
                    ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::STREAM_NOT_FOUND
                ) =>
            {
                Ok(None)
            }
            _ => Err(ProvisionError::Unavailable(err.to_string())),
        },
    }
}

/// The stream that a binding reads, as far as can be told without a plan.
pub(in crate::nats) async fn stream_of(
    connection: &Connection,
    binding: &Binding,
) -> Result<Option<String>, ProvisionError> {
    match (&binding.stream, binding.subjects.first()) {
        (Some(stream), _) => Ok(Some(stream.clone())),
        (None, Some(subject)) => Ok(streams_holding(connection, subject).await?.into_iter().next()),
        (None, None) => Ok(None),
    }
}

/// The names of the streams whose subjects overlap `subject`.
pub(in crate::nats) async fn streams_holding(
    connection: &Connection,
    subject: &str,
) -> Result<Vec<String>, ProvisionError> {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        streams: Option<Vec<String>>,
    }
    let answer: jetstream::response::Response<Names> =
        connection.context.request("STREAM.NAMES", &json!({ "subject": subject })).await?;
    match answer {
        jetstream::response::Response::Ok(names) => Ok(names.streams.unwrap_or_default()),
        jetstream::response::Response::Err { error } => {
            Err(ProvisionError::Unavailable(error.to_string()))
        }
    }
}

impl From<jetstream::context::RequestError> for ProvisionError {
    fn from(err: jetstream::context::RequestError) -> Self {
        match err.kind() {
            RequestErrorKind::NoResponders => {
                Self::Unavailable("is it enabled on this server, for this account?".to_owned())
            }
            _ => Self::Unavailable(err.to_string()),
        }
    }
}
