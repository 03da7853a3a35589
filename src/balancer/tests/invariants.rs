//! What must be true after every step of every test, PyBal's invariants and ours.

use std::sync::Arc;

use super::Story;
use crate::config::DepoolGuard;
use crate::event::Event;
use crate::service::ServiceName;
use crate::snapshot::{Health, Held, Pooled, Server, Service, Snapshot};

/// Of one moment.
pub(super) fn hold(story: &Story) {
    let snapshot = &story.snapshot;
    for (name, service) in &snapshot.services {
        pool(service);
        assert_eq!(snapshot.config.services.get(name), Some(&service.config));
    }
    assert_eq!(snapshot.config.services.len(), snapshot.services.len());
    for (address, vip) in &snapshot.vips {
        let retiring = snapshot.retiring.keys().any(|key| key.address == *address);
        assert!(
            retiring || !vip.services.is_empty(),
            "{address} is there for nothing"
        );
        if vip.announce.is_err() {
            continue;
        }
        assert!(vip.present && !snapshot.stopping);
        // Those that came while the address was announced may still be on their way, but not all of them.
        let (new, counted): (Vec<_>, Vec<_>) = vip
            .services
            .iter()
            .partition(|name| story.balancer.pools[*name].newcomer());
        assert!(!counted.is_empty() || new.iter().all(|name| ready(story, name)));
        for name in new {
            assert!(story.came_later.contains(&snapshot.services[name].key()));
        }
        for service in counted.iter().map(|name| &snapshot.services[*name]) {
            let wanted = service.destinations.as_ref().expect("announced, so known");
            assert!(
                wanted.values().any(|w| w.get() > 0),
                "announced with nothing pooled"
            );
            assert!(
                story.kernel.contains(&service.key()),
                "announced but the kernel serves nothing"
            );
        }
    }
    for service in snapshot.services.values() {
        assert!(
            snapshot.vips[&service.key().address]
                .services
                .contains(&service.config.name)
        );
    }
    for key in snapshot.retiring.keys() {
        assert!(
            snapshot.vips.contains_key(&key.address),
            "the address goes after its service"
        );
    }
}

fn ready(story: &Story, service: &ServiceName) -> bool {
    story.balancer.pools[service].refusal().is_none()
}

fn pool(service: &Service) {
    let servers = service.servers.values();
    let count = |what: &dyn Fn(&Server) -> bool| servers.clone().filter(|s| what(s)).count();
    for (host, server) in service.servers.iter() {
        let ready = server.address.is_some();
        let wanted = server.enabled() && ready && server.health == Health::Up;
        match server.pooled {
            Pooled::Yes => assert!(wanted, "{host} is pooled without a reason: {server:?}"),
            Pooled::Held(Held::DepoolThreshold) => {
                assert!(ready && server.enabled() && !wanted, "{host}")
            }
            Pooled::Held(Held::DepoolGuard | Held::StaleCatchUp) => {
                assert!(ready && !server.enabled(), "{host}")
            }
            Pooled::Held(Held::NamesUnresolved) => {
                assert!(ready && server.listed.is_none(), "{host}")
            }
            Pooled::No => assert!(!wanted, "{host} is up and not pooled: {server:?}"),
        }
    }
    let pooled = count(&|s| s.pooled.in_ipvs());
    let could = count(&|s| s.enabled() && s.address.is_some());
    let wanted = count(&|s| s.pooled == Pooled::Yes);
    let guarded = count(&|s| {
        matches!(
            s.pooled,
            Pooled::Held(Held::DepoolGuard | Held::StaleCatchUp | Held::NamesUnresolved)
        )
    });
    assert!(pooled >= could.min(service.floor), "the floor: {service:?}");
    if guarded == 0 {
        assert_eq!(
            pooled,
            wanted.max(could.min(service.floor)),
            "held for too long: {service:?}"
        );
    }
    if let Some(destinations) = &service.destinations {
        let addresses: std::collections::BTreeSet<_> = servers
            .clone()
            .filter(|s| s.pooled.in_ipvs())
            .filter_map(|s| s.address)
            .collect();
        assert_eq!(
            destinations
                .keys()
                .copied()
                .collect::<std::collections::BTreeSet<_>>(),
            addresses
        );
    }
    let checked: Vec<_> = service
        .checks
        .values()
        .map(|c| (c.host.clone(), c.target))
        .collect();
    for (host, target) in checked {
        assert_eq!(
            service.servers[&host].address,
            Some(target.ip()),
            "a check of another address"
        );
    }
}

/// Of one step.
pub(super) fn hold_over(before: &Snapshot, event: &Event, after: &Snapshot) {
    if let Event::List { service, .. } = event {
        let (Some(before), Some(after)) =
            (before.services.get(service), after.services.get(service))
        else {
            return;
        };
        let pooled = |s: &Service| s.servers.values().filter(|s| s.pooled.in_ipvs()).count();
        let larger = before.size.max(after.size);
        let threshold = after.config.depool_threshold.get();
        let line = match after.config.depool_guard {
            DepoolGuard::Off => 0,
            DepoolGuard::Last => 1,
            #[expect(clippy::cast_precision_loss, reason = "a few servers")]
            DepoolGuard::Floor => (0..=larger)
                .find(|n| *n as f64 >= larger as f64 * threshold)
                .expect("larger itself"),
        };
        // Below the line nobody goes whom only the list took out; health is the floor's matter.
        let taken_over = |was: &Server| after.servers.values().any(|is| is.address == was.address);
        for (host, was) in before
            .servers
            .iter()
            .filter(|(_, was)| was.pooled.in_ipvs())
        {
            let is = after.servers.get(host);
            let gone =
                !is.is_some_and(|is| is.enabled() || is.pooled.in_ipvs()) && !taken_over(was);
            assert!(
                !gone || pooled(after) >= line,
                "the guard let {host} go: {after:?}"
            );
        }
    }
    // What an event did not touch is the very same value.
    if let Event::Checked { service, .. } = event {
        for (name, view) in before.services.iter().filter(|(name, _)| *name != service) {
            assert!(
                Arc::ptr_eq(view, &after.services[name]),
                "{name} was touched by an event of {service}"
            );
        }
    }
}
