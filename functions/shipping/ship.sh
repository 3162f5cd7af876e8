#!/bin/sh
# Ships an order once it is paid and its goods are reserved: payments.succeeded and stock.reserved
# in, shipments.created out.
#
# One process per event: the payload comes on stdin, what goes to stdout is published, and the
# exit code is the verdict: 0 done, 65 reject, anything else retry.
#
# Two events make one shipment. The one about the stock leaves a note with the order's number; the
# one about the payment ships when it finds the note, and is tried again a little later when it
# does not. Either may be delivered twice: the note is the same note, and the shipment the same
# output of the same event, which the stream stores once. The notes tie this function to one
# machine; a binding with `state` will keep them in NATS instead.
set -eu

event=$(cat)

field() {
  printf '%s' "$event" | sed -n "s/.*\"$1\": *\"\([A-Za-z0-9-]*\)\".*/\1/p"
}

order=$(field orderId)
[ -n "$order" ] || { echo "an event without orderId" >&2; exit 65; }
note=$SHOP_DIR/$order.reserved

case $PELTON_EVENT_SUBJECT in
  stock.reserved)
    mkdir -p "$SHOP_DIR"
    field warehouse >"$note.$$"
    mv "$note.$$" "$note" # whole or not at all
    ;;
  payments.succeeded)
    [ -e "$note" ] || { echo "the goods of $order are not reserved yet" >&2; exit 75; }
    printf '{"orderId": "%s", "from": "%s"}' "$order" "$(cat "$note")"
    ;;
  *)
    echo "not for shipping: $PELTON_EVENT_SUBJECT" >&2
    exit 65
    ;;
esac
