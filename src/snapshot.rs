//! What we want, and why not more: one immutable value, the core's whole output.
//!
//! Sinks make the world equal to it, the API shows it. It shares everything that did not change with
//! the one before it: compare with [`imbl::OrdMap::diff`] and `Arc::ptr_eq`, never walk it whole for one event.

pub mod alert;
#[cfg(test)]
pub(crate) mod sample;
pub mod traffic;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use imbl::OrdMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use self::traffic::Traffic;
use crate::check::Check;
use crate::check::figures::Figures;
use crate::config::{self, Config};
use crate::event::CheckId;
use crate::routing::session::Session;
use crate::routing::{Attributes, Group, PeerId, Policy};
use crate::service::{
    Action, Destination, Destinations, Family, Host, Listed, Note, Overrides, ServiceName,
    VirtualService,
};

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub mode: Mode,
    pub config: Arc<Config>,
    pub services: OrdMap<ServiceName, Arc<Service>>,
    /// Services that are to go, but not before their address is withdrawn: leave them in the kernel.
    /// By what the kernel knows them by: their addresses.
    pub retiring: OrdMap<VirtualService, IpAddr>,
    /// Every address that shall be on this host, those of retiring services too.
    pub vips: OrdMap<IpAddr, Arc<Vip>>,
    pub peers: Arc<BTreeMap<PeerId, Session>>,
    /// What operators want of peers' sessions; peers that nobody spoke of are not there.
    pub peer_orders: Arc<BTreeMap<PeerId, PeerOrders>>,
    /// What operators say of servers in place of their lists, as long as it is in force.
    pub overrides: Arc<Overrides>,
    /// A restart would not forget any of them.
    pub overrides_kept: bool,
    /// Parts of ours that could not do their work, and what they said.
    pub troubles: Arc<BTreeMap<&'static str, String>>,
    pub repairs: Arc<Repairs>,
    /// The mistakes of a configuration that was refused, until a good one is loaded.
    pub reload_refused: Option<Arc<str>>,
    /// `None`: nobody has looked at it yet.
    pub config_file: Option<Arc<ConfigFile>>,
    pub stopping: bool,
}

/// The configuration's file, and how it is now beside what is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// When what is in force was taken from it.
    pub loaded: SystemTime,
    pub on_disk: OnDisk,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum OnDisk {
    /// It says what is in force.
    InForce,
    /// It says something else, and a reload would take it.
    Differs,
    /// A reload would refuse it, for these mistakes, a line each.
    Bad(Arc<str>),
}

/// What of the world the daemon touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Real,
    /// `--ipvs memory`: a table in memory in place of the kernel's; all else is real.
    MemoryTable,
    /// `--dry-run`: a table in memory, no addresses, no BGP.
    DryRun,
}

/// One service: what is wanted for it and the state that this follows from.
#[derive(Clone, Debug)]
pub struct Service {
    pub config: Arc<config::Service>,
    /// Those listed, and those that are held though they are not: a destination that the kernel had when
    /// we came and that no listed server claims stands here under its address.
    pub servers: Arc<BTreeMap<Host, Server>>,
    /// What IPVS shall hold; `None`: not known yet, leave alone what is there.
    pub destinations: Option<Arc<Destinations>>,
    /// Those of them whose last connections are waited for.
    pub draining: Arc<BTreeSet<SocketAddr>>,
    pub applied: Applied,
    /// The checks that shall run; an id never changes its meaning.
    pub checks: Arc<BTreeMap<CheckId, Arc<Check>>>,
    /// The names that shall be resolved to addresses of the service's family.
    pub names: Arc<BTreeSet<Host>>,
    pub source: Source,
    /// Entries of the source that cannot be used, by key, and what is wrong.
    pub list_faults: Arc<BTreeMap<String, String>>,
    /// As of which revision of its store the list in force is.
    pub revision: Option<u64>,
    /// The last of them whose effect was read back from the kernel.
    pub applied_revision: Option<u64>,
    /// How many servers the threshold is a fraction of: those listed.
    pub size: usize,
    /// The least number of servers that stays pooled, as far as there are any.
    pub floor: usize,
    /// The line that holds a change of the list back; `None`: nobody is held by it.
    pub guard: Option<Guard>,
    pub condition: Condition,
    /// Why its address may not be announced; `None`: this service does not stand in the way.
    pub refusal: Option<Refusal>,
    /// Its address was announced before it came, and it has not been ready for that yet: till then it has no say.
    pub newcomer: bool,
    pub counters: Counters,
    /// What goes through it: the same one for as long as it is configured.
    pub traffic: Arc<Traffic>,
}

/// What an administrative change is measured by while some of it is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Guard {
    /// The servers that the line is reckoned from: the larger of the list's old and new number.
    pub size: usize,
    /// How many must go on getting new connections.
    pub line: usize,
}

/// Equal is what is the same one in memory: this is what [`imbl::OrdMap::diff`] compares by,
/// and it must cost nothing for the services that share a node with one that changed.
impl PartialEq for Service {
    fn eq(&self, other: &Service) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Service {
    pub fn key(&self) -> VirtualService {
        self.config.key
    }

    /// What IPVS shall hold for one of its servers.
    pub fn destination(&self, host: &Host, server: &Server) -> Option<&Destination> {
        let backend = self.config.backend(host, server.address?);
        self.destinations.as_ref()?.get(&backend)
    }

    /// Of its servers.
    pub fn family(&self) -> Family {
        self.config.server_family
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// What counts of its list and its operator's override. `None`: no longer listed, but held in the pool.
    pub listed: Option<Listed>,
    /// What an operator says in place of its list, and what that says.
    pub overridden: Option<(Action, Listed)>,
    /// `None`: not ready, its name has not resolved to an address of the service's family.
    pub address: Option<IpAddr>,
    /// What its operator said, if anything.
    pub note: Option<Arc<Note>>,
    /// Why there is no address, or why the known one may be old.
    pub unresolved: Option<Arc<str>>,
    pub health: Health,
    /// Why it is down whatever its checks say.
    pub kept_down: Option<KeptDown>,
    pub monitors: Vec<MonitorState>,
    pub pooled: Pooled,
    /// Not pooled any more, but until then IPVS has it with weight 0 for the sake of its open connections.
    pub draining: Option<Instant>,
    /// Why its weight in IPVS is not its list's, in the order in which these work.
    pub scaled: Vec<Scaled>,
    /// That the connections which IPVS gives it come to nothing, in figures. It is told and changes nothing.
    pub stuck: Option<Arc<str>>,
}

impl Server {
    pub fn enabled(&self) -> bool {
        self.listed.is_some_and(|listed| listed.enabled)
    }
}

/// PyBal's words: `enabled/up/pooled`, `disabled/down/not pooled`, …
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let enabled = if self.enabled() {
            "enabled"
        } else {
            "disabled"
        };
        let health = match self.health {
            Health::Up => "up",
            Health::PartiallyUp => "partially up",
            Health::Unknown | Health::Down => "down",
        };
        let pooled = match self.pooled {
            Pooled::No => "not pooled",
            Pooled::Yes | Pooled::Held(_) => "pooled",
        };
        write!(f, "{enabled}/{health}/{pooled}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No monitor has said anything yet.
    Unknown,
    Down,
    /// Not up, but at least one monitor is.
    PartiallyUp,
    /// All monitors are up, or there are none.
    Up,
}

/// Why a server is down whatever its checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptDown {
    /// It went down too often; see [`FlapHold`](crate::check::FlapHold).
    FlapHold { until: Instant },
}

impl KeptDown {
    /// How much longer.
    pub fn rest(self, now: Instant) -> Duration {
        let KeptDown::FlapHold { until } = self;
        until.saturating_duration_since(now)
    }
}

impl fmt::Display for KeptDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeptDown::FlapHold { .. } => "flap-hold",
        })
    }
}

/// What makes a server's weight another than its list's. Percents are of what the weight would else be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaled {
    /// Its checks said how loaded it is.
    Load { percent: u32 },
    /// It came into the pool and gets its share little by little, so far.
    SlowStart { percent: u32 },
}

impl Scaled {
    pub fn percent(self) -> u32 {
        match self {
            Scaled::Load { percent } | Scaled::SlowStart { percent } => percent,
        }
    }
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scaled::Load { .. } => "load",
            Scaled::SlowStart { .. } => "slow-start",
        })
    }
}

#[derive(Clone, Debug)]
pub struct MonitorState {
    /// The monitor's `type`.
    pub kind: &'static str,
    /// `None`: no result yet. `Some(Err)`: down, and why.
    pub result: Option<Result<(), Arc<str>>>,
    /// Whether the server is down if it is.
    pub depool: bool,
    pub up_transitions: u64,
    pub down_transitions: u64,
    pub figures: Arc<Figures>,
}

/// Figures are no change: they are the same ones for as long as the server has this address.
impl PartialEq for MonitorState {
    fn eq(&self, other: &MonitorState) -> bool {
        let MonitorState {
            kind,
            result,
            depool,
            up_transitions,
            down_transitions,
            figures: _,
        } = self;
        (kind, result, depool) == (&other.kind, &other.result, &other.depool)
            && (up_transitions, down_transitions)
                == (&other.up_transitions, &other.down_transitions)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Pooled {
    No,
    Yes,
    /// In IPVS though it should not be, or with a weight there that its list has set to 0, for this reason.
    Held(Held),
}

impl Pooled {
    pub fn in_ipvs(self) -> bool {
        match self {
            Pooled::No => false,
            Pooled::Yes | Pooled::Held(_) => true,
        }
    }
}

/// Why a server that should leave the pool, or get no more new connections, stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Not up, but too many others are not either.
    DepoolThreshold,
    /// Depooled or drained by its list, but that would take the pool below its guard.
    DepoolGuard,
    /// The same by a list that came after its source had been away for long, when what has changed meanwhile
    /// comes at once: then the line is the depool threshold's.
    StaleCatchUp,
    /// Found in the kernel and not listed, but some listed server has no address yet and may be this one.
    NamesUnresolved,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Held::DepoolThreshold => "depool-threshold",
            Held::DepoolGuard => "depool-guard",
            Held::StaleCatchUp => "stale-catch-up",
            Held::NamesUnresolved => "names-unresolved",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    NotYet,
    /// The kernel holds the service.
    Yes,
    /// The kernel refused; `holds`: it still has the service, with a destination that gets new connections.
    Failed {
        fault: Arc<str>,
        holds: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing has come yet.
    Waiting,
    Good,
    /// The source has not answered since the start; the last list that was saved is in force.
    Saved {
        /// Its age when it was read.
        age: Duration,
        read_at: Instant,
        /// What the source has said since.
        fault: Option<Arc<str>>,
    },
    /// The last good list, if there was one, stays.
    Failed(Arc<str>),
}

impl Source {
    /// How old the list is, if it is one that was saved.
    pub fn saved_age(&self, now: Instant) -> Option<Duration> {
        match self {
            Source::Saved { age, read_at, .. } => {
                Some(*age + now.saturating_duration_since(*read_at))
            }
            Source::Waiting | Source::Good | Source::Failed(_) => None,
        }
    }

    /// What the source said last, if that was no list.
    pub fn fault(&self) -> Option<&Arc<str>> {
        match self {
            Source::Failed(fault) => Some(fault),
            Source::Saved { fault, .. } => fault.as_ref(),
            Source::Waiting | Source::Good => None,
        }
    }
}

/// How well a service, or all services of an address, can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// As many servers are up as the threshold asks for.
    Healthy,
    /// At least one server is held for the threshold.
    Degraded,
    /// Nothing that gets new connections is up.
    Failed,
}

/// Figures that only grow, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times a server that should have been depooled was held (PyBal: `could_not_depool_total`).
    pub could_not_depool: u64,
    /// Times the kernel's table was mended after someone else changed it.
    pub repaired: u64,
}

/// What sinks put right on this host after someone else had changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// How often, by the part of the host; services have theirs in [`Counters`].
    pub host: BTreeMap<&'static str, u64>,
    /// The newest last, at most [`Repairs::KEPT`].
    pub last: VecDeque<Repair>,
}

impl Repairs {
    pub const KEPT: usize = 20;

    /// Forgets what is too old.
    pub fn remember(&mut self, repair: Repair) {
        if self.last.len() == Repairs::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(repair);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub at: Instant,
    /// A service's name, or the part of the host.
    pub object: Arc<str>,
    /// What it was, and what it is again.
    pub change: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Vip {
    pub services: BTreeSet<ServiceName>,
    /// Whether it is on this host.
    pub present: bool,
    /// Why it could not be put there.
    pub fault: Option<Arc<str>>,
    /// As it is now. With `up-delay` peers may still be told of a worse one.
    pub condition: Condition,
    /// The wider prefix that it is announced as, no other address's; `None`: its own /32 or /128.
    pub prefix: Option<IpNet>,
    pub announce: Result<Announcement, Refusal>,
}

impl Vip {
    /// What peers are told of, if they are, for this address, which is the vip's.
    pub fn prefix_of(&self, address: IpAddr) -> IpNet {
        self.prefix.unwrap_or_else(|| address.into())
    }
}

/// An address that peers are told of, and the layers of policy that its attributes come of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// The groups of peers that are told; `None`: all peers.
    pub to: Option<Arc<BTreeSet<Group>>>,
    /// `[bgp]`'s.
    pub base: Arc<Policy>,
    /// The services'.
    pub own: Arc<Policy>,
    /// The condition's; empty while it is healthy.
    pub condition: Arc<Policy>,
}

impl Announcement {
    /// As a peer with this policy is told, or one that has none.
    pub fn attributes(&self, peer: Option<&Policy>) -> Attributes {
        let layers = [
            Some(&*self.base),
            peer,
            Some(&*self.own),
            Some(&*self.condition),
        ];
        Attributes::of(layers.into_iter().flatten())
    }
}

impl From<Policy> for Announcement {
    fn from(base: Policy) -> Announcement {
        Announcement {
            base: Arc::new(base),
            ..Announcement::default()
        }
    }
}

/// The last that operators said of a peer's session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerOrders {
    /// `None`: as configured.
    pub enabled: Option<bool>,
    /// What the peer is told with it.
    pub text: Option<Arc<str>>,
    /// How often it was cleared; more than before: reset it now.
    pub clears: u64,
}

/// Why an address is not announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    NoBgp,
    NotConfigured,
    /// All its services are retiring.
    Retiring,
    Stopping,
    /// A service has no server list yet.
    NoServerList,
    /// A service's servers have not all been checked once.
    NotChecked,
    /// The kernel does not hold a service of it.
    NotApplied,
    /// The address is not on this host.
    AddressMissing,
    /// A service has no server in its pool.
    NothingPooled,
    /// `withdraw-when` says so in this condition.
    Degraded,
    Failed,
    /// It is well again, but not for `up-delay` yet.
    UpDelay,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoBgp => "no BGP is configured",
            Refusal::NotConfigured => "announce = false",
            Refusal::Retiring => "its services are being removed",
            Refusal::Stopping => "the daemon is stopping",
            Refusal::NoServerList => "a service has no server list yet",
            Refusal::NotChecked => "not every server has been checked yet",
            Refusal::NotApplied => "the kernel does not hold a service of it",
            Refusal::AddressMissing => "the address is not on this host",
            Refusal::NothingPooled => "a service has nothing pooled",
            Refusal::Degraded => "it is degraded, and withdraw-when says so",
            Refusal::Failed => "it has failed, and withdraw-when says so",
            Refusal::UpDelay => "it is well again, but not for up-delay yet",
        })
    }
}
