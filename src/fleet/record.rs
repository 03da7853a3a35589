//! The keys and values by which each running balancer says of itself what it serves. An outside shape:
//! written by the fleet's edge, read by `plimsoll fleet` and `plimsoll ctl`. (The leases of `ctl --for`
//! stand beside them: [`crate::conftool::LEASES`].)
//!
//! ```text
//! /plimsoll/v1/balancers/HOSTNAME                        Balancer
//! /plimsoll/v1/applied/HOSTNAME/DC/CLUSTER/SERVICE       Pool
//! ```
//!
//! Both are under the balancer's own etcd lease: they are gone soon after it is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::conftool::PoolPath;

/// `HOSTNAME` follows.
pub const BALANCERS: &str = "/plimsoll/v1/balancers/";

/// `HOSTNAME/DC/CLUSTER/SERVICE` follows.
pub const APPLIED: &str = "/plimsoll/v1/applied/";

pub fn balancer_key(hostname: &str) -> String {
    format!("{BALANCERS}{hostname}")
}

pub fn applied_key(hostname: &str, pool: &PoolPath) -> String {
    format!("{APPLIED}{hostname}/{pool}")
}

/// One running balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Balancer {
    pub version: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// Of the configuration in force, so that two can be compared: hexadecimal.
    pub config: String,
    pub mode: String,
    pub stopping: bool,
    pub addresses: BTreeMap<IpAddr, Address>,
    pub peers: BTreeMap<String, String>,
}

/// One service address as one balancer sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Address {
    /// `healthy`, `degraded`, `failed`.
    pub condition: String,
    /// MULTI_EXIT_DISC; `None`: not announced.
    pub med: Option<u32>,
    /// Why it is not.
    pub refusal: Option<String>,
}

/// One pool of etcd as one balancer serves it: a service for each that takes its list from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// The list as of this revision has been applied to the kernel of every service of it and read back; 0: there is
    /// one to which no list has been applied yet.
    pub revision: u64,
    /// Without those that have nothing in the kernel yet.
    pub services: BTreeMap<String, PoolService>,
}

/// What a depool is reckoned by before it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolService {
    pub depool_threshold: f64,
    /// `off`, `last`, `floor`.
    pub depool_guard: String,
    /// Servers listed: what the threshold is a fraction of.
    pub size: usize,
    /// Hosts in IPVS.
    pub pooled: Vec<String>,
    /// Those of them that are held, and why.
    pub held: BTreeMap<String, String>,
}

/// A threshold is never NaN.
impl Eq for PoolService {}
