//! Where VIPs are and where they should be: on `lo`, alone (/32, /128), IPv4 with the label `lo:LVS`, IPv6 never
//! chosen as a source, and nowhere else.

use std::net::IpAddr;

use netlink_packet_route::address::AddressHeaderFlags;

use super::Wanted;
use super::host::Seen;
use super::setting::answers_arp;
use super::step::{Action, Step};
use crate::rtnl::{Assigned, Mark};
use crate::service::Family;

/// Another one than the balancer's: a host may be both. The label is the usual one, and so does not make an
/// address ours.
pub(super) const MARK: Mark = Mark {
    protocol: 0x51,
    label: "lo:LVS",
};

pub(super) fn is_ours(assigned: &Assigned) -> bool {
    assigned.protocol == Some(MARK.protocol)
}

pub(super) fn steps(wanted: &Wanted, seen: &Seen<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for vip in &wanted.vips {
        steps.extend(of_vip(*vip, seen));
    }
    for left in &seen.addresses {
        if left.on_lo() && is_ours(left) && !wanted.vips.contains(&left.address) {
            let action = Action::Unbind(left.clone());
            steps.push(Step::new(left.address.to_string(), "on lo", "gone", action));
        }
    }
    steps
}

fn of_vip(vip: IpAddr, seen: &Seen<'_>) -> Vec<Step> {
    let should_be = match vip {
        IpAddr::V4(vip) => format!("on lo as {vip}/32 with label {}", MARK.label),
        IpAddr::V6(vip) => format!("on lo as {vip}/128, deprecated"),
    };
    let places = || seen.addresses.iter().filter(|a| a.address == vip);
    if places().any(is_right) {
        // Only now: the old place served until the new one did.
        let wrong = places().filter(|place| !is_right(place));
        return wrong.map(|place| move_away(place, seen)).collect();
    }
    let where_it_is: Vec<String> = places().map(|place| shown(place, seen)).collect();
    let is = match where_it_is.len() {
        0 => "not there".to_owned(),
        _ => where_it_is.join(" and "),
    };
    let loud = places().any(|place| !place.on_lo());
    let action = match places().find(|place| is_in_the_way(place)) {
        Some(place) => Action::Rebind(vip, place.clone()),
        None => Action::Bind(vip),
    };
    let step = Step::new(vip.to_string(), is, should_be, action);
    vec![if vip.is_ipv4() && answers_arp(seen) {
        step.hindered(
            "not before net.ipv4.conf.all.arp_ignore is right: this host would answer ARP for it",
        )
    } else if loud {
        step.loud()
    } else {
        step
    }]
}

/// Away from a place where it should not be.
fn move_away(place: &Assigned, seen: &Seen<'_>) -> Step {
    let vip = place.address;
    let interface = seen.name(place.index);
    let is = shown(place, seen);
    let step = Step::new(
        format!("{vip} on {interface}"),
        is,
        "on lo alone",
        Action::Unbind(place.clone()),
    );
    if place.on_lo() {
        return step;
    }
    // Whoever gives a server's own address for a VIP would cut the server off.
    let family = Family::of(vip);
    let is_sibling = |a: &&Assigned| {
        a.index == place.index
            && a.address != vip
            && Family::of(a.address) == family
            && !is_link_local(a.address)
    };
    if !seen.addresses.iter().any(|a| is_sibling(&a)) {
        step.hindered(format!(
            "not touched: {interface} has no other {family} address, this may be the server's own; if it is a VIP, \
             give {interface} its own address or remove it: ip address del {vip}/{} dev {interface}",
            place.prefix_length
        ))
    } else if !place.has(AddressHeaderFlags::Permanent) {
        step.hindered("not touched: it comes by DHCP or router advertisements, as a server's own address does")
    } else {
        step.loud()
    }
}

fn is_right(place: &Assigned) -> bool {
    let shape = match place.address {
        IpAddr::V4(_) => place.label.as_deref() == Some(MARK.label),
        IpAddr::V6(_) => place.has(AddressHeaderFlags::Deprecated),
    };
    shape && is_alone(place) && place.on_lo() && place.usable
}

/// Whether the kernel would refuse the right one beside it: IPv4 knows the same address with another length as
/// another one, IPv6 does not.
fn is_in_the_way(place: &Assigned) -> bool {
    place.on_lo() && (place.address.is_ipv6() || is_alone(place))
}

fn is_alone(place: &Assigned) -> bool {
    place.prefix_length == if place.address.is_ipv4() { 32 } else { 128 }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn shown(place: &Assigned, seen: &Seen<'_>) -> String {
    let mut text = format!(
        "on {} as {}/{}",
        seen.name(place.index),
        place.address,
        place.prefix_length
    );
    match (place.address, &place.label) {
        (IpAddr::V4(_), Some(label)) if place.on_lo() && label != MARK.label && label != "lo" => {
            text += &format!(" with label {label}");
        }
        (IpAddr::V4(_), _) if place.on_lo() && place.label.as_deref() != Some(MARK.label) => {
            text += " without label";
        }
        (IpAddr::V6(_), _) if place.on_lo() && !place.has(AddressHeaderFlags::Deprecated) => {
            text += ", a source for this host's own connections";
        }
        (IpAddr::V4(_), _) if !place.on_lo() => text += ", where ARP for it is answered",
        (IpAddr::V6(_), _) if !place.on_lo() => text += ", where neighbours are told so",
        (IpAddr::V4(_) | IpAddr::V6(_), _) => {}
    }
    text
}
