//! Tests that draw screens and read their text.

use std::time::Duration;

use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode, style::Modifier};
use uuid::Uuid;

use super::{Theme, draw};
use crate::{
    cli::top::{
        action_dialog::ActionResult,
        model::{Effect, Message, Model, Settings},
        operator_action::ActionRequest,
        query::{Query, View},
        rates::{CountsInterval, EventCounts, place},
        snapshot::{Detail, ServerClock, Snapshot},
    },
    client::time::{self, Moment},
    domain::characters::{all_unprintable, is_unprintable},
    proto::{
        Compensation, EventType, GetServerInfoResponse, GetStatsResponse, GetVitalsResponse, Lease, ListSagasResponse,
        Log, QueueStats, Saga, SagaEvent, SagaState, StateCount,
    },
};

/// The coordinator's time, years before the local time.
const SERVER_SECONDS: i64 = 1_000_000;

fn stamp(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: SERVER_SECONDS + seconds, nanos: 0 })
}

fn saga(id: &str, ends: i64, stale: bool) -> Saga {
    let lease =
        Lease { owner_id: format!("worker-of-{id}"), fencing_token: 42, expire_time: stamp(ends), ..Lease::default() };
    Saga {
        task_id: id.to_owned(),
        queue: "builds".to_owned(),
        state: SagaState::Running.into(),
        stale,
        lease: Some(lease),
        attempt: 1,
        branch: "größe".to_owned(),
        update_time: stamp(-9),
        ..Saga::default()
    }
}

fn snapshot(model: &Model, at: Moment, sagas: Vec<Saga>) -> Snapshot {
    let queue = |name: &str, paused| QueueStats {
        queue: name.to_owned(),
        paused,
        ready: 3,
        stale: 1,
        states: vec![StateCount { state: SagaState::Running.into(), count: 2 }],
        ..QueueStats::default()
    };
    let queues = vec![queue("builds", false), queue("tests", true)];
    Snapshot {
        number: model.query.number,
        info: GetServerInfoResponse {
            version: "9.9.9".to_owned(),
            start_time: stamp(-3600),
            clock_offset: Some(prost_types::Duration { seconds: -90, nanos: 0 }),
            ..GetServerInfoResponse::default()
        },
        stats: GetStatsResponse { queues, ready: 6, stale: 2, revision: 77, ..GetStatsResponse::default() },
        queues: Vec::new(),
        vitals: Some(GetVitalsResponse {
            log: Some(Log { bytes: 20 << 20, max_bytes: 64 << 20, ..Log::default() }),
            ..GetVitalsResponse::default()
        }),
        page: ListSagasResponse { sagas, next_page_token: String::new() },
        detail: None,
        clock: ServerClock::from_answer(&stamp(0).expect("set"), at, at),
        seen: at,
    }
}

fn model(read_only: bool) -> (Model, Moment) {
    let at = time::now();
    let settings = Settings { server: "http://s:1".to_owned(), actor: "me@here".to_owned(), read_only };
    (Model::new(settings, Query::default(), at), at)
}

fn seen(model: &mut Model, at: Moment, sagas: Vec<Saga>) {
    let snapshot = snapshot(model, at, sagas);
    model.update(at, Message::Fetched(Box::new(snapshot)));
}

fn press(model: &mut Model, keys: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    for c in keys.chars() {
        let key = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        effects.extend(model.update(model.now, Message::Key(key, Uuid::from_u128(5))));
    }
    effects
}

fn rendered(model: &Model, width: u16, height: u16, theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
    terminal.draw(|frame| draw(frame, model, theme)).expect("drawn");
    terminal
}

fn screen(model: &Model, width: u16, height: u16) -> String {
    let terminal = rendered(model, width, height, Theme { unicode: true, colour: true });
    let rows = terminal.backend().buffer().content.chunks(usize::from(width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
}

fn line_of<'a>(screen: &'a str, part: &str) -> &'a str {
    screen.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in\n{screen}"))
}

#[test]
fn unprintable_characters_are_never_drawn() {
    let all: Vec<char> = all_unprintable().collect();
    for some in all.chunks(60) {
        let (mut model, at) = model(false);
        let sagas = some.chunks(3).enumerate().map(|(number, few)| {
            let text = format!("a{}b", few.iter().collect::<String>());
            let reason = text.clone();
            Saga {
                branch: text,
                cancel_requested: true,
                cancel_reason: reason,
                ..saga(&format!("t-{number}"), 30, false)
            }
        });
        seen(&mut model, at, sagas.collect());
        // The notice is not escaped before it is drawn.
        model.notice = some.iter().collect();
        let text = screen(&model, 200, 60);
        assert_eq!(text.chars().find(|c| *c != '\n' && is_unprintable(*c)), None, "{text}");
        assert!(text.contains("a\\"), "the characters are shown escaped: {text}");
    }
}

#[test]
fn omitted_queues_are_counted() {
    let (mut model, at) = model(false);
    let mut snapshot = snapshot(&model, at, Vec::new());
    snapshot.stats.omitted_queues = 34_626;
    model.update(at, Message::Fetched(Box::new(snapshot)));
    assert!(screen(&model, 160, 40).contains("queues: 2, 34626 not shown"));
}

#[test]
fn a_wide_screen_shows_daemon_queues_and_leases() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("fix-7", 30, false), saga("fix-8", -5, true)]);
    let mut counts = EventCounts::default();
    counts[place(EventType::Created).expect("it is counted")] = 4;
    let interval =
        CountsInterval { end: at, length: Duration::from_secs(2), counts: [("builds".to_owned(), counts)].into() };
    model.update(at, Message::Counted(interval));
    let text = screen(&model, 160, 40);
    for part in [
        "sagad 9.9.9",
        "http://s:1",
        "up 1h 00m",
        "revision 77",
        "clock -90.000s",
        "live, 0ms old",
        "2 stale",
        "log 20.0 MiB of 64.0 MiB",
        "no commits",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(line_of(&text, "builds ").contains("2.0"), "four in two seconds:\n{text}");
    assert!(line_of(&text, "tests PAUSED").contains("  0  "), "no events:\n{text}");
    assert!(line_of(&text, "fix-7").contains("30.0s") && line_of(&text, "fix-7").contains("worker-of-fix-7"), "{text}");
    assert!(
        line_of(&text, "fix-8").contains("running STALE") && line_of(&text, "fix-8").contains("expired 5s ago"),
        "{text}"
    );
}

#[test]
fn leases_count_down_between_answers_by_the_coordinators_clock() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("fix-7", 30, false)]);
    model.update(at + Duration::from_secs(12), Message::Tick);
    let text = screen(&model, 160, 40);
    assert!(line_of(&text, "fix-7").contains("18.0s"), "{text}");
    assert!(text.contains("live, 12.0s old"), "{text}");
    model.update(at + Duration::from_secs(40), Message::FetchFailed("connection refused".to_owned()));
    let text = screen(&model, 160, 40);
    assert!(text.contains("NO ANSWER, 40.0s OLD: connection refused"), "{text}");
    assert!(line_of(&text, "fix-7").contains("due 10.0s"), "only the coordinator decides that it is stale:\n{text}");
    let snapshot = snapshot(&model, at + Duration::from_secs(41), Vec::new());
    model.update(at + Duration::from_secs(41), Message::Fetched(Box::new(snapshot)));
    assert!(screen(&model, 160, 40).contains("live, 0ms old"), "it answers again");
}

#[test]
fn a_small_screen_shows_the_most_important_parts() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("fix-7", 30, false)]);
    let text = screen(&model, 60, 24);
    assert!(line_of(&text, "fix-7").contains("30.0s") && text.contains("READY"), "{text}");
    assert!(!line_of(&text, "TASK").contains("WHAT") && text.contains("WHAT"), "left out, and named: {text}");
    let low = screen(&model, 60, 14);
    assert!(low.contains("fix-7") && !low.contains("READY") && low.contains("no room for queues: Tab"), "{low}");
    press(&mut model, "\t");
    let low = screen(&model, 60, 14);
    assert!(low.contains("READY") && !low.contains("fix-7") && low.contains("no room for sagas: Tab"), "{low}");
    press(&mut model, "\t");
    // Usual initial sizes of terminals, and half of one.
    let id = "01a20351-8651-7485-8291-f48890a93860";
    seen(&mut model, at, vec![saga(id, -545, true), saga("fix-7", 30, false)]);
    let text = screen(&model, 80, 24);
    let row = line_of(&text, id);
    assert!(row.contains("running STALE") && row.contains("expired 9m ago"), "{text}");
    assert!(text.contains("READY") && text.contains("no room for QUEUE, OWNER, TRY, CHANGED, WHAT"), "{text}");
    let text = screen(&model, 60, 20);
    assert!(line_of(&text, id).contains("running STALE"), "{text}");
    assert!(text.contains("no room for QUEUE, OWNER, LEFT, TRY, CHANGED, WHAT"), "{text}");
    assert!(line_of(&screen(&model, 40, 20), "01a20351").contains("running STALE"));
    // Terminals of every size can be drawn.
    for (width, height) in [(1, 1), (3, 2), (20, 5), (500, 200)] {
        press(&mut model, "?");
        screen(&model, width, height);
        press(&mut model, "?\tx");
        screen(&model, width, height);
        press(&mut model, "\u{1b}");
    }
}

#[test]
fn without_unicode_and_colours_the_screen_is_plain_ascii() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("fix-8", -5, true)]);
    let terminal = rendered(&model, 160, 40, Theme { unicode: false, colour: false });
    let buffer = terminal.backend().buffer();
    assert!(buffer.content.iter().all(|cell| cell.symbol().is_ascii()));
    assert!(buffer.content.iter().all(|cell| cell.fg == super::Color::Reset && cell.bg == super::Color::Reset));
    assert!(buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)), "the chosen row stands out");
    let coloured = rendered(&model, 160, 40, Theme { unicode: true, colour: true });
    let buffer = coloured.backend().buffer();
    assert!(
        buffer.content.iter().any(|cell| cell.fg == super::Color::Red)
            && !buffer.content.iter().all(|cell| cell.symbol().is_ascii())
    );
}

#[test]
fn the_selection_follows_its_saga_and_ends_with_it() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("a", 30, false), saga("b", 20, true), saga("c", 10, false)]);
    press(&mut model, "j");
    assert_eq!(model.saga.name.as_deref(), Some("b"));
    seen(&mut model, at, vec![saga("new", 9, false), saga("a", 30, false), saga("b", 20, true)]);
    assert_eq!((model.saga.name.as_deref(), model.saga.row), (Some("b"), 2));
    press(&mut model, "ss");
    assert_eq!(model.saga.name.as_deref(), Some("b"), "in any order");
    seen(&mut model, at, vec![saga("new", 9, false), saga("a", 30, false)]);
    assert_eq!(model.saga.name, None);
    press(&mut model, "x");
    assert_eq!((model.dialog.is_none(), model.notice.as_str()), (true, "select a saga first"));
}

#[test]
fn after_an_action_the_next_row_is_selected() {
    let (mut model, at) = model(false);
    let rows = |ids: &[&str]| ids.iter().map(|id| saga(id, -5, true)).collect::<Vec<_>>();
    seen(&mut model, at, rows(&["a", "b", "c"]));
    press(&mut model, "jrrrebooted\ny");
    assert!(model.dialog.is_some(), "the action is being sent");
    model.update(at, Message::Answered(ActionResult::Done("done: b is planned".to_owned())));
    seen(&mut model, at, rows(&["a", "c"]));
    assert_eq!(model.saga.name.as_deref(), Some("c"), "the saga that is now in its row");
    press(&mut model, "rrrebooted\ny");
    model.update(at, Message::Answered(ActionResult::Done("done: c is planned".to_owned())));
    seen(&mut model, at, rows(&["a"]));
    assert_eq!(model.saga.name.as_deref(), Some("a"), "or the last row");
    // If a saga disappears without an action, nothing is selected.
    seen(&mut model, at, rows(&["z"]));
    assert_eq!(model.saga.name, None);
}

#[test]
fn an_action_shows_its_request_and_sends_it_once() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("fix-8", -5, true)]);
    assert_eq!(press(&mut model, "rrrebooted\n"), []);
    let text = screen(&model, 160, 40);
    for part in [
        "will send Recover:",
        "\"taskId\": \"fix-8\"",
        "\"reason\": \"rebooted\"",
        "\"fencingToken\": \"42\"",
        "y: do it",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let effects = press(&mut model, "yyy");
    assert!(
        matches!(&effects[..], [Effect::Send(action)] if matches!(**action, ActionRequest::Recover(_))),
        "{effects:?}"
    );
    let effects = model.update(at, Message::Answered(ActionResult::Refused("it came back (NOT_STALE)".to_owned())));
    assert!(matches!(&effects[..], [Effect::Fetch(_)]), "it fetches, and sends nothing: {effects:?}");
    assert!(screen(&model, 160, 40).contains("it came back (NOT_STALE)"));
    press(&mut model, "\n");
    assert!(model.dialog.is_none());
}

#[test]
fn read_only_refuses_every_action() {
    let (mut model, at) = model(true);
    seen(&mut model, at, vec![saga("fix-8", -5, true)]);
    for key in ["r", "c", "C", "x", "X", "w", "a", "p", "\tp"] {
        assert_eq!(press(&mut model, key), []);
        assert!(model.dialog.is_none(), "{key}");
        assert!(model.notice.contains("--read-only"), "{key}");
    }
}

#[test]
fn views_filters_and_pages_change_the_query() {
    let (mut model, at) = model(false);
    let query = |effects: Vec<Effect>| match effects.into_iter().next_back() {
        Some(Effect::Fetch(query)) => query,
        other => panic!("{other:?}"),
    };
    assert_eq!(query(press(&mut model, "2")).view, View::Stale);
    assert_eq!(query(press(&mut model, "/wor\n")).text, "wor");
    assert_eq!(query(press(&mut model, "fa, b\n")).queues, ["a", "b"]);
    let cleared = query(press(&mut model, "\u{1b}"));
    assert!(cleared.text.is_empty() && cleared.queues.is_empty());
    assert_eq!(press(&mut model, ">"), [], "there is no further page");
    let mut snapshot = snapshot(&model, at, vec![saga("a", 1, false)]);
    snapshot.page.next_page_token = "second".to_owned();
    // An answer to an earlier query is not shown.
    model.update(at, Message::Fetched(Box::new(Snapshot { number: 0, ..snapshot.clone() })));
    assert!(model.snapshot.is_none());
    model.update(at, Message::Fetched(Box::new(snapshot)));
    assert_eq!(query(press(&mut model, ">")).page_token, "second");
    // The page has become empty: top goes back to the previous one.
    let empty = Snapshot { page: ListSagasResponse::default(), ..super::tests::snapshot(&model, at, Vec::new()) };
    assert_eq!(query(model.update(at, Message::Fetched(Box::new(empty)))).page_token, "");
    assert!(model.pages.is_empty());
}

#[test]
fn the_detail_view_shows_a_saga_with_its_history() {
    let (mut model, at) = model(false);
    let mut looked_at = saga("fix-7", 30, false);
    seen(&mut model, at, vec![looked_at.clone()]);
    assert!(matches!(&press(&mut model, "\n")[..], [Effect::Fetch(query)] if query.detail.as_deref() == Some("fix-7")));
    assert!(screen(&model, 100, 40).contains("asking..."));
    looked_at.compensations = vec![Compensation {
        position: 1,
        kind: "branch".to_owned(),
        target: "fix\u{1b}[2J".to_owned(),
        state: 1,
        ..Compensation::default()
    }];
    looked_at.progress = b"half\nsecond line".to_vec().into();
    let events = vec![SagaEvent { revision: 70, actor: "somebody".to_owned(), r#type: 3, ..SagaEvent::default() }];
    let mut snapshot = snapshot(&model, at, Vec::new());
    snapshot.detail = Some(Detail { saga: Some(looked_at), events, cut: true });
    model.update(at, Message::Fetched(Box::new(snapshot)));
    let text = screen(&model, 100, 40);
    for part in ["pending branch fix\\u{1b}[2J", "by somebody", "progress     half", "30.0s", "sagad history fix-7"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains("second line"), "{text}");
    press(&mut model, "anoted\n");
    assert!(screen(&model, 100, 40).contains("will send Annotate:"), "actions apply to the shown saga");
}

#[test]
fn control_c_ends_top_in_every_view() {
    let (mut model, at) = model(false);
    seen(&mut model, at, vec![saga("fix-8", -5, true)]);
    for keys in ["", "?", "/abc", "r", "\u{1b}rr"] {
        press(&mut model, keys);
        assert_eq!(model.update(at, Message::Terminate), [Effect::Leave], "{keys}");
    }
    assert_eq!(press(&mut model, "\u{1b}\u{1b}q"), [Effect::Leave]);
}

#[test]
fn extreme_numbers_from_a_daemon_are_drawn() {
    for end in [i64::MIN, i64::MIN / 1_000_000, -1, 1 << 53, i64::MAX / 1_000_000, i64::MAX] {
        let at_end = Some(prost_types::Timestamp { seconds: end, nanos: i32::MIN });
        for told in [end, SERVER_SECONDS] {
            let (mut model, at) = model(false);
            let mut odd = [saga("odd", 0, true), saga("live", 0, false)];
            for saga in &mut odd {
                (saga.update_time, saga.create_time, saga.end_time) = (at_end, at_end, at_end);
                (saga.attempt, saga.failures, saga.revision, saga.priority) = (i32::MAX, i32::MIN, end, i32::MIN);
                saga.lease.as_mut().expect("it has one").expire_time = at_end;
            }
            let mut snapshot = snapshot(&model, at, odd.to_vec());
            snapshot.clock = ServerClock::from_answer(&prost_types::Timestamp { seconds: told, nanos: 0 }, at, at);
            snapshot.info.start_time = at_end;
            snapshot.info.clock_offset = Some(prost_types::Duration { seconds: end, nanos: i32::MIN });
            (snapshot.stats.ready, snapshot.stats.stale, snapshot.stats.revision) = (end, end, end);
            for queue in &mut snapshot.stats.queues {
                (queue.ready, queue.stale) = (end, end);
                queue.states[0].count = end;
                queue.oldest_ready_age = Some(prost_types::Duration { seconds: end, nanos: i32::MAX });
            }
            snapshot.vitals.as_mut().expect("set").log = Some(Log { bytes: end, max_bytes: end, ..Log::default() });
            model.update(at, Message::Fetched(Box::new(snapshot)));
            let screen = rendered(&model, 160, 40, Theme { unicode: true, colour: false });
            assert!(format!("{}", screen.backend()).contains("odd"));
        }
    }
}
