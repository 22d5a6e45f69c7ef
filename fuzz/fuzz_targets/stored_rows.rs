//! Stored rows: columns of any content become an error that names row and column, or a saga that can be shown; and any
//! saga that is written is read as it was.
#![no_main]

use std::cell::RefCell;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use rusqlite::{Connection, Row, params_from_iter, types::Value};
use sagad::{
    coordinator::{AppendedEvent, Backend, ChangeSet, LoadKey, LoadResult, RowId},
    domain::{ids::FencingToken, saga::Saga, time::Timestamp},
    grpc::render,
    store::sqlite::{
        SqliteWriter,
        fuzzing::{DamagedValue, compensation, event, saga, write_and_undo},
    },
};
use sagad_fuzz::sagas::{self, Stored};

thread_local! {
    static STORED: RefCell<Stored> = RefCell::new(Stored::empty());
    static PLAIN: Connection = Connection::open_in_memory().expect("a database in memory");
}

#[derive(Arbitrary, Debug)]
enum Column<'a> {
    Null,
    Small(u8),
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl Column<'_> {
    fn value(self) -> Value {
        match self {
            Column::Null => Value::Null,
            Column::Small(number) => Value::Integer(number.into()),
            Column::Integer(number) => Value::Integer(number),
            Column::Real(number) => Value::Real(number),
            Column::Text(text) => Value::Text(text.to_owned()),
            Column::Blob(bytes) => Value::Blob(bytes.to_owned()),
        }
    }
}

/// Columns in order, which are what a sound row has where the bytes run out: `t` stands for a text, `n` for a number
/// that is 1, `o` for nothing, `b` for bytes, `j` for a map.
fn columns(u: &mut Unstructured<'_>, sound: &str) -> Result<Vec<Value>> {
    // Most columns of a row are sound, or no decoder would get beyond the first.
    let broken: u64 = u.arbitrary()?;
    let mut all = Vec::new();
    for (place, kind) in sound.chars().enumerate() {
        let one = if broken >> (place % 64) & 1 == 1 {
            u.arbitrary::<Column<'_>>()?.value()
        } else {
            match kind {
                't' => Value::Text("t".to_owned()),
                'n' => Value::Integer(1),
                'b' => Value::Blob(Vec::new()),
                'j' => Value::Text("{}".to_owned()),
                _ => Value::Null,
            }
        };
        all.push(one);
    }
    Ok(all)
}

/// Reads a row that has these columns.
fn read<T>(
    columns: Vec<Value>,
    read: impl FnOnce(&Row<'_>) -> std::result::Result<T, DamagedValue>,
) -> std::result::Result<T, DamagedValue> {
    PLAIN.with(|connection| {
        let places: Vec<String> = (1..=columns.len()).map(|place| format!("?{place} AS c{place}")).collect();
        let sql = format!("SELECT {}", places.join(", "));
        let mut statement = connection.prepare_cached(&sql).expect("a plain statement");
        let mut rows = statement.query(params_from_iter(columns)).expect("a plain query");
        read(rows.next().expect("a row").expect("one row"))
    })
}

fn judge<T>(read: std::result::Result<T, DamagedValue>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(DamagedValue(what)) => {
            assert!(what.starts_with("row ") && what.contains(", column c"), "{what}");
            None
        }
    }
}

fn damaged(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=2)? {
        0 => {
            let row = columns(u, "ntttnottjonnnnnnnoonnbonnnnnnnoooonnnnnnnnnootooooobb")?;
            if let Some((_, found, _)) = judge(read(row, |row| saga(row))) {
                let read_time = STORED.with_borrow(Stored::read_time);
                render::saga::saga(&found, &read_time);
                sagas::derived(&found, read_time.now);
            }
        }
        1 => drop(judge(read(columns(u, "ntttnntoooo")?, |row| compensation(row)))),
        _ => {
            if let Some(found) = judge(read(columns(u, "ntttnnotonnjntnnoo")?, |row| event(row))) {
                render::event::event(&found);
            }
        }
    }
    Ok(())
}

fn written(u: &mut Unstructured<'_>) -> Result<()> {
    let (before, _) = sagas::created(u)?;
    let after = sagas::changed(u, &before)?;
    let happened = sagas::event(u, &before)?;
    let now: i64 = u.arbitrary()?;
    let (id, now) = (RowId(1 << 20), Timestamp::from_micros(now));
    let created = ChangeSet { sagas: vec![sagas::change(id, None, &before, now)], ..ChangeSet::default() };
    let sagas = vec![sagas::change(id, Some(&before), &after, now)];
    let events = vec![AppendedEvent { saga: id, prev: None, event: happened.clone() }];
    let changed = ChangeSet { sagas, events, ..ChangeSet::default() };
    let stored_under = |rows: &mut SqliteWriter, key: LoadKey, saga: &Saga| {
        let loaded = rows.load(&[key]).expect("the store takes what the rules may make");
        assert_eq!(loaded, [LoadResult::Saga(id, saga.clone().into())]);
    };
    STORED.with_borrow_mut(|stored| {
        write_and_undo(stored.rows(), &[created, changed], |turn, rows| match turn {
            0 => stored_under(rows, LoadKey::Row(id), &before),
            _ => {
                stored_under(rows, LoadKey::Task(after.spec.task_id.clone()), &after);
                stored_under(rows, LoadKey::Saga(after.spec.saga_id.clone()), &after);
                // By its revision, whatever it is: as if it were the claim of a lease.
                let found = rows.lease_events(id, FencingToken(happened.revision.0), 1);
                assert_eq!(found.as_deref(), Ok(&[happened.clone()][..]));
            }
        });
    });
    Ok(())
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let mut u = Unstructured::new(bytes);
    let done = match u.arbitrary() {
        Ok(true) => damaged(&mut u),
        Ok(false) => written(&mut u),
        Err(error) => Err(error),
    };
    if done.is_ok() { Corpus::Keep } else { Corpus::Reject }
});
