//! The kernel's table, as it shall be and as it was read.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::service::Host;
use crate::snapshot::{Mode, Service};

use super::View;
use super::services::Applied;
use super::time::Time;

pub(super) fn all(view: &View<'_>) -> String {
    let snapshot = view.snapshot;
    let repairs = &snapshot.repairs;
    super::body(&Ipvs {
        mode: snapshot.mode,
        services: (snapshot.services.values())
            .map(|service| Programmed::of(view, service))
            .collect(),
        retiring: (snapshot.retiring.keys())
            .map(ToString::to_string)
            .collect(),
        repaired_host: &repairs.host,
        repairs: (repairs.last.iter().rev())
            .map(|repair| Mended {
                at: Time::of(repair.at, view.now),
                object: &repair.object,
                change: &repair.change,
            })
            .collect(),
    })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Ipvs<'a> {
    /// Whether the table is the kernel's.
    mode: Mode,
    services: Vec<Programmed<'a>>,
    /// Services that are to go once their address is withdrawn.
    retiring: Vec<String>,
    /// How often a part of this host was put right after someone else had changed it.
    repaired_host: &'a BTreeMap<&'static str, u64>,
    /// The last of all repairs, the newest first.
    repairs: Vec<Mended<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Programmed<'a> {
    service: &'a str,
    /// What the kernel knows it by.
    key: String,
    scheduler: &'static str,
    applied: Applied<'a>,
    /// Times that it was put right after someone else had changed it.
    repaired: u64,
    /// False: it is not known yet what IPVS shall hold, and what is there is left alone.
    known: bool,
    destinations: Vec<DestinationState<'a>>,
}

/// One that IPVS shall hold, or that it was read to hold.
#[derive(Serialize, JsonSchema)]
struct DestinationState<'a> {
    destination: SocketAddr,
    /// The server that it is for. Null: the sorry server, or nobody's any more.
    host: Option<&'a str>,
    /// Null: IPVS shall not hold it.
    wanted_weight: Option<u32>,
    /// Whether IPVS holds it. Null: it has not been read of late.
    in_kernel: Option<bool>,
    active: Option<u32>,
    inactive: Option<u32>,
}

/// What was put right.
#[derive(Serialize, JsonSchema)]
struct Mended<'a> {
    at: Time,
    /// A service's name, or the part of the host.
    object: &'a str,
    /// What it was, and what it is again.
    change: &'a str,
}

impl<'a> Programmed<'a> {
    fn of(view: &View<'_>, service: &'a Service) -> Programmed<'a> {
        Programmed {
            service: service.config.name.as_str(),
            key: service.key().to_string(),
            scheduler: service.config.scheduling.scheduler.name(),
            applied: Applied::of(service),
            repaired: service.counters.repaired,
            known: service.destinations.is_some(),
            destinations: destinations(view, service),
        }
    }
}

fn destinations<'a>(view: &View<'_>, service: &'a Service) -> Vec<DestinationState<'a>> {
    let reading = service.traffic.reading(view.now.monotonic);
    let wanted = service.destinations.as_deref();
    let mut hosts: BTreeMap<SocketAddr, &Host> = BTreeMap::new();
    for (host, server) in &*service.servers {
        if let Some(address) = server.address {
            hosts.insert(service.config.backend(host, address), host);
        }
    }
    let mut all: Vec<SocketAddr> = wanted
        .into_iter()
        .flat_map(|to| to.keys().copied())
        .collect();
    all.extend(
        reading
            .iter()
            .flat_map(|reading| reading.servers.keys().copied()),
    );
    all.sort_unstable();
    all.dedup();
    let state = |destination: SocketAddr| {
        let figures = reading
            .as_ref()
            .map(|reading| reading.servers.get(&destination));
        let found = figures.flatten();
        DestinationState {
            destination,
            host: hosts.get(&destination).map(|host| host.as_str()),
            wanted_weight: wanted
                .and_then(|to| to.get(&destination))
                .map(|to| to.weight.get()),
            in_kernel: figures.map(|found| found.is_some()),
            active: found.map(|found| found.active),
            inactive: found.map(|found| found.inactive),
        }
    };
    all.into_iter().map(state).collect()
}
