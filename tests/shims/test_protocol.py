"""The examples of functions/PROTOCOL.md."""

import json
import re
import unittest

from runner import HEAD, ROOT, WorkerTest

TEXT = (ROOT / "functions" / "PROTOCOL.md").read_text()


def block(language, number=0):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[number]


class Examples(WorkerTest):
    def test_the_frame_in_hex(self):
        dump = block("text").splitlines()
        data = bytes.fromhex("".join(re.match(r"(?:[0-9a-f]{2}\s{1,2})+(?=\s|$)", f"{line} ")[0] for line in dump))
        meta, body = HEAD.unpack_from(data)
        self.assertEqual(len(data), 8 + meta + body)
        self.assertIn(f"on the wire, {len(data)} bytes", TEXT)
        self.assertIn(f"M = {meta}, B = {body}", dump[0])
        self.assertEqual(json.loads(data[8 : 8 + meta]), {"reply": 17, "verdicts": [{"done": [{"size": 2}]}]})
        self.assertEqual(data[8 + meta :], b"ok")
        self.assertEqual(data[8:].decode(), "".join(line[54:] for line in dump[1:]))

    def test_every_json_example_is_json(self):
        for text in re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
            json.loads(text)

    def test_the_complete_worker(self):
        worker = self.start(["python3", "-c", block("python")], None)
        answer = worker.call("orders.placed", b'{"orderId": "7", "total": 5}')
        headers = [["content-type", "application/json"]]
        self.assertEqual(answer.outputs, [("payments.succeeded", b'{"orderId": "7", "amount": 5}', headers)])
        self.assertIn({"started": [1]}, worker.seen)
        self.assertIs(worker.call("orders.placed", b"{x").verdict["undecodable"], True)
        self.assertEqual(worker.call("orders.placed", b"{}").verdict, {"retry": "KeyError: 'orderId'"})
        worker.send(worker.frame(*[("a", b'{"orderId": 1, "total": 2}', {})] * 2, batch=True))
        self.assertEqual(len(worker.answer().outputs), 2)
        _, (status, _, err) = worker.drain()
        self.assertEqual(status, 0)
        self.assertIn("KeyError", err)


if __name__ == "__main__":
    unittest.main()
