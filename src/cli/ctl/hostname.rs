//! This host's name as Python's `socket.getfqdn` gives it, since that is what conftool's objects are
//! called by: the name's address is looked up, and the first of that address's names that has a dot wins.

use std::net::ToSocketAddrs;
use std::process::Command;

/// Blocks for as long as the system's resolver does.
pub(super) fn fully_qualified() -> std::io::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let name = name.trim();
    Ok(names(name).map_or_else(|| name.to_owned(), |names| chosen(&names).to_owned()))
}

/// All names of the host's address, the canonical one first.
fn names(host: &str) -> Option<Vec<String>> {
    let address = (host, 0).to_socket_addrs().ok()?.next()?.ip();
    // The C library gives aliases by gethostbyaddr alone, which this asks for us.
    let mut getent = Command::new("getent");
    let output = getent.args(["hosts", &address.to_string()]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let names: Vec<String> = text
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map(str::to_owned)
        .collect();
    (output.status.success() && !names.is_empty()).then_some(names)
}

fn chosen(names: &[String]) -> &str {
    let dotted = names.iter().find(|name| name.contains('.'));
    dotted.unwrap_or(&names[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_with_a_dot_wins() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            chosen(&names(&["srv1", "srv1.example", "b.example"])),
            "srv1.example"
        );
        assert_eq!(chosen(&names(&["localhost", "srv1"])), "localhost");
    }
}
