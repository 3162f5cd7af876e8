// The Node worker: loads one function and answers calls on file descriptor 0.
//
// It travels inside the binary and is started as `node --input-type=module --eval <this text>`;
// nothing is installed and nothing written. functions/PROTOCOL.md describes the frames. It also
// provides the module `pelton` that functions import. Node 20.6 or newer, no packages.

import { isUtf8 } from "node:buffer";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import Module from "node:module";
import net from "node:net";
import path from "node:path";
import { Readable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { format, inspect } from "node:util";
import { Worker } from "node:worker_threads";

const SOCKET = 0;
const FRAME_MAX = 128 * 1024 * 1024;
const HOLD_MS = 1; // how long a finished reply may wait for company
const STUCK_MS = 10; // how long a turn may take before the watchdog looks
const REASON_MAX = 2000;
const UNREAD = Symbol("unread");
const now = () => performance.now();

// What functions import and are given.

/** An event to publish. A subject of null means the subject of the binding. */
class Event {
  constructor(subject = null, data = null, options = {}) {
    for (const key of Object.keys(options)) {
      if (key !== "headers") throw new TypeError("write new Event(subject, data, { headers: {…} })");
    }
    this.subject = subject;
    this.data = data;
    this.headers = options.headers ?? null;
  }
}

/** Throw or return it: try again, after `after` seconds or the backoff of the binding. */
class Retry extends Error {
  constructor(reason, options) {
    if (typeof reason === "object" && reason !== null) [reason, options] = [undefined, reason];
    if (typeof reason === "number") throw new TypeError(`write new Retry({ after: ${reason} })`);
    super(reason ?? "the function asked for another try", options);
    this.name = "Retry";
    const after = options?.after;
    if (after !== undefined && !(Number.isFinite(after) && after >= 0)) {
      throw new RangeError("new Retry({ after }) takes seconds, 0 or more");
    }
    this.after = after;
  }
}

/** Throw or return it: never try again, make it a dead letter. */
class Reject extends Error {
  constructor(reason = "the function rejected it", options) {
    super(reason, options);
    this.name = "Reject";
  }
}

/** Headers by name, in any case; the first value of each. */
class Headers {
  #pairs;
  constructor(pairs) {
    this.#pairs = pairs;
    return new Proxy(this, {
      get: (target, key) => {
        const own = target[key];
        if (own === undefined) return typeof key === "string" ? target.get(key) : undefined;
        return typeof own === "function" ? own.bind(target) : own;
      },
    });
  }
  get(name) {
    const wanted = name.toLowerCase();
    return this.#pairs.find(([key]) => key.toLowerCase() === wanted)?.[1];
  }
  getAll(name) {
    const wanted = name.toLowerCase();
    return this.#pairs.filter(([key]) => key.toLowerCase() === wanted).map(([, value]) => value);
  }
  get_all(name) {
    return this.getAll(name);
  }
  has(name) {
    return this.get(name) !== undefined;
  }
  entries() {
    return this.#pairs[Symbol.iterator]();
  }
  [Symbol.iterator]() {
    return this.entries();
  }
  toJSON() {
    return this.#pairs;
  }
  [inspect.custom]() {
    return this.#pairs;
  }
}

/** The event that a function is given. Everything is worked out on first use. */
class Incoming {
  #head;
  #data = UNREAD;
  #failure = null;
  constructor(head, raw) {
    this.#head = head;
    this.raw = raw;
  }
  /** The payload as its content type says: JSON value, string, Buffer, or null when empty. */
  get data() {
    if (this.#data === UNREAD) {
      try {
        this.#data = decode(this.raw, this.#head.headers);
      } catch (error) {
        this.#failure = error;
        throw error;
      }
    }
    return this.#data;
  }
  /** `stream:sequence`. */
  get id() {
    return this.#head.id;
  }
  get subject() {
    return this.#head.subject;
  }
  get headers() {
    return new Headers(this.#head.headers ?? []);
  }
  /** When the stream stored it. */
  get time() {
    return new Date(this.#head.time);
  }
  /** 1 for the first try. */
  get attempt() {
    return this.#head.attempt;
  }
  get type() {
    return this.headers.get("ce-type") ?? this.#head.subject;
  }
  get source() {
    const { id } = this.#head;
    return this.headers.get("ce-source") ?? `nats://${id.slice(0, id.lastIndexOf(":"))}`;
  }
  [inspect.custom]() {
    return `<Event ${this.id} ${this.subject}>`;
  }
  /** Why its payload could not be decoded. */
  static failure(event) {
    return event.#failure;
  }
}

/** What a function may know and change of its call. */
class Context {
  #call;
  #started;
  #state = UNREAD;
  constructor(call, started) {
    this.#call = call;
    this.#started = started;
  }
  /** When the function must have ended. */
  get deadline() {
    return new Date(performance.timeOrigin + this.#started + this.#call.timeout * 1000);
  }
  /** Lines for the runner's log, tagged with the call. */
  get log() {
    const call = this.#call.call;
    const at = (level) => (...args) => note(level, format(...args), call);
    const [debug, info, warn, error] = ["debug", "info", "warn", "error"].map(at);
    return { debug, info, warn, warning: warn, error };
  }
  /** The state of the event's key, null when it is new. Assign the next one. */
  get state() {
    if (this.#state === UNREAD) this.#state = this.#stored().value;
    return this.#state;
  }
  set state(value) {
    this.#stored();
    this.#state = value ?? null;
  }
  #stored() {
    const { state } = this.#call;
    if (!state) throw new Error("this binding keeps no state: give it `state: {bucket, key}`");
    return state;
  }
  static touched(context) {
    return context.#state;
  }
}

/** The payload as its content type says. */
function decode(raw, headers) {
  if (raw.length === 0) return null;
  let kind;
  for (const [name, value] of headers ?? []) {
    const lower = name.toLowerCase();
    if (lower === "ce-datacontenttype") {
      kind = value;
      break;
    }
    if (lower === "content-type") kind ??= value;
  }
  if (kind === undefined) {
    if (raw[0] === 0x7b || raw[0] === 0x5b) {
      try {
        return JSON.parse(text(raw));
      } catch {
        return raw;
      }
    }
    return raw;
  }
  const [media, ...parameters] = kind.toLowerCase().split(";");
  const type = media.trim();
  if (type.endsWith("/json") || type.endsWith("+json")) return JSON.parse(text(raw));
  if (!type.startsWith("text/")) return raw;
  const [charset] = parameters.map((p) => /^\s*charset="?([^"\s]+)/.exec(p)?.[1]).filter(Boolean);
  return charset ? new TextDecoder(charset, { fatal: true }).decode(raw) : text(raw);
}

function text(raw) {
  if (!isUtf8(raw)) throw new TypeError("the payload is not UTF-8");
  return raw.toString();
}

// Verdicts.

/** The function's answer is no verdict. */
class Bad extends Error {}

function verdictOf(result, bodies) {
  if (result instanceof Retry) return retry(result.message, result.after);
  if (result instanceof Reject) return { reject: cut(result.message) };
  const kept = bodies.length;
  try {
    return { done: several(result).map((item) => outputOf(item, bodies)) };
  } catch (error) {
    bodies.length = kept;
    const why = error instanceof Bad ? "" : "the answer cannot be encoded: ";
    return { bad: cut(why + describe(error)) };
  }
}

/** The outputs that a returned value stands for. */
function several(result) {
  if (result === undefined || result === null) return [];
  if (!Array.isArray(result)) return [result];
  const events = result.filter((item) => item instanceof Event).length;
  if (events === result.length) return result;
  if (events > 0) throw new Bad("a list must hold either only Event or no Event");
  return [result];
}

function outputOf(item, bodies) {
  let headers = [];
  const output = { size: 0 };
  if (item instanceof Event) {
    if (typeof item.subject === "string") output.subject = item.subject;
    else if (item.subject != null) {
      throw new Bad(`an Event's subject must be a string, not ${inspect(item.subject)}`);
    }
    headers = headerList(item.headers);
    item = item.data;
  }
  const [data, kind] = item === null || item === undefined ? ["", null] : encode(item);
  if (kind && !headers.some(([name]) => /^(content-type|ce-datacontenttype)$/i.test(name))) {
    headers.push(["content-type", kind]);
  }
  output.size = sizeOf(data);
  if (headers.length > 0) output.headers = headers;
  bodies.push(data);
  return output;
}

/** A list of pairs from an object (a value may be a list of values) or from pairs. */
function headerList(headers) {
  if (headers === null || headers === undefined) return [];
  const pairs = [];
  const rule = "headers must be an object of strings, or pairs of strings";
  if (typeof headers !== "object") throw new Bad(rule);
  const given = typeof headers[Symbol.iterator] === "function" ? headers : Object.entries(headers);
  for (const pair of given) {
    if (!Array.isArray(pair)) throw new Bad(rule);
    const [name, value] = pair;
    for (const one of Array.isArray(value) ? value : [value]) {
      if (typeof name !== "string" || typeof one !== "string") {
        throw new Bad(`headers must be strings: ${inspect(name)}: ${inspect(one)}`);
      }
      pairs.push([name, one]);
    }
  }
  return pairs;
}

/** The data of an output and its content type. */
function encode(value) {
  if (typeof value === "string") return [wellFormed(value), "text/plain"];
  if (ArrayBuffer.isView(value)) {
    return [Buffer.from(value.buffer, value.byteOffset, value.byteLength), null];
  }
  if (value instanceof ArrayBuffer) return [Buffer.from(value), null];
  if (value instanceof Incoming) {
    throw new Bad("handle returned the event it was given: return event.data to pass it on");
  }
  if (globalThis.Event && value instanceof globalThis.Event) {
    throw new Bad('that is the browser\'s Event: import { Event } from "pelton"');
  }
  if (value instanceof Error) throw new Bad(`an error is no answer, throw it: ${describe(value)}`);
  if (typeof value === "number" && !Number.isFinite(value)) throw new Bad(`${value} is not JSON`);
  const json = JSON.stringify(value);
  if (json === undefined) throw new Bad(`a ${typeof value} is not JSON`);
  return [json, "application/json"];
}

function wellFormed(value) {
  if (!value.isWellFormed()) throw new Bad("a string with half a surrogate pair is not UTF-8");
  return value;
}

function retry(reason, after) {
  return after === undefined ? { retry: cut(reason) } : { retry: cut(reason), after };
}

function conclude(call, events, context, result) {
  if (!call.batch && Context.touched(context) === UNREAD && concludePlainly(call, result)) return;
  const bodies = [];
  let verdicts;
  if (call.batch) {
    verdicts = batchItems(result, events)?.map((item) => verdictOf(item, bodies));
    const bad = "a batch is answered by a list with an item for each event, or an object by event.id";
    verdicts ??= events.map(() => ({ bad }));
  } else {
    verdicts = [verdictOf(result, bodies)];
  }
  const meta = { reply: call.call, verdicts };
  const state = Context.touched(context);
  if (state !== UNREAD && verdicts[0].done) meta.state = { value: state };
  try {
    put(JSON.stringify(meta), bodies);
  } catch (error) {
    const bad = cut(`the state cannot be encoded: ${describe(error)}`);
    put(JSON.stringify({ reply: call.call, verdicts: events.map(() => ({ bad })) }), []);
  }
}

/** Nothing, and an object of no class, are what most functions return: both without a detour. */
function concludePlainly({ call }, result) {
  if (result === undefined) {
    put(`{"reply":${call},"verdicts":[{"done":[]}]}`, []);
    return true;
  }
  if (result === null || Object.getPrototypeOf(result) !== Object.prototype) return false;
  let data;
  try {
    data = JSON.stringify(result);
  } catch {
    return false; // said properly by whoever comes next
  }
  if (data === undefined) return false;
  const output = `{"size":${sizeOf(data)},"headers":[["content-type","application/json"]]}`;
  put(`{"reply":${call},"verdicts":[{"done":[${output}]}]}`, [data]);
  return true;
}

function batchItems(result, events) {
  if (Array.isArray(result)) return result.length === events.length ? result : undefined;
  const byId = result instanceof Map ? result : new Map(Object.entries(result ?? {}));
  const complete = byId.size === events.length && events.every((event) => byId.has(event.id));
  return complete ? events.map((event) => byId.get(event.id)) : undefined;
}

function excuse(call, events, error) {
  let verdicts;
  if (error instanceof Retry || error instanceof Reject) {
    verdicts = events.map(() => verdictOf(error, []));
  } else {
    print(error);
    const reason = cut(`${describe(error)}${place(error)}`);
    const undecodable = (event) => error !== null && Incoming.failure(event) === error;
    // The others of a batch did nothing wrong: they go on without the broken one.
    const reject = { reject: reason, undecodable: true };
    verdicts = events.map((event) => (undecodable(event) ? reject : retry(reason)));
  }
  put(JSON.stringify({ reply: call.call, verdicts }), []);
}

function cut(reason) {
  const short = reason.length <= REASON_MAX ? reason : `${reason.slice(0, REASON_MAX)}…`;
  return Buffer.from(short).toString(); // no half surrogate pairs
}

function describe(error) {
  if (error instanceof Bad) return error.message;
  if (typeof error === "string") return error;
  if (!(error instanceof Error)) return inspect(error, { depth: 1 });
  return error.message ? `${error.name}: ${error.message}` : String(error.name);
}

let folder = path.sep;

/** ` (file:line)`: the innermost line of the function's own folder that the error passed through. */
function place(error) {
  if (typeof error?.stack !== "string") return "";
  for (const line of error.stack.split("\n")) {
    const found = /((?:file:\/\/)?\/[^()]*?):(\d+)(?::\d+)?\)?$/.exec(line.trimEnd());
    if (!found) continue;
    const file = found[1].startsWith("file:") ? fileURLToPath(found[1]) : found[1];
    if (file.startsWith(folder + path.sep) && !file.includes("/node_modules/")) {
      return ` (${path.relative(folder, file)}:${found[2]})`;
    }
  }
  return "";
}

function print(error) {
  const shown = error instanceof Error && typeof error.stack === "string" ? error.stack : inspect(error);
  const lines = shown.split("\n").filter((line) => !line.includes("[eval1]"));
  process.stderr.write(`${lines.join("\n")}\n`);
}

// Frames.

// Where the words of the memory shared with the watchdog are.
const TURN = 0; // counts the turns that began
const BUSY = 1; // 1 between the start of a turn and the write that ends it
const LOCK = 2; // 1 while someone writes to the buffer or the socket
const PARKED = 3; // 1 while the watchdog sleeps for good
const NAP = 4; // never changes: to wait on
const USED = 5; // bytes in the buffer
const HELD_MAX = 256 * 1024;

let control = null; // these words
let slots = null; // the number of the call that runs in each slot, or 0
let out = null; // whole frames, held for the next write
let since = 0; // when the oldest of them was put
let scheduled = false;
let gone = false;
let fresh = []; // calls begun and not told of
let settled = true; // no reply is held of a call that the runner believes to run

function share(count) {
  control = new Int32Array(new SharedArrayBuffer(6 * 4));
  slots = new Float64Array(new SharedArrayBuffer(count * 8));
  out = Buffer.from(new SharedArrayBuffer(HELD_MAX));
}

/** Holds a frame for the next write. */
function put(meta, bodies) {
  const metaSize = Buffer.byteLength(meta);
  const size = bodies.reduce((sum, body) => sum + sizeOf(body), 0);
  const whole = 8 + metaSize + size;
  lock();
  if (control[USED] + whole > HELD_MAX) drain();
  const large = whole > HELD_MAX;
  const into = large ? Buffer.allocUnsafe(whole) : out;
  let at = large ? 0 : control[USED];
  if (at === 0) since = now();
  at = into.writeUInt32BE(metaSize, at);
  at = into.writeUInt32BE(size, at);
  at += into.write(meta, at);
  for (const body of bodies) at += typeof body === "string" ? into.write(body, at) : body.copy(into, at);
  if (large) write(into, whole);
  else control[USED] = at;
  unlock();
}

function sizeOf(data) {
  return typeof data === "string" ? Buffer.byteLength(data) : data.length;
}

function note(level, message, call) {
  put(JSON.stringify({ log: level, message, call }), []);
  if (level === "error") flush();
  else schedule();
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  turnBegins();
  setImmediate(turnEnds);
}

function turnEnds() {
  scheduled = false;
  flush();
  Atomics.store(control, BUSY, 0);
}

/** Writes what is held and which calls have begun. Synchronous, so that an exit loses nothing. */
function flush() {
  const begun = fresh.filter((call) => !call.ended);
  for (const call of begun) call.told = true;
  fresh = [];
  if (begun.length > 0) put(`{"started":[${begun.map((call) => call.call).join(",")}]}`, []);
  if (control === null) return;
  lock();
  drain();
  unlock();
  settled = true;
  if (gone) process.exit(1);
}

function drain() {
  write(out, control[USED]);
  control[USED] = 0;
}

function write(buffer, size) {
  for (let at = 0; at < size && !gone; ) {
    try {
      at += fs.writeSync(SOCKET, buffer, at, size - at);
    } catch (error) {
      if (error.code === "EAGAIN") Atomics.wait(control, NAP, 0, 0.2);
      else if (error.code !== "EINTR") gone = true; // the runner is gone: nobody is left to tell
    }
  }
}

function lock() {
  while (Atomics.compareExchange(control, LOCK, 0, 1) !== 0) Atomics.wait(control, LOCK, 1, 1);
}

function unlock() {
  Atomics.store(control, LOCK, 0);
}

/** Cuts what arrives into frames. */
class Inbox {
  chunks = [];
  size = 0;
  need = 8;
  cut(chunk) {
    this.chunks.push(chunk);
    this.size += chunk.length;
    const frames = [];
    if (this.size < this.need) return frames;
    const data = this.chunks.length === 1 ? chunk : Buffer.concat(this.chunks, this.size);
    let start = 0;
    this.need = 8;
    while (data.length - start >= 8) {
      const meta = data.readUInt32BE(start);
      const body = data.readUInt32BE(start + 4);
      if (meta > FRAME_MAX || body > FRAME_MAX) throw new Error("bad frame from the runner");
      if (data.length - start < 8 + meta + body) {
        this.need = 8 + meta + body;
        break;
      }
      const middle = start + 8 + meta;
      frames.push([JSON.parse(data.toString("utf8", start + 8, middle)), data.subarray(middle, middle + body)]);
      start = middle + body;
    }
    this.chunks = start < data.length ? [data.subarray(start)] : [];
    this.size = data.length - start;
    return frames;
  }
}

// The watchdog: sends what is held and tells what has begun when the main thread does not get round
// to it, because a handler computes, loops, or eats memory until it is killed. Thus the runner knows
// whom to blame, without a system call per event.

const WATCHDOG = `
const fs = require("node:fs");
const { control, slots, out } = require("node:worker_threads").workerData;
const told = new Float64Array(slots.length);
let idle = 0;
for (;;) {
  const turn = Atomics.load(control, ${TURN});
  const busy = Atomics.load(control, ${BUSY});
  Atomics.wait(control, ${NAP}, 0, ${STUCK_MS});
  if (turn !== Atomics.load(control, ${TURN})) idle = 0;
  else if (busy && Atomics.load(control, ${BUSY})) speak();
  else if (++idle === 50) park(turn);
}
function park(turn) {
  idle = 0;
  Atomics.store(control, ${PARKED}, 1);
  if (turn === Atomics.load(control, ${TURN})) Atomics.wait(control, ${PARKED}, 1);
  Atomics.store(control, ${PARKED}, 0);
}
function speak() {
  if (Atomics.compareExchange(control, ${LOCK}, 0, 1) !== 0) return;
  write(out, control[${USED}]);
  control[${USED}] = 0;
  const begun = [...slots].filter((call, slot) => call !== 0 && call !== told[slot]);
  told.set(slots);
  if (begun.length > 0) {
    const meta = Buffer.from(JSON.stringify({ started: begun }));
    const head = Buffer.alloc(8);
    head.writeUInt32BE(meta.length);
    write(Buffer.concat([head, meta]), 8 + meta.length);
  }
  Atomics.store(control, ${LOCK}, 0);
  Atomics.notify(control, ${LOCK});
}
function write(buffer, size) {
  for (let at = 0; at < size; ) {
    try {
      at += fs.writeSync(${SOCKET}, buffer, at, size - at);
    } catch (error) {
      if (error.code !== "EAGAIN" && error.code !== "EINTR") return;
      Atomics.wait(control, ${NAP}, 0, 1);
    }
  }
}
`;

function watch() {
  const workerData = { control, slots, out };
  const thread = new Worker(WATCHDOG, { eval: true, workerData, execArgv: [], env: {} });
  thread.on("error", () => {}); // without it, a handler that blocks is told of when it is over
  thread.unref();
}

function turnBegins() {
  Atomics.add(control, TURN, 1);
  Atomics.store(control, BUSY, 1);
  if (Atomics.load(control, PARKED) === 1) {
    Atomics.store(control, PARKED, 0);
    Atomics.notify(control, PARKED);
  }
}

// Calls.

let handle = null;
let running = 0;
let draining = false;
// So many calls are told of one by one before they begin: when a worker has died too quickly for
// anyone to know which call did it, they run again in a new worker, and there it will be known.
let careful = 0;

function start(frames) {
  const calls = frames.filter(([call]) => call.call !== undefined);
  if (calls.length === 0) return;
  schedule();
  const alone = calls.length === 1 && running === 0;
  for (const [call, body] of calls) begin(call, body, alone);
}

function begin(call, body, alone) {
  const began = now();
  const tell = alone || careful > 0;
  if (!tell && (!settled || (control[USED] > 0 && began - since > HOLD_MS))) flush();
  fresh.push(call);
  slots[call.slot] = call.call;
  if (tell) flush();
  if (careful > 0) careful -= 1;
  running += 1;
  const events = eventsOf(call, body);
  const context = new Context(call, began);
  try {
    const result = handle(call.batch ? events : events[0], context);
    if (typeof result?.then === "function") {
      result.then(
        (value) => finish(call, began, () => conclude(call, events, context, value)),
        (error) => finish(call, began, () => excuse(call, events, error)),
      );
    } else {
      finish(call, began, () => conclude(call, events, context, result));
    }
  } catch (error) {
    finish(call, began, () => excuse(call, events, error));
  }
}

function finish(call, began, reply) {
  reply();
  call.ended = true;
  slots[call.slot] = 0;
  running -= 1;
  // The watchdog may have told of a call that took long.
  if (call.told || now() - began > HOLD_MS) settled = false;
  if (now() - since > HOLD_MS) flush();
  schedule();
  if (draining && running === 0) leave();
}

function eventsOf(call, body) {
  if (!call.batch) return [new Incoming(call.events[0], body)];
  let at = 0;
  return call.events.map((head) => new Incoming(head, body.subarray(at, (at += head.size))));
}

function leave() {
  flush();
  process.exit(0);
}

// Start.

/** Makes `import "pelton"` and `require("pelton")` work in functions. */
function provide() {
  const things = { Event, Retry, Reject };
  const key = "pelton.module";
  globalThis[Symbol.for(key)] = things;
  const source = `export const { Event, Retry, Reject } = globalThis[Symbol.for("${key}")];`;
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  const resolve = (wanted, context, next) =>
    wanted === "pelton" ? { url, format: "module", shortCircuit: true } : next(wanted, context);
  if (Module.registerHooks) {
    Module.registerHooks({ resolve });
  } else {
    const hooks = `const url = ${JSON.stringify(url)}; export const resolve = ${resolve};`;
    Module.register(`data:text/javascript,${encodeURIComponent(hooks)}`);
  }
  const load = Module._load;
  Module._load = function (wanted, ...rest) {
    return wanted === "pelton" ? things : load.call(this, wanted, ...rest);
  };
}

async function load(file) {
  const module = await import(pathToFileURL(file));
  const found = module.handle ?? module.default?.handle;
  if (typeof found !== "function") {
    const name = path.basename(file);
    const write = "write `export async function handle(event, context) {…}`";
    throw new Bad(`${name} has no function \`handle\`: ${write}`);
  }
  return found;
}

/** Node keeps the place of a syntax error in an ES module to itself, except in what it prints. */
function syntaxErrorPlace(file) {
  const neighbours = fs.readdirSync(folder).filter((name) => /\.[cm]?js$/.test(name));
  for (const one of [file, ...neighbours.slice(0, 20).map((name) => path.join(folder, name))]) {
    const { stderr } = spawnSync(process.execPath, ["--check", one], { encoding: "utf8", timeout: 5000 });
    const stack = stderr?.trimStart() ?? "";
    if (stack.includes("SyntaxError")) {
      process.stderr.write(stack);
      return place({ stack });
    }
  }
  return "";
}

async function init({ init }) {
  folder = path.dirname(init.file);
  share(init.slots);
  try {
    if (init.protocol !== 1) throw new Bad(`this worker speaks protocol 1, the runner ${init.protocol}`);
    handle = await load(init.file);
  } catch (error) {
    if (!(error instanceof Bad)) print(error);
    let where = error instanceof Bad ? "" : place(error);
    if (error instanceof SyntaxError && !where) where = syntaxErrorPlace(init.file);
    put(JSON.stringify({ failed: cut(`${describe(error)}${where}`) }), []);
    process.exit(1); // flushes
  }
  careful = Math.max(64, 2 * init.slots);
  watch();
  put('{"ready":{"async":true}}', []);
  flush();
}

process.on("SIGINT", () => {}); // Ctrl-C is for the runner
process.on("exit", flush);
process.execArgv = []; // children of the function are no workers
Object.defineProperty(process, "stdin", { value: Readable.from([]), configurable: true });
provide();

const inbox = new Inbox();
const socket = new net.Socket({ fd: SOCKET, readable: true, writable: false, allowHalfOpen: true });
let waiting = []; // calls that came before the function was loaded
socket.on("data", (chunk) => {
  const frames = inbox.cut(chunk);
  if (handle === null) waiting.push(...frames);
  else start(frames);
  if (handle === null && frames.length > 0 && waiting[0]?.[0].init) {
    const [first] = waiting.splice(0, 1);
    init(first[0]).then(() => {
      start(waiting);
      waiting = [];
      if (draining && running === 0) leave();
    });
  }
});
socket.on("end", () => {
  draining = true;
  if (running === 0 && waiting.length === 0) leave();
});
socket.on("error", () => {
  gone = true;
  process.exit(1);
});
