//! Who is calling, when nobody says: the user on this machine, and a name for a worker process.

use std::env;

/// `USER@HOST`, for the history.
pub fn me() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| env::var(name).ok()).filter(|user| !user.is_empty());
    // A service or a container may have no names at all, but it has an id.
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let name = format!("{user}@{}", host());
    // Actors are at most 200 bytes of printable text, and neither a user nor a host should be more.
    name.chars().filter(|c| !c.is_control()).take(50).collect()
}

/// An owner id that no other worker has: host, process, and a random part for containers that share both.
pub fn worker() -> String {
    let mut host: String = host().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    if !host.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        host.insert_str(0, "host");
    }
    format!("{host}-{}-{:04x}", std::process::id(), rand::random::<u16>())
}

fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_and_user_ids_are_valid() {
        let id = worker();
        assert!(id.starts_with(|c: char| c.is_ascii_alphanumeric()), "{id}");
        assert!(id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{id}");
        assert!(me().contains('@'));
    }
}
