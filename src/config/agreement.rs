//! What the parts of a configuration must agree on: one service an address and port, one announcement
//! an address, a next hop for each family that is announced.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Servers;
use super::reader::Table;
use super::service::Draft;
use crate::routing::{Attributes, Policy};
use crate::service::{Family, VirtualService};

/// Notes each disagreement at the later of the two services. `services`: in the file's order.
/// `bgp`: the section, if there is one; `default_med`: its MED.
pub(super) fn check(services: &[Draft<'_>], bgp: Option<&Table<'_>>, default_med: u32) {
    let mut first_of_key: BTreeMap<VirtualService, &Draft<'_>> = BTreeMap::new();
    let mut first_of_address: BTreeMap<IpAddr, &Draft<'_>> = BTreeMap::new();
    for service in services {
        if let Some(key) = service.key {
            match first_of_key.get(&key) {
                Some(first) => service.place.mistake(format_args!(
                    "{key} is {} already; write another address, port or protocol",
                    named(first)
                )),
                None => {
                    first_of_key.insert(key, service);
                }
            }
        }
        if let Some(address) = service.address {
            match first_of_address.get(&address) {
                Some(first) => agree(first, service, address, default_med),
                None => {
                    first_of_address.insert(address, service);
                }
            }
        }
    }
    if let Some(bgp) = bgp {
        next_hops(services, bgp);
    }
}

/// Notes each service whose list is in etcd: there is no `[etcd]`.
pub(super) fn no_etcd(services: &[Draft<'_>]) {
    for draft in services {
        if let Some(Servers::Etcd(_)) = draft.service.as_ref().map(|service| &service.servers)
            && let Some(place) = &draft.servers
        {
            place.mistake("there is no [etcd]; write one with endpoints");
        }
    }
}

fn agree(first: &Draft<'_>, service: &Draft<'_>, address: IpAddr, default_med: u32) {
    let (Some(ours), Some(theirs)) = (&service.announce, &first.announce) else {
        return;
    };
    let place = service.place.child("bgp", service.place.offset());
    if ours.announce != theirs.announce {
        place
            .child("announce", place.offset())
            .mistake(format_args!(
                "{} here, but {} for {}, of the same address {address}; write the same for both",
                ours.announce,
                theirs.announce,
                named(first)
            ));
    }
    let base = Policy::of_med(default_med);
    let [our_med, their_med] =
        [ours, theirs].map(|announce| Attributes::of([&base, &announce.policy]).med);
    if our_med != their_med {
        place.child("med", place.offset()).mistake(format_args!(
            "{our_med} here, but {their_med} for {}, of the same address {address}; write the same for both",
            named(first)
        ));
    }
}

fn next_hops(services: &[Draft<'_>], bgp: &Table<'_>) {
    for (family, key) in [
        (Family::Ipv4, "next-hop-ipv4"),
        (Family::Ipv6, "next-hop-ipv6"),
    ] {
        let announced = |service: &&Draft<'_>| {
            service
                .announce
                .as_ref()
                .is_some_and(|announce| announce.announce)
                && service
                    .address
                    .is_some_and(|address| Family::of(address) == family)
        };
        if bgp.get(key).is_none()
            && let Some(service) = services.iter().find(announced)
        {
            let example = match family {
                Family::Ipv4 => "192.0.2.1",
                Family::Ipv6 => "2001:db8::1",
            };
            bgp.place.missing(
                key,
                format_args!(
                    "missing, but {} announces an {family} address; write {key} = {example:?}, say",
                    named(service)
                ),
            );
        }
    }
}

fn named(service: &Draft<'_>) -> String {
    format!("{} (line {})", service.place.path(), service.place.line())
}
