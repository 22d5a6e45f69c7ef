//! [`Shrinker`]: gives free pages at the end of the file back to the file system, a few at a time.
//!
//! Only stores created for it can do this; `sagad vacuum` converts an older one. Free pages are reused by the next
//! writes, so it starts only if they are a good part of the file, and leaves some.

use rusqlite::Connection;

use super::{checkpoint::PAGE_BYTES, error::SqliteError, sql};

/// It starts when one page in this many is free …
const BEGIN_AT: i64 = 4;
/// … and there are at least this many of them (4 MiB) …
const BEGIN_PAGES: i64 = 1024;
/// … and stops when only one page in this many is free.
const END_AT: i64 = 10;

/// Gives free pages back.
#[derive(Debug, Default)]
pub struct Shrinker {
    /// Whether this store can give pages back, if known.
    can: Option<bool>,
    is_under_way: bool,
}

/// How many pages of a file are free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUsage {
    /// Free pages.
    pub free: i64,
    /// All pages.
    pub all: i64,
}

impl PageUsage {
    /// Reads the numbers from the file's first page.
    pub fn of(connection: &Connection) -> Result<Self, SqliteError> {
        let number = |sql| connection.prepare_cached(sql).and_then(|mut s| s.query_row([], |row| row.get(0)));
        Ok(PageUsage { free: number(sql::FREE_PAGES)?, all: number(sql::PAGES)? })
    }

    /// Converts from bytes.
    pub fn of_bytes(free: u64, all: u64) -> Self {
        let pages = |bytes: u64| i64::try_from(bytes / PAGE_BYTES).unwrap_or(i64::MAX);
        PageUsage { free: pages(free), all: pages(all) }
    }

    /// True if so many pages are free that it is worth giving them back.
    pub fn is_much(&self) -> bool {
        self.free >= BEGIN_PAGES && self.free >= self.all / BEGIN_AT
    }

    fn is_little(&self) -> bool {
        self.free < BEGIN_PAGES / 4 || self.free < self.all / END_AT
    }
}

impl Shrinker {
    /// Gives back a few pages if many are free; returns true if there are more to give back. Does nothing on a full
    /// disk, which the next writer finds out.
    pub fn step(&mut self, connection: &Connection) -> Result<bool, SqliteError> {
        let can = match self.can {
            Some(can) => can,
            None => connection.query_row(sql::AUTO_VACUUM, [], |row| row.get::<_, i64>(0))? == 2,
        };
        self.can = Some(can);
        if !can {
            return Ok(false);
        }
        let room = PageUsage::of(connection)?;
        if !self.is_under_way && room.is_much() {
            tracing::info!(free_pages = room.free, pages = room.all, "giving free pages back to the file system");
            self.is_under_way = true;
        }
        if !self.is_under_way {
            return Ok(false);
        }
        match give_back(connection) {
            Ok(()) => {}
            Err(SqliteError::Full) => {
                self.is_under_way = false;
                return Ok(false);
            }
            Err(other) => return Err(other),
        }
        let room = PageUsage::of(connection)?;
        self.is_under_way = !room.is_little();
        if !self.is_under_way {
            tracing::info!(free_pages = room.free, pages = room.all, "free pages were given back");
        }
        Ok(self.is_under_way)
    }
}

/// Gives back the pages of one step. The pragma gives back one page per row that is read.
fn give_back(connection: &Connection) -> Result<(), SqliteError> {
    let mut statement = connection.prepare_cached(sql::GIVE_BACK)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
