//! What an operator must know: one snapshot → its alerts, worst first, always in the same order.
//! A pure reading of the snapshot; nothing is remembered here and nothing decided.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use crate::check::Probe;
use crate::config::{Bgp, EtcdApi, Servers};
use crate::conftool::PoolPath;
use crate::routing::PeerId;
use crate::routing::session::{Hint, Session, SessionState, Untold};
use crate::service::{Family, Host, Override, Overruled, ServiceName};
use crate::snapshot::{
    Applied, Guard, Health, Held, Mode, Pooled, Refusal, Server, Service, Snapshot, Source,
};

/// A fault's text is shown up to here; a broken file can make one as long as it likes.
const LONGEST_FAULT: usize = 1000;
/// Bad entries of one service's list that have an alert of their own.
const MOST_ENTRIES: usize = 20;
/// Addresses that are named where there may be thousands.
const MOST_ADDRESSES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Traffic is served as it should be, but something must be looked after.
    Warning,
    /// Clients may be hurt, or will be with the next fault.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        })
    }
}

/// One condition. The order of the variants is the order in which an operator reads them;
/// the first two are PyBal's and speak in its words, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alert {
    /// PyBal's CRITICAL: held by the depool threshold.
    MarkedDownButPooled {
        service: ServiceName,
        hosts: Vec<Host>,
    },
    /// PyBal's WARNING: the first server that fails will be held already.
    TooSmall {
        service: ServiceName,
    },
    /// No server is in the pool. PyBal says OK then.
    NothingPooled {
        service: ServiceName,
    },
    /// All that is in the pool has weight 0, so IPVS gives it no new connection.
    NothingWeighted {
        service: ServiceName,
    },
    /// In the pool against the server list's will.
    HeldByGuard {
        service: ServiceName,
        hosts: Vec<Host>,
    },
    /// With a weight that the server list has set to 0.
    DrainHeld {
        service: ServiceName,
        hosts: Vec<Host>,
    },
    /// In the pool, or with their weight, though the first list after its source was away says otherwise.
    /// `left`: how many others get new connections. `pool`: where a change can be confirmed.
    StaleCatchUp {
        service: ServiceName,
        hosts: Vec<Host>,
        left: usize,
        guard: Guard,
        pool: Option<PoolPath>,
    },
    /// In the pool because the kernel had them when we came, and some listed name has no address yet.
    Unidentified {
        service: ServiceName,
        hosts: Vec<Host>,
    },
    /// The server list is broken, empty or away. `kept`: an older one is in force.
    ListFailed {
        service: ServiceName,
        fault: Arc<str>,
        kept: bool,
    },
    /// So many services have the list in force that was saved last; the oldest one's age.
    SavedLists {
        services: usize,
        oldest: Duration,
    },
    /// An entry of the list is not what it should be; its server is as it was, or not there.
    BadEntry {
        service: ServiceName,
        key: String,
        fault: String,
    },
    /// There are too many to tell them all.
    MoreBadEntries {
        service: ServiceName,
        count: usize,
    },
    /// Enabled servers whose names do not resolve. `stale`: an address known before is in use.
    /// The fault is the first host's.
    Unresolved {
        service: ServiceName,
        hosts: Vec<Host>,
        fault: Arc<str>,
        stale: bool,
    },
    /// Servers that fail a check with `depool = false`. The reason is the first host's.
    OnlyTold {
        service: ServiceName,
        monitor: &'static str,
        hosts: Vec<Host>,
        reason: Arc<str>,
    },
    /// Servers that take up no connection which IPVS gives them. The figures are the first host's.
    Stuck {
        service: ServiceName,
        hosts: Vec<Host>,
        figures: Arc<str>,
    },
    /// The kernel refused. `holds`: it still serves with what it had.
    NotApplied {
        service: ServiceName,
        fault: Arc<str>,
        holds: bool,
    },
    AddressMissing {
        address: IpAddr,
        fault: Option<Arc<str>>,
    },
    /// The address is there, but not as it should be.
    AddressFault {
        address: IpAddr,
        fault: Arc<str>,
    },
    /// `alone`: no other peer's session is established either. In which state it is does not matter: a router that
    /// is away has it go through several of them again and again.
    SessionDown {
        peer: PeerId,
        fault: Option<String>,
        hint: Option<Hint>,
        alone: bool,
    },
    /// Not established because somebody wants it so: an operator, who may have said why, or the configuration.
    SessionDisabled {
        peer: PeerId,
        ordered: bool,
        text: Option<Arc<str>>,
        alone: bool,
    },
    /// Established, but the peer is not told of so many addresses that are announced; the first of them.
    NotTold {
        peer: PeerId,
        why: Untold,
        addresses: Vec<IpAddr>,
        count: usize,
    },
    OverMaximum {
        peer: PeerId,
        family: Family,
        maximum: u32,
    },
    /// An operator's word is in force in place of a list's.
    Overridden {
        overruled: Overruled,
        by: Arc<Override>,
    },
    Trouble {
        part: &'static str,
        fault: String,
    },
    ReloadRefused {
        mistakes: Arc<str>,
    },
    MemoryTable,
    DryRun,
}

impl Snapshot {
    /// Critical ones first, then by kind, then by name. `now`: what ages are told by.
    pub fn alerts(&self, now: Instant) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for (name, service) in &self.services {
            of_service(name, service, &mut alerts);
            of_list(name, service, &mut alerts);
            self.of_catch_up(name, service, &mut alerts);
        }
        self.of_saved_lists(now, &mut alerts);
        self.of_addresses(&mut alerts);
        self.of_sessions(&mut alerts);
        for (overruled, by) in &*self.overrides {
            alerts.push(Alert::Overridden {
                overruled: overruled.clone(),
                by: by.clone(),
            });
        }
        for (part, fault) in &*self.troubles {
            alerts.push(Alert::Trouble {
                part,
                fault: fault.clone(),
            });
        }
        if let Some(mistakes) = &self.reload_refused {
            alerts.push(Alert::ReloadRefused {
                mistakes: mistakes.clone(),
            });
        }
        match self.mode {
            Mode::Real => {}
            Mode::MemoryTable => alerts.push(Alert::MemoryTable),
            Mode::DryRun => alerts.push(Alert::DryRun),
        }
        alerts.sort_by(|a, b| b.severity().cmp(&a.severity()).then_with(|| a.cmp(b)));
        alerts
    }

    fn of_catch_up(&self, name: &ServiceName, service: &Service, alerts: &mut Vec<Alert>) {
        let held = |(_, s): &(&Host, &Server)| s.pooled == Pooled::Held(Held::StaleCatchUp);
        let hosts: Vec<Host> = (service.servers.iter().filter(held))
            .map(|(host, _)| host.clone())
            .collect();
        let Some(guard) = service.guard.filter(|_| !hosts.is_empty()) else {
            return;
        };
        let destinations = service.destinations.iter().flat_map(|d| d.values());
        let serving = destinations.filter(|to| to.weight.get() > 0).count();
        let etcd = self.config.etcd.as_ref();
        let pool = match &service.config.servers {
            // `ctl` speaks v3 only.
            Servers::Etcd(pool) if etcd.is_some_and(|etcd| etcd.api == EtcdApi::V3) => {
                Some(pool.clone())
            }
            Servers::Etcd(_) | Servers::Inline(_) | Servers::File(_) => None,
        };
        alerts.push(Alert::StaleCatchUp {
            service: name.clone(),
            left: serving.saturating_sub(hosts.len()),
            hosts,
            guard,
            pool,
        });
    }

    fn of_saved_lists(&self, now: Instant, alerts: &mut Vec<Alert>) {
        let ages = self
            .services
            .values()
            .filter_map(|s| s.source.saved_age(now));
        let (services, oldest) = ages.fold((0, Duration::ZERO), |(count, oldest), age| {
            (count + 1, age.max(oldest))
        });
        if services > 0 {
            alerts.push(Alert::SavedLists { services, oldest });
        }
    }

    fn of_addresses(&self, alerts: &mut Vec<Alert>) {
        if self.mode == Mode::DryRun || self.stopping {
            return;
        }
        for (&address, vip) in &self.vips {
            if vip.announce == Err(Refusal::Retiring) {
                continue;
            }
            match (vip.present, vip.fault.clone()) {
                (false, fault) => alerts.push(Alert::AddressMissing { address, fault }),
                (true, Some(fault)) => alerts.push(Alert::AddressFault { address, fault }),
                (true, None) => {}
            }
        }
    }

    fn of_sessions(&self, alerts: &mut Vec<Alert>) {
        let Some(bgp) = &self.config.bgp else { return };
        if self.mode == Mode::DryRun || self.stopping {
            return;
        }
        let established = |peer: &PeerId| {
            let session = self.peers.get(peer);
            session.filter(|session| session.state == SessionState::Established)
        };
        let alone = !bgp.peers.keys().any(|peer| established(peer).is_some());
        for (peer, config) in &bgp.peers {
            let orders = self.peer_orders.get(peer);
            let ordered = orders.and_then(|orders| orders.enabled);
            if !ordered.unwrap_or(config.enabled) {
                let text = orders.and_then(|orders| orders.text.clone());
                alerts.push(Alert::SessionDisabled {
                    peer: peer.clone(),
                    ordered: ordered.is_some(),
                    text: text.filter(|_| ordered.is_some()),
                    alone,
                });
            } else if let Some(session) = established(peer) {
                of_session(bgp, peer, session, alerts);
            } else {
                let session = self.peers.get(peer);
                alerts.push(Alert::SessionDown {
                    peer: peer.clone(),
                    fault: session.and_then(|session| session.fault.clone()),
                    hint: session.and_then(|session| session.hint),
                    alone,
                });
            }
        }
    }
}

/// One that is established.
fn of_session(bgp: &Bgp, peer: &PeerId, session: &Session, alerts: &mut Vec<Alert>) {
    for why in [Untold::Family, Untold::NextHop] {
        let untold = session.untold.iter().filter(|(_, of)| **of == why);
        let count = untold.clone().count();
        if count > 0 {
            alerts.push(Alert::NotTold {
                peer: peer.clone(),
                why,
                addresses: untold
                    .map(|(address, _)| *address)
                    .take(MOST_ADDRESSES)
                    .collect(),
                count,
            });
        }
    }
    for &family in &session.over_maximum {
        alerts.push(Alert::OverMaximum {
            peer: peer.clone(),
            family,
            maximum: bgp.peers[peer].maximum_prefixes,
        });
    }
}

fn of_service(name: &ServiceName, service: &Service, alerts: &mut Vec<Alert>) {
    let hosts = |which: &dyn Fn(&Server) -> bool| -> Vec<Host> {
        service
            .servers
            .iter()
            .filter(|(_, s)| which(s))
            .map(|(host, _)| host.clone())
            .collect()
    };

    // A server that no check has spoken of yet is not marked down: PyBal takes it as up.
    let down =
        hosts(&|s| s.pooled == Pooled::Held(Held::DepoolThreshold) && s.health != Health::Unknown);
    if !down.is_empty() {
        alerts.push(Alert::MarkedDownButPooled {
            service: name.clone(),
            hosts: down,
        });
    } else if too_small(service) {
        alerts.push(Alert::TooSmall {
            service: name.clone(),
        });
    }

    let held = |why| hosts(&|s| s.pooled == Pooled::Held(why));
    let by_guard =
        |enabled| hosts(&|s| s.pooled == Pooled::Held(Held::DepoolGuard) && s.enabled() == enabled);
    let (depooled, drained) = (by_guard(false), by_guard(true));
    if !depooled.is_empty() {
        alerts.push(Alert::HeldByGuard {
            service: name.clone(),
            hosts: depooled,
        });
    }
    if !drained.is_empty() {
        alerts.push(Alert::DrainHeld {
            service: name.clone(),
            hosts: drained,
        });
    }
    let unidentified = held(Held::NamesUnresolved);
    if !unidentified.is_empty() {
        alerts.push(Alert::Unidentified {
            service: name.clone(),
            hosts: unidentified,
        });
    }

    for stale in [false, true] {
        let concerns =
            |s: &Server| (s.enabled() || s.pooled.in_ipvs()) && s.address.is_some() == stale;
        let away = hosts(&|s| concerns(s) && s.unresolved.is_some());
        let fault = away
            .first()
            .and_then(|host| service.servers[host].unresolved.clone());
        if let Some(fault) = fault {
            let service = name.clone();
            alerts.push(Alert::Unresolved {
                service,
                hosts: away,
                fault,
                stale,
            });
        }
    }
    of_checks(name, service, alerts);
    let stuck = hosts(&|s| s.stuck.is_some());
    let figures = stuck
        .first()
        .and_then(|host| service.servers[host].stuck.clone());
    if let Some(figures) = figures {
        alerts.push(Alert::Stuck {
            service: name.clone(),
            hosts: stuck,
            figures,
        });
    }
    if let Applied::Failed { fault, holds } = &service.applied {
        let (fault, holds) = (fault.clone(), *holds);
        alerts.push(Alert::NotApplied {
            service: name.clone(),
            fault,
            holds,
        });
    }
    if nothing_pooled(service) {
        alerts.push(Alert::NothingPooled {
            service: name.clone(),
        });
    } else if nothing_weighted(service) {
        alerts.push(Alert::NothingWeighted {
            service: name.clone(),
        });
    }
}

fn of_checks(name: &ServiceName, service: &Service, alerts: &mut Vec<Alert>) {
    let mut failing: BTreeMap<&'static str, (Vec<Host>, Arc<str>)> = BTreeMap::new();
    for (host, server) in &*service.servers {
        for monitor in server.monitors.iter().filter(|monitor| !monitor.depool) {
            if let Some(Err(reason)) = &monitor.result {
                let new = || (Vec::new(), reason.clone());
                let (hosts, _) = failing.entry(monitor.kind).or_insert_with(new);
                hosts.push(host.clone());
            }
        }
    }
    for (monitor, (mut hosts, reason)) in failing {
        // One server may have two monitors of a kind.
        hosts.dedup();
        alerts.push(Alert::OnlyTold {
            service: name.clone(),
            monitor,
            hosts,
            reason,
        });
    }
}

fn of_list(name: &ServiceName, service: &Service, alerts: &mut Vec<Alert>) {
    if let Some(fault) = service.source.fault() {
        let kept = !service.servers.is_empty();
        alerts.push(Alert::ListFailed {
            service: name.clone(),
            fault: fault.clone(),
            kept,
        });
    }
    for (key, fault) in service.list_faults.iter().take(MOST_ENTRIES) {
        alerts.push(Alert::BadEntry {
            service: name.clone(),
            key: key.clone(),
            fault: fault.clone(),
        });
    }
    let count = service.list_faults.len().saturating_sub(MOST_ENTRIES);
    if count > 0 {
        let service = name.clone();
        alerts.push(Alert::MoreBadEntries { service, count });
    }
}

/// PyBal's rule, in its arithmetic.
#[expect(
    clippy::cast_precision_loss,
    reason = "PyBal compares as floats; pools are small"
)]
fn too_small(service: &Service) -> bool {
    let total = service.size as f64;
    service.size > 1 && total < total * service.config.depool_threshold.get() + 1.0
}

/// Whether clients find nobody and no answer is on its way that could change this.
fn nothing_pooled(service: &Service) -> bool {
    service.source != Source::Waiting
        && !(service.servers.values()).any(|s| s.pooled.in_ipvs() || s.enabled() && awaited(s))
}

/// Whether its name is being resolved or its first check is under way.
fn awaited(server: &Server) -> bool {
    match server.address {
        None => server.unresolved.is_none(),
        Some(_) => server.health == Health::Unknown,
    }
}

fn nothing_weighted(service: &Service) -> bool {
    let destinations = service.destinations.iter().flat_map(|d| d.values());
    let mut weights = destinations.map(|to| to.weight.get()).peekable();
    weights.peek().is_some() && weights.all(|weight| weight == 0)
}

impl Alert {
    /// What alerts there can be, by name and severity.
    pub const ALL: [(&str, Severity); 30] = [
        ("marked-down-but-pooled", Severity::Critical),
        ("too-small", Severity::Warning),
        ("nothing-pooled", Severity::Critical),
        ("nothing-weighted", Severity::Critical),
        ("held-by-guard", Severity::Warning),
        ("drain-held", Severity::Warning),
        ("stale-catch-up", Severity::Warning),
        ("unidentified", Severity::Warning),
        ("list-failed", Severity::Warning),
        ("list-failed", Severity::Critical),
        ("saved-lists", Severity::Warning),
        ("bad-entry", Severity::Warning),
        ("more-bad-entries", Severity::Warning),
        ("unresolved", Severity::Warning),
        ("only-told", Severity::Warning),
        ("stuck", Severity::Warning),
        ("not-applied", Severity::Critical),
        ("address-missing", Severity::Critical),
        ("address-fault", Severity::Warning),
        ("session-down", Severity::Warning),
        ("session-down", Severity::Critical),
        ("session-disabled", Severity::Warning),
        ("session-disabled", Severity::Critical),
        ("not-told", Severity::Warning),
        ("over-maximum", Severity::Warning),
        ("overridden", Severity::Warning),
        ("trouble", Severity::Warning),
        ("reload-refused", Severity::Warning),
        ("memory-table", Severity::Critical),
        ("dry-run", Severity::Warning),
    ];

    /// The variant's, as metrics and the API say it: a promise.
    pub fn name(&self) -> &'static str {
        match self {
            Alert::MarkedDownButPooled { .. } => "marked-down-but-pooled",
            Alert::TooSmall { .. } => "too-small",
            Alert::NothingPooled { .. } => "nothing-pooled",
            Alert::NothingWeighted { .. } => "nothing-weighted",
            Alert::HeldByGuard { .. } => "held-by-guard",
            Alert::DrainHeld { .. } => "drain-held",
            Alert::StaleCatchUp { .. } => "stale-catch-up",
            Alert::Unidentified { .. } => "unidentified",
            Alert::ListFailed { .. } => "list-failed",
            Alert::SavedLists { .. } => "saved-lists",
            Alert::BadEntry { .. } => "bad-entry",
            Alert::MoreBadEntries { .. } => "more-bad-entries",
            Alert::Unresolved { .. } => "unresolved",
            Alert::OnlyTold { .. } => "only-told",
            Alert::Stuck { .. } => "stuck",
            Alert::NotApplied { .. } => "not-applied",
            Alert::AddressMissing { .. } => "address-missing",
            Alert::AddressFault { .. } => "address-fault",
            Alert::SessionDown { .. } => "session-down",
            Alert::SessionDisabled { .. } => "session-disabled",
            Alert::NotTold { .. } => "not-told",
            Alert::OverMaximum { .. } => "over-maximum",
            Alert::Overridden { .. } => "overridden",
            Alert::Trouble { .. } => "trouble",
            Alert::ReloadRefused { .. } => "reload-refused",
            Alert::MemoryTable => "memory-table",
            Alert::DryRun => "dry-run",
        }
    }

    pub fn severity(&self) -> Severity {
        match self {
            Alert::MarkedDownButPooled { .. }
            | Alert::NothingPooled { .. }
            | Alert::NothingWeighted { .. }
            | Alert::NotApplied { .. }
            | Alert::AddressMissing { .. }
            | Alert::ListFailed { kept: false, .. }
            | Alert::SessionDown { alone: true, .. }
            | Alert::SessionDisabled { alone: true, .. }
            // It announces addresses for which the kernel balances nothing.
            | Alert::MemoryTable => Severity::Critical,
            Alert::TooSmall { .. }
            | Alert::HeldByGuard { .. }
            | Alert::DrainHeld { .. }
            | Alert::StaleCatchUp { .. }
            | Alert::SavedLists { .. }
            | Alert::BadEntry { .. }
            | Alert::MoreBadEntries { .. }
            | Alert::Unidentified { .. }
            | Alert::ListFailed { kept: true, .. }
            | Alert::Unresolved { .. }
            | Alert::OnlyTold { .. }
            | Alert::Stuck { .. }
            | Alert::AddressFault { .. }
            | Alert::SessionDown { alone: false, .. }
            | Alert::SessionDisabled { alone: false, .. }
            | Alert::NotTold { .. }
            | Alert::OverMaximum { .. }
            | Alert::Overridden { .. }
            | Alert::Trouble { .. }
            | Alert::ReloadRefused { .. }
            | Alert::DryRun => Severity::Warning,
        }
    }
}

/// One line, as an operator would say it, without a full stop.
impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alert::MarkedDownButPooled { service, hosts } => {
                write!(
                    f,
                    "{service}: Servers {} are marked down but pooled",
                    List(hosts)
                )
            }
            Alert::TooSmall { service } => {
                write!(f, "Pool {service} is too small to allow depooling")
            }
            Alert::NothingPooled { service } => write!(f, "{service}: No server is pooled"),
            Alert::NothingWeighted { service } => {
                write!(f, "{service}: All pooled servers have weight 0")
            }
            Alert::HeldByGuard { service, hosts } => {
                let hosts = List(hosts);
                write!(
                    f,
                    "{service}: Against the server list, depool-guard keeps {hosts} pooled"
                )
            }
            Alert::DrainHeld { service, hosts } => {
                let hosts = List(hosts);
                write!(
                    f,
                    "{service}: Against the server list, depool-guard keeps the weight of {hosts}"
                )
            }
            Alert::StaleCatchUp {
                service,
                hosts,
                left,
                guard: Guard { size, line },
                pool,
            } => {
                let (hosts, confirm) = (List(hosts), Confirm(pool.as_ref()));
                write!(
                    f,
                    "{service}: Taken out while the source was away, but kept: {hosts}, \
                     {left} of {size} would be left and the line is {line}, {confirm}"
                )
            }
            Alert::Unidentified { service, hosts } => {
                let hosts = List(hosts);
                write!(
                    f,
                    "{service}: IPVS had {hosts}, kept until every listed name has an address"
                )
            }
            Alert::ListFailed {
                service,
                fault,
                kept,
            } => {
                let kept = if *kept {
                    ", the last good one stays"
                } else {
                    ""
                };
                write!(f, "{service}: No usable server list{kept}: {}", Line(fault))
            }
            Alert::SavedLists { services, oldest } => {
                let oldest = Age(*oldest);
                write!(
                    f,
                    "lists: Saved ones are in force for {services} services, the oldest is {oldest} old"
                )
            }
            Alert::BadEntry {
                service,
                key,
                fault,
            } => {
                let (key, fault) = (Line(key), Line(fault));
                write!(f, "{service}: The entry {key} cannot be used: {fault}")
            }
            Alert::MoreBadEntries { service, count } => {
                write!(f, "{service}: {count} more entries cannot be used")
            }
            Alert::Unresolved {
                service,
                hosts,
                fault,
                stale,
            } => {
                let stale = if *stale {
                    ", their last addresses stay"
                } else {
                    ""
                };
                let (hosts, fault) = (List(hosts), Line(fault));
                write!(
                    f,
                    "{service}: Servers {hosts} do not resolve{stale}: {fault}"
                )
            }
            Alert::OnlyTold {
                service,
                monitor: Probe::VIP_REACHABILITY,
                hosts,
                reason,
            } => {
                let (hosts, reason) = (List(hosts), Line(reason));
                write!(
                    f,
                    "{service}: Servers {hosts} may lose what clients send to the VIP, and are not depooled for it: {reason}"
                )
            }
            Alert::OnlyTold {
                service,
                monitor,
                hosts,
                reason,
            } => {
                let (hosts, reason) = (List(hosts), Line(reason));
                write!(
                    f,
                    "{service}: {monitor} fails on {hosts} and depools nobody: {reason}"
                )
            }
            Alert::Stuck {
                service,
                hosts,
                figures,
            } => {
                let hosts = List(hosts);
                write!(
                    f,
                    "{service}: Connections to {hosts} come to nothing, while other servers serve \
                     (does it listen, is the VIP on lo?): {figures}"
                )
            }
            Alert::NotApplied {
                service,
                fault,
                holds,
            } => {
                let holds = if *holds { "an older state" } else { "nothing" };
                write!(
                    f,
                    "{service}: IPVS refused and holds {holds}: {}",
                    Line(fault)
                )
            }
            Alert::AddressMissing { address, fault } => {
                write!(
                    f,
                    "{address}: The address is not on this host{}",
                    Because(fault.as_deref())
                )
            }
            Alert::AddressFault { address, fault } => {
                write!(
                    f,
                    "{address}: The address is not as it should be: {}",
                    Line(fault)
                )
            }
            Alert::SessionDown {
                peer, fault, hint, ..
            } => {
                let fault = Because(fault.as_deref());
                write!(f, "{peer}: The BGP session is not established{fault}")?;
                hint.map_or(Ok(()), |hint| write!(f, " ({hint})"))
            }
            Alert::SessionDisabled {
                peer,
                ordered,
                text,
                ..
            } => {
                let by = if *ordered {
                    "by an operator"
                } else {
                    "in the configuration"
                };
                let text = Because(text.as_deref());
                write!(f, "{peer}: The BGP session is disabled {by}{text}")
            }
            Alert::NotTold {
                peer,
                why,
                addresses,
                count,
            } => {
                let why = match why {
                    Untold::Family => "their family is not agreed on",
                    Untold::NextHop => "no next hop of their family is known",
                };
                let (addresses, more) = (List(addresses), count - addresses.len());
                write!(
                    f,
                    "{peer}: Not told of announced addresses, {why}: {addresses}"
                )?;
                if more > 0 {
                    write!(f, " and {more} more")?;
                }
                Ok(())
            }
            Alert::OverMaximum {
                peer,
                family,
                maximum,
            } => {
                write!(
                    f,
                    "{peer}: The router announces more than {maximum} {family} prefixes, \
                     maximum-prefixes"
                )
            }
            Alert::Overridden { overruled, by } => {
                let until = by.note.until.as_deref().unwrap_or("ended");
                write!(
                    f,
                    "{overruled}: Overridden by an operator, {}, until {until}",
                    by.action
                )?;
                match &by.note.reason {
                    Some(reason) => write!(f, ": {}", Line(reason)),
                    None => Ok(()),
                }
            }
            Alert::Trouble { part, fault } => write!(f, "{part}: {}", Line(fault)),
            Alert::ReloadRefused { mistakes } => {
                write!(
                    f,
                    "reload: Refused, the old configuration stays: {}",
                    Line(mistakes)
                )
            }
            Alert::MemoryTable => {
                f.write_str("ipvs: A table in memory replaces the kernel's, nothing is balanced")
            }
            Alert::DryRun => f.write_str("dry run: Nothing is done, only shown"),
        }
    }
}

struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct Because<'a>(Option<&'a str>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |fault| write!(f, ": {}", Line(fault)))
    }
}

/// What the operator can do if the change was meant, and if not.
struct Confirm<'a>(Option<&'a PoolPath>);

impl fmt::Display for Confirm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pool) = self.0 else {
            return f.write_str("reverse it, or let it through by depool-guard = \"off\"");
        };
        let [dc, cluster, service] = pool.tags();
        write!(
            f,
            "reverse it, or confirm it by plimsoll ctl select \
             'dc={dc},cluster={cluster},service={service},name=HOST' set/… --force"
        )
    }
}

/// In words, to the second.
pub(crate) struct Age(pub(crate) Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Duration::from_secs(self.0.as_secs());
        humantime::format_duration(whole).fmt(f)
    }
}

/// A text from elsewhere, on one line, at most [`LONGEST_FAULT`] of it.
pub(crate) struct Line<'a>(pub(crate) &'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.trim_end().chars();
        for c in characters.by_ref().take(LONGEST_FAULT) {
            match c {
                '\n' => f.write_str(", ")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        f.write_str(if characters.next().is_some() {
            "…"
        } else {
            ""
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::routing::session::Foreign;
    use crate::service::Weight;
    use crate::snapshot::sample::{bgp, edit, server, service, snapshot, vip};
    use crate::snapshot::{PeerOrders, sample};

    use super::*;

    fn check(snapshot: &Snapshot, expected: &[&str]) {
        check_at(sample::now(), snapshot, expected);
    }

    fn check_at(now: Instant, snapshot: &Snapshot, expected: &[&str]) {
        let said: Vec<String> = snapshot
            .alerts(now)
            .iter()
            .map(|a| format!("{} {a}", a.severity()))
            .collect();
        assert_eq!(said, expected);
        for alert in snapshot.alerts(now) {
            let known = (alert.name(), alert.severity());
            assert!(Alert::ALL.contains(&known), "{known:?}");
        }
    }

    /// The variants as this file has them: none is forgotten among all, and its name is its variant's.
    #[test]
    fn each_has_a_name() {
        let file = syn::parse_file(include_str!("alert.rs")).expect("it compiles");
        let all = file.items.into_iter().find_map(|item| {
            let syn::Item::Enum(it) = item else {
                return None;
            };
            (it.ident == "Alert").then_some(it.variants)
        });
        let kebab = |name: String| {
            let dashed = |c: char| {
                [
                    c.is_uppercase().then_some('-'),
                    Some(c.to_ascii_lowercase()),
                ]
            };
            let dashed: String = name.chars().flat_map(dashed).flatten().collect();
            dashed.trim_start_matches('-').to_owned()
        };
        let variants = all.expect("it is there").into_iter();
        let variants: Vec<String> = variants.map(|it| kebab(it.ident.to_string())).collect();
        let mut names = Alert::ALL.map(|(name, _)| name).to_vec();
        names.dedup();
        assert_eq!(variants, names);
    }

    #[test]
    fn a_healthy_snapshot_has_none() {
        check(&snapshot([]), &[]);
        let web = service("web", 0.5, &["a up pooled", "b up pooled", "c disabled"]);
        check(&snapshot([web]), &[]);
        // One server alone can never be depooled; PyBal does not mention it.
        check(&snapshot([service("one", 1.0, &["a up pooled"])]), &[]);
    }

    #[test]
    fn pybals_own() {
        let web = service("web", 0.5, &["b held", "a held", "c up pooled", "d down"]);
        let api = service("api", 1.0, &["a up pooled", "b up pooled"]);
        // Already critical: not named for its size too.
        let dns = service("dns", 1.0, &["a held", "b up pooled"]);
        check(
            &snapshot([web, api, dns]),
            &[
                "critical dns: Servers a are marked down but pooled",
                "critical web: Servers a, b are marked down but pooled",
                "warning Pool api is too small to allow depooling",
            ],
        );
    }

    /// Two servers that fail a monitor of this type.
    fn only_told(kind: &'static str) -> (ServiceName, Arc<Service>) {
        edit(
            service("web", 0.5, &["a up pooled", "b up pooled", "c up pooled"]),
            |s| {
                for host in ["a", "b"] {
                    let mut only_told = server("x down").1.monitors;
                    only_told[0].depool = false;
                    only_told[0].kind = kind;
                    let servers = Arc::make_mut(&mut s.servers);
                    let monitors = &mut servers.get_mut(host).unwrap().monitors;
                    monitors.extend(only_told.clone());
                    monitors.extend(only_told);
                }
            },
        )
    }

    #[test]
    fn checks_that_depool_nobody() {
        check(
            &snapshot([only_told("idle-connection")]),
            &["warning web: idle-connection fails on a, b and depools nobody: connection refused"],
        );
        check(
            &snapshot([only_told("vip-reachability")]),
            &[
                "warning web: Servers a, b may lose what clients send to the VIP, and are not depooled for it: connection refused",
            ],
        );
    }

    #[test]
    fn who_takes_no_connection_up() {
        let servers = ["a up pooled", "b up pooled", "c up pooled", "d up pooled"];
        let web = edit(service("web", 0.5, &servers), |s| {
            let servers = Arc::make_mut(&mut s.servers);
            for (host, figures) in [
                ("c", "46 connections in 1m 22s, 1.0 packets each"),
                ("b", "50 connections in 1m 20s, 4.6 packets each"),
            ] {
                servers.get_mut(host).unwrap().stuck = Some(figures.into());
            }
        });
        check(
            &snapshot([web]),
            &[
                "warning web: Connections to b, c come to nothing, while other servers serve \
                 (does it listen, is the VIP on lo?): 50 connections in 1m 20s, 4.6 packets each",
            ],
        );
    }

    #[test]
    fn a_server_not_checked_yet_is_not_marked_down() {
        check(
            &snapshot([service(
                "web",
                0.5,
                &["a unknown held", "b unknown held", "c"],
            )]),
            &[],
        );
    }

    #[test]
    fn nothing_pooled() {
        let gone = service("web", 0.0, &["a down", "b down", "c disabled"]);
        check(
            &snapshot([gone.clone()]),
            &["critical web: No server is pooled"],
        );
        let no_weight = edit(gone.clone(), |s| {
            let servers = Arc::make_mut(&mut s.servers);
            servers.extend([server("d up pooled")]);
            let zero = Weight::new(0).unwrap();
            s.destinations = Some(Arc::new(
                [("10.0.0.4:80".parse().unwrap(), zero.into())].into(),
            ));
        });
        check(
            &snapshot([no_weight]),
            &["critical web: All pooled servers have weight 0"],
        );
        let waiting = edit(gone.clone(), |s| s.source = Source::Waiting);
        check(&snapshot([waiting]), &[]);
        let resolving = edit(gone, |s| {
            let servers = Arc::make_mut(&mut s.servers);
            servers.values_mut().next().unwrap().address = None;
        });
        check(&snapshot([resolving]), &[]);
        check(
            &snapshot([service("new", 0.0, &["a unknown", "b down"])]),
            &[],
        );
    }

    #[test]
    fn lists_and_names() {
        let web = service("web", 0.5, &["a up pooled", "b up pooled", "c up pooled"]);
        let web = edit(web, |s| {
            s.source = Source::Failed("text.json: is\nempty".into());
            let servers = Arc::make_mut(&mut s.servers);
            servers.get_mut("b").unwrap().unresolved = Some("no such name".into());
            servers.extend([server("d"), server("e disabled")]);
            for host in ["d", "e"] {
                let server = servers.get_mut(host).unwrap();
                (server.address, server.unresolved) = (None, Some("timed out".into()));
            }
        });
        let new = service("new", 0.5, &[]);
        let new = edit(new, |s| s.source = Source::Failed("gone".into()));
        check(
            &snapshot([web, new]),
            &[
                "critical new: No server is pooled",
                "critical new: No usable server list: gone",
                "warning web: No usable server list, the last good one stays: text.json: is, empty",
                "warning web: Servers b do not resolve, their last addresses stay: no such name",
                "warning web: Servers d do not resolve: timed out",
            ],
        );
    }

    #[test]
    fn the_guard() {
        let web = service(
            "web",
            0.5,
            &["a up pooled", "b disabled guarded", "c gone guarded"],
        );
        let web = edit(web, |s| {
            let mut stranger = s.servers["c"].clone();
            stranger.pooled = Pooled::Held(Held::NamesUnresolved);
            Arc::make_mut(&mut s.servers).insert("10.9.9.8".parse().unwrap(), stranger);
        });
        check(
            &snapshot([web]),
            &[
                "warning web: Against the server list, depool-guard keeps b, c pooled",
                "warning web: IPVS had 10.9.9.8, kept until every listed name has an address",
            ],
        );
    }

    #[test]
    fn a_drain_that_is_held() {
        let web = service("web", 0.5, &["a up pooled", "b up guarded", "c up pooled"]);
        check(
            &snapshot([web]),
            &["warning web: Against the server list, depool-guard keeps the weight of b"],
        );
    }

    #[test]
    fn what_came_late() {
        let servers = ["a up pooled", "b disabled up late", "c gone up late", "d"];
        let web = edit(service("web", 0.5, &servers), |s| {
            s.guard = Some(Guard { size: 4, line: 3 });
        });
        let held = "warning web: Taken out while the source was away, but kept: b, c, \
                    1 of 4 would be left and the line is 3, reverse it, or ";
        let off = format!("{held}let it through by depool-guard = \"off\"");
        check(&snapshot([web.clone()]), &[&off]);

        let pool = Servers::Etcd("eqiad/text/nginx".parse().unwrap());
        let web = edit(web, |s| Arc::make_mut(&mut s.config).servers = pool);
        let confirm = format!(
            "{held}confirm it by plimsoll ctl select \
             'dc=eqiad,cluster=text,service=nginx,name=HOST' set/… --force"
        );
        let mut with_v3 = snapshot([web]);
        for (api, expected) in [(EtcdApi::V3, &confirm), (EtcdApi::V2, &off)] {
            Arc::make_mut(&mut with_v3.config).etcd = Some(sample::etcd(api));
            check(&with_v3, &[expected]);
        }
    }

    #[test]
    fn lists_from_disk_are_one_alert() {
        let now = sample::now();
        let saved = |name, age, ago, fault: Option<&str>| {
            let web = service(name, 0.5, &["a up pooled", "b up pooled", "c up pooled"]);
            edit(web, |s| {
                s.source = Source::Saved {
                    age: Duration::from_secs(age),
                    read_at: now - Duration::from_secs(ago),
                    fault: fault.map(Into::into),
                };
            })
        };
        let fresh = service("fresh", 0.5, &["a up pooled", "b up pooled", "c up pooled"]);
        let some = [
            saved("web", 3600, 65, None),
            saved("api", 3000, 5, Some("its directory is empty")),
            fresh,
        ];
        let s = snapshot(some);
        let of = |age| {
            format!(
                "warning lists: Saved ones are in force for 2 services, the oldest is {age} old"
            )
        };
        let failed =
            "warning api: No usable server list, the last good one stays: its directory is empty";
        check_at(now, &s, &[failed, &of("1h 1m 5s")]);
        let later = now + Duration::from_millis(86_400_900);
        check_at(later, &s, &[failed, &of("1day 1h 1m 5s")]);
    }

    #[test]
    fn bad_entries() {
        let web = |count: usize| {
            let web = service("web", 0.5, &["a up pooled", "b up pooled", "c up pooled"]);
            edit(web, |s| {
                let faults = (0..count).map(|n| (format!("a/b/c/cp{n:02}"), "no\nJSON".to_owned()));
                s.list_faults = Arc::new(faults.collect());
            })
        };
        let entry = |n| format!("warning web: The entry a/b/c/cp{n:02} cannot be used: no, JSON");
        check(&snapshot([web(2)]), &[&entry(0), &entry(1)]);
        let said = snapshot([web(33)]).alerts(sample::now());
        assert_eq!(said.len(), 21);
        assert_eq!(said[20].to_string(), "web: 13 more entries cannot be used");
        assert_eq!(snapshot([web(20)]).alerts(sample::now()).len(), 20);
    }

    #[test]
    fn the_world_around() {
        let web = service("web", 0.5, &["a up pooled", "b up pooled", "c up pooled"]);
        let web = edit(web, |s| {
            s.applied = Applied::Failed {
                fault: "out of memory".into(),
                holds: true,
            };
        });
        let mut s = snapshot([web]);
        s.vips.extend([
            vip("192.0.2.1", true, None),
            vip("192.0.2.2", false, Some("denied")),
        ]);
        s.vips.extend([
            vip("192.0.2.3", false, None),
            vip("192.0.2.4", true, Some("no label")),
        ]);
        s.troubles = Arc::new([("state", "disk full".to_owned())].into());
        s.reload_refused = Some("line 3: bad\nline 4: worse\n".into());
        check(
            &s,
            &[
                "critical web: IPVS refused and holds an older state: out of memory",
                "critical 192.0.2.2: The address is not on this host: denied",
                "critical 192.0.2.3: The address is not on this host",
                "warning 192.0.2.4: The address is not as it should be: no label",
                "warning state: disk full",
                "warning reload: Refused, the old configuration stays: line 3: bad, line 4: worse",
            ],
        );
    }

    /// Two peers, whose sessions are these; `None`: nothing is known of it.
    fn peers(sessions: [Option<Session>; 2]) -> Snapshot {
        let mut s = snapshot([]);
        let names = ["10.0.0.1", "10.0.0.2"];
        s.config = bgp(&names);
        let sessions = names.map(sample::ip).into_iter().zip(sessions);
        let known = sessions.filter_map(|(ip, session)| Some((ip.into(), session?)));
        s.peers = Arc::new(known.collect());
        s
    }

    fn session(state: SessionState) -> Session {
        Session {
            state,
            ..Session::default()
        }
    }

    fn established() -> Option<Session> {
        Some(session(SessionState::Established))
    }

    #[test]
    fn sessions() {
        let refused = |state| {
            Some(Session {
                fault: Some("refused".into()),
                ..session(state)
            })
        };
        for state in [
            SessionState::Idle,
            SessionState::Connect,
            SessionState::Active,
            SessionState::OpenSent,
            SessionState::OpenConfirm,
        ] {
            check(
                &peers([refused(state), None]),
                &[
                    "critical 10.0.0.1: The BGP session is not established: refused",
                    "critical 10.0.0.2: The BGP session is not established",
                ],
            );
        }
        let mut s = peers([refused(SessionState::Active), established()]);
        let one = "warning 10.0.0.1: The BGP session is not established: refused";
        check(&s, &[one]);
        s.stopping = true;
        check(&s, &[]);
        s.stopping = false;
        s.mode = Mode::DryRun;
        check(&s, &["warning dry run: Nothing is done, only shown"]);
        s.mode = Mode::MemoryTable;
        let loud = "critical ipvs: A table in memory replaces the kernel's, nothing is balanced";
        check(&s, &[loud, one]);
    }

    #[test]
    fn a_hint_follows_the_fault() {
        let down = Session {
            fault: Some("HoldTimer expired".into()),
            hint: Some(Hint::Gtsm),
            ..session(SessionState::Active)
        };
        let says = "warning 10.0.0.1: The BGP session is not established: HoldTimer expired \
                    (one end hears nothing of the other: is ttl-security set at one end only?)";
        check(&peers([Some(down), established()]), &[says]);
    }

    #[test]
    fn a_disabled_session_is_no_fault_while_another_is_there() {
        let order = |s: &mut Snapshot, ip, enabled, text: Option<&str>| {
            let orders = PeerOrders {
                enabled,
                text: text.map(Into::into),
                clears: 3,
            };
            Arc::make_mut(&mut s.peer_orders).insert(sample::ip(ip).into(), orders);
        };
        // Its session may not have ended yet.
        let mut s = peers([established(), established()]);
        order(&mut s, "10.0.0.1", Some(false), Some("linecard\nswap"));
        let disabled = "10.0.0.1: The BGP session is disabled by an operator: linecard, swap";
        check(&s, &[&format!("warning {disabled}")]);

        let mut s = peers([Some(session(SessionState::Idle)), None]);
        order(&mut s, "10.0.0.1", Some(false), Some("linecard\nswap"));
        check(
            &s,
            &[
                "critical 10.0.0.2: The BGP session is not established",
                &format!("critical {disabled}"),
            ],
        );

        let mut s = peers([None, established()]);
        let config = Arc::make_mut(&mut s.config).bgp.as_mut().unwrap();
        for peer in config.peers.values_mut() {
            Arc::make_mut(peer).enabled = false;
        }
        // Enabled by an operator against the configuration; the other's text is of a clear.
        order(&mut s, "10.0.0.2", Some(true), None);
        order(&mut s, "10.0.0.1", None, Some("cleared"));
        let disabled = "warning 10.0.0.1: The BGP session is disabled in the configuration";
        check(&s, &[disabled]);
    }

    #[test]
    fn what_an_established_peer_lacks_or_has_too_much_of() {
        let untold = |n: u16, why| {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
            (address, why)
        };
        let mut odd = session(SessionState::Established);
        odd.untold
            .extend((1..=5).map(|n| untold(n, Untold::Family)));
        odd.untold.extend([untold(9, Untold::NextHop)]);
        odd.over_maximum.insert(Family::Ipv6);
        check(
            &peers([Some(odd.clone()), established()]),
            &[
                "warning 10.0.0.1: Not told of announced addresses, their family is not agreed on: \
                 2001:db8::1, 2001:db8::2, 2001:db8::3 and 2 more",
                "warning 10.0.0.1: Not told of announced addresses, no next hop of their family is known: \
                 2001:db8::9",
                "warning 10.0.0.1: The router announces more than 10000 IPv6 prefixes, maximum-prefixes",
            ],
        );
        odd.state = SessionState::Active;
        let down = "warning 10.0.0.1: The BGP session is not established";
        check(&peers([Some(odd), established()]), &[down]);
    }

    /// Several balancers announce the same addresses: that is what they are there for.
    #[test]
    fn an_address_that_somebody_else_announces_is_no_alert() {
        let mut other = session(SessionState::Established);
        let foreign = Foreign {
            ours: false,
            next_hop: None,
            as_path: "65001 64600".to_owned(),
            med: Some(10),
            local_pref: None,
            communities: BTreeSet::new(),
        };
        other
            .foreign
            .insert(sample::ip("192.0.2.1").into(), foreign.into());
        check(&peers([Some(other), established()]), &[]);
    }

    #[test]
    fn a_fault_is_one_line_of_bounded_length() {
        let long = Line(&"x".repeat(5000)).to_string();
        assert_eq!(long.chars().count(), LONGEST_FAULT + 1);
        assert_eq!(Line("a\r\n\u{1b}[31mb\n").to_string(), "a ,  [31mb");
    }
}
