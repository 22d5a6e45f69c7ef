package example;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import java.io.PrintStream;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import sagad.worker.Sagad;
import sun.misc.Signal;

/** What the worker and the watcher share: how they are told what to do, and how they tell what happens. */
record Settings(Sagad sagad, List<String> queues, String owner, Duration ttl) {
  /** The coordinator's rule for ids and queues, their length aside. */
  private static final Pattern NAME = Pattern.compile("(?!.*\\.\\.)[A-Za-z0-9][A-Za-z0-9._:/@+-]*");

  /** A number and its unit; without one it is seconds. */
  private static final Pattern LENGTH = Pattern.compile("([0-9]*\\.?[0-9]+)(ms|s|m|h)?");

  private static final Map<String, Integer> UNIT_MS = Map.of("ms", 1, "s", 1_000, "m", 60_000, "h", 3_600_000);

  private static final Gson GSON = new GsonBuilder().disableHtmlEscaping().create();

  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  /** What is wrong with a setting; the message names the variable. */
  static final class SettingException extends Exception {
    private static final long serialVersionUID = 1;

    SettingException(String message) {
      super(message);
    }
  }

  /** A program. */
  interface Program {
    void run(Settings settings) throws Exception;
  }

  /** Runs a program: exit code 2 for a wrong setting, 1 for any other error. */
  static void main(Program program) {
    int code = 0;
    try {
      Settings settings = read();
      try (var connection = settings.sagad()) {
        program.run(settings);
      }
      emit("drained");
    } catch (SettingException e) {
      System.err.println(e.getMessage());
      code = 2;
    } catch (Exception e) {
      e.printStackTrace();
      code = 1;
    }
    System.exit(code);
  }

  private static Settings read() throws SettingException {
    var queues = Stream.of(get("SAGAD_QUEUES", "default").split(",", -1)).map(String::strip).toList();
    for (String queue : queues) {
      if (queue.length() > 100 || !NAME.matcher(queue).matches()) {
        throw new SettingException("SAGAD_QUEUES: '" + queue + "' is no name of a queue");
      }
    }
    String owner = get("SAGAD_OWNER", "");
    if (owner.isEmpty()) {
      owner = "java-" + host() + "-" + ProcessHandle.current().pid();
    }
    if (owner.length() > 200 || !NAME.matcher(owner).matches()) {
      throw new SettingException("SAGAD_OWNER: '" + owner + "' is no id");
    }
    String ttl = get("SAGAD_TTL", "30");
    Matcher length = LENGTH.matcher(ttl);
    double millis = 0;
    if (length.matches()) {
      millis = Double.parseDouble(length.group(1)) * UNIT_MS.get(length.group(2) == null ? "s" : length.group(2));
    }
    if (millis < 100 || millis > 86_400_000) {
      String forms = "a length such as 30, 30s, 500ms, 2m or 1h, from 100ms to 24h";
      throw new SettingException("SAGAD_TTL: '" + ttl + "' is not " + forms);
    }
    try {
      var sagad = new Sagad(get("SAGAD_SERVER", "http://127.0.0.1:7420"));
      return new Settings(sagad, queues, owner, Duration.ofMillis(Math.round(millis)));
    } catch (IllegalArgumentException e) {
      throw new SettingException("SAGAD_SERVER: " + e.getMessage());
    }
  }

  /** The value of a variable that is set and not empty. */
  static String get(String variable, String absent) {
    String value = System.getenv(variable);
    return value == null || value.isEmpty() ? absent : value;
  }

  private static String host() {
    try {
      return InetAddress.getLocalHost().getHostName();
    } catch (UnknownHostException e) {
      return "unknown";
    }
  }

  /** Writes one event: one JSON object a line. */
  static void emit(String event, Object... fields) {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("event", event);
    for (int i = 0; i < fields.length; i += 2) {
      line.put((String) fields[i], fields[i + 1]);
    }
    OUT.println(GSON.toJson(line));
  }

  /** Lets the program be told by SIGTERM and SIGINT, instead of the Java runtime, which would end at the first. */
  static void onSignals(Runnable term, Runnable interrupt) {
    Signal.handle(new Signal("TERM"), signal -> term.run());
    Signal.handle(new Signal("INT"), signal -> interrupt.run());
  }
}
