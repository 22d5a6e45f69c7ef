package sagad.worker;

import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Timestamp;
import com.google.protobuf.util.Durations;
import com.google.protobuf.util.Timestamps;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.text.ParseException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.BiFunction;
import java.util.function.LongSupplier;
import sagad.v1.SagaOuterClass.CompensationSpec;
import sagad.v1.SagaOuterClass.LeasePurpose;
import sagad.v1.SagaOuterClass.Saga;
import sagad.v1.SagaServiceGrpc;
import sagad.v1.SagaServiceGrpc.SagaServiceBlockingStub;
import sagad.v1.SagaServiceOuterClass.Directive;
import sagad.v1.SagaServiceOuterClass.HeartbeatRequest;
import sagad.v1.SagaServiceOuterClass.HeartbeatResponse;
import sagad.v1.SagaServiceOuterClass.RegisterCompensationRequest;

/**
 * What a worker of sagad needs beside the generated client: two files, made to be copied.
 *
 * <p>This one is the connection, and has what an error means, {@link Refusal}, and {@link Lease}, which keeps a lease by
 * heartbeats and says when the work has to stop. {@link Worker} claims, works and reports.
 *
 * <p>Moments are those of {@link System#nanoTime}.
 */
public final class Sagad implements AutoCloseable {
  /** The longest that a unary call takes. */
  static final Duration CALL = Duration.ofSeconds(5);

  /** The pauses between the tries of a call. */
  private static final Duration RETRY_FIRST = Duration.ofMillis(50);

  private static final Duration RETRY_MAX = Duration.ofSeconds(2);

  /** Heartbeats are not sent more often, however short the lease. */
  private static final Duration HEARTBEAT_MIN = Duration.ofMillis(20);

  /** While the coordinator does not answer, that is said again after so long. */
  private static final Duration SAY_AGAIN = Duration.ofSeconds(10);

  private final String server;
  private long said; // when it was said last that the coordinator does not answer; guarded by `this`
  private boolean waiting; // guarded by `this`
  private final ManagedChannel channel;
  private final SagaServiceBlockingStub stub;

  /**
   * A channel to the coordinator at {@code http://HOST:PORT}. It connects with the first call, and again whenever it must.
   *
   * @throws IllegalArgumentException when that is no address
   */
  public Sagad(String server) {
    URI address = URI.create(server);
    boolean hasPort = address.getPort() >= 0 && address.getPort() <= 65_535;
    if (!"http".equals(address.getScheme()) || address.getHost() == null || !hasPort) {
      throw new IllegalArgumentException("'" + server + "' is not an address of the form http://HOST:PORT");
    }
    this.server = server;
    channel =
        NettyChannelBuilder.forAddress(address.getHost(), address.getPort())
            .usePlaintext()
            .proxyDetector(target -> null)
            .defaultServiceConfig(serviceConfig())
            // A peer that lost power sends nothing, so it is asked.
            .keepAliveTime(10, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true)
            .build();
    stub = SagaServiceGrpc.newBlockingStub(channel);
  }

  /** What the library may retry by itself: sagad's {@code proto/service_config.json}. */
  @SuppressWarnings("unchecked")
  private static Map<String, ?> serviceConfig() {
    try (var config = Sagad.class.getResourceAsStream("/service_config.json")) {
      return new Gson().fromJson(new InputStreamReader(config, StandardCharsets.UTF_8), Map.class);
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  /** The generated client. Calls made with it have no deadline and are not tried again. */
  public SagaServiceBlockingStub stub() {
    return stub;
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }

  /**
   * Says on stderr what is waited for: a call was not answered, or not taken, and is tried again. At once, then every ten
   * seconds.
   */
  public synchronized void waiting(String why) {
    if (!waiting || System.nanoTime() - said >= SAY_AGAIN.toNanos()) {
      waiting = true;
      said = System.nanoTime();
      System.err.println("waiting for the coordinator at " + server + ": " + why);
    }
  }

  /** The coordinator has answered: says so on stderr where it was waited for. */
  public synchronized void answers() {
    if (waiting) {
      waiting = false;
      System.err.println("the coordinator at " + server + " answers");
    }
  }

  /**
   * Lets the next call connect at once. By itself the library waits for up to two minutes between two tries to connect: longer
   * than most leases.
   */
  public void reconnect() {
    channel.enterIdle();
  }

  /**
   * Makes a unary call, again with the same request (and so the same {@code request_id}) while that may help, until the
   * moment {@code giveUp} has come. That is asked before each try, so that it may move, as a lease's deadline does.
   */
  public <Q, A> A call(BiFunction<SagaServiceBlockingStub, Q, A> method, Q request, LongSupplier giveUp) throws Refusal {
    Backoff backoff = new Backoff();
    while (true) {
      long left = giveUp.getAsLong() - System.nanoTime();
      Refusal refusal;
      try {
        return once(method, request, Duration.ofNanos(Math.min(CALL.toNanos(), left)));
      } catch (Refusal e) {
        refusal = e;
      }
      Duration pause = longer(backoff.next(), refusal.retryAfter);
      if (!refusal.again || System.nanoTime() + pause.toNanos() - giveUp.getAsLong() >= 0) {
        throw refusal;
      }
      try {
        TimeUnit.NANOSECONDS.sleep(pause.toNanos());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw refusal;
      }
    }
  }

  /** Makes one unary call. It ends with the thread's gRPC context, and when the thread is interrupted. */
  <Q, A> A once(BiFunction<SagaServiceBlockingStub, Q, A> method, Q request, Duration most) throws Refusal {
    try {
      A answer = method.apply(stub.withDeadlineAfter(most), request);
      answers();
      return answer;
    } catch (StatusRuntimeException e) {
      Refusal refusal = new Refusal(e);
      // A call that this process gave up says nothing about the coordinator.
      if (!refusal.again) {
        answers();
      } else if (refusal.code != Code.CANCELLED) {
        waiting(refusal.toString());
      }
      if (refusal.code == Code.UNAVAILABLE) {
        reconnect();
      }
      throw refusal;
    }
  }

  /** A {@code request_id}: a call that is repeated with it does not happen twice. */
  public static String newId() {
    return UUID.randomUUID().toString();
  }

  private static Duration shorter(Duration a, Duration b) {
    return a.compareTo(b) < 0 ? a : b;
  }

  static Duration longer(Duration a, Duration b) {
    return a.compareTo(b) < 0 ? b : a;
  }

  /** The pauses before each further try: they double, and half of each is random, so that clients don't return together. */
  public static final class Backoff {
    private Duration next = RETRY_FIRST;

    public Duration next() {
      Duration pause = next;
      next = shorter(pause.multipliedBy(2), RETRY_MAX);
      return pause.dividedBy(2).plusNanos(ThreadLocalRandom.current().nextLong(pause.toNanos() / 2));
    }

    public void reset() {
      next = RETRY_FIRST;
    }
  }

  /** Where it is told what happens to a saga: {@code fields} are names and values in turn. Called from several threads. */
  public interface Events {
    void emit(String event, Object... fields);
  }

  /** An error of a call, taken apart. */
  public static final class Refusal extends Exception {
    private static final long serialVersionUID = 1;

    public final Code code;

    /** The ErrorInfo's reason, such as {@code LEASE_EXPIRED}; without one, the code's name, such as {@code UNAVAILABLE}. */
    public final String reason;

    public final transient Map<String, String> metadata;

    /** How long the coordinator asks to wait before another try. */
    public final Duration retryAfter;

    /** Whether this is the coordinator's own word, not the transport's or a proxy's. */
    public final boolean judged;

    /** Whether the call may be tried again with the same {@code request_id}: it did not happen, or that is not known. */
    public final boolean again;

    public Refusal(StatusRuntimeException cause) {
      super(cause.getStatus().getDescription(), cause);
      ErrorInfo info = ErrorInfo.getDefaultInstance();
      Duration wait = Duration.ZERO;
      com.google.rpc.Status status = StatusProto.fromThrowable(cause);
      try {
        for (var detail : status == null ? List.<com.google.protobuf.Any>of() : status.getDetailsList()) {
          if (detail.is(ErrorInfo.class)) {
            info = detail.unpack(ErrorInfo.class);
          } else if (detail.is(RetryInfo.class)) {
            wait = javaDuration(detail.unpack(RetryInfo.class).getRetryDelay());
          }
        }
      } catch (InvalidProtocolBufferException e) {
        addSuppressed(e); // the code is enough
      }
      judged = !info.getReason().isEmpty();
      code = cause.getStatus().getCode();
      reason = judged ? info.getReason() : code.name();
      metadata = info.getMetadataMap();
      retryAfter = wait;
      again =
          switch (code) {
            case UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED -> true;
            // Without the coordinator's own word it is the transport's, or a proxy's.
            case UNKNOWN, INTERNAL, CANCELLED -> !judged || reason.equals("OUTCOME_UNKNOWN");
            default -> false;
          };
    }

    @Override
    public String toString() {
      Throwable cause = getCause().getCause();
      return reason + ": " + getMessage() + (cause == null ? "" : " (" + cause.getMessage() + ")");
    }

    /** Whether the lease that the call named is over: whoever holds it stops. */
    public boolean leaseGone() {
      return judged && code == Code.ABORTED || reason.equals("SAGA_TERMINAL") || reason.equals("SAGA_NOT_FOUND");
    }
  }

  /** Why work has to stop. To be let through: the worker knows what to report. */
  public abstract static class Stop extends Exception {
    private static final long serialVersionUID = 1;

    public final String reason;

    Stop(String message, String reason) {
      super(message);
      this.reason = reason;
    }
  }

  /** The lease is, or may be from now on, somebody else's. The reason is the coordinator's, or {@code DEADLINE}. */
  public static final class Lost extends Stop {
    private static final long serialVersionUID = 1;

    Lost(String reason) {
      super("the lease is lost: " + reason, reason);
    }
  }

  /** Somebody asked for the saga to be cancelled. The lease is still held, and kept. */
  public static final class Cancelled extends Stop {
    private static final long serialVersionUID = 1;

    Cancelled(String reason) {
      super("cancelled: " + reason, reason);
    }
  }

  /** The worker has to end at once. The lease is given back. */
  public static final class Ended extends Stop {
    private static final long serialVersionUID = 1;

    Ended() {
      super("the worker was told to end", "ENDED");
    }
  }

  /**
   * A lease that is kept by heartbeats from a thread of its own. The thread that opened it is interrupted when the work has to
   * stop; {@link #check} tells why.
   *
   * <p>Its deadline is this process' own, on the monotonic clock: from the moment at which the last accepted heartbeat was
   * sent, for the length that was granted. The coordinator counts from when it received it, so this end is never the later one.
   */
  public static final class Lease implements AutoCloseable {
    /** What the answer to a heartbeat means. */
    private enum Verdict {
      /** The lease stands: until a new deadline, or the one that it had. */
      STANDS,
      /** No clear answer: work on until the deadline, try again soon. */
      UNKNOWN,
      /** The lease is over. */
      GONE
    }

    private final Sagad sagad;
    private final Saga saga;
    private final String owner;
    private final long token;
    private final Events events;
    private final CountDownLatch closed = new CountDownLatch(1);
    private final Context.CancellableContext beats = Context.ROOT.withCancellation();
    private final Thread heartbeats = new Thread(() -> beats.run(() -> beatUntil(false)), "heartbeats");

    // All below are guarded by `this`.
    private long deadline;
    private long length;
    private long interval;
    private Timestamp expireTime; // the deadline on the coordinator's clock, to be compared with its other times only
    private ByteString progress; // null: none to be sent
    private Thread work; // null: it has ended
    private Lost lost;
    private Cancelled cancelled;
    private Ended ended;
    private Duration retryAfter = Duration.ZERO;

    /** Begins to keep the lease of a saga, which counts from {@code asked}. The work is this thread's. */
    Lease(Sagad sagad, Saga saga, long asked, Events events) {
      this.sagad = sagad;
      this.saga = saga;
      this.events = events;
      owner = saga.getLease().getOwnerId();
      token = saga.getLease().getFencingToken();
      work = Thread.currentThread();
      grant(saga.getLease(), asked);
      heartbeats.setDaemon(true);
    }

    /**
     * Begins the heartbeats. A claim that was repeated was first sent long before the lease began: then one
     * heartbeat, before the work begins, tells where it stands.
     */
    void begin() {
      long received = System.nanoTime();
      boolean ask;
      synchronized (this) {
        ask = deadline - received < length / 2;
        if (ask) {
          deadline = received + length;
        }
      }
      if (ask) {
        beats.run(() -> beatUntil(true));
      }
      heartbeats.start();
    }

    /** The saga as it was when it was claimed. */
    public Saga saga() {
      return saga;
    }

    public String ownerId() {
      return owner;
    }

    /** What is written to can refuse a token that is lower than the last it has seen. */
    public long fencingToken() {
      return token;
    }

    /** The moment at which the lease is over unless another heartbeat is accepted before. */
    public synchronized long deadline() {
      return deadline;
    }

    /**
     * Throws when the work has to stop. To be asked before each effect: it looks at the clock itself, so that a process that
     * was suspended finds out before it does anything else.
     */
    public synchronized void check() throws Stop {
      checkDeadline();
      if (lost != null) {
        throw lost;
      } else if (cancelled != null) {
        throw cancelled;
      } else if (ended != null) {
        throw ended;
      }
    }

    /** Sends progress (at most 64 KiB) with the next heartbeat, or with the report of the end. */
    public synchronized void setProgress(String text) {
      progress = ByteString.copyFromUtf8(text);
    }

    /** What no accepted heartbeat has carried yet. */
    synchronized Optional<ByteString> unsentProgress() {
      return Optional.ofNullable(progress);
    }

    /** Registers compensations. To be called before the effects that they undo. */
    public void register(CompensationSpec... compensations) throws Stop, Refusal {
      var request =
          RegisterCompensationRequest.newBuilder()
              .setTaskId(saga.getTaskId())
              .setOwnerId(owner)
              .setFencingToken(token)
              .addAllCompensations(List.of(compensations))
              .setRequestId(newId())
              .build();
      under(SagaServiceBlockingStub::registerCompensation, request);
      for (var one : compensations) {
        events.emit("registered", "task_id", saga.getTaskId(), "kind", one.getKind(), "target", one.getTarget());
      }
    }

    /** Makes a call that belongs to the work: only while the lease is held, and it is lost when the answer says so. */
    <Q, A> A under(BiFunction<SagaServiceBlockingStub, Q, A> method, Q request) throws Stop, Refusal {
      check();
      try {
        return sagad.call(method, request, this::deadline);
      } catch (Refusal refusal) {
        if (refusal.leaseGone()) {
          lose(refusal.reason);
        }
        check();
        throw refusal;
      }
    }

    /** Stops the work because the worker has to end. */
    synchronized void end() {
      if (work != null && ended == null) {
        ended = new Ended();
        work.interrupt();
      }
    }

    /** Marks the work as ended, by the thread that did it: from now on nothing is left to be stopped. */
    synchronized void report() {
      checkDeadline();
      work = null;
      Thread.interrupted(); // what was told is known
    }

    synchronized boolean isLost() {
      return lost != null;
    }

    synchronized Cancelled cancelled() {
      return cancelled;
    }

    /** Ends the heartbeats. It neither releases nor ends the lease. */
    @Override
    public void close() {
      closed.countDown();
      beats.cancel(null);
      try {
        heartbeats.join();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }

    /** Sends heartbeats until the lease is closed or lost; with {@code once}, until one is answered. */
    private void beatUntil(boolean once) {
      Backoff backoff = new Backoff();
      long next = System.nanoTime() + (once ? 0 : interval());
      while (!sleepUntil(next)) {
        Verdict verdict = beat(once);
        if (verdict == Verdict.GONE || verdict == Verdict.STANDS && once) {
          return;
        } else if (verdict == Verdict.STANDS) {
          next = System.nanoTime() + interval();
          backoff.reset();
        } else {
          next = System.nanoTime() + Math.min(longer(backoff.next(), retryAfter).toNanos(), interval());
        }
      }
    }

    /** Sleeps until the moment or the deadline; true when the lease was closed. */
    private boolean sleepUntil(long moment) {
      long now = System.nanoTime();
      try {
        return closed.await(Math.min(moment - now, deadline() - now), TimeUnit.NANOSECONDS);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return true; // it happens to the thread that opens the lease: there is no work yet
      }
    }

    private Verdict beat(boolean first) {
      var request = HeartbeatRequest.newBuilder().setTaskId(saga.getTaskId()).setOwnerId(owner).setFencingToken(token);
      ByteString told;
      long sent;
      Duration most;
      synchronized (this) {
        checkDeadline();
        if (lost != null) {
          return Verdict.GONE;
        }
        told = progress;
        sent = System.nanoTime();
        // One that is not answered leaves time for another.
        most = shorter(CALL, longer(Duration.ofNanos(length / 2), Duration.ofSeconds(1)));
        most = shorter(most, Duration.ofNanos(deadline - sent));
      }
      if (told != null) {
        request.setProgress(told);
      }
      HeartbeatResponse answer = null;
      Refusal refusal = null;
      try {
        answer = sagad.once(SagaServiceBlockingStub::heartbeat, request.build(), most);
      } catch (Refusal e) {
        refusal = e;
      }
      synchronized (this) {
        if (closed.getCount() == 0) {
          return Verdict.GONE; // whatever came of it
        }
        // The deadline comes first: after it, not even an answer that is already here prolongs the work.
        checkDeadline();
        if (lost != null) {
          return Verdict.GONE;
        }
        return refusal == null ? accepted(answer, sent, told) : refused(refusal, first);
      }
    }

    // All below: the caller holds the lock.

    private Verdict accepted(HeartbeatResponse answer, long sent, ByteString told) {
      if (progress == told) {
        progress = null;
      }
      grant(answer.getLease(), sent);
      long left = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime());
      events.emit("heartbeat", "task_id", saga.getTaskId(), "expire_in_ms", left);
      if (answer.getDirective() == Directive.DIRECTIVE_CANCEL) {
        cancel(answer.getCancelReason());
      }
      return Verdict.STANDS;
    }

    private Verdict refused(Refusal refusal, boolean first) {
      switch (refusal.reason) {
        case "LEASE_NOT_EXTENDED", "EXECUTION_TIMEOUT", "PROGRESS_TIMEOUT" -> {
          standsUntil(refusal.metadata.getOrDefault("expire_time", ""), first);
          if (Directive.DIRECTIVE_CANCEL.name().equals(refusal.metadata.get("directive"))) {
            cancel(refusal.metadata.getOrDefault("cancel_reason", ""));
          }
          return Verdict.STANDS;
        }
        default -> {
          switch (refusal.judged ? refusal.code : Code.UNKNOWN) {
            case ABORTED, FAILED_PRECONDITION, NOT_FOUND -> {
              lose(refusal.reason);
              return Verdict.GONE;
            }
            default -> {
              String code = refusal.code.name();
              events.emit("heartbeat_unknown", "task_id", saga.getTaskId(), "code", code, "reason", refusal.reason);
              retryAfter = refusal.retryAfter;
              return Verdict.UNKNOWN;
            }
          }
        }
      }
    }

    /** Takes in what the answer to a call that was sent at that moment granted. */
    private synchronized void grant(sagad.v1.SagaOuterClass.Lease lease, long sent) {
      expireTime = lease.getExpireTime();
      // Less than the ttl where a timeout of the policy clamped it.
      length = Durations.toNanos(Timestamps.between(lease.getHeartbeatTime(), expireTime));
      interval = Math.max(Durations.toNanos(lease.getHeartbeatInterval()), HEARTBEAT_MIN.toNanos());
      deadline = sent + length;
    }

    /**
     * Takes in that the lease stands until a time of the coordinator's clock: later than known where the answer to an accepted
     * heartbeat was lost. The difference of two of its times holds on our clock, too.
     */
    private void standsUntil(String text, boolean first) {
      Timestamp end = expireTime;
      try {
        end = Timestamps.parse(text);
      } catch (ParseException e) {
        // It stands until the expiry that is known.
      }
      if (first) {
        // No time of ours is tied to it yet, so the wall clocks' word is the best there is.
        long left = Durations.toNanos(Timestamps.between(Timestamps.now(), end));
        deadline = System.nanoTime() + Math.min(Math.max(left, 0), length);
      } else {
        deadline += Math.max(Durations.toNanos(Timestamps.between(expireTime, end)), 0);
      }
      expireTime = end;
    }

    private synchronized long interval() {
      return interval;
    }

    private void checkDeadline() {
      if (System.nanoTime() - deadline >= 0) {
        lose("DEADLINE");
      }
    }

    private synchronized void lose(String reason) {
      if (lost != null) {
        return;
      }
      lost = new Lost(reason);
      if (work != null) {
        events.emit("lost", "task_id", saga.getTaskId(), "reason", reason);
        work.interrupt();
      }
    }

    private void cancel(String reason) {
      // An undo is not cancelled: it is what a cancelled saga is waiting for.
      if (cancelled != null || work == null || saga.getLease().getPurpose() == LeasePurpose.LEASE_PURPOSE_COMPENSATE) {
        return;
      }
      cancelled = new Cancelled(reason);
      events.emit("cancelled", "task_id", saga.getTaskId(), "reason", reason);
      work.interrupt();
    }
  }

  static Duration javaDuration(com.google.protobuf.Duration length) {
    return Duration.ofSeconds(length.getSeconds(), length.getNanos());
  }
}
