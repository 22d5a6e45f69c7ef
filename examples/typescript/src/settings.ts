/** How the programs are told what to do: by their environment. */

import { hostname } from "node:os";

export interface Settings {
  server: string;
  queues: string[];
  owner: string;
  /** In milliseconds. */
  ttl: number;
}

/** What is wrong with a setting; the message names the variable. */
export class SettingError extends Error {}

/** The coordinator's rule for ids and queues, their length aside. */
const NAME = /^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:/@+-]*$/;

/** The units of a length. */
const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

export function readSettings(): Settings {
  const server = get("SAGAD_SERVER", "http://127.0.0.1:7420");
  const queues = get("SAGAD_QUEUES", "default")
    .split(",")
    .map((queue) => queue.trim());
  const owner = get("SAGAD_OWNER", `typescript-${hostname()}-${process.pid}`);
  for (const queue of queues) {
    if (queue.length > 100 || !NAME.test(queue)) {
      throw new SettingError(`SAGAD_QUEUES: ${JSON.stringify(queue)} is no name of a queue`);
    }
  }
  if (owner.length > 200 || !NAME.test(owner)) throw new SettingError(`SAGAD_OWNER: ${JSON.stringify(owner)} is no id`);
  const text = get("SAGAD_TTL", "30");
  const [, number, unit = "s"] = /^(\d*\.?\d+)(ms|s|m|h)?$/.exec(text) ?? [];
  const ttl = Math.round(Number(number) * UNIT_MS[unit as keyof typeof UNIT_MS]);
  if (!(ttl >= 100 && ttl <= 86_400_000)) {
    const forms = "a length such as 30, 30s, 500ms, 2m or 1h, from 100ms to 24h";
    throw new SettingError(`SAGAD_TTL: ${JSON.stringify(text)} is not ${forms}`);
  }
  return { server, queues, owner, ttl };
}

/** The value of a variable that is set and not empty. */
export function get(variable: string, absent: string): string {
  return process.env[variable] || absent;
}

/** Runs a program: exit code 2 for a wrong setting, 1 for any other error. */
export async function main(program: () => Promise<void>): Promise<void> {
  try {
    await program();
  } catch (error) {
    console.error(error instanceof SettingError ? error.message : error);
    process.exitCode = error instanceof SettingError ? 2 : 1;
  }
}
