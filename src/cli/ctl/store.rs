//! What `plimsoll ctl` reads from etcd and writes there: objects, leases, the balancers' records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchStream,
};

use super::object::{Object, Stored};
use crate::cli::etcd::{Endpoint, Endpoints, EtcdError};
use crate::config::Etcd;
use crate::conftool::{LEASES, PoolPath, is_tag};

pub(super) struct Store {
    etcd: Endpoints,
}

/// Which objects.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    All,
    Pool(PoolPath),
}

/// What becomes of one object.
#[derive(Clone, Debug)]
pub(super) struct Write {
    /// As it was read: it must still be so.
    pub(super) object: Object,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// A new value of the node; a lease over it is gone.
    Node(String),
    /// A value over the node, for as long as the etcd lease lives.
    Lease { value: String, lease: i64 },
    /// Node and lease are gone.
    Nothing,
}

/// How a transaction went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At this revision.
    Done(i64),
    /// An object is not as it was read. `doubt`: an earlier try had no answer, so the one who changed it
    /// may have been us.
    Changed { doubt: bool },
}

/// An etcd lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) id: i64,
    pub(super) ttl: Duration,
}

impl Store {
    pub(super) fn new(config: Arc<Etcd>) -> Store {
        Store {
            etcd: Endpoints::new(config),
        }
    }

    /// Objects in order of their keys, all as of one revision. Keys that are no object's are passed over.
    pub(super) async fn read(&mut self, scope: &Scope) -> Result<Vec<Object>, EtcdError> {
        let prefix = self.etcd.prefix().to_owned();
        let below = match scope {
            Scope::All => String::new(),
            Scope::Pool(pool) => format!("{pool}/"),
        };
        let nodes = format!("{prefix}/{below}");
        let leases = format!("{LEASES}{below}");
        let (nodes, leases) = self
            .etcd
            .request("gives the objects", async |endpoint: &Endpoint| {
                let mut reading = endpoint.reading();
                let nodes = reading.below(&nodes, GetOptions::new()).await?;
                let leases = reading.below(&leases, GetOptions::new()).await?;
                Ok((nodes, leases))
            })
            .await?;
        let mut leases: BTreeMap<String, Stored> = leases
            .into_iter()
            .filter_map(|kv| {
                let path = text(kv.key())?.strip_prefix(LEASES)?.to_owned();
                Some((path, stored(kv)))
            })
            .collect();
        let object = |kv: KeyValue| {
            let path = text(kv.key())?.strip_prefix(&*prefix)?.strip_prefix('/')?;
            let (pool, name) = path.rsplit_once('/')?;
            Some(Object {
                pool: pool.parse().ok()?,
                name: is_tag(name).then(|| name.to_owned())?,
                lease: leases.remove(path),
                node: Some(stored(kv)),
            })
        };
        Ok(nodes.into_iter().filter_map(object).collect())
    }

    /// The same objects as they are now; those that are gone have no node.
    pub(super) async fn read_again(
        &mut self,
        objects: &[Object],
    ) -> Result<Vec<Object>, EtcdError> {
        let gets = |object: &Object| {
            let get = |key| TxnOp::get(key, None);
            [get(self.node_key(object)), get(lease_key(object))]
        };
        let gets: Vec<TxnOp> = objects.iter().flat_map(gets).collect();
        let gets = Txn::new().and_then(gets);
        let (answer, _) = self.etcd.transact("gives the objects again", &gets).await?;
        let found: Vec<Option<Stored>> = answer
            .op_responses()
            .into_iter()
            .map(|response| match response {
                TxnOpResponse::Get(mut get) => get.take_kvs().pop().map(stored),
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            })
            .collect();
        if found.len() != 2 * objects.len() {
            return Err(EtcdError::Answer("some of the objects"));
        }
        let again = |(object, found): (&Object, &[Option<Stored>])| Object {
            node: found[0].clone(),
            lease: found[1].clone(),
            ..object.clone()
        };
        Ok(objects.iter().zip(found.chunks(2)).map(again).collect())
    }

    /// All of it or nothing, if every object is still as it was read. At most
    /// [`BATCH`](crate::cli::etcd::BATCH) objects.
    pub(super) async fn write(&mut self, writes: &[Write]) -> Result<Outcome, EtcdError> {
        let unchanged = |key: String, stored: &Option<Stored>| {
            // A key that does not exist has revision 0.
            let revision = stored.as_ref().map_or(0, |stored| stored.revision);
            Compare::mod_revision(key, CompareOp::Equal, revision)
        };
        let compares = |write: &Write| {
            [
                unchanged(self.node_key(&write.object), &write.object.node),
                unchanged(lease_key(&write.object), &write.object.lease),
            ]
        };
        let compares: Vec<Compare> = writes.iter().flat_map(compares).collect();
        let operations: Vec<TxnOp> = writes.iter().flat_map(|w| self.operations(w)).collect();
        let txn = Txn::new().when(compares).and_then(operations);
        let (answer, doubt) = self.etcd.transact("takes the changes", &txn).await?;
        if !answer.succeeded() {
            return Ok(Outcome::Changed { doubt });
        }
        let header = answer.header().ok_or(EtcdError::Answer("its revision"))?;
        Ok(Outcome::Done(header.revision()))
    }

    fn operations(&self, write: &Write) -> Vec<TxnOp> {
        let (node, lease) = (self.node_key(&write.object), lease_key(&write.object));
        let mut operations = match &write.what {
            What::Node(value) => vec![TxnOp::put(node, value.clone(), None)],
            What::Lease { value, lease: id } => {
                let options = PutOptions::new().with_lease(*id);
                return vec![TxnOp::put(lease, value.clone(), Some(options))];
            }
            What::Nothing => vec![TxnOp::delete(node, None::<DeleteOptions>)],
        };
        if write.object.lease.is_some() {
            operations.push(TxnOp::delete(lease, None));
        }
        operations
    }

    /// A lease that etcd ends by itself.
    pub(super) async fn grant(&mut self, ttl: Duration) -> Result<Granted, EtcdError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let answer = self
            .etcd
            .ask("grants a lease", async |mut client: Client| {
                client.lease_grant(seconds, None).await
            })
            .await?;
        Ok(Granted {
            id: answer.id(),
            ttl: Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or_default()),
        })
    }

    /// Ends a lease that nothing stands under.
    pub(super) async fn revoke(&mut self, granted: Granted) -> Result<(), EtcdError> {
        let revoke = self.etcd.ask("ends a lease", async |mut client: Client| {
            client.lease_revoke(granted.id).await
        });
        revoke.await.map(drop)
    }

    /// All keys below some prefixes with their values, as of the revision that comes with them.
    pub(super) async fn below(
        &mut self,
        prefixes: &[&str],
    ) -> Result<(Vec<(String, Vec<u8>)>, i64), EtcdError> {
        let (found, revision) = self
            .etcd
            .request("tells of the balancers", async |endpoint: &Endpoint| {
                let (mut reading, mut found) = (endpoint.reading(), Vec::new());
                for prefix in prefixes {
                    found.append(&mut reading.below(prefix, GetOptions::new()).await?);
                }
                Ok((found, reading.revision()))
            })
            .await?;
        let pair = |kv: KeyValue| {
            let (key, value) = kv.into_key_value();
            Some((String::from_utf8(key).ok()?, value))
        };
        Ok((found.into_iter().filter_map(pair).collect(), revision))
    }

    /// Changes of all keys below two prefixes, from a revision on.
    pub(super) async fn watch(
        &mut self,
        prefixes: [&str; 2],
        revision: i64,
    ) -> Result<WatchStream, EtcdError> {
        let options = WatchOptions::new().with_prefix();
        let options = options.with_start_revision(revision);
        let watch = async |mut client: Client| {
            let mut stream = client.watch(prefixes[0], Some(options.clone())).await?;
            stream.watch(prefixes[1], Some(options.clone())).await?;
            Ok(stream)
        };
        self.etcd.ask("tells of the balancers", watch).await
    }

    /// The endpoint that was asked last is of no more use.
    pub(super) fn next_endpoint(&mut self) {
        self.etcd.leave();
    }

    fn node_key(&self, object: &Object) -> String {
        format!("{}/{object}", self.etcd.prefix())
    }
}

fn lease_key(object: &Object) -> String {
    format!("{LEASES}{object}")
}

fn stored(kv: KeyValue) -> Stored {
    Stored {
        revision: kv.mod_revision(),
        value: kv.into_key_value().1,
    }
}

fn text(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok()
}
