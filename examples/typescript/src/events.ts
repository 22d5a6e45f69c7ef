// How the programs tell what happens: one JSON object a line on stdout. In a service of your own, put your logger here.

import { writeSync } from "node:fs";

/** Writes one event. From any thread, and at once: a thread's `process.stdout` waits for the main thread. */
export function emit(event: string, fields: Record<string, string | number> = {}): void {
  let rest = Buffer.from(JSON.stringify({ event, ...fields }) + "\n");
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (error) {
      // Where somebody made the pipe non-blocking, and it is full.
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}
