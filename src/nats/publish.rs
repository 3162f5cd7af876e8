//! Stores messages and waits for their `PubAck`, again and again for as long as that may help.

use std::time::Duration;

use async_nats::{
    HeaderMap, Request, RequestError, RequestErrorKind,
    header::NATS_MESSAGE_ID,
    jetstream::{self, ErrorCode, context::GetStreamByNameErrorKind},
};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;
use tracing::warn;

use super::{connect::Connection, message};
use crate::{
    event::Publish,
    source::{PublishError, Sink, Stored},
};

/// How long a `PubAck` may take before the message is sent again under the same id.
const ACK_WAIT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The header `Nats-Msg-Id: <32 hex digits>` and the line that starts headers.
const ID_HEADER_LEN: usize = "NATS/1.0\r\nNats-Msg-Id: \r\n\r\n".len() + 32;

/// Stores messages through one connection.
#[derive(Debug, Clone)]
pub struct NatsSink(Connection);

impl NatsSink {
    /// Stores through `connection`.
    #[must_use]
    pub const fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

/// What the server says of a message that it was sent (`PubAck`).
#[derive(Deserialize)]
struct PubAck {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

/// Why a message was not stored this time.
#[derive(Debug, Error)]
enum Failure {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("{0}")]
    Refused(jetstream::Error),
    #[error("the answer is no PubAck: {0}")]
    Answer(String),
    #[error("no PubAck within {} s", ACK_WAIT.as_secs())]
    Late,
    #[error("the connection was lost")]
    Lost,
}

impl Sink for NatsSink {
    async fn publish(&self, publish: Publish) -> Result<Stored, PublishError> {
        let mut pause = PAUSE_MIN;
        loop {
            let mut headers =
                message::header_map(&publish.headers).map_err(PublishError::Refused)?;
            headers.insert(NATS_MESSAGE_ID, publish.id.as_str());
            let failure = match self.store(&publish, headers).await {
                Ok(stored) => return Ok(stored),
                Err(failure) => failure,
            };
            if let Some(permanent) = self.judge(&failure, &publish).await {
                return Err(permanent);
            }
            warn!(subject = publish.subject, err = %failure, "publish failed; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn max_payload(&self) -> usize {
        self.0.client.max_payload()
    }
}

impl NatsSink {
    async fn store(&self, publish: &Publish, headers: HeaderMap) -> Result<Stored, Failure> {
        let request = Request::new().headers(headers).payload(publish.data.clone()).timeout(None);
        let answer = self.0.client.send_request(publish.subject.clone(), request);
        let answer = timeout(ACK_WAIT, self.0.answered(answer)).await;
        let answer = answer.map_err(|_| Failure::Late)?.ok_or(Failure::Lost)??;
        let answer = serde_json::from_slice(&answer.payload);
        match answer.map_err(|err| Failure::Answer(err.to_string()))? {
            PubAck { error: Some(error), .. } => Err(Failure::Refused(error)),
            PubAck { seq: None, .. } => Err(Failure::Answer("it has no `seq`".to_owned())),
            PubAck { duplicate: true, .. } => Ok(Stored::Duplicate),
            PubAck { .. } => Ok(Stored::New),
        }
    }

    /// The error to give up with, or `None` when another try may succeed.
    async fn judge(&self, failure: &Failure, publish: &Publish) -> Option<PublishError> {
        let kind = match failure {
            Failure::Refused(error) => return refusal(error),
            Failure::Late => RequestErrorKind::TimedOut,
            Failure::Request(err) => err.kind(),
            Failure::Answer(_) | Failure::Lost => return None,
        };
        match kind {
            RequestErrorKind::MaxPayloadExceeded => Some(PublishError::TooLarge {
                size: publish.data.len() + publish.headers.wire_len().max(12) - 12 + ID_HEADER_LEN,
                max: self.max_payload(),
            }),
            // Also what a stream without a leader looks like: only its absence is final.
            RequestErrorKind::NoResponders => self.missing(&publish.subject).await,
            RequestErrorKind::TimedOut if self.0.may_not_publish(&publish.subject) => {
                Some(PublishError::Refused(format!(
                    "NATS permissions do not allow to publish on `{}`",
                    publish.subject
                )))
            }
            _ => None,
        }
    }

    async fn missing(&self, subject: &str) -> Option<PublishError> {
        match self.0.context.stream_by_subject(subject).await {
            Err(err) if err.kind() == GetStreamByNameErrorKind::NotFound => {
                Some(PublishError::NoStream(subject.to_owned()))
            }
            _ => None,
        }
    }
}

fn refusal(error: &jetstream::Error) -> Option<PublishError> {
    // No room, in a stream, an account or a server, is the server's trouble: somebody makes room.
    let passing = matches!(error.code(), 408 | 429 | 500..=599)
        || error.error_code() == ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        || error.error_code() == ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT;
    (!passing).then(|| PublishError::Refused(error.to_string()))
}
