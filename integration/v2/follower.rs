//! The source of lists, following: what it said last of each service, and how often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll::config::{Config, Etcd, Servers};
use plimsoll::event::Event;
use plimsoll::service::{Host, Listed, Listing};
use plimsoll::snapshot::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::sample;

/// Within this the lists must be as etcd has them.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) struct Follower {
    events: mpsc::Receiver<Event>,
    /// Each list that came, the newest last.
    pub(crate) lists: BTreeMap<String, Vec<Arc<Listing>>>,
    /// By service, and of parts by their names.
    pub(crate) faults: BTreeMap<String, String>,
    _snapshots: watch::Sender<Arc<Snapshot>>,
    _task: JoinSet<()>,
}

impl Follower {
    /// `[etcd]` as text; services and their pools.
    pub(crate) fn start(section: &str, services: &[(&str, &str)]) -> Follower {
        let (snapshots, receiver) = watch::channel(snapshot(&etcd(section), services));
        let (sender, events) = mpsc::channel(16);
        let mut task = JoinSet::new();
        task.spawn(plimsoll::source::run(None, receiver, sender));
        Follower {
            events,
            lists: BTreeMap::new(),
            faults: BTreeMap::new(),
            _snapshots: snapshots,
            _task: task,
        }
    }

    /// The newest list of a service: `host*weight`, `!` before the depooled.
    pub(crate) fn text(&self, service: &str) -> String {
        let list = self.lists.get(service).and_then(|lists| lists.last());
        list.map_or_else(String::new, |list| hosts(list))
    }

    /// All lists of a service, in the order that they came in.
    pub(crate) fn texts(&self, service: &str) -> Vec<String> {
        let lists = self.lists.get(service).into_iter().flatten();
        let mut texts: Vec<String> = lists.map(|list| hosts(list)).collect();
        texts.dedup();
        texts
    }

    /// How many lists of a service have come.
    pub(crate) fn count(&self, service: &str) -> usize {
        self.lists.get(service).map_or(0, Vec::len)
    }

    /// Takes events until the service's list is this; gives how long that took.
    pub(crate) async fn list(&mut self, service: &str, expected: &str) -> Duration {
        let good = |follower: &Follower| follower.text(service) == expected;
        self.until(&format!("{service}: {expected}"), good).await
    }

    /// Takes events until a fault of a service or part has this in it.
    pub(crate) async fn fault(&mut self, of: &str, part: &str) -> Duration {
        let good = |follower: &Follower| follower.faults.get(of).is_some_and(|f| f.contains(part));
        self.until(&format!("fault of {of}: {part}"), good).await
    }

    pub(crate) async fn until(&mut self, what: &str, good: impl Fn(&Follower) -> bool) -> Duration {
        let began = Instant::now();
        while !good(self) {
            let left = (began + 2 * SOON).saturating_duration_since(Instant::now());
            let Ok(event) = timeout(left, self.events.recv()).await else {
                let texts: Vec<_> = self
                    .lists
                    .keys()
                    .map(|name| (name, self.text(name)))
                    .collect();
                panic!("not {what}: {texts:#?} {:#?}", self.faults);
            };
            self.note(event.expect("it goes on"));
        }
        began.elapsed()
    }

    /// Takes what is there now.
    pub(crate) fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::List { service, list, .. } => {
                self.faults.remove(service.as_str());
                self.lists
                    .entry(service.to_string())
                    .or_default()
                    .push(list);
            }
            Event::SourceFailed { service, fault, .. } => {
                self.faults.insert(service.to_string(), fault);
            }
            Event::Trouble { part, fault } => {
                self.faults.remove(part);
                self.faults
                    .extend(fault.map(|fault| (part.to_owned(), fault)));
            }
            Event::Together(events) => events.into_iter().for_each(|event| self.note(event)),
            other => panic!("{other:?}"),
        }
    }
}

fn hosts(list: &Listing) -> String {
    let server = |(host, listed): (&Host, &Listed)| {
        let off = if listed.enabled { "" } else { "!" };
        format!("{off}{host}*{}", listed.weight)
    };
    let servers: Vec<String> = list.servers.iter().map(server).collect();
    servers.join(" ")
}

fn snapshot(etcd: &Arc<Etcd>, services: &[(&str, &str)]) -> Arc<Snapshot> {
    let service = |(name, pool): &(&str, &str)| {
        sample::edit(sample::service(name, 0.5, &[]), |service| {
            Arc::make_mut(&mut service.config).servers = Servers::Etcd(pool.parse().unwrap());
        })
    };
    let mut snapshot = sample::snapshot([]);
    snapshot.services = services.iter().map(service).collect();
    let mut config = Config::clone(&snapshot.config);
    config.etcd = Some(etcd.clone());
    snapshot.config = Arc::new(config);
    Arc::new(snapshot)
}

fn etcd(section: &str) -> Arc<Etcd> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plimsoll.toml");
    std::fs::write(&path, section).unwrap();
    Config::read_etcd(&path).unwrap()
}
