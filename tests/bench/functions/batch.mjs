export function handle(events) {
  for (const event of events) event.data;
  return events.map(() => null);
}
