// The same, as an async function.

import * as conformance from "./conformance.mjs";

export async function handle(event, context) {
  await null;
  return conformance.handle(event, context);
}
