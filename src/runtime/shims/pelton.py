"""The Python worker: loads one function and answers calls on file descriptor 0.

It travels inside the binary and is started as `python3 -u -c <this text>`; nothing is installed and
nothing written. functions/PROTOCOL.md describes the frames. It also is the module `pelton` that
functions import. Python 3.9 or newer, standard library only.
"""

import _thread
import inspect
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Mapping

HEAD = struct.Struct(">II")
FRAME_MAX = 128 << 20
CHUNK = 256 << 10
HOLD_NS = 1_000_000  # how long a finished reply may wait for company
CRASHED = 137  # as a process killed for its memory ends
OUT_OF_MEMORY = b"out of memory: the worker ends (memory_limit in the manifest)\n"
REASON_MAX = 2000
UNREAD = object()

clock = time.monotonic_ns
# As the runner writes them: what a call begins with, what only that of a single event without state ends
# with, and what stands before its headers (not in a value: there a quote is escaped).
CALL = b'{"call":'
SINGLE = b"}]}"
HEADERS = b'"headers":'


def out_of_memory():
    """Ends the worker: what a handler left half done cannot be told from what it finished."""
    try:
        os.write(2, OUT_OF_MEMORY)
    finally:
        os._exit(CRASHED)


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


decoder = json.JSONDecoder(parse_constant=no_constant)
scan = decoder.scan_once
dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


# What functions import and are given.


class Event:
    """An event to publish. `subject=None` means the subject of the binding."""

    __slots__ = ("subject", "data", "headers")

    def __init__(self, subject=None, data=None, headers=None):
        self.subject = subject
        self.data = data
        self.headers = headers

    def __repr__(self):
        return f"Event({self.subject!r}, {self.data!r}, headers={self.headers!r})"


class Retry(Exception):
    """Raise or return it: try again, after `after` seconds or the backoff of the binding."""

    reason = "the function asked for another try"
    after = None

    def __init__(self, reason=reason, *, after=None):
        if isinstance(reason, (int, float)):
            raise TypeError(f"write Retry(after={reason})")
        if after is not None:
            after = float(after)
            if not 0 <= after < float("inf"):
                raise ValueError("Retry(after=…) takes seconds, 0 or more")
        super().__init__(reason)
        self.reason = str(reason)
        self.after = after


class Reject(Exception):
    """Raise or return it: never try again, make it a dead letter."""

    reason = "the function rejected it"

    def __init__(self, reason=reason):
        super().__init__(reason)
        self.reason = str(reason)


class Headers(Mapping):
    """Headers by name, in any case; the first value of each."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs):
        self._pairs = pairs

    def __getitem__(self, name):
        wanted = name.lower()
        for key, value in self._pairs:
            if key.lower() == wanted:
                return value
        raise KeyError(name)

    def get_all(self, name):
        """Every value of `name`, in order."""
        wanted = name.lower()
        return [value for key, value in self._pairs if key.lower() == wanted]

    def __iter__(self):
        return iter({key.lower(): key for key, _ in reversed(self._pairs)}.values())

    def __len__(self):
        return len({key.lower() for key, _ in self._pairs})

    def __repr__(self):
        return f"Headers({self._pairs!r})"


class Incoming(Event):
    """The event that a function is given. Everything is worked out on first use."""

    __slots__ = ("_call", "_at", "raw", "_data", "failure")

    def __init__(self, call, at, raw):
        self._call = call
        self._at = at
        self.raw = raw
        self._data = UNREAD
        self.failure = None

    @property
    def _head(self):
        return self._call._read()["events"][self._at]

    @property
    def _pairs(self):
        """The headers as pairs; what else is unread stays unread."""
        call = self._call
        if call._fields is not None:
            return self._head.get("headers") or []
        at = call._meta.rfind(HEADERS) + len(HEADERS)
        return [] if call._meta.startswith(b"[]", at) else scan(call._meta[at:].decode(), 0)[0]

    @property
    def data(self):
        """The payload as its content type says: JSON value, str, bytes, or None when empty."""
        data = self._data
        if data is UNREAD:
            try:
                data = self._data = decode(self.raw, self._pairs)
            except (ValueError, LookupError, RecursionError) as error:
                self.failure = error
                raise
        return data

    @property
    def id(self):
        """`stream:sequence`."""
        return self._head["id"]

    @property
    def subject(self):
        return self._head["subject"]

    @property
    def headers(self):
        return Headers(self._pairs)

    @property
    def time(self):
        """When the stream stored it: an aware datetime in UTC, cut to microseconds."""
        from datetime import datetime, timezone

        text = self._head["time"]
        moment = datetime.fromisoformat(text[:19]).replace(tzinfo=timezone.utc)
        fraction = text[20:].rstrip("Z")
        return moment.replace(microsecond=int(fraction[:6].ljust(6, "0"))) if fraction else moment

    @property
    def attempt(self):
        """1 for the first try."""
        return self._head["attempt"]

    @property
    def type(self):
        return self.headers.get("ce-type", self._head["subject"])

    @property
    def source(self):
        stream = self._head["id"].rpartition(":")[0]
        return self.headers.get("ce-source", f"nats://{stream}")

    def __repr__(self):
        return f"<Event {self.id} {self.subject}>"


class Context:
    """What a function may know and change of its call."""

    __slots__ = ("_number", "_slot", "_meta", "_fields", "_batch", "_started", "_state")

    def __init__(self, number, slot, meta, fields, batch):
        self._number = number
        self._slot = slot
        self._meta = meta
        self._fields = fields
        self._batch = batch
        self._state = UNREAD

    def _read(self):
        """All that the runner says of the call."""
        if self._fields is None:
            self._fields = scan(self._meta.decode(), 0)[0]
        return self._fields

    @property
    def deadline(self):
        """When the function must have ended: an aware datetime in UTC."""
        from datetime import datetime, timedelta, timezone

        left = self._read()["timeout"] - (clock() - self._started) / 1e9
        return datetime.now(timezone.utc) + timedelta(seconds=left)

    @property
    def log(self):
        return Log(self._number)

    @property
    def state(self):
        """The state of the event's key, None when it is new. Assign the next one."""
        if self._state is UNREAD:
            self._state = self._stored()["value"]
        return self._state

    @state.setter
    def state(self, value):
        self._stored()
        self._state = value

    def _stored(self):
        state = self._read().get("state")
        if state is None:
            raise AttributeError("this binding keeps no state: give it `state: {bucket, key}`")
        return state


class Log:
    """Lines for the runner's log, tagged with the call; the methods of logging.Logger."""

    __slots__ = ("_call",)

    def __init__(self, call):
        self._call = call

    def debug(self, message, *args, **kwargs):
        self._send("debug", message, args, kwargs)

    def info(self, message, *args, **kwargs):
        self._send("info", message, args, kwargs)

    def warning(self, message, *args, **kwargs):
        self._send("warn", message, args, kwargs)

    def error(self, message, *args, **kwargs):
        self._send("error", message, args, kwargs)

    def exception(self, message, *args, **kwargs):
        kwargs.setdefault("exc_info", True)
        self._send("error", message, args, kwargs)

    critical = error
    warn = warning

    def _send(self, level, message, args, kwargs):
        text = str(message)
        if args:
            try:
                text %= args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args
            except (TypeError, ValueError, KeyError):
                text = f"{text} {args!r}"
        cause = kwargs.get("exc_info")
        if cause:
            cause = cause if isinstance(cause, BaseException) else sys.exc_info()[1]
        if cause:
            text = f"{text}\n{trace(cause)}"
        wire.note({"log": level, "message": text, "call": self._call}, level == "error")


def decode(raw, headers):
    """The payload as its content type says."""
    if not raw:
        return None
    kind = None
    for name, value in headers or ():
        name = name.lower()
        if name == "ce-datacontenttype":
            kind = value
            break
        if name == "content-type" and kind is None:
            kind = value
    if kind is None:
        if raw[0] in b"{[":
            try:
                return parse(raw)
            except (ValueError, RecursionError):
                pass
        return raw
    if kind == "application/json":
        return parse(raw)
    media, _, parameters = kind.lower().partition(";")
    media = media.strip()
    if media.endswith(("/json", "+json")):
        return parse(raw)
    if media.startswith("text/"):
        _, found, charset = parameters.partition("charset=")
        return raw.decode(charset.partition(";")[0].strip(' "') if found else "utf-8")
    return raw


def parse(raw):
    text = raw.decode()
    try:
        value, end = scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    return decoder.decode(text)  # leading or trailing space, or a proper error


# Verdicts.


class Bad(Exception):
    """The function's answer is no verdict, or the function cannot be used; says why."""


class Answer:
    """The verdicts of one call and the data of their outputs."""

    __slots__ = ("verdicts", "bodies")

    def __init__(self):
        self.verdicts = []
        self.bodies = []

    def add(self, result):
        """The verdict that a returned value stands for."""
        if isinstance(result, Retry):
            self.verdicts.append(retry(result.reason, result.after))
        elif isinstance(result, Reject):
            self.verdicts.append({"reject": cut(result.reason)})
        else:
            kept = len(self.bodies)
            try:
                self.verdicts.append({"done": [self.output(item) for item in several(result)]})
            except MemoryError:
                out_of_memory()
            except Exception as error:
                del self.bodies[kept:]
                self.verdicts.append({"bad": cut(describe(error))})

    def output(self, item):
        subject, headers = None, []
        if isinstance(item, Event):
            if isinstance(item, Incoming):
                raise Bad("handle returned the event it was given: return event.data to pass it on")
            subject, headers = item.subject, header_list(item.headers)
            if subject is not None and not isinstance(subject, str):
                raise Bad(f"an Event's subject must be a str, not {type(subject).__name__}")
            item = item.data
        data, kind = (b"", None) if item is None else encode(item)
        if kind and not any(k.lower() in ("content-type", "ce-datacontenttype") for k, _ in headers):
            headers.append(("content-type", kind))
        self.bodies.append(data)
        output = {"size": len(data)}
        if subject is not None:
            output["subject"] = subject
        if headers:
            output["headers"] = headers
        return output

    def frame(self, context):
        number = context._number
        meta = {"reply": number, "verdicts": self.verdicts}
        if context._state is not UNREAD and "done" in self.verdicts[0]:
            meta["state"] = {"value": context._state}
        try:
            text = dumps(meta).encode()
        except Exception as error:
            what = "state" if "state" in meta else "subject or headers"
            bad = {"bad": cut(f"{what}: {describe(error)}")}
            return frame(dumps({"reply": number, "verdicts": [bad] * len(self.verdicts)}).encode(), b"")
        return frame(text, b"".join(self.bodies))


def several(result):
    """The outputs that a returned value stands for."""
    if result is None:
        return ()
    if isinstance(result, (list, tuple)):
        events = sum(isinstance(item, Event) for item in result)
        if events == len(result):
            return result
        if events:
            raise Bad("a list must hold either only Event or no Event")
    return (result,)


def header_list(headers):
    """A list of pairs from a mapping (a value may be a list of values) or from pairs."""
    if headers is None:
        return []
    pairs = []
    try:
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(name, str) or not isinstance(item, str):
                    raise Bad(f"headers must be str: {name!r}: {item!r}")
                pairs.append((name, item))
    except (TypeError, ValueError):
        raise Bad("headers must be a dict of str, or a list of pairs of str") from None
    return pairs


def encode(value):
    """The bytes of an output and their content type."""
    try:
        if isinstance(value, str):
            return value.encode(), "text/plain"
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value), None
        return dumps(value).encode(), "application/json"
    except MemoryError:
        raise
    except Exception as error:
        hint = ""
        if hasattr(value, "__await__"):
            hint = " (declare the function with `async def`)"
        raise Bad(f"the answer cannot be encoded: {describe(error)}{hint}") from None


def retry(reason, after=None):
    verdict = {"retry": cut(reason)}
    if after is not None:
        verdict["after"] = after
    return verdict


def conclude(context, asked, result):
    """The reply frame for what a function returned."""
    if not context._batch:
        if context._state is UNREAD:
            if result is None:
                return frame(b'{"reply":%d,"verdicts":[{"done":[]}]}' % context._number, b"")
            if type(result) is dict:
                try:
                    data = dumps(result).encode()
                except Exception:
                    pass  # said properly below
                else:
                    return frame(PLAIN % (context._number, len(data)), data)
        answer = Answer()
        answer.add(result)
        return answer.frame(context)
    answer = Answer()
    items = batch_items(result, asked)
    if items is None:
        bad = "a batch is answered by a list with one item for each event, or a dict by event.id"
        answer.verdicts = [{"bad": bad}] * len(asked)
    else:
        for item in items:
            answer.add(item)
    return answer.frame(context)


def batch_items(result, events):
    if isinstance(result, Mapping):
        ids = [event.id for event in events]
        return [result[id] for id in ids] if set(result) == set(ids) else None
    same = isinstance(result, (list, tuple)) and len(result) == len(events)
    return result if same else None


PLAIN = (
    b'{"reply":%d,"verdicts":[{"done":[{"size":%d,"headers":[["content-type","application/json"]]}]}]}'
)


def excuse(context, asked, error):
    """The reply frame for what a function raised."""
    answer = Answer()
    events = asked if context._batch else [asked]
    context._state = UNREAD
    if isinstance(error, (Retry, Reject)):
        for _ in events:
            answer.add(error)
        return answer.frame(context)
    print_error(error)
    reason = f"{describe(error)}{place(error)}"
    undecodable = {"reject": cut(reason), "undecodable": True}
    if any(event.failure is error for event in events):
        # The others of a batch did nothing wrong: they go on without the broken one.
        answer.verdicts = [undecodable if e.failure is error else retry(reason) for e in events]
    else:
        answer.verdicts = [retry(reason)] * len(events)
    return answer.frame(context)


def cut(text):
    text = text if len(text) <= REASON_MAX else f"{text[:REASON_MAX]}…"
    return text.encode("utf-8", "replace").decode()


def describe(error):
    if isinstance(error, Bad):
        return str(error)
    try:
        text = str(error)
    except Exception:
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def place(error):
    """` (file:line)`: the last line of the function's own folder that the error passed through."""
    found, step = "", error.__traceback__
    while step:
        path = step.tb_frame.f_code.co_filename
        if path.startswith(folder + os.sep) and "site-packages" not in path:
            found = f" ({path[len(folder) + 1:]}:{step.tb_lineno})"
        step = step.tb_next
    return found


def trace(error):
    import traceback

    step = error.__traceback__
    while step and step.tb_next and step.tb_frame.f_globals is globals():
        step = step.tb_next
    return "".join(traceback.format_exception(type(error), error, step))


def print_error(error):
    try:
        sys.stderr.write(trace(error))
        sys.stderr.flush()
    except Exception:  # a message that cannot be shown must not cost the verdict
        pass


# Frames.


def frame(meta, body):
    return HEAD.pack(len(meta), len(body)) + meta + body


class Inbox:
    """Cuts what arrives into frames."""

    def __init__(self, sock):
        self.sock = sock
        self.flags = 0
        self.rest = b""
        self.large = None  # a frame longer than a chunk, and how much of it has arrived
        self.have = 0

    def read(self):
        """What one read brought, as a list of (meta, body); None at the end of the file."""
        try:
            return self.read_chunk() if self.large is None else self.read_large()
        except ConnectionError:
            os._exit(1)  # the runner is gone: nobody is left to tell

    def read_chunk(self):
        data = self.sock.recv(CHUNK, self.flags)
        return self.cut(self.rest + data if self.rest else data) if data else None

    def read_large(self):
        with memoryview(self.large) as view:
            count = self.sock.recv_into(view[self.have :], 0, self.flags)
        if not count:
            return None
        self.have += count
        if self.have < len(self.large):
            return []
        data, self.large = self.large, None
        return self.cut(data)

    def cut(self, data):
        frames, start, end = [], 0, len(data)
        while end - start >= 8:
            meta, body = HEAD.unpack_from(data, start)
            if meta > FRAME_MAX or body > FRAME_MAX:
                raise ValueError("bad frame from the runner")
            middle = start + 8 + meta
            stop = middle + body
            if stop > end:
                if stop - start > CHUNK:
                    self.large = bytearray(stop - start)
                    self.have = end - start
                    self.large[: self.have] = data[start:]
                    self.rest = b""
                    return frames
                break
            frames.append((bytes(data[start + 8 : middle]), bytes(data[middle:stop])))
            start = stop
        self.rest = data[start:]
        return frames


class Wire:
    """Holds frames for the runner back for a moment, so that many leave with one write.

    A handler that follows quick ones may be slow, and their replies must not wait for it: a thread
    sends what is older than a moment while the main thread is busy. It sleeps when nothing is held.
    """

    def __init__(self, sock):
        self.sock = sock
        self.held = []
        self.since = 0
        self.lock = _thread.allocate_lock()
        self.wake = _thread.allocate_lock()
        self.wake.acquire()
        self.parked = False

    def watch(self):
        self.parked = True
        _thread.start_new_thread(self._watch, ())

    def put(self, data):
        if not self.held:
            self.since = clock()
        self.held.append(data)

    def note(self, meta, now=False):
        meta["message"] = meta["message"].encode("utf-8", "replace").decode()
        self.put(frame(dumps(meta).encode(), b""))
        if now:
            self.flush()
        else:
            self.hasten()

    def hasten(self):
        """Sees to it that what is held leaves soon, though the main thread may be busy."""
        if self.parked:
            self.unpark()

    def flush(self):
        with self.lock:
            count = len(self.held)
            if count:
                data = b"".join(self.held[:count])
                del self.held[:count]
                self.send(data)

    def send(self, data):
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:  # some event loops make the socket non-blocking
                select.select([], [self.sock], [])
            except OSError:
                os._exit(1)  # the runner is gone: nobody is left to tell

    def unpark(self):
        self.parked = False
        self.wake.release()

    def _watch(self):
        idle = 0
        while True:
            if idle > 50:
                idle = 0
                self.parked = True
                if self.held:  # put between the last look and the line above
                    self.parked = False
                else:
                    self.wake.acquire()
            time.sleep(HOLD_NS / 1e9)
            if not self.held:
                idle += 1
            elif clock() - self.since > HOLD_NS:
                idle = 0
                self.flush()


def call_of(meta):
    """The call that a frame of the runner asks for, if it is one.

    That of a single event is read only as far as it is asked for: most handlers need its payload alone.
    """
    if meta.startswith(CALL) and meta.endswith(SINGLE):
        number = int(meta[len(CALL) : meta.index(b",")])
        return Context(number, number % slots, meta, None, False)
    fields = scan(meta.decode(), 0)[0]
    if "call" not in fields:
        return None
    return Context(fields["call"], fields["slot"], meta, fields, fields.get("batch", False))


def asked_about(context, body):
    """What the handler is given: an event, or the list of a batch."""
    if not context._batch:
        return Incoming(context, 0, body)
    events, start = [], 0
    for at, head in enumerate(context._read()["events"]):
        stop = start + head["size"]
        events.append(Incoming(context, at, body[start:stop]))
        start = stop
    return events


def begin(context, now):
    """Tells the runner that a handler is about to start."""
    context._started = now
    if page is None:
        wire.put(frame(b'{"started":[%d]}' % context._number, b""))
        wire.flush()
    else:
        slot = 2 * context._slot
        page[slot + 1] = now
        page[slot] = context._number


def end(context):
    """Tells the runner that it has ended, though its reply may still be on the way."""
    if page is not None:
        page[2 * context._slot] = 0


# The two ways to run.


def serve(handle, inbox, frames):
    """A plain function: one call at a time."""
    wire.watch()
    while frames is not None:
        for meta, body in frames:
            context = call_of(meta)
            if context is None:
                continue
            asked = asked_about(context, body)
            now = clock()
            if wire.held:
                if now - wire.since > HOLD_NS:
                    wire.flush()
                else:
                    wire.hasten()
            begin(context, now)
            try:
                result = handle(asked, context)
            except MemoryError:
                out_of_memory()
            except Exception as error:
                reply = excuse(context, asked, error)
            else:
                reply = conclude(context, asked, result)
            end(context)
            wire.put(reply)
        wire.flush()
        frames = inbox.read()


class Loop:
    """An async function: many calls at a time, replies leave once per turn of the event loop."""

    def __init__(self, handle, inbox):
        import asyncio

        self.cancelled = asyncio.CancelledError
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.drained = self.loop.create_future()
        self.handle = handle
        self.inbox = inbox
        self.thread = _thread.get_ident()
        self.scheduled = False
        self.tasks = set()
        wire.hasten = self.hasten
        inbox.flags = socket.MSG_DONTWAIT

    def serve(self, frames):
        self.start(frames)
        self.loop.add_reader(self.inbox.sock, self.readable)
        try:
            self.loop.run_until_complete(self.drained)
        except (SystemExit, KeyboardInterrupt) as error:
            # A crash, even with status 0. Other tasks must not see it as a cancellation.
            wire.flush()
            sys.stdout.flush()
            code = error.code if isinstance(error, SystemExit) else 1
            os._exit(code if isinstance(code, int) else code is not None)
        wire.flush()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    def readable(self):
        try:
            frames = self.inbox.read()
        except BlockingIOError:
            return
        if frames is None:
            self.loop.remove_reader(self.inbox.sock)
            self.inbox = None
            self.drain()
        else:
            self.start(frames)

    def start(self, frames):
        for meta, body in frames:
            context = call_of(meta)
            if context is not None:
                task = self.loop.create_task(self.run(context, body))
                self.tasks.add(task)
                task.add_done_callback(self.done)

    def done(self, task):
        self.tasks.discard(task)
        if self.inbox is None:
            self.drain()

    def drain(self):
        if not self.tasks and not self.drained.done():
            self.drained.set_result(None)

    async def run(self, context, body):
        asked = asked_about(context, body)
        begin(context, clock())
        try:
            result = await self.handle(asked, context)
        except MemoryError:
            out_of_memory()
        except (Exception, self.cancelled) as error:
            reply = excuse(context, asked, error)
        else:
            reply = conclude(context, asked, result)
        end(context)
        wire.put(reply)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.flush)
        elif clock() - wire.since > HOLD_NS:
            wire.flush()

    def flush(self):
        self.scheduled = False
        wire.flush()

    def hasten(self):
        if _thread.get_ident() != self.thread:
            self.loop.call_soon_threadsafe(wire.flush)
        elif not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.flush)


# Start.


def take_socket():
    """Moves the runner's socket off descriptor 0, where the function would find it."""
    sock = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.register_at_fork(after_in_child=sock.close)
    return sock


def line_buffered(fd):
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def page_from(descriptors, init):
    """The started page as 64-bit words, or None."""
    page = None
    for fd in descriptors:
        if init.get("page") and sys.byteorder == "little" and page is None:
            page = memoryview(mmap.mmap(fd, init["slots"] * 16)).cast("Q")
        os.close(fd)
    return page


def load(path):
    """The function's `handle`."""
    name = os.path.splitext(os.path.basename(path))[0]
    module = types.ModuleType(name if name not in sys.modules else f"{name} (function)")
    module.__file__ = path
    sys.modules[module.__name__] = module
    with open(path, "rb") as source:
        code = compile(source.read(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)
    handle = getattr(module, "handle", None)
    file = os.path.basename(path)
    if not callable(handle):
        raise Bad(f"{file} has no function `handle`: write `def handle(event, context): …`")
    try:
        inspect.signature(handle).bind(None, None)
    except TypeError:
        raise Bad(f"`handle` of {file} must take two arguments: def handle(event, context)") from None
    except ValueError:  # written in C: it does not say
        pass
    return handle


def is_async(handle):
    return inspect.iscoroutinefunction(handle) or inspect.iscoroutinefunction(
        getattr(handle, "__call__", None)
    )


def excuse_load(error):
    """Why the function cannot be loaded, in one line."""
    if isinstance(error, SyntaxError) and error.filename:
        where = os.path.relpath(error.filename, folder) if folder else error.filename
        return cut(f"{type(error).__name__}: {error.msg} ({where}:{error.lineno})")
    return cut(f"{describe(error)}{place(error)}")


def main():
    global wire, page, folder, slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = take_socket()
    wire = Wire(sock)
    sys.stdout, sys.stderr = line_buffered(1), line_buffered(2)
    inbox = Inbox(sock)
    data, descriptors, _, _ = socket.recv_fds(sock, CHUNK, 1)
    frames = inbox.cut(data)
    while not frames:
        frames = inbox.read()
        if frames is None:
            return
    init = json.loads(frames.pop(0)[0])["init"]
    slots = init["slots"]
    page = page_from(descriptors, init)
    path = os.path.abspath(init["file"])
    folder = os.path.dirname(path)
    if sys.path and sys.path[0] == "":
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)
    sys.dont_write_bytecode = True  # the folder may be read-only, and is not ours
    try:
        if init["protocol"] != 1:
            raise Bad(f"this worker speaks protocol 1, the runner {init['protocol']}")
        handle = load(path)
    except BaseException as error:
        if not isinstance(error, Bad):
            print_error(error)
        wire.put(frame(dumps({"failed": excuse_load(error)}).encode(), b""))
        wire.flush()
        sys.exit(1)
    concurrent = is_async(handle)
    wire.put(frame(b'{"ready":{"async":%s}}' % (b"true" if concurrent else b"false"), b""))
    wire.flush()
    if concurrent:
        Loop(handle, inbox).serve(frames)
    else:
        serve(handle, inbox, frames)


def module():
    """What `import pelton` finds."""
    pelton = types.ModuleType("pelton", "What a Pelton function imports.")
    for thing in (Event, Retry, Reject):
        thing.__module__ = "pelton"
        setattr(pelton, thing.__name__, thing)
    pelton.__all__ = ["Event", "Retry", "Reject"]
    return pelton


sys.modules["pelton"] = module()
main()
