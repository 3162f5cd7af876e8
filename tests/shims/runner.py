"""Plays the runner's side of the worker protocol, so that the shims are tested without one."""

import json
import mmap
import os
import socket
import struct
import subprocess
import unittest
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SHIMS = ROOT / "src" / "runtime" / "shims"
FUNCTIONS = HERE / "functions"
HEAD = struct.Struct(">II")
PATIENCE = 20  # seconds until a silent worker fails its test

PYTHON = [os.environ.get("PELTON_TEST_PYTHON", "python3"), "-u", "-c", (SHIMS / "pelton.py").read_text()]
NODE = [os.environ.get("PELTON_TEST_NODE", "node"), "--input-type=module", "--eval", (SHIMS / "pelton.mjs").read_text()]


def frame(meta, body=b""):
    text = json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode()
    return HEAD.pack(len(text), len(body)) + text + body


class Worker:
    """One worker process and the runner's end of its socket."""

    def __init__(self, command, file, slots=16, page=True, **options):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", **options
        )
        theirs.close()
        self.slots = slots
        self.calls = 0
        self.data = b""
        self.seen = []  # every frame that was no reply
        self.answered = set()
        self.page = None
        self.init(file, page)

    def init(self, file, page):
        meta = {"protocol": 1, "function": "test", "file": file and str(file), "slots": self.slots, "page": page}
        descriptors = []
        if page:
            descriptors = [os.memfd_create("started")]
            os.ftruncate(descriptors[0], self.slots * 16)
            self.page = memoryview(mmap.mmap(descriptors[0], self.slots * 16)).cast("Q")
        socket.send_fds(self.socket, [frame({"init": meta})], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def read(self):
        """The next frame; None at the end of the file."""
        while True:
            if len(self.data) >= 8:
                meta, body = HEAD.unpack_from(self.data)
                end = 8 + meta + body
                if len(self.data) >= end:
                    found = json.loads(self.data[8 : 8 + meta]), self.data[8 + meta : end]
                    self.data = self.data[end:]
                    self.answered.add(found[0].get("reply"))
                    return found
            try:
                chunk = self.socket.recv(1 << 20)
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            self.data += chunk

    def until(self, key):
        """The next frame that has `key`."""
        while (found := self.read()) is not None:
            if key in found[0]:
                return found
            self.seen.append(found[0])
        raise AssertionError(f"the worker ended without {key}: {self.end()}")

    def ready(self):
        return self.until("ready")[0]["ready"]

    def frame(self, *events, **extra):
        """The frame of a new call; an event is (subject, body, fields)."""
        self.calls += 1
        heads, bodies = [], []
        for number, (subject, body, fields) in enumerate(events):
            time = "2026-11-23T08:00:00.123456789Z"
            head = {"id": f"ORDERS:{self.calls + number}", "subject": subject, "time": time, "attempt": 1}
            heads.append({**head, "headers": [], "size": len(body), **fields})
            bodies.append(body)
        meta = {"call": self.calls, "slot": self.calls % self.slots, "timeout": 30.0, "events": heads}
        return frame({**meta, **extra}, b"".join(bodies))

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def call(self, subject, body=b"", *, headers=(), **extra):
        """One call with one event, and its verdict with the data of its outputs."""
        self.send(self.frame((subject, body, {"headers": list(headers)}), **extra))
        return self.answer()

    def answer(self):
        meta, body = self.until("reply")
        return Answer(meta, body)

    def drain(self):
        """Ends the runner's side; returns what the worker still says and how it ended."""
        self.socket.shutdown(socket.SHUT_WR)
        frames = []
        while (found := self.read()) is not None:
            frames.append(found)
        return frames, self.end()

    def end(self):
        """Exit status, stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.decode(), err.decode()

    def close(self):
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Answer:
    """A reply, its bodies cut to the outputs they belong to."""

    def __init__(self, meta, body):
        self.call = meta["reply"]
        self.verdicts = meta["verdicts"]
        self.state = meta.get("state")
        self.outputs = []
        for verdict in self.verdicts:
            for output in verdict.get("done", ()):
                data, body = body[: output["size"]], body[output["size"] :]
                self.outputs.append((output.get("subject"), data, output.get("headers", [])))
        assert not body, f"{len(body)} bytes belong to no output"

    @property
    def verdict(self):
        (verdict,) = self.verdicts
        return verdict


class WorkerTest(unittest.TestCase):
    """Starts workers and ends them."""

    def start(self, command, file, ready=True, **options):
        worker = Worker(command, file, **options)
        self.addCleanup(worker.close)
        if ready:
            worker.ready()
        return worker
