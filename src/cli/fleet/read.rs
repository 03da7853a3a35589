//! Reads from etcd, as of one revision, all that is said of the fleet and of the pools.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{GetOptions, KeyValue, KvClient};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use crate::config::Etcd;
use crate::conftool::{LEASES, PoolPath};
use crate::etcd::{self, ConnectError};
use crate::fleet::record::{APPLIED, BALANCERS, Balancer, Pool};

/// So many keys are asked for at once, and so long may the answer be.
const PAGE: i64 = 1000;
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

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

/// Why there is no answer from an endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{}", with_cause(.0))]
    Connect(ConnectError),
    #[error("{endpoint}: cannot read {prefix}: {cause}")]
    Read {
        endpoint: Url,
        prefix: String,
        cause: etcd_client::Error,
    },
    #[error("{endpoint}: no answer within {within:?}")]
    Silent { endpoint: Url, within: Duration },
}

fn with_cause(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

pub(super) async fn read(etcd: &Etcd, endpoint: &Url) -> Result<Read, ReadError> {
    let client = etcd::connect(etcd, endpoint).await;
    let client = client.map_err(ReadError::Connect)?;
    let mut reader = Reader {
        kv: client.kv_client().max_decoding_message_size(LONGEST_ANSWER),
        endpoint,
        within: etcd.timeout,
        read: Read::default(),
    };
    for pair in reader.all(BALANCERS, Values::Wanted).await? {
        reader.read.balancer(&pair);
    }
    for pair in reader.all(APPLIED, Values::Wanted).await? {
        reader.read.pool(&pair);
    }
    for prefix in [format!("{}/", etcd.prefix), LEASES.to_owned()] {
        for pair in reader.all(&prefix, Values::LeftOut).await? {
            reader.read.server(&prefix, &pair);
        }
    }
    Ok(reader.read)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Wanted,
    LeftOut,
}

struct Reader<'a> {
    kv: KvClient,
    endpoint: &'a Url,
    /// How long one answer may take.
    within: Duration,
    read: Read,
}

impl Reader<'_> {
    /// All keys that begin with this, which ends with a slash; as of the revision of the first answer.
    async fn all(&mut self, prefix: &str, values: Values) -> Result<Vec<KeyValue>, ReadError> {
        let mut all: Vec<KeyValue> = Vec::new();
        let mut from = prefix.as_bytes().to_vec();
        // A slash's successor: the first key that does not begin so.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        loop {
            let mut options = GetOptions::new()
                .with_range(end.as_bytes())
                .with_limit(PAGE)
                .with_revision(self.read.revision);
            if values == Values::LeftOut {
                options = options.with_keys_only();
            }
            let asked = self.kv.get(from, Some(options));
            let answer = timeout(self.within, asked).await;
            let answer = answer.map_err(|_| ReadError::Silent {
                endpoint: self.endpoint.clone(),
                within: self.within,
            })?;
            let mut answer = answer.map_err(|cause| ReadError::Read {
                endpoint: self.endpoint.clone(),
                prefix: prefix.to_owned(),
                cause,
            })?;
            if self.read.revision == 0 {
                self.read.revision = answer.header().map_or(0, |header| header.revision());
            }
            let more = answer.more();
            all.append(&mut answer.take_kvs());
            match all.last() {
                // The least key after it.
                Some(last) if more => from = [last.key(), &[0]].concat(),
                Some(_) | None => return Ok(all),
            }
        }
    }
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
