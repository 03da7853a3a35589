//! Checks: what is asked of a server, how often, what its answers make of it, and what is known of how they went.
//!
//! A *monitor* is what the configuration says; a *check* is one monitor at work on one server of one service.

mod argument;
mod comeback;
pub mod expect;
pub mod figures;
mod load;
mod probe;
pub mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use self::argument::{Argument, BadArgument};
pub use self::comeback::{Comeback, FlapHold, Start};
pub use self::load::{Load, LoadFault, LoadFrom, LoadKind, Share, Thousandths};
pub use self::probe::{
    DnsQuery, DnsTransport, DnsType, Grpc, Http, HttpVersion, IdleConnection, Keepalive, Probe,
    ProxyFetch, ProxyProtocol, RunCommand, Tcp, Tls, Udp, User,
};

use self::figures::Figures;
use crate::service::{Host, ServiceName, VirtualService};

/// `[[service.NAME.monitor]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Monitor {
    pub probe: Probe,
    /// From one check's start to the next one's. Of `idle-connection` and `udp`, how late its
    /// first check may be.
    pub interval: Duration,
    /// The interval while the last result is not yet believed (see [`Damping`]); `None`: the same one.
    pub fast_interval: Option<Duration>,
    /// The longest that one check may take.
    pub timeout: Duration,
    pub damping: Damping,
    /// Where the server is asked; `None`: the service's own port.
    pub port: Option<u16>,
    pub path: Path,
    /// Whether a server that does not pass is down; else it is only told.
    pub depool: bool,
    /// Its answers say how much of its weight the server is good for.
    pub load: Option<Load>,
}

impl Monitor {
    /// With everything else as it is where the configuration says nothing.
    pub fn new(probe: Probe, interval: Duration, timeout: Duration) -> Monitor {
        Monitor {
            probe,
            interval,
            fast_interval: None,
            timeout,
            damping: Damping::NONE,
            port: None,
            path: Path::Server,
            depool: true,
            load: None,
        }
    }

    /// The one that each TCP service has by default: it tells, and depools nobody.
    pub fn vip_reachability() -> Monitor {
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Monitor {
            depool: false,
            ..Monitor::new(Probe::VipReachability, interval, timeout)
        }
    }

    /// Whether services on other VIPs may get other answers of the same server.
    pub fn asks_at_vip(&self) -> bool {
        self.path == Path::Vip || self.probe == Probe::VipReachability
    }
}

/// The way that a check's packets take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// To the server's own address.
    #[default]
    Server,
    /// To the VIP at the server's link-layer address, as IPVS forwards clients' packets.
    Vip,
}

/// One check to run: who, where, how.
#[derive(Clone, Debug)]
pub struct Check {
    pub service: ServiceName,
    /// What clients connect to.
    pub key: VirtualService,
    pub vip: IpAddr,
    pub host: Host,
    /// The server's address and the monitor's port.
    pub target: SocketAddr,
    pub monitor: Arc<Monitor>,
    pub figures: Arc<Figures>,
}

/// Figures are no part of what a check is. What is the same one in memory is not looked into: snapshots share checks.
impl Eq for Check {}

impl PartialEq for Check {
    fn eq(&self, other: &Check) -> bool {
        let Check {
            service,
            key,
            vip,
            host,
            target,
            monitor,
            figures: _,
        } = self;
        (service, key, vip, host, target, monitor)
            == (
                &other.service,
                &other.key,
                &other.vip,
                &other.host,
                &other.target,
                &other.monitor,
            )
    }
}

/// What it takes for results to become a verdict. The first result after a start is one at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Damping {
    /// So many good results in a row, so many bad ones; PyBal's: one of each.
    InARow { rise: u32, fall: u32 },
    /// `window = "3/5"`: down while at least so many of the last so many results are bad.
    Window { bad: u32, of: u32 },
}

impl Damping {
    /// PyBal's: each result counts.
    pub const NONE: Damping = Damping::InARow { rise: 1, fall: 1 };
}
