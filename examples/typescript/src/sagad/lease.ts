/**
 * What a worker of sagad needs beside the generated client: two files, made to be copied.
 *
 * This one has the connection, what an error means, and `Lease`, which says when the work has to stop. Heartbeats are sent
 * by a thread of their own, with a connection of its own, so that work which keeps the event loop busy can't starve them:
 * the end of this file runs there. `worker.ts` has `Worker`, which claims, works and reports.
 */

import { randomUUID } from "node:crypto";
import { readFileSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import {
  isMainThread,
  MessageChannel,
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  Worker as Thread,
  workerData,
} from "node:worker_threads";
import {
  type CallOptions,
  type ChannelOptions,
  type ClientUnaryCall,
  credentials,
  InterceptingCall,
  type Interceptor,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { emit } from "../events.js";
import { type Duration } from "../gen/google/protobuf/duration.js";
import { type Timestamp } from "../gen/google/protobuf/timestamp.js";
import { ErrorInfo, RetryInfo, Status } from "../gen/google/rpc/error_details.js";
import { type CompensationSpec, type Lease as LeaseMessage, LeasePurpose, type Saga } from "../gen/sagad/v1/saga.js";
import { Directive, HeartbeatRequest, RegisterCompensationRequest, SagaServiceClient } from "../gen/sagad/v1/saga_service.js";

/** The longest that a unary call takes. All lengths here are in milliseconds. */
export const CALL_MS = 5_000;

/** The pauses between the tries of a call. */
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 2_000;

/** Heartbeats are not sent more often, however short the lease. */
const HEARTBEAT_MIN_MS = 20;

// ------------------------------------------------------------------------------------------------------------- connection

const CHANNEL: ChannelOptions = {
  // What the library may retry by itself: sagad's proto/service_config.json.
  "grpc.service_config": readFileSync(new URL("../gen/service_config.json", import.meta.url), "utf8"),
  "grpc.enable_http_proxy": 0,
  // By default it takes up to two minutes to notice that the coordinator is back: longer than most leases.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.min_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // A peer that lost power sends nothing, so it is asked.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.keepalive_permit_without_calls": 1,
};

/** A client of the coordinator at `http://HOST:PORT`. It connects with the first call, and again whenever it must. */
export function connect(server: string): SagaServiceClient {
  const address = /^http:\/\/([^/?#@\s]+:(\d{1,5}))\/?$/.exec(server);
  if (!address?.[1] || !(Number(address[2]) <= 65_535)) {
    throw new Error(`${JSON.stringify(server)} is not an address of the form http://HOST:PORT`);
  }
  return new SagaServiceClient(address[1], credentials.createInsecure(), { ...CHANNEL, interceptors: [outage(server)] });
}

/** While the coordinator does not answer, that is said again after so long. */
const SAY_AGAIN_MS = 10_000;

/**
 * Says on stderr what is waited for while the coordinator does not answer: at once, then every ten seconds; and when it
 * answers. It sees all calls of a client.
 */
function outage(server: string): Interceptor {
  let said: number | undefined; // none: it answers
  // From any thread, and at once: a thread's `console.error` waits for the main thread.
  const say = (line: string) => {
    try {
      writeSync(2, `${line}\n`);
    } catch {
      // Nobody can be told: stderr is closed, or full.
    }
  };
  const answers = () => {
    if (said === undefined) return;
    said = undefined;
    say(`the coordinator at ${server} answers`);
  };
  return (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start: (metadata, _listener, next) =>
        next(metadata, {
          onReceiveMessage: (message: unknown, pass) => {
            // There is none before an error's status.
            if (message !== null && message !== undefined) answers();
            pass(message);
          },
          onReceiveStatus: (ended, pass) => {
            const refusal = new Refusal(ended.code, ended.details ?? "", ended.metadata);
            // A call that this process gave up says nothing about the coordinator.
            if (ended.code !== status.OK && ended.code !== status.CANCELLED) {
              if (!refusal.again) answers();
              else if (said === undefined || now() - said >= SAY_AGAIN_MS) {
                said = now();
                say(`waiting for the coordinator at ${server}: ${refusal.reason}: ${refusal.message}`);
              }
            }
            pass(ended);
          },
        }),
    });
}

/** A moment of this process, on a clock that no step of the wall clock moves and that its threads share. */
export function now(): number {
  return Number(process.hrtime.bigint() / 1_000n) / 1_000;
}

/** Sleeps, and answers whether that was to the end: not, when the signal came before. */
export async function sleep(ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await delay(Math.max(ms, 0), undefined, { signal });
    return true;
  } catch {
    return false;
  }
}

/** Half of the pause, and a random part of the other half: clients that failed together don't return together. */
export function jittered(pause: number): number {
  return pause * (0.5 + Math.random() / 2);
}

/** The pauses before each further try. */
export class Backoff {
  #next = RETRY_FIRST_MS;

  next(): number {
    const pause = this.#next;
    this.#next = Math.min(2 * pause, RETRY_MAX_MS);
    return jittered(pause);
  }

  reset(): void {
    this.#next = RETRY_FIRST_MS;
  }
}

/** An error of a call, taken apart. */
export class Refusal extends Error {
  /** The `ErrorInfo`'s reason, such as `LEASE_EXPIRED`; without one, the name of the code, such as `UNAVAILABLE`. */
  readonly reason: string;
  readonly metadata: Record<string, string> = {};
  /** How long the coordinator asks to wait before another try. */
  readonly retryAfter: number = 0;
  /** Whether this is the coordinator's own word, not the transport's or a proxy's. */
  readonly judged: boolean;
  /** Whether the call may be tried again with the same `request_id`: it did not happen, or that is not known. */
  readonly again: boolean;

  constructor(
    readonly code: status,
    details: string,
    trailer?: Metadata,
  ) {
    super(details);
    let told: string | undefined;
    for (const bytes of trailer?.get("grpc-status-details-bin") ?? []) {
      for (const { typeUrl, value } of Status.decode(bytes as Buffer).details) {
        if (typeUrl.endsWith("/google.rpc.ErrorInfo")) {
          const info = ErrorInfo.decode(value);
          [told, this.metadata] = [info.reason, info.metadata];
        } else if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
          this.retryAfter = milliseconds(RetryInfo.decode(value).retryDelay);
        }
      }
    }
    this.judged = told !== undefined;
    this.reason = told ?? this.codeName;
    switch (code) {
      case status.UNAVAILABLE:
      case status.DEADLINE_EXCEEDED:
      case status.RESOURCE_EXHAUSTED:
        this.again = true;
        break;
      case status.UNKNOWN:
      case status.INTERNAL:
      case status.CANCELLED:
        // Without the coordinator's own word it is the transport's, or a proxy's.
        this.again = !this.judged || told === "OUTCOME_UNKNOWN";
        break;
      default:
        this.again = false;
    }
  }

  /** What went wrong with a call, whatever it was. */
  static of(error: unknown): Refusal {
    if (error instanceof Refusal) return error;
    const { code, details, metadata } = error as Partial<ServiceError>;
    return code === undefined ? new Refusal(status.UNKNOWN, String(error)) : new Refusal(code, details ?? "", metadata);
  }

  get codeName(): string {
    return status[this.code];
  }

  /** Whether the lease that the call named is over: whoever holds it stops. */
  get leaseGone(): boolean {
    return (this.judged && this.code === status.ABORTED) || this.reason === "SAGA_TERMINAL" || this.reason === "SAGA_NOT_FOUND";
  }
}

/** A unary method of the generated client, bound to it. */
export type Method<Q, A> = (
  request: Q,
  metadata: Metadata,
  options: Partial<CallOptions>,
  done: (error: ServiceError | null, answer: A) => void,
) => ClientUnaryCall;

/** Makes one unary call that ends after `ms`, or with the signal. Rejects with a `Refusal`. */
export function unary<Q, A>(method: Method<Q, A>, request: Q, ms: number, signal?: AbortSignal): Promise<A> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(new Refusal(status.CANCELLED, "not sent"));
    const cancel = () => call.cancel();
    const call = method(request, new Metadata(), { deadline: Date.now() + ms }, (error, answer) => {
      signal?.removeEventListener("abort", cancel);
      if (error) reject(Refusal.of(error));
      else resolve(answer);
    });
    signal?.addEventListener("abort", cancel, { once: true });
  });
}

/**
 * Makes a unary call, again with the same request (and so the same `request_id`) while that may help, until `giveUp` has
 * come. That is asked before each try, so that it may move, as a lease's deadline does.
 */
export async function call<Q, A>(
  method: Method<Q, A>,
  request: Q,
  giveUp: () => number,
  signal: AbortSignal = new AbortController().signal,
): Promise<A> {
  const backoff = new Backoff();
  for (;;) {
    try {
      return await unary(method, request, Math.min(CALL_MS, giveUp() - now()), signal);
    } catch (error) {
      const refusal = Refusal.of(error);
      const pause = Math.max(backoff.next(), refusal.retryAfter);
      if (!refusal.again || now() + pause >= giveUp() || !(await sleep(pause, signal))) throw refusal;
    }
  }
}

/** A `request_id`: a call that is repeated with it does not happen twice. */
export function newId(): string {
  return randomUUID();
}

// ------------------------------------------------------------------------------------------------------------------ lease

/** Why work ends when the lease is, or may be from now on, somebody else's. `reason`: the coordinator's, or `DEADLINE`. */
export class Lost extends Error {
  constructor(readonly reason: string) {
    super(`the lease is lost: ${reason}`);
  }
}

/** Why work ends when somebody asked for the saga to be cancelled. The lease is still held, and kept. */
export class Cancelled extends Error {
  constructor(readonly reason: string) {
    super(`cancelled: ${reason}`);
  }
}

/** Why work ends when the worker has to end at once. The lease is given back. */
export class Ended extends Error {
  constructor() {
    super("the worker was told to end");
  }
}

/** What every call under a lease names. */
export interface LeaseKey {
  readonly taskId: string;
  readonly ownerId: string;
  /** What is written to can refuse a token that is lower than the last it has seen. */
  readonly fencingToken: bigint;
}

/** What the two sides of a lease share, so that each sees it at once, however busy the other is. */
class Cell {
  static readonly WORKING = 0;
  static readonly LOST = 1;
  static readonly REPORTING = 2;

  readonly #deadline: BigInt64Array;
  readonly #phase: Int32Array;

  constructor(readonly buffer = new SharedArrayBuffer(16)) {
    this.#deadline = new BigInt64Array(buffer, 0, 1);
    this.#phase = new Int32Array(buffer, 8, 1);
  }

  get deadline(): number {
    return Number(Atomics.load(this.#deadline, 0)) / 1_000;
  }

  set deadline(moment: number) {
    Atomics.store(this.#deadline, 0, BigInt(Math.floor(moment * 1_000)));
  }

  get working(): boolean {
    return Atomics.load(this.#phase, 0) === Cell.WORKING;
  }

  get lost(): boolean {
    return Atomics.load(this.#phase, 0) === Cell.LOST;
  }

  /** Leaves the phase in which there is work that could be stopped; true for the one who does so first. */
  leave(phase: number): boolean {
    return Atomics.compareExchange(this.#phase, 0, Cell.WORKING, phase) === Cell.WORKING;
  }
}

/** What the heartbeats' thread is asked to do. `asked`: when the claim was first sent, plus how long it was held. */
interface Keep {
  key: LeaseKey;
  lease: LeaseMessage;
  asked: number;
  cell: SharedArrayBuffer;
  port: MessagePort;
}

type ToThread = { progress: Uint8Array } | { close: true };
type FromThread = { begun: true } | { lost: string } | { cancelled: string };

/** The thread that sends the heartbeats. */
export class Heartbeats {
  readonly #thread: Thread;

  constructor(server: string) {
    this.#thread = new Thread(new URL(import.meta.url), { workerData: { heartbeats: server } });
  }

  /** Begins to keep the lease of a saga, which counts from `asked`. `end` stops the work. */
  async keep(sagas: SagaServiceClient, saga: Saga, asked: number, end: AbortSignal): Promise<Lease> {
    const { port1, port2 } = new MessageChannel();
    const cell = new Cell();
    cell.deadline = now() + lengthOf(saga.lease); // until the thread has looked closer
    const lease = new Lease(sagas, saga, cell, port1, end);
    const keep: Keep = { key: lease.key, lease: saga.lease!, asked, cell: cell.buffer, port: port2 };
    this.#thread.postMessage(keep, [port2]);
    await lease.begun;
    return lease;
  }

  async close(): Promise<void> {
    await this.#thread.terminate();
  }
}

/** A lease that is kept. Its signal tells the work when it has to stop; the reason is `Lost`, `Cancelled` or `Ended`. */
export class Lease {
  readonly key: LeaseKey;
  readonly signal: AbortSignal;
  /** Settled when it is known where the lease stands. */
  readonly begun: Promise<void>;
  /** What the coordinator told, or the clock. */
  lost: Lost | undefined;
  cancelled: Cancelled | undefined;
  /** The last that was set, if any was. The report of the end repeats it: a heartbeat may not have carried it yet. */
  progress: { progress?: Buffer } = {};

  readonly #stop = new AbortController();
  readonly #cell: Cell;
  #begin: () => void = () => {};
  readonly #ended = () => {
    this.#stop.abort(new Ended());
    this.#begin();
  };

  constructor(
    readonly sagas: SagaServiceClient,
    /** The saga as it was when it was claimed. */
    readonly saga: Saga,
    cell: Cell,
    private readonly port: MessagePort,
    private readonly end: AbortSignal,
  ) {
    this.key = keyOf(saga);
    this.signal = this.#stop.signal;
    this.begun = new Promise((resolve) => (this.#begin = resolve));
    this.#cell = cell;
    port.on("message", (message: FromThread) => this.#hear(message));
    end.addEventListener("abort", this.#ended, { once: true });
    if (end.aborted) this.#ended();
  }

  /** When the lease is over unless another heartbeat is accepted before. */
  get deadline(): number {
    return this.#cell.deadline;
  }

  /**
   * Throws when the work has to stop. To be asked before each effect: it looks at the clock itself, and at what the thread
   * has to tell, so that a process that was suspended, or busy, finds out before it does anything else.
   */
  check(): void {
    for (let told; (told = receiveMessageOnPort(this.port));) this.#hear(told.message as FromThread);
    if (now() >= this.#cell.deadline) this.#lose("DEADLINE");
    if (this.lost) throw this.lost;
    this.signal.throwIfAborted();
  }

  /** Sends progress (at most 64 KiB) with the next heartbeat, and with the report of the end. */
  setProgress(progress: string): void {
    this.progress = { progress: Buffer.from(progress) };
    this.#tell({ progress: Buffer.from(progress) });
  }

  /** Registers compensations. To be called before the effects that they undo. */
  async register(...compensations: CompensationSpec[]): Promise<void> {
    const { sagas, key } = this;
    const request = RegisterCompensationRequest.create({ ...key, compensations, requestId: newId() });
    await this.under(sagas.registerCompensation.bind(sagas), request);
    for (const { kind, target } of compensations) emit("registered", { task_id: key.taskId, kind, target });
  }

  /** Makes a call that belongs to the work: only while the lease is held, and it is lost when the answer says so. */
  async under<Q, A>(method: Method<Q, A>, request: Q): Promise<A> {
    this.check();
    try {
      return await call(method, request, () => this.deadline, this.signal);
    } catch (error) {
      const refusal = Refusal.of(error);
      if (refusal.leaseGone) this.#lose(refusal.reason);
      this.check();
      throw refusal;
    }
  }

  /** Marks the work as ended: from now on nothing is left to be stopped. */
  report(): void {
    try {
      this.check();
    } catch {
      // It is in `lost` and `cancelled`.
    }
    this.#cell.leave(Cell.REPORTING);
  }

  /** Ends the heartbeats. It neither releases nor ends the lease. */
  close(): void {
    this.#tell({ close: true });
    this.port.close();
    this.end.removeEventListener("abort", this.#ended);
  }

  #tell(message: ToThread): void {
    this.port.postMessage(message);
  }

  #hear(message: FromThread): void {
    if ("lost" in message) {
      this.#lose(message.lost);
    } else if ("cancelled" in message) {
      this.cancelled ??= new Cancelled(message.cancelled);
      this.#stop.abort(this.cancelled);
    }
    this.#begin();
  }

  #lose(reason: string): void {
    if (this.lost) return;
    this.lost = new Lost(reason);
    if (this.#cell.leave(Cell.LOST)) emit("lost", { task_id: this.key.taskId, reason });
    this.#stop.abort(this.lost);
  }
}

function keyOf(saga: Saga): LeaseKey {
  if (!saga.lease) throw new Error(`${saga.taskId} has no lease`);
  return { taskId: saga.taskId, ownerId: saga.lease.ownerId, fencingToken: saga.lease.fencingToken };
}

/** A length in milliseconds. */
export function milliseconds(length: Duration | undefined): number {
  return length ? Number(length.seconds) * 1_000 + length.nanos / 1e6 : 0;
}

/** A length for a request. */
export function duration(ms: number): Duration {
  const whole = Math.floor(ms / 1_000);
  return { seconds: BigInt(whole), nanos: Math.round((ms - whole * 1_000) * 1e6) };
}

/** A time of the coordinator's clock in milliseconds, to be compared with its other times only. */
function instant(time: Timestamp | undefined): number {
  return time ? Number(time.seconds) * 1_000 + time.nanos / 1e6 : 0;
}

/** How long a grant was: the ttl, or less where a timeout of the policy clamped it. */
function lengthOf(lease: LeaseMessage | undefined): number {
  return instant(lease?.expireTime) - instant(lease?.heartbeatTime);
}

// ------------------------------------------------------------------------------------------------- the heartbeats' thread

/**
 * Keeps one lease. Its deadline is this process' own: from the moment at which the last accepted heartbeat was sent, for the
 * length that was granted. The coordinator counts from when it received it, so this end is never the later one.
 */
class Keeping {
  readonly #closed = new AbortController();
  readonly #cell: Cell;
  readonly #port: MessagePort;
  readonly #key: LeaseKey;
  #length = 0;
  #interval = 0;
  #expireTime = 0;
  #progress: Uint8Array | undefined;
  #toldToCancel: boolean;

  constructor(
    private readonly sagas: SagaServiceClient,
    keep: Keep,
  ) {
    this.#cell = new Cell(keep.cell);
    this.#port = keep.port;
    this.#key = keep.key;
    // An undo is not cancelled: it is what a cancelled saga is waiting for.
    this.#toldToCancel = keep.lease.purpose === LeasePurpose.LEASE_PURPOSE_COMPENSATE;
    this.#grant(keep.lease, keep.asked);
    this.#port.on("message", (message: ToThread) => {
      if ("close" in message) this.#closed.abort();
      else this.#progress = message.progress;
    });
  }

  async run(): Promise<void> {
    // A claim that was repeated was first sent long before the lease began: then one heartbeat, before the work
    // begins, tells where it stands.
    const received = now();
    if (this.#cell.deadline - received < this.#length / 2) {
      this.#cell.deadline = received + this.#length;
      await this.#beatUntil(true);
    }
    this.#tell({ begun: true });
    await this.#beatUntil(false);
  }

  /** Sends heartbeats until the lease is closed or lost; with `once`, until one is answered. */
  async #beatUntil(once: boolean): Promise<void> {
    const backoff = new Backoff();
    let next = once ? now() : now() + this.#interval;
    while (await sleep(Math.min(next, this.#cell.deadline) - now(), this.#closed.signal)) {
      const answered = await this.#beat(once);
      if (answered === "gone" || (answered === "stands" && once)) return;
      if (answered === "stands") {
        next = now() + this.#interval;
        backoff.reset();
      } else {
        next = now() + Math.min(Math.max(backoff.next(), answered), this.#interval);
      }
    }
  }

  /** One heartbeat. A number: no clear answer, so work on until the deadline, and try again, not before so long. */
  async #beat(first: boolean): Promise<"stands" | "gone" | number> {
    if (this.#over()) return "gone";
    const [sent, progress] = [now(), this.#progress];
    // One that is not answered leaves time for another.
    const ms = Math.min(CALL_MS, Math.max(this.#length / 2, 1_000), this.#cell.deadline - sent);
    const request = HeartbeatRequest.create({ ...this.#key, ...(progress && { progress: Buffer.from(progress) }) });
    try {
      const answer = await unary(this.sagas.heartbeat.bind(this.sagas), request, ms, this.#closed.signal);
      // The deadline comes first: after it, not even an answer that is already here prolongs the work.
      if (this.#over()) return "gone";
      if (this.#progress === progress) this.#progress = undefined;
      this.#grant(answer.lease, sent);
      const expire_in_ms = Math.round(this.#cell.deadline - now());
      emit("heartbeat", { task_id: this.#key.taskId, expire_in_ms });
      if (answer.directive === Directive.DIRECTIVE_CANCEL) this.#cancel(answer.cancelReason);
      return "stands";
    } catch (error) {
      const refusal = Refusal.of(error);
      if (this.#over()) return "gone";
      switch (refusal.reason) {
        case "LEASE_NOT_EXTENDED":
        case "EXECUTION_TIMEOUT":
        case "PROGRESS_TIMEOUT":
          this.#standsUntil(Date.parse(refusal.metadata["expire_time"] ?? ""), first);
          if (refusal.metadata["directive"] === Directive.DIRECTIVE_CANCEL) {
            this.#cancel(refusal.metadata["cancel_reason"] ?? "");
          }
          return "stands";
      }
      if (refusal.judged && [status.ABORTED, status.FAILED_PRECONDITION, status.NOT_FOUND].includes(refusal.code)) {
        return this.#lose(refusal.reason);
      }
      emit("heartbeat_unknown", { task_id: this.#key.taskId, code: refusal.codeName, reason: refusal.reason });
      return refusal.retryAfter;
    }
  }

  /** Whether nobody waits for heartbeats any more: the lease is closed, or lost, by the deadline if by nothing else. */
  #over(): boolean {
    if (this.#closed.signal.aborted || this.#cell.lost) return true;
    if (now() < this.#cell.deadline) return false;
    this.#lose("DEADLINE");
    return true;
  }

  /** Takes in what the answer to a call that was sent at that moment granted. */
  #grant(lease: LeaseMessage | undefined, sent: number): void {
    this.#expireTime = instant(lease?.expireTime);
    this.#length = lengthOf(lease);
    this.#interval = Math.max(milliseconds(lease?.heartbeatInterval), HEARTBEAT_MIN_MS);
    this.#cell.deadline = sent + this.#length;
  }

  /**
   * Takes in that the lease stands until a time of the coordinator's clock: later than known where the answer to an
   * accepted heartbeat was lost. The difference of two of its times holds on our clock, too.
   */
  #standsUntil(time: number, first: boolean): void {
    const end = Number.isNaN(time) ? this.#expireTime : time;
    if (first) {
      // No time of ours is tied to it yet, so the wall clocks' word is the best there is.
      this.#cell.deadline = now() + Math.min(Math.max(end - Date.now(), 0), this.#length);
    } else if (end > this.#expireTime) {
      this.#cell.deadline += end - this.#expireTime;
    }
    this.#expireTime = end;
  }

  #cancel(reason: string): void {
    if (this.#toldToCancel || !this.#cell.working) return;
    this.#toldToCancel = true;
    emit("cancelled", { task_id: this.#key.taskId, reason });
    this.#tell({ cancelled: reason });
  }

  #lose(reason: string): "gone" {
    // Told first: who sees that it is lost finds the reason.
    this.#tell({ lost: reason });
    if (this.#cell.leave(Cell.LOST)) emit("lost", { task_id: this.#key.taskId, reason });
    return "gone";
  }

  #tell(message: FromThread): void {
    this.#port.postMessage(message);
  }
}

if (!isMainThread && parentPort && typeof workerData?.heartbeats === "string") {
  const sagas = connect(workerData.heartbeats);
  sagas.getChannel().getConnectivityState(true);
  parentPort.on("message", (keep: Keep) => void new Keeping(sagas, keep).run());
}
