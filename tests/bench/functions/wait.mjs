import { setTimeout } from "node:timers/promises";

export const handle = () => setTimeout(50);
