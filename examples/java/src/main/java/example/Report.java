package example;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import sagad.v1.SagaOuterClass.Compensation;
import sagad.v1.SagaOuterClass.CompensationSpec;
import sagad.worker.Sagad.Lease;
import sagad.worker.Worker.Failure;

/** The work: writes a report into a directory of its own; and what undoes that: removes the directory. */
final class Report {
  /** The kind of the compensation that removes a report's directory. */
  static final String REMOVE_DIR = "remove-dir";

  /** The file by which a directory tells whose it is: it holds the task_id. */
  private static final String MARKER = ".sagad";

  private static final HexFormat HEX = HexFormat.of();

  private Report() {}

  /** The payload of a saga: which report to write. */
  private record Order(String dir, List<String> lines, long pauseMs) {
    static Order read(String payload) throws Failure {
      try {
        JsonObject order = JsonParser.parseString(payload).getAsJsonObject();
        var lines = new ArrayList<String>();
        if (!(order.get("lines") instanceof JsonArray given)) {
          throw new IllegalArgumentException("lines is no list");
        }
        for (JsonElement line : given) {
          lines.add(text(line));
        }
        JsonElement pause = order.get("pause_ms");
        return new Order(text(order.get("dir")), lines, pause == null ? 0 : pause.getAsLong());
      } catch (RuntimeException e) {
        String problem = String.valueOf(e.getMessage()).lines().findFirst().orElse("");
        throw new Failure("the payload can't be read: " + problem, false);
      }
    }

    private static String text(JsonElement value) {
      if (value instanceof JsonPrimitive primitive && primitive.isString()) {
        return primitive.getAsString();
      }
      throw new IllegalArgumentException(value + " is no text");
    }
  }

  /** Registers what undoes the work, makes the directory, and writes one line after the other. */
  static byte[] write(Lease lease) throws Exception {
    String id = lease.saga().getTaskId();
    Order order = Order.read(lease.saga().getPayload().toStringUtf8());
    // Before the effect: should we die between the two, it is known what to look for.
    lease.register(CompensationSpec.newBuilder().setKind(REMOVE_DIR).setTarget(order.dir).setReason("report").build());
    lease.check();
    Path dir = Path.of(order.dir);
    makeDir(dir, id);
    MessageDigest report = sha256();
    try (var file = Files.newOutputStream(dir.resolve("report.txt"))) {
      int n = 0;
      for (String line : order.lines) {
        n++;
        TimeUnit.MILLISECONDS.sleep(order.pauseMs);
        obey(n, line);
        String upper = line.toUpperCase(Locale.ROOT);
        String hash = HEX.formatHex(sha256().digest(upper.getBytes(StandardCharsets.UTF_8)));
        byte[] text = (n + " " + hash + " " + upper + "\n").getBytes(StandardCharsets.UTF_8);
        // Right before each effect: after this nothing may take long.
        lease.check();
        file.write(text);
        report.update(text);
        Settings.emit("line", "task_id", id, "n", n);
        lease.setProgress(n + "/" + order.lines.size());
      }
    }
    return HEX.formatHex(report.digest()).getBytes(StandardCharsets.US_ASCII);
  }

  /** Carries out a line that is an order. */
  private static void obey(int n, String line) throws Failure {
    String[] words = line.split(" ");
    if (line.equals("!fail")) {
      throw new Failure("line " + n + " says so", false);
    } else if (line.equals("!retry")) {
      throw new Failure("line " + n + " says so", true);
    } else if (words.length == 2 && words[0].equals("!spin")) {
      // Work that never yields, and looks at nothing: heartbeats go on all the same.
      long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(Long.parseLong(words[1]));
      while (System.nanoTime() - end < 0) {
        Thread.onSpinWait();
      }
    }
  }

  /** Makes a directory and marks it as the task's. One that is there already has to be the task's, by an earlier attempt. */
  private static void makeDir(Path dir, String id) throws Failure {
    try {
      Files.createDirectory(dir);
      Files.writeString(dir.resolve(MARKER), id);
    } catch (FileAlreadyExistsException e) {
      if (!isOurs(dir, id)) {
        throw new Failure(dir + " is there already, and not ours", false);
      }
    } catch (IOException e) {
      throw new Failure("can't make a directory: " + e, false);
    }
  }

  /** Removes the directory, if it is the task's. One that is not there is done already. */
  static void undo(Lease lease, Compensation compensation) throws IOException {
    Path dir = Path.of(compensation.getTarget());
    if (Files.notExists(dir)) {
      return;
    }
    if (!isOurs(dir, lease.saga().getTaskId())) {
      throw new IOException(dir + " is not this task's");
    }
    Path marker = dir.resolve(MARKER);
    List<Path> inside;
    try (Stream<Path> paths = Files.walk(dir)) {
      // What is inside first.
      inside = paths.filter(path -> !path.equals(marker) && !path.equals(dir)).sorted(Comparator.reverseOrder()).toList();
    }
    for (Path path : inside) {
      Files.delete(path);
    }
    // The marker goes last, so that an undo that is broken off can be gone on with.
    Files.delete(marker);
    Files.delete(dir);
  }

  private static boolean isOurs(Path dir, String id) {
    try {
      return Files.readString(dir.resolve(MARKER)).equals(id);
    } catch (IOException e) {
      return false;
    }
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e); // every Java has it
    }
  }
}
