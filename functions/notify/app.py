"""Tells the customer: shipments.created in, notices.sent out. A handler as AWS Lambda calls it."""


class Reject(Exception):
    """An error of this name makes a dead letter; any other is tried again."""


def handler(event, context):
    if "orderId" not in event:
        raise Reject("a shipment without orderId")
    return {"orderId": event["orderId"], "text": f"It is on its way from the {event['from']} warehouse"}
