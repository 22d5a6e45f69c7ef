//! Tests of different areas (the top modules of a test binary) do not run at the same time: `badclients` measures memory and
//! CPU, `clocks` stops daemons, and `soak` measures growth.

use std::{
    cell::RefCell,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// The area whose tests are running, and how many of them.
static RUNNING: Mutex<(String, usize)> = Mutex::new((String::new(), 0));
static FREE: Condvar = Condvar::new();

thread_local! {
    /// Held by a test's own thread until it ends.
    static ENTERED: RefCell<Option<AreaGuard>> = const { RefCell::new(None) };
}

struct AreaGuard;

impl Drop for AreaGuard {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
        FREE.notify_all();
    }
}

/// Waits until no test of another area runs, unless the test has waited before. The area is the first part of the test's name,
/// which its thread has; a test calls this by starting a daemon. Other threads, such as a runtime's, belong to a test that
/// has waited already.
pub fn enter() {
    let current = thread::current();
    let Some((area, _)) = current.name().and_then(|name| name.split_once("::")) else { return };
    ENTERED.with_borrow_mut(|entered| {
        entered.get_or_insert_with(|| {
            let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            let mut running = FREE
                .wait_while(running, |(other, count)| *count > 0 && other != area)
                .unwrap_or_else(PoisonError::into_inner);
            *running = (area.to_owned(), running.1 + 1);
            AreaGuard
        });
    });
}
