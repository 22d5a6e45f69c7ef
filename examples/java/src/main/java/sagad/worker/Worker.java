package sagad.worker;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import io.grpc.Context;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.BiFunction;
import sagad.v1.SagaOuterClass.Compensation;
import sagad.v1.SagaOuterClass.CompensationOutcome;
import sagad.v1.SagaOuterClass.CompensationSpec;
import sagad.v1.SagaOuterClass.CompensationState;
import sagad.v1.SagaOuterClass.LeasePurpose;
import sagad.v1.SagaOuterClass.Saga;
import sagad.v1.SagaServiceGrpc.SagaServiceBlockingStub;
import sagad.v1.SagaServiceOuterClass.ClaimNextRequest;
import sagad.v1.SagaServiceOuterClass.CompensateRequest;
import sagad.v1.SagaServiceOuterClass.ClaimNextResponse;
import sagad.v1.SagaServiceOuterClass.CompleteRequest;
import sagad.v1.SagaServiceOuterClass.FailRequest;
import sagad.v1.SagaServiceOuterClass.QuarantineRequest;
import sagad.v1.SagaServiceOuterClass.RecordCompensationRequest;
import sagad.v1.SagaServiceOuterClass.ReleaseRequest;
import sagad.worker.Sagad.Backoff;
import sagad.worker.Sagad.Cancelled;
import sagad.worker.Sagad.Events;
import sagad.worker.Sagad.Lease;
import sagad.worker.Sagad.Refusal;
import sagad.worker.Sagad.Stop;

/**
 * Claims sagas one at a time, has them worked on while their lease is kept, and reports what came of them. For more at a time,
 * run several, with an owner each.
 */
public final class Worker {
  /** A claim waits in the coordinator for a third of the ttl, within these bounds. */
  private static final Duration WAIT_MIN = Duration.ofSeconds(1);

  private static final Duration WAIT_MAX = Duration.ofSeconds(20);

  /** What cleaning up after a claim that was broken off may take. */
  private static final Duration CLEANUP = Duration.ofSeconds(2);

  /**
   * Outcomes are tried for so long beyond the lease's deadline: late results are accepted, and the coordinator may be away for
   * a restart just then.
   */
  private static final Duration REPORT_GRACE = Duration.ofMinutes(1);

  /** An undo that has failed so often is left to a person. The pauses before it is tried again grow from the first. */
  private static final int UNDO_ATTEMPTS = 3;

  private static final Duration UNDO_PAUSE = Duration.ofSeconds(1);

  /** The longest reason, in bytes. */
  private static final int REASON_MAX = 4096;

  /** The work on one saga. */
  public interface Work {
    /**
     * Does it, and answers with its result, at most 64 KiB. It has to call {@link Lease#check} before each effect, and to end
     * soon after its thread was interrupted. What it ends with then does not matter, but that a success is still reported when
     * a cancel was requested. Any exception but a {@link Failure} is a retryable failure.
     */
    byte[] run(Lease lease) throws Exception;
  }

  /** What undoes one kind of compensations. */
  public interface Undo {
    /** Undoes one. It may be called more than once, so it succeeds where nothing is left to undo. */
    void run(Lease lease, Compensation compensation) throws Exception;
  }

  /** The work failed, and it is known how. */
  public static final class Failure extends Exception {
    private static final long serialVersionUID = 1;

    final boolean retryable;
    final transient List<CompensationSpec> compensations;

    /** {@code retryable}: another attempt may help. {@code compensations}: what is left to undo and not yet registered. */
    public Failure(String reason, boolean retryable, CompensationSpec... compensations) {
      super(reason);
      this.retryable = retryable;
      this.compensations = List.of(compensations);
    }
  }

  /** Only a person can help. */
  private static final class Parked extends Exception {
    private static final long serialVersionUID = 1;

    Parked(String reason) {
      super(reason);
    }
  }

  /** The coordinator's refusal of a call that is part of the work. */
  private static final class Refused extends Exception {
    private static final long serialVersionUID = 1;

    final String rpc;
    final Refusal refusal;

    Refused(String rpc, Refusal refusal) {
      super(refusal);
      this.rpc = rpc;
      this.refusal = refusal;
    }
  }

  /**
   * How the work has ended: what is to be reported by which rpc, the event that it was accepted, and what else is to be
   * reported where a failure is not accepted because there is nothing that could undo it.
   */
  private record Outcome(String event, String rpc, Report report, Outcome instead) {
    Outcome(String event, String rpc, Report report) {
      this(event, rpc, report, null);
    }

    interface Report {
      Saga send() throws Refusal;
    }
  }

  private final Sagad sagad;
  private final List<String> queues;
  private final String owner;
  private final Duration ttl;
  private final Events events;
  private final Context.CancellableContext claims = Context.ROOT.withCancellation();
  private final CountDownLatch draining = new CountDownLatch(1);

  // Guarded by `this`.
  private boolean ending;
  private Lease running;

  /** {@code owner} is unique to this worker; {@code ttl} is the length of the leases, 100 ms to 24 h. */
  public Worker(Sagad sagad, List<String> queues, String owner, Duration ttl, Events events) {
    this.sagad = sagad;
    this.queues = queues;
    this.owner = owner;
    this.ttl = ttl;
    this.events = events;
  }

  /** Lets nothing more be claimed: what runs is finished, then {@link #work} or {@link #undo} returns. */
  public void drain() {
    draining.countDown();
    claims.cancel(null);
  }

  /** Lets what runs be stopped and given back, too. */
  public void end() {
    drain();
    synchronized (this) {
      ending = true;
      if (running != null) {
        running.end();
      }
    }
  }

  /**
   * Works on planned sagas until it is told to drain or to end.
   *
   * @throws Refusal when the coordinator refuses a claim, such as one of an invalid queue. One that is away is waited for.
   */
  public void work(Work work) throws Refusal {
    var request = ClaimNextRequest.newBuilder().setPurpose(LeasePurpose.LEASE_PURPOSE_EXECUTE);
    run(
        request,
        lease -> {
          byte[] result = work.run(lease);
          return complete(lease, ByteString.copyFrom(result));
        });
  }

  /** Undoes compensating sagas, with an {@link Undo} for each kind, until it is told to drain or to end. */
  public void undo(Map<String, Undo> undos) throws Refusal {
    var request = ClaimNextRequest.newBuilder().setPurpose(LeasePurpose.LEASE_PURPOSE_COMPENSATE);
    request.addAllCompensationKinds(undos.keySet());
    run(
        request,
        lease -> {
          undoAll(lease, undos);
          return compensate(lease);
        });
  }

  private interface Task {
    Outcome run(Lease lease) throws Exception;
  }

  private void run(ClaimNextRequest.Builder request, Task task) throws Refusal {
    request.addAllQueues(queues).setOwnerId(owner).setTtl(protoDuration(ttl)).setMaxSagas(1);
    // The first claim does not wait: its answer tells that there is a connection.
    Duration wait = Duration.ZERO;
    while (!isDraining()) {
      request.setWait(protoDuration(wait)).setRequestId(Sagad.newId());
      long asked = System.nanoTime();
      ClaimNextResponse claimed = claim(request.build(), wait.plus(Sagad.CALL));
      if (wait.isZero() && !isDraining()) {
        events.emit("ready");
      }
      Duration third = ttl.dividedBy(3);
      wait = third.compareTo(WAIT_MAX) > 0 ? WAIT_MAX : Sagad.longer(third, WAIT_MIN);
      if (claimed.getSagasCount() > 0) {
        // The lease was given when the claim had been held for so long.
        long held = Sagad.javaDuration(claimed.getWaited()).toNanos();
        handle(claimed.getSagas(0), asked + held, task);
      }
    }
  }

  private boolean isDraining() {
    return draining.getCount() == 0;
  }

  /** Asks for one saga until the coordinator answers or the worker has to drain. */
  private ClaimNextResponse claim(ClaimNextRequest request, Duration most) throws Refusal {
    Backoff backoff = new Backoff();
    while (true) {
      Refusal refusal;
      Context before = claims.attach();
      try {
        return sagad.once(SagaServiceBlockingStub::claimNext, request, most);
      } catch (Refusal e) {
        refusal = e;
      } finally {
        claims.detach(before);
      }
      if (!isDraining() && !refusal.again) {
        throw refusal;
      }
      try {
        if (draining.await(Sagad.longer(backoff.next(), refusal.retryAfter).toNanos(), TimeUnit.NANOSECONDS)) {
          giveBack(request);
          return ClaimNextResponse.getDefaultInstance();
        }
      } catch (InterruptedException e) {
        throw new IllegalStateException("nobody interrupts a claim", e);
      }
    }
  }

  /** Releases what a claim that was broken off may have claimed. Repeating it with its request_id shows that. */
  private void giveBack(ClaimNextRequest request) {
    try {
      var again = request.toBuilder().clearWait().build();
      for (Saga saga : sagad.once(SagaServiceBlockingStub::claimNext, again, CLEANUP).getSagasList()) {
        var release =
            ReleaseRequest.newBuilder()
                .setTaskId(saga.getTaskId())
                .setOwnerId(owner)
                .setFencingToken(saga.getLease().getFencingToken())
                .setReason("the worker was told to end before it began")
                .setRequestId(Sagad.newId())
                .build();
        sagad.once(SagaServiceBlockingStub::release, release, CLEANUP);
      }
    } catch (Refusal e) {
      // What is not given back runs out.
      System.err.println("nothing was given back: " + e.getMessage());
    }
  }

  /** Has a saga that was claimed worked on, and reports. */
  private void handle(Saga saga, long asked, Task task) {
    String id = saga.getTaskId();
    var held = saga.getLease();
    String purpose = held.getPurpose().name().replace("LEASE_PURPOSE_", "");
    events.emit(
        "claimed", "task_id", id, "fencing_token", held.getFencingToken(), "attempt", saga.getAttempt(), "purpose", purpose);
    try (Lease lease = new Lease(sagad, saga, asked, events)) {
      synchronized (this) {
        running = lease;
        if (ending) {
          lease.end();
        }
      }
      Outcome outcome;
      try {
        lease.begin();
        lease.check();
        outcome = task.run(lease);
        lease.report();
      } catch (Exception e) {
        // An error that is no exception ends the process, and the lease runs out.
        lease.report();
        outcome = problem(lease, e);
      }
      synchronized (this) {
        running = null;
      }
      if (lease.isLost() || lease.cancelled() != null) {
        events.emit("stopped", "task_id", id);
      }
      // A lost one may be somebody else's: nothing is reported.
      if (!lease.isLost()) {
        report(lease, outcome);
      }
    }
  }

  /** Tells the coordinator how the work has ended, again until it has accepted or refused that. */
  private void report(Lease lease, Outcome outcome) {
    String id = lease.saga().getTaskId();
    try {
      Saga saga = outcome.report().send();
      lease.close();
      events.emit(outcome.event(), "task_id", id, "state", saga.getState().name());
    } catch (Refusal refusal) {
      if (outcome.instead() != null && refusal.reason.equals("COMPENSATION_REQUIRED")) {
        // It can't be said to have failed without anything to undo it: a person has to look at it.
        report(lease, outcome.instead());
        return;
      }
      lease.close();
      events.emit("refused", "task_id", id, "call", outcome.rpc(), "reason", refusal.reason);
      System.err.println(id + ": " + outcome.rpc() + " was not accepted: " + refusal.getMessage());
    }
  }

  private Outcome complete(Lease lease, ByteString result) {
    var builder =
        CompleteRequest.newBuilder()
            .setTaskId(lease.saga().getTaskId())
            .setOwnerId(lease.ownerId())
            .setFencingToken(lease.fencingToken())
            .setResult(result)
            .setRequestId(Sagad.newId());
    lease.unsentProgress().ifPresent(builder::setProgress);
    var request = builder.build();
    return new Outcome("completed", "Complete", () -> late(lease, SagaServiceBlockingStub::complete, request).getSaga());
  }

  private Outcome compensate(Lease lease) {
    var request =
        CompensateRequest.newBuilder()
            .setTaskId(lease.saga().getTaskId())
            .setOwnerId(lease.ownerId())
            .setFencingToken(lease.fencingToken())
            .setRequestId(Sagad.newId())
            .build();
    return new Outcome("compensated", "Compensate", () -> late(lease, SagaServiceBlockingStub::compensate, request).getSaga());
  }

  /** What is to be reported when the work ended with an exception. */
  private Outcome problem(Lease lease, Exception problem) {
    if (problem instanceof Refused refused) {
      Outcome.Report again =
          () -> {
            throw refused.refusal;
          };
      return new Outcome("", refused.rpc, again);
    }
    Cancelled cancelled = lease.cancelled();
    if (cancelled != null) {
      return fail(lease, new Failure(cancelled.getMessage(), false));
    }
    synchronized (this) {
      if (ending) {
        return release(lease);
      }
    }
    String reason = problem.getMessage() == null ? problem.toString() : problem.getMessage();
    if (problem instanceof Parked) {
      return quarantine(lease, reason);
    }
    return fail(lease, problem instanceof Failure failure ? failure : new Failure(reason, true));
  }

  private Outcome fail(Lease lease, Failure failure) {
    var builder =
        FailRequest.newBuilder()
            .setTaskId(lease.saga().getTaskId())
            .setOwnerId(lease.ownerId())
            .setFencingToken(lease.fencingToken())
            .setReason(text(failure.getMessage()))
            .setRetryable(failure.retryable)
            .addAllCompensations(failure.compensations)
            .setRequestId(Sagad.newId());
    lease.unsentProgress().ifPresent(builder::setProgress);
    var request = builder.build();
    Outcome.Report report = () -> late(lease, SagaServiceBlockingStub::fail, request).getSaga();
    return new Outcome("failed", "Fail", report, quarantine(lease, failure.getMessage()));
  }

  private Outcome quarantine(Lease lease, String reason) {
    var request =
        QuarantineRequest.newBuilder()
            .setTaskId(lease.saga().getTaskId())
            .setOwnerId(lease.ownerId())
            .setFencingToken(lease.fencingToken())
            .setReason(text(reason))
            .setRequestId(Sagad.newId())
            .build();
    return new Outcome("quarantined", "Quarantine", () -> late(lease, SagaServiceBlockingStub::quarantine, request).getSaga());
  }

  private Outcome release(Lease lease) {
    var builder =
        ReleaseRequest.newBuilder()
            .setTaskId(lease.saga().getTaskId())
            .setOwnerId(lease.ownerId())
            .setFencingToken(lease.fencingToken())
            .setReason("the worker was told to end")
            .setRequestId(Sagad.newId());
    lease.unsentProgress().ifPresent(builder::setProgress);
    var request = builder.build();
    // Unlike the others it is refused once the lease has run out, so it is not tried for longer.
    Outcome.Report report = () -> sagad.call(SagaServiceBlockingStub::release, request, lease::deadline).getSaga();
    return new Outcome("released", "Release", report);
  }

  private <Q, A> A late(Lease lease, BiFunction<SagaServiceBlockingStub, Q, A> method, Q request) throws Refusal {
    return sagad.call(method, request, () -> lease.deadline() + REPORT_GRACE.toNanos());
  }

  /** Undoes every compensation that is neither done nor waived, the last first, and records each outcome. */
  private void undoAll(Lease lease, Map<String, Undo> undos) throws Stop, Parked, Refused {
    Saga saga = lease.saga();
    Duration pause = UNDO_PAUSE;
    for (Compensation next = nextToUndo(saga); next != null; next = nextToUndo(saga)) {
      String name = next.getKind() + " (position " + next.getPosition() + ")";
      Undo undo = undos.get(next.getKind());
      if (undo == null) {
        throw new Parked("nobody here undoes " + name);
      } else if (next.getAttempts() >= UNDO_ATTEMPTS) {
        throw new Parked(name + " failed " + next.getAttempts() + " times, at last: " + next.getLastError());
      } else if (next.getState() == CompensationState.COMPENSATION_STATE_FAILED) {
        sleep(pause);
        pause = pause.multipliedBy(2);
      }
      lease.check();
      var record =
          RecordCompensationRequest.newBuilder()
              .setTaskId(saga.getTaskId())
              .setOwnerId(lease.ownerId())
              .setFencingToken(lease.fencingToken())
              .setPosition(next.getPosition())
              .setOutcome(CompensationOutcome.COMPENSATION_OUTCOME_DONE)
              .setRequestId(Sagad.newId());
      try {
        undo.run(lease, next);
      } catch (Exception e) {
        lease.check(); // whether it is undone is not known then
        record.setOutcome(CompensationOutcome.COMPENSATION_OUTCOME_FAILED).setDetail(text(e.getMessage()));
      }
      try {
        saga = lease.under(SagaServiceBlockingStub::recordCompensation, record.build()).getSaga();
      } catch (Refusal refusal) {
        throw new Refused("RecordCompensation", refusal);
      }
      String outcome = record.getOutcome().name().replace("COMPENSATION_OUTCOME_", "");
      events.emit("settled", "task_id", saga.getTaskId(), "position", next.getPosition(), "outcome", outcome);
    }
  }

  private static Compensation nextToUndo(Saga saga) {
    for (int i = saga.getCompensationsCount() - 1; i >= 0; i--) {
      Compensation compensation = saga.getCompensations(i);
      switch (compensation.getState()) {
        case COMPENSATION_STATE_DONE, COMPENSATION_STATE_WAIVED -> {}
        default -> {
          return compensation;
        }
      }
    }
    return null;
  }

  /** Sleeps, unless the thread is interrupted; the lease is asked why it was. */
  private static void sleep(Duration length) {
    try {
      TimeUnit.NANOSECONDS.sleep(length.toNanos());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** A reason as the coordinator takes it: at most 4 KiB of UTF-8, not empty. */
  private static String text(String reason) {
    if (reason == null || reason.isEmpty()) {
      return "no reason given";
    }
    // Fills the buffer with whole characters only.
    ByteBuffer bytes = ByteBuffer.allocate(REASON_MAX);
    StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(reason), bytes, true);
    return new String(bytes.array(), 0, bytes.position(), StandardCharsets.UTF_8);
  }

  private static com.google.protobuf.Duration protoDuration(Duration length) {
    return Durations.fromNanos(length.toNanos());
  }
}
