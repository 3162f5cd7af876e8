"""The Node shim."""

import tempfile
import unittest
from pathlib import Path

from conformance import Conformance, LoadFailures
from runner import FUNCTIONS, NODE, WorkerTest


class Sync(Conformance, WorkerTest):
    command = NODE
    function = "conformance.mjs"
    raised = r"^TypeError: nö \(conformance.mjs:\d+\)$"

    def test_calls_run_at_the_same_time(self):
        self.worker.send(*[self.worker.frame(("meet", b"", {})) for _ in range(2)])
        self.assertEqual([self.worker.answer().outputs[0][1] for _ in range(2)], [b"met", b"met"])

    def test_a_quick_call_overtakes_a_waiting_one(self):
        self.worker.send(*[self.worker.frame((what, b"", {})) for what in ("sleep", "nothing")])
        self.assertEqual([self.worker.answer().call for _ in range(2)], [2, 1])

    def test_what_waits_is_told_as_started(self):
        self.worker.send(*[self.worker.frame((what, b"", {})) for what in ("sleep", "nothing")])
        self.worker.answer()
        self.worker.answer()
        self.assertIn(1, [n for f in self.worker.seen for n in f.get("started", ())])

    def test_a_crash_among_quick_calls_blames_no_other(self):
        self.warm_up()
        self.assertNotEqual(self.crash("nothing", "nothing", "die", "nothing"), 0)
        self.assertLessEqual(self.begun(), {203})

    def test_exit_after_a_wait(self):
        self.assertEqual(self.crash("nothing", "exit-later"), 3)
        self.assertEqual(self.begun(), {2})

    def test_an_error_that_nobody_catches(self):
        self.assertEqual(self.crash("nothing", "uncaught"), 1)
        self.assertEqual(self.begun(), {2})

    def test_what_javascript_makes_easy_to_get_wrong(self):
        self.assertIn('from "pelton"', self.bad("browser-event"))
        self.assertIn("throw it", self.bad("returned-error"))
        self.assertEqual(self.worker.call("throw-text").verdict, {"retry": "just text"})


class Async(Sync):
    function = "overlapping.mjs"
    one_by_one = False
    test_a_slow_handler_does_not_hold_finished_replies = None  # both begin before one of them ends


class Loading(LoadFailures, WorkerTest):
    command = NODE
    extension = "mjs"
    sources = {
        "syntax": ("\nexport function handle( {\n", r"^SyntaxError: .*\(syntax.mjs:\d+\)$"),
        "import": ("import './nowhere.mjs';\n", r"^Error: Cannot find module .*nowhere.mjs"),
        "raises": ("\n\nthrow new TypeError('no database');\n", r"^TypeError: no database \(raises.mjs:3\)$"),
        "nameless": ("export function handler() {}\n", r"write `export async function handle"),
    }

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_common_js(self):
        whole = self.folder / "whole.js"
        whole.write_text('const p = require("pelton"); module.exports = { handle: () => new p.Event("a", null) };\n')
        for file in (FUNCTIONS / "common.cjs", whole):
            self.assertEqual(self.start(NODE, file).call("x").outputs, [("a", b"", [])])
        self.assertEqual(self.start(NODE, FUNCTIONS / "common.cjs").call("reject").verdict, {"reject": "no"})

    def test_children_are_no_workers(self):
        file = self.folder / "forks.mjs"
        file.write_text(
            'import { fork } from "node:child_process";\n'
            "if (process.send) { process.send('child'); process.disconnect(); }\n"
            "export const handle = () => new Promise((done) =>\n"
            "  fork(new URL(import.meta.url), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }).on('message', done));\n"
        )
        self.assertEqual(self.start(NODE, file).call("x").outputs[0][1], b"child")


if __name__ == "__main__":
    unittest.main()
