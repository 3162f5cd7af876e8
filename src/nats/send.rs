//! Publishing events by hand.

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
};
use bytes::Bytes;

use super::{connect::Connection, message};
use crate::event::Headers;

/// Where an event was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The stream.
    pub stream: String,
    /// The sequence in it.
    pub sequence: u64,
    /// Whether an event of the same message id was there already.
    pub duplicate: bool,
}

impl Connection {
    /// Publishes one event and returns a future of its `PubAck`, so that many can be under way.
    ///
    /// # Errors
    /// Says what is wrong with the event, or that nobody stored it.
    pub async fn send(
        &self,
        subject: &str,
        headers: &Headers,
        data: Bytes,
    ) -> Result<impl Future<Output = Result<Receipt, String>> + Send + use<>, String> {
        let mut message = PublishMessage::build().payload(data);
        if !headers.is_empty() {
            message = message.headers(message::header_map(headers)?);
        }
        let target = subject.to_owned();
        let sent = self.context.send_publish(target.clone(), message).await;
        let sent = sent.map_err(|err| explain(&err, &target))?;
        Ok(async move {
            let ack = sent.await.map_err(|err| explain(&err, &target))?;
            Ok(Receipt { stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate })
        })
    }
}

fn explain(err: &PublishError, subject: &str) -> String {
    match (err.kind(), std::error::Error::source(err)) {
        (PublishErrorKind::StreamNotFound, _) => format!("no stream holds the subject `{subject}`"),
        (_, Some(source)) => format!("{err}: {source}"),
        (_, None) => err.to_string(),
    }
}
