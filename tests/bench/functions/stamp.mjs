const now = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6));

export function handle(event) {
  return `${event.raw} ${now()}`;
}
