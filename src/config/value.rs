//! What a single value may be: durations, addresses, AS numbers, paths. Knows no key.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::reader::Node;
use super::spelling::quoted;
use crate::check::User;

/// `sun_path` without the zero at its end (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// Which durations a key takes.
pub(super) struct Durations {
    pub(super) least: Duration,
    pub(super) most: Duration,
    /// The kernel or the protocol counts it in seconds.
    pub(super) whole_seconds: bool,
    /// As the operator would write one.
    pub(super) example: &'static str,
}

/// Timeouts and intervals of our own.
pub(super) const TIMEOUT: Durations = Durations {
    least: Duration::from_millis(1),
    most: Duration::from_secs(24 * 60 * 60),
    whole_seconds: false,
    example: "10s",
};

pub(super) fn duration(node: &Node<'_>, allowed: &Durations) -> Option<Duration> {
    if let Some(number) = node.number() {
        let right = format!("\"{number}s\" if seconds are meant");
        node.wrong_type("a duration", &right);
        return None;
    }
    let text = node.string("a duration", allowed.example)?;
    let Ok(duration) = humantime::parse_duration(text) else {
        let right = match text.trim().parse::<u32>() {
            Ok(number) => format!("\"{number}s\" if seconds are meant"),
            Err(_) => format!("a number and a unit, like {:?}", allowed.example),
        };
        node.mistake(format_args!(
            "{} is not a duration; write {right}",
            quoted(text)
        ));
        return None;
    };
    if duration < allowed.least || duration > allowed.most {
        let [least, most] = [allowed.least, allowed.most].map(humantime::format_duration);
        node.mistake(format_args!(
            "{} is out of range; write {least} to {most}",
            quoted(text)
        ));
        return None;
    }
    if allowed.whole_seconds && duration.subsec_nanos() != 0 {
        let whole = humantime::format_duration(Duration::from_secs(duration.as_secs()));
        node.mistake(format_args!(
            "{} is not in whole seconds; write \"{whole}\", say",
            quoted(text)
        ));
        return None;
    }
    Some(duration)
}

/// An address that packets can be sent to without more being said (no scope), loopback included.
pub(super) fn address(node: &Node<'_>) -> Option<IpAddr> {
    let address = any_address(node, node.string("an IP address", "192.0.2.11")?)?;
    unicast(node, address)
}

/// Any address that `text` is.
pub(super) fn any_address(node: &Node<'_>, text: &str) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        let right = "one like \"192.0.2.11\" or \"2001:db8::11\"";
        node.mistake(format_args!(
            "{} is not an IP address; write {right}",
            quoted(text)
        ));
    }
    address
}

/// The address again, if it is one host's and needs no scope.
pub(super) fn unicast(node: &Node<'_>, address: IpAddr) -> Option<IpAddr> {
    if let Some((what, right)) = no_unicast(address) {
        node.mistake(format_args!("{address} is {what}; write {right}"));
        return None;
    }
    Some(address)
}

/// As [`address`], and not of the loopback network: one that other hosts can use.
pub(super) fn global_address(node: &Node<'_>) -> Option<IpAddr> {
    let address = address(node)?;
    if address.is_loopback() {
        node.mistake(format_args!(
            "{address} is a loopback address; write one that other hosts can reach"
        ));
        return None;
    }
    Some(address)
}

pub(super) fn global_ipv4(node: &Node<'_>) -> Option<Ipv4Addr> {
    match global_address(node)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => {
            node.mistake(format_args!(
                "{address} is an IPv6 address; write an IPv4 one, like \"192.0.2.11\""
            ));
            None
        }
    }
}

pub(super) fn global_ipv6(node: &Node<'_>) -> Option<Ipv6Addr> {
    match global_address(node)? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(address) => {
            node.mistake(format_args!(
                "{address} is an IPv4 address; write an IPv6 one, like \"2001:db8::11\""
            ));
            None
        }
    }
}

/// Why the address is no unicast address of one host, and what would be right.
pub(super) fn no_unicast(address: IpAddr) -> Option<(&'static str, String)> {
    const OTHER: &str = "a unicast address";
    if address.is_unspecified() {
        return Some(("the unspecified address", OTHER.to_owned()));
    }
    if address.is_multicast() {
        return Some(("a multicast address", OTHER.to_owned()));
    }
    match address {
        IpAddr::V4(v4) => v4
            .is_broadcast()
            .then(|| ("the broadcast address", OTHER.to_owned())),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Some(("an IPv4-mapped IPv6 address", format!("\"{v4}\""))),
            None => v6.is_unicast_link_local().then(|| {
                (
                    "a link-local address, which means nothing without an interface",
                    OTHER.to_owned(),
                )
            }),
        },
    }
}

/// Addresses and ports to listen on, `[]` for none.
pub(super) fn listen(node: &Node<'_>) -> Option<Vec<SocketAddr>> {
    each_once(node, socket_address)
}

/// As [`each_once`], and at least one; `right`: what to write in place of an empty list.
pub(super) fn at_least_one<T: Ord + Clone + Display>(
    node: &Node<'_>,
    right: &str,
    read: impl FnMut(&Node<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if node.is_empty_list() {
        node.mistake(format_args!("the list is empty; {right}"));
        return None;
    }
    each_once(node, read)
}

/// The elements of a list, or a value by itself as the only one, none of them twice.
pub(super) fn each_once<T: Ord + Clone + Display>(
    node: &Node<'_>,
    mut read: impl FnMut(&Node<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let mut seen = BTreeSet::new();
    let items = node.items();
    let once = |item: &Node<'_>| {
        let value = read(item)?;
        if !seen.insert(value.clone()) {
            item.mistake(format_args!(
                "{value} stands in the list twice; leave one of them out"
            ));
            return None;
        }
        Some(value)
    };
    let good: Vec<_> = items.iter().filter_map(once).collect();
    (good.len() == items.len()).then_some(good)
}

/// A text for people to read, in a log too: 1 to 255 bytes, no control characters.
pub(super) fn words(node: &Node<'_>, example: &str) -> Option<Arc<str>> {
    const MOST: usize = 255;
    let text = node.string("a text", example)?;
    let wrong = if text.is_empty() {
        "is empty; leave it out".to_owned()
    } else if text.len() > MOST {
        format!("has {} bytes; write {MOST} at most", text.len())
    } else if text.contains(char::is_control) {
        "has control characters in it; write one line of plain text".to_owned()
    } else {
        return Some(text.into());
    };
    node.mistake(format_args!("{} {wrong}", quoted(text)));
    None
}

fn socket_address(node: &Node<'_>) -> Option<SocketAddr> {
    const EXAMPLES: &str = "one like \"127.0.0.1:9090\" or \"[::1]:9090\"";
    let text = node.string("an address and port", "127.0.0.1:9090")?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        Ok(_) => {
            node.mistake(format_args!(
                "{} has port 0; write a port from 1 to 65535",
                quoted(text)
            ));
            None
        }
        Err(_) => {
            node.mistake(format_args!(
                "{} is not an address and port; write {EXAMPLES}",
                quoted(text)
            ));
            None
        }
    }
}

pub(super) fn port(node: &Node<'_>) -> Option<u16> {
    node.integer(1, u16::MAX.into())
        .and_then(|port| u16::try_from(port).ok())
}

/// An AS number; 0 is nobody's (RFC 7607), 23456 stands in for numbers that don't fit (RFC 6793 section 9).
pub(super) fn as_number(node: &Node<'_>) -> Option<u32> {
    const AS_TRANS: u32 = 23456;
    let number = node.integer(1, u32::MAX)?;
    if number == AS_TRANS {
        node.mistake("23456 is AS_TRANS, which is no one's; write the AS's own number");
        return None;
    }
    Some(number)
}

/// The BGP Identifier: any but 0.0.0.0 (RFC 6286 section 2.1).
pub(super) fn router_id(node: &Node<'_>) -> Option<Ipv4Addr> {
    let text = node.string("a router id", "10.64.0.11")?;
    match text.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Some(id),
        Ok(_) => {
            node.mistake("0.0.0.0 is no router id; write one of the host's IPv4 addresses");
            None
        }
        Err(_) => {
            node.mistake(format_args!(
                "{} is not a router id; write one like \"10.64.0.11\"",
                quoted(text)
            ));
            None
        }
    }
}

/// An absolute path.
pub(super) fn path(node: &Node<'_>) -> Option<PathBuf> {
    let text = node.string("a path", "/var/lib/plimsoll")?;
    absolute(text, node).map(PathBuf::from)
}

/// A user of this host, by name.
pub(super) fn user(node: &Node<'_>) -> Option<User> {
    let name = node.string("a user's name", "nobody")?;
    let found = quoted(name);
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Some(User {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }),
        Ok(None) => {
            node.mistake(format_args!(
                "there is no user {found} on this host; write one that there is, like \"nobody\""
            ));
            None
        }
        Err(error) => {
            node.mistake(format_args!(
                "the user {found} cannot be looked up: {error}"
            ));
            None
        }
    }
}

/// Where a Unix socket shall be; `""` for nowhere.
pub(super) fn socket(node: &Node<'_>) -> Option<Option<PathBuf>> {
    let text = node.string("a path", "/run/plimsoll/control.sock")?;
    if text.is_empty() {
        return Some(None);
    }
    let path = absolute(text, node)?;
    if path.len() > LONGEST_SOCKET {
        node.mistake(format_args!(
            "a path of {} bytes; a Unix socket's has at most {LONGEST_SOCKET}",
            path.len()
        ));
        return None;
    }
    Some(Some(PathBuf::from(path)))
}

/// The text again, if it is an absolute path.
pub(super) fn absolute<'a>(text: &'a str, node: &Node<'_>) -> Option<&'a str> {
    if text.contains('\0') {
        node.mistake(format_args!(
            "{} has a zero byte in it, no path has; leave it out",
            quoted(text)
        ));
        return None;
    }
    if !text.starts_with('/') {
        node.mistake(format_args!(
            "{} is not an absolute path; write one that begins with /",
            quoted(text)
        ));
        return None;
    }
    Some(text)
}
