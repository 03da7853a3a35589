//! etcd for `plimsoll sync`: all objects at one revision, and changes that are refused whole if what they were
//! reckoned from is no longer so.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn, TxnOp};

use super::object::Object;
use super::plan::{Change, Found};
use crate::cli::etcd::{Endpoint, Endpoints, EtcdError};
use crate::config::Etcd;

/// What a new object is, as conftool writes it.
const CREATED: &str = r#"{"weight": 0, "pooled": "inactive"}"#;

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
    /// Something is not as it was read. `doubt`: an earlier try had no answer, so the one who changed it may
    /// have been us; else nothing was changed.
    Conflict {
        doubt: bool,
    },
}

pub(super) struct Store {
    etcd: Endpoints,
}

impl Store {
    pub(super) fn new(config: Arc<Etcd>) -> Store {
        Store {
            etcd: Endpoints::new(config),
        }
    }

    pub(super) async fn read(&mut self) -> Result<There, EtcdError> {
        let below = format!("{}/", self.etcd.prefix());
        let read = self
            .etcd
            .request("gives the objects", async |endpoint: &Endpoint| {
                let mut reading = endpoint.reading();
                reading.below(&below, GetOptions::new()).await
            });
        Ok(There::of(read.await?, &below))
    }

    /// In one transaction, of at most [`BATCH`](crate::cli::etcd::BATCH) changes. After an error nobody knows
    /// whether it was done.
    pub(super) async fn apply(&mut self, changes: &[Change]) -> Result<Applied, EtcdError> {
        let parts = changes.iter().map(|change| self.part(change));
        let (compare, operations): (Vec<_>, Vec<_>) = parts.unzip();
        let transaction = Txn::new().when(compare).and_then(operations);
        let (answer, doubt) = self
            .etcd
            .transact("takes the changes", &transaction)
            .await?;
        Ok(if answer.succeeded() {
            Applied::Yes
        } else {
            Applied::Conflict { doubt }
        })
    }

    fn part(&self, change: &Change) -> (Compare, TxnOp) {
        let key = format!("{}/{}", self.etcd.prefix(), change.object());
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
}

impl There {
    fn of(pairs: Vec<KeyValue>, below: &str) -> There {
        let mut there = There::default();
        for pair in pairs {
            let key = std::str::from_utf8(pair.key()).ok();
            let name = key.and_then(|key| key.strip_prefix(below));
            match name.and_then(Object::found) {
                Some(object) => {
                    let found = Found {
                        mod_revision: pair.mod_revision(),
                        value: pair.into_key_value().1,
                    };
                    there.objects.insert(object, found);
                }
                None => there.strangers.push(pair.key().escape_ascii().to_string()),
            }
        }
        there
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
