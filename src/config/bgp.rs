//! Reads `[bgp]`. Its parts: `peer` reads `[[bgp.peer]]` and `[bgp.defaults]`, `announce` what is announced of
//! an address, `policy` path attributes, `authentication` key files; `reach` holds what is announced against
//! whom it is announced to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::reader::{Key, Table, key, was};
use super::{Bgp, value};
use crate::routing::{Med, Policy};

pub(super) mod announce;
pub(super) mod authentication;
pub(super) mod peer;
pub(super) mod policy;
pub(super) mod reach;
mod single;

pub(super) const KEYS: &[Key] = &[
    was("local-as", "bgp-local-asn"),
    key("router-id"),
    was("listen", "bgp-local-ips"),
    key("shutdown-text"),
    peer::HOLD_TIME,
    peer::NEXT_HOP_IPV4,
    peer::NEXT_HOP_IPV6,
    policy::MED,
    policy::LOCAL_PREF,
    policy::ORIGIN,
    policy::PREPEND,
    policy::COMMUNITIES,
    key("allow-blackhole"),
    announce::WITHDRAW_WHEN,
    announce::SERVICES,
    announce::UP_DELAY,
    announce::CONDITION,
    key("defaults"),
    was("peer", "bgp-peer-address"),
];

/// The port of BGP (RFC 4271 section 8.2.1).
const PORT: u16 = 179;

/// As much of the section as could be read.
pub(super) struct Draft<'a> {
    pub(super) table: Table<'a>,
    /// What holds for services that say nothing.
    pub(super) base: announce::Base,
    /// `None`: something was wrong, and has been noted; so below.
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) peers: Option<Vec<peer::Draft<'a>>>,
    bgp: Option<Bgp>,
}

impl Draft<'_> {
    pub(super) fn finish(self) -> Option<Bgp> {
        let peers = self.peers?.into_iter().map(|draft| draft.peer);
        Some(Bgp {
            peers: peers.map(|peer| (peer.id.clone(), peer)).collect(),
            ..self.bgp?
        })
    }
}

pub(super) fn bgp<'a>(table: Table<'a>) -> Draft<'a> {
    let local_as = table.required("local-as", "the number of our own AS", value::as_number);
    let router_id = table.required(
        "router-id",
        "an IPv4 address of this host, in quotes",
        value::router_id,
    );
    let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let listen = everywhere
        .map(|address| SocketAddr::new(address, PORT))
        .to_vec();
    let listen = table.or("listen", listen, value::listen);
    let shutdown_text =
        table.optional("shutdown-text", |node| value::words(node, "Plimsoll stops"));
    let (base, good_base) = announce::Base::read(&table);
    let policy = lowest(&table, base.blackhole);
    let around = peer::Around {
        local_as,
        listen: listen.as_deref(),
        blackhole: base.blackhole,
    };
    let peers = table.required(
        "peer",
        "[[bgp.peer]] for each router, or leave out [bgp]",
        |node| peer::peers(&table, node, &around),
    );
    let whole = || {
        Some(Bgp {
            local_as: local_as?,
            router_id: router_id?,
            listen: listen.clone()?,
            policy: policy.clone()?,
            shutdown_text: shutdown_text?,
            peers: good_base.then(Default::default)?,
        })
    };
    let bgp = whole();
    Draft {
        table,
        base,
        policy,
        peers,
        bgp,
    }
}

/// The layer of policy below all others.
fn lowest(table: &Table<'_>, blackhole: bool) -> Option<Arc<Policy>> {
    let mut policy = Policy::default();
    let good = policy::lay(table, blackhole, &mut policy);
    if let Some(Med::Add(more)) = policy.med {
        table.place_of("med").mistake(format_args!(
            "nothing stands below [bgp] that {more} could be added to; write {more} without quotes"
        ));
        return None;
    }
    good.then(|| Arc::new(policy))
}
