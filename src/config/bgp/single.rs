//! What a single value of BGP may be: a peer's name, hops, families, roles, groups, prefixes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::reader::{Node, Table};
use super::super::spelling::quoted;
use super::super::{MaximumAction, Ttl, value};
use crate::routing::{Group, Interface, PeerId, Role};
use crate::service::Family;

/// Who a peer is, by `address`, `interface` or both.
pub(super) fn id(table: &Table<'_>) -> Option<PeerId> {
    let interface_node = table.get("interface");
    let interface = table.optional("interface", interface);
    let Some(node) = table.get("address") else {
        if interface_node.is_none() {
            table.place.missing(
                "address",
                "missing; write the router's address, in quotes, or interface = \"eth1\" for the router at its other end",
            );
        }
        return interface?.map(PeerId::Interface);
    };
    let text = node.string("an IP address", "10.64.0.1")?;
    let (text, scope) = match text.split_once('%') {
        Some((text, scope)) => (text, Some(interface_named(&node, scope)?)),
        None => (text, None),
    };
    let interface = interface?;
    if let (Some(scope), Some(interface)) = (&scope, &interface)
        && scope != interface
    {
        node.mistake(format_args!(
            "{text} is on {scope} here, but interface is {interface}; write one of them"
        ));
        return None;
    }
    let interface = scope.or(interface);
    match (value::any_address(&node, text)?, interface) {
        (IpAddr::V6(address), Some(interface)) if address.is_unicast_link_local() => {
            Some(PeerId::LinkLocal(address, interface))
        }
        (IpAddr::V6(address), None) if address.is_unicast_link_local() => {
            node.mistake(format_args!(
                "{address} is a link-local address, which means nothing without an interface; write interface = \"eth1\" beside it, say"
            ));
            None
        }
        (address, None) => value::unicast(&node, address).map(PeerId::Address),
        (address, Some(_)) => {
            interface_node.unwrap_or(node).mistake(format_args!(
                "{address} needs no interface, only a link-local address does; leave the interface out, or the address for whoever is at the other end"
            ));
            None
        }
    }
}

fn interface(node: &Node<'_>) -> Option<Interface> {
    interface_named(node, node.string("an interface's name", "eth1")?)
}

fn interface_named(node: &Node<'_>, name: &str) -> Option<Interface> {
    // One may be named so, but whoever writes it means the router; and the two would look the same ever after.
    if name.parse::<IpAddr>().is_ok() {
        node.mistake(format_args!(
            "{name} is an address, no interface's name; write address = \"{name}\""
        ));
        return None;
    }
    let interface = Interface::new(name);
    if interface.is_none() {
        node.mistake(format_args!(
            "{} is no interface's name; write one like \"eth1\", of 1 to 15 bytes",
            quoted(name)
        ));
    }
    interface
}

/// Puts what the table says in the place of what was there before. `false`: something was wrong, and has been
/// noted.
pub(super) fn ttl(table: &Table<'_>, to: &mut Ttl) -> bool {
    if let (Some(security), Some(multihop)) = (table.get("ttl-security"), table.get("multihop")) {
        security.mistake(format_args!(
            "there is multihop too, on line {}; leave out one of the two",
            multihop.place().line()
        ));
        return false;
    }
    table.put("ttl-security", to, ttl_security)
        & table.put("multihop", to, |node| hops(node, 2, 255).map(Ttl::Multihop))
}

/// `false`: as if the key were not there, nor in the template.
fn ttl_security(node: &Node<'_>) -> Option<Ttl> {
    match node.as_bool() {
        Some(true) => Some(Ttl::Security(1)),
        Some(false) => Some(Ttl::Default),
        None if node.number().is_some() => hops(node, 1, 254).map(Ttl::Security),
        None => {
            node.wrong_type("true, false or a number of hops", "true, or 1 to 254");
            None
        }
    }
}

fn hops(node: &Node<'_>, least: u32, most: u32) -> Option<u8> {
    node.integer(least, most)
        .and_then(|hops| u8::try_from(hops).ok())
}

pub(super) fn families(node: &Node<'_>) -> Option<BTreeSet<Family>> {
    let right = "name \"ipv4\", \"ipv6\" or both";
    let family =
        |item: &Node<'_>| item.choice("family", [("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)]);
    value::at_least_one(node, right, family).map(|families| families.into_iter().collect())
}

pub(super) fn role(node: &Node<'_>) -> Option<Role> {
    node.choice(
        "role",
        [
            ("provider", Role::Provider),
            ("customer", Role::Customer),
            ("peer", Role::Peer),
            ("route-server", Role::RouteServer),
            ("route-server-client", Role::RouteServerClient),
        ],
    )
}

pub(super) fn maximum_action(node: &Node<'_>) -> Option<MaximumAction> {
    node.choice(
        "action",
        [
            ("warn", MaximumAction::Warn),
            ("cease", MaximumAction::Cease),
        ],
    )
}

pub(super) fn groups(node: &Node<'_>) -> Option<BTreeSet<Group>> {
    value::each_once(node, group).map(|groups| groups.into_iter().collect())
}

pub(super) fn group(node: &Node<'_>) -> Option<Group> {
    let text = node.string("a group of peers", "core")?;
    let good = (1..=64).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !good {
        node.mistake(format_args!(
            "{} is no group's name; write 1 to 64 letters, digits, '.', '_' and '-'",
            quoted(text)
        ));
    }
    good.then(|| text.into())
}

pub(super) fn prefixes(node: &Node<'_>) -> Option<Vec<IpNet>> {
    let right = "name a prefix, or leave it out to allow any address";
    value::at_least_one(node, right, prefix)
}

/// Without host bits.
pub(super) fn prefix(node: &Node<'_>) -> Option<IpNet> {
    let text = node.string("a prefix", "192.0.2.0/24")?;
    let right = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) if net.addr() == net.network() => return Some(net),
        (Ok(net), _) => format!("\"{}\"", net.trunc()),
        (Err(_), Ok(address)) => format!("\"{}\"", IpNet::from(address)),
        (Err(_), Err(_)) => "one like \"192.0.2.0/24\" or \"2001:db8::/32\"".to_owned(),
    };
    node.mistake(format_args!(
        "{} is not a prefix; write {right}",
        quoted(text)
    ));
    None
}
