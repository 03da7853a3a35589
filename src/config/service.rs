//! Reads `[service.NAME]`, one service for itself; what services must agree on is in `agreement`.

use std::net::IpAddr;
use std::sync::Arc;

use super::reader::{Key, Node, Table, key, was};
use super::report::Place;
use super::{Announce, DepoolGuard, Service, Threshold, bgp, comeback, monitor, server, value};
use crate::check::{Monitor, Probe};
use crate::service::{Family, Protocol, Scheduler, ServiceName, VirtualService};

pub(super) const KEYS: &[Key] = &[
    was("address", "ip"),
    key("port"),
    key("protocol"),
    key("scheduler"),
    was("one-packet", "ops"),
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
    let address = table.required(
        "address",
        "address = \"192.0.2.11\", say",
        value::global_address,
    );
    let port = table.required("port", "port = 80, say", value::port);
    let protocol = table.required("protocol", "protocol = \"tcp\" or \"udp\"", protocol);
    let scheduler = table.required("scheduler", "scheduler = \"wrr\", say", scheduler);
    let one_packet = table.or("one-packet", false, |node| one_packet(node, protocol));
    let depool_threshold = table.or("depool-threshold", Threshold::DEFAULT, threshold);
    let depool_guard = table.or("depool-guard", DepoolGuard::Floor, depool_guard);
    let servers = server::servers(table, address.map(Family::of));
    let monitors = table.or("monitor", Vec::new(), |node| {
        monitor::monitors(node, protocol)
    });
    let vip_reachability = table.optional("vip-reachability", |node| {
        vip_reachability(node, protocol, monitors.as_deref().unwrap_or_default())
    });
    let by_default = protocol == Some(Protocol::Tcp)
        && !has_vip_reachability(monitors.as_deref().unwrap_or_default());
    let comeback = comeback::comeback(table);
    let announce = table.or("bgp", base.announce.clone(), |node| {
        bgp::announce::announce(&node.table(bgp::announce::KEYS)?, base, address)
    });
    let announce = announce.map(Arc::new);
    let key = || {
        Some(VirtualService {
            protocol: protocol?,
            address: address?,
            port: port?,
        })
    };
    let key = key();
    let shared = announce.clone();
    let service = || {
        Some(Service {
            name: good_name?,
            key: key?,
            scheduler: scheduler?,
            one_packet: one_packet?,
            depool_threshold: depool_threshold?,
            depool_guard: depool_guard?,
            servers: servers?,
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

fn protocol(node: &Node<'_>) -> Option<Protocol> {
    node.choice("protocol", [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)])
}

fn scheduler(node: &Node<'_>) -> Option<Scheduler> {
    node.choice(
        "scheduler",
        Scheduler::ALL
            .iter()
            .map(|scheduler| (scheduler.name(), *scheduler)),
    )
}

fn one_packet(node: &Node<'_>, protocol: Option<Protocol>) -> Option<bool> {
    let one_packet = node.boolean()?;
    if one_packet && protocol == Some(Protocol::Tcp) {
        node.mistake("one-packet scheduling is for UDP, this service is TCP; leave it out or write protocol = \"udp\"");
        return None;
    }
    Some(one_packet)
}

fn vip_reachability(
    node: &Node<'_>,
    protocol: Option<Protocol>,
    monitors: &[Arc<Monitor>],
) -> Option<bool> {
    let wanted = node.boolean()?;
    if wanted && protocol == Some(Protocol::Udp) {
        node.mistake("it is for TCP, this service is UDP; leave it out, or write a [[service.NAME.monitor]] of this type, with the port of a TCP server");
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
