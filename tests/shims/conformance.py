"""What every shim must do, whatever its language."""

import json
import signal
import time

from runner import FUNCTIONS, WorkerTest

JSON = ["content-type", "application/json"]
TEXT = ["content-type", "text/plain"]


class Conformance:
    """Mixed into a `WorkerTest` that names what it tests."""

    command: list
    function: str
    one_by_one = True  # a handler that does not wait ends before the next one begins

    def setUp(self):
        self.worker = self.start(self.command, FUNCTIONS / self.function)

    def value(self, *args, **kwargs):
        """The JSON value of the only output."""
        answer = self.worker.call(*args, **kwargs)
        self.assertIn("done", answer.verdict, answer.verdict)
        ((_, data, _),) = answer.outputs
        return json.loads(data)

    def bad(self, subject):
        answer = self.worker.call(subject)
        self.assertEqual(list(answer.verdict), ["bad"])
        return answer.verdict["bad"]

    def show(self, body, *headers):
        shown = self.value("show", body, headers=headers)
        self.assertEqual(shown["raw"], len(body))
        return shown["kind"], shown["data"]

    # What a function says.

    def test_values(self):
        self.assertEqual(self.worker.call("nothing").verdict, {"done": []})
        self.assertEqual(self.worker.call("empty-list").verdict, {"done": []})
        expected = {
            "text": ("grüße".encode(), [TEXT]),
            "bytes": (b"\x00\xff", []),
            "json": ('{"é":[1,null,true,1.5]}'.encode(), [JSON]),
            "list": (b"[1,2]", [JSON]),
            "zero": (b"0", [JSON]),
        }
        for subject, (data, headers) in expected.items():
            with self.subTest(subject):
                self.assertEqual(self.worker.call(subject).outputs, [(None, data, headers)])

    def test_events(self):
        headers = [["X-One", "ü"], ["x-two", "1"], ["x-two", "2"], JSON]
        self.assertEqual(self.worker.call("event").outputs, [("a.b", b'{"x":1}', headers)])
        self.assertEqual(
            self.worker.call("events").outputs,
            [("a", b"one", [TEXT]), ("b", b"two", []), (None, b"", []), ("d", b"", [])],
        )
        own = [["Content-Type", "application/vnd.x+json"]]
        self.assertEqual(self.worker.call("pairs").outputs, [("a", b'{"x":1}', own)])

    def test_bad_replies(self):
        self.assertIn("only Event", self.bad("mixture"))
        self.assertIn("subject", self.bad("bad-subject"))
        self.assertIn("'n': 5", self.bad("bad-header"))
        self.assertIn("headers", self.bad("bad-headers"))
        self.assertIn("TypeError", self.bad("unserialisable"))
        self.assertIn("JSON", self.bad("nan"))
        self.assertIn("event.data", self.bad("itself"))
        self.assertEqual(self.worker.call("nothing").verdict, {"done": []}, "it goes on")

    def test_retry_and_reject(self):
        call = lambda subject: self.worker.call(subject).verdict
        self.assertEqual(call("retry"), {"retry": "busy"})
        self.assertEqual(call("retry-after")["after"], 1.5)
        self.assertEqual(call("retry-returned"), {"retry": "again", "after": 2})
        self.assertIn("TypeError", call("retry-wrong")["retry"])
        self.assertEqual(call("reject"), {"reject": "no such card"})
        self.assertEqual(call("reject-returned"), {"reject": "no"})
        self.assertLess(len(call("long-reason")["reject"]), 2100)

    def test_exceptions(self):
        self.assertRegex(self.worker.call("raise").verdict["retry"], self.raised)
        self.assertIn("Error", self.worker.call("deep").verdict["retry"])
        _, (status, _, err) = self.worker.drain()
        self.assertEqual(status, 0)
        self.assertRegex(err, r"nö")
        self.assertRegex(err, self.function.replace("overlapping", "conformance"))

    # What a function sees.

    def test_data_by_content_type(self):
        self.assertEqual(self.show(b""), ("none", None))
        self.assertEqual(self.show(b"", JSON), ("none", None))
        self.assertEqual(self.show('{"a":"ü"}'.encode()), ("json", {"a": "ü"}))
        self.assertEqual(self.show(b"[1]"), ("json", [1]))
        self.assertEqual(self.show(b"{broken"), ("bytes", b"{broken".hex()))
        self.assertEqual(self.show(b"plain"), ("bytes", b"plain".hex()))
        self.assertEqual(self.show(b" 5 \n", ["Content-Type", "application/json; charset=utf-8"]), ("json", 5))
        self.assertEqual(self.show(b"{}", ["content-type", "application/vnd.shop+json"]), ("json", {}))
        self.assertEqual(self.show("ü".encode(), ["CONTENT-TYPE", "text/plain"]), ("text", "ü"))
        self.assertEqual(self.show(b"\xfc", ["content-type", "text/csv; charset=iso-8859-1"]), ("text", "ü"))
        self.assertEqual(self.show(b"{}", ["content-type", "image/png"]), ("bytes", "7b7d"))
        both = [["content-type", "text/plain"], ["ce-datacontenttype", "application/json"]]
        self.assertEqual(self.show(b"[]", *both), ("json", []), "ce-datacontenttype comes first")

    def test_undecodable(self):
        for body, kind in [(b"{x", "application/json"), (b"\xff", "text/plain"), (b'"\xff"', "application/json")]:
            with self.subTest(body=body):
                verdict = self.worker.call("show", body, headers=[["content-type", kind]]).verdict
                self.assertIs(verdict["undecodable"], True)
                self.assertIn("Error", verdict["reject"])
        self.assertEqual(self.worker.call("caught", b"{x", headers=[JSON]).outputs[0][1], b"caught")
        self.assertIn("wrapped", self.worker.call("wrapped", b"{x", headers=[JSON]).verdict["retry"])

    def test_fields(self):
        many = [["X-Many", "eins"], ["x-many", "zwei"]]
        plain = self.value("fields", headers=many)
        self.assertEqual(
            plain,
            {
                "id": "ORDERS:1",
                "subject": "fields",
                "time": "2026-11-23T08:00:00.123Z",
                "attempt": 1,
                "type": "fields",
                "source": "nats://ORDERS",
                "first": "eins",
                "all": ["eins", "zwei"],
                "missing": None,
                "deadline": True,
            },
        )
        cloud = self.value("fields", headers=[["Ce-Type", "order.placed"], ["ce-source", "/shop"]])
        self.assertEqual((cloud["type"], cloud["source"]), ("order.placed", "/shop"))

    def test_state(self):
        new = self.worker.call("state", state={"value": None})
        self.assertEqual((new.outputs, new.state), ([], {"value": {"n": 1}}))
        known = self.worker.call("state", state={"value": {"n": 1}})
        self.assertEqual((known.outputs[0][1], known.state), (b'{"n":1}', {"value": {"n": 2}}))
        self.assertIsNone(self.worker.call("state-kept", state={"value": 1}).state)
        later = self.worker.call("state-retry", state={"value": None})
        self.assertEqual((later.verdict, later.state), ({"retry": "later"}, None))
        self.assertIn("state", self.worker.call("state-bad", state={"value": 1}).verdict["bad"])
        self.assertIn("keeps no state", self.worker.call("state").verdict["retry"])

    # Batches.

    def batch(self, what, *bodies, headers=()):
        events = [(what, body, {"headers": list(headers)}) for body in bodies]
        self.worker.send(self.worker.frame(*events, batch=True))
        return self.worker.answer()

    def test_batches(self):
        answer = self.batch("batch.list", *[b"1"] * 6)
        self.assertEqual([next(iter(v)) for v in answer.verdicts], ["done", "done", "done", "retry", "reject", "bad"])
        self.assertEqual([data for _, data, _ in answer.outputs], [b"text", b"1", b"2"])
        answer = self.batch("batch.dict", b"[1]", b"", b"[3]")
        self.assertEqual([len(v["done"]) for v in answer.verdicts], [1, 0, 1])
        self.assertEqual([data for _, data, _ in answer.outputs], [b"[1]", b"[3]"])
        for what in ("batch.short", "batch.none"):
            self.assertEqual([list(v) for v in self.batch(what, b"1", b"2").verdicts], [["bad"]] * 2)
        self.assertEqual([list(v) for v in self.batch("batch.raise", b"1", b"2").verdicts], [["retry"]] * 2)
        self.assertEqual(len(self.batch("batch.data", b"[1]").verdicts), 1, "a batch of one")

    def test_undecodable_event_of_a_batch(self):
        verdicts = self.batch("batch.data", b"[1]", b"{x", b"[3]", headers=[JSON]).verdicts
        self.assertEqual([next(iter(v)) for v in verdicts], ["retry", "reject", "retry"])
        self.assertIs(verdicts[1]["undecodable"], True)

    # Frames.

    def test_large_payloads(self):
        for size in (1 << 20, (5 << 20) + 1):
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            answer = self.worker.call("raw", body)
            self.assertTrue(answer.outputs[0][1] == body, f"{size} bytes there and back")

    def test_many_frames_in_one_write(self):
        frames = [self.worker.frame(("raw", b"%d" % n, {})) for n in range(300)]
        self.worker.send(*frames, b"")
        answers = {self.worker.answer().call for _ in range(300)}
        self.assertEqual(answers, set(range(1, 301)))

    def test_a_frame_byte_by_byte(self):
        for byte in self.worker.frame(("raw", b"drip", {})):
            self.worker.send(bytes([byte]))
        self.assertEqual(self.worker.answer().outputs[0][1], b"drip")

    def test_unknown_keys_and_frames(self):
        self.worker.send(b"\0\0\0\x0e\0\0\0\x02" + b'{"later":true}' + b"??")
        self.assertEqual(self.worker.call("nothing", later=1).verdict, {"done": []})

    def test_unicode(self):
        answer = self.worker.call("raw", "🦦".encode(), headers=[["x", "🦦"]])
        self.assertEqual(answer.outputs[0][1].decode(), "🦦")
        self.assertEqual(self.value("fields", headers=[["x-many", "🦦"]])["first"], "🦦")

    # The process.

    def test_log(self):
        self.worker.call("log")
        lines = [(f["log"], f["message"], f["call"]) for f in self.worker.seen if "log" in f]
        self.assertEqual(lines, [("debug", "a b", 1), ("info", "ünï", 1), ("warn", "w", 1), ("error", "e", 1)])

    def test_stdio_is_the_functions_own(self):
        self.assertEqual(self.worker.call("stdin").outputs[0][1], b"")
        self.worker.call("out")
        _, (status, out, err) = self.worker.drain()
        self.assertEqual((status, out.split("\n")[:2]), (0, ["loaded", "to stdout"]))
        self.assertIn("to stderr\n", err)

    def test_the_end_of_the_file_drains(self):
        self.worker.send(*[self.worker.frame(("slow", b"", {})), self.worker.frame(("text", b"", {}))])
        frames, (status, _, _) = self.worker.drain()
        self.assertEqual(sorted(f["reply"] for f, _ in frames if "reply" in f), [1, 2])
        self.assertEqual(status, 0)

    def test_interrupts_are_for_the_runner(self):
        self.worker.process.send_signal(signal.SIGINT)
        self.assertEqual(self.worker.call("nothing").verdict, {"done": []})

    # Who did it. `begun` is what the runner knows of when it must find a culprit.

    def begun(self):
        """Numbers of the calls that have begun and not ended, after the worker has died."""
        if self.worker.page is not None and any(self.worker.page):
            return {n for n in self.worker.page.tolist()[::2] if n}
        told = {n for f in self.worker.seen for n in f.get("started", ())}
        return told - self.worker.answered

    def crash(self, *subjects):
        self.worker.send(*[self.worker.frame((subject, b"", {})) for subject in subjects])
        return self.last_words()

    def last_words(self):
        while (found := self.worker.read()) is not None:
            self.worker.seen.append(found[0])
        return self.worker.end()[0]

    def test_exit_in_a_handler(self):
        self.assertEqual(self.crash("nothing", "nothing", "exit", "nothing"), 3)
        self.assertIn(3, self.begun())
        if self.one_by_one:
            self.assertEqual(self.begun(), {3})

    def test_a_crash_at_once(self):
        self.assertEqual(self.worker.call("nothing").verdict, {"done": []})
        time.sleep(0.01)
        self.assertNotEqual(self.crash("die"), 0)
        self.assertEqual(self.begun(), {2})

    def warm_up(self):
        """Past the first calls, of which a worker may tell one by one."""
        self.worker.send(*[self.worker.frame(("nothing", b"", {})) for _ in range(200)])
        for _ in range(200):
            self.worker.answer()

    def test_a_slow_handler_does_not_hold_finished_replies(self):
        self.warm_up()
        for _ in range(2):
            self.worker.send(*[self.worker.frame((what, b"", {})) for what in ("nothing", "nothing", "slow")])
            before = time.monotonic()
            quick = [self.worker.answer().call for _ in range(2)]
            self.assertLess(time.monotonic() - before, 0.25)
            self.assertEqual(self.worker.answer().call, quick[1] + 1)
            time.sleep(0.8)  # until whoever sends meanwhile has nothing to do and sleeps

    def test_a_loop(self):
        frames = [self.worker.frame((subject, b"", {})) for subject in ("nothing", "nothing", "loop", "nothing")]
        self.worker.send(*frames)
        time.sleep(0.5)
        self.worker.process.kill()
        self.last_words()
        self.assertIn(3, self.begun())
        if not self.function.startswith("overlapping"):
            self.assertEqual(self.begun(), {3})


class LoadFailures:
    """Mixed into a `WorkerTest` that names `command`, `extension` and `sources`."""

    def failed(self, file):
        worker = self.start(self.command, file, ready=False)
        meta, _ = worker.until("failed")
        status, _, _ = worker.end()
        self.assertEqual(status, 1)
        return meta["failed"]

    def test_load_failures(self):
        for name, (source, expected) in self.sources.items():
            with self.subTest(name):
                file = self.folder / f"{name}.{self.extension}"
                file.write_text(source)
                self.assertRegex(self.failed(file), expected)

    def test_missing_file(self):
        self.assertIn(f"missing.{self.extension}", self.failed(self.folder / f"missing.{self.extension}"))
