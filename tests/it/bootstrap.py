"""A Lambda runtime client in as few lines as there can be."""

import http.client
import json
import os
import sys

sys.dont_write_bytecode = True
server = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])


def ask(method, path, value=None):
    server.request(method, f"/2018-06-01/runtime/{path}", body=json.dumps(value))
    response = server.getresponse()
    return response.headers, json.loads(response.read())


try:
    import app
except ImportError as err:
    ask("POST", "init/error", {"errorType": "ImportError", "errorMessage": str(err)})
    sys.exit(1)
while True:
    headers, event = ask("GET", "invocation/next")
    said = app.handle(event, json.loads(headers["Lambda-Runtime-Client-Context"]))
    ask("POST", f"invocation/{headers['Lambda-Runtime-Aws-Request-Id']}/response", said)
