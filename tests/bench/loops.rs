//! The bare loops: what one would write with the client alone, and what it can do at most.

use std::{env, time::Duration};

use async_nats::jetstream::{
    self, Context, Message,
    consumer::{PullConsumer, pull::Stream},
    message::PublishMessage,
};
use futures_util::StreamExt;
use tokio::task::JoinSet;

use super::workload::{PAUSE, Work, stamp};

/// Outputs that wait for their `PubAck` side by side.
const IN_FLIGHT: usize = 512;

/// Below what the server holds back for a connection (64 MiB) before it takes it for a slow consumer
/// and breaks it off, with large events in all of a pull.
const BATCH_BYTES: usize = 32 << 20;

/// Works on the consumers that the environment names, for ever; `alike`: with outputs like Pelton's.
pub(crate) async fn run(alike: bool) {
    let var = |name| env::var(name).expect("it is set by the bench");
    let client = async_nats::connect(var("NATS_URL")).await.expect("the loop connects");
    let js = jetstream::new(client);
    let work = Work::named(&var("WORK"));
    let stream = js.get_stream(var("STREAM")).await.expect("the stream is there");
    let mut loops = JoinSet::new();
    for durable in var("CONSUMERS").split(',') {
        let consumer: PullConsumer = stream.get_consumer(durable).await.expect("the consumer");
        let messages = consumer.stream().max_bytes_per_batch(BATCH_BYTES).messages().await;
        let messages = messages.expect("messages flow");
        loops.spawn(go_on(work, messages, js.clone(), alike));
    }
    loops.join_all().await;
}

async fn go_on(work: Work, mut messages: Stream, js: Context, alike: bool) {
    match work {
        // One after another is in order, too.
        Work::Consume | Work::Ordered => {
            while let Some(message) = messages.next().await {
                message.expect("a message").ack().await.expect("it is acknowledged");
            }
        }
        Work::Batch => {
            let mut batches = messages.ready_chunks(100);
            while let Some(batch) = batches.next().await {
                for message in batch {
                    message.expect("a message").ack().await.expect("it is acknowledged");
                }
            }
        }
        Work::Sleep => {
            let sleep = async |message: Message| {
                tokio::time::sleep(PAUSE).await;
                message.ack().await.expect("it is acknowledged");
            };
            let messages = messages.map(|message| message.expect("a message"));
            messages.for_each_concurrent(64, sleep).await;
        }
        Work::Transform | Work::Stamp => {
            let pass = async |message: Message| {
                let data = match work {
                    Work::Stamp => stamp(&message.payload),
                    _ => message.payload.clone(),
                };
                let output = PublishMessage::build().payload(data);
                let output = if alike { described(output, &message) } else { output };
                let sent = js.send_publish("out.event", output).await.expect("it is sent");
                sent.await.expect("it is stored");
                message.ack().await.expect("it is acknowledged");
            };
            let messages = messages.map(|message| message.expect("a message"));
            messages.for_each_concurrent(IN_FLIGHT, pass).await;
        }
    }
}

/// As long as what Pelton gives its outputs.
fn described(output: PublishMessage, input: &Message) -> PublishMessage {
    let sequence = input.info().expect("a delivery").stream_sequence;
    let id = format!("{sequence:032x}");
    output
        .header("ce-specversion", "1.0")
        .header("ce-id", id.as_str())
        .header("ce-source", "pelton://bench/f0")
        .header("ce-type", "out.event")
        .header("ce-time", "2026-01-01T00:00:00.000000001Z")
        .message_id(id)
}
