//! The families of our own addresses: a sample or two for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use prometheus_client::metrics::MetricType::Gauge;

use crate::api::bgp::Known;
use crate::snapshot::{Snapshot, Vip};

use super::Samples::Whole;
use super::families::label;
use super::{Family, Writer};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "vip_present",
        help: "Whether the address is on this host.",
        kind: Gauge,
        samples: Whole(|snapshot, w| each(snapshot, w, |vip| i64::from(vip.present))),
    },
    Family {
        name: "vip_announced",
        help: "Whether the address shall be announced.",
        kind: Gauge,
        samples: Whole(|snapshot, w| each(snapshot, w, |vip| i64::from(vip.announce.is_ok()))),
    },
    Family {
        name: "vip_refused",
        help: "Why the address is not announced; always 1.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            snapshot.vips.iter().try_for_each(|(ip, vip)| {
                let Err(refusal) = &vip.announce else {
                    return Ok(());
                };
                let labels = [("vip", &*ip.to_string()), ("reason", &label(refusal))];
                w.gauge(&labels, 1_i64)
            })
        }),
    },
    Family {
        name: "vip_condition",
        help: "How well the address can be served: healthy, degraded or failed; always 1.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            snapshot.vips.iter().try_for_each(|(ip, vip)| {
                let condition = label(&vip.condition);
                let labels = [("vip", &*ip.to_string()), ("condition", &condition)];
                w.gauge(&labels, 1_i64)
            })
        }),
    },
    Family {
        name: "vip_med",
        help: "The MED that it is announced with, before what a peer's configuration says of it; absent while it is not announced.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            snapshot.vips.iter().try_for_each(|(ip, vip)| {
                let Ok(announcement) = &vip.announce else {
                    return Ok(());
                };
                let med = announcement.attributes(None).med;
                w.gauge(&[("vip", &ip.to_string())], u64::from(med))
            })
        }),
    },
    Family {
        name: "vip_peers_told",
        help: "Peers that have been told of the address.",
        kind: Gauge,
        samples: Whole(told),
    },
    Family {
        name: "vip_foreign_announcements",
        help: "Peers that announce the address to us as somebody else's.",
        kind: Gauge,
        samples: Whole(foreign),
    },
];

fn each(snapshot: &Snapshot, w: &mut Writer<'_>, value: fn(&Vip) -> i64) -> fmt::Result {
    let mut vips = snapshot.vips.iter();
    vips.try_for_each(|(ip, vip)| w.gauge(&[("vip", &ip.to_string())], value(vip)))
}

fn told(snapshot: &Snapshot, w: &mut Writer<'_>) -> fmt::Result {
    let mut counts: BTreeMap<IpAddr, usize> = snapshot.vips.keys().map(|ip| (*ip, 0)).collect();
    for session in Known::all(snapshot).filter_map(|known| known.session) {
        // An address has two prefixes while one takes the other's place.
        let routes = session.routes.iter();
        let told: BTreeSet<IpAddr> = routes.map(|(to, route)| route.address(to)).collect();
        for ip in &told {
            if let Some(count) = counts.get_mut(ip) {
                *count += 1;
            }
        }
    }
    let mut counts = counts.iter();
    counts.try_for_each(|(ip, count)| w.gauge(&[("vip", &ip.to_string())], *count))
}

fn foreign(snapshot: &Snapshot, w: &mut Writer<'_>) -> fmt::Result {
    let mut vips = snapshot.vips.iter();
    vips.try_for_each(|(ip, vip)| {
        let prefix = vip.prefix_of(*ip);
        let sessions = Known::all(snapshot).filter_map(|known| known.session);
        let foreign = sessions.filter_map(|session| session.foreign.get(&prefix));
        let others = foreign.filter(|foreign| !foreign.ours);
        w.gauge(&[("vip", &ip.to_string())], others.count())
    })
}
