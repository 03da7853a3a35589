//! Server names to addresses, kept up to date: `/etc/hosts` first, then DNS by its TTL.
//!
//! Not here: which of several addresses a server uses, and that known ones stay in use while DNS is away; the
//! core does that. Here a name is followed from the moment a service lists it until none does, once for
//! all services that list it.
//!
//! ```text
//!  /etc/hosts, /etc/resolv.conf ──► system ──┐
//!                                            ▼
//!  snapshots ──► run ── starts, stops ──► a task a name ──► Event::Resolved, Event::Unresolved
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::event::Event;
use crate::service::{Family, Host, ServiceName};
use crate::snapshot::{Service, Snapshot};

use follow::Following;
use system::System;

mod dns;
mod follow;
mod hosts;
mod system;

/// The most questions to DNS at one time.
const MOST_AT_ONCE: usize = 64;

/// Where this host says how names are resolved.
#[derive(Clone, Debug)]
pub struct Files {
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    /// The port of the name servers, which `resolv.conf` can't say.
    pub dns_port: u16,
}

impl Default for Files {
    fn default() -> Files {
        Files {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            dns_port: 53,
        }
    }
}

/// Keeps the newest snapshot's names resolved until the snapshots' sender is gone.
///
/// Sends [`Event::Resolved`] and [`Event::Unresolved`], each only if it says something else than the one before;
/// the last one again when a further service lists the name.
pub async fn run(
    files: Files,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let (system, keep_reading) = system::open(files).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_reading);
    let queries = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut names = Names {
        followed: OrdMap::new(),
        running: BTreeMap::new(),
        tasks,
        system,
        queries,
        events,
    };
    loop {
        let services = snapshots.borrow_and_update().services.clone();
        names.follow(services);
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

type Key = (Host, Family);

struct Names {
    /// The services that `running` was made for.
    followed: OrdMap<ServiceName, Arc<Service>>,
    running: BTreeMap<Key, Running>,
    /// Owns the task of every name.
    tasks: JoinSet<()>,
    system: watch::Receiver<Arc<System>>,
    queries: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
}

struct Running {
    /// How many services list the name.
    listed: usize,
    /// `None`: about to be started.
    task: Option<AbortHandle>,
    say_again: Arc<Notify>,
}

impl Names {
    fn follow(&mut self, services: OrdMap<ServiceName, Arc<Service>>) {
        let mut touched = BTreeSet::new();
        let before = std::mem::replace(&mut self.followed, services);
        for change in before.diff(&self.followed) {
            let (old, now) = match change {
                DiffItem::Add(_, now) => (None, Some(now)),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, now),
                } => (Some(old), Some(now)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            if let (Some(old), Some(now)) = (old, now)
                && Arc::ptr_eq(&old.names, &now.names)
                && old.family() == now.family()
            {
                continue;
            }
            let (old, now) = (keys(old), keys(now));
            for key in old.difference(&now) {
                if let Some(running) = self.running.get_mut(key) {
                    running.listed -= 1;
                    touched.insert(key.clone());
                }
            }
            for key in now.difference(&old) {
                let running = self.running.entry(key.clone()).or_insert_with(|| Running {
                    listed: 0,
                    task: None,
                    say_again: Arc::default(),
                });
                running.listed += 1;
                if running.task.is_some() {
                    running.say_again.notify_one();
                }
                touched.insert(key.clone());
            }
        }
        for key in touched {
            self.start_or_stop(key);
        }
        // Forget the tasks that were stopped before; those of now are forgotten next time.
        while self.tasks.try_join_next().is_some() {}
    }

    fn start_or_stop(&mut self, key: Key) {
        let Some(running) = self.running.get_mut(&key) else {
            return;
        };
        if running.listed == 0 {
            if let Some(task) = &running.task {
                task.abort();
            }
            self.running.remove(&key);
        } else if running.task.is_none() {
            let following = Following {
                host: key.0,
                family: key.1,
                system: self.system.clone(),
                queries: self.queries.clone(),
                say_again: running.say_again.clone(),
                events: self.events.clone(),
                said: None,
            };
            running.task = Some(self.tasks.spawn(following.run()));
        }
    }
}

fn keys(service: Option<&Arc<Service>>) -> BTreeSet<Key> {
    let keys = |service: &Arc<Service>| {
        let family = service.family();
        service
            .names
            .iter()
            .map(|host| (host.clone(), family))
            .collect()
    };
    service.map(keys).unwrap_or_default()
}
