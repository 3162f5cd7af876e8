from pelton import Reject


def handle(event, context):
    name = event.data.get("name")
    if not name:
        raise Reject("nobody to greet")  # a dead letter; anything else raised is tried again
    context.log.info("greeting %s", name)
    return {"greeting": f"Hello, {name}!"}
