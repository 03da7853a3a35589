//! Edge: server lists in. One watcher for each service whose list is elsewhere, started when the service
//! appears in the snapshot and dropped when it goes. Inline lists are the core's own matter.
//!
//! ```text
//!  snapshot ──► run ─┬► one watcher a file ──► Event::List, Event::SourceFailed
//!                    │     ▲ rings
//!                    ├► Notices: the one inotify instance
//!                    └► etcd: one connection for all pools ──► the same, and Event::Together
//! ```

mod etcd;
mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{Etcd, Servers};
use crate::event::Event;
use crate::service::ServiceName;
use crate::snapshot::{Service, Snapshot, Source};

use etcd::{Want, Wants};
use file::Files;

/// Reports the lists of all services of the newest snapshot; ends when the sender of snapshots is gone.
/// Lists from etcd are remembered in the state directory, if there is one.
pub async fn run(
    state_directory: Option<PathBuf>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let (files, inotify) = Files::new(events.clone());
    let listen = files.listen(inotify);
    tokio::pin!(listen);

    let (wants, wanted) = watch::channel(Wants::default());
    let etcd = etcd::run(state_directory, wanted, events);
    tokio::pin!(etcd);

    let mut watchers = Watchers {
        files: &files,
        running: BTreeMap::new(),
        etcd: &wants,
        number: 0,
    };
    let mut before = OrdMap::new();
    loop {
        let now = snapshots.borrow_and_update().clone();
        watchers.configure(now.config.etcd.as_ref());
        for difference in before.diff(&now.services) {
            watchers.follow(difference);
        }
        before = now.services.clone();
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            never = &mut listen => match never {},
            // It ends only with the core.
            () = &mut etcd => return,
        }
    }
}

struct Watchers<'a> {
    files: &'a Files,
    /// A set of one: dropped with its entry, and the task with it.
    running: BTreeMap<ServiceName, JoinSet<()>>,
    etcd: &'a watch::Sender<Wants>,
    /// The last that a service was started with.
    number: u64,
}

impl Watchers<'_> {
    fn follow(&mut self, difference: DiffItem<'_, '_, ServiceName, Arc<Service>>) {
        match difference {
            DiffItem::Add(name, service) => self.start(name, service),
            DiffItem::Update {
                old: (_, old),
                new: (name, new),
            } if starts_anew(old, new) => {
                self.start(name, new);
            }
            DiffItem::Update { .. } => {}
            DiffItem::Remove(name, _) => self.stop(name),
        }
    }

    fn start(&mut self, name: &ServiceName, service: &Service) {
        self.stop(name);
        match &service.config.servers {
            Servers::Inline(_) => {}
            Servers::File(path) => {
                let mut task = JoinSet::new();
                task.spawn(self.files.watch(name.clone(), path));
                self.running.insert(name.clone(), task);
            }
            Servers::Etcd(pool) => {
                self.number += 1;
                let (pool, number) = (pool.clone(), self.number);
                let want = Want { pool, number };
                self.etcd.send_modify(|wants| {
                    wants.services.insert(name.clone(), want);
                });
            }
        }
    }

    fn stop(&mut self, name: &ServiceName) {
        self.running.remove(name);
        self.etcd
            .send_if_modified(|wants| wants.services.remove(name).is_some());
    }

    fn configure(&mut self, config: Option<&Arc<Etcd>>) {
        self.etcd.send_if_modified(|wants| {
            let same = wants.config.as_ref() == config;
            if !same {
                wants.config = config.cloned();
            }
            !same
        });
    }
}

/// Whether the service's list must be sent again: it comes from elsewhere now, or the core knows no
/// list of this service and did, or may, before (it went and came back between two snapshots that we saw).
fn starts_anew(old: &Service, new: &Service) -> bool {
    let same_config = Arc::ptr_eq(&old.config, &new.config);
    let forgotten =
        new.source == Source::Waiting && (old.source != Source::Waiting || !same_config);
    elsewhere(old) != elsewhere(new) || (elsewhere(new).is_some() && forgotten)
}

fn elsewhere(service: &Service) -> Option<&Servers> {
    match &service.config.servers {
        Servers::File(_) | Servers::Etcd(_) => Some(&service.config.servers),
        Servers::Inline(_) => None,
    }
}
