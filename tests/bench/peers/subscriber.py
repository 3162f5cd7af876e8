"""A FastStream subscriber in its best setting: events of a pull of 500 run side by side, without a log line
for each, without validation of arguments, under uvloop. Outputs await their PubAck before the ack."""

import os

import uvloop
from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub

broker = NatsBroker(os.environ["NATS_URL"], logger=None, apply_types=False)
stream = JStream(os.environ["STREAM"], declare=False)
work = os.environ["WORK"]
pulls = PullSub(batch_size=500) if work != "batch" else PullSub(batch_size=100, batch=True, timeout=0.05)
subscribed = {"durable": os.environ["CONSUMER"], "stream": stream, "pull_sub": pulls}


async def consume(event):
    pass


async def transform(event):
    await broker.publish(event, "out.event", stream="OUT")


async def batch(events):
    pass


broker.subscriber(os.environ["SUBJECT"], **subscribed)(globals()[work])
uvloop.run(FastStream(broker, logger=None).run())
