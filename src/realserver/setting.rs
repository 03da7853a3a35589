//! Settings of the kernel (sysctl(8)): that no ARP is answered for VIPs, and that tunnelled packets are let in.
//!
//! The kernel answers ARP for each of its addresses on each of its interfaces unless it is told not to; a real server
//! that does so takes the VIP's traffic away from the balancers. It takes the larger value of `all` and of the
//! interface that the question came in by, so `all` is enough; `lo`'s own has no effect, nobody asks there, and is
//! set as the usual check-lists want it.
//! IPv6 needs none of this: a Neighbor Solicitation is answered only for addresses of the very interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Wanted;
use super::address::is_ours;
use super::host::Seen;
use super::saved::Saved;
use super::step::{Action, Step};
use super::tunnel;
use crate::rtnl::{Assigned, Link};
use crate::sysctl::of_interface;

/// What each may be, the first of it if we must choose. arp_ignore: 1 answers for addresses of that interface alone,
/// 2 does for neighbours alone, 8 never.
const ARP: [(&str, &[&str]); 4] = [
    ("net.ipv4.conf.all.arp_ignore", &["1", "2", "8"]),
    ("net.ipv4.conf.lo.arp_ignore", &["1", "2", "8"]),
    ("net.ipv4.conf.all.arp_announce", &["2"]),
    ("net.ipv4.conf.lo.arp_announce", &["2"]),
];
const RP_FILTER_ALL: &str = "net.ipv4.conf.all.rp_filter";

/// All that may matter.
pub(super) fn names(links: &[Link], saved: &Saved) -> Vec<String> {
    let arp = ARP.iter().map(|(name, _)| (*name).to_owned());
    let links = links
        .iter()
        .filter(|link| tunnel::is_tunnel(link))
        .map(rp_filter);
    arp.chain([RP_FILTER_ALL.to_owned()])
        .chain(links)
        .chain(saved.settings.keys().cloned())
        .collect()
}

pub(super) fn steps(wanted: &Wanted, seen: &Seen<'_>) -> Vec<Step> {
    let needed = needed(wanted, seen);
    let mut steps = Vec::new();
    for (name, good) in &needed {
        let Some(Ok(is)) = seen.settings.get(name) else {
            continue;
        };
        if !good.contains(&is.as_str()) {
            let value = good[0].to_owned();
            let step = Step::new(
                name,
                is,
                good[0],
                Action::Set {
                    name: name.clone(),
                    value,
                },
            );
            steps.push(step);
        }
    }
    // ARP would be answered for the last of ours while it is on its way out.
    let bound = |a: &Assigned| a.on_lo() && is_ours(a) && a.address.is_ipv4();
    let bound = seen.addresses.iter().any(bound);
    for (name, saved) in &seen.saved.settings {
        let kept = needed.contains_key(name) || (bound && ARP.iter().any(|(arp, _)| arp == name));
        // Somebody who has set it since knows why.
        let ours = matches!(seen.settings.get(name), Some(Ok(is)) if *is == saved.set);
        if ours && !kept {
            let action = Action::PutBack {
                name: name.clone(),
                value: saved.before.clone(),
            };
            steps.push(Step::new(
                name,
                &saved.set,
                format!("{} as before us", saved.before),
                action,
            ));
        }
    }
    steps
}

/// Whether this host would answer ARP for an address on `lo`.
pub(super) fn answers_arp(seen: &Seen<'_>) -> bool {
    let (name, good) = ARP[0];
    !matches!(seen.settings.get(name), Some(Ok(is)) if good.contains(&is.as_str()))
}

/// By name what they may be, the first of it if we must choose.
pub(super) fn needed(
    wanted: &Wanted,
    seen: &Seen<'_>,
) -> BTreeMap<String, &'static [&'static str]> {
    let mut needed: BTreeMap<String, &'static [&'static str]> = BTreeMap::new();
    if wanted.vips.iter().any(IpAddr::is_ipv4) {
        needed.extend(ARP.iter().map(|(name, good)| ((*name).to_owned(), *good)));
    }
    // The source of a packet out of a tunnel is a client, whom the host would not answer through the tunnel: strict
    // filtering (1) drops it. The kernel takes the larger value of `all` and of the interface, so 2 lets it in
    // whatever `all` is, and the rest of the host stays as strict as it is.
    let all = seen.settings.get(RP_FILTER_ALL);
    let all = all.and_then(|is| is.as_ref().ok()).map(String::as_str);
    let good: &[&str] = match all {
        Some("0") => &["2", "0"],
        Some("2") => &["2", "1", "0"],
        Some(_) | None => &["2"],
    };
    for link in tunnel::that_carry_ipv4(wanted, seen) {
        needed.insert(rp_filter(link), good);
    }
    needed
}

fn rp_filter(link: &Link) -> String {
    of_interface("ipv4", &link.name, "rp_filter")
}
