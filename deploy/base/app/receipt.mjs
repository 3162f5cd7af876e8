// Issues the receipt of a payment. Throwing means: try again later.
export async function handle(event, context) {
  const { orderId, paid } = event.data;
  return { orderId, receipt: `R-${orderId}`, amount: paid };
}
