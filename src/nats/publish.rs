//! Stores messages and waits for their `PubAck`, again and again for as long as that may help.

use std::time::Duration;

use async_nats::{
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, ErrorCode,
        context::{GetStreamByNameErrorKind, PublishErrorKind},
        message::PublishMessage,
    },
};
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

impl Sink for NatsSink {
    async fn publish(&self, publish: Publish) -> Result<Stored, PublishError> {
        let mut pause = PAUSE_MIN;
        loop {
            let mut headers =
                message::header_map(&publish.headers).map_err(PublishError::Refused)?;
            headers.insert(NATS_MESSAGE_ID, publish.id.as_str());
            let message = PublishMessage::build().payload(publish.data.clone()).headers(headers);
            let failure = match self.store(&publish.subject, message).await {
                Ok(ack) if ack.duplicate => return Ok(Stored::Duplicate),
                Ok(_) => return Ok(Stored::New),
                Err(err) => err,
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
    async fn store(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<jetstream::publish::PublishAck, jetstream::context::PublishError> {
        let sent = self.0.context.send_publish(subject.to_owned(), message).await?;
        match tokio::time::timeout(ACK_WAIT, self.0.answered(sent.into_future())).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(PublishErrorKind::BrokenPipe.into()),
            Err(_) => Err(PublishErrorKind::TimedOut.into()),
        }
    }

    /// The error to give up with, or `None` when another try may succeed.
    async fn judge(
        &self,
        failure: &jetstream::context::PublishError,
        publish: &Publish,
    ) -> Option<PublishError> {
        match failure.kind() {
            PublishErrorKind::MaxPayloadExceeded => Some(PublishError::TooLarge {
                size: publish.data.len() + publish.headers.wire_len().max(12) - 12 + ID_HEADER_LEN,
                max: self.max_payload(),
            }),
            // Also what a stream without a leader looks like: only its absence is final.
            PublishErrorKind::StreamNotFound => self.missing(&publish.subject).await,
            PublishErrorKind::TimedOut if self.0.may_not_publish(&publish.subject) => {
                Some(PublishError::Refused(format!(
                    "NATS permissions do not allow to publish on `{}`",
                    publish.subject
                )))
            }
            PublishErrorKind::Other => refusal(failure),
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

fn refusal(failure: &jetstream::context::PublishError) -> Option<PublishError> {
    let source = std::error::Error::source(failure)?;
    let answer = source.downcast_ref::<jetstream::Error>()?;
    // No room, in a stream, an account or a server, is the server's trouble: somebody makes room.
    let passing = matches!(answer.code(), 408 | 429 | 500..=599)
        || answer.error_code() == ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        || answer.error_code() == ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT;
    (!passing).then(|| PublishError::Refused(answer.to_string()))
}
