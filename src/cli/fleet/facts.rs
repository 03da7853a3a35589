//! What was read → what people want to know: who serves which address, who is the primary, who is behind,
//! whose configuration differs. The JSON of `--json`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::read::Read;
use crate::fleet::record;

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Facts {
    /// As of which revision of the store.
    pub(super) revision: i64,
    pub(super) balancers: BTreeMap<String, Balancer>,
    pub(super) addresses: BTreeMap<IpAddr, Address>,
    /// Only pools that somebody is behind of, by `DC/CLUSTER/SERVICE`.
    pub(super) behind: BTreeMap<String, Behind>,
    /// Keys with values that are no records, and why.
    pub(super) unreadable: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Balancer {
    pub(super) version: String,
    pub(super) started: String,
    pub(super) mode: String,
    pub(super) stopping: bool,
    pub(super) config: String,
    /// It is not what most of the balancers have.
    pub(super) config_differs: bool,
    pub(super) peers: BTreeMap<String, String>,
    pub(super) established: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Address {
    /// Who announces it with the lowest MED: several, if they tie.
    pub(super) primary: Vec<String>,
    pub(super) balancers: BTreeMap<String, record::Address>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Behind {
    /// When the last of the pool's keys was written.
    pub(super) newest: u64,
    pub(super) balancers: BTreeMap<String, Lag>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Lag {
    /// As of which revision it serves the pool; `None`: it has not said so, and another balancer of
    /// the same configuration has.
    pub(super) revision: Option<u64>,
    /// So many of the pool's keys were written after that.
    pub(super) changes: usize,
}

impl Facts {
    pub(super) fn of(read: &Read) -> Facts {
        let usual = usual(read);
        let balancer = |balancer: &record::Balancer| Balancer {
            version: balancer.version.clone(),
            started: balancer.started.clone(),
            mode: balancer.mode.clone(),
            stopping: balancer.stopping,
            config: balancer.config.clone(),
            config_differs: usual != Some(&balancer.config),
            peers: balancer.peers.clone(),
            established: established(balancer),
        };
        let balancers = read.balancers.iter();
        Facts {
            revision: read.revision,
            balancers: balancers
                .map(|(hostname, b)| (hostname.clone(), balancer(b)))
                .collect(),
            addresses: addresses(read),
            behind: behind(read),
            unreadable: read.unreadable.clone(),
        }
    }
}

/// The configuration that more balancers have than any other; `None`: two are as frequent, so each is marked.
fn usual(read: &Read) -> Option<&String> {
    let mut number: BTreeMap<&String, usize> = BTreeMap::new();
    for balancer in read.balancers.values() {
        *number.entry(&balancer.config).or_default() += 1;
    }
    let most = number.values().copied().max()?;
    let mut usual = number.into_iter().filter(|(_, n)| *n == most);
    match (usual.next(), usual.next()) {
        (Some((config, _)), None) => Some(config),
        _ => None,
    }
}

fn established(balancer: &record::Balancer) -> usize {
    let states = balancer.peers.values();
    states.filter(|state| *state == "established").count()
}

fn addresses(read: &Read) -> BTreeMap<IpAddr, Address> {
    let mut addresses: BTreeMap<IpAddr, Address> = BTreeMap::new();
    for (hostname, balancer) in &read.balancers {
        for (ip, said) in &balancer.addresses {
            let address = addresses.entry(*ip).or_insert_with(|| Address {
                primary: Vec::new(),
                balancers: BTreeMap::new(),
            });
            address.balancers.insert(hostname.clone(), said.clone());
        }
    }
    for address in addresses.values_mut() {
        // With no session there is no router that knows.
        let heard = |hostname: &str| {
            let balancer = read.balancers.get(hostname);
            balancer.is_some_and(|balancer| established(balancer) > 0)
        };
        let announced = |(hostname, said): (&String, &record::Address)| {
            Some((said.med.filter(|_| heard(hostname))?, hostname.clone()))
        };
        let announced: Vec<_> = address.balancers.iter().filter_map(announced).collect();
        let best = announced.iter().map(|(med, _)| *med).min();
        address.primary = announced
            .into_iter()
            .filter(|(med, _)| Some(*med) == best)
            .map(|(_, hostname)| hostname)
            .collect();
    }
    addresses
}

fn behind(read: &Read) -> BTreeMap<String, Behind> {
    let none = BTreeMap::new();
    let applied = |hostname: &str| read.applied.get(hostname).unwrap_or(&none);
    let mut all = BTreeMap::new();
    for (path, written) in &read.pools {
        let newest = written.iter().copied().max().unwrap_or(0);
        // Those who say something of it, and those who should, having the same configuration.
        let served = |config: &String| {
            let mut same = read.balancers.iter().filter(|(_, b)| b.config == *config);
            same.any(|(hostname, _)| applied(hostname).contains_key(path))
        };
        let mut lags = BTreeMap::new();
        for (hostname, balancer) in &read.balancers {
            let revision = applied(hostname).get(path).map(|pool| pool.revision);
            let expected = revision.is_some() || served(&balancer.config);
            if expected && revision.is_none_or(|revision| revision < newest) {
                let after = |written: &&u64| **written > revision.unwrap_or(0);
                let changes = written.iter().filter(after).count();
                lags.insert(hostname.clone(), Lag { revision, changes });
            }
        }
        if !lags.is_empty() {
            let balancers = lags;
            all.insert(path.to_string(), Behind { newest, balancers });
        }
    }
    all
}
