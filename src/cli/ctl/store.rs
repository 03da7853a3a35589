//! What a command reads from etcd and writes there: objects, leases, the balancers' records. Each request
//! goes to one endpoint after the other until one answers, for a bounded time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, KeyValue, PutOptions, Txn, TxnOp,
    TxnOpResponse,
};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::object::{Object, Stored};
use crate::backoff::Backoff;
use crate::config::Etcd;
use crate::conftool::{LEASES, PoolPath, is_tag};
use crate::etcd::{ConnectError, connect};

/// Objects of one transaction: each has two comparisons and two operations, and etcd takes 128 of either.
pub(super) const BATCH: usize = 60;

/// Keys of one answer.
const PAGE: i64 = 2000;

/// The largest answer: a page of the largest values that etcd takes would be more, but that is no pool.
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;

/// Why etcd did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("etcd at {endpoint} cannot {what}")]
    Refused {
        endpoint: Url,
        what: &'static str,
        #[source]
        cause: Error,
    },
    #[error("etcd at {endpoint} did not {what} within {within:?}")]
    Silent {
        endpoint: Url,
        what: &'static str,
        within: Duration,
    },
    #[error("etcd's answer lacks {0}")]
    Answer(&'static str),
}

pub(super) struct Store {
    config: Arc<Etcd>,
    client: Option<Client>,
    /// Which endpoint is asked.
    endpoint: usize,
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
            config,
            client: None,
            endpoint: 0,
        }
    }

    /// Objects in order of their keys, all as of one revision. Keys that are no object's are passed over.
    pub(super) async fn read(&mut self, scope: &Scope) -> Result<Vec<Object>, StoreError> {
        let prefix = self.config.prefix.clone();
        let below = match scope {
            Scope::All => String::new(),
            Scope::Pool(pool) => format!("{pool}/"),
        };
        let nodes = format!("{prefix}/{below}");
        let leases = format!("{LEASES}{below}");
        let (nodes, leases) = self
            .request("read the objects", async |client: &mut Client| {
                let (nodes, revision) = range(client, &nodes, 0).await?;
                let (leases, _) = range(client, &leases, revision).await?;
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
    ) -> Result<Vec<Object>, StoreError> {
        let gets = |object: &Object| {
            let get = |key| TxnOp::get(key, None);
            [get(self.node_key(object)), get(lease_key(object))]
        };
        let gets: Vec<TxnOp> = objects.iter().flat_map(gets).collect();
        let answer = self
            .request("read the objects again", async |client: &mut Client| {
                client.txn(Txn::new().and_then(gets.clone())).await
            })
            .await?;
        let found: Vec<Option<Stored>> = answer
            .op_responses()
            .into_iter()
            .map(|response| match response {
                TxnOpResponse::Get(mut get) => get.take_kvs().pop().map(stored),
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            })
            .collect();
        if found.len() != 2 * objects.len() {
            return Err(StoreError::Answer("some of the objects"));
        }
        let again = |(object, found): (&Object, &[Option<Stored>])| Object {
            node: found[0].clone(),
            lease: found[1].clone(),
            ..object.clone()
        };
        Ok(objects.iter().zip(found.chunks(2)).map(again).collect())
    }

    /// All of it or nothing, if every object is still as it was read. At most [`BATCH`] objects.
    pub(super) async fn write(&mut self, writes: &[Write]) -> Result<Outcome, StoreError> {
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
        let mut tries = 0_u32;
        let answer = self
            .request("write the objects", async |client: &mut Client| {
                tries += 1;
                client.txn(txn.clone()).await
            })
            .await?;
        if !answer.succeeded() {
            return Ok(Outcome::Changed { doubt: tries > 1 });
        }
        let header = answer.header().ok_or(StoreError::Answer("its revision"))?;
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
    pub(super) async fn grant(&mut self, ttl: Duration) -> Result<Granted, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let answer = self
            .request("grant a lease", async |client: &mut Client| {
                client.lease_grant(seconds, None).await
            })
            .await?;
        Ok(Granted {
            id: answer.id(),
            ttl: Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or_default()),
        })
    }

    /// Ends a lease that nothing stands under.
    pub(super) async fn revoke(&mut self, granted: Granted) -> Result<(), StoreError> {
        self.request("revoke a lease", async |client: &mut Client| {
            client.lease_revoke(granted.id).await.map(drop)
        })
        .await
    }

    /// All keys below some prefixes with their values, as of the revision that comes with them.
    pub(super) async fn below(
        &mut self,
        prefixes: &[&str],
    ) -> Result<(Vec<(String, Vec<u8>)>, i64), StoreError> {
        let (found, revision) = self
            .request(
                "read what the balancers say",
                async |client: &mut Client| {
                    let (mut found, mut at) = (Vec::new(), 0);
                    for prefix in prefixes {
                        let (more, revision) = range(client, prefix, at).await?;
                        found.extend(more);
                        at = revision;
                    }
                    Ok((found, at))
                },
            )
            .await?;
        let pair = |kv: KeyValue| {
            let (key, value) = kv.into_key_value();
            Some((String::from_utf8(key).ok()?, value))
        };
        Ok((found.into_iter().filter_map(pair).collect(), revision))
    }

    /// A connection of its own to the endpoint that answered last.
    pub(super) async fn client(&mut self) -> Result<Client, StoreError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = connect(&self.config, self.at()).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The endpoint that is asked now has failed: the next one is asked from here on.
    pub(super) fn next_endpoint(&mut self) {
        self.client = None;
        self.endpoint += 1;
    }

    /// The endpoint that is asked.
    pub(super) fn at(&self) -> &Url {
        &self.config.endpoints[self.endpoint % self.config.endpoints.len()]
    }

    fn node_key(&self, object: &Object) -> String {
        format!("{}/{object}", self.config.prefix)
    }

    /// Asks each endpoint in turn; when all have failed, again, as long as twice the timeout is not over:
    /// a cluster that elects a leader refuses for a second or two.
    async fn request<T>(
        &mut self,
        what: &'static str,
        mut ask: impl AsyncFnMut(&mut Client) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let within = self.config.timeout;
        let end = Instant::now() + 2 * within;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let mut last = None;
            for _ in 0..self.config.endpoints.len() {
                let answer = match self.client().await {
                    Err(error) => Err(error),
                    Ok(mut client) => match timeout(within, ask(&mut client)).await {
                        Ok(Ok(answer)) => return Ok(answer),
                        Ok(Err(cause)) => {
                            let endpoint = self.at().clone();
                            let last_word = is_last_word(&cause);
                            let refused = StoreError::Refused {
                                endpoint,
                                what,
                                cause,
                            };
                            if last_word {
                                return Err(refused);
                            }
                            Err(refused)
                        }
                        Err(_) => Err(StoreError::Silent {
                            endpoint: self.at().clone(),
                            what,
                            within,
                        }),
                    },
                };
                last = Some(answer);
                self.next_endpoint();
            }
            match last {
                Some(answer) if Instant::now() >= end => return answer,
                Some(_) | None => sleep(backoff.next()).await,
            }
        }
    }
}

/// Whether another endpoint would say the same: what was asked is wrong or not allowed.
fn is_last_word(error: &Error) -> bool {
    /// INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION
    /// (gRPC's doc/statuscodes.md).
    const LAST_WORDS: [i32; 5] = [3, 5, 7, 8, 9];
    matches!(error, Error::GRpcStatus(status) if LAST_WORDS.contains(&(status.code() as i32)))
}

/// All keys with a prefix as of a revision, 0 for now; page by page, since an answer has a size.
async fn range(
    client: &mut Client,
    prefix: &str,
    revision: i64,
) -> Result<(Vec<KeyValue>, i64), Error> {
    let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
    // One more than the prefix's last byte ends the range; a prefix ends in '/'.
    let end = format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix));
    let (mut from, mut revision) = (prefix.as_bytes().to_vec(), revision);
    let mut found = Vec::new();
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE)
            .with_revision(revision);
        let mut answer = kv.get(from, Some(options)).await?;
        if revision == 0 {
            revision = answer.header().map_or(0, |header| header.revision());
        }
        let more = answer.more();
        found.append(&mut answer.take_kvs());
        match found.last() {
            Some(last) if more => {
                from = last.key().to_vec();
                from.push(0);
            }
            Some(_) | None => return Ok((found, revision)),
        }
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
