"""A handler as AWS Lambda calls it; nothing here knows Pelton.

What it returns is published. An error of type `Reject` makes a dead letter; any other is tried again.
"""


class Reject(Exception):
    pass


def handler(event, context):
    name = event.get("name")
    if not name:
        raise Reject("nobody to greet")
    print(f"greeting {name}, request {context.aws_request_id}")
    return {"greeting": f"Hello, {name}!"}
