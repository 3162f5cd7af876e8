"""The Python shim."""

import json
import tempfile
import time
import unittest
from pathlib import Path

from conformance import Conformance, LoadFailures
from runner import FUNCTIONS, PYTHON, WorkerTest


class Sync(Conformance, WorkerTest):
    command = PYTHON
    function = "conformance.py"
    raised = r"^KeyError: 'nö' \(conformance.py:\d+\)$"

    def test_the_started_page(self):
        before = time.monotonic_ns()
        self.worker.send(self.worker.frame(("slow", b"", {})))
        while not self.worker.page[2]:
            time.sleep(0.001)
        self.assertEqual(self.worker.page[2], 1, "call 1 runs in slot 1")
        self.assertTrue(before < self.worker.page[3] < time.monotonic_ns())
        self.worker.answer()
        self.assertEqual(self.worker.page[2], 0, "it has ended")

    def test_out_of_memory_is_a_crash(self):
        self.assertEqual(self.crash("memory"), 137)
        self.assertEqual(self.begun(), {1})


class Async(Conformance, WorkerTest):
    command = PYTHON
    function = "overlapping.py"
    one_by_one = False
    raised = r"^KeyError: 'nö' \(conformance.py:\d+\)$"

    test_a_slow_handler_does_not_hold_finished_replies = None  # it blocks the event loop

    def test_calls_run_at_the_same_time(self):
        self.worker.send(*[self.worker.frame(("meet", b"", {})) for _ in range(2)])
        self.assertEqual([self.worker.answer().outputs[0][1] for _ in range(2)], [b"met", b"met"])

    def test_a_quick_call_overtakes_a_waiting_one(self):
        self.worker.send(*[self.worker.frame((what, b"", {})) for what in ("sleep", "nothing")])
        self.assertEqual([self.worker.answer().call for _ in range(2)], [2, 1])

    def test_cancellation_is_a_retry(self):
        self.assertIn("CancelledError", self.worker.call("cancelled").verdict["retry"])

    def test_the_started_page(self):
        self.worker.send(*[self.worker.frame((what, b"", {})) for what in ("sleep", "nothing")])
        self.worker.answer()
        self.assertEqual((self.worker.page[2], self.worker.page[4]), (1, 0))


class WithoutPage(WorkerTest):
    def test_started_is_told_before_the_handler_runs(self):
        for function in ("conformance.py", "overlapping.py"):
            worker = self.start(PYTHON, FUNCTIONS / function, page=False)
            worker.send(worker.frame(("nothing", b"", {})), worker.frame(("die", b"", {})))
            while (found := worker.read()) is not None:
                worker.seen.append(found[0])
            self.assertIn(2, [n for f in worker.seen for n in f.get("started", ())])


class Loading(LoadFailures, WorkerTest):
    command = PYTHON
    extension = "py"
    sources = {
        "syntax": ("def handle(event, context:\n    pass\n", r"^SyntaxError: .*\(syntax.py:\d\)$"),
        "import": ("import os\nimport nowhere_at_all\n", r"^ModuleNotFoundError: .*\(import.py:2\)$"),
        "raises": ("x = 1\n\nraise ValueError('no database')\n", r"^ValueError: no database \(raises.py:3\)$"),
        "exits": ("import sys\nsys.exit('stop')\n", r"^SystemExit: stop \(exits.py:2\)$"),
        "nameless": ("def handler(event, context): pass\n", r"write `def handle\(event, context\)"),
        "lonely": ("def handle(event): pass\n", r"must take two arguments"),
    }

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, source):
        file = self.folder / name
        file.write_text(source)
        return file

    def test_neighbours_are_imported_and_nothing_is_written(self):
        self.write("neighbour.py", "NAME = 'next door'\n")
        file = self.write("json.py", "import neighbour, sys\ndef handle(event, context):\n    return [neighbour.NAME, sys.path[0]]\n")
        worker = self.start(PYTHON, file)
        self.assertEqual(worker.call("x").outputs[0][1].decode(), f'["next door","{self.folder}"]')
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["json.py", "neighbour.py"])

    def test_children_do_not_inherit_the_socket(self):
        source = """
            import os, subprocess
            def handle(event, context):
                subprocess.Popen(["sleep", "5"], close_fds=False)
                if os.fork() == 0:
                    import time
                    time.sleep(5)
                    os._exit(0)
            """
        file = self.write("forks.py", "\n".join(line[12:] for line in source.split("\n")))
        worker = self.start(PYTHON, file)
        self.assertEqual(worker.call("x").verdict, {"done": []})
        worker.process.kill()
        self.assertIsNone(worker.read(), "the end of the file, though children live")

    def test_an_async_callable_object(self):
        file = self.write("thing.py", "class T:\n    async def __call__(self, e, c):\n        return 1\nhandle = T()\n")
        worker = self.start(PYTHON, file, ready=False)
        self.assertIs(worker.ready()["async"], True)
        self.assertEqual(worker.call("x").outputs[0][1], b"1")

    def test_headers_and_data_are_read_without_the_rest(self):
        file = self.write("unread.py", "def handle(e, c):\n    return [list(map(list, e._pairs)), e.data, c._fields is None]\n")
        worker = self.start(PYTHON, file)
        words = '{"call":1,"headers":[["content-type","text/plain"]],"size":9}]}'
        for headers in [], [["x", words]], [["content-type", "application/json"], ["x", words], ["y", "ü"]]:
            answer = json.loads(worker.call(words, b'{"a":1}', headers=headers).outputs[0][1])
            self.assertEqual(answer, [headers, {"a": 1}, True])

    def test_a_forgotten_await(self):
        file = self.write("forgot.py", "async def work(): pass\ndef handle(e, c):\n    return work()\n")
        self.assertIn("async def", self.start(PYTHON, file).call("x").verdict["bad"])

    def test_the_log_outside_of_a_call_and_tracebacks(self):
        file = self.write(
            "logs.py",
            "import threading, time\n"
            "def later(log):\n    time.sleep(0.1)\n    log.info('later')\n"
            "def handle(e, c):\n"
            "    try:\n        1 / 0\n    except ZeroDivisionError:\n        c.log.exception('oh')\n"
            "    threading.Thread(target=later, args=(c.log,)).start()\n",
        )
        worker = self.start(PYTHON, file)
        worker.call("x")
        self.assertRegex(worker.seen[0]["message"], r"^oh\nTraceback (.|\n)*logs.py(.|\n)*ZeroDivisionError")
        self.assertEqual(worker.until("log")[0]["message"], "later")


if __name__ == "__main__":
    unittest.main()
