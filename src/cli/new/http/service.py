"""A service that greets: python3 service.py

Each event comes as a CloudEvent in binary mode: the payload is the body, its attributes are headers
(`ce-id`, `ce-type`, …). The status is the verdict: with 2xx the body is published; 400, 410, 413,
415 and 422 make a dead letter; anything else is tried again.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Greeter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for many events

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        name = json.loads(body).get("name")
        if not name:
            return self.answer(422, "text/plain", "nobody to greet")
        self.answer(200, "application/json", json.dumps({"greeting": f"Hello, {name}!"}))

    def answer(self, status, kind, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Greeter).serve_forever()
