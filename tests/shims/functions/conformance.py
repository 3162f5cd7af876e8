"""Does what the subject says; its twin is conformance.mjs."""

import os
import sys
import time
from datetime import datetime, timezone

from pelton import Event, Reject, Retry

sys.stdout.write("loaded\n")


def kind(value):
    names = {bytes: "bytes", str: "text", type(None): "none"}
    return names.get(type(value), "json")


def show(event):
    data = event.data
    return {"kind": kind(data), "data": data.hex() if isinstance(data, bytes) else data, "raw": len(event.raw)}


def fields(event, context):
    deadline = (context.deadline - datetime.now(timezone.utc)).total_seconds()
    return {
        "id": event.id,
        "subject": event.subject,
        "time": event.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "attempt": event.attempt,
        "type": event.type,
        "source": event.source,
        "first": event.headers.get("x-MANY"),
        "all": event.headers.get_all("X-many"),
        "missing": event.headers.get("nope"),
        "deadline": 29 < deadline <= 30,
    }


def state(event, context):
    before = context.state
    context.state = {"n": (before or {"n": 0})["n"] + 1}
    return before


def caught(event, context):
    try:
        return event.data
    except ValueError:
        return "caught"


def wrapped(event, context):
    try:
        return event.data
    except ValueError as error:
        raise RuntimeError("wrapped") from error


def log(event, context):
    context.log.debug("a %s", "b")
    context.log.info("ünï")
    context.log.warning("w")
    context.log.error("e")


def throw(error):
    raise error


def loop(event, context):
    while True:
        pass


def stdin(event, context):
    return sys.stdin.read()


def out(event, context):
    print("to", "stdout")
    print("to", "stderr", file=sys.stderr)


def die(event, context):
    os._exit(7)


def nothing(event, context):
    pass


def slow(event, context):
    time.sleep(0.5)


WHAT = {
    "nothing": nothing,
    "text": lambda e, c: "grüße",
    "bytes": lambda e, c: b"\x00\xff",
    "json": lambda e, c: {"é": [1, None, True, 1.5]},
    "list": lambda e, c: [1, 2],
    "empty-list": lambda e, c: [],
    "zero": lambda e, c: 0,
    "event": lambda e, c: Event("a.b", {"x": 1}, headers={"X-One": "ü", "x-two": ["1", "2"]}),
    "events": lambda e, c: [Event("a", "one"), Event("b", b"two"), Event(None, None), Event("d")],
    "pairs": lambda e, c: Event("a", {"x": 1}, headers=[("Content-Type", "application/vnd.x+json")]),
    "mixture": lambda e, c: [Event("a", 1), 2],
    "bad-subject": lambda e, c: Event(7, 1),
    "bad-header": lambda e, c: Event("a", 1, headers={"n": 5}),
    "bad-headers": lambda e, c: Event("a", 1, headers=7),
    "unserialisable": lambda e, c: object(),
    "nan": lambda e, c: float("nan"),
    "itself": lambda e, c: e,
    "show": lambda e, c: show(e),
    "raw": lambda e, c: e.raw,
    "fields": fields,
    "state": state,
    "state-kept": lambda e, c: "untouched",
    "state-retry": lambda e, c: [state(e, c), throw(Retry("later"))],
    "state-bad": lambda e, c: setattr(c, "state", object()),
    "caught": caught,
    "wrapped": wrapped,
    "log": log,
    "raise": lambda e, c: throw(KeyError("nö")),
    "retry": lambda e, c: throw(Retry("busy")),
    "retry-after": lambda e, c: throw(Retry(after=1.5)),
    "retry-returned": lambda e, c: Retry("again", after=2),
    "retry-wrong": lambda e, c: throw(Retry(30)),
    "reject": lambda e, c: throw(Reject("no such card")),
    "reject-returned": lambda e, c: Reject("no"),
    "long-reason": lambda e, c: throw(Reject("ä" * 5000)),
    "deep": lambda e, c: throw(RecursionError("deep")),
    "loop": loop,
    "stdin": stdin,
    "out": out,
    "die": die,
    "exit": lambda e, c: sys.exit(3),
    "slow": slow,
    "memory": lambda e, c: throw(MemoryError()),
}


def batch(events, context):
    what = events[0].subject
    if what == "batch.list":
        return [None, "text", [Event("a", 1), Event("b", 2)], Retry(after=1), Reject("no"), object()]
    if what == "batch.dict":
        return {event.id: event.data for event in events}
    if what == "batch.short":
        return [None]
    if what == "batch.none":
        return None
    if what == "batch.raise":
        raise ValueError("all of them")
    if what == "batch.data":
        return [event.data for event in events]
    raise AssertionError(what)


def handle(event, context):
    if isinstance(event, list):
        return batch(event, context)
    return WHAT[event.subject](event, context)
