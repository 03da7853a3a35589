//! One balancer's edge: snapshots in, records in etcd and events out. And the records, as etcd has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use plimsoll::config::{Config, Etcd, EtcdApi, Servers};
use plimsoll::event::Event;
use plimsoll::service::ServiceName;
use plimsoll::snapshot::{Service, Snapshot};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Cluster;
use crate::sample;

/// Longer than anything here takes on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// What the edge promises: without a sign of a balancer its records are gone after this, and what etcd's own
/// looking around takes.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

pub(crate) struct Balancer {
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) run: JoinSet<()>,
}

/// `[etcd]` for these endpoints.
pub(crate) fn section(endpoints: &[String]) -> Etcd {
    Etcd {
        endpoints: endpoints.iter().map(|url| url.parse().unwrap()).collect(),
        prefix: "/conftool/v1/pools".to_owned(),
        api: EtcdApi::V3,
        ca: None,
        certificate: None,
        key: None,
        user: None,
        password_file: None,
        timeout: Duration::from_secs(2),
        stale_after: Duration::from_secs(60),
    }
}

/// A snapshot with these services, telling this cluster.
pub(crate) fn snapshot(
    etcd: Etcd,
    services: impl IntoIterator<Item = (ServiceName, Arc<Service>)>,
) -> Snapshot {
    let mut snapshot = sample::snapshot([]);
    snapshot.services = services.into_iter().collect();
    snapshot.config = Arc::new(Config {
        etcd: Some(Arc::new(etcd)),
        services: snapshot
            .services
            .iter()
            .map(|(name, service)| (name.clone(), service.config.clone()))
            .collect(),
        ..(*snapshot.config).clone()
    });
    let (address, vip) = sample::vip("192.0.2.1", true, None);
    snapshot.vips.insert(address, vip);
    snapshot
}

/// A service of that name with the pool `dc/web/NAME`, of which the kernel has this revision.
pub(crate) fn pool(name: &str, revision: u64) -> (ServiceName, Arc<Service>) {
    let service = sample::service(name, 0.5, &["a up pooled", "b held", "c disabled"]);
    sample::edit(service, |service| {
        let path = format!("dc/web/{name}").parse().unwrap();
        Arc::make_mut(&mut service.config).servers = Servers::Etcd(path);
        service.revision = Some(revision);
        service.applied_revision = Some(revision);
    })
}

impl Balancer {
    pub(crate) fn start(hostname: &str, snapshot: Snapshot) -> Balancer {
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let (sender, events) = mpsc::channel(100);
        let mut run = JoinSet::new();
        run.spawn(plimsoll::fleet::run(hostname.to_owned(), receiver, sender));
        Balancer {
            snapshots,
            events,
            run,
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    pub(crate) fn set(&self, (name, service): (ServiceName, Arc<Service>)) {
        self.change(|snapshot| {
            snapshot.services.insert(name, service);
        });
    }

    /// The next event, which is trouble: its fault.
    pub(crate) async fn trouble(&mut self) -> Option<String> {
        let event = timeout(PATIENCE, self.events.recv()).await;
        let event = event.expect("an event in time").expect("the edge runs");
        let Event::Trouble {
            part: "fleet",
            fault,
        } = event
        else {
            panic!("{event:?}")
        };
        fault
    }

    /// The edge has had no trouble.
    pub(crate) fn untroubled(&mut self) {
        if let Ok(event) = self.events.try_recv() {
            panic!("{event:?}");
        }
    }
}

/// The store as one member has it.
pub(crate) struct Store {
    client: Client,
}

impl Store {
    pub(crate) async fn of(cluster: &Cluster, member: usize) -> Store {
        Store::at(&section(&cluster.endpoints()), member).await
    }

    pub(crate) async fn at(etcd: &Etcd, member: usize) -> Store {
        let connected = plimsoll::etcd::connect(etcd, &etcd.endpoints[member]).await;
        Store {
            client: connected.unwrap(),
        }
    }

    pub(crate) async fn put(&mut self, key: &str, value: &str) -> u64 {
        let put = self.client.put(key, value, None).await.unwrap();
        u64::try_from(put.header().unwrap().revision()).unwrap()
    }

    /// Writes until the database is as large as it may be (`--quota-backend-bytes`), and the alarm is raised.
    pub(crate) async fn fill(&mut self) {
        let value = "x".repeat(100 * 1024);
        for n in 0..1000 {
            let key = format!("fill{n}");
            if self.client.put(key, value.as_str(), None).await.is_err() {
                return;
            }
        }
        panic!("it has no limit");
    }

    /// Of the whole store: each transaction that writes makes it one more.
    pub(crate) async fn revision(&mut self) -> i64 {
        let read = self.client.get("nothing", None).await.unwrap();
        read.header().unwrap().revision()
    }

    /// All records, by key without what all have in common.
    pub(crate) async fn records(&mut self) -> BTreeMap<String, Value> {
        let all = GetOptions::new().with_prefix();
        // An endpoint that has just come back may refuse for a moment.
        let end = Instant::now() + PATIENCE;
        let read = loop {
            match self.client.get("/plimsoll/v1/", Some(all.clone())).await {
                Ok(read) => break read,
                Err(fault) => assert!(Instant::now() < end, "{fault}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        let record = |pair: &etcd_client::KeyValue| {
            let key = pair.key_str().unwrap();
            let key = key.strip_prefix("/plimsoll/v1/").unwrap().to_owned();
            (key, serde_json::from_slice(pair.value()).unwrap())
        };
        read.kvs().iter().map(record).collect()
    }

    /// Waits until the records are such.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        good: impl Fn(&BTreeMap<String, Value>) -> bool,
    ) -> BTreeMap<String, Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let records = self.records().await;
            if good(&records) {
                return records;
            }
            assert!(Instant::now() < end, "not {what}: {records:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this pool of this balancer is told with this revision.
    pub(crate) async fn until_applied(&mut self, hostname: &str, pool: &str, revision: u64) {
        let key = format!("applied/{hostname}/dc/web/{pool}");
        let what = format!("{key} at {revision}");
        let good = |records: &BTreeMap<String, Value>| {
            records.get(&key).is_some_and(|r| r["revision"] == revision)
        };
        self.until(&what, good).await;
    }
}
