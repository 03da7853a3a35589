//! The snapshot that a daemon with this configuration would come to: the core with the real sources and the real
//! resolver, until each has said its word once, and without any check or sink.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::balancer::Balancer;
use crate::config::Config;
use crate::control::EVENTS;
use crate::event::Event;
use crate::service::{Destinations, VirtualService};
use crate::snapshot::{Mode, Snapshot};
use crate::{resolver, source};

/// How long lists and names may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Later than any first check.
const JUDGED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// And what of it is not known, a line each.
pub(super) async fn snapshot(
    config: Arc<Config>,
    found: BTreeMap<VirtualService, Destinations>,
) -> (Arc<Snapshot>, Vec<String>) {
    let now = Instant::now().into_std();
    let mut balancer = Balancer::new(Mode::Real, config, now);
    balancer.handle(Event::Found(found), now);
    let (publish, seen) = watch::channel(balancer.snapshot(now));
    let (tell, mut events) = mpsc::channel(EVENTS);
    let mut edges = JoinSet::new();
    edges.spawn(source::run(None, seen.clone(), tell.clone()));
    edges.spawn(resolver::run(resolver::Files::default(), seen, tell));
    let end = Instant::now() + PATIENCE;
    let mut snapshot = publish.borrow().clone();
    while waits(&snapshot) {
        let Ok(Some(event)) = timeout_at(end, events.recv()).await else {
            break;
        };
        let now = Instant::now().into_std();
        balancer.handle(event, now);
        snapshot = balancer.snapshot(now);
        publish.send_replace(snapshot.clone());
    }
    (settled(&mut balancer, &snapshot), missing(&snapshot))
}

/// As it would be when the sinks have done their work and the time for first checks is over.
fn settled(balancer: &mut Balancer, snapshot: &Snapshot) -> Arc<Snapshot> {
    let now = Instant::now().into_std();
    let present: BTreeSet<_> = snapshot.vips.keys().copied().collect();
    let faults = BTreeMap::new();
    balancer.handle(Event::Addresses { present, faults }, now);
    for service in snapshot.services.values() {
        if let Some(destinations) = service.destinations.clone() {
            let service = service.key();
            balancer.handle(
                Event::Applied {
                    service,
                    destinations,
                },
                now,
            );
        }
    }
    let later = now + JUDGED;
    balancer.tick(later);
    balancer.snapshot(later)
}

/// Whether a source or the resolver has not said anything yet.
fn waits(snapshot: &Snapshot) -> bool {
    snapshot.services.values().any(|service| {
        let silent = service.destinations.is_none() && service.source.fault().is_none();
        let mut servers = service.servers.iter();
        silent
            || servers.any(|(host, server)| {
                server.listed.is_some()
                    && host.literal().is_none()
                    && server.address.is_none()
                    && server.unresolved.is_none()
            })
    })
}

fn missing(snapshot: &Snapshot) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, service) in &snapshot.services {
        if service.destinations.is_none() {
            let why = service.source.fault().map_or("none in time", |fault| fault);
            missing.push(format!("{name}: its server list: {why}"));
        }
        for (host, server) in service.servers.iter() {
            if server.listed.is_some() && server.address.is_none() && host.literal().is_none() {
                let why = server.unresolved.as_deref().unwrap_or("no answer in time");
                missing.push(format!("{name}: the address of {host}: {why}"));
            }
        }
    }
    missing
}
