//! The test's own view of JetStream: it publishes, reads streams and asks consumers.

use std::time::Duration;

use async_nats::{
    ConnectOptions, HeaderMap, Message,
    jetstream::{
        Context,
        consumer::{self, AckPolicy, DeliverPolicy, pull},
        context::PublishAckFuture,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;

use super::eventually;

/// A connection to the server of a test.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) js: Context,
}

/// A dead letter as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Vec<u8>,
}

impl Streams {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::connect_with(url, ConnectOptions::new()).await
    }

    pub(crate) async fn connect_with(url: &str, options: ConnectOptions) -> Self {
        let options = options.reconnect_delay_callback(|_| Duration::from_millis(100));
        let client = options.connect(url).await.expect("the test connects");
        let mut js = async_nats::jetstream::new(client);
        js.set_timeout(Duration::from_secs(10));
        Self { js }
    }

    /// Stores one event; returns its sequence.
    pub(crate) async fn send(&self, subject: &str, data: impl Into<Vec<u8>>) -> u64 {
        self.send_with(subject, HeaderMap::new(), data).await
    }

    /// Stores one event with headers; returns its sequence.
    pub(crate) async fn send_with(
        &self,
        subject: &str,
        headers: HeaderMap,
        data: impl Into<Vec<u8>>,
    ) -> u64 {
        let sent = self.publish(subject.to_owned(), headers, data.into()).await;
        sent.await.expect("the event is stored").sequence
    }

    async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        data: Vec<u8>,
    ) -> PublishAckFuture {
        let sent = match headers.is_empty() {
            true => self.js.publish(subject, data.into()).await,
            false => self.js.publish_with_headers(subject, headers, data.into()).await,
        };
        sent.expect("the event is sent")
    }

    /// Stores `count` events, the n-th with what `make(n)` says: subject and payload.
    pub(crate) async fn send_many(&self, count: usize, make: impl Fn(usize) -> (String, String)) {
        self.send_all((0..count).map(make), |_| HeaderMap::new()).await;
    }

    /// As [`send_many`](Self::send_many), of payloads that the stream stores once at most.
    pub(crate) async fn send_once(&self, count: usize, make: impl Fn(usize) -> (String, String)) {
        let id = |data: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", data);
            headers
        };
        self.send_all((0..count).map(make), id).await;
    }

    async fn send_all(
        &self,
        events: impl Iterator<Item = (String, String)>,
        headers: impl Fn(&str) -> HeaderMap,
    ) {
        stream::iter(events)
            .map(|(subject, data)| {
                let headers = headers(&data);
                async move { self.publish(subject, headers, data.into_bytes()).await.await }
            })
            .buffered(256)
            .try_for_each(|_| async { Ok(()) })
            .await
            .expect("the events are stored");
    }

    /// How many messages a stream holds; 0 while there is none.
    pub(crate) async fn count(&self, stream: &str) -> u64 {
        match self.js.get_stream(stream).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        }
    }

    /// Waits until a stream holds at least `count` messages, for as long as there are more and more
    /// of them.
    pub(crate) async fn wait_count(&self, stream: &str, count: u64) {
        let mut before = 0;
        while before < count {
            let more = format!("more than {before} of {count} messages in {stream}");
            before = eventually(&more, async || {
                let now = self.count(stream).await;
                (now >= count || now > before).then_some(now)
            })
            .await;
        }
    }

    /// Everything a stream holds, in order.
    pub(crate) async fn read(&self, stream: &str) -> Vec<Message> {
        self.read_timed(stream).await.into_iter().map(|(message, _)| message).collect()
    }

    /// Everything a stream holds, in order, and when each was stored.
    pub(crate) async fn read_timed(&self, stream: &str) -> Vec<(Message, OffsetDateTime)> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            ..pull::Config::default()
        };
        // A cluster that just lost a node may take its time to answer.
        let (count, consumer) = eventually("a consumer to read with", async || {
            let stream = self.js.get_stream(stream).await.ok()?;
            let count = usize::try_from(stream.cached_info().state.messages).ok()?;
            Some((count, stream.create_consumer(config.clone()).await.ok()?))
        })
        .await;
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let batch = consumer.batch().max_messages(500).expires(Duration::from_secs(2));
            let mut batch = batch.messages().await.expect("the stream can be read");
            while let Some(message) = batch.next().await {
                let message = message.expect("a message");
                let stored = message.info().expect("it says when it was stored").published;
                all.push((message.message.clone(), stored));
                if all.len() == count {
                    break;
                }
            }
        }
        all
    }

    /// The payloads of everything a stream holds, as text.
    pub(crate) async fn texts(&self, stream: &str) -> Vec<String> {
        let text = |message: Message| String::from_utf8(message.payload.to_vec()).expect("UTF-8");
        self.read(stream).await.into_iter().map(text).collect()
    }

    /// The dead letters of the manifest `t`.
    pub(crate) async fn letters(&self) -> Vec<Letter> {
        self.letters_of("T_DLQ").await
    }

    /// The dead letters in a stream; none while it does not exist.
    pub(crate) async fn letters_of(&self, stream: &str) -> Vec<Letter> {
        let letter = |message: Message| Letter {
            subject: message.subject.to_string(),
            headers: message.headers.unwrap_or_default(),
            payload: message.payload.to_vec(),
        };
        if self.count(stream).await == 0 {
            return Vec::new();
        }
        self.read(stream).await.into_iter().map(letter).collect()
    }

    /// The dead letters, once there are as many as this.
    pub(crate) async fn wait_letters(&self, count: u64) -> Vec<Letter> {
        self.wait_count("T_DLQ", count).await;
        let letters = self.letters().await;
        assert_eq!(letters.len() as u64, count, "{letters:#?}");
        letters
    }

    /// What the server says of a durable of the stream `IN`.
    pub(crate) async fn consumer(&self, durable: &str) -> Option<consumer::Info> {
        let stream = self.js.get_stream("IN").await.ok()?;
        stream.consumer_info(durable).await.ok()
    }

    /// Waits until a durable of the stream `IN` has nothing left to do.
    pub(crate) async fn wait_settled(&self, durable: &str) {
        eventually(&format!("nothing is pending for {durable}"), async || {
            let info = self.consumer(durable).await?;
            (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
        })
        .await;
    }
}

impl Letter {
    /// A header of the contract, without its prefix.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no pelton-dead-letter-{name} in {self:#?}"))
    }

    /// A header of the contract, without its prefix, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.headers.get(format!("pelton-dead-letter-{name}")).map(async_nats::HeaderValue::as_str)
    }

    /// The outcomes of the attempts, in order.
    pub(crate) fn outcomes(&self) -> Vec<String> {
        self.history()
            .iter()
            .map(|entry| entry["outcome"].as_str().expect("an outcome").to_owned())
            .collect()
    }

    /// The attempts: time, outcome, error.
    pub(crate) fn history(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(self.get("history")).expect("the history is a JSON list")
    }
}
