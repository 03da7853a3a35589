//! Holds what is announced against whom it is announced to: every group has a peer, every address a peer that
//! takes its family, allows it and can be given a next hop. So a mistake in a file never tells a router more
//! than its `allow` and `maximum-announced` let it be told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::service;
use super::super::spelling::{self, quoted};
use super::{Draft, peer};
use crate::config::Peer;
use crate::service::Family;

/// Notes each disagreement; `services`: in the file's order. Says nothing before all peers are right by
/// themselves.
pub(in crate::config) fn check(services: &[service::Draft<'_>], bgp: &Draft<'_>) {
    let Some(peers) = &bgp.peers else {
        return;
    };
    let mut announced = BTreeMap::new();
    for service in services {
        if let (Some(address), Some(announce)) = (service.address, &service.announce)
            && announce.announce
        {
            announced.entry(address).or_insert(service);
        }
    }
    if groups(services, peers) {
        nobody(&announced, peers);
    }
    allowed(&announced, peers);
    number(&announced, peers);
    next_hops(&announced, bgp, peers);
}

type Announced<'s, 'a> = BTreeMap<IpAddr, &'s service::Draft<'a>>;

fn told(peer: &Peer, address: IpAddr, service: &service::Draft<'_>) -> bool {
    let announce = service.announce.as_deref();
    announce.is_some_and(|announce| peer.is_told(address, announce))
}

/// `false`: a service names a group that is no peer's.
fn groups(services: &[service::Draft<'_>], peers: &[peer::Draft<'_>]) -> bool {
    let known: BTreeSet<&str> = peers
        .iter()
        .flat_map(|draft| draft.peer.groups.iter().map(|group| &**group))
        .collect();
    let all = match known.len() {
        0 => "no peer has groups".to_owned(),
        _ => format!(
            "peers are of {}",
            known.iter().copied().collect::<Vec<_>>().join(", ")
        ),
    };
    let mut good = true;
    for service in services.iter().filter(|service| service.announce.is_some()) {
        let items = service
            .table
            .get("bgp")
            .and_then(|node| node.as_table()?.get("announce-to"))
            .map(|node| node.items());
        for item in items.into_iter().flatten() {
            let Some(group) = item.as_str().filter(|group| !known.contains(group)) else {
                continue;
            };
            good = false;
            let found = quoted(group);
            match spelling::nearest(group, known.iter().copied()) {
                Some(near) => item.mistake(format_args!(
                    "no peer is of group {found}; did you mean {near:?}?"
                )),
                None => item.mistake(format_args!(
                    "no peer is of group {found}; {all}; write groups = [{group:?}] for a peer, or another group here"
                )),
            }
        }
    }
    good
}

fn nobody(announced: &Announced<'_, '_>, peers: &[peer::Draft<'_>]) {
    for (address, service) in announced {
        if peers
            .iter()
            .any(|draft| told(&draft.peer, *address, service))
        {
            continue;
        }
        let family = Family::of(*address);
        service.place_of_bgp("announce").mistake(format_args!(
            "no peer that could be told of {address} has {family} among its families; add it there, or write announce = false"
        ));
    }
}

fn allowed(announced: &Announced<'_, '_>, peers: &[peer::Draft<'_>]) {
    let mut noted = BTreeSet::new();
    for (address, service) in announced {
        let wider = service.announce.as_deref().and_then(|it| it.prefix);
        let prefix = wider.unwrap_or((*address).into());
        for draft in peers {
            let allow = draft.peer.allow.iter().flatten();
            if draft.peer.allow.is_none()
                || allow.into_iter().any(|net| net.contains(&prefix))
                || !told(&draft.peer, *address, service)
            {
                continue;
            }
            let place = draft.place_of("allow");
            if noted.insert((address, place.offset())) {
                let (at, what) = match wider {
                    Some(prefix) => (service.place_of_bgp("prefix"), prefix.to_string()),
                    None => (service.table.place_of("address"), address.to_string()),
                };
                at.mistake(format_args!(
                    "{what} is announced to {}, but is not in its allow (line {}); add it there, or name other peers in announce-to",
                    draft.named(),
                    place.line()
                ));
            }
        }
    }
}

fn number(announced: &Announced<'_, '_>, peers: &[peer::Draft<'_>]) {
    let mut noted = BTreeSet::new();
    for draft in peers {
        let Some(most) = draft.peer.maximum_announced else {
            continue;
        };
        let number = announced
            .iter()
            .filter(|(address, service)| told(&draft.peer, **address, service))
            .count();
        let place = draft.place_of("maximum-announced");
        if number > usize::try_from(most).unwrap_or(usize::MAX) && noted.insert(place.offset()) {
            place.mistake(format_args!(
                "{number} addresses are announced to {}, {most} may be; write {number} if they shall be, or name other peers in announce-to",
                draft.named()
            ));
        }
    }
}

fn next_hops(announced: &Announced<'_, '_>, bgp: &Draft<'_>, peers: &[peer::Draft<'_>]) {
    for (family, key, right) in [
        (
            Family::Ipv4,
            "next-hop-ipv4",
            "next-hop-ipv4 = \"192.0.2.1\", say, or extended-next-hop = true for the peer",
        ),
        (
            Family::Ipv6,
            "next-hop-ipv6",
            "next-hop-ipv6 = \"2001:db8::1\", say",
        ),
    ] {
        let without = peers
            .iter()
            .filter(|draft| !has_next_hop(&draft.peer, family));
        let announced = announced
            .iter()
            .filter(|(address, _)| Family::of(**address) == family);
        let first = without
            .flat_map(|draft| {
                announced
                    .clone()
                    .map(move |(at, service)| (draft, at, service))
            })
            .find(|(draft, address, service)| told(&draft.peer, **address, service));
        if let Some((draft, _, service)) = first {
            bgp.table.place.missing(
                key,
                format_args!(
                    "missing, but {} announces an {family} address to {}, over {}; write {right}",
                    service.named(),
                    draft.named(),
                    draft.peer.id.family(),
                ),
            );
        }
    }
}

/// Our own end of a session is the next hop of the session's family, unless another is named.
fn has_next_hop(peer: &Peer, family: Family) -> bool {
    let named = match family {
        Family::Ipv4 => peer.next_hop_ipv4.is_some() || peer.extended_next_hop,
        Family::Ipv6 => peer.next_hop_ipv6.is_some(),
    };
    named || peer.id.family() == family
}
