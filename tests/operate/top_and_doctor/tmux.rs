//! [`Tmux`]: a real terminal, its screen and its keys.

use std::{
    fs,
    process::{Command, Output},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{SAGAD, WAIT_MAX, now};

/// A terminal in which a shell runs `sagad`, prints its exit code, and stays.
pub struct Tmux {
    /// The directory of the server's socket.
    own: TempDir,
}

impl Tmux {
    /// Starts a terminal of this size that runs `sagad` with these arguments and variables.
    pub fn start(width: u16, height: u16, variables: &[(&str, &str)], arguments: &str) -> Self {
        let tmux = Tmux { own: tempfile::tempdir().unwrap() };
        let set: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        // `stty` prints the terminal's settings before and after.
        let shell = format!(
            "env -u NO_COLOR -u LC_ALL -u LC_CTYPE -u SAGAD_SERVER {set}{SAGAD} {arguments}; echo left with $?; \
             stty -a | tr ';' '\\n' | grep -o -- '-*icanon\\|-*echo ' | xargs echo tty:; exec sleep 1000"
        );
        let (width, height) = (width.to_string(), height.to_string());
        let size = ["new-session", "-d", "-x", &width, "-y", &height];
        let begun = tmux.run(&[&["-f", "/dev/null", "-u"], &size[..], &[&shell]].concat());
        assert!(begun.status.success(), "{begun:?}");
        tmux
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("SHELL", "/bin/sh").arg("-S").arg(self.own.path().join("socket"));
        command.args(arguments).output().expect("tmux can be run")
    }

    fn told(&self, arguments: &[&str]) -> String {
        String::from_utf8_lossy(&self.run(arguments).stdout).into_owned()
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.told(&["capture-pane", "-p"])
    }

    /// True if any text has a colour.
    pub fn is_coloured(&self) -> bool {
        let screen = self.told(&["capture-pane", "-p", "-e"]);
        let codes = screen.split("\u{1b}[").skip(1).filter_map(|code| code.split('m').next());
        codes.flat_map(|code| code.split(';')).any(|code| {
            let code: u8 = code.parse().unwrap_or(0);
            (30..=38).contains(&code) || (90..=97).contains(&code)
        })
    }

    /// Presses keys by their names.
    pub fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types text.
    pub fn type_text(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    /// Resizes the terminal.
    pub fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Waits until the screen is as wanted; returns it.
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = now();
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < WAIT_MAX, "waited in vain for {what}:\n{screen}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until all of these are on the screen.
    pub fn until_shown(&self, parts: &[&str]) -> String {
        self.until(&format!("{parts:?}"), |screen| parts.iter().all(|part| screen.contains(part)))
    }

    /// Waits until a line has all parts of `with` and none of `without`.
    pub fn until_line(&self, with: &[&str], without: &[&str]) -> String {
        self.until(&format!("a line with {with:?} and without {without:?}"), |screen| {
            let fits = |line: &str| {
                with.iter().all(|part| line.contains(part)) && !without.iter().any(|part| line.contains(part))
            };
            screen.lines().any(fits)
        })
    }

    /// Sends `sagad` a signal.
    pub fn signal(&self, signal: Signal) {
        let shell = self.told(&["display-message", "-p", "#{pane_pid}"]).trim().to_owned();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        let sagad = children.split_whitespace().next().expect("the shell runs it").parse().unwrap();
        kill_process(Pid::from_raw(sagad).unwrap(), signal).unwrap();
    }

    /// Waits until `sagad` has ended with this code; the terminal must be restored.
    pub fn until_left(&self, code: i32) -> String {
        let screen = self.until_shown(&[&format!("left with {code}"), "tty:"]);
        assert!(screen.contains("tty: icanon echo"), "{screen}");
        // Whether the alternate screen is shown, and whether the cursor is.
        let modes = self.told(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(modes.trim(), "0 1");
        screen
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the screen ---\n{}", self.screen());
        }
        self.run(&["kill-server"]);
    }
}
