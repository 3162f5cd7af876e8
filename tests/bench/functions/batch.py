def handle(events, context):
    for event in events:
        event.data
    return [None] * len(events)
