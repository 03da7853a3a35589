//! All services: (Event, now) → Snapshot. What may be announced, and what waits for what.
//!
//! Pure, as `pool`. Each event costs its own service's share: pools that an event touched are
//! settled anew, and the snapshot shares the rest with the one before it.

mod overrides;
#[cfg(test)]
mod tests;
mod vip;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;
use tracing::{info, warn};

use self::vip::History;
use crate::config::{self, Config, Servers};
use crate::event::{Event, PeerOrder};
use crate::pool::{Bearing, CheckIds, Pool};
use crate::routing::PeerId;
use crate::service::{Family, Host, Listing, Overruled, ServiceName, VirtualService};
use crate::snapshot::{self, Mode, Repair, Snapshot};

/// How long a removed service stays in the kernel for its address's withdrawal to reach the peers.
const RETIRE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Balancer {
    pools: BTreeMap<ServiceName, Pool>,
    by_key: BTreeMap<VirtualService, ServiceName>,
    by_name: BTreeMap<(Host, Family), BTreeSet<ServiceName>>,
    by_vip: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    ids: CheckIds,
    dirty: BTreeSet<ServiceName>,
    /// What addresses were last settled by: an event that changes nothing of it does not touch the address.
    bearings: BTreeMap<ServiceName, Bearing>,
    dirty_vips: BTreeSet<IpAddr>,
    /// Of the addresses that have been announced and that no operator has taken out since.
    histories: BTreeMap<IpAddr, History>,
    /// Wake-ups, some of them for what has settled in the meantime: harmless.
    due: BTreeSet<(Instant, Due)>,
    /// Addresses that peers have been told.
    announced: BTreeSet<IpAddr>,
    present: BTreeSet<IpAddr>,
    faults: BTreeMap<IpAddr, String>,
    snapshot: Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The pool is to be settled again.
    Pool(ServiceName),
    /// The removed service goes though its address was not seen withdrawn.
    Retire(VirtualService),
    /// Peers may be told that the address is better.
    Better(IpAddr),
    Override(Overruled),
}

impl Balancer {
    pub fn new(mode: Mode, config: Arc<Config>, now: Instant) -> Balancer {
        let nothing = Config {
            services: BTreeMap::new(),
            ..(*config).clone()
        };
        let mut balancer = Balancer {
            pools: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_vip: BTreeMap::new(),
            ids: CheckIds::default(),
            dirty: BTreeSet::new(),
            bearings: BTreeMap::new(),
            dirty_vips: BTreeSet::new(),
            histories: BTreeMap::new(),
            due: BTreeSet::new(),
            announced: BTreeSet::new(),
            present: BTreeSet::new(),
            faults: BTreeMap::new(),
            snapshot: Snapshot {
                mode,
                config: Arc::new(nothing),
                services: OrdMap::new(),
                retiring: OrdMap::new(),
                vips: OrdMap::new(),
                peers: Arc::default(),
                peer_orders: Arc::default(),
                overrides: Arc::default(),
                overrides_kept: true,
                troubles: Arc::default(),
                repairs: Arc::default(),
                reload_refused: None,
                config_file: None,
                stopping: false,
            },
        };
        balancer.handle(Event::Configured(config), now);
        balancer
    }

    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Configured(config) => self.configure(config, now),
            Event::ReloadRefused(mistakes) => self.snapshot.reload_refused = Some(mistakes.into()),
            Event::ConfigFile(file) => self.snapshot.config_file = Some(Arc::new(file)),
            Event::List {
                service,
                from,
                list,
            } => {
                self.with_source(&service, &from, |pool| pool.set_list(&list, now));
            }
            Event::SourceFailed {
                service,
                from,
                fault,
            } => {
                self.with_source(&service, &from, |pool| pool.source_failed(&fault));
            }
            Event::Resolved {
                host,
                family,
                addresses,
            } => {
                self.with_name(&host, family, |pool| pool.resolved(&host, &addresses));
            }
            Event::Unresolved {
                host,
                family,
                fault,
            } => {
                warn!(%host, %family, fault, "name does not resolve");
                self.with_name(&host, family, |pool| pool.unresolved(&host, &fault));
            }
            Event::Checked {
                service,
                check,
                verdict,
            } => {
                self.with(&service, |pool| pool.checked(check, &verdict, now));
            }
            Event::Load {
                service,
                check,
                percent,
            } => {
                self.with(&service, |pool| pool.loaded(check, percent));
            }
            Event::Found(table) => {
                for (key, destinations) in table {
                    self.with_key(key, |pool| pool.found(destinations));
                }
            }
            Event::Applied {
                service,
                destinations,
            } => {
                self.with_key(service, |pool| pool.applied(destinations));
            }
            Event::NotApplied {
                service,
                fault,
                holds,
            } => {
                self.with_key(service, |pool| pool.not_applied(&fault, holds));
            }
            Event::Drained { service, backends } => {
                self.with_key(service, |pool| pool.drained(&backends));
            }
            Event::Repaired { service, change } => {
                self.with_key(service, Pool::repaired);
                let name = self.by_key.get(&service);
                let object = name.map_or_else(|| service.to_string(), ToString::to_string);
                self.remember_repair(&object, &change, now);
            }
            Event::RepairedHost { part, change } => {
                let repairs = Arc::make_mut(&mut self.snapshot.repairs);
                *repairs.host.entry(part).or_default() += 1;
                self.remember_repair(part, &change, now);
            }
            Event::Stuck {
                service,
                backend,
                why,
            } => self.with_key(service, |pool| pool.stuck(backend, why.as_deref())),
            Event::Addresses { present, faults } => self.addresses(present, faults),
            Event::Peer { peer, session } => {
                // The last word of one that was removed may come late.
                if self.has_peer(&peer) {
                    Arc::make_mut(&mut self.snapshot.peers).insert(peer, session);
                }
            }
            Event::PeerOrder { peer, order } => self.peer_order(peer, order),
            Event::Announced(announced) => self.announced(announced),
            Event::Trouble { part, fault } => self.trouble(part, fault),
            Event::Together(events) => {
                for event in events {
                    self.handle(event, now);
                }
            }
            Event::Override {
                overruled,
                by,
                left,
            } => self.overrule(overruled, by, left, now),
            Event::OverrideEnded(overruled) => self.end_override(&overruled),
            Event::OverridesKept(kept) => {
                self.snapshot.overrides_kept = Arc::ptr_eq(&kept, &self.snapshot.overrides);
            }
            Event::Stop => {
                self.snapshot.stopping = true;
                self.dirty_vips.extend(self.by_vip.keys());
            }
        }
    }

    /// Something that waited is due.
    pub fn tick(&mut self, now: Instant) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            match self.due.pop_first().map(|(_, due)| due) {
                Some(Due::Pool(service)) => self.with(&service, |_| {}),
                Some(Due::Retire(key)) => self.retired(key),
                Some(Due::Override(overruled)) => self.end_override(&overruled),
                Some(Due::Better(address)) => {
                    self.dirty_vips.insert(address);
                }
                None => {}
            }
        }
    }

    /// When [`Balancer::tick`] is to be called next.
    pub fn wake_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What should now be true. Pools touched since the last call are settled here, once each.
    pub fn snapshot(&mut self, now: Instant) -> Arc<Snapshot> {
        for name in std::mem::take(&mut self.dirty) {
            let Some(pool) = self.pools.get_mut(&name) else {
                continue;
            };
            let view = pool.settle(&mut self.ids, now);
            let bearing = pool.bearing();
            if let Some(at) = pool.wake_at(now) {
                self.due.insert((at, Due::Pool(name.clone())));
            }
            let old = self.snapshot.services.insert(name.clone(), view.clone());
            if !old
                .as_ref()
                .is_some_and(|old| Arc::ptr_eq(&old.names, &view.names))
            {
                self.index_names(&name, old.as_deref(), Some(&view));
            }
            if self.bearings.insert(name, bearing.clone()) != Some(bearing) {
                self.dirty_vips.insert(view.config.address);
            }
        }
        for address in std::mem::take(&mut self.dirty_vips) {
            self.settle_vip(address, now);
        }
        Arc::new(self.snapshot.clone())
    }

    fn with(&mut self, service: &ServiceName, act: impl FnOnce(&mut Pool)) {
        if let Some(pool) = self.pools.get_mut(service) {
            act(pool);
            self.dirty.insert(service.clone());
        }
    }

    fn with_key(&mut self, key: VirtualService, act: impl FnOnce(&mut Pool)) {
        if let Some(service) = self.by_key.get(&key).cloned() {
            self.with(&service, act);
        }
    }

    /// Only if the service still has this source: another one's last word may come late.
    fn with_source(&mut self, service: &ServiceName, from: &Servers, act: impl FnOnce(&mut Pool)) {
        if self
            .pools
            .get(service)
            .is_some_and(|pool| pool.config().servers == *from)
        {
            self.with(service, act);
        }
    }

    fn with_name(&mut self, host: &Host, family: Family, act: impl Fn(&mut Pool)) {
        for service in self
            .by_name
            .get(&(host.clone(), family))
            .cloned()
            .unwrap_or_default()
        {
            self.with(&service, &act);
        }
    }

    fn configure(&mut self, config: Arc<Config>, now: Instant) {
        let old = std::mem::replace(&mut self.snapshot.config, config.clone());
        self.snapshot.reload_refused = None;
        let names: BTreeMap<_, _> = config
            .services
            .iter()
            .map(|(name, service)| (service.key, name))
            .collect();
        for service in old.services.values() {
            if !names.contains_key(&service.key) {
                self.remove(service, now);
            }
        }
        // The kernel knows a service by its key and clients do: under another name its pool goes on.
        let mut renamed = Vec::new();
        for (name, service) in &old.services {
            if let Some(&new) = names.get(&service.key).filter(|new| **new != name) {
                info!(service = %new, key = %service.key, before = %name, "service renamed");
                renamed.extend(self.take_out(service).map(|pool| (new.clone(), pool)));
            }
        }
        self.pools.extend(renamed);
        for (name, service) in &config.services {
            self.add_or_change(name, service, now);
        }
        if old.bgp != config.bgp {
            self.dirty_vips.extend(self.by_vip.keys());
            let peers = config
                .bgp
                .iter()
                .flat_map(|bgp| bgp.peers.keys())
                .collect::<BTreeSet<_>>();
            Arc::make_mut(&mut self.snapshot.peers).retain(|peer, _| peers.contains(peer));
            Arc::make_mut(&mut self.snapshot.peer_orders).retain(|peer, _| peers.contains(peer));
        }
    }

    fn add_or_change(&mut self, name: &ServiceName, service: &Arc<config::Service>, now: Instant) {
        let before = self.pools.get(name).map(|pool| pool.config().clone());
        if before.as_ref() == Some(service) {
            return;
        }
        let new_list = before
            .as_ref()
            .is_none_or(|before| before.servers != service.servers);
        // Packets of one firewall mark may come by another address from now on.
        if let Some(before) = before.filter(|before| before.address != service.address) {
            if let Some(services) = self.by_vip.get_mut(&before.address) {
                services.remove(name);
            }
            self.dirty_vips.insert(before.address);
        }
        self.by_key.insert(service.key, name.clone());
        self.by_vip
            .entry(service.address)
            .or_default()
            .insert(name.clone());
        if self.snapshot.retiring.remove(&service.key).is_some() {
            let stale = Due::Retire(service.key);
            self.due.retain(|(_, due)| *due != stale);
        }
        let announced = self.announces(service.address);
        let mode = self.snapshot.mode;
        let pool = self
            .pools
            .entry(name.clone())
            .or_insert_with(|| Pool::new(service.clone(), mode, announced));
        pool.reconfigure(service.clone());
        self.give_overrides(name);
        let Some(pool) = self.pools.get_mut(name) else {
            return;
        };
        match &service.servers {
            Servers::Inline(list) if new_list => {
                pool.set_list(&Listing::from((**list).clone()), now);
            }
            Servers::Inline(_) | Servers::File(_) | Servers::Etcd(_) => {}
        }
        self.dirty.insert(name.clone());
    }

    /// A service leaves the configuration; it leaves the kernel when its address is withdrawn.
    fn remove(&mut self, service: &config::Service, now: Instant) {
        let (name, key, address) = (&service.name, service.key, service.address);
        info!(service = %name, %key, "service removed");
        self.take_out(service);
        let others = self
            .by_vip
            .get(&address)
            .is_some_and(|services| !services.is_empty());
        let told = self.announced.contains(&address) || self.announces(address);
        if !others {
            self.by_vip.remove(&address);
        }
        if told && !others {
            self.snapshot.retiring.insert(key, address);
            self.due.insert((now + RETIRE_WITHIN, Due::Retire(key)));
        }
        self.dirty_vips.insert(address);
    }

    /// The service's pool, of which nothing is shown any more under this name.
    fn take_out(&mut self, service: &config::Service) -> Option<Pool> {
        let (name, key, address) = (&service.name, service.key, service.address);
        self.bearings.remove(name);
        self.dirty.remove(name);
        if self.by_key.get(&key) == Some(name) {
            self.by_key.remove(&key);
        }
        if let Some(view) = self.snapshot.services.remove(name) {
            self.index_names(name, Some(&view), None);
        }
        if let Some(services) = self.by_vip.get_mut(&address) {
            services.remove(name);
        }
        self.dirty_vips.insert(address);
        self.pools.remove(name)
    }

    fn announces(&self, address: IpAddr) -> bool {
        let vip = self.snapshot.vips.get(&address);
        vip.is_some_and(|vip| vip.announce.is_ok())
    }

    /// The removed service may leave the kernel.
    fn retired(&mut self, key: VirtualService) {
        if let Some(address) = self.snapshot.retiring.remove(&key) {
            self.dirty_vips.insert(address);
        }
    }

    fn announced(&mut self, announced: BTreeSet<IpAddr>) {
        let withdrawn: Vec<VirtualService> = self
            .snapshot
            .retiring
            .iter()
            .filter(|(_, address)| {
                self.announced.contains(*address) && !announced.contains(*address)
            })
            .map(|(key, _)| *key)
            .collect();
        self.announced = announced;
        for key in withdrawn {
            self.retired(key);
        }
    }

    fn addresses(&mut self, present: BTreeSet<IpAddr>, faults: BTreeMap<IpAddr, String>) {
        self.dirty_vips
            .extend(present.symmetric_difference(&self.present));
        let differs = |address: &&IpAddr| faults.get(*address) != self.faults.get(*address);
        self.dirty_vips
            .extend(faults.keys().chain(self.faults.keys()).filter(differs));
        self.present = present;
        self.faults = faults;
    }

    fn trouble(&mut self, part: &'static str, fault: Option<String>) {
        let troubles = Arc::make_mut(&mut self.snapshot.troubles);
        match fault {
            Some(fault) => {
                warn!(part, fault, "trouble");
                troubles.insert(part, fault);
            }
            None => {
                troubles.remove(part);
            }
        }
    }

    fn remember_repair(&mut self, object: &str, change: &str, now: Instant) {
        Arc::make_mut(&mut self.snapshot.repairs).remember(Repair {
            at: now,
            object: object.into(),
            change: change.into(),
        });
    }

    fn has_peer(&self, peer: &PeerId) -> bool {
        let bgp = self.snapshot.config.bgp.as_ref();
        bgp.is_some_and(|bgp| bgp.peers.contains_key(peer))
    }

    fn peer_order(&mut self, peer: PeerId, order: PeerOrder) {
        if !self.has_peer(&peer) {
            return;
        }
        info!(%peer, ?order, "an operator's order");
        let orders = Arc::make_mut(&mut self.snapshot.peer_orders);
        let orders = orders.entry(peer).or_default();
        match order {
            PeerOrder::Disable(text) => {
                orders.enabled = Some(false);
                orders.text = text;
            }
            PeerOrder::Enable => {
                orders.enabled = Some(true);
                orders.text = None;
            }
            PeerOrder::Clear(text) => {
                orders.clears += 1;
                // Why a peer is disabled is told until it is enabled.
                if orders.enabled != Some(false) {
                    orders.text = text;
                }
            }
        }
    }

    fn index_names(
        &mut self,
        service: &ServiceName,
        old: Option<&snapshot::Service>,
        new: Option<&snapshot::Service>,
    ) {
        if let Some(old) = old {
            for host in old.names.iter() {
                let key = (host.clone(), old.family());
                let unused = self.by_name.get_mut(&key).is_some_and(|services| {
                    services.remove(service);
                    services.is_empty()
                });
                if unused {
                    self.by_name.remove(&key);
                }
            }
        }
        if let Some(new) = new {
            for host in new.names.iter() {
                self.by_name
                    .entry((host.clone(), new.family()))
                    .or_default()
                    .insert(service.clone());
            }
        }
    }
}
