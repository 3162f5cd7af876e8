//! Follows the shop's streams: what the functions published, and what they gave up.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use async_nats::{
    Message,
    jetstream::{
        self,
        consumer::{AckPolicy, pull},
        context::GetStreamErrorKind,
        stream::Stream,
    },
};
use futures_util::{Stream as Messages, StreamExt, stream::select};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::time::interval;

/// Something that happened to an order.
#[derive(Debug)]
pub(crate) struct News {
    /// The order's number.
    pub(crate) order: String,
    /// What happened.
    pub(crate) what: What,
}

/// What can happen to an order.
#[derive(Debug)]
pub(crate) enum What {
    /// `payments.succeeded`.
    Paid { attempt: u64 },
    /// `stock.reserved`.
    Reserved { warehouse: String },
    /// `shipments.created`.
    Shipped { from: String },
    /// `invoices.issued`.
    Invoiced { number: String },
    /// `notices.sent`.
    Notified { text: String },
    /// A function gave it up.
    DeadLetter { binding: String, reason: String, attempts: String, error: String },
}

impl What {
    /// Whether nothing follows from it.
    pub(crate) const fn is_end(&self) -> bool {
        matches!(self, Self::Shipped { .. } | Self::DeadLetter { .. })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paid { attempt } => write!(f, "paid (attempt {attempt})"),
            Self::Reserved { warehouse } => write!(f, "reserved in the {warehouse} warehouse"),
            Self::Shipped { from } => write!(f, "shipped from {from}"),
            Self::Invoiced { number } => write!(f, "invoice {number}"),
            Self::Notified { text } => write!(f, "customer told: {text}"),
            Self::DeadLetter { binding, reason, attempts, error } => {
                write!(f, "dead letter of {binding}: {reason} at attempt {attempts}: {error}")
            }
        }
    }
}

/// Everything that happens to orders, from the beginning.
pub(crate) async fn follow(url: &str) -> Result<impl Messages<Item = Result<News>> + Unpin> {
    let js = jetstream::new(async_nats::connect(url).await?);
    let events = messages(&js, "SHOP").await?;
    let letters = messages(&js, "SHOP_DLQ").await?;
    Ok(select(events, letters).map(|message| read(&message?)).boxed())
}

async fn messages(
    js: &jetstream::Context,
    stream: &str,
) -> Result<impl Messages<Item = Result<Message>> + use<>> {
    let all = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let stream = created(js, stream).await?;
    let messages = stream.create_consumer(all).await?.messages().await?;
    Ok(messages.map(|message| Ok(message?.message.clone())))
}

/// Waits until Pelton has created a stream.
async fn created(js: &jetstream::Context, name: &str) -> Result<Stream> {
    let mut looks = interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        match js.get_stream(name).await {
            Ok(stream) => return Ok(stream),
            Err(err) if matches!(err.kind(), GetStreamErrorKind::JetStream(_)) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

fn read(message: &Message) -> Result<News> {
    let text = String::from_utf8_lossy(&message.payload);
    // A dead letter may hold anything, broken JSON for one: the number is looked for by its looks.
    let order = text.find("o-").and_then(|start| text.get(start..start + "o-1234".len()));
    let order = order.unwrap_or("?").to_owned();
    let what = match message.subject.strip_prefix("dlq.shop.") {
        Some(binding) => dead_letter(binding, message),
        None => event(&message.subject, &serde_json::from_str(&text)?)?,
    };
    Ok(News { order, what })
}

fn event(subject: &str, data: &Value) -> Result<What> {
    let field = |name: &str| data.get(name).with_context(|| format!("{subject} without {name}"));
    let text = |name: &str| anyhow::Ok(field(name)?.as_str().unwrap_or_default().to_owned());
    match subject {
        "payments.succeeded" => {
            Ok(What::Paid { attempt: field("attempt")?.as_u64().unwrap_or_default() })
        }
        "stock.reserved" => Ok(What::Reserved { warehouse: text("warehouse")? }),
        "shipments.created" => Ok(What::Shipped { from: text("from")? }),
        "invoices.issued" => Ok(What::Invoiced { number: text("number")? }),
        "notices.sent" => Ok(What::Notified { text: text("text")? }),
        other => anyhow::bail!("an event that the shop does not know: {other}"),
    }
}

fn dead_letter(binding: &str, message: &Message) -> What {
    let header = |name: &str| {
        let headers = message.headers.as_ref();
        let value = headers.and_then(|h| h.get(format!("pelton-dead-letter-{name}")));
        let value = value.map(async_nats::HeaderValue::as_str).unwrap_or_default();
        percent_decode_str(value).decode_utf8_lossy().into_owned()
    };
    What::DeadLetter {
        binding: binding.to_owned(),
        reason: header("reason"),
        attempts: header("attempts"),
        error: header("error"),
    }
}
