import { Reject } from "pelton";

export async function handle(event, context) {
  const { name } = event.data;
  if (!name) throw new Reject("nobody to greet"); // a dead letter; anything else thrown is tried again
  context.log.info(`greeting ${name}`);
  return { greeting: `Hello, ${name}!` };
}
