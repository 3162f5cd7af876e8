import time


def handle(event, context):
    return f"{event.raw.decode()} {time.time_ns()}"
