export function handle(event) {
  return event.data;
}
