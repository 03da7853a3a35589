//! Reads from etcd, as of one revision, all that is said of the fleet and of the pools.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{GetOptions, KeyValue};
use serde::de::DeserializeOwned;

use crate::cli::etcd::{Endpoint, Endpoints, EtcdError};
use crate::config::Etcd;
use crate::conftool::{LEASES, PoolPath};
use crate::fleet::record::{APPLIED, BALANCERS, Balancer, Pool};

/// What stands in etcd.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// As of which revision of the store.
    pub(super) revision: i64,
    pub(super) balancers: BTreeMap<String, Balancer>,
    /// What each balancer serves, by hostname.
    pub(super) applied: BTreeMap<String, BTreeMap<PoolPath, Pool>>,
    /// When each key of a pool, a server's or its lease's, was written last: `mod_revision`.
    pub(super) pools: BTreeMap<PoolPath, Vec<u64>>,
    /// Keys with values that are no records, and why.
    pub(super) unreadable: BTreeMap<String, String>,
}

pub(super) async fn read(etcd: Arc<Etcd>) -> Result<Read, EtcdError> {
    let servers = [format!("{}/", etcd.prefix), LEASES.to_owned()];
    let mut endpoints = Endpoints::new(etcd);
    let read = endpoints.request("tells of the balancers", async |endpoint: &Endpoint| {
        let (mut reading, mut read) = (endpoint.reading(), Read::default());
        for pair in reading.below(BALANCERS, GetOptions::new()).await? {
            read.balancer(&pair);
        }
        for pair in reading.below(APPLIED, GetOptions::new()).await? {
            read.pool(&pair);
        }
        for prefix in &servers {
            let keys = GetOptions::new().with_keys_only();
            for pair in reading.below(prefix, keys).await? {
                read.server(prefix, &pair);
            }
        }
        read.revision = reading.revision();
        Ok(read)
    });
    read.await
}

impl Read {
    fn balancer(&mut self, pair: &KeyValue) {
        let Some(hostname) = rest(BALANCERS, pair) else {
            return self.unknown(pair, "not a balancer's key");
        };
        let hostname = hostname.to_owned();
        if let Some(balancer) = self.value(pair) {
            self.balancers.insert(hostname, balancer);
        }
    }

    fn pool(&mut self, pair: &KeyValue) {
        let parts = rest(APPLIED, pair).and_then(|rest| rest.split_once('/'));
        let parts = parts.and_then(|(hostname, path)| Some((hostname, path.parse().ok()?)));
        let Some((hostname, path)) = parts else {
            return self.unknown(pair, "not the key of a balancer's pool");
        };
        let hostname = hostname.to_owned();
        if let Some(pool) = self.value(pair) {
            let pools = self.applied.entry(hostname).or_default();
            pools.insert(path, pool);
        }
    }

    /// A server's key, or its lease's. Others may be there too: they are nobody's pool.
    fn server(&mut self, prefix: &str, pair: &KeyValue) {
        let path = rest(prefix, pair).and_then(|rest| rest.rsplit_once('/'));
        if let Some(path) = path.and_then(|(path, _)| path.parse::<PoolPath>().ok()) {
            let written = u64::try_from(pair.mod_revision()).unwrap_or(0);
            self.pools.entry(path).or_default().push(written);
        }
    }

    fn value<T: DeserializeOwned>(&mut self, pair: &KeyValue) -> Option<T> {
        let read = serde_json::from_slice(pair.value());
        read.map_err(|fault| self.unknown(pair, &fault.to_string()))
            .ok()
    }

    fn unknown(&mut self, pair: &KeyValue, why: &str) {
        let key = String::from_utf8_lossy(pair.key()).into_owned();
        self.unreadable.insert(key, why.to_owned());
    }
}

fn rest<'a>(prefix: &str, pair: &'a KeyValue) -> Option<&'a str> {
    let key = std::str::from_utf8(pair.key()).ok()?;
    key.strip_prefix(prefix)
}
