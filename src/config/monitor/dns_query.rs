//! `type = "dns-query"`

use hickory_resolver::proto::rr::Name;

use super::some;
use crate::check::{DnsQuery, DnsTransport, DnsType, Probe};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;

pub(super) const KEYS: &[&[Key]] = &[&[
    key("hostnames"),
    key("types"),
    key("transport"),
    key("fail-on-nxdomain"),
]];

/// Where the server is asked, whatever the service's port is: as PyBal does.
pub(super) const PORT: u16 = 53;

pub(super) fn read(table: &Table<'_>) -> Option<Probe> {
    let example = "hostnames = [\"www.example.com\"], say";
    let hostnames = table.required("hostnames", example, |node| {
        some(node, "name", "[\"www.example.com\"], say", hostname)
    });
    let both = vec![DnsType::A, DnsType::Aaaa];
    let types = table.or("types", both, |node| {
        some(node, "type", "[\"A\", \"AAAA\"]", |node| {
            node.choice("record type", [("A", DnsType::A), ("AAAA", DnsType::Aaaa)])
        })
    });
    let transport = table.or("transport", DnsTransport::Udp, |node| {
        let choices = [("udp", DnsTransport::Udp), ("tcp", DnsTransport::Tcp)];
        node.choice("transport", choices)
    });
    let fail_on_nxdomain = table.or("fail-on-nxdomain", false, Node::boolean);
    Some(Probe::DnsQuery(DnsQuery {
        hostnames: hostnames?,
        types: types?,
        transport: transport?,
        fail_on_nxdomain: fail_on_nxdomain?,
    }))
}

/// Absolute, whether or not a dot says so.
fn hostname(node: &Node<'_>) -> Option<String> {
    let text = node.string("a name", "www.example.com")?;
    let bare = text.strip_suffix('.').unwrap_or(text);
    // RFC 1035 section 2.3.4: labels of at most 63 bytes, 255 bytes with their lengths.
    let name = Name::from_ascii(bare).ok();
    if !name.is_some_and(|name| !bare.is_empty() && name.len() < 255) {
        node.mistake(format_args!(
            "{} is no name that a name server could be asked for; write one like \"www.example.com\"",
            quoted(text)
        ));
        return None;
    }
    Some(bare.to_owned())
}
