//! Reads how packets get to the servers: `forwarding`, its tunnel, ports and thresholds, of a service and of one server.

use std::net::{IpAddr, SocketAddr};

use super::super::reader::{Key, Table, key};
use super::super::spelling::quoted;
use super::super::value;
use super::key::Known;
use crate::service::{Delivery, Family, Forwarding, GueChecksum, Tunnel, VirtualService};

/// Of a service, and of a server where that differs.
pub(in super::super) const KEYS: &[Key] = &[
    key("forwarding"),
    key("tunnel"),
    key("upper-threshold"),
    key("lower-threshold"),
];

pub(in super::super) const TUNNEL_KEYS: &[Key] = &[key("type"), key("port"), key("checksum")];

/// Which way of forwarding, before the tunnel's settings are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    DirectRouting,
    Masquerading,
    Tunnel,
}

/// `base`: what holds where the table says nothing.
pub(in super::super) fn delivery(table: &Table<'_>, base: Delivery) -> Option<Delivery> {
    let forwarding = forwarding(table, base.forwarding);
    let upper = table.or("upper-threshold", base.upper, |node| {
        node.integer(0, u32::MAX)
    });
    let lower = table.or("lower-threshold", base.lower, |node| {
        let lower = node.integer(0, u32::MAX)?;
        if upper.is_some_and(|upper| lower > upper) {
            node.mistake("larger than upper-threshold; write a smaller one, or leave it out");
            return None;
        }
        Some(lower)
    });
    Some(Delivery {
        forwarding: forwarding?,
        upper: upper?,
        lower: lower?,
    })
}

fn forwarding(table: &Table<'_>, base: Forwarding) -> Option<Forwarding> {
    let base_way = match base {
        Forwarding::DirectRouting => Way::DirectRouting,
        Forwarding::Masquerading => Way::Masquerading,
        Forwarding::Tunnel(_) => Way::Tunnel,
    };
    let way = table.or("forwarding", base_way, |node| {
        let ways = [
            ("direct-routing", Way::DirectRouting),
            ("masquerading", Way::Masquerading),
            ("tunnel", Way::Tunnel),
        ];
        node.choice("forwarding", ways)
    })?;
    let node = table.get("tunnel");
    match (way, node) {
        (Way::Tunnel, Some(node)) => tunnel(&node.table(TUNNEL_KEYS)?).map(Forwarding::Tunnel),
        (Way::Tunnel, None) => Some(match base {
            Forwarding::Tunnel(_) => base,
            Forwarding::DirectRouting | Forwarding::Masquerading => {
                Forwarding::Tunnel(Tunnel::Ipip)
            }
        }),
        (Way::DirectRouting | Way::Masquerading, Some(node)) => {
            node.mistake(
                "of no use without forwarding = \"tunnel\"; write that too, or leave this out",
            );
            None
        }
        (Way::DirectRouting, None) => Some(Forwarding::DirectRouting),
        (Way::Masquerading, None) => Some(Forwarding::Masquerading),
    }
}

/// What `type` says, before the rest is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ipip,
    Gue,
    Gre,
}

fn tunnel(table: &Table<'_>) -> Option<Tunnel> {
    let kind = table.required("type", "type = \"ipip\", say", |node| {
        let kinds = [("ipip", Kind::Ipip), ("gue", Kind::Gue), ("gre", Kind::Gre)];
        node.choice("type", kinds)
    })?;
    if kind == Kind::Gue {
        let port = table.required("port", "port = 5555, say", value::port);
        let checksum = table.or("checksum", GueChecksum::None, |node| {
            let checksums = [
                ("nocsum", GueChecksum::None),
                ("csum", GueChecksum::Udp),
                ("remcsum", GueChecksum::Remote),
            ];
            node.choice("checksum", checksums)
        });
        return Some(Tunnel::Gue {
            port: port?,
            checksum: checksum?,
        });
    }
    if let Some(node) = table.get("port") {
        node.mistake("only GUE has a port; write type = \"gue\", or leave this out");
        return None;
    }
    let checksum = table.optional("checksum", |node| {
        if kind == Kind::Ipip {
            node.mistake(
                "IP in IP has no checksum; write type = \"gre\" or \"gue\", or leave this out",
            );
            return None;
        }
        node.choice("checksum", [("nocsum", false), ("csum", true)])
    })?;
    Some(match kind {
        Kind::Gre => Tunnel::Gre {
            checksum: checksum.unwrap_or(false),
        },
        Kind::Ipip | Kind::Gue => Tunnel::Ipip,
    })
}

/// The port of the servers whose names have none.
pub(super) fn server_port(
    table: &Table<'_>,
    known: Known,
    forwarding: Option<Forwarding>,
) -> Option<u16> {
    let own = known.port().unwrap_or(0);
    table.or("server-port", own, |node| {
        let port = value::port(node)?;
        if forwarding.is_some_and(|way| way != Forwarding::Masquerading) {
            node.mistake("only masquerading rewrites ports: the servers listen on the service's; write forwarding = \"masquerading\", or leave this out");
            return None;
        }
        Some(port)
    })
}

/// Only a tunnel carries one family in the other.
pub(super) fn server_family(
    table: &Table<'_>,
    known: Known,
    forwarding: Option<Forwarding>,
) -> Option<Family> {
    let own = known.address.map(Family::of);
    let written = table.optional("server-family", |node| {
        let families = [("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];
        let family = node.choice("server-family", families)?;
        let tunnelled = matches!(forwarding, Some(Forwarding::Tunnel(_)) | None);
        if own.is_some_and(|own| own != family) && !tunnelled {
            node.mistake("another family than the address's needs a tunnel; write forwarding = \"tunnel\", or leave this out");
            return None;
        }
        Some(family)
    })?;
    written.or(own)
}

/// An address, and with masquerading a port.
pub(super) fn sorry(
    table: &Table<'_>,
    server_port: Option<u16>,
    family: Option<Family>,
    forwarding: Option<Forwarding>,
) -> Option<Option<SocketAddr>> {
    table.optional("sorry", |node| {
        const EXAMPLE: &str = "10.0.0.99";
        let text = node.string("the sorry server's address", EXAMPLE)?;
        let port = match text.parse::<SocketAddr>() {
            Ok(at) if at.port() > 0 => Some(at),
            Ok(_) | Err(_) => None,
        };
        let (address, port) = match (text.parse::<IpAddr>(), port) {
            (_, Some(at)) => (at.ip(), Some(at.port())),
            (Ok(address), None) => (address, None),
            (Err(_), None) => {
                node.mistake(format_args!(
                    "{} is no address; write one like {EXAMPLE:?}, the pool may be empty because names do not resolve",
                    quoted(text)
                ));
                return None;
            }
        };
        if port.is_some() && forwarding != Some(Forwarding::Masquerading) {
            node.mistake("only masquerading rewrites ports; write forwarding = \"masquerading\", or the address alone");
            return None;
        }
        super::super::server::usable(node, address, family, "")
            .then_some(SocketAddr::new(address, port.or(server_port)?))
    })
}

/// Whether packets come to the servers as clients sent them, one link away: then a check can take the same way.
pub(super) fn is_direct(delivery: Option<Delivery>, key: Option<VirtualService>) -> bool {
    let direct = |delivery: Delivery| delivery.forwarding == Forwarding::DirectRouting;
    delivery.is_some_and(direct) && key.is_some_and(|key| key.port().is_some())
}
