package example;

import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import sagad.worker.Worker;

/**
 * Writes reports, or, with the argument {@code compensate}, removes what reports left behind.
 *
 * <p>SIGTERM: what runs is finished, nothing more is claimed. A second one, or SIGINT: what runs is stopped and given back.
 */
public final class WorkerMain {
  private WorkerMain() {}

  public static void main(String[] arguments) {
    Settings.main(settings -> run(settings, arguments));
  }

  private static void run(Settings settings, String[] arguments) throws Exception {
    boolean compensate = arguments.length == 1 && arguments[0].equals("compensate");
    if (arguments.length > 0 && !compensate) {
      throw new Settings.SettingException("usage: worker [compensate]");
    }
    var worker = new Worker(settings.sagad(), settings.queues(), settings.owner(), settings.ttl(), Settings::emit);
    var told = new AtomicBoolean();
    Runnable drainFirst =
        () -> {
          if (told.getAndSet(true)) {
            worker.end();
          }
          worker.drain();
        };
    Settings.onSignals(drainFirst, worker::end);
    if (compensate) {
      worker.undo(Map.of(Report.REMOVE_DIR, Report::undo));
    } else {
      worker.work(Report::write);
    }
  }
}
