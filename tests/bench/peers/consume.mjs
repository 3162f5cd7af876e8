// A bare consume loop of nats.js, with as many messages under way as make it fastest.
import { createRequire } from "node:module";

const { connect } = createRequire(`${process.env.PEERS}/`)("@nats-io/transport-node");
const { jetstream } = createRequire(`${process.env.PEERS}/`)("@nats-io/jetstream");

const IN_FLIGHT = 512;
const connection = await connect({ servers: process.env.NATS_URL });
const js = jetstream(connection);
const consumer = await js.consumers.get(process.env.STREAM, process.env.CONSUMER);
const messages = await consumer.consume({ max_messages: 1000 });

async function consume() {
  for await (const message of messages) {
    message.json();
    message.ack();
  }
}

// Publishes are pipelined; each event is acknowledged after its PubAck.
async function transform() {
  let open = 0;
  let room;
  for await (const message of messages) {
    open++;
    js.publish("out.event", JSON.stringify(message.json())).then(() => {
      message.ack();
      open--;
      room?.();
    });
    if (open >= IN_FLIGHT) await new Promise((resolve) => (room = resolve));
  }
}

await { consume, transform }[process.env.WORK]();
