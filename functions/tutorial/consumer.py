"""Greets whoever the producer names. Pelton acknowledges the event when this returns."""


def handle(event, context):
    context.log.info("Hello, %s!", event.data["name"])
