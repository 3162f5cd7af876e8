// Reserves the goods of an order: orders.placed in, stock.reserved out.

import { Reject } from "pelton";

const warehouses = { wheel: "north", nozzle: "south" };

export async function handle(event) {
  const { orderId, item, quantity } = event.data;
  const warehouse = warehouses[item];
  if (!warehouse) throw new Reject(`nobody stocks ${item}`);
  return { orderId, item, quantity, warehouse };
}
