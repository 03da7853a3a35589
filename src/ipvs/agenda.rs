//! What the sink has to do next, and what it knows of each service. No table, no waiting: snapshots in, tasks out.
//!
//! One task is one service's work, so that a change that just came in waits for no more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;

use super::diff::Wanted;
use super::stuck::{Verdict, Watch};
use super::table::{Held, Settings};
use crate::config;
use crate::service::{Destinations, Protocol, ServiceName, VirtualService};
use crate::snapshot::traffic::Traffic;
use crate::snapshot::{Service, Snapshot};

/// The kernel tells nobody when its table is changed: we look this often.
const POLL: Duration = Duration::from_secs(2);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Services reported in one event.
const LOOK_AT_ONCE: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Make the service as wanted.
    Settle(VirtualService),
    /// Tell what the table has for these, and touch nothing.
    Look(Vec<VirtualService>),
    /// Remove what was ours.
    Remove(VirtualService),
    /// See what else is in the table.
    List,
}

#[derive(Debug)]
pub(super) struct Agenda {
    seen: Option<Arc<Snapshot>>,
    targets: BTreeMap<VirtualService, Target>,
    retiring: OrdMap<VirtualService, IpAddr>,
    /// Changed, or to be tried again; the last one first.
    urgent: BTreeMap<u64, VirtualService>,
    tickets: u64,
    /// Not reported yet.
    new: BTreeSet<VirtualService>,
    /// Wanted for the first time, so ours from now on.
    adopted: BTreeSet<VirtualService>,
    orphans: BTreeSet<VirtualService>,
    /// Still to be looked after in this round.
    round: BTreeSet<VirtualService>,
    next_round: Instant,
    /// What failed, to be tried again then.
    later: BTreeSet<(Instant, VirtualService)>,
}

/// One service that the snapshot has.
#[derive(Debug)]
pub(super) struct Target {
    config: Arc<config::Service>,
    destinations: Option<Arc<Destinations>>,
    /// Whose last connections are waited for.
    draining: Arc<BTreeSet<SocketAddr>>,
    /// Those of them that had none when the service was last read.
    idle: BTreeSet<SocketAddr>,
    /// What the table was made to hold, with the settings wanted now.
    settled: Option<Arc<Destinations>>,
    /// What was last said of a failure, until it is over.
    failed: Option<(String, bool)>,
    /// Whether the service had a destination that gets new connections when it was last read.
    pub(super) holds: bool,
    delay: Duration,
    later: Option<Instant>,
    /// Its place in [`Agenda::urgent`].
    ticket: Option<u64>,
    traffic: Arc<Traffic>,
    watch: Watch,
}

impl Target {
    pub(super) fn name(&self) -> &ServiceName {
        &self.config.name
    }

    /// `None`: leave alone what is there.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        Some(Wanted {
            settings: settings(&self.config),
            destinations: self.destinations.clone()?,
        })
    }

    /// Whether the table was already made so: if it is not, someone else changed it.
    pub(super) fn settled(&self, wanted: &Wanted) -> bool {
        self.settled
            .as_ref()
            .is_some_and(|settled| Arc::ptr_eq(settled, &wanted.destinations))
    }

    /// Whether the last thing said of it was a failure.
    pub(super) fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// What was counted is for all to see. Gives whose verdict changed.
    pub(super) fn look(&mut self, now: Instant, held: &Held) -> Vec<Verdict> {
        self.traffic.note(now.into_std(), held.traffic.clone());
        match self.config.key {
            VirtualService::Address {
                protocol: Protocol::Tcp,
                ..
            } => self.watch.look(now, held),
            VirtualService::Address {
                protocol: Protocol::Udp | Protocol::Sctp,
                ..
            }
            | VirtualService::Mark { .. } => Vec::new(),
        }
    }

    pub(super) fn succeeded(&mut self, destinations: Arc<Destinations>) {
        self.holds = destinations.values().any(|to| to.weight.get() > 0);
        self.settled = Some(destinations);
        self.failed = None;
        self.delay = FIRST_DELAY;
    }

    /// Who of those whose last connections are waited for has none, now and when the service was read before: one that
    /// was being made then is counted by now.
    pub(super) fn drained(&mut self, held: &Held) -> BTreeSet<SocketAddr> {
        let idle = |backend: &&SocketAddr| {
            let weightless = held
                .destinations
                .get(backend)
                .is_some_and(|to| to.weight == 0);
            let busy = held
                .traffic
                .servers
                .get(backend)
                .is_some_and(|its| its.active > 0);
            weightless && !busy
        };
        let idle: BTreeSet<_> = self.draining.iter().filter(idle).copied().collect();
        let before = mem::replace(&mut self.idle, idle);
        self.idle.intersection(&before).copied().collect()
    }

    /// It is not as wanted, and that is known.
    pub(super) fn unsettle(&mut self, holds: bool) {
        self.holds = holds;
        self.settled = None;
    }

    /// Whether that is news.
    pub(super) fn failed(&mut self, fault: &str, holds: bool) -> bool {
        let news = self
            .failed
            .as_ref()
            .is_none_or(|(told, held)| told != fault || *held != holds);
        if news {
            self.failed = Some((fault.to_owned(), holds));
        }
        news
    }
}

pub(super) fn settings(config: &config::Service) -> Settings {
    Settings::new(config.key.family(), &config.scheduling)
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl Agenda {
    pub(super) fn new(now: Instant) -> Agenda {
        Agenda {
            seen: None,
            targets: BTreeMap::new(),
            retiring: OrdMap::new(),
            urgent: BTreeMap::new(),
            tickets: 0,
            new: BTreeSet::new(),
            adopted: BTreeSet::new(),
            orphans: BTreeSet::new(),
            round: BTreeSet::new(),
            next_round: now,
            later: BTreeSet::new(),
        }
    }

    /// Takes over what a snapshot says. Costs what has changed since the one before.
    /// `owned`: the services of the table that are ours.
    pub(super) fn take(&mut self, snapshot: Arc<Snapshot>, owned: &BTreeSet<VirtualService>) {
        let before = self.seen.replace(snapshot.clone());
        let none = OrdMap::new();
        let old = before.as_ref().map_or(&none, |before| &before.services);
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in old.diff(&snapshot.services) {
            match item {
                DiffItem::Add(_, service) => come.push(service),
                DiffItem::Remove(_, service) => gone.push(service.key()),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => {
                    if old.key() != new.key() {
                        gone.push(old.key());
                    }
                    come.push(new);
                }
            }
        }
        let retiring = !self.retiring.ptr_eq(&snapshot.retiring);
        self.retiring = snapshot.retiring.clone();
        let moved = before.is_none() || retiring || !gone.is_empty();
        for key in gone {
            self.drop_target(&key);
        }
        for service in come {
            self.want(service);
        }
        if moved {
            self.find_orphans(&snapshot, owned);
        }
    }

    fn drop_target(&mut self, key: &VirtualService) {
        let Some(target) = self.targets.remove(key) else {
            return;
        };
        if let Some(later) = target.later {
            self.later.remove(&(later, *key));
        }
        if let Some(ticket) = target.ticket {
            self.urgent.remove(&ticket);
        }
        self.new.remove(key);
        // Not touched yet, so not ours.
        self.adopted.remove(key);
    }

    fn want(&mut self, service: &Service) {
        let key = service.key();
        self.orphans.remove(&key);
        let Some(target) = self.targets.get_mut(&key) else {
            let target = Target {
                config: service.config.clone(),
                destinations: service.destinations.clone(),
                draining: service.draining.clone(),
                idle: BTreeSet::new(),
                settled: None,
                failed: None,
                holds: false,
                delay: FIRST_DELAY,
                later: None,
                ticket: None,
                traffic: service.traffic.clone(),
                watch: Watch::default(),
            };
            self.targets.insert(key, target);
            self.new.insert(key);
            self.urge(key);
            return;
        };
        let reset = settings(&target.config) != settings(&service.config);
        let replaced = !Arc::ptr_eq(&target.config, &service.config);
        let changed = !same(target.destinations.as_ref(), service.destinations.as_ref());
        if reset {
            target.settled = None;
        }
        target.config = service.config.clone();
        target.destinations = service.destinations.clone();
        target.draining = service.draining.clone();
        // A drain that begins anew counts no look of an earlier one.
        target
            .idle
            .retain(|backend| service.draining.contains(backend));
        if !Arc::ptr_eq(&target.traffic, &service.traffic) {
            // The core begins anew with it.
            target.traffic = service.traffic.clone();
            target.watch = Watch::default();
        }
        // The core may have let it go and taken it up again between two snapshots that we saw: it waits for an answer.
        if target.destinations.is_none() && (changed || replaced) {
            target.settled = None;
            self.new.insert(key);
        }
        if reset || changed {
            self.urge(key);
        }
    }

    /// Ours, but neither wanted nor waiting for its address to be withdrawn.
    fn find_orphans(&mut self, snapshot: &Snapshot, owned: &BTreeSet<VirtualService>) {
        let configured: BTreeSet<_> = snapshot
            .config
            .services
            .values()
            .map(|service| service.key)
            .collect();
        let wanted = |key: &VirtualService| {
            self.targets.contains_key(key)
                || self.retiring.contains_key(key)
                || configured.contains(key)
        };
        self.orphans = owned.iter().filter(|key| !wanted(key)).copied().collect();
    }

    /// What to do now; `None`: nothing before [`Agenda::wake`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Task> {
        while let Some((due, key)) = self.later.first().copied().filter(|(due, _)| *due <= now) {
            self.later.remove(&(due, key));
            if self.targets.contains_key(&key) {
                self.urge(key);
            } else if !self.retiring.contains_key(&key) {
                self.orphans.insert(key);
            }
        }
        if let Some((ticket, key)) = self.urgent.pop_last() {
            // It is reported as it was before we touched it.
            if self.new.remove(&key) {
                self.urgent.insert(ticket, key);
                return Some(Task::Look(vec![key]));
            }
            if let Some(target) = self.targets.get_mut(&key) {
                target.ticket = None;
            }
            return Some(Task::Settle(key));
        }
        if !self.new.is_empty() {
            let rest = self.new.iter().nth(LOOK_AT_ONCE).copied();
            let rest = rest.map(|key| self.new.split_off(&key)).unwrap_or_default();
            return Some(Task::Look(
                mem::replace(&mut self.new, rest).into_iter().collect(),
            ));
        }
        if !self.seen.as_ref().is_some_and(|seen| seen.stopping)
            && let Some(key) = self.orphans.pop_first()
        {
            return Some(Task::Remove(key));
        }
        if let Some(key) = self.round.pop_first() {
            return Some(Task::Settle(key));
        }
        if self.next_round <= now {
            self.next_round = now + POLL;
            // What failed has its own time.
            let due = |target: &Target| target.destinations.is_some() && target.later.is_none();
            self.round = self
                .targets
                .iter()
                .filter(|(_, target)| due(target))
                .map(|(key, _)| *key)
                .collect();
            return Some(Task::List);
        }
        None
    }

    /// When [`Agenda::next`] has something even if no snapshot comes.
    pub(super) fn wake(&self) -> Instant {
        self.later
            .first()
            .map_or(self.next_round, |(due, _)| self.next_round.min(*due))
    }

    pub(super) fn target(&mut self, key: &VirtualService) -> Option<&mut Target> {
        self.targets.get_mut(key)
    }

    pub(super) fn targets(&mut self) -> impl Iterator<Item = (VirtualService, &mut Target)> {
        self.targets.iter_mut().map(|(key, target)| (*key, target))
    }

    /// Whether the snapshot speaks of it.
    pub(super) fn knows(&self, key: &VirtualService) -> bool {
        self.targets.contains_key(key) || self.retiring.contains_key(key)
    }

    /// What became ours since this was last asked.
    pub(super) fn take_adopted(&mut self) -> BTreeSet<VirtualService> {
        mem::take(&mut self.adopted)
    }

    /// They could not be reported.
    pub(super) fn look_again(&mut self, keys: Vec<VirtualService>) {
        self.new.extend(keys);
    }

    /// The task on this service failed; it comes again after a while.
    pub(super) fn postpone(&mut self, key: VirtualService, now: Instant) {
        let Some(target) = self.targets.get_mut(&key) else {
            self.later.insert((now + LONGEST_DELAY, key));
            return;
        };
        if target.later.is_none() {
            let due = now + target.delay;
            target.delay = (target.delay * 2).min(LONGEST_DELAY);
            target.later = Some(due);
            self.later.insert((due, key));
        }
    }

    /// All of them anew: the table is not known any more.
    pub(super) fn everything(&mut self, now: Instant) {
        let keys: Vec<_> = self.targets.keys().copied().collect();
        for key in keys {
            self.urge(key);
        }
        self.next_round = now;
    }

    /// This one before all others.
    fn urge(&mut self, key: VirtualService) {
        let Some(target) = self.targets.get_mut(&key) else {
            return;
        };
        if let Some(later) = target.later.take() {
            self.later.remove(&(later, key));
        }
        if let Some(ticket) = target.ticket.take() {
            self.urgent.remove(&ticket);
        }
        if target.destinations.is_some() {
            self.adopted.insert(key);
            self.tickets += 1;
            target.ticket = Some(self.tickets);
            self.urgent.insert(self.tickets, key);
        }
    }
}
