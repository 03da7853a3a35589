//! The source of lists against a real etcd: what comes of each change, and of each thing that happens to etcd.
//! What must happen is waited for with a deadline; what must not is shown by what comes next instead.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "in a test a panic is the message, and the clock is the world's"
)]

#[path = "cluster.rs"]
#[expect(dead_code, unreachable_pub, reason = "other tests use the rest of it")]
mod cluster;
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../src/snapshot/sample.rs"]
mod sample;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use plimsoll::config::{Config, Etcd, Servers};
use plimsoll::event::Event;
use plimsoll::service::{Freshness, Listing};
use plimsoll::snapshot::Snapshot;
use plimsoll::{config, service, snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// Within this the pools must be as etcd has them.
const SOON: Duration = Duration::from_secs(5);
const PREFIX: &str = "/conftool/v1/pools";

/// The source, and what it has said so far.
struct Running {
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: mpsc::Receiver<Event>,
    lists: BTreeMap<String, Arc<Listing>>,
    /// By service, and of parts by their names.
    faults: BTreeMap<String, String>,
    _task: JoinSet<()>,
}

impl Running {
    fn start(etcd: &Arc<Etcd>, services: &[(&str, &str)], state: Option<&Path>) -> Running {
        let (snapshots, receiver) = watch::channel(snapshot_of(etcd, services));
        let (sender, events) = mpsc::channel(16);
        let mut task = JoinSet::new();
        let state = state.map(Path::to_owned);
        task.spawn(plimsoll::source::run(state, receiver, sender));
        Running {
            snapshots,
            events,
            lists: BTreeMap::new(),
            faults: BTreeMap::new(),
            _task: task,
        }
    }

    fn publish(&self, etcd: &Arc<Etcd>, services: &[(&str, &str)]) {
        self.snapshots.send_replace(snapshot_of(etcd, services));
    }

    /// The next event.
    async fn next(&mut self) -> Event {
        let event = timeout(SOON, self.events.recv()).await;
        let event = event.expect("nothing came in time").expect("it ended");
        self.note(&event);
        event
    }

    fn note(&mut self, event: &Event) {
        match event.clone() {
            Event::List { service, list, .. } => {
                assert!(!list.servers.is_empty());
                self.faults.remove(service.as_str());
                self.lists.insert(service.to_string(), list);
            }
            Event::SourceFailed { service, fault, .. } => {
                self.faults.insert(service.to_string(), fault);
            }
            Event::Trouble { part, fault } => {
                self.faults.remove(part);
                if let Some(fault) = fault {
                    self.faults.insert(part.to_owned(), fault);
                }
            }
            Event::Together(events) => events.iter().for_each(|event| self.note(event)),
            other => panic!("{other:?}"),
        }
    }

    /// Takes events until `good`, and for no longer than `SOON`.
    async fn until(&mut self, what: &str, good: impl Fn(&Running) -> bool) {
        let end = Instant::now() + SOON;
        while !good(self) {
            let Ok(event) = timeout_at(end, self.events.recv()).await else {
                panic!("not {what}: {:#?} {:#?}", self.texts(), self.faults);
            };
            self.note(&event.expect("it ended"));
        }
    }

    /// Until a service's list is this.
    async fn list(&mut self, service: &str, expected: &str) {
        let good = |running: &Running| running.text(service) == expected;
        self.until(&format!("{service}: {expected}"), good).await;
    }

    fn text(&self, service: &str) -> String {
        self.lists
            .get(service)
            .map_or_else(String::new, |list| hosts(list))
    }

    fn texts(&self) -> BTreeMap<&String, String> {
        let text = |(name, list): (_, &Arc<Listing>)| (name, hosts(list));
        self.lists.iter().map(text).collect()
    }
}

fn hosts(list: &Listing) -> String {
    let server = |(host, listed): (&service::Host, &service::Listed)| {
        let off = if listed.enabled { "" } else { "!" };
        format!("{off}{host}*{}", listed.weight)
    };
    list.servers
        .iter()
        .map(server)
        .collect::<Vec<_>>()
        .join(" ")
}

fn snapshot_of(etcd: &Arc<Etcd>, services: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = sample::snapshot([]);
    let service = |(name, pool): &(&str, &str)| {
        sample::edit(sample::service(name, 0.5, &[]), |service| {
            Arc::make_mut(&mut service.config).servers = Servers::Etcd(pool.parse().unwrap());
        })
    };
    snapshot.services = services.iter().map(service).collect();
    let mut config = Config::clone(&snapshot.config);
    config.etcd = Some(etcd.clone());
    snapshot.config = Arc::new(config);
    Arc::new(snapshot)
}

/// `[etcd]` from the text of a section.
fn section(text: &str) -> Arc<Etcd> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plimsoll.toml");
    std::fs::write(&path, text).unwrap();
    Config::read_etcd(&path).unwrap()
}

fn put(cluster: &Cluster, node: &str, value: &str) {
    cluster.etcdctl(&["put", &format!("{PREFIX}/{node}"), value]);
}

fn node(cluster: &Cluster, node: &str, weight: u32, pooled: &str) {
    let value = format!(r#"{{"weight": {weight}, "pooled": "{pooled}"}}"#);
    put(cluster, node, &value);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_listed() {
    let cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/web/b", 2, "no");
    node(&cluster, "dc/c/web/c", 3, "inactive");
    node(&cluster, "dc/c/other/d", 1, "yes");
    let etcd = section(&cluster.section());
    let mut running = Running::start(&etcd, &[("web", "dc/c/web")], None);
    running.list("web", "a*1 !b*2").await;
    node(&cluster, "dc/c/web/c", 3, "yes");
    running.list("web", "a*1 !b*2 c*3").await;
    cluster.etcdctl(&["del", &format!("{PREFIX}/dc/c/web/b")]);
    running.list("web", "a*1 c*3").await;
    assert_eq!(running.lists["web"].freshness, Freshness::Current);
    assert!(running.faults.is_empty(), "{:?}", running.faults);
}
