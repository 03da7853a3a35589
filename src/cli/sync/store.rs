//! etcd for `plimsoll sync`: all objects at one revision, and changes that are refused whole if what they were
//! reckoned from is no longer so. Each request has its deadline; an endpoint that fails makes way for the next.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KvClient, Txn, TxnOp,
};
use tokio::time::{sleep, timeout};
use url::Url;

use super::object::Object;
use super::plan::{Change, Found};
use crate::backoff::Backoff;
use crate::config::Etcd;
use crate::etcd::{ConnectError, connect};

/// The most changes in one transaction. etcd takes 128 operations; a change is one of them and one comparison.
pub(super) const BATCH: usize = 60;

/// Objects a read brings at once.
const PAGE: i64 = 1000;

/// A page of objects with the largest values that a node has, and more.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// What a new object is, as conftool writes it.
const CREATED: &str = r#"{"weight": 0, "pooled": "inactive"}"#;

/// How often all endpoints are tried in turn before a read is given up.
const ROUNDS: usize = 2;

/// Why nothing came of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("cannot connect")]
    Connect(#[source] ConnectError),
    #[error("{endpoint} did not answer within {within:?}")]
    Silent { endpoint: Url, within: Duration },
    #[error("{endpoint} refused")]
    Request {
        endpoint: Url,
        #[source]
        cause: etcd_client::Error,
    },
}

/// What there is, at one revision.
#[derive(Debug, Default)]
pub(super) struct There {
    pub(super) objects: BTreeMap<Object, Found>,
    /// Keys below the prefix that are no node's.
    pub(super) strangers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Yes,
    /// Something is no longer as it was read; nothing was changed.
    Conflict,
}

pub(super) struct Store<'a> {
    config: &'a Etcd,
    /// The one that is asked, by its index.
    endpoint: usize,
    client: Option<KvClient>,
}

impl<'a> Store<'a> {
    pub(super) fn new(config: &'a Etcd) -> Store<'a> {
        Store {
            config,
            endpoint: 0,
            client: None,
        }
    }

    /// All objects; the error of each endpoint if none of them gives them.
    pub(super) async fn read(&mut self) -> Result<There, Vec<StoreError>> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut failures = Vec::new();
        for round in 0..ROUNDS {
            if round > 0 {
                sleep(backoff.next()).await;
            }
            failures.clear();
            for _ in 0..self.config.endpoints.len() {
                match self.try_read().await {
                    Ok(there) => return Ok(there),
                    Err(failure) => {
                        failures.push(failure);
                        self.next_endpoint();
                    }
                }
            }
        }
        Err(failures)
    }

    /// In one transaction, of at most [`BATCH`] changes. After an error nobody knows whether it was done.
    pub(super) async fn apply(&mut self, changes: &[Change]) -> Result<Applied, StoreError> {
        let answer = self.try_apply(changes).await;
        if answer.is_err() {
            self.next_endpoint();
        }
        answer
    }

    async fn try_apply(&mut self, changes: &[Change]) -> Result<Applied, StoreError> {
        let mut client = self.client().await?;
        let parts = changes.iter().map(|change| self.part(change));
        let (compare, operations): (Vec<_>, Vec<_>) = parts.unzip();
        let transaction = Txn::new().when(compare).and_then(operations);
        let answer = self.within(client.txn(transaction)).await?;
        Ok(if answer.succeeded() {
            Applied::Yes
        } else {
            Applied::Conflict
        })
    }

    fn part(&self, change: &Change) -> (Compare, TxnOp) {
        let key = format!("{}/{}", self.config.prefix, change.object());
        match change {
            // A key that is not there has the version 0.
            Change::Create(_) => (
                Compare::version(key.clone(), CompareOp::Equal, 0),
                TxnOp::put(key, CREATED, None),
            ),
            Change::Remove(_, found) => (
                Compare::mod_revision(key.clone(), CompareOp::Equal, found.mod_revision),
                TxnOp::delete(key, None::<DeleteOptions>),
            ),
        }
    }

    async fn try_read(&mut self) -> Result<There, StoreError> {
        let mut client = self.client().await?;
        let below = format!("{}/", self.config.prefix);
        // What comes after all keys that begin so: "0" follows "/".
        let end = format!("{}0", self.config.prefix);
        let (mut from, mut revision) = (below.clone().into_bytes(), 0);
        let mut there = There::default();
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(PAGE)
                .with_revision(revision);
            let answer = self.within(client.get(from, Some(options))).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, |header| header.revision());
            }
            there.add(&answer, &below);
            match answer.kvs().last() {
                Some(last) if answer.more() => {
                    // The next key there can be.
                    from = [last.key(), b"\0"].concat();
                }
                Some(_) | None => return Ok(there),
            }
        }
    }

    async fn client(&mut self) -> Result<KvClient, StoreError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = connect(self.config, self.url())
            .await
            .map_err(StoreError::Connect)?;
        let client = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
        Ok(self.client.insert(client).clone())
    }

    fn next_endpoint(&mut self) {
        self.client = None;
        self.endpoint += 1;
    }

    fn url(&self) -> &'a Url {
        // There is at least one, as the configuration says.
        &self.config.endpoints[self.endpoint % self.config.endpoints.len()]
    }

    async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        let within = self.config.timeout;
        let endpoint = || self.url().clone();
        match timeout(within, request).await {
            Ok(answer) => answer.map_err(|cause| StoreError::Request {
                endpoint: endpoint(),
                cause,
            }),
            Err(_) => Err(StoreError::Silent {
                endpoint: endpoint(),
                within,
            }),
        }
    }
}

impl There {
    fn add(&mut self, answer: &GetResponse, below: &str) {
        for pair in answer.kvs() {
            let key = std::str::from_utf8(pair.key()).ok();
            let name = key.and_then(|key| key.strip_prefix(below));
            match name.and_then(Object::found) {
                Some(object) => {
                    let found = Found {
                        value: pair.value().to_owned(),
                        mod_revision: pair.mod_revision(),
                    };
                    self.objects.insert(object, found);
                }
                None => self.strangers.push(pair.key().escape_ascii().to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conftool::{Node, Pooled};

    #[test]
    fn what_is_created_is_a_node() {
        let node = Node::parse(CREATED.as_bytes()).unwrap();
        assert_eq!((node.weight.get(), node.pooled), (0, Pooled::Inactive));
        assert_eq!(node.to_string(), CREATED);
    }
}
