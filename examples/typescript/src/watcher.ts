/**
 * Follows the sagas whose lease ran out, and decides: what has left something behind is undone, what has not is planned
 * again. SIGTERM ends it.
 */

import { readFile, rename, writeFile } from "node:fs/promises";
import { emit } from "./events.js";
import { SagaState } from "./gen/sagad/v1/saga.js";
import {
  RecoverRequest,
  RecoveryDecision,
  type SagaServiceClient,
  type StaleSaga,
  WatchStaleRequest,
  type WatchStaleResponse,
} from "./gen/sagad/v1/saga_service.js";
import { Backoff, call, connect, newId, Refusal, sleep } from "./sagad/lease.js";
import { get, main, readSettings, SettingError } from "./settings.js";

/** A bookmark comes at least every ten seconds: silent for three times that, a stream is taken for dead. */
const SILENCE_MAX_MS = 30_000;

class Watcher {
  constructor(
    private readonly sagas: SagaServiceClient,
    private readonly queues: string[],
    private readonly actor: string,
    private readonly file: string,
    /** The last revision that was dealt with. Without it a snapshot is asked for. */
    private after: bigint | undefined,
  ) {}

  /** Opens the stream again and again, each time where it broke, until the signal comes or the coordinator refuses it. */
  async follow(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff();
    while (!signal.aborted) {
      let wait = 0;
      try {
        await this.#stream(signal, backoff);
      } catch (error) {
        if (signal.aborted) return;
        const refusal = Refusal.of(error);
        if (refusal.reason === "REVISION_COMPACTED" || refusal.reason === "REVISION_UNKNOWN") {
          // The place to resume from is gone. A snapshot tells all that is stale now.
          console.error(refusal.message);
          this.after = undefined;
        } else if (!refusal.again || !(error instanceof Refusal)) {
          throw error;
        }
        wait = refusal.retryAfter;
      }
      // A stream that just ends is opened again, too.
      emit("reconnecting", { revision: Number(this.after ?? 0n) });
      await sleep(Math.max(backoff.next(), wait), signal);
    }
  }

  async #stream(signal: AbortSignal, backoff: Backoff): Promise<void> {
    const request = WatchStaleRequest.create({
      queues: this.queues,
      ...(this.after !== undefined && { afterRevision: this.after }),
    });
    const stream = this.sagas.watchStale(request);
    const end = () => stream.cancel();
    signal.addEventListener("abort", end, { once: true });
    let silence = setTimeout(end, SILENCE_MAX_MS);
    const resumed = this.after !== undefined;
    let ready = false;
    const answers = (stream as AsyncIterable<WatchStaleResponse>)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const answer = await next(answers);
        if (!answer) return;
        clearTimeout(silence); // deciding may take its time
        backoff.reset();
        const { revision, item } = answer;
        if (!ready && (resumed || (item?.$case === "bookmark" && item.bookmark.snapshotEnd))) {
          ready = true;
          emit("ready", { revision: Number(revision) });
        }
        await this.#take(answer, signal);
        silence = setTimeout(end, SILENCE_MAX_MS);
      }
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", end);
      stream.on("error", () => {}).cancel();
    }
  }

  /** Deals with one answer; only then its revision is kept, so that a decision that was broken off is made again. */
  async #take({ revision, item }: WatchStaleResponse, signal: AbortSignal): Promise<void> {
    if (item?.$case === "stale") {
      const { taskId: task_id, fencingToken, cause } = item.stale;
      emit("stale", { revision: Number(revision), task_id, fencing_token: Number(fencingToken), cause });
      await this.#decide(item.stale, signal);
    } else if (item?.$case === "resolved") {
      const { taskId: task_id, resolution } = item.resolved;
      emit("resolved", { revision: Number(revision), task_id, resolution });
    }
    // Zero only in a store in which nothing has happened yet.
    if (revision > 0n) {
      this.after = revision;
      if (this.file) await writeRevision(this.file, revision);
    }
  }

  /** Decides what becomes of a stale saga, unless that is settled: being undone already, or over. */
  async #decide({ saga, taskId, fencingToken }: StaleSaga, signal: AbortSignal): Promise<void> {
    if (saga?.state !== SagaState.SAGA_STATE_RUNNING) return;
    const [decision, reason] =
      saga.compensations.length > 0
        ? [RecoveryDecision.RECOVERY_DECISION_COMPENSATE, "its worker is gone, and may have left something behind"]
        : [RecoveryDecision.RECOVERY_DECISION_REQUEUE, "its worker is gone, and left nothing behind"];
    // About this lease and no other: a worker that has come back is not run over.
    const request = RecoverRequest.create({ taskId, decision, actor: this.actor, reason, fencingToken, requestId: newId() });
    try {
      await call(this.sagas.recover.bind(this.sagas), request, () => Infinity, signal);
      emit("decided", { task_id: taskId, decision: decision.replace("RECOVERY_DECISION_", "") });
    } catch (error) {
      const { reason } = Refusal.of(error);
      if (!["NOT_STALE", "SAGA_TERMINAL", "SAGA_NOT_FOUND", "WRONG_STATE"].includes(reason)) throw error;
      emit("not_stale", { task_id: taskId, reason });
    }
  }
}

/** The next answer of a stream; none when it has ended. */
async function next<T>(answers: AsyncIterator<T>): Promise<T | undefined> {
  try {
    const { done, value } = await answers.next();
    return done ? undefined : value;
  } catch (error) {
    throw Refusal.of(error);
  }
}

/** The place that an earlier run has come to; none where there is no file. */
async function readRevision(file: string): Promise<bigint | undefined> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new SettingError(`SAGAD_REVISION_FILE: ${(error as Error).message}`);
  }
  if (!/^\d{1,16}\s*$/.test(text)) throw new SettingError(`SAGAD_REVISION_FILE: ${file} does not hold a revision`);
  return BigInt(text.trim());
}

/** Replaces the file as a whole: whoever reads it finds the old revision or the new one. */
async function writeRevision(file: string, revision: bigint): Promise<void> {
  const temporary = `${file}.${process.pid}`;
  await writeFile(temporary, `${revision}\n`);
  await rename(temporary, file);
}

await main(async () => {
  const { server, queues, owner } = readSettings();
  const file = get("SAGAD_REVISION_FILE", "");
  const after = file ? await readRevision(file) : undefined;
  let sagas;
  try {
    sagas = connect(server);
  } catch (error) {
    throw new SettingError(`SAGAD_SERVER: ${(error as Error).message}`);
  }
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort());
  await new Watcher(sagas, queues, owner, file, after).follow(stop.signal);
  sagas.close();
  emit("drained");
});
