/** Claims sagas, has them worked on while their lease is kept, and reports what came of them. */

import { emit } from "../events.js";
import {
  type Compensation,
  type CompensationSpec,
  CompensationOutcome,
  CompensationState,
  LeasePurpose,
  type Saga,
} from "../gen/sagad/v1/saga.js";
import {
  ClaimNextRequest,
  CompensateRequest,
  CompleteRequest,
  FailRequest,
  QuarantineRequest,
  RecordCompensationRequest,
  ReleaseRequest,
  type SagaServiceClient,
} from "../gen/sagad/v1/saga_service.js";
import {
  Backoff,
  call,
  CALL_MS,
  connect,
  duration,
  Heartbeats,
  type Lease,
  type Method,
  milliseconds,
  newId,
  now,
  Refusal,
  sleep,
  unary,
} from "./lease.js";

/** A claim waits in the coordinator for a third of the ttl, within these bounds. */
const WAIT_MIN_MS = 1_000;
const WAIT_MAX_MS = 20_000;

/** What cleaning up after a claim that was broken off may take. */
const CLEANUP_MS = 2_000;

/**
 * Outcomes are tried for so long beyond the lease's deadline: late results are accepted, and the coordinator may be away
 * for a restart just then.
 */
const REPORT_GRACE_MS = 60_000;

/** An undo that has failed so often is left to a person. The pauses before it is tried again grow from the first. */
const UNDO_ATTEMPTS = 3;
const UNDO_PAUSE_MS = 1_000;

/** An error of the work that says how the saga has failed. Any other error is a retryable failure. */
export class Failure extends Error {
  constructor(
    reason: string,
    /** `retryable`: another attempt may help. `compensations`: what is left to undo and not yet registered. */
    readonly details: { retryable?: boolean; compensations?: CompensationSpec[] } = {},
  ) {
    super(reason);
  }
}

/** An error of an undo that only a person can help with. */
class Parked extends Error {}

/** The coordinator's refusal of a call that is part of the work. */
class Refused extends Error {
  constructor(
    readonly rpc: string,
    readonly refusal: Refusal,
  ) {
    super(refusal.message);
  }
}

/**
 * Does the work of one saga and answers with its result, at most 64 KiB. It has to end soon after `lease.signal` is aborted,
 * and to call `lease.check()` before each effect. What it ends with then does not matter, but that a success is still
 * reported when a cancel was requested.
 */
export type Work = (lease: Lease) => Promise<Uint8Array>;

/** Undoes what one compensation names. It may be called more than once, so it succeeds where nothing is left to undo. */
export type Undo = (lease: Lease, compensation: Compensation) => Promise<void>;

export interface WorkerOptions {
  server: string;
  queues: string[];
  /** Unique to this worker. */
  owner: string;
  /** The length of the leases in milliseconds, 100 to 24 h. */
  ttl: number;
  /** What is done with planned sagas, or, by kind of compensation, with those that are to be undone. */
  does: Work | Record<string, Undo>;
}

/** A worker does one saga at a time. For more, run several, each with an owner of its own. */
export class Worker {
  readonly #options: WorkerOptions;
  readonly #sagas: SagaServiceClient;
  readonly #heartbeats: Heartbeats;
  readonly #drain = new AbortController();
  readonly #end = new AbortController();

  /** Throws when the server is no address. */
  constructor(options: WorkerOptions) {
    this.#options = options;
    this.#sagas = connect(options.server);
    this.#heartbeats = new Heartbeats(options.server);
  }

  /** Lets `run` claim nothing more, and return when what runs is finished. */
  drain(): void {
    this.#drain.abort();
  }

  /** Lets `run` stop what runs, give it back, and return. */
  end(): void {
    this.#drain.abort();
    this.#end.abort();
  }

  /**
   * Works until it is told to drain or to end. Rejects when the coordinator refuses a claim, such as one of an invalid queue;
   * a coordinator that is away is waited for.
   */
  async run(): Promise<void> {
    try {
      // The first claim does not wait: its answer tells that there is a connection.
      let wait = 0;
      while (!this.#drain.signal.aborted) {
        const asked = now();
        const [saga, held] = await this.#claim(wait);
        if (wait === 0 && !this.#drain.signal.aborted) emit("ready");
        wait = Math.min(Math.max(this.#options.ttl / 3, WAIT_MIN_MS), WAIT_MAX_MS);
        if (saga) await this.#handle(saga, asked + held);
      }
    } finally {
      this.#sagas.close();
      await this.#heartbeats.close();
    }
  }

  /**
   * Asks for one saga until the coordinator answers or the worker has to drain; tells, too, for how many milliseconds the
   * claim was held until the lease was given.
   */
  async #claim(wait: number): Promise<[Saga | undefined, number]> {
    const { queues, owner: ownerId, ttl, does } = this.#options;
    const request = ClaimNextRequest.create({
      queues,
      ownerId,
      ttl: duration(ttl),
      maxSagas: 1,
      wait: duration(wait),
      requestId: newId(),
      ...(typeof does === "function"
        ? { purpose: LeasePurpose.LEASE_PURPOSE_EXECUTE }
        : { purpose: LeasePurpose.LEASE_PURPOSE_COMPENSATE, compensationKinds: Object.keys(does) }),
    });
    const backoff = new Backoff();
    const drain = this.#drain.signal;
    for (;;) {
      try {
        const answer = await unary(this.#sagas.claimNext.bind(this.#sagas), request, wait + CALL_MS, drain);
        return [answer.sagas[0], milliseconds(answer.waited)];
      } catch (error) {
        const refusal = Refusal.of(error);
        if (!refusal.again && !drain.aborted) throw refusal;
        if (!(await sleep(Math.max(backoff.next(), refusal.retryAfter), drain))) {
          await this.#giveBack(request);
          return [undefined, 0];
        }
      }
    }
  }

  /** Releases what a claim that was broken off may have claimed. Repeating it with its `request_id` shows that. */
  async #giveBack(request: ClaimNextRequest): Promise<void> {
    const signal = AbortSignal.timeout(CLEANUP_MS);
    const sagas = this.#sagas;
    try {
      const again = { ...request, wait: undefined };
      const answer = await unary(sagas.claimNext.bind(sagas), again, CLEANUP_MS, signal);
      for (const { taskId, lease } of answer.sagas) {
        const release = ReleaseRequest.create({
          taskId,
          ownerId: request.ownerId,
          fencingToken: lease?.fencingToken ?? 0n,
          reason: "the worker was told to end before it began",
          requestId: newId(),
        });
        await unary(sagas.release.bind(sagas), release, CLEANUP_MS, signal);
      }
    } catch (error) {
      // What is not given back runs out.
      console.error(`nothing was given back: ${String(error)}`);
    }
  }

  /** Has a saga that was claimed worked on, and reports. */
  async #handle(saga: Saga, asked: number): Promise<void> {
    const { taskId: task_id, attempt } = saga;
    const held = saga.lease!;
    const purpose = held.purpose.replace("LEASE_PURPOSE_", "");
    emit("claimed", { task_id, fencing_token: Number(held.fencingToken), attempt, purpose });
    const lease = await this.#heartbeats.keep(this.#sagas, saga, asked, this.#end.signal);
    try {
      let result: Uint8Array = new Uint8Array();
      let problem: unknown;
      try {
        lease.check();
        const { does } = this.#options;
        if (typeof does === "function") result = await does(lease);
        else await undoAll(lease, does);
      } catch (error) {
        problem = error ?? new Error("no reason given");
      }
      lease.report();
      if (lease.lost || lease.cancelled) emit("stopped", { task_id });
      // A lost one may be somebody else's: nothing is reported.
      if (!lease.lost) await report(lease, this.#outcome(lease, result, problem));
    } finally {
      lease.close();
    }
  }

  /** How the work has ended, in the coordinator's words. */
  #outcome(lease: Lease, result: Uint8Array, problem: unknown): Outcome {
    const { key, sagas, progress } = lease;
    const requestId = newId();
    if (problem === undefined && typeof this.#options.does === "function") {
      const request = CompleteRequest.create({ ...key, result: Buffer.from(result), ...progress, requestId });
      return { event: "completed", rpc: "Complete", send: () => late(lease, sagas.complete.bind(sagas), request) };
    }
    if (problem === undefined) {
      const request = CompensateRequest.create({ ...key, requestId });
      return { event: "compensated", rpc: "Compensate", send: () => late(lease, sagas.compensate.bind(sagas), request) };
    }
    if (problem instanceof Refused) {
      return { event: "", rpc: problem.rpc, send: () => Promise.reject(problem.refusal) };
    }
    if (lease.cancelled) return failed(lease, lease.cancelled.message, {});
    if (this.#end.signal.aborted) {
      const request = ReleaseRequest.create({ ...key, reason: "the worker was told to end", ...progress, requestId });
      // Unlike the others it is refused once the lease has run out, so it is not tried for longer.
      const send = () => call(sagas.release.bind(sagas), request, () => lease.deadline);
      return { event: "released", rpc: "Release", send };
    }
    const reason = problem instanceof Error ? problem.message : String(problem);
    if (problem instanceof Parked) return quarantined(lease, reason);
    return failed(lease, reason, problem instanceof Failure ? problem.details : { retryable: true });
  }
}

/** What is to be reported by which rpc, and the event when it was accepted. */
interface Outcome {
  event: string;
  rpc: string;
  send: () => Promise<{ saga: Saga | undefined }>;
  /** What else is to be reported where a failure is not accepted because there is nothing that could undo it. */
  instead?: () => Outcome;
}

function failed(lease: Lease, reason: string, details: Failure["details"]): Outcome {
  const { key, sagas, progress } = lease;
  const request = FailRequest.create({ ...key, reason: text(reason), ...details, ...progress, requestId: newId() });
  return {
    event: "failed",
    rpc: "Fail",
    send: () => late(lease, sagas.fail.bind(sagas), request),
    instead: () => quarantined(lease, reason),
  };
}

function quarantined(lease: Lease, reason: string): Outcome {
  const { key, sagas } = lease;
  const request = QuarantineRequest.create({ ...key, reason: text(reason), requestId: newId() });
  return { event: "quarantined", rpc: "Quarantine", send: () => late(lease, sagas.quarantine.bind(sagas), request) };
}

function late<Q, A>(lease: Lease, method: Method<Q, A>, request: Q): Promise<A> {
  return call(method, request, () => lease.deadline + REPORT_GRACE_MS);
}

/** Tells the coordinator how the work has ended, again until it has accepted or refused that. */
async function report(lease: Lease, { event, rpc, send, instead }: Outcome): Promise<void> {
  const task_id = lease.key.taskId;
  try {
    const { saga } = await send();
    lease.close();
    emit(event, { task_id, state: saga!.state });
  } catch (error) {
    const refusal = Refusal.of(error);
    // It can't be said to have failed without anything to undo it: a person has to look at it.
    if (refusal.reason === "COMPENSATION_REQUIRED" && instead) return report(lease, instead());
    lease.close();
    emit("refused", { task_id, call: rpc, reason: refusal.reason });
    console.error(`${task_id}: ${rpc} was not accepted: ${refusal.message}`);
  }
}

/** Undoes every compensation that is neither done nor waived, the last first, and records each outcome. */
async function undoAll(lease: Lease, undos: Record<string, Undo>): Promise<void> {
  let saga = lease.saga;
  let pause = UNDO_PAUSE_MS;
  for (let next; (next = nextToUndo(saga));) {
    const { position, kind, attempts } = next;
    const undo = undos[kind];
    if (!undo) throw new Parked(`nobody here undoes "${kind}" (position ${position})`);
    if (attempts >= UNDO_ATTEMPTS) {
      throw new Parked(`${kind} (position ${position}) failed ${attempts} times, at last: ${next.lastError}`);
    }
    if (next.state === CompensationState.COMPENSATION_STATE_FAILED) {
      await sleep(pause, lease.signal);
      pause *= 2;
    }
    lease.check();
    let [outcome, detail] = [CompensationOutcome.COMPENSATION_OUTCOME_DONE, ""];
    try {
      await undo(lease, next);
    } catch (error) {
      lease.check(); // whether it is undone is not known then
      outcome = CompensationOutcome.COMPENSATION_OUTCOME_FAILED;
      detail = text(error instanceof Error ? error.message : String(error));
    }
    saga = await record(
      lease,
      RecordCompensationRequest.create({ ...lease.key, position, outcome, detail, requestId: newId() }),
    );
    emit("settled", { task_id: saga.taskId, position, outcome: outcome.replace("COMPENSATION_OUTCOME_", "") });
  }
}

async function record(lease: Lease, request: RecordCompensationRequest): Promise<Saga> {
  const { sagas } = lease;
  try {
    return (await lease.under(sagas.recordCompensation.bind(sagas), request)).saga!;
  } catch (error) {
    throw error instanceof Refusal ? new Refused("RecordCompensation", error) : error;
  }
}

function nextToUndo(saga: Saga): Compensation | undefined {
  const settled = [CompensationState.COMPENSATION_STATE_DONE, CompensationState.COMPENSATION_STATE_WAIVED];
  return saga.compensations.filter(({ state }) => !settled.includes(state)).at(-1);
}

/** A reason as the coordinator takes it: at most 4 KiB of UTF-8, not empty. */
function text(reason: string): string {
  return Buffer.from(reason || "no reason given")
    .subarray(0, 4_096)
    .toString()
    .replace(/\uFFFD+$/, "");
}
