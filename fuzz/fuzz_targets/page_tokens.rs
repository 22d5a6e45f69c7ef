//! Page tokens: garbage is refused by name, a token that is accepted is the one that would be written, and no place that
//! it leads to makes the store panic.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sagad::{
    domain::ids::{Revision, TaskId},
    grpc::{page_token, parse::queries},
    proto::{ListEventsRequest, ListSagasRequest},
    store::{EventQuery, ListQuery},
};
use sagad_fuzz::sagas::Stored;

thread_local! {
    static STORED: Stored = Stored::with_a_few();
}

#[derive(Arbitrary, Debug)]
enum Token<'a> {
    /// Any text.
    Text(&'a str),
    /// One that the server would give for a place, with a letter changed.
    Changed { place: i64, at: u8, to: char },
    /// One for a place, as it is.
    Whole { place: i64 },
}

#[derive(Arbitrary, Debug)]
struct Page<'a> {
    token: Token<'a>,
    newest_first: bool,
    in_flight_only: bool,
    page_size: u8,
}

fn text(token: &Token<'_>, digest: page_token::FilterDigest) -> (String, Option<i64>) {
    match token {
        Token::Text(text) => ((*text).to_owned(), None),
        Token::Whole { place } => (page_token::write(digest, *place), Some(*place)),
        Token::Changed { place, at, to } => {
            let mut letters: Vec<char> = page_token::write(digest, *place).chars().collect();
            let at = usize::from(*at) % letters.len();
            letters[at] = *to;
            (letters.into_iter().collect(), None)
        }
    }
}

fn judge(token: &str, place: Option<i64>, refused: bool) {
    assert!(!refused || place.is_none(), "a token of its own is accepted");
    if refused {
        assert!(!token.is_empty());
    }
}

fuzz_target!(|page: Page<'_>| {
    let request = ListSagasRequest {
        newest_first: page.newest_first,
        in_flight_only: page.in_flight_only,
        ..ListSagasRequest::default()
    };
    let digest = page_token::FilterDigest::of("ListSagas", &request);
    let (token, place) = text(&page.token, digest);
    let page_size = i32::from(page.page_size);
    match queries::list_sagas(ListSagasRequest { page_token: token.clone(), page_size, ..request }) {
        Ok(listing) => {
            let read = listing.after.map(|cursor| cursor.0);
            assert_eq!(
                read.map(|place| page_token::write(digest, place)).unwrap_or_default(),
                token,
                "one place, one token"
            );
            assert!(place.is_none() || read == place);
            let query = ListQuery {
                filter: listing.filter,
                newest_first: listing.newest_first,
                after: listing.after,
                limit: listing.limit,
                read_time: STORED.with(Stored::read_time),
            };
            let found = STORED.with(|stored| stored.reader().list(&query)).expect("a listing from any place");
            assert!(found.sagas.len() <= listing.limit);
        }
        Err(violations) => {
            assert!(violations.into_list().iter().all(|(field, _)| field == "page_token"));
            judge(&token, place, true);
        }
    }

    let request = ListEventsRequest { task_id: "t0".into(), ..ListEventsRequest::default() };
    let digest = page_token::FilterDigest::of("ListEvents", &request);
    let (token, place) = text(&page.token, digest);
    match queries::list_events(ListEventsRequest { page_token: token.clone(), page_size, ..request }) {
        Ok(history) => {
            assert!(place.is_none_or(|place| history.after.0 == place));
            let query = EventQuery {
                task_id: Some(TaskId::parse("t0").expect("an id")),
                after: history.after,
                through: Revision(i64::MAX),
                limit: history.limit + 1,
                whole: true,
                ..EventQuery::default()
            };
            STORED.with(|stored| stored.reader().events(&query)).expect("a history from any place");
        }
        Err(violations) => {
            assert!(violations.into_list().iter().all(|(field, _)| field == "page_token"));
            judge(&token, place, true);
        }
    }
});
