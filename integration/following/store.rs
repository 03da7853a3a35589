//! The test's own connection to etcd: it writes, and it reads what etcd has and has had.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, ConnectOptions, Error, EventType, GetOptions, PutOptions, Txn, TxnOp, WatchOptions,
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

pub(crate) const PREFIX: &str = "/conftool/v1/pools/";
pub(crate) const LEASES: &str = "/plimsoll/v1/leases/";

/// The pools of these tests: `dc1/text/SERVICE`.
pub(crate) const CLUSTER: &str = "dc1/text/";

const MARK: &str = "/test/mark";

/// How long a member may take to answer before the next is asked.
const ANSWER: Duration = Duration::from_secs(3);
/// How long etcd may be without one that answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a pool says of a server that it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    pub(crate) enabled: bool,
    pub(crate) weight: u64,
}

/// By host. Those that are inactive are not in it.
pub(crate) type Pool = BTreeMap<String, Listed>;

pub(crate) fn key(service: &str, host: &str) -> String {
    format!("{PREFIX}{CLUSTER}{service}/{host}")
}

pub(crate) fn node(pooled: &str, weight: u64) -> String {
    format!("{{\"weight\": {weight}, \"pooled\": \"{pooled}\"}}")
}

pub(crate) struct Store {
    runtime: Runtime,
    endpoints: Vec<String>,
    /// Which of them is asked.
    at: usize,
    client: Option<Client>,
    user: Option<(String, String)>,
}

impl Store {
    pub(crate) fn new(endpoints: Vec<String>) -> Store {
        Store {
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            endpoints,
            at: 0,
            client: None,
            user: None,
        }
    }

    pub(crate) fn log_in(&mut self, user: &str, password: &str) {
        self.user = Some((user.into(), password.into()));
        self.client = None;
    }

    /// From now on it is this member that is asked first.
    pub(crate) fn ask(&mut self, member: usize) {
        self.at = member;
        self.client = None;
    }

    /// All of it or nothing. A write whose answer was lost is sent again.
    pub(crate) fn write(&mut self, operations: &[TxnOp]) -> i64 {
        let transaction = Txn::new().and_then(operations.to_vec());
        let done = self.request(async |client| client.txn(transaction.clone()).await);
        done.header().unwrap().revision()
    }

    pub(crate) fn put(&mut self, service: &str, host: &str, value: &str) {
        self.write(&[TxnOp::put(key(service, host), value, None)]);
    }

    pub(crate) fn set(&mut self, service: &str, host: &str, pooled: &str, weight: u64) {
        self.put(service, host, &node(pooled, weight));
    }

    pub(crate) fn delete(&mut self, service: &str, host: &str) {
        self.write(&[TxnOp::delete(key(service, host), None)]);
    }

    /// A lease of `ctl --for`, for so many seconds; gives its id.
    pub(crate) fn lease(&mut self, service: &str, host: &str, pooled: &str, seconds: i64) -> i64 {
        let granted = self.request(async |client| client.lease_grant(seconds, None).await);
        let value = node(pooled, 1).replace('}', ", \"until\": \"2038-01-19T03:14:07Z\"}");
        let key = format!("{LEASES}{CLUSTER}{service}/{host}");
        let options = PutOptions::new().with_lease(granted.id());
        self.write(&[TxnOp::put(key, value, Some(options))]);
        granted.id()
    }

    pub(crate) fn revoke(&mut self, lease: i64) {
        // A try whose answer was lost may have done it.
        self.request(async |client| match client.lease_revoke(lease).await {
            Err(Error::GRpcStatus(status)) if status.message().contains("lease not found") => {
                Ok(())
            }
            other => other.map(drop),
        });
    }

    pub(crate) fn revision(&mut self) -> i64 {
        let got = self.request(async |client| client.get(MARK, None).await);
        got.header().unwrap().revision()
    }

    /// Everything before this revision is forgotten, except what is in force.
    pub(crate) fn compact(&mut self, revision: i64) {
        // A try whose answer was lost may have done it.
        self.request(async |client| match client.compact(revision, None).await {
            Err(Error::GRpcStatus(status)) if status.message().contains("been compacted") => Ok(()),
            other => other.map(drop),
        });
    }

    fn request<T>(&mut self, ask: impl AsyncFn(&mut Client) -> Result<T, Error>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let fault = match self.try_request(&ask) {
                Ok(answer) => return answer,
                Err(fault) => fault,
            };
            assert!(Instant::now() < end, "etcd does not answer us: {fault}");
            self.ask((self.at + 1) % self.endpoints.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn try_request<T>(
        &mut self,
        ask: impl AsyncFn(&mut Client) -> Result<T, Error>,
    ) -> Result<T, String> {
        let endpoint = &self.endpoints[self.at];
        let (user, client) = (self.user.clone(), &mut self.client);
        self.runtime.block_on(async {
            let asked = async {
                let client = match client {
                    Some(client) => client,
                    None => {
                        let mut options = ConnectOptions::new().with_connect_timeout(ANSWER);
                        if let Some((user, password)) = user {
                            options = options.with_user(user, password);
                        }
                        client.insert(Client::connect([endpoint], Some(options)).await?)
                    }
                };
                ask(client).await
            };
            match timeout(ANSWER, asked).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("{endpoint} is silent")),
            }
        })
    }
}

/// What etcd had, from the first moment on, and has: each pool in each of its states.
pub(crate) struct History {
    values: Values,
    /// By service; each of its states differs from the one before, and none is empty.
    pub(crate) pools: BTreeMap<String, Vec<Moment>>,
    /// The first revision that has not been read.
    next: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) revision: i64,
    pub(crate) pool: Pool,
}

/// Nodes and leases by `DC/CLUSTER/SERVICE/HOST`, with the revision of each.
#[derive(Default)]
struct Values {
    nodes: BTreeMap<String, (i64, Node)>,
    leases: BTreeMap<String, (i64, Node)>,
}

/// `None`: inactive.
#[derive(Clone, Copy)]
struct Node(Option<Listed>);

impl Node {
    /// Without the program's own reader.
    fn parse(value: &[u8]) -> Option<Node> {
        let value: Value = serde_json::from_slice(value).ok()?;
        let weight = value["weight"]
            .as_u64()
            .filter(|weight| *weight <= 2_147_483_646)?;
        let listed = |enabled| Some(Listed { enabled, weight });
        Some(Node(match value["pooled"].as_str()? {
            "yes" => listed(true),
            "no" => listed(false),
            "inactive" => None,
            _ => return None,
        }))
    }
}

impl Values {
    /// The service that the key bears on, if it bears on any.
    fn set(&mut self, key: &[u8], revision: i64, value: Option<&[u8]>) -> Option<String> {
        let key = std::str::from_utf8(key).ok()?;
        let (tree, below) = match key.strip_prefix(PREFIX) {
            Some(below) => (&mut self.nodes, below),
            None => (&mut self.leases, key.strip_prefix(LEASES)?),
        };
        match value {
            // One that is no node leaves what was good.
            Some(value) => {
                if let Some(node) = Node::parse(value) {
                    tree.insert(below.into(), (revision, node));
                }
            }
            None => drop(tree.remove(below)),
        }
        let (service, _) = below.strip_prefix(CLUSTER)?.split_once('/')?;
        Some(service.to_owned())
    }

    fn pool(&self, service: &str) -> Pool {
        let directory = format!("{CLUSTER}{service}/");
        let nodes = self.nodes.range(directory.clone()..);
        let nodes = nodes.take_while(|(key, _)| key.starts_with(&directory));
        let mut pool = Pool::new();
        for (key, node) in nodes {
            let lease = self.leases.get(key).filter(|lease| lease.0 > node.0);
            let (_, Node(listed)) = lease.unwrap_or(node);
            if let Some(listed) = listed {
                pool.insert(key[directory.len()..].to_owned(), *listed);
            }
        }
        pool
    }

    fn services(&self) -> BTreeSet<String> {
        let below = self
            .nodes
            .keys()
            .filter_map(|key| key.strip_prefix(CLUSTER));
        let service = |key: &str| Some(key.split_once('/')?.0.to_owned());
        below.filter_map(service).collect()
    }
}

impl History {
    /// Of a store that is new, or that forgot what it had: from what it has now on.
    pub(crate) fn new(store: &mut Store) -> History {
        let mut history = History {
            values: Values::default(),
            pools: BTreeMap::new(),
            next: 0,
        };
        history.begin_again(store);
        history
    }

    /// The store is another one, or does not remember what we have not read: what it has now comes after what
    /// it had.
    pub(crate) fn begin_again(&mut self, store: &mut Store) {
        let got = store
            .request(async |client| client.get("/", Some(GetOptions::new().with_prefix())).await);
        let revision = got.header().unwrap().revision();
        self.next = revision + 1;
        self.values = Values::default();
        for kv in got.kvs() {
            self.values
                .set(kv.key(), kv.mod_revision(), Some(kv.value()));
        }
        for service in self.values.services() {
            self.add(&service, revision);
        }
    }

    /// Reads on, up to now.
    pub(crate) fn follow(&mut self, store: &mut Store) {
        let mark = store.write(&[TxnOp::put(MARK, "", None)]);
        let from = self.next;
        let events = store.request(async |client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(from);
            let mut watch = client.watch("/", Some(options)).await?;
            let mut events = Vec::new();
            loop {
                let message = watch.message().await?;
                let message = message.ok_or(Error::WatchError("it ended".into()))?;
                if message.canceled() {
                    return Err(Error::WatchError(format!("{message:?}")));
                }
                for event in message.events() {
                    let kv = event.kv().expect("an event has a key").clone();
                    let revision = kv.mod_revision();
                    if revision > mark {
                        return Ok(events);
                    }
                    events.push((event.event_type(), kv));
                    if revision == mark {
                        return Ok(events);
                    }
                }
            }
        });
        for revision in events.chunk_by(|(_, a), (_, b)| a.mod_revision() == b.mod_revision()) {
            let mut services = BTreeSet::new();
            let number = revision[0].1.mod_revision();
            for (kind, kv) in revision {
                let value = match kind {
                    EventType::Put => Some(kv.value()),
                    EventType::Delete => None,
                };
                services.extend(self.values.set(kv.key(), number, value));
            }
            for service in services {
                self.add(&service, number);
            }
        }
        self.next = mark + 1;
    }

    /// What etcd says of the pool as of the last read.
    pub(crate) fn now(&self, service: &str) -> Pool {
        self.values.pool(service)
    }

    /// Up to which revision it has been read.
    pub(crate) fn read(&self) -> i64 {
        self.next - 1
    }

    fn add(&mut self, service: &str, revision: i64) {
        let pool = self.values.pool(service);
        let moments = self.pools.entry(service.to_owned()).or_default();
        let same = moments.last().is_some_and(|last| last.pool == pool);
        // An empty pool is a mistake, and the last good one stays.
        if !same && !pool.is_empty() {
            moments.push(Moment { revision, pool });
        }
    }
}
