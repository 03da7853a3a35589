//! Reads `[service.NAME]`, one service for itself; what services must agree on is in `agreement`.

use std::net::IpAddr;
use std::sync::Arc;

use super::reader::{Key, Node, Table, key, was};
use super::report::Place;
use super::{Announce, DepoolGuard, Service, Threshold, bgp, monitor, server, value};
use crate::routing::Policy;
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
    key("bgp"),
];

pub(super) const BGP_KEYS: &[Key] = &[was("announce", "bgp"), was("med", "bgp-med")];

/// As much of a service as could be read.
pub(super) struct Draft<'a> {
    pub(super) place: Place<'a>,
    pub(super) address: Option<IpAddr>,
    pub(super) key: Option<VirtualService>,
    pub(super) announce: Option<Arc<Announce>>,
    /// Where `servers` stands.
    pub(super) servers: Option<Place<'a>>,
    /// `None`: something was wrong, and has been noted.
    pub(super) service: Option<Service>,
}

pub(super) fn service<'a>(name: &str, table: &Table<'a>) -> Draft<'a> {
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
    let announce = table.or("bgp", Announce::default(), announce).map(Arc::new);
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
            monitors: monitors?,
            announce: shared?,
        })
    };
    Draft {
        place: table.place.clone(),
        address,
        key,
        announce,
        servers: table.get("servers").map(|node| node.place().clone()),
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

fn announce(node: &Node<'_>) -> Option<Announce> {
    let table = node.table(BGP_KEYS)?;
    let announce = table.or("announce", true, Node::boolean);
    let med = table.optional("med", bgp::med);
    Some(Announce {
        announce: announce?,
        policy: Arc::new(med?.map(Policy::of_med).unwrap_or_default()),
        ..Announce::default()
    })
}
