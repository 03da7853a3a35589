//! A file's text → [`Config`], once; after that nothing in the program sees text.
//! Mistakes are collected, all of a file at once, each with its line, its key and what would be right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use url::Url;

use crate::check::{Comeback, Monitor, User};
use crate::conftool::PoolPath;
use crate::routing::{GRACEFUL_SHUTDOWN, Group, Med, PeerId, Policy, Role};
use crate::secret::Secret;
use crate::service::{
    Delivery, Family, Forwarding, Host, Scheduler, Scheduling, ServerList, ServiceName,
    VirtualService,
};

mod agreement;
mod bgp;
mod comeback;
mod document;
mod etcd;
mod hash;
mod ipvs;
mod mistake;
mod monitor;
mod reader;
mod report;
mod server;
mod service;
mod spelling;
mod value;

pub use document::LARGEST;
pub use mistake::{Mistake, Mistakes};

/// Everything the file says, with the defaults filled in. Immutable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    pub daemon: Daemon,
    pub api: Api,
    pub monitor: Checks,
    pub metrics: Metrics,
    pub ipvs: Ipvs,
    /// `None`: no `[bgp]` section, nothing is announced.
    pub bgp: Option<Bgp>,
    /// `None`: no `[etcd]` section, no list comes from there and no state goes there.
    pub etcd: Option<Arc<Etcd>>,
    pub services: BTreeMap<ServiceName, Arc<Service>>,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Daemon {
    /// Where Plimsoll remembers which kernel services are its own.
    pub state_directory: PathBuf,
    /// Whether Plimsoll puts the VIPs on `lo` (default) or leaves it to others.
    pub manage_addresses: bool,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Api {
    pub listen: Vec<SocketAddr>,
    /// The Unix socket that also takes orders; `None`: there is none.
    pub control: Option<PathBuf>,
}

/// `[monitor]`: what holds for the checks of all services.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checks {
    /// Whom `run-command` runs programs as if we are root; `None`: `nobody`.
    pub command_user: Option<User>,
    /// So many of them at once, at least 1.
    pub commands_at_once: u32,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks {
            command_user: None,
            commands_at_once: 64,
        }
    }
}

/// `[metrics]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// What PyBal has, too, is there by PyBal's names besides.
    pub pybal_names: bool,
}

/// `[ipvs]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ipvs {
    /// `[ipvs.sysctl]`, with the defaults: what settings of `net.ipv4.vs` are kept at, by their names there and as
    /// they are written there. Those that are not here are left alone.
    pub sysctl: BTreeMap<&'static str, String>,
    /// `[ipvs.sync]`; `None`: the kernel's threads are left alone.
    pub sync: Option<Sync>,
}

/// `[ipvs.sync]`: connections are told to other balancers, or heard of from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sync {
    pub role: SyncRole,
    /// Over which they are told, and heard.
    pub interface: String,
    /// Who tells and who hears have the same one; a backup with 0 hears all.
    pub id: u8,
    /// A multicast group.
    pub group: IpAddr,
    pub port: u16,
    /// Of what is sent: over so many routers at most, themselves not counted.
    pub ttl: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncRole {
    /// Tells of connections.
    Master,
    /// Hears of them.
    Backup,
    Both,
}

/// `[bgp]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bgp {
    /// 4-byte AS number (RFC 6793), not 0, not AS_TRANS (23456).
    pub local_as: u32,
    /// The BGP Identifier (RFC 6286), not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Where routers' own connections are accepted; empty: nowhere. Default: port 179, both families.
    pub listen: Vec<SocketAddr>,
    /// What holds for every address, below what peers and services say.
    pub policy: Arc<Policy>,
    /// What peers are told with a Cease / Administrative Shutdown when the daemon stops (RFC 9003); at most
    /// 255 bytes.
    pub shutdown_text: Option<Arc<str>>,
    pub peers: BTreeMap<PeerId, Arc<Peer>>,
}

/// `[[bgp.peer]]`, with what `[bgp.defaults]` and `[bgp]` say where it says nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peer {
    pub id: PeerId,
    pub description: Option<Arc<str>>,
    /// `false`: configured, but down until `plimsoll bgp enable`.
    pub enabled: bool,
    pub peer_as: u32,
    /// TCP port that we connect to, 179 by default.
    pub port: u16,
    /// Never connect, only accept.
    pub passive: bool,
    /// The end of the connection that is ours; the kernel chooses what is `None`.
    pub local_address: Option<IpAddr>,
    pub local_port: Option<u16>,
    /// The hold time that we propose (RFC 4271 section 4.2), 3 s to 65535 s, whole seconds.
    pub hold_time: Duration,
    /// RFC 9687.
    pub send_hold_time: Duration,
    /// The longest wait between two tries to connect.
    pub connect_retry_time: Duration,
    /// RFC 4271 section 8.1.1, DelayOpenTime.
    pub delay_open_time: Option<Duration>,
    pub ttl: Ttl,
    pub authentication: Option<Authentication>,
    /// Those that we offer, at least one.
    pub families: BTreeSet<Family>,
    /// `None`: our end of the session's connection, if that is IPv4.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// `None`: our end of the session's connection, if that is IPv6.
    pub next_hop_ipv6: Option<Ipv6Addr>,
    /// Offer IPv4 prefixes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Offer messages of up to 65,535 bytes (RFC 8654).
    pub extended_messages: bool,
    /// Our own role towards the peer (RFC 9234).
    pub role: Option<Role>,
    /// Refuse a peer that names no role.
    pub role_strict: bool,
    /// The least time between two announcements of one prefix; first ones and withdrawals go at once.
    pub advertisement_interval: Duration,
    /// So many prefixes of a family the peer may announce.
    pub maximum_prefixes: u32,
    /// What happens beyond.
    pub maximum_prefixes_action: MaximumAction,
    /// The groups that `announce-to` may name.
    pub groups: BTreeSet<Group>,
    /// What is announced must lie within one of these; `None`: anything may be. Held when the file is read.
    pub allow: Option<Vec<IpNet>>,
    /// No more addresses than this may be announced to the peer. Held when the file is read.
    pub maximum_announced: Option<u32>,
    /// Over `[bgp]`'s, below a service's.
    pub policy: Arc<Policy>,
}

impl Peer {
    /// Whether the peer is told of an address that is announced.
    pub fn is_told(&self, address: IpAddr, announce: &Announce) -> bool {
        announce.announce && self.is_meant(address, announce.to.as_deref())
    }

    /// Whether an announcement of the address to these groups is for the peer; `None`: one to all peers.
    pub fn is_meant(&self, address: IpAddr, to: Option<&BTreeSet<Group>>) -> bool {
        self.has_family_of(address) && self.is_of_groups(to)
    }

    /// Whether addresses like this are for the peer at all.
    pub fn has_family_of(&self, address: IpAddr) -> bool {
        self.families.contains(&Family::of(address))
    }

    /// Whether it is of one of these groups; `None`: of all peers.
    pub fn is_of_groups(&self, to: Option<&BTreeSet<Group>>) -> bool {
        to.is_none_or(|to| !to.is_disjoint(&self.groups))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ttl {
    /// A router on our own wire: 1 to external peers, the kernel's default to internal ones.
    Default,
    /// `multihop = N`: sent with this TTL.
    Multihop(u8),
    /// `ttl-security = N` (RFC 5082): sent with 255; what has come over more than N - 1 routers is dropped.
    Security(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authentication {
    /// `password-file`: TCP MD5 (RFC 2385), 1 to 80 bytes.
    Md5(Secret),
    /// `tcp-ao` (RFC 5925).
    Ao(Ao),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ao {
    pub key: Secret,
    pub send_id: u8,
    pub receive_id: u8,
    pub algorithm: AoAlgorithm,
}

/// RFC 5926.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AoAlgorithm {
    HmacSha1,
    Aes128Cmac,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaximumAction {
    /// An alert (default): a router's leak is no reason to stop announcing.
    Warn,
    /// Cease / Maximum Number of Prefixes Reached (RFC 4486).
    Cease,
}

/// `[etcd]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Etcd {
    /// At least one, http or https, host and port, no path; tried in turn.
    pub endpoints: Vec<Url>,
    /// The directory above the pools' `DC/CLUSTER/SERVICE`: an absolute path without a slash at its end.
    pub prefix: String,
    pub api: EtcdApi,
    /// PEM. The authorities that the servers' certificates are verified by; the system's if `None`.
    pub ca: Option<PathBuf>,
    /// PEM. Our own certificate and its key, both or none.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Both or none; the file's first line is the password.
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// How long an endpoint may take to answer before the next one is tried.
    pub timeout: Duration,
    /// After how long without etcd what has changed meanwhile is taken with care: see
    /// [`Freshness::CatchUp`](crate::service::Freshness).
    pub stale_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EtcdApi {
    /// HTTP and JSON under `/v2/keys`; what conftool 6 speaks.
    V2,
    /// gRPC.
    V3,
}

/// `[service.NAME]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    pub name: ServiceName,
    /// The VIP: on this host and announced.
    pub address: IpAddr,
    pub key: VirtualService,
    pub scheduling: Scheduling,
    pub delivery: Delivery,
    /// Of the servers of an inline list that say otherwise.
    pub deliveries: BTreeMap<Host, Delivery>,
    /// With masquerading, where servers listen whose names have no port; 0: on the port that the client wants.
    pub server_port: u16,
    /// Another one than the service's only with a tunnel.
    pub server_family: Family,
    /// Gets the connections while the pool is empty.
    pub sorry: Option<SocketAddr>,
    /// How long a server that was depooled may keep its open connections.
    pub drain_timeout: Duration,
    pub depool_threshold: Threshold,
    pub depool_guard: DepoolGuard,
    pub servers: Servers,
    /// In the file's order; a server is up if all of them say so.
    pub monitors: Vec<Arc<Monitor>>,
    /// Beside them there is a [`Monitor::vip_reachability`].
    pub vip_reachability: bool,
    pub comeback: Comeback,
    pub announce: Arc<Announce>,
}

impl Service {
    /// By `wrr` and direct routing, unchecked, and with everything else as it is where the configuration says nothing.
    pub fn new(
        name: ServiceName,
        address: IpAddr,
        key: VirtualService,
        servers: Servers,
    ) -> Service {
        Service {
            name,
            address,
            key,
            scheduling: Scheduler::Wrr.into(),
            delivery: Delivery::default(),
            deliveries: BTreeMap::new(),
            server_port: key.port().unwrap_or(0),
            server_family: key.family(),
            sorry: None,
            drain_timeout: Service::DRAIN_TIMEOUT,
            depool_threshold: Threshold::DEFAULT,
            depool_guard: DepoolGuard::Floor,
            servers,
            monitors: Vec::new(),
            vip_reachability: false,
            comeback: Comeback::default(),
            announce: Arc::default(),
        }
    }

    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

    /// How packets get to a server of this name.
    pub fn delivery(&self, host: &Host) -> Delivery {
        *self.deliveries.get(host).unwrap_or(&self.delivery)
    }

    /// What the kernel knows a server with this address by. Only masquerading rewrites ports: else the server's is
    /// the service's.
    pub fn backend(&self, host: &Host, address: IpAddr) -> SocketAddr {
        let port = match self.delivery(host).forwarding {
            Forwarding::Masquerading => host.port().unwrap_or(self.server_port),
            Forwarding::DirectRouting | Forwarding::Tunnel(_) => self.key.port().unwrap_or(0),
        };
        SocketAddr::new(address, port)
    }
}

/// The fraction of a pool's servers that must stay, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Threshold(f64);

impl Threshold {
    /// PyBal's.
    pub const DEFAULT: Threshold = Threshold(0.5);

    /// `None` outside 0..=1.
    pub fn new(fraction: f64) -> Option<Threshold> {
        (0.0..=1.0)
            .contains(&fraction)
            .then_some(Threshold(fraction))
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

/// What an administrative change of the list may do to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DepoolGuard {
    /// Always obeyed, as PyBal does.
    Off,
    /// All but the last server.
    Last,
    /// Down to the depool threshold and no further (default).
    Floor,
}

/// Where a service's server list comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Servers {
    /// `[[service.NAME.server]]`, in the configuration itself.
    Inline(Arc<ServerList>),
    /// `servers = "file:///PATH"`: PyBal's JSON.
    File(PathBuf),
    /// `servers = "etcd:DC/CLUSTER/SERVICE"`, below `[etcd] prefix`.
    Etcd(PoolPath),
}

/// `[service.NAME.bgp]`, with what `[bgp]` says where it says nothing. All services of one address agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Announce {
    /// Whether the service's address is announced.
    pub announce: bool,
    /// The wider prefix that it is announced as; `None`: its own /32 or /128. Held when the file is read: the
    /// address is in it, it has no host bits, and no other address has the same.
    pub prefix: Option<IpNet>,
    /// The groups of peers that are told; `None`: all peers.
    pub to: Option<Arc<BTreeSet<Group>>>,
    /// Over the peers' and `[bgp]`'s.
    pub policy: Arc<Policy>,
    /// Over that, while the address is degraded, or failed.
    pub degraded: Arc<Policy>,
    pub failed: Arc<Policy>,
    pub withdraw_when: WithdrawWhen,
    /// Which of its services an address needs.
    pub services: Needs,
    /// How long an address that was withdrawn, or told with a condition's attributes, must be better without a
    /// break before peers are told so.
    pub up_delay: Duration,
}

/// Announced to all peers as long as something is pooled; a failed address is demoted.
impl Default for Announce {
    fn default() -> Announce {
        Announce {
            announce: true,
            prefix: None,
            to: None,
            policy: Arc::default(),
            degraded: Arc::default(),
            failed: Arc::new(Policy {
                med: Some(Med::Add(1000)),
                communities: BTreeSet::from([GRACEFUL_SHUTDOWN]),
                ..Policy::default()
            }),
            withdraw_when: WithdrawWhen::NotPooled,
            services: Needs::All,
            up_delay: Duration::ZERO,
        }
    }
}

impl Announce {
    /// What peers are told of for this address.
    pub fn prefix_of(&self, address: IpAddr) -> IpNet {
        self.prefix.unwrap_or_else(|| address.into())
    }
}

/// In which condition an address is withdrawn: in this one and in worse ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WithdrawWhen {
    Degraded,
    Failed,
    /// Nothing is pooled (default).
    NotPooled,
    /// Not for its servers (PyBal).
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// As good as its worst service.
    All,
    /// As good as its best service.
    Any,
}

/// As in the file.
impl fmt::Display for WithdrawWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WithdrawWhen::Degraded => "degraded",
            WithdrawWhen::Failed => "failed",
            WithdrawWhen::NotPooled => "not-pooled",
            WithdrawWhen::Never => "never",
        })
    }
}

/// As in the file.
impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Needs::All => "all",
            Needs::Any => "any",
        })
    }
}
