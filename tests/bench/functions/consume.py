def handle(event, context):
    event.data
