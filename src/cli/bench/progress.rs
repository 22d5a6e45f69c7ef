//! Progress bars on stderr: only on a terminal, and cleared at the end.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a time bar moves.
const STEP: Duration = Duration::from_millis(100);

/// Shows progress bars, or not.
pub struct Progress {
    shown: bool,
}

/// A bar that is cleared when dropped.
pub struct Bar(ProgressBar);

impl Progress {
    /// Shown if stderr is a terminal.
    pub fn new() -> Self {
        Progress { shown: io::stderr().is_terminal() }
    }

    /// A bar that counts to `total` of something.
    pub fn counting(&self, total: u64, what: &str) -> Bar {
        self.bar(total, &format!("{what} {{wide_bar}} {{human_pos}}/{{human_len}} {{per_sec}} {{eta}}"))
    }

    /// Sleeps for `length`, with a bar.
    pub async fn sleep(&self, length: Duration, what: &str) {
        let steps = u64::try_from(length.as_millis() / STEP.as_millis()).unwrap_or(0);
        let bar = self.bar(steps, &format!("{what} {{wide_bar}} {{eta}}"));
        let mut timer = tokio::time::interval(STEP);
        let all = tokio::time::sleep(length);
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = &mut all => return,
                _ = timer.tick() => bar.inc(1),
            }
        }
    }

    fn bar(&self, length: u64, template: &str) -> Bar {
        if !self.shown {
            return Bar(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Bar(ProgressBar::new(length).with_style(style))
    }
}

impl Bar {
    /// So many more are done.
    pub fn inc(&self, count: u64) {
        self.0.inc(count);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
