export function handle(event) {
  event.data;
}
