//! The kernel's settings by the names that sysctl(8) has for them. Which ones to set is its callers' business.
//!
//! Those below `net` are the ones of the network namespace of the thread that asks.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {name}: {}", words(.source))]
pub struct SysctlError {
    operation: &'static str,
    name: String,
    pub source: io::Error,
}

/// The name of an interface's setting: `net.ipv4.conf.eth0.rp_filter`, say. A dot in the interface's name becomes a
/// slash, as sysctl(8) wants it.
pub fn of_interface(family: &str, interface: &str, setting: &str) -> String {
    let interface = interface.replace('.', "/");
    format!("net.{family}.conf.{interface}.{setting}")
}

/// The value without blanks at its ends.
pub fn read(name: &str) -> Result<String, SysctlError> {
    match std::fs::read_to_string(path(name)) {
        Ok(value) => Ok(value.trim().to_owned()),
        Err(source) => Err(SysctlError {
            operation: "read",
            name: name.to_owned(),
            source,
        }),
    }
}

pub fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    // Not created where it is missing: the kernel would say that this is not permitted.
    let open = std::fs::OpenOptions::new().write(true).open(path(name));
    let written = open.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| SysctlError {
        operation: "write",
        name: name.to_owned(),
        source,
    })
}

fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    Path::new("/proc/sys").join(swapped.collect::<String>())
}

/// In an operator's words.
fn words(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        "this kernel has no such setting".to_owned()
    } else if kind == io::ErrorKind::PermissionDenied {
        "not permitted: root or CAP_NET_ADMIN is needed".to_owned()
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        "/proc/sys is mounted read-only".to_owned()
    } else if kind == io::ErrorKind::InvalidInput {
        "the kernel does not take this value".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_sysctl() {
        let name = of_interface("ipv4", "eth0.100", "rp_filter");
        assert_eq!(name, "net.ipv4.conf.eth0/100.rp_filter");
        assert_eq!(
            path(&name),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
    }

    #[test]
    fn reads_and_says_what_is_missing() {
        assert_eq!(read("kernel.ostype").unwrap(), "Linux");
        let missing = read("net.ipv4.nothing_like_it").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot read net.ipv4.nothing_like_it: this kernel has no such setting"
        );
        let missing = write("net.ipv4.nothing_like_it", "1").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot write net.ipv4.nothing_like_it: this kernel has no such setting"
        );
    }
}
