//! One service: who is pooled, and why. Pure: no clock, no I/O, nothing waits.
//!
//! Invariants, held after every step (`balancer/tests/invariants.rs`):
//! - pooled ⇒ ready; pooled and not wanted ⇒ held, with a reason.
//! - wanted ⇒ pooled.
//! - at least min(floor, enabled and ready) servers are pooled, whatever happened.
//! - a held server is let go as soon as the line holds without it.
//! - no list takes new connections from more servers than the depool guard allows, by whatever words.

mod drain;
mod flaps;
mod floor;
mod list;
mod member;
mod ramp;
mod said;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use self::drain::Drain;
pub(crate) use self::member::CheckIds;
use self::member::Member;
use self::ramp::Ramp;
use crate::check::Monitor;
use crate::config::{self, Servers, WithdrawWhen};
use crate::event::{CheckId, Verdict};
use crate::service::{Destination, Destinations, Host, Override, Weight};
use crate::snapshot::traffic::Traffic;
use crate::snapshot::{
    Applied, Condition, Counters, Guard, Health, Held, Mode, Pooled, Refusal, Service, Source,
};

/// How long after its first server list a pool may be judged though a first check is still missing,
/// on top of the longest timeout of its monitors.
const FIRST_CHECK_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Pool {
    mode: Mode,
    config: Arc<config::Service>,
    /// Of each server.
    monitors: Vec<Arc<Monitor>>,
    members: BTreeMap<Host, Member>,
    /// How many servers the list has; `None`: no list yet.
    size: Option<usize>,
    source: Source,
    /// Entries of the source that cannot be used.
    list_faults: Arc<BTreeMap<String, String>>,
    /// What operators say in place of the list.
    overrides: BTreeMap<Host, Arc<Override>>,
    revision: Option<u64>,
    applied_revision: Option<u64>,
    /// The source, if the list in force came all at once after it had been away.
    catch_up: Option<Servers>,
    /// What the kernel had when we came; `None`: not told yet.
    found: Option<Destinations>,
    /// While somebody is leaving: the size of the pool that the guard is a fraction of.
    guarded_size: Option<usize>,
    /// What holds somebody back, as last decided.
    guard: Option<Guard>,
    applied: Applied,
    /// What the kernel was last read to hold.
    in_kernel: Option<Arc<Destinations>>,
    /// Whether that has a server that gets new connections.
    served_by_kernel: bool,
    /// Every server has been checked once, or the time for it is over; never unset.
    judged: bool,
    judge_by: Option<Instant>,
    /// Its address was announced before it came, and it has not been ready for that yet.
    newcomer: bool,
    counters: Counters,
    /// For those who read and show it.
    traffic: Arc<Traffic>,
    view: Option<Arc<Service>>,
}

/// What of a pool bears on its address.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bearing {
    pub(crate) condition: Condition,
    /// Why its address may not be announced; `None`: this service does not stand in the way.
    pub(crate) refusal: Option<Refusal>,
    /// Its address was announced before it came, and it has not been ready for that yet.
    pub(crate) newcomer: bool,
    pub(crate) announce: Arc<config::Announce>,
}

impl Pool {
    /// `newcomer`: its address is announced already.
    pub(crate) fn new(config: Arc<config::Service>, mode: Mode, newcomer: bool) -> Pool {
        Pool {
            mode,
            monitors: monitors(&config, mode),
            config,
            members: BTreeMap::new(),
            size: None,
            source: Source::Waiting,
            list_faults: Arc::default(),
            overrides: BTreeMap::new(),
            revision: None,
            applied_revision: None,
            catch_up: None,
            found: None,
            guarded_size: None,
            guard: None,
            applied: Applied::NotYet,
            in_kernel: None,
            served_by_kernel: false,
            judged: false,
            judge_by: None,
            newcomer,
            counters: Counters::default(),
            traffic: Arc::default(),
            view: None,
        }
    }

    pub(crate) fn config(&self) -> &Arc<config::Service> {
        &self.config
    }

    /// The same service with other settings. What did not change goes on undisturbed.
    pub(crate) fn reconfigure(&mut self, config: Arc<config::Service>) {
        self.monitors = monitors(&config, self.mode);
        let flap_hold = self.config.comeback.flap_hold != config.comeback.flap_hold;
        let at = |config: &config::Service| {
            let ports = (
                config.server_port,
                config.delivery,
                config.deliveries.clone(),
            );
            (config.name.clone(), config.address, ports)
        };
        let moved = at(&self.config) != at(&config);
        for (host, member) in &mut self.members {
            if member.backend(host, &self.config) != member.backend(host, &config) {
                // That was said of another destination.
                member.stuck = None;
            }
            member.set_monitors(&self.monitors);
            if flap_hold {
                member.forget_flaps();
            }
            member
                .ramp
                .take_if(|_| config.comeback.slow_start.is_none());
            if moved {
                member.restart_checks();
            }
        }
        if self.config.servers != config.servers {
            // The list in force stays until the new source has one, but nothing more is known of it.
            self.source = Source::Waiting;
            self.list_faults = Arc::default();
            self.revision = None;
            self.applied_revision = None;
        }
        self.config = config;
    }

    /// All addresses of a name, never none. The one in use stays in use while it is among them.
    pub(crate) fn resolved(&mut self, name: &Host, addresses: &[IpAddr]) {
        let mut best = BTreeMap::new();
        for (host, member) in named(&mut self.members, name) {
            member.answered = true;
            member.unresolved = None;
            let in_use = member.address.filter(|address| addresses.contains(address));
            // Rather the one that the kernel already has, so that a start changes nothing.
            let known = |address: &&IpAddr| {
                let backend = self.config.backend(host, **address);
                let found = self.found.as_ref();
                found.is_some_and(|found| found.contains_key(&backend))
            };
            let first = || addresses.iter().find(known).or(addresses.first()).copied();
            best.extend(in_use.or_else(first).map(|best| (host.clone(), best)));
        }
        for (host, address) in best {
            self.give_address(&host, address);
        }
    }

    pub(crate) fn unresolved(&mut self, name: &Host, fault: &str) {
        for (_, member) in named(&mut self.members, name) {
            member.answered = true;
            member.unresolved = Some(fault.into());
        }
    }

    /// What the kernel held before we touched it: those servers are taken as up and pooled. May come again.
    pub(crate) fn found(&mut self, destinations: Destinations) {
        if self.found.is_some() && self.applied != Applied::NotYet {
            // Told anew under another name; but what it holds by now is our own work and proves nothing.
            return;
        }
        for (backend, destination) in &destinations {
            let weight = destination.weight;
            let same = |(host, member): &(&Host, &mut Member)| {
                member.backend(host, &self.config) == Some(*backend)
            };
            if let Some((_, member)) = self.members.iter_mut().find(same) {
                member.adopt(weight, self.config.comeback.start);
            } else {
                let stand_in = self.stand_in(*backend);
                // On a port that no server of this service has, it is none: the service was another one before.
                if self.config.backend(&stand_in, backend.ip()) == *backend {
                    let member = Member::unidentified(backend.ip(), weight, &self.monitors);
                    self.members.insert(stand_in, member);
                }
            }
        }
        self.mark_leaving(destinations.len());
        self.found = Some(destinations);
    }

    /// A check's verdict; one of a check that no longer exists is ignored.
    pub(crate) fn checked(&mut self, check: CheckId, verdict: &Verdict, now: Instant) {
        for (host, member) in &mut self.members {
            let (before, kept) = (member.health(), member.kept_down());
            let flap_hold = self.config.comeback.flap_hold.as_ref();
            if member.checked(check, verdict, flap_hold, now) {
                let after = member.health();
                if before != after {
                    let service = &self.config.name;
                    let why = match verdict {
                        Verdict::Up => "",
                        Verdict::Down(why) => why,
                    };
                    info!(%service, %host, ?before, ?after, why, "health changed");
                }
                if let Some(why) = member.kept_down().filter(|why| kept != Some(*why)) {
                    let (service, time) = (&self.config.name, why.rest(now));
                    warn!(%service, %host, %why, ?time, "goes down too often: kept down");
                }
                return;
            }
        }
    }

    /// What a check says of its server's load.
    pub(crate) fn loaded(&mut self, check: CheckId, percent: u32) {
        let mut members = self.members.values_mut();
        members.any(|member| member.loaded(check, percent));
    }

    pub(crate) fn applied(&mut self, destinations: Arc<Destinations>) {
        self.applied = Applied::Yes;
        self.served_by_kernel = serves(&destinations);
        self.in_kernel = Some(destinations);
    }

    pub(crate) fn not_applied(&mut self, fault: &str, holds: bool) {
        self.served_by_kernel = holds;
        self.in_kernel = None;
        self.applied = Applied::Failed {
            fault: fault.into(),
            holds,
        };
    }

    /// Which server takes no connections up. No reason to depool it: its checks decide.
    pub(crate) fn stuck(&mut self, backend: SocketAddr, why: Option<&str>) {
        for (host, member) in &mut self.members {
            if member.backend(host, &self.config) == Some(backend) {
                member.stuck = why.map(Arc::from);
            }
        }
    }

    pub(crate) fn repaired(&mut self) {
        self.counters.repaired += 1;
    }

    /// When it is to be settled again though nothing has happened, as of when it was last settled at `now`: it may
    /// be judged though checks are missing, a hold ends, a weight rises.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let judge_by = self.judge_by.filter(|_| !self.judged);
        let members = self.members.values();
        let members = members.filter_map(|member| member.wake_at(now));
        members.chain(judge_by).min()
    }

    /// Decides anew, after any number of events, and shows the result. Cheap if nothing changed.
    pub(crate) fn settle(&mut self, ids: &mut CheckIds, now: Instant) -> Arc<Service> {
        for (host, member) in &mut self.members {
            if member.end_hold(now) {
                let service = &self.config.name;
                info!(%service, %host, "no longer kept down");
            }
        }
        self.decide(now);
        for (host, member) in &mut self.members {
            member.start_checks(host, &self.config, ids);
        }
        let all_checked = || {
            self.members
                .values()
                .filter(|m| m.said.is_listed())
                .all(Member::first_checked)
        };
        if self.size.is_some() && !self.judged {
            self.judged = all_checked() || self.judge_by.is_some_and(|at| at <= now);
        }
        let mut view = self.view();
        if self.is_in_kernel(view.destinations.as_ref()) {
            self.applied_revision = self.revision;
        }
        view.applied_revision = self.applied_revision;
        view.refusal = self.refusal(view.destinations.as_deref());
        self.newcomer &= view.refusal.is_some();
        view.newcomer = self.newcomer;
        let view = Arc::new(view);
        self.view = Some(view.clone());
        view
    }

    /// What of it bears on its address, as last settled.
    pub(crate) fn bearing(&self) -> Bearing {
        let view = self.view.as_ref();
        Bearing {
            condition: view.map_or(Condition::Failed, |view| view.condition),
            refusal: view.map_or(Some(Refusal::NoServerList), |view| view.refusal),
            newcomer: self.newcomer,
            announce: self.config.announce.clone(),
        }
    }

    /// `wanted`: what IPVS shall hold.
    fn refusal(&self, wanted: Option<&Destinations>) -> Option<Refusal> {
        // PyBal's way: whatever its servers are, but the kernel must hold the service.
        let never = self.config.announce.withdraw_when == WithdrawWhen::Never;
        let in_kernel = self.served_by_kernel || never && self.in_kernel.is_some();
        if wanted.is_none() {
            Some(Refusal::NoServerList)
        } else if !self.judged {
            Some(Refusal::NotChecked)
        } else if !never && !wanted.is_some_and(serves) {
            Some(Refusal::NothingPooled)
        } else if !in_kernel {
            Some(Refusal::NotApplied)
        } else {
            None
        }
    }

    fn decide(&mut self, now: Instant) {
        // A literal without an address is one of the other family: it will never have one.
        let missing = |(host, m): (&Host, &Member)| {
            m.said.is_listed() && !m.ready() && host.literal().is_none()
        };
        let names_missing = self.size.is_none() || self.members.iter().any(missing);
        if !names_missing && self.members.values().any(|m| m.unidentified) {
            // All names have addresses: what the kernel had and nobody claimed is no longer listed.
            self.members
                .values_mut()
                .for_each(|m| m.unidentified = false);
            self.mark_leaving(self.found.as_ref().map_or(0, Destinations::len));
        }
        let before: Vec<Pooled> = self.members.values().map(|m| m.pooled).collect();
        let floor = floor::floor(self.size.unwrap_or(0), self.config.depool_threshold);
        let (guard, held) = self.guard();
        let line = guard.map_or(0, |guard| guard.line);
        floor::decide(&mut self.members, floor, line, held);
        // Where the dead are held, the living shall not get less than they.
        let dead = |member: &Member| member.pooled.in_ipvs() && !member.up();
        let short = self.members.values().any(dead);
        for ((host, member), before) in self.members.iter_mut().zip(before) {
            if short || !member.is_up_and_serves() {
                member.ramp = None;
            } else if (before, member.pooled) == (Pooled::No, Pooled::Yes)
                && member.draining.is_none()
            {
                let slow_start = self.config.comeback.slow_start;
                member.ramp = slow_start.map(|time| Ramp::new(time, now));
            }
            member.weigh(now);
            let after = member.drain(before, &self.config, now);
            tell(
                &self.config,
                self.judged,
                host,
                (before, after),
                member,
                &mut self.counters,
            );
        }
        self.members
            .retain(|_, m| m.said.is_listed() || m.in_ipvs() || m.unidentified);
        for member in self.members.values_mut() {
            member.leaving &= member.pooled == Pooled::Held(held);
        }
        self.guard = guard.filter(|_| self.members.values().any(|member| member.leaving));
        if self.guard.is_none() {
            self.guarded_size = None;
        }
    }

    /// Whether the kernel was read to hold this very value since it was wanted: an equal one of earlier says
    /// nothing, something else may have been wanted in between.
    fn is_in_kernel(&self, wanted: Option<&Arc<Destinations>>) -> bool {
        let read = self.in_kernel.as_ref();
        wanted.is_some_and(|wanted| read.is_some_and(|read| Arc::ptr_eq(read, wanted)))
    }

    /// `host` has this address. If the kernel had it pooled, that was this server.
    fn give_address(&mut self, host: &Host, address: IpAddr) {
        let Some(member) = self
            .members
            .get_mut(host)
            .filter(|m| m.address != Some(address))
        else {
            return;
        };
        if member.address.is_some() {
            info!(service = %self.config.name, %host, %address, "address changed");
        }
        let start = self.config.comeback.start;
        member.set_address(address, start);
        let stand_in = self.stand_in(self.config.backend(host, address));
        if self.members.get(&stand_in).is_none_or(|m| !m.unidentified) {
            return;
        }
        let known = self.members.remove(&stand_in);
        let known = known.filter(|known| known.up() && known.pooled.in_ipvs());
        let (Some(known), Some(member)) = (known, self.members.get_mut(host)) else {
            return;
        };
        member.stuck = known.stuck.clone();
        member.adopt(known.base, start);
        // Its list may have taken it out already.
        self.mark_leaving(self.found.as_ref().map_or(0, Destinations::len));
    }

    /// The name of a destination that the kernel had, until it is known whose it is.
    fn stand_in(&self, backend: SocketAddr) -> Host {
        let bare = Host::from(backend.ip());
        if self.config.backend(&bare, backend.ip()) == backend {
            bare
        } else {
            Host::from(backend)
        }
    }

    /// What IPVS shall hold.
    fn wanted(&self) -> Destinations {
        let mut wanted = Destinations::new();
        for (host, member) in &self.members {
            let backend = member.backend(host, &self.config);
            let Some(backend) = backend.filter(|_| member.in_ipvs()) else {
                continue;
            };
            let weight = match member.draining {
                Some(_) => Weight::ZERO,
                None => member.weight,
            };
            let new = Destination {
                weight,
                delivery: self.config.delivery(host),
            };
            // Two names of one address: the one that gets connections counts.
            let of_both = wanted.entry(backend).or_insert(new);
            if new.weight > of_both.weight {
                *of_both = new;
            }
        }
        if let Some(sorry) = self.config.sorry.filter(|_| !serves(&wanted)) {
            let sorry_server = Destination {
                weight: Weight::ONE,
                delivery: self.config.delivery,
            };
            wanted.insert(sorry, sorry_server);
        }
        wanted
    }

    fn view(&self) -> Service {
        let config = &self.config;
        let size = self.size.unwrap_or(0);
        let floor = floor::floor(size, config.depool_threshold);
        let old = self.view.as_deref();
        let destinations = (self.size.is_some() && self.found.is_some())
            .then(|| share(self.wanted(), old.and_then(|old| old.destinations.as_ref())));
        let servers = self
            .members
            .iter()
            .map(|(host, m)| (host.clone(), m.view()))
            .collect();
        let checks = self
            .members
            .values()
            .flat_map(Member::checks)
            .cloned()
            .collect();
        let names: BTreeSet<Host> = self
            .members
            .iter()
            .filter(|(h, m)| m.said.is_listed() && h.literal().is_none())
            .map(|(h, _)| h.bare())
            .collect();
        Service {
            config: config.clone(),
            servers: share(servers, old.map(|old| &old.servers)),
            draining: share(self.draining(), old.map(|old| &old.draining)),
            destinations,
            applied: self.applied.clone(),
            checks: share(checks, old.map(|old| &old.checks)),
            names: share(names, old.map(|old| &old.names)),
            source: self.source.clone(),
            list_faults: self.list_faults.clone(),
            revision: self.revision,
            applied_revision: None,
            size,
            floor,
            guard: self.guard,
            condition: self.condition(floor),
            refusal: None,
            newcomer: self.newcomer,
            counters: self.counters,
            traffic: self.traffic.clone(),
        }
    }

    fn condition(&self, floor: usize) -> Condition {
        let wanted = self.members.values().filter(|m| m.wanted()).count();
        let serves = |m: &Member| m.pooled.in_ipvs() && m.weight.get() > 0;
        let up = self
            .members
            .values()
            .any(|m| m.ready() && m.health() == Health::Up && serves(m));
        if !up {
            Condition::Failed
        } else if wanted < floor {
            Condition::Degraded
        } else {
            Condition::Healthy
        }
    }
}

/// Those that are written, and the one that need not be. Where nothing is forwarded, no server need take packets for
/// the VIP.
fn monitors(config: &config::Service, mode: Mode) -> Vec<Arc<Monitor>> {
    let mut monitors = config.monitors.clone();
    if config.vip_reachability && mode == Mode::Real {
        monitors.push(Arc::new(Monitor::vip_reachability()));
    }
    monitors
}

/// Whether somebody gets new connections.
fn serves(destinations: &Destinations) -> bool {
    destinations.values().any(|to| to.weight.get() > 0)
}

/// The servers that a resolver's word on this name is about: one name may have servers on several ports.
fn named<'a>(
    members: &'a mut BTreeMap<Host, Member>,
    name: &'a Host,
) -> impl Iterator<Item = (&'a Host, &'a mut Member)> {
    members.iter_mut().filter(|(host, _)| host.is_at(name))
}

/// The old value's place if the new one is equal, so that who compares pointers sees no change.
fn share<T: PartialEq>(new: T, old: Option<&Arc<T>>) -> Arc<T> {
    match old {
        Some(old) if **old == new => old.clone(),
        Some(_) | None => Arc::new(new),
    }
}

fn tell(
    config: &config::Service,
    judged: bool,
    host: &Host,
    (before, drain): (Pooled, Drain),
    member: &Member,
    counters: &mut Counters,
) {
    let service = &config.name;
    match drain {
        Drain::Begun(time) => {
            let why = member.why_not_wanted();
            info!(%service, %host, why, drain = ?time, "depooled");
        }
        Drain::Ended(why) => info!(%service, %host, why, "no longer drains"),
        Drain::Same => {}
    }
    match (before, member.pooled) {
        (Pooled::Yes | Pooled::Held(_), Pooled::No) if member.draining.is_some() => {}
        (Pooled::Yes, Pooled::Held(Held::DepoolThreshold)) => {
            counters.could_not_depool += 1;
            let why = member.why_not_wanted();
            warn!(%service, %host, why, "could not depool: too many are down");
        }
        // At a start nobody has been checked yet: that is no fault.
        (Pooled::No, Pooled::Held(why)) if judged => {
            warn!(%service, %host, %why, "pooled though it is not up")
        }
        (Pooled::No, Pooled::Held(why)) => {
            info!(%service, %host, %why, "pooled before its first checks")
        }
        // So it is for a moment at each start over a kernel that serves; if it lasts, there is an alert.
        (Pooled::Yes, Pooled::Held(why @ Held::NamesUnresolved)) => {
            info!(%service, %host, %why, "found in the kernel, held in the pool")
        }
        (Pooled::Yes, Pooled::Held(why)) => warn!(%service, %host, %why, "held in the pool"),
        (Pooled::No, Pooled::Yes) => info!(%service, %host, "pooled"),
        (Pooled::Yes | Pooled::Held(_), Pooled::No) => {
            let why = member.why_not_wanted();
            info!(%service, %host, why, "depooled");
        }
        (Pooled::Held(a), Pooled::Held(b)) if a != b => {
            warn!(%service, %host, why = %b, "held in the pool")
        }
        (Pooled::Held(_), Pooled::Yes) => info!(%service, %host, "pooled, no longer held"),
        (Pooled::Yes, Pooled::Yes)
        | (Pooled::No, Pooled::No)
        | (Pooled::Held(_), Pooled::Held(_)) => {}
    }
}
