// Does what the subject says; its twin is conformance.py.

import { Event, Reject, Retry } from "pelton";

console.log("loaded");

function show(event) {
  const { data } = event;
  const bytes = data instanceof Uint8Array;
  const kind = bytes ? "bytes" : data === null ? "none" : typeof data === "string" ? "text" : "json";
  return { kind, data: bytes ? data.toString("hex") : data, raw: event.raw.length };
}

function fields(event, context) {
  const deadline = (context.deadline - new Date()) / 1000;
  return {
    id: event.id,
    subject: event.subject,
    time: event.time.toISOString(),
    attempt: event.attempt,
    type: event.type,
    source: event.source,
    first: event.headers.get("x-MANY"),
    all: event.headers.get_all("X-many"),
    missing: event.headers["nope"] ?? null,
    deadline: deadline > 29 && deadline <= 30.01,
  };
}

function state(event, context) {
  const before = context.state;
  context.state = { n: (before ?? { n: 0 }).n + 1 };
  return before;
}

function fail(error) {
  throw error;
}

function caught(event) {
  try {
    return event.data;
  } catch {
    return "caught";
  }
}

function wrapped(event) {
  try {
    return event.data;
  } catch (cause) {
    throw new Error("wrapped", { cause });
  }
}

function log(event, context) {
  context.log.debug("a %s", "b");
  context.log.info("ünï");
  context.log.warn("w");
  context.log.error("e");
}

async function stdin() {
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  return text;
}

function out() {
  console.log("to", "stdout");
  console.error("to", "stderr");
}

function block(ms) {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const met = [];

function meet() {
  return new Promise((done) => {
    met.push(done);
    if (met.length === 2) for (const each of met) each("met");
  });
}

const WHAT = {
  "nothing": () => undefined,
  "text": () => "grüße",
  "bytes": () => new Uint8Array([0, 255]),
  "json": () => ({ "é": [1, null, true, 1.5] }),
  "list": () => [1, 2],
  "empty-list": () => [],
  "zero": () => 0,
  "event": () => new Event("a.b", { x: 1 }, { headers: { "X-One": "ü", "x-two": ["1", "2"] } }),
  "events": () => [new Event("a", "one"), new Event("b", Buffer.from("two")), new Event(null, null), new Event("d")],
  "pairs": () => new Event("a", { x: 1 }, { headers: [["Content-Type", "application/vnd.x+json"]] }),
  "mixture": () => [new Event("a", 1), 2],
  "bad-subject": () => new Event(7, 1),
  "bad-header": () => new Event("a", 1, { headers: { n: 5 } }),
  "bad-headers": () => new Event("a", 1, { headers: 7n }),
  "unserialisable": () => 5n,
  "nan": () => NaN,
  "itself": (event) => event,
  "browser-event": () => new globalThis.Event("a"),
  "returned-error": () => new Error("oops"),
  "throw-text": () => fail("just text"),
  "show": show,
  "raw": (event) => event.raw,
  "fields": fields,
  "state": state,
  "state-kept": () => "untouched",
  "state-retry": (event, context) => [state(event, context), fail(new Retry("later"))],
  "state-bad": (event, context) => void (context.state = 5n),
  "caught": caught,
  "wrapped": wrapped,
  "log": log,
  "raise": () => fail(new TypeError("nö")),
  "retry": () => fail(new Retry("busy")),
  "retry-after": () => fail(new Retry({ after: 1.5 })),
  "retry-returned": () => new Retry("again", { after: 2 }),
  "retry-wrong": () => new Retry(30),
  "reject": () => fail(new Reject("no such card")),
  "reject-returned": () => new Reject("no"),
  "long-reason": () => fail(new Reject("ä".repeat(5000))),
  "deep": function deep() { return deep(); },
  "loop": () => { for (;;); },
  "stdin": stdin,
  "out": out,
  "die": () => process.abort(),
  "exit": () => process.exit(3),
  "exit-later": async () => { await sleep(5); process.exit(3); },
  "uncaught": () => new Promise(() => setTimeout(() => fail(new Error("nobody caught it")), 1)),
  "meet": meet,
  "sleep": async () => { await sleep(300); return "slept"; },
  "slow": () => block(500),
};

function batch(events) {
  const what = events[0].subject;
  if (what === "batch.list") {
    const two = [new Event("a", 1), new Event("b", 2)];
    return [null, "text", two, new Retry({ after: 1 }), new Reject("no"), 5n];
  }
  if (what === "batch.dict") return Object.fromEntries(events.map((event) => [event.id, event.data]));
  if (what === "batch.short") return [null];
  if (what === "batch.none") return null;
  if (what === "batch.raise") throw new Error("all of them");
  if (what === "batch.data") return events.map((event) => event.data);
  throw new Error(what);
}

export function handle(event, context) {
  return Array.isArray(event) ? batch(event) : WHAT[event.subject](event, context);
}
