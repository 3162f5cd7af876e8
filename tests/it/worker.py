# A worker for `command`, written from functions/PROTOCOL.md alone: it says back what it is told,
# or with the argument `attempt` which attempt this is.
import json
import socket
import struct
import sys

runner = socket.socket(fileno=0)
incoming = runner.makefile("rb")


def read():
    head = incoming.read(8)
    if not head:
        sys.exit(0)
    meta, body = struct.unpack(">II", head)
    return json.loads(incoming.read(meta)), incoming.read(body)


def write(meta, body=b""):
    text = json.dumps(meta).encode()
    runner.sendall(struct.pack(">II", len(text), len(body)) + text + body)


write({"ready": {"async": False}})
while True:
    frame, body = read()
    if "call" not in frame:
        continue
    write({"started": [frame["call"]]})
    if "attempt" in sys.argv:
        body = str(frame["events"][0]["attempt"]).encode()
    write({"reply": frame["call"], "verdicts": [{"done": [{"size": len(body)}]}]}, body)
