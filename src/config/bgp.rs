//! Reads `[bgp]` and `[[bgp.peer]]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::reader::{Key, Node, Table, key, was};
use super::report::Place;
use super::value::{self, Durations};
use super::{Bgp, MaximumAction, Peer, Ttl};
use crate::routing::{PeerId, Policy};
use crate::service::Family;

pub(super) const KEYS: &[Key] = &[
    was("local-as", "bgp-local-asn"),
    key("router-id"),
    was("next-hop-ipv4", "bgp-nexthop-ipv4"),
    was("next-hop-ipv6", "bgp-nexthop-ipv6"),
    was("med", "bgp-med"),
    key("hold-time"),
    was("listen", "bgp-local-ips"),
    was("peer", "bgp-peer-address"),
];

pub(super) const PEER_KEYS: &[Key] = &[
    was("address", "bgp-peer-address"),
    key("peer-as"),
    key("port"),
];

/// The port of BGP (RFC 4271 section 8.2.1).
const PORT: u16 = 179;

/// RFC 4271 section 4.2: 0, or at least three seconds in 16 bits. We refuse 0: without keepalives a
/// dead router keeps its session for ever.
const HOLD_TIME: Durations = Durations {
    least: Duration::from_secs(3),
    most: Duration::from_secs(u16::MAX as u64),
    whole_seconds: true,
    example: "30s",
};

pub(super) fn med(node: &Node<'_>) -> Option<u32> {
    node.integer(0, u32::MAX)
}

pub(super) fn bgp(table: &Table<'_>) -> Option<Bgp> {
    let local_as = table.required("local-as", "the number of our own AS", value::as_number);
    let router_id = table.required(
        "router-id",
        "an IPv4 address of this host, in quotes",
        value::router_id,
    );
    let next_hop_ipv4 = table.optional("next-hop-ipv4", value::global_ipv4);
    let next_hop_ipv6 = table.optional("next-hop-ipv6", value::global_ipv6);
    let med = table.or("med", 0, med);
    let hold_time = table.or("hold-time", Duration::from_secs(30), |node| {
        value::duration(node, &HOLD_TIME)
    });
    let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let listen = everywhere
        .map(|address| SocketAddr::new(address, PORT))
        .to_vec();
    let listen = table.or("listen", listen, value::listen);
    let peers = table.required(
        "peer",
        "[[bgp.peer]] for each router, or leave out [bgp]",
        peers,
    );
    let (next_hop_ipv4, next_hop_ipv6, hold_time) = (next_hop_ipv4?, next_hop_ipv6?, hold_time?);
    let peers = peers?.into_iter().map(|(address, peer)| {
        let peer = Peer {
            hold_time,
            next_hop_ipv4,
            next_hop_ipv6,
            ..peer
        };
        (PeerId::Address(address), Arc::new(peer))
    });
    Some(Bgp {
        local_as: local_as?,
        router_id: router_id?,
        listen: listen?,
        policy: Arc::new(Policy::of_med(med?)),
        shutdown_text: None,
        peers: peers.collect(),
    })
}

impl Peer {
    /// With every key but these left out, and nothing in `[bgp.defaults]`.
    pub fn new(id: PeerId, peer_as: u32) -> Peer {
        Peer {
            id,
            description: None,
            enabled: true,
            peer_as,
            port: PORT,
            passive: false,
            local_address: None,
            local_port: None,
            hold_time: Duration::from_secs(30),
            send_hold_time: Duration::from_secs(480),
            connect_retry_time: Duration::from_secs(30),
            delay_open_time: None,
            ttl: Ttl::Default,
            authentication: None,
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            next_hop_ipv4: None,
            next_hop_ipv6: None,
            extended_next_hop: false,
            extended_messages: true,
            role: None,
            role_strict: false,
            advertisement_interval: Duration::from_secs(1),
            maximum_prefixes: 10_000,
            maximum_prefixes_action: MaximumAction::Warn,
            groups: BTreeSet::new(),
            allow: None,
            maximum_announced: None,
            policy: Arc::default(),
        }
    }
}

fn peers(node: &Node<'_>) -> Option<BTreeMap<IpAddr, Peer>> {
    let tables = node.tables();
    let mut first: BTreeMap<IpAddr, Place<'_>> = BTreeMap::new();
    let mut peers = BTreeMap::new();
    for table in &tables {
        table.note_unknown_keys(PEER_KEYS);
        let address = table.required("address", "the router's address, in quotes", |node| {
            let address = value::address(node)?;
            if let Some(other) = first.get(&address) {
                let line = other.line();
                node.mistake(format_args!(
                    "{address} is a peer already, on line {line}; leave one of them out"
                ));
                return None;
            }
            first.insert(address, node.place().clone());
            Some(address)
        });
        let peer_as = table.required("peer-as", "the number of the router's AS", value::as_number);
        let port = table.or("port", PORT, value::port);
        if let (Some(address), Some(peer_as), Some(port)) = (address, peer_as, port) {
            let peer = Peer {
                port,
                ..Peer::new(PeerId::Address(address), peer_as)
            };
            peers.insert(address, peer);
        }
    }
    if node.is_empty_list() {
        node.mistake("no peer; write [[bgp.peer]] for each router, or leave out [bgp]");
    }
    Some(peers)
}
