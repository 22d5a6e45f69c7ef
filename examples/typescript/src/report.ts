/** The work: writes a report into a directory of its own; and what undoes that: removes the directory. */

import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { emit } from "./events.js";
import { type Compensation } from "./gen/sagad/v1/saga.js";
import { type Lease, sleep } from "./sagad/lease.js";
import { Failure } from "./sagad/worker.js";

/** The kind of the compensation that removes a report's directory. */
export const REMOVE_DIR = "remove-dir";

/** The file by which a directory tells whose it is: it holds the `task_id`. */
const MARKER = ".sagad";

/** The payload of a saga: which report to write. */
interface Order {
  dir: string;
  lines: string[];
  pause_ms: number;
}

function readOrder(payload: Buffer): Order {
  try {
    const { dir, lines, pause_ms = 0 } = JSON.parse(payload.toString()) as Partial<Order>;
    if (typeof dir !== "string" || dir === "") throw new Error("dir is no text");
    if (!Array.isArray(lines) || lines.some((line) => typeof line !== "string")) throw new Error("lines is no list of texts");
    if (!(typeof pause_ms === "number" && pause_ms >= 0)) throw new Error("pause_ms is no number");
    return { dir, lines, pause_ms };
  } catch (error) {
    throw new Failure(`the payload can't be read: ${(error as Error).message}`);
  }
}

/** Registers what undoes the work, makes the directory, and writes one line after the other. */
export async function writeReport(lease: Lease): Promise<Uint8Array> {
  const { taskId } = lease.key;
  const order = readOrder(lease.saga.payload);
  // Before the effect: should we die between the two, it is known what to look for.
  await lease.register({ kind: REMOVE_DIR, target: order.dir, reason: "report" });
  lease.check();
  await makeDir(order.dir, taskId);
  const file = await open(join(order.dir, "report.txt"), "w");
  try {
    return await writeLines(lease, order, file);
  } finally {
    await file.close();
  }
}

async function writeLines(lease: Lease, { lines, pause_ms }: Order, file: FileHandle): Promise<Uint8Array> {
  const { taskId } = lease.key;
  const report = createHash("sha256");
  for (const [i, line] of lines.entries()) {
    const n = i + 1;
    await sleep(pause_ms, lease.signal);
    obey(n, line);
    const upper = line.toUpperCase();
    const text = `${n} ${createHash("sha256").update(upper).digest("hex")} ${upper}\n`;
    // Right before each effect: after this nothing may take long.
    lease.check();
    await file.write(text);
    report.update(text);
    emit("line", { task_id: taskId, n });
    lease.setProgress(`${n}/${lines.length}`);
  }
  return Buffer.from(report.digest("hex"));
}

/** Carries out a line that is an order. */
function obey(n: number, line: string): void {
  const [order, length] = line.split(" ");
  if (order === "!fail") throw new Failure(`line ${n} says so`);
  if (order === "!retry") throw new Failure(`line ${n} says so`, { retryable: true });
  if (order === "!spin") {
    // Work that never yields: heartbeats go on all the same.
    for (const end = performance.now() + Number(length); performance.now() < end;);
  }
}

/** Makes a directory and marks it as the task's. One that is there already has to be the task's, by an earlier attempt. */
async function makeDir(dir: string, taskId: string): Promise<void> {
  try {
    await mkdir(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw new Failure((error as Error).message);
    if (!(await isOurs(dir, taskId))) throw new Failure(`${dir} is there already, and not ours`);
    return;
  }
  await writeFile(join(dir, MARKER), taskId);
}

/** Removes the directory, if it is the task's. One that is not there is done already. */
export async function undoReport(lease: Lease, { target: dir }: Compensation): Promise<void> {
  let entries: string[];
  try {
    entries = await readdir(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  if (!(await isOurs(dir, lease.key.taskId))) throw new Error(`${dir} is not this task's`);
  // The marker goes last, so that an undo that is broken off can be gone on with.
  for (const entry of entries.filter((entry) => entry !== MARKER)) await rm(join(dir, entry), { recursive: true, force: true });
  await rm(dir, { recursive: true, force: true });
}

async function isOurs(dir: string, taskId: string): Promise<boolean> {
  try {
    return (await readFile(join(dir, MARKER), "utf8")) === taskId;
  } catch {
    return false;
  }
}
