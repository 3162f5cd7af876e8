// Writes the invoice of a paid order: payments.succeeded in, invoices.issued out.
//
// A WebAssembly component for the world of ../wit/event.wit: `make shop` builds invoice.wasm from it.
// It sees the event and nothing else: no files, no network, no environment that is not granted.
import { log } from "pelton:event/log@0.1.0";
import { get } from "pelton:event/config@0.1.0";

export const handler = {
  handle({ events }) {
    return { verdicts: events.map(invoice) };
  },
};

function invoice(event) {
  let paid;
  try {
    paid = JSON.parse(decode(event.data));
  } catch (err) {
    return { tag: "err", val: { tag: "undecodable", val: String(err) } };
  }
  const percent = Number(get("VAT_PERCENT"));
  const net = Math.round((paid.amount * 10000) / (100 + percent)) / 100;
  log("info", `invoice for ${paid.orderId}`);
  const data = { orderId: paid.orderId, number: paid.orderId.replace("o-", "I-"), net, total: paid.amount };
  const output = { headers: [["content-type", "application/json"]], data: encode(JSON.stringify(data)) };
  return { tag: "ok", val: [output] };
}

// QuickJS has no TextDecoder and no TextEncoder.
function decode(bytes) {
  let encoded = "";
  for (const byte of bytes) encoded += "%" + byte.toString(16).padStart(2, "0");
  return decodeURIComponent(encoded);
}

function encode(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (c) => c.charCodeAt(0));
}
