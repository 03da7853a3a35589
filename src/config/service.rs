//! Reads `[service.NAME]`, one service for itself; what services must agree on is in `agreement`.

pub(super) mod delivery;
mod key;
mod scheduling;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::key::Known;

use super::reader::{Key, Node, Table, key, was};
use super::report::Place;
use super::value::Durations;
use super::{Announce, DepoolGuard, Service, Threshold, bgp, comeback, monitor, server, value};
use crate::check::{Monitor, Probe};
use crate::service::{
    Delivery, Forwarding, Protocol, Scheduler, Scheduling, ServiceName, VirtualService,
};

pub(super) const KEYS: &[Key] = &[
    was("address", "ip"),
    key("port"),
    key("protocol"),
    key("firewall-mark"),
    key("scheduler"),
    key("scheduler-flags"),
    was("one-packet", "ops"),
    key("persistence-timeout"),
    key("persistence-prefix-length"),
    key("persistence-engine"),
    key("server-port"),
    key("server-family"),
    key("sorry"),
    key("drain-timeout"),
    key("depool-threshold"),
    key("depool-guard"),
    was("servers", "config"),
    key("server"),
    was("monitor", "monitors"),
    key("vip-reachability"),
    key("start"),
    key("flap-hold"),
    key("slow-start"),
    key("bgp"),
];

/// As long as a day: whoever waits longer wants no end.
const DRAIN_TIMEOUT: Durations = Durations {
    least: Duration::ZERO,
    most: Duration::from_secs(24 * 60 * 60),
    whole_seconds: false,
    example: "5m",
};

/// As much of a service as could be read.
pub(super) struct Draft<'a> {
    pub(super) table: Table<'a>,
    pub(super) address: Option<IpAddr>,
    pub(super) key: Option<VirtualService>,
    pub(super) announce: Option<Arc<Announce>>,
    /// `None`: something was wrong, and has been noted.
    pub(super) service: Option<Service>,
}

impl<'a> Draft<'a> {
    /// As messages name it.
    pub(super) fn named(&self) -> String {
        let place = &self.table.place;
        format!("{} (line {})", place.path(), place.line())
    }

    /// Where a key of `[service.NAME.bgp]` stands, which may be one of a table in it: `condition.failed`. If it is
    /// not there, on the line of the table that it would stand in.
    pub(super) fn place_of_bgp(&self, path: &str) -> Place<'a> {
        let mut table = Some(self.table.clone());
        let mut place = self.table.place.clone();
        for key in ["bgp"].into_iter().chain(path.split('.')) {
            let node = table.and_then(|table| table.get(key));
            place = match &node {
                Some(node) => node.place().clone(),
                None => place.child(key, place.offset()),
            };
            table = node.and_then(|node| node.as_table());
        }
        place
    }
}

/// A server that drains has weight 0, and so nobody drains where that would refuse clients.
fn drain_timeout(table: &Table<'_>, scheduling: Option<&Scheduling>) -> Option<Duration> {
    let hash = scheduling.filter(|scheduling| scheduling.refuses_by_hash());
    let usual = match hash {
        Some(_) => Duration::ZERO,
        None => Service::DRAIN_TIMEOUT,
    };
    table.or("drain-timeout", usual, |node| {
        let time = value::duration(node, &DRAIN_TIMEOUT)?;
        let Some(scheduling) = hash.filter(|_| !time.is_zero()) else {
            return Some(time);
        };
        let scheduler = scheduling.scheduler;
        let instead = if scheduler == Scheduler::Dh {
            "write \"0s\"".to_owned()
        } else {
            format!("write scheduler-flags = [\"{scheduler}-fallback\"] too, or \"0s\"")
        };
        node.mistake(format_args!(
            "by {scheduler}, clients whose hash is of a server that drains are refused; {instead}"
        ));
        None
    })
}

/// `base`: what is announced of an address of which the service says nothing.
pub(super) fn service<'a>(name: &str, table: &Table<'a>, base: &bgp::announce::Base) -> Draft<'a> {
    let good_name = match name.parse::<ServiceName>() {
        Ok(name) => Some(name),
        Err(error) => {
            table.place.mistake(format_args!(
                "{error}; write a name like [service.text-https]"
            ));
            None
        }
    };
    let known = key::key(table);
    let Known {
        address,
        protocol,
        key,
    } = known;
    let scheduling = scheduling::scheduling(table, known);
    let delivery = delivery::delivery(table, Delivery::default());
    let forwarding = delivery.map(|delivery| delivery.forwarding);
    let server_port = delivery::server_port(table, known, forwarding);
    let server_family = delivery::server_family(table, known, forwarding);
    let sorry = delivery::sorry(table, server_port, server_family, forwarding);
    let drain_timeout = drain_timeout(table, scheduling.as_ref());
    let depool_threshold = table.or("depool-threshold", Threshold::DEFAULT, threshold);
    let depool_guard = table.or("depool-guard", DepoolGuard::Floor, depool_guard);
    let servers = server::servers(table, server_family, delivery.unwrap_or_default());
    let default_port = key.is_none() || server_port != Some(0);
    let monitors = table.or("monitor", Vec::new(), |node| {
        monitor::monitors(node, protocol, default_port)
    });
    let direct = delivery::is_direct(delivery, key);
    let way = |monitor: &&Arc<Monitor>| monitor.asks_at_vip();
    if let Some(monitor) = monitors.iter().flatten().find(way)
        && forwarding.is_some_and(|forwarding| forwarding != Forwarding::DirectRouting)
    {
        let (place, kind) = (table.place_of("monitor"), monitor.probe.kind());
        place.mistake(format_args!("{kind} takes the way of direct routing, which is not this service's forwarding; write a monitor of the server itself"));
    }
    let vip_reachability = table.optional("vip-reachability", |node| {
        vip_reachability(
            node,
            protocol,
            direct,
            monitors.as_deref().unwrap_or_default(),
        )
    });
    let by_default = direct
        && protocol == Some(Protocol::Tcp)
        && !has_vip_reachability(monitors.as_deref().unwrap_or_default());
    let comeback = comeback::comeback(table);
    let announce = table.or("bgp", base.announce.clone(), |node| {
        bgp::announce::announce(&node.table(bgp::announce::KEYS)?, base, address)
    });
    let announce = announce.map(Arc::new);
    let shared = announce.clone();
    let service = || {
        let (servers, deliveries) = servers?;
        Some(Service {
            name: good_name?,
            address: address?,
            key: key?,
            scheduling: scheduling?,
            delivery: delivery?,
            deliveries,
            server_port: server_port?,
            server_family: server_family?,
            sorry: sorry?,
            drain_timeout: drain_timeout?,
            depool_threshold: depool_threshold?,
            depool_guard: depool_guard?,
            servers,
            vip_reachability: vip_reachability?.unwrap_or(by_default),
            monitors: monitors?,
            comeback: comeback?,
            announce: shared?,
        })
    };
    Draft {
        table: table.clone(),
        address,
        key,
        announce,
        service: service(),
    }
}

fn vip_reachability(
    node: &Node<'_>,
    protocol: Option<Protocol>,
    direct: bool,
    monitors: &[Arc<Monitor>],
) -> Option<bool> {
    let wanted = node.boolean()?;
    if wanted && !direct {
        node.mistake("it is for direct routing and one port; leave it out");
        return None;
    }
    if let Some(other) = protocol.filter(|other| wanted && *other != Protocol::Tcp) {
        let other = other.to_string().to_uppercase();
        node.mistake(format_args!("it is for TCP, this service is {other}; leave it out, or write a [[service.NAME.monitor]] of this type, with the port of a TCP server"));
        return None;
    }
    if wanted && has_vip_reachability(monitors) {
        node.mistake("there is a monitor of this type, which takes its place; leave this out");
        return None;
    }
    Some(wanted)
}

fn has_vip_reachability(monitors: &[Arc<Monitor>]) -> bool {
    let is = |monitor: &Arc<Monitor>| monitor.probe == Probe::VipReachability;
    monitors.iter().any(is)
}

fn depool_guard(node: &Node<'_>) -> Option<DepoolGuard> {
    node.choice(
        "depool-guard",
        [
            ("off", DepoolGuard::Off),
            ("last", DepoolGuard::Last),
            ("floor", DepoolGuard::Floor),
        ],
    )
}

fn threshold(node: &Node<'_>) -> Option<Threshold> {
    let Some(fraction) = node.number() else {
        node.wrong_type("a number", "0 to 1, say 0.5");
        return None;
    };
    let threshold = Threshold::new(fraction);
    if threshold.is_none() {
        node.mistake(format_args!(
            "{fraction} is no fraction of the servers; write 0 to 1, say 0.5"
        ));
    }
    threshold
}
