"""What AWS calls a custom runtime: asks the Runtime API for an event, calls app.handler, answers.

Stands in for the client that AWS has for each language, so that the shop needs nothing installed;
`lambda: [.venv/bin/python, -m, awslambdaric, app.handler]` would do as well.
"""

import http.client
import json
import os
import sys
import types

sys.dont_write_bytecode = True
import app

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])


def ask(method, path, value=None):
    api.request(method, f"/2018-06-01/runtime/invocation/{path}", None if value is None else json.dumps(value))
    answer = api.getresponse()
    return answer.headers, answer.read()


while True:
    headers, event = ask("GET", "next")
    request = headers["Lambda-Runtime-Aws-Request-Id"]
    try:
        said = app.handler(json.loads(event), types.SimpleNamespace(aws_request_id=request))
        ask("POST", f"{request}/response", {} if said is None else said)
    except Exception as err:
        ask("POST", f"{request}/error", {"errorType": type(err).__name__, "errorMessage": str(err)})
