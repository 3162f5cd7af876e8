"""Charges an order. Raising anything else than Reject means: try again later."""

from pelton import Reject


def handle(event, context):
    order = event.data
    if order["total"] <= 0:
        raise Reject(f"order {order['orderId']} has nothing to pay")
    return {"orderId": order["orderId"], "paid": order["total"]}
