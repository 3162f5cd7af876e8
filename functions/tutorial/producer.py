"""Stores three events in JetStream: plain NATS over a socket, nothing to install."""

import json
import os
import socket
from urllib.parse import urlparse

url = urlparse(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))

with socket.create_connection((url.hostname, url.port or 4222), timeout=10) as nats:
    lines = nats.makefile("rb")
    lines.readline()  # INFO: what the server can do
    nats.sendall(b'CONNECT {"verbose": false, "pedantic": false}\r\nSUB _INBOX.producer 1\r\n')
    for name in "Ada", "Grace", "Lester":
        event = json.dumps({"name": name}).encode()
        nats.sendall(b"PUB greetings.sent _INBOX.producer %d\r\n%s\r\n" % (len(event), event))
        # An event counts as sent once the stream says that it is stored.
        while not (line := lines.readline()).startswith(b"MSG"):
            if line.startswith(b"PING"):
                nats.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise SystemExit(f"NATS closed the connection: {line.decode().strip()}")
        print(name, "→", lines.readline().decode().strip())
