//! Edge: server lists in. One watcher for each service whose list is elsewhere, started when the service
//! appears in the snapshot and dropped when it goes. Inline lists are the core's own matter.
//!
//! ```text
//!  snapshot ──► run ──► one watcher a service ──► Event::List, Event::SourceFailed
//!                │        ▲ rings
//!                └─► Notices: the one inotify instance
//! ```

mod etcd;
mod file;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Servers;
use crate::event::Event;
use crate::service::ServiceName;
use crate::snapshot::{Service, Snapshot, Source};

use file::Files;

/// Reports the lists of all services of the newest snapshot; ends when the sender of snapshots is gone.
pub async fn run(mut snapshots: watch::Receiver<Arc<Snapshot>>, events: mpsc::Sender<Event>) {
    let (files, inotify) = Files::new(events);
    let listen = files.listen(inotify);
    tokio::pin!(listen);

    let mut watchers = Watchers {
        files: &files,
        running: BTreeMap::new(),
    };
    let mut before = OrdMap::new();
    loop {
        let now = snapshots.borrow_and_update().services.clone();
        for difference in before.diff(&now) {
            watchers.follow(difference);
        }
        before = now;
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            never = &mut listen => match never {},
        }
    }
}

struct Watchers<'a> {
    files: &'a Files,
    /// A set of one: dropped with its entry, and the task with it.
    running: BTreeMap<ServiceName, JoinSet<()>>,
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
            DiffItem::Remove(name, _) => drop(self.running.remove(name)),
        }
    }

    fn start(&mut self, name: &ServiceName, service: &Service) {
        self.running.remove(name);
        if let Some(path) = path(service) {
            let mut task = JoinSet::new();
            task.spawn(self.files.watch(name.clone(), path));
            self.running.insert(name.clone(), task);
        }
    }
}

/// Whether the service's list must be sent again: it comes from elsewhere now, or the core knows no
/// list of this service and did, or may, before (it went and came back between two snapshots that we saw).
fn starts_anew(old: &Service, new: &Service) -> bool {
    let same_config = Arc::ptr_eq(&old.config, &new.config);
    let forgotten =
        new.source == Source::Waiting && (old.source != Source::Waiting || !same_config);
    path(old) != path(new) || (path(new).is_some() && forgotten)
}

fn path(service: &Service) -> Option<&Path> {
    match &service.config.servers {
        Servers::File(path) => Some(path),
        Servers::Inline(_) | Servers::Etcd(_) => None,
    }
}
