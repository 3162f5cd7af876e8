"""Charges the card of an order: orders.placed in, payments.succeeded out."""

from pelton import Reject


def handle(event, context):
    order = event.data

    # The bank says no, and will say no again: a dead letter at once.
    if order["card"] == "declined":
        raise Reject(f"the card of {order['customer']} was declined")

    # The bank does not answer at first: anything raised is tried again after a while.
    if order["card"] == "flaky" and event.attempt < 3:
        raise ConnectionError("the bank did not answer")

    context.log.info("charged %s for %s", order["total"], order["orderId"])
    return {"orderId": order["orderId"], "amount": order["total"], "attempt": event.attempt}
