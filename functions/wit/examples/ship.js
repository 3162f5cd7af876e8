// A function for the world of ../event.wit: ships an order. ../README.md says how it is built.
import { log } from "pelton:event/log@0.1.0";
import { get } from "pelton:event/config@0.1.0";

export const handler = {
  handle({ events, state, deadline }) {
    return { verdicts: events.map(one), state };
  },
};

function one(event) {
  let order;
  try {
    order = JSON.parse(text(event.data));
  } catch (err) {
    return { tag: "err", val: { tag: "undecodable", val: String(err) } };
  }
  if (!order.item) {
    return { tag: "err", val: { tag: "reject", val: "an order without an item" } };
  }
  log("info", `shipping ${order.item} from ${get("WAREHOUSE") ?? "anywhere"}`);
  const data = bytes(JSON.stringify({ ...order, shipped: true }));
  return { tag: "ok", val: [{ headers: [["content-type", "application/json"]], data }] };
}

// QuickJS has no TextDecoder and no TextEncoder.
function text(data) {
  let encoded = "";
  for (const byte of data) encoded += "%" + byte.toString(16).padStart(2, "0");
  return decodeURIComponent(encoded);
}

function bytes(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (c) => c.charCodeAt(0));
}
