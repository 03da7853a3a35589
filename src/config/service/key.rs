//! Reads what the kernel knows a service by: `address` with `protocol` and `port`, or with `firewall-mark`.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::super::reader::{Node, Table};
use super::super::value;
use crate::service::{Family, Protocol, VirtualService};

/// As much of it as could be read.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) address: Option<IpAddr>,
    /// `None` of a firewall mark, which is of any.
    pub(super) protocol: Option<Protocol>,
    pub(super) key: Option<VirtualService>,
}

impl Known {
    /// The only port that clients come to.
    pub(super) fn port(&self) -> Option<u16> {
        self.key.and_then(|key| key.port())
    }
}

pub(super) fn key(table: &Table<'_>) -> Known {
    let address = table.required(
        "address",
        "address = \"192.0.2.11\", say",
        value::global_address,
    );
    match table.get("firewall-mark") {
        Some(node) => Known {
            address,
            protocol: None,
            key: mark(table, &node, address),
        },
        None => with_address(table, address),
    }
}

fn with_address(table: &Table<'_>, address: Option<IpAddr>) -> Known {
    let port = table.required("port", "port = 80, say", |node| port(table, node));
    let protocol = table.required("protocol", "protocol = \"tcp\" or \"udp\"", |node| {
        node.choice("protocol", Protocol::ALL)
    });
    let key = || {
        Some(VirtualService::Address {
            protocol: protocol?,
            address: address?,
            port: port?,
        })
    };
    Known {
        address,
        protocol,
        key: key(),
    }
}

/// 0: all ports. Without persistence the connections of one client would go to several servers, and the kernel takes
/// it without a word.
fn port(table: &Table<'_>, node: &Node<'_>) -> Option<u16> {
    if node.number() != Some(0.0) {
        return value::port(node);
    }
    if table.get("persistence-timeout").is_none() {
        node.mistake("port 0 is all ports, which needs persistence; write persistence-timeout = \"5m\" too, say, or 1 to 65535");
        return None;
    }
    Some(0)
}

fn mark(table: &Table<'_>, node: &Node<'_>, address: Option<IpAddr>) -> Option<VirtualService> {
    for key in ["protocol", "port"] {
        if let Some(node) = table.get(key) {
            node.mistake(
                "the firewall says which packets get firewall-mark; leave out one of the two",
            );
            return None;
        }
    }
    let mark = NonZeroU32::new(node.integer(1, u32::MAX)?)?;
    let family = Family::of(address?);
    Some(VirtualService::Mark { mark, family })
}
