//! Checks that a database has exactly the schema that sagad creates. A trigger, a view or a changed table in a file
//! from elsewhere would run within the daemon.

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, types::ValueRef};

use super::{
    connection,
    migrate::MIGRATIONS,
    open_error::{FoundDatabase, OpenError, open_error},
    sql,
};

/// Tables that other programs add to a store and that contain no code: `ANALYZE` and Litestream create them.
const TOLERATED: [(&str, &str); 4] = [
    ("sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    ("sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"),
    ("_litestream_seq", "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)"),
    ("_litestream_lock", "CREATE TABLE _litestream_lock (id INTEGER)"),
];

/// Stands for unreadable text; it equals nothing that sagad creates.
const UNREADABLE: &str = "\0";

/// The objects of a schema, by kind and name: the table and the definition.
type Objects = BTreeMap<(String, String), (String, String)>;

/// Refuses a schema that differs, on the connection that will be used: a journal beside the file is played back only
/// by a connection that may write, so an earlier inspection of the file may see another schema.
pub fn verify(connection: &Connection, path: &Path, found: FoundDatabase) -> Result<(), OpenError> {
    let FoundDatabase::Ours(version) = found else { return Ok(()) };
    let known = usize::try_from(version).unwrap_or(0);
    match difference(connection, known).map_err(|error| open_error(path, &error))? {
        None => Ok(()),
        Some(what) => Err(OpenError::Damaged { path: path.to_owned(), what }),
    }
}

/// What differs from the schema of this version, as a sentence; none if nothing does.
pub fn difference(found: &Connection, version: usize) -> Result<Option<String>, rusqlite::Error> {
    let expected = expected(version)?;
    let found = objects(found)?;
    for ((kind, name), (_, definition)) in &found {
        match expected.get(&(kind.clone(), name.clone())) {
            Some(ours) if *ours == found[&(kind.clone(), name.clone())] => {}
            Some(_) => return Ok(Some(format!("its {kind} {name:?} is not as sagad makes it"))),
            None if kind == "table" && TOLERATED.contains(&(name.as_str(), definition.as_str())) => {}
            None => return Ok(Some(format!("it holds the {kind} {name:?}, which sagad does not make"))),
        }
    }
    let missing = expected.keys().find(|object| !found.contains_key(*object));
    Ok(missing.map(|(kind, name)| format!("its {kind} {name:?} is missing")))
}

/// The schema of a version, made by its migrations.
fn expected(version: usize) -> Result<Objects, rusqlite::Error> {
    let connection = connection::in_memory()?;
    for migration in MIGRATIONS.iter().take(version) {
        connection.execute_batch(migration)?;
    }
    objects(&connection)
}

fn objects(connection: &Connection) -> Result<Objects, rusqlite::Error> {
    let mut statement = connection.prepare(sql::SCHEMA)?;
    let mut rows = statement.query([])?;
    let mut objects = Objects::new();
    while let Some(row) = rows.next()? {
        let text = |column: usize| row.get_ref(column).map(readable);
        let (kind, name, table) = (text(0)?, text(1)?, text(2)?);
        // The index of a UNIQUE or PRIMARY KEY follows from its table's definition and has no definition of its own.
        if kind == "index" && row.get_ref(3)? == ValueRef::Null && name.starts_with("sqlite_autoindex_") {
            continue;
        }
        let definition = normalised(&text(3)?);
        let object = objects.entry((kind, name));
        // Two objects with one name are never ours.
        object.and_modify(|(_, twice)| UNREADABLE.clone_into(twice)).or_insert((table, definition));
    }
    Ok(objects)
}

/// A text of the schema. SQLite also runs blobs and invalid UTF-8, up to the first NUL; ours are never that.
fn readable(value: ValueRef<'_>) -> String {
    let text = value.as_str().ok().filter(|text| !text.contains('\0'));
    text.unwrap_or(UNREADABLE).to_owned()
}

/// A definition without comments and with single spaces, so that a comment can be corrected in a migration that has
/// already run on stores.
fn normalised(definition: &str) -> String {
    let mut text = String::with_capacity(definition.len());
    let mut rest = definition.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '-' if rest.peek() == Some(&'-') => {
                rest.by_ref().take_while(|c| *c != '\n').for_each(drop);
                space(&mut text);
            }
            c if c.is_ascii_whitespace() => space(&mut text),
            '\'' | '"' | '`' => {
                text.push(c);
                // A doubled quote ends one quoted part and starts the next.
                for inner in rest.by_ref() {
                    text.push(inner);
                    if inner == c {
                        break;
                    }
                }
            }
            c => text.push(c),
        }
    }
    text.trim_end().to_owned()
}

fn space(text: &mut String) {
    if !text.ends_with(' ') {
        text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{migrate::migrate, open_error::FoundDatabase},
        *,
    };

    fn store(version: usize) -> Connection {
        let mut connection = connection::in_memory().unwrap();
        migrate(&mut connection, FoundDatabase::Nothing, &MIGRATIONS[..version]).unwrap();
        connection
    }

    #[test]
    fn each_version_is_recognized_and_differences_are_named() {
        for version in 1..=MIGRATIONS.len() {
            assert_eq!(difference(&store(version), version), Ok(None));
        }
        let newest = MIGRATIONS.len();
        assert!(difference(&store(1), newest).unwrap().is_some(), "an older schema with the newest version number");
        for (planted, expected) in [
            ("CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM saga; END", "holds the trigger \"t\""),
            ("CREATE VIEW v AS SELECT 1", "holds the view \"v\""),
            ("CREATE TABLE \"a\u{202e}b\" (x)", "holds the table \"a\\u{202e}b\""),
            ("CREATE INDEX i ON event (time)", "holds the index \"i\""),
            ("CREATE VIRTUAL TABLE f USING fts5(x)", "holds the table \"f"),
            ("DROP INDEX event_mark", "its index \"event_mark\" is missing"),
            ("ALTER TABLE meta ADD COLUMN x INTEGER", "its table \"meta\" is not as"),
            ("DROP TABLE gap; CREATE VIEW gap AS SELECT 1", "holds the view \"gap\""),
            ("DROP INDEX event_mark; CREATE INDEX event_mark ON event (time)", "its index \"event_mark\" is not"),
            ("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER CHECK (seq > 1))", "_litestream_seq"),
        ] {
            let connection = store(newest);
            connection.execute_batch(planted).unwrap();
            let told = difference(&connection, newest).unwrap().unwrap_or_default();
            assert!(told.contains(expected), "{planted}: {told}");
        }
        let hidden = "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('trigger', 'sqlite_autoindex_x', \
                      'event', 0, 'CREATE TRIGGER sqlite_autoindex_x AFTER INSERT ON event BEGIN SELECT 1; END')";
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, FoundDatabase::Nothing, MIGRATIONS).unwrap();
        connection.execute_batch(hidden).unwrap();
        assert!(difference(&connection, newest).unwrap().unwrap().contains("holds the trigger \"sqlite_autoindex_x\""));
    }

    #[test]
    fn tables_of_analyze_and_litestream_are_tolerated() {
        let connection = store(MIGRATIONS.len());
        connection.execute_batch("ANALYZE; CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER)").unwrap();
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);")
            .unwrap();
        assert_eq!(difference(&connection, MIGRATIONS.len()), Ok(None));
    }

    #[test]
    fn comments_and_white_space_are_ignored() {
        assert_eq!(
            normalised("CREATE TABLE a ( -- what\n  b TEXT  DEFAULT '--  x'\n)"),
            "CREATE TABLE a ( b TEXT DEFAULT '--  x' )"
        );
        assert_eq!(normalised("a 'it''s  -- so' \t b"), "a 'it''s  -- so' b");
    }
}
