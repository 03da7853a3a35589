//! Services and their servers.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::traffic::Traffic;
use crate::check::figures::LastLoad;
use crate::config::DepoolGuard;
use crate::service::{Forwarding, Host, Protocol, VirtualService, Weight};
use crate::snapshot::{
    self, Condition, Guard, Health, Held, MonitorState, Pooled, Refusal, Server, Service,
};

use super::View;
use super::time::Time;

pub(super) fn all(view: &View<'_>) -> String {
    let services = view.snapshot.services.values();
    super::body(&Services {
        services: services
            .map(|service| ServiceInList::of(view, service))
            .collect(),
    })
}

pub(super) fn one(view: &View<'_>, name: &str) -> Result<String, String> {
    let service = view.service(name)?;
    Ok(super::body(&ServiceDetail::of(view, service)))
}

pub(super) fn server(view: &View<'_>, service: &str, host: &str) -> Result<String, String> {
    let (host, server) = view.server(service, host)?;
    let service = view.service(service)?;
    Ok(super::body(&ServerDetail::of(view, service, host, server)))
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Services<'a> {
    services: Vec<ServiceInList<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct ServiceInList<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    servers: Vec<ServerInList<'a>>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ServiceDetail<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    settings: Settings<'a>,
    /// Null: the kernel's figures have not been read of late.
    traffic: Option<Traffic>,
    /// Entries of the list that cannot be used.
    bad_entries: Vec<BadEntry<'a>>,
    servers: Vec<ServerDetail<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Summary<'a> {
    name: &'a str,
    /// The VIP.
    address: IpAddr,
    /// Null: of any.
    protocol: Option<Protocol>,
    /// Null: any.
    port: Option<u16>,
    /// Null: it is known by address and port.
    firewall_mark: Option<u32>,
    condition: Condition,
    /// Why its address may not be announced. Null: this service does not stand in the way.
    refusal: Option<Refusal>,
    counts: Counts,
    list: List<'a>,
    applied: Applied<'a>,
}

/// The arithmetic of the depool threshold.
#[derive(Serialize, JsonSchema)]
pub(super) struct Counts {
    /// The fraction of the listed servers that must stay.
    pub(super) depool_threshold: f64,
    /// Servers that the list names: n.
    pub(super) listed: usize,
    /// n times the threshold, rounded up: so many stay pooled, as far as there are any.
    pub(super) floor: usize,
    pub(super) enabled: usize,
    pub(super) up: usize,
    /// Enabled, with an address, and up.
    pub(super) wanted: usize,
    /// In IPVS, those that are held too.
    pub(super) pooled: usize,
    pub(super) held: usize,
    pub(super) draining: usize,
    /// The line that holds a change of the list back. Null: nobody is held by it.
    pub(super) guard: Option<Guard>,
}

/// The server list in force.
#[derive(Serialize, JsonSchema)]
pub(super) struct List<'a> {
    state: ListState,
    /// As of when it is, if it is one that was saved.
    saved_at: Option<Time>,
    /// What the source said last, if that was no list.
    fault: Option<&'a str>,
    /// As of which revision of its store it is. Null: the source counts none.
    revision: Option<u64>,
    /// The last one of which the kernel was read to hold what follows from it.
    applied_revision: Option<u64>,
    bad_entries: usize,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ListState {
    /// Nothing has come yet.
    Waiting,
    Good,
    /// The source has not answered since the start; the last one that was saved is in force.
    Saved,
    /// The last good one, if there was one, stays.
    Failed,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct BadEntry<'a> {
    key: &'a str,
    fault: &'a str,
}

/// What the kernel said to it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Applied<'a> {
    state: AppliedState,
    fault: Option<&'a str>,
    /// After a fault: whether the kernel still has the service, with a server that gets new connections.
    holds: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum AppliedState {
    NotYet,
    Applied,
    Failed,
}

#[derive(Serialize, JsonSchema)]
struct Settings<'a> {
    scheduler: &'static str,
    forwarding: ForwardingBy,
    depool_guard: DepoolGuard,
    drain_timeout_seconds: f64,
    /// In the order of the file; a server is up if all that depool say so.
    monitors: Vec<MonitorSettings<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum ForwardingBy {
    DirectRouting,
    Masquerading,
    Tunnel,
}

#[derive(Serialize, JsonSchema)]
struct MonitorSettings<'a> {
    monitor: &'a str,
    interval_seconds: f64,
    timeout_seconds: f64,
    /// Whether a server that does not pass is down; else it is only told.
    depool: bool,
}

#[derive(Serialize, JsonSchema)]
struct ServerInList<'a> {
    host: &'a str,
    enabled: bool,
    health: Health,
    /// In IPVS.
    pooled: bool,
    /// Why it is pooled though it should not be.
    held: Option<Held>,
    /// Not pooled, but in IPVS with weight 0 until its connections have ended.
    draining: bool,
    /// The list's. Null: it is off the list.
    weight: Option<u32>,
    /// What IPVS shall have. Null: it shall not have the server.
    ipvs_weight: Option<u32>,
    /// That it takes up no connection which IPVS gives it, in figures.
    stuck: Option<&'a str>,
    /// What the first monitor says that it does not pass.
    reason: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ServerDetail<'a> {
    #[serde(flatten)]
    server: ServerInList<'a>,
    service: &'a str,
    /// In PyBal's words: `enabled/up/pooled`.
    state: String,
    /// Null: its name has not resolved to an address of the service's family.
    address: Option<IpAddr>,
    /// Why there is no address, or why the known one may be old.
    unresolved: Option<&'a str>,
    /// Why it is down whatever its checks say.
    kept_down: Option<Kept>,
    /// When it leaves IPVS at the latest, if it drains.
    draining_until: Option<Time>,
    /// Why its weight in IPVS is not its list's.
    scaled: Vec<Scaled>,
    /// What its operator said.
    note: Option<Note<'a>>,
    /// What he says in place of its list; null: nothing.
    overridden: Option<Overridden>,
    /// Null: the kernel's figures have not been read of late, or it does not have the server.
    traffic: Option<Traffic>,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Overridden {
    action: &'static str,
    /// Of action `weight`.
    weight: Option<u32>,
    /// What the list says, which is in force again when this ends.
    list_enabled: bool,
    list_weight: u32,
}

#[derive(Serialize, JsonSchema)]
struct Kept {
    why: String,
    until: Time,
}

#[derive(Serialize, JsonSchema)]
struct Scaled {
    by: String,
    /// Of what the weight would else be.
    percent: u32,
}

#[derive(Serialize, JsonSchema)]
struct Note<'a> {
    reason: Option<&'a str>,
    /// When it ends by itself, in the operator's own writing.
    until: Option<&'a str>,
    /// The depool guard shall let this server go.
    confirmed: bool,
}

/// One monitor at work on one server.
#[derive(Serialize, JsonSchema)]
pub(super) struct Check<'a> {
    monitor: &'a str,
    /// What it makes of the results. Null: there is none yet.
    up: Option<bool>,
    /// Why it is not up.
    reason: Option<&'a str>,
    /// Whether the server is down if it is.
    depool: bool,
    up_transitions: u64,
    down_transitions: u64,
    up_results: u64,
    down_results: u64,
    /// When the certificate expires that the server showed last.
    certificate_expires: Option<Time>,
    /// Null: it does not look at the load, or has not yet.
    load: Option<Load>,
    last: Option<Last>,
}

#[derive(Serialize, JsonSchema)]
struct Load {
    /// The share of its weight that the server gets for it. Null: nothing is known yet.
    percent: Option<u32>,
    /// Why the last answer said nothing of it.
    fault: Option<String>,
}

/// The last result, which need not be what the monitor makes of it.
#[derive(Serialize, JsonSchema)]
struct Last {
    at: Time,
    passed: bool,
    reason: Option<String>,
    /// Null: of a monitor that is at it all the time.
    took_seconds: Option<f64>,
}

impl<'a> ServiceInList<'a> {
    fn of(view: &View<'_>, service: &'a Service) -> ServiceInList<'a> {
        let servers = service.servers.iter();
        ServiceInList {
            summary: Summary::of(view, service),
            servers: servers
                .map(|(host, server)| ServerInList::of(service, host, server))
                .collect(),
        }
    }
}

impl<'a> ServiceDetail<'a> {
    fn of(view: &View<'_>, service: &'a Service) -> ServiceDetail<'a> {
        let servers = service.servers.iter();
        ServiceDetail {
            summary: Summary::of(view, service),
            settings: Settings::of(service),
            traffic: Traffic::of_service(service, view.now.monotonic),
            bad_entries: bad_entries(service),
            servers: servers
                .map(|(host, server)| ServerDetail::of(view, service, host, server))
                .collect(),
        }
    }
}

impl<'a> Summary<'a> {
    fn of(view: &View<'_>, service: &'a Service) -> Summary<'a> {
        let key = service.key();
        Summary {
            name: service.config.name.as_str(),
            address: service.config.address,
            protocol: key.protocol(),
            port: key.port(),
            firewall_mark: match key {
                VirtualService::Address { .. } => None,
                VirtualService::Mark { mark, .. } => Some(mark.get()),
            },
            condition: service.condition,
            refusal: service.refusal,
            counts: Counts::of(service),
            list: List::of(view, service),
            applied: Applied::of(service),
        }
    }
}

impl Counts {
    pub(super) fn of(service: &Service) -> Counts {
        let count =
            |which: fn(&Server) -> bool| service.servers.values().filter(|s| which(s)).count();
        Counts {
            depool_threshold: service.config.depool_threshold.get(),
            listed: service.size,
            floor: service.floor,
            enabled: count(Server::enabled),
            up: count(|s| s.health == Health::Up),
            wanted: count(|s| s.enabled() && s.address.is_some() && s.health == Health::Up),
            pooled: count(|s| s.pooled.in_ipvs()),
            held: count(|s| matches!(s.pooled, Pooled::Held(_))),
            draining: count(|s| s.draining.is_some()),
            guard: service.guard,
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn of(view: &View<'_>, service: &'a Service) -> List<'a> {
        let source = &service.source;
        let (state, saved_at) = match source {
            snapshot::Source::Waiting => (ListState::Waiting, None),
            snapshot::Source::Good => (ListState::Good, None),
            snapshot::Source::Failed(_) => (ListState::Failed, None),
            snapshot::Source::Saved { age, read_at, .. } => {
                let read = Time::of(*read_at, view.now);
                (ListState::Saved, Some(read.before(*age)))
            }
        };
        List {
            state,
            saved_at,
            fault: source.fault().map(|fault| &**fault),
            revision: service.revision,
            applied_revision: service.applied_revision,
            bad_entries: service.list_faults.len(),
        }
    }
}

pub(super) fn bad_entries(service: &Service) -> Vec<BadEntry<'_>> {
    let faults = service.list_faults.iter();
    faults.map(|(key, fault)| BadEntry { key, fault }).collect()
}

impl Applied<'_> {
    pub(super) fn of(service: &Service) -> Applied<'_> {
        let (state, fault, holds) = match &service.applied {
            snapshot::Applied::NotYet => (AppliedState::NotYet, None, None),
            snapshot::Applied::Yes => (AppliedState::Applied, None, None),
            snapshot::Applied::Failed { fault, holds } => {
                (AppliedState::Failed, Some(&**fault), Some(*holds))
            }
        };
        Applied {
            state,
            fault,
            holds,
        }
    }
}

impl Settings<'_> {
    fn of(service: &Service) -> Settings<'_> {
        let config = &service.config;
        let monitors = config.monitors.iter();
        Settings {
            scheduler: config.scheduling.scheduler.name(),
            forwarding: match config.delivery.forwarding {
                Forwarding::DirectRouting => ForwardingBy::DirectRouting,
                Forwarding::Masquerading => ForwardingBy::Masquerading,
                Forwarding::Tunnel(_) => ForwardingBy::Tunnel,
            },
            depool_guard: config.depool_guard,
            drain_timeout_seconds: config.drain_timeout.as_secs_f64(),
            monitors: monitors
                .map(|monitor| MonitorSettings {
                    monitor: monitor.probe.kind(),
                    interval_seconds: monitor.interval.as_secs_f64(),
                    timeout_seconds: monitor.timeout.as_secs_f64(),
                    depool: monitor.depool,
                })
                .collect(),
        }
    }
}

impl<'a> ServerInList<'a> {
    fn of(service: &Service, host: &'a Host, server: &'a Server) -> ServerInList<'a> {
        let in_ipvs = service.destination(host, server);
        let in_ipvs = in_ipvs.filter(|_| server.pooled.in_ipvs() || server.draining.is_some());
        let mut failing = server.monitors.iter().filter_map(reason);
        ServerInList {
            host: host.as_str(),
            enabled: server.enabled(),
            health: server.health,
            pooled: server.pooled.in_ipvs(),
            held: match server.pooled {
                Pooled::Held(why) => Some(why),
                Pooled::No | Pooled::Yes => None,
            },
            draining: server.draining.is_some(),
            weight: server.listed.map(|listed| listed.weight.get()),
            ipvs_weight: in_ipvs.map(|to| Weight::get(to.weight)),
            stuck: server.stuck.as_deref(),
            reason: failing.next(),
        }
    }
}

fn reason(monitor: &MonitorState) -> Option<&str> {
    match &monitor.result {
        Some(Err(why)) => Some(why),
        Some(Ok(())) | None => None,
    }
}

impl<'a> ServerDetail<'a> {
    pub(super) fn of(
        view: &View<'_>,
        service: &'a Service,
        host: &'a Host,
        server: &'a Server,
    ) -> ServerDetail<'a> {
        let (now, note) = (view.now, server.note.as_deref());
        let kept = |why: snapshot::KeptDown| {
            let snapshot::KeptDown::FlapHold { until } = why;
            Kept {
                why: why.to_string(),
                until: Time::of(until, now),
            }
        };
        let scaled = server.scaled.iter().map(|by| Scaled {
            by: by.to_string(),
            percent: by.percent(),
        });
        ServerDetail {
            server: ServerInList::of(service, host, server),
            service: service.config.name.as_str(),
            state: server.to_string(),
            address: server.address,
            unresolved: server.unresolved.as_deref(),
            kept_down: server.kept_down.map(kept),
            draining_until: server.draining.map(|until| Time::of(until, now)),
            scaled: scaled.collect(),
            note: note.map(|note| Note {
                reason: note.reason.as_deref(),
                until: note.until.as_deref(),
                confirmed: note.confirmed,
            }),
            overridden: server.overridden.map(|(action, list)| Overridden {
                action: action.name(),
                weight: action.weight().map(Weight::get),
                list_enabled: list.enabled,
                list_weight: list.weight.get(),
            }),
            traffic: Traffic::of_server(service, host, server, now.monotonic),
            checks: server.monitors.iter().map(Check::of).collect(),
        }
    }
}

impl Check<'_> {
    pub(super) fn of(monitor: &MonitorState) -> Check<'_> {
        let figures = &monitor.figures;
        let LastLoad { percent, fault } = figures.load();
        let fault = fault.map(|why| why.to_string());
        let expires = figures.certificate_expires.load(Ordering::Relaxed);
        Check {
            monitor: monitor.kind,
            up: monitor.result.as_ref().map(Result::is_ok),
            reason: reason(monitor),
            depool: monitor.depool,
            up_transitions: monitor.up_transitions,
            down_transitions: monitor.down_transitions,
            up_results: figures.up_results.load(Ordering::Relaxed),
            down_results: figures.down_results.load(Ordering::Relaxed),
            certificate_expires: Time::of_seconds(expires),
            load: (percent.is_some() || fault.is_some()).then_some(Load { percent, fault }),
            last: figures.last().map(|last| Last {
                at: last.at.into(),
                passed: last.result.is_ok(),
                reason: last.result.err().map(|why| why.to_string()),
                took_seconds: last.took.as_ref().map(Duration::as_secs_f64),
            }),
        }
    }
}
