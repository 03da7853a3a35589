//! What services must agree on: one service an address and port, one announcement an address, and for one prefix
//! one address.
//! Not here: whom an announcement goes to, which `bgp::reach` looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use super::service::Draft;
use super::{Announce, Servers, bgp};
use crate::routing::{Attributes, Policy};
use crate::service::VirtualService;

/// Notes each disagreement at the later of the two services. `services`: in the file's order.
/// `bgp`: the section, if there is one.
pub(super) fn check(services: &[Draft<'_>], bgp: Option<&bgp::Draft<'_>>) {
    let bases = bases(bgp);
    let mut first_of_key: BTreeMap<VirtualService, &Draft<'_>> = BTreeMap::new();
    let mut first_of_address: BTreeMap<IpAddr, &Draft<'_>> = BTreeMap::new();
    let mut first_of_prefix: BTreeMap<IpNet, &Draft<'_>> = BTreeMap::new();
    for service in services {
        if let Some(key) = service.key {
            match first_of_key.get(&key) {
                Some(first) => {
                    let right = match key {
                        VirtualService::Address { .. } => "address, port or protocol",
                        VirtualService::Mark { .. } => "firewall-mark",
                    };
                    let first = first.named();
                    service.table.place.mistake(format_args!(
                        "{key} is {first} already; write another {right}"
                    ));
                }
                None => {
                    first_of_key.insert(key, service);
                }
            }
        }
        if let Some(address) = service.address {
            match first_of_address.get(&address) {
                Some(first) => agree(first, service, address, &bases),
                None => {
                    first_of_address.insert(address, service);
                    one_of_prefix(&mut first_of_prefix, service, address);
                }
            }
        }
    }
}

/// `first`: the services of other addresses that came before.
fn one_of_prefix<'s, 'a>(
    first: &mut BTreeMap<IpNet, &'s Draft<'a>>,
    service: &'s Draft<'a>,
    address: IpAddr,
) {
    let Some(announce) = service.announce.as_deref().filter(|it| it.announce) else {
        return;
    };
    let prefix = announce.prefix_of(address);
    match first.get(&prefix) {
        Some(first) => service.place_of_bgp("prefix").mistake(format_args!(
            "{prefix} is announced for {}, of another address, already, and would be gone for both if it were withdrawn for one; write another prefix, or announce = false for one of the addresses",
            first.named()
        )),
        None => {
            first.insert(prefix, service);
        }
    }
}

/// Notes each service whose list is in etcd: there is no `[etcd]`.
pub(super) fn no_etcd(services: &[Draft<'_>]) {
    for draft in services {
        if let Some(Servers::Etcd(_)) = draft.service.as_ref().map(|service| &service.servers) {
            let place = draft.table.place_of("servers");
            place.mistake("there is no [etcd]; write one with endpoints");
        }
    }
}

/// Layers of policy that services' own stand on.
struct Base<'b> {
    /// Whose they are, if one peer's.
    to: String,
    layers: Vec<&'b Policy>,
}

/// `[bgp]`'s by itself, then each peer's; none if they could not be read.
fn bases<'b>(bgp: Option<&'b bgp::Draft<'_>>) -> Vec<Base<'b>> {
    let Some(bgp) = bgp else {
        let (to, layers) = (String::new(), Vec::new());
        return vec![Base { to, layers }];
    };
    let Some(lowest) = bgp.policy.as_deref() else {
        return Vec::new();
    };
    let mut bases = vec![Base {
        to: String::new(),
        layers: vec![lowest],
    }];
    bases.extend(bgp.peers.iter().flatten().map(|draft| Base {
        to: format!(", to peer {}", draft.peer.id),
        layers: vec![lowest, &draft.peer.policy],
    }));
    bases
}

/// What two services of one address say differently.
struct Difference {
    key: String,
    ours: String,
    theirs: String,
    to: String,
}

fn agree(first: &Draft<'_>, service: &Draft<'_>, address: IpAddr, bases: &[Base<'_>]) {
    let (Some(ours), Some(theirs)) = (&service.announce, &first.announce) else {
        return;
    };
    for found in differences(ours, theirs, address, bases) {
        let Difference {
            key,
            ours,
            theirs,
            to,
        } = found;
        service.place_of_bgp(&key).mistake(format_args!(
            "{ours} here, but {theirs} for {}, of the same address {address}{to}; write the same for both",
            first.named()
        ));
    }
}

/// Of the attributes only the first: others may follow from it.
fn differences(
    ours: &Announce,
    theirs: &Announce,
    address: IpAddr,
    bases: &[Base<'_>],
) -> Vec<Difference> {
    let attributes = bases
        .iter()
        .find_map(|base| of_attributes(ours, theirs, base));
    let up_delay = |announce: &Announce| humantime::format_duration(announce.up_delay).to_string();
    let all = [
        of_values("announce", ours.announce, theirs.announce),
        of_values("prefix", ours.prefix_of(address), theirs.prefix_of(address)),
        of_values("announce-to", peers(ours), peers(theirs)),
        attributes,
        of_values("withdraw-when", ours.withdraw_when, theirs.withdraw_when),
        of_values("services", ours.services, theirs.services),
        of_values("up-delay", up_delay(ours), up_delay(theirs)),
    ];
    all.into_iter().flatten().collect()
}

/// What comes of all layers counts, not which of them says it.
fn of_attributes(ours: &Announce, theirs: &Announce, base: &Base<'_>) -> Option<Difference> {
    type Condition = fn(&Announce) -> Option<&Policy>;
    let conditions: [(&str, Condition); 3] = [
        ("", |_| None),
        ("condition.degraded.", |announce| Some(&announce.degraded)),
        ("condition.failed.", |announce| Some(&announce.failed)),
    ];
    conditions.iter().find_map(|(path, condition)| {
        let of = |announce: &Announce| {
            let own = [Some(&*announce.policy), condition(announce)];
            Attributes::of(base.layers.iter().copied().chain(own.into_iter().flatten()))
        };
        let found = of_layers(&of(ours), &of(theirs))?;
        Some(Difference {
            key: format!("{path}{}", found.key),
            to: base.to.clone(),
            ..found
        })
    })
}

fn of_layers(ours: &Attributes, theirs: &Attributes) -> Option<Difference> {
    let local_pref = |all: &Attributes| match all.local_pref {
        Some(preference) => preference.to_string(),
        None => "none".to_owned(),
    };
    of_values("med", ours.med, theirs.med)
        .or_else(|| of_values("local-pref", local_pref(ours), local_pref(theirs)))
        .or_else(|| of_values("origin", ours.origin, theirs.origin))
        .or_else(|| of_values("prepend", ours.prepend, theirs.prepend))
        .or_else(|| {
            let [ours, theirs] = [ours, theirs].map(|all| listed(&all.communities));
            of_values("communities", ours, theirs)
        })
}

fn of_values<T: PartialEq + Display>(key: &str, ours: T, theirs: T) -> Option<Difference> {
    (ours != theirs).then(|| Difference {
        key: key.to_owned(),
        ours: ours.to_string(),
        theirs: theirs.to_string(),
        to: String::new(),
    })
}

fn peers(announce: &Announce) -> String {
    match &announce.to {
        None => "all peers".to_owned(),
        Some(groups) => listed(groups),
    }
}

fn listed<T: Display>(items: &BTreeSet<T>) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    match items.len() {
        0 => "none".to_owned(),
        _ => items.join(", "),
    }
}
