//! What must be true after every step of every test, PyBal's invariants and ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Story, flat};
use crate::config::DepoolGuard;
use crate::event::Event;
use crate::service::{Freshness, Host, Listing};
use crate::snapshot::{Health, Held, KeptDown, Pooled, Scaled, Server, Service, Snapshot};

/// The longest slow start of any story.
const SLOW_START: Duration = Duration::from_secs(30);

/// Of one moment.
pub(super) fn hold(story: &Story) {
    let snapshot = &story.snapshot;
    for (name, service) in &snapshot.services {
        pool(service, story);
        guard(service, story.largest[&service.key()]);
        kept_down(service, story);
        weights(service, story);
        assert_eq!(snapshot.config.services.get(name), Some(&service.config));
    }
    assert_eq!(snapshot.config.services.len(), snapshot.services.len());
    for (address, vip) in &snapshot.vips {
        let retiring = snapshot
            .retiring
            .values()
            .any(|retiring| retiring == address);
        assert!(
            retiring || !vip.services.is_empty(),
            "{address} is there for nothing"
        );
        if vip.announce.is_err() {
            continue;
        }
        assert!(vip.present && !snapshot.stopping);
        // Those that came while the address was announced may still be on their way.
        for name in &vip.services {
            let service = &snapshot.services[name];
            let new = story.balancer.bearings[name].newcomer;
            assert!(!new || story.came_later.contains(&service.key()));
        }
    }
    for service in snapshot.services.values() {
        assert!(
            snapshot.vips[&service.config.address]
                .services
                .contains(&service.config.name)
        );
    }
    for address in snapshot.retiring.values() {
        assert!(
            snapshot.vips.contains_key(address),
            "the address goes after its service"
        );
    }
}

fn pool(service: &Service, story: &Story) {
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
                let confirmed = server.note.as_ref().is_some_and(|note| note.confirmed);
                assert!(ready && !asked(server) && !confirmed, "{host}");
                assert!(serves(server), "held, but without a weight: {host}");
            }
            Pooled::Held(Held::NamesUnresolved) => {
                assert!(ready && server.listed.is_none(), "{host}")
            }
            Pooled::No => assert!(!wanted, "{host} is up and not pooled: {server:?}"),
        }
        if let Some(until) = server.draining {
            let up = ready && server.health == Health::Up && !server.enabled();
            assert!(
                up && server.pooled == Pooled::No,
                "{host} drains: {server:?}"
            );
            let rest = until.checked_duration_since(story.now).expect("not over");
            assert!(rest <= service.config.drain_timeout, "{host}");
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
        let in_ipvs = |(_, s): &(&Host, &Server)| s.pooled.in_ipvs() || s.draining.is_some();
        let places = || service.servers.iter().filter(in_ipvs);
        let place = |(host, s): (&Host, &Server)| {
            let backend = service.config.backend(host, s.address?);
            Some((backend, serves(s) && s.draining.is_none()))
        };
        let mut expected = BTreeMap::new();
        for (backend, serves) in places().filter_map(place) {
            *expected.entry(backend).or_insert(false) |= serves;
        }
        if let Some(sorry) = sorry(service) {
            expected.insert(sorry, true);
        }
        let found = destinations.iter();
        let found = found.map(|(backend, to)| (*backend, to.weight.get() > 0));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected, "{service:?}");
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

/// Nobody is kept down without a rule, or for longer than that says.
fn kept_down(service: &Service, story: &Story) {
    for (host, server) in service.servers.iter() {
        let Some(KeptDown::FlapHold { until }) = server.kept_down else {
            continue;
        };
        let rule = service.config.comeback.flap_hold.expect("there is a rule");
        assert_eq!(server.health, Health::Down, "{host}");
        assert!(story.now < until, "{host} is kept down for too long");
        assert!(until - story.now <= rule.longest, "{host}");
    }
}

/// A weight is its list's, or scaled for a reason and within its bounds; nobody's else.
fn weights(service: &Service, story: &Story) {
    let servers = service.servers.iter();
    let floor_holds = |server: &Server| server.pooled == Pooled::Held(Held::DepoolThreshold);
    let dead = |server: &Server| server.pooled.in_ipvs() && server.health != Health::Up;
    let short = service.servers.values().any(dead);
    for (host, server) in servers.clone() {
        for scaled in &server.scaled {
            match scaled {
                Scaled::SlowStart { percent } => {
                    assert!(*percent < 100 && !short, "{host}: {service:?}");
                    assert!(service.config.comeback.slow_start.is_some(), "{host}");
                    let entered = story.entered[&(service.key(), host.clone())];
                    assert!(story.now - entered < SLOW_START, "{host} is not through");
                }
                Scaled::Load { percent } => {
                    assert_ne!(*percent, 100, "{host}");
                    assert!(bound(service) > 0, "{host}: nobody looks at its load");
                }
            }
        }
        assert!(
            server.scaled.is_empty() || server.health == Health::Up && !floor_holds(server),
            "{host} is scaled though it is not up: {server:?}"
        );
    }
    let Some(destinations) = &service.destinations else {
        return;
    };
    for (backend, to) in &**destinations {
        if sorry(service) == Some(*backend) {
            continue;
        }
        // Of two names of one address the larger weight counts.
        let there = |(host, s): &(&Host, &Server)| {
            let own = s
                .address
                .map(|address| service.config.backend(host, address));
            own == Some(*backend) && (s.pooled.in_ipvs() || s.draining.is_some())
        };
        let bounds = servers
            .clone()
            .filter(there)
            .map(|(_, s)| range(service, s));
        let bounds = bounds.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)));
        let (least, most) = bounds.expect("somebody has it");
        let weight = u64::from(to.weight.get());
        assert!(
            (least..=most).contains(&weight),
            "{backend} has {weight}, not {least} to {most}: {service:?}"
        );
    }
}

/// What the weight of a server that the kernel shall have may be.
fn range(service: &Service, server: &Server) -> (u64, u64) {
    if server.draining.is_some() {
        return (0, 0);
    }
    let listed = server.listed.map(|listed| u64::from(listed.weight.get()));
    match (server.pooled, listed) {
        // Drained, or on its way out and kept by the guard with what it had.
        (Pooled::Yes | Pooled::Held(Held::DepoolThreshold), Some(0)) => (0, 0),
        (_, None | Some(0)) => (1, u64::MAX),
        (_, Some(listed)) if server.scaled.is_empty() => (listed, listed),
        (_, Some(listed)) => (1, (listed * bound(service).max(100) / 100).max(1)),
    }
}

/// The most percent of its weight that a server's load may give it; 0: nobody looks at it.
fn bound(service: &Service) -> u64 {
    let loads = service.config.monitors.iter();
    let most = loads.filter_map(|monitor| monitor.load.as_ref());
    most.map(|load| u64::from(load.most))
        .reduce(|a, b| a * b / 100)
        .unwrap_or(0)
}

/// Whether its list gives it new connections.
fn asked(server: &Server) -> bool {
    server.enabled() && server.listed.is_some_and(|listed| listed.weight.get() > 0)
}

fn held_by_guard(server: &Server) -> bool {
    matches!(
        server.pooled,
        Pooled::Held(Held::DepoolGuard | Held::StaleCatchUp)
    )
}

/// Whether it gets new connections. Whom the guard holds does, and what the kernel has when a story begins.
fn serves(server: &Server) -> bool {
    match server.pooled {
        Pooled::No => false,
        Pooled::Yes | Pooled::Held(Held::DepoolThreshold) => {
            server.listed.is_some_and(|listed| listed.weight.get() > 0)
        }
        Pooled::Held(Held::DepoolGuard | Held::StaleCatchUp | Held::NamesUnresolved) => true,
    }
}

/// The one that answers while nobody else does.
fn sorry(service: &Service) -> Option<SocketAddr> {
    service.config.sorry.filter(|_| serving(service) == 0)
}

fn serving(service: &Service) -> usize {
    service.servers.values().filter(|s| serves(s)).count()
}

/// Whom the guard holds it holds for its line, and no more of them than that needs.
fn guard(service: &Service, largest: usize) {
    let held = service.servers.values().any(held_by_guard);
    assert_eq!(held, service.guard.is_some(), "{service:?}");
    let Some(guard) = service.guard else { return };
    assert!(
        guard.size >= service.size && guard.size <= largest,
        "{guard:?} of {largest}"
    );
    let floor = line(service, guard.size, DepoolGuard::Floor);
    let careful = |s: &Server| s.pooled == Pooled::Held(Held::StaleCatchUp);
    let catch_up = service.servers.values().any(careful);
    assert_ne!(service.config.depool_guard, DepoolGuard::Off);
    let own = line(service, guard.size, service.config.depool_guard);
    assert_eq!(guard.line, if catch_up { own.max(floor) } else { own });
    let rather = |server: &&Server| {
        let pooled = server.pooled != Pooled::Held(Held::DepoolThreshold);
        pooled && serves(server)
    };
    let rather = service.servers.values().filter(rather).count();
    assert!(rather <= guard.line, "held beyond the line: {service:?}");
}

fn line(service: &Service, size: usize, guard: DepoolGuard) -> usize {
    let threshold = service.config.depool_threshold.get();
    match guard {
        DepoolGuard::Off => 0,
        DepoolGuard::Last => 1,
        #[expect(clippy::cast_precision_loss, reason = "a few servers")]
        DepoolGuard::Floor => (0..=size)
            .find(|n| *n as f64 >= size as f64 * threshold)
            .expect("size itself"),
    }
}

/// Of one step.
pub(super) fn hold_over(before: &Snapshot, event: &Event, story: &Story) {
    let after = &story.snapshot;
    let events = flat(event);
    let mut lists: BTreeMap<_, Vec<&Listing>> = BTreeMap::new();
    for event in &events {
        if let Event::List { service, list, .. } = event {
            lists.entry(service).or_default().push(list);
        }
    }
    for (name, lists) in lists {
        if let (Some(was), Some(is)) = (before.services.get(name), after.services.get(name)) {
            nobody_goes_below_the_line(was, &lists, is);
        }
    }
    for service in after.services.values() {
        let was = before
            .services
            .values()
            .find(|was| was.key() == service.key());
        revisions(was.map(|was| &**was), service, story);
    }
    for event in &events {
        if let Event::Load { service, .. } = event
            && events.len() == 1
            && let (Some(was), Some(is)) =
                (before.services.get(service), after.services.get(service))
        {
            a_load_moves_nobody(was, is);
        }
    }
    // What an event did not touch is the very same value.
    let touched = events.iter().map(|event| {
        if let Event::Checked { service, .. }
        | Event::Load { service, .. }
        | Event::List { service, .. }
        | Event::SourceFailed { service, .. } = event
        {
            Some(service)
        } else {
            None
        }
    });
    let Some(touched) = touched.collect::<Option<BTreeSet<_>>>() else {
        return;
    };
    for (name, view) in before
        .services
        .iter()
        .filter(|(name, _)| !touched.contains(name))
    {
        assert!(
            Arc::ptr_eq(view, &after.services[name]),
            "{name} was touched by an event of {touched:?}"
        );
    }
}

/// Nor does it touch who is drained or held for want of others.
fn a_load_moves_nobody(before: &Service, after: &Service) {
    assert_eq!(before.condition, after.condition);
    for (host, was) in before.servers.iter() {
        let is = &after.servers[host];
        assert_eq!((was.pooled, was.health), (is.pooled, is.health), "{host}");
    }
    let weights = |service: &Service| {
        let drained = |server: &&Server| {
            let floor = server.pooled == Pooled::Held(Held::DepoolThreshold);
            floor || server.pooled.in_ipvs() && !asked(server) && !held_by_guard(server)
        };
        let addresses = service.servers.values().filter(drained);
        let addresses: BTreeSet<_> = addresses.filter_map(|server| server.address).collect();
        let shared = |address: &IpAddr| {
            let of = |s: &&Server| s.address == Some(*address);
            service.servers.values().filter(of).count() > 1
        };
        let destinations = service.destinations.clone().unwrap_or_default();
        let own = addresses.into_iter().filter(|address| !shared(address));
        let port = service.key().port().unwrap_or(0);
        own.map(|address| destinations.get(&SocketAddr::new(address, port)).copied())
            .collect::<Vec<_>>()
    };
    assert_eq!(weights(before), weights(after));
}

/// Below the line nobody goes whom only the list took out; health is the floor's matter.
fn nobody_goes_below_the_line(before: &Service, lists: &[&Listing], after: &Service) {
    let larger = before.size.max(after.size);
    let guard = after.config.depool_guard;
    let mut least = line(after, larger, guard);
    let late = |list: &&Listing| list.freshness == Freshness::CatchUp;
    if lists.last().is_some_and(late) && guard != DepoolGuard::Off {
        least = least.max(line(after, larger, DepoolGuard::Floor));
    }
    let confirms = |list: &Listing, host: &Host| {
        let note = list.notes.get(host);
        note.is_some_and(|note| note.confirmed)
    };
    let confirmed = |host: &Host| lists.iter().any(|list| confirms(list, host));
    let taken_over = |was: &Server| after.servers.values().any(|is| is.address == was.address);
    let served = before.servers.iter().filter(|(_, was)| serves(was));
    for (host, was) in served.filter(|(host, _)| !confirmed(host)) {
        let gone = match after.servers.get(host) {
            Some(is) => !asked(is) && !serves(is),
            None => !taken_over(was),
        };
        assert!(
            !gone || serving(after) >= least,
            "the guard let {host} go: {after:?}"
        );
    }
}

/// A revision counts as applied when the kernel was read to hold what is wanted by it, not before and not later.
fn revisions(before: Option<&Service>, after: &Service, story: &Story) {
    let Service {
        revision,
        applied_revision,
        ..
    } = after;
    assert!(applied_revision <= revision, "{after:?}");
    let read = story.in_kernel.get(&after.key());
    if before.is_none_or(|before| before.applied_revision != *applied_revision)
        && applied_revision.is_some()
    {
        assert_eq!(applied_revision, revision);
        assert_eq!(read, after.destinations.as_ref(), "applied too early");
    }
    let same = |(read, wanted)| Arc::ptr_eq(read, wanted);
    if read.zip(after.destinations.as_ref()).is_some_and(same) {
        assert_eq!(applied_revision, revision, "not seen that it is applied");
    }
}
