package example;

import io.grpc.Context;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Iterator;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;
import sagad.v1.SagaOuterClass.SagaState;
import sagad.v1.SagaServiceGrpc.SagaServiceBlockingStub;
import sagad.v1.SagaServiceOuterClass.RecoverRequest;
import sagad.v1.SagaServiceOuterClass.RecoveryDecision;
import sagad.v1.SagaServiceOuterClass.StaleSaga;
import sagad.v1.SagaServiceOuterClass.WatchStaleRequest;
import sagad.v1.SagaServiceOuterClass.WatchStaleResponse;
import sagad.worker.Sagad;
import sagad.worker.Sagad.Backoff;
import sagad.worker.Sagad.Refusal;

/**
 * Follows the sagas whose lease ran out, and decides: what has left something behind is undone, what has not is planned again.
 * SIGTERM ends it.
 */
public final class WatcherMain {
  /** A bookmark comes at least every ten seconds: silent for three times that, a stream is taken for dead. */
  private static final long SILENCE_MAX_SECONDS = 30;

  private final Settings settings;
  private final Sagad sagad;
  private final Path file; // null: the place is not kept
  private final CountDownLatch ending = new CountDownLatch(1);
  private final Context.CancellableContext running = Context.ROOT.withCancellation();
  private final ScheduledExecutorService timer =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            Thread thread = new Thread(task, "silence");
            thread.setDaemon(true);
            return thread;
          });

  /** The last revision that was dealt with; null: none, so a snapshot is asked for. */
  private Long after;

  private WatcherMain(Settings settings) throws Settings.SettingException {
    this.settings = settings;
    sagad = settings.sagad();
    String name = Settings.get("SAGAD_REVISION_FILE", "");
    file = name.isEmpty() ? null : Path.of(name).toAbsolutePath();
    after = file == null ? null : readRevision(file);
  }

  public static void main(String[] arguments) {
    Settings.main(
        settings -> {
          var watcher = new WatcherMain(settings);
          Settings.onSignals(watcher::end, watcher::end);
          watcher.follow();
        });
  }

  private void end() {
    ending.countDown();
    running.cancel(null);
  }

  private boolean isEnding() {
    return ending.getCount() == 0;
  }

  /** Opens the stream again and again, each time where it broke, until it is told to end or the coordinator refuses it. */
  private void follow() throws Exception {
    Backoff backoff = new Backoff();
    while (!isEnding()) {
      long wait = 0;
      String why = "it ended the stream";
      try {
        stream(backoff);
      } catch (StatusRuntimeException | Refusal e) {
        if (isEnding()) {
          return;
        }
        Refusal refusal = e instanceof Refusal known ? known : new Refusal((StatusRuntimeException) e);
        if (refusal.reason.equals("REVISION_COMPACTED") || refusal.reason.equals("REVISION_UNKNOWN")) {
          // The place to resume from is gone. A snapshot tells all that is stale now.
          System.err.println(refusal.getMessage());
          after = null;
        } else if (!refusal.again) {
          throw refusal;
        }
        wait = refusal.retryAfter.toNanos();
        why = refusal.toString();
      }
      if (isEnding()) {
        return;
      }
      // A stream that just ends is opened again, too.
      sagad.waiting(why);
      Settings.emit("reconnecting", "revision", after == null ? 0 : after);
      ending.await(Math.max(backoff.next().toNanos(), wait), TimeUnit.NANOSECONDS);
      sagad.reconnect();
    }
  }

  private void stream(Backoff backoff) throws Exception {
    var request = WatchStaleRequest.newBuilder().addAllQueues(settings.queues());
    if (after != null) {
      request.setAfterRevision(after);
    }
    boolean resumed = after != null;
    boolean ready = false;
    var context = running.withCancellation();
    Context before = context.attach();
    try {
      var silence = new Silence(context);
      Iterator<WatchStaleResponse> answers = sagad.stub().watchStale(request.build());
      while (silence.over(answers::hasNext)) {
        WatchStaleResponse answer = answers.next();
        backoff.reset();
        sagad.answers();
        if (!ready && (resumed || answer.getBookmark().getSnapshotEnd())) {
          ready = true;
          Settings.emit("ready", "revision", answer.getRevision());
        }
        take(answer);
      }
    } finally {
      context.detach(before);
      context.cancel(null);
    }
  }

  /** Ends a stream that has fallen silent. */
  private final class Silence {
    private final Context.CancellableContext context;

    Silence(Context.CancellableContext context) {
      this.context = context;
    }

    /** Waits for the next answer, but not for ever. */
    boolean over(BooleanSupplier hasNext) {
      Runnable cancel = () -> context.cancel(new TimeoutException("the stream fell silent"));
      var end = timer.schedule(cancel, SILENCE_MAX_SECONDS, TimeUnit.SECONDS);
      try {
        return hasNext.getAsBoolean();
      } finally {
        end.cancel(false);
      }
    }
  }

  /** Deals with one answer; only then its revision is kept, so that a decision that was broken off is made again. */
  private void take(WatchStaleResponse answer) throws Refusal, IOException {
    long revision = answer.getRevision();
    switch (answer.getItemCase()) {
      case STALE -> {
        StaleSaga stale = answer.getStale();
        Settings.emit(
            "stale",
            "revision",
            revision,
            "task_id",
            stale.getTaskId(),
            "fencing_token",
            stale.getFencingToken(),
            "cause",
            stale.getCause().name());
        decide(stale);
      }
      case RESOLVED -> {
        var resolved = answer.getResolved();
        String resolution = resolved.getResolution().name();
        Settings.emit("resolved", "revision", revision, "task_id", resolved.getTaskId(), "resolution", resolution);
      }
      case BOOKMARK, ITEM_NOT_SET -> {}
    }
    // Zero only in a store in which nothing has happened yet.
    if (revision > 0) {
      after = revision;
      if (file != null) {
        writeRevision(file, revision);
      }
    }
  }

  /** Decides what becomes of a stale saga, unless that is settled: being undone already, or over. */
  private void decide(StaleSaga stale) throws Refusal {
    if (stale.getSaga().getState() != SagaState.SAGA_STATE_RUNNING) {
      return;
    }
    boolean left = stale.getSaga().getCompensationsCount() > 0;
    String reason = "its worker is gone, and " + (left ? "may have left something behind" : "left nothing behind");
    var decision = left ? RecoveryDecision.RECOVERY_DECISION_COMPENSATE : RecoveryDecision.RECOVERY_DECISION_REQUEUE;
    var request =
        RecoverRequest.newBuilder()
            .setTaskId(stale.getTaskId())
            .setDecision(decision)
            .setActor(settings.owner())
            .setReason(reason)
            // About this lease and no other: a worker that has come back is not run over.
            .setFencingToken(stale.getFencingToken())
            .setRequestId(Sagad.newId())
            .build();
    try {
      sagad.call(
          SagaServiceBlockingStub::recover, request, () -> System.nanoTime() + (isEnding() ? 0 : TimeUnit.HOURS.toNanos(1)));
      Settings.emit("decided", "task_id", stale.getTaskId(), "decision", decision.name().replace("RECOVERY_DECISION_", ""));
    } catch (Refusal refusal) {
      switch (refusal.reason) {
        case "NOT_STALE", "SAGA_TERMINAL", "SAGA_NOT_FOUND", "WRONG_STATE" ->
            Settings.emit("not_stale", "task_id", stale.getTaskId(), "reason", refusal.reason);
        default -> throw refusal;
      }
    }
  }

  /** The place that an earlier run has come to; null where there is no file. */
  private static Long readRevision(Path file) throws Settings.SettingException {
    try {
      long revision = Long.parseLong(Files.readString(file).strip());
      if (revision >= 0) {
        return revision;
      }
    } catch (NoSuchFileException e) {
      return null;
    } catch (IOException e) {
      throw new Settings.SettingException("SAGAD_REVISION_FILE: " + e);
    } catch (NumberFormatException e) {
      // As below.
    }
    throw new Settings.SettingException("SAGAD_REVISION_FILE: " + file + " does not hold a revision");
  }

  /** Replaces the file as a whole: whoever reads it finds the old revision or the new one. */
  private static void writeRevision(Path file, long revision) throws IOException {
    Path temporary = file.resolveSibling(file.getFileName() + "." + ProcessHandle.current().pid());
    Files.writeString(temporary, revision + "\n");
    Files.move(temporary, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
  }
}
