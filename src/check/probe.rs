//! What is asked: each kind of monitor with its options.

use std::time::Duration;

use serde::Serialize;
use url::Url;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Probe {
    IdleConnection(IdleConnection),
    ProxyFetch(ProxyFetch),
    /// `type = "vip-reachability"`: whether the server takes connections to the VIP, as IPVS would hand them to it.
    VipReachability,
}

impl Probe {
    pub(crate) const VIP_REACHABILITY: &str = "vip-reachability";

    /// `type` in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Probe::IdleConnection(_) => "idle-connection",
            Probe::ProxyFetch(_) => "proxy-fetch",
            Probe::VipReachability => Probe::VIP_REACHABILITY,
        }
    }
}

/// `type = "idle-connection"`: holds one TCP connection to the server; PyBal's IdleConnection. Its timeout is a
/// connect's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct IdleConnection {
    /// How long the one quick reconnect after a clean close may take (PyBal: `timeout-clean-reconnect`, 3 s).
    pub timeout_clean_reconnect: Duration,
    /// Longest wait between two reconnects (PyBal: `max-delay`, 300 s).
    pub max_delay: Duration,
    /// TCP keepalive (PyBal: `keepalive*`: on, 10 s idle, 30 s interval, 3 retries).
    pub keepalive: Option<Keepalive>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
}

/// `type = "proxy-fetch"`: a GET; PyBal's ProxyFetch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ProxyFetch {
    /// At least one; http or https. Host and path are the request's; it goes to the server's address
    /// and the monitor's port, whatever host and port the URL names.
    pub url: Vec<Url>,
    /// The statuses that are good, at least one, 100 to 599. Redirects are not followed.
    pub status: Vec<u16>,
    /// All URLs are fetched, not one at random, and so many of them may fail (PyBal: `check_all`, `max_failures`).
    pub check_all: Option<u32>,
    /// Whether https certificates are verified (default: no, as in PyBal).
    pub verify_certificate: bool,
}
