//! Every figure of `docs/reference/limits.md` follows from the program's constants, which are read from the sources because most
//! of them are private.

use std::{collections::HashMap, fs, path::Path};

use sagad::config::Limits;

/// Measured figures; `docs/maintainers/evidence.md` says how they were measured.
const CONNECTION_KIB: u64 = 17;
const CALL_KIB: u64 = 18;
const HTTP2_STREAM_KIB: u64 = 2;
/// SQLite's default `cache_size` in KiB, which readers use.
const READER_CACHE_KIB: u64 = 2048;
/// The approximate size of a place in the writer's memory.
const PLACE_BYTES: u64 = 150;
/// The most that ids, counts and times of a compensation take beside its texts, in the largest saga.
const COMPENSATION_BESIDE: u64 = 256;

/// The constants of one source file, by name.
fn constants(file: &str) -> HashMap<String, u64> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
    let declared = text.lines().filter_map(|line| line.trim().split_once("const "));
    let declared =
        declared.filter_map(|(_, rest)| rest.split_once(": ")?.1.split_once(" = ").map(|value| (rest, value.1)));
    let named = declared.filter_map(|(rest, value)| Some((rest.split(':').next()?.to_owned(), value_of(value)?)));
    named.collect()
}

/// The value of an expression such as `16 << 10`, `4 * 1024 * 1024`, `10_240` or `Span::from_secs(5)`, without its unit.
fn value_of(expression: &str) -> Option<u64> {
    let expression = expression.split(';').next()?.replace('_', "");
    let expression = match expression.split_once('(') {
        Some((_, argument)) => argument.trim_end_matches(')').to_owned(),
        None => expression,
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match expression.split_once("<<") {
        Some((value, shift)) => Some(number(value)? << number(shift)?),
        None => expression.split('*').map(number).product(),
    }
}

fn kib(bytes: u64) -> String {
    assert_eq!(bytes % 1024, 0, "{bytes} are no whole KiB");
    format!("{} KiB", bytes / 1024)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", (bytes as f64 / f64::from(1 << 20)).round())
}

fn gib(bytes: u64) -> String {
    assert_eq!(bytes % (1 << 30), 0, "{bytes} are no whole GiB");
    format!("{} GiB", bytes >> 30)
}

/// A number with commas.
fn thousands(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", thousands(number / 1000), number % 1000) }
}

/// Phrases that the page must contain, with the program's figures.
fn phrases() -> Vec<String> {
    let [
        streams_open,
        held_claims,
        connection_limiter,
        server,
        call_limiter,
        request,
        memory,
        watch,
        tail,
        cache,
        log,
        bounds,
        sqlite,
        reader,
        retention,
        samples,
        soak,
    ] = [
        "src/grpc/streams.rs",
        "src/coordinator/held_claims.rs",
        "src/listen/connection_limiter.rs",
        "src/serve/grpc_server.rs",
        "src/serve/calls/call_limiter.rs",
        "src/serve/calls/request_body.rs",
        "src/store/memory_budget.rs",
        "src/watch/mod.rs",
        "src/store/recent_events.rs",
        "src/coordinator/cache.rs",
        "src/logs/output.rs",
        "src/domain/bounds.rs",
        "src/store/sqlite/open.rs",
        "src/store/sqlite/reader.rs",
        "src/serve/retention.rs",
        "tests/faults/soak/samples.rs",
        "tests/faults/soak/mod.rs",
    ]
    .map(constants);
    let limits = Limits::default();
    let (connections, calls) = (limits.max_connections as u64, limits.max_calls as u64);
    let (watches, readers) = (limits.max_watches as u64, limits.readers as u64);
    let (streams, queue) = (u64::from(limits.max_concurrent_streams), limits.writer_queue as u64);
    let changes = memory["CHANGES_BYTES"];
    let names = 2 * bounds["ID_BYTES"] + bounds["QUEUE_BYTES"] + bounds["ACTOR_BYTES"];
    let labels = bounds["LABELS"] * (bounds["LABEL_KEY_BYTES"] + bounds["LABEL_VALUE_BYTES"]);
    let event = labels + bounds["TEXT_BYTES"] + names;
    let events = bounds["PAGE_MAX"] * event;
    // Target, reason and error of each compensation; branch, worktree, and the reasons of a cancel and an end; three blobs.
    let compensation = 3 * bounds["TEXT_BYTES"] + bounds["KIND_BYTES"] + COMPENSATION_BESIDE;
    let saga =
        bounds["COMPENSATIONS"] * compensation + 4 * bounds["TEXT_BYTES"] + labels + 3 * bounds["BLOB_BYTES"] + names;
    let tenths = |bytes: u64| format!("{:.1} MiB", (bytes as f64 / f64::from(1 << 20) * 10.0).ceil() / 10.0);
    let export = retention["EXPORT_STEP"];
    vec![
        format!("where callers are not known) that has {} gets no more. As many others", streams_open["FAIR"]),
        format!("where callers are not known) that has {} gets no more |", held_claims["FAIR_HELD_CLAIMS"]),
        format!("the newest {} addresses", thousands(connection_limiter["KNOWN_ADDRESSES"])),
        // Addresses of one network.
        "of IPv6 the first 64 bits count".into(),
        format!("at most {}", constants("src/config/limits.rs")["NETWORK_THREADS"]),
        format!("each looks through {} rows at most", thousands(reader["ROWS_PER_SNAPSHOT"])),
        format!("when those that wait hold {}", mib(changes)),
        format!("if it is older than {} ms", call_limiter["TICK"]),
        format!("connections that have more than {} calls open", call_limiter["FAIR_CALLS"]),
        format!("The first {} of a request are never refused", kib(call_limiter["SMALL_BYTES"])),
        format!("{} times its length up to", thousands(request["UNPACKED_PER_BYTE"])),
        format!(
            "{} of headers a call, frames of {}, windows of {} a stream and {} a connection (or {} for each of",
            kib(server["HEADER_BYTES"]),
            kib(server["FRAME_BYTES"]),
            kib(server["STREAM_WINDOW"]),
            mib(server["CONNECTION_WINDOW"]),
            kib(server["WINDOW_PER_CALL"]),
        ),
        format!(
            "{} calls cancelled before they were looked at, {} errors",
            server["RESET_STREAMS"], server["ERROR_RESETS"]
        ),
        // Limits of the HTTP/2 library.
        "it ends a connection after 100 empty data frames".into(),
        format!("x {CONNECTION_KIB} KiB = {}", mib((connections * CONNECTION_KIB) << 10)),
        format!("x {CALL_KIB} KiB = {}, with the largest headers", mib((calls * CALL_KIB) << 10)),
        format!(
            "= {}, and up to {} for each call: {};",
            mib(limits.max_call_bytes as u64),
            kib(call_limiter["SMALL_BYTES"]),
            mib(calls * call_limiter["SMALL_BYTES"])
        ),
        format!("x {} = {} |", kib(server["STREAM_WINDOW"]), mib(watches * server["STREAM_WINDOW"])),
        format!(
            "{}, and {} for each of `writer_queue`: {}",
            mib(changes),
            kib(memory["SMALL_BYTES"]),
            mib(changes + queue * memory["SMALL_BYTES"])
        ),
        format!("x a page of {} = {};", kib(watch["PAGE_BYTES"]), mib(watches * watch["PAGE_BYTES"])),
        format!("the newest events, for all watches | {}", mib(tail["RECENT_EVENTS_BYTES"])),
        format!(
            "{}, and {} places of {PLACE_BYTES} bytes: {} MiB",
            mib(cache["SAGA_BYTES"]),
            thousands(cache["PLACES"]),
            (cache["PLACES"] * PLACE_BYTES).div_ceil(1 << 20)
        ),
        format!("x {HTTP2_STREAM_KIB} KiB = {}, if", gib((connections * streams * HTTP2_STREAM_KIB) << 10)),
        format!("{}, and as many on their way to the kernel: {};", mib(log["CAPACITY"]), mib(2 * log["CAPACITY"])),
        format!(
            "x {0} = {1}: {2} events of {3} KiB, which is the largest answer before it is cut to {4}",
            mib(events.next_multiple_of(1 << 20)),
            mib(readers * events.next_multiple_of(1 << 20)),
            thousands(bounds["PAGE_MAX"]),
            event.div_ceil(1024),
            mib(bounds["ANSWER_BYTES"])
        ),
        format!("{export} sagas of {}, the largest there are: {}", tenths(saga), mib(export * saga)),
        format!(
            "{} of the writer, {} of each of `readers` and of a backup: {}",
            mib(sqlite["WRITER_CACHE_KIB"] << 10),
            mib(READER_CACHE_KIB << 10),
            mib((sqlite["WRITER_CACHE_KIB"] + (readers + 1) * READER_CACHE_KIB) << 10)
        ),
        format!("It takes {} connections with {} calls at once on each", thousands(connections), thousands(streams)),
        format!("make {} of it", mib((1000 * 256 * HTTP2_STREAM_KIB) << 10)),
        format!(
            "by {} bytes a call up to {}, and {} beside",
            samples["BYTES_PER_CALL"],
            mib(samples["MEMORY_MOST"]),
            mib(samples["MEMORY_NOISE"])
        ),
        format!("log bounded by {}", mib(soak["WAL_BYTES"])),
        // Measured figures.
        "an hour, 361 calls a second (1,300,261)".into(),
        "CI takes 40 s".into(),
    ]
}

#[test]
fn every_figure_of_the_limits_page_follows_from_the_constants() {
    let document = include_str!("../../docs/reference/limits.md");
    // The defaults are compared by a test of the configuration. Figures that were measured once are in the last columns.
    // A comment says how a table is generated.
    let lines = document.lines().filter(|line| !line.starts_with("<!--")).map(|line| {
        let cells: Vec<_> = line.split(" | ").collect();
        match (line.starts_with("| "), cells.len()) {
            (true, 5..) => cells[3..].join(" | "),
            (true, 4) => cells[2..].join(" | "),
            (true, 3) if line.contains("second quarter") => cells[0].to_owned(),
            (true, 3) if document.find(line) > document.find("## That it stays so") => String::new(),
            (true, _) => format!("{} |", cells[..cells.len() - 1].join(" | ")),
            (false, _) => line.to_owned(),
        }
    });
    let mut text = lines.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    for phrase in phrases() {
        assert!(text.contains(&phrase), "docs/reference/limits.md does not say: {phrase}");
        text = text.replacen(&phrase, "", 1);
    }
    // Code is an example, protocol names may contain a number, and 0 is a setting.
    let prose: String = text.split('`').step_by(2).collect();
    let prose = prose.replace("HTTP/2", "").replace("0: one for each processor", "");
    let left: Vec<_> = prose.split_whitespace().filter(|word| word.contains(|c: char| c.is_ascii_digit())).collect();
    assert!(left.is_empty(), "figures of docs/reference/limits.md without a phrase: {left:?} in {prose}");
}
