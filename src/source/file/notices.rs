//! The one inotify instance (a user has but 128 of them) and who wants to hear of what.
//!
//! Directories are watched, never files: a directory tells of all that happens to the names in it, also
//! when one is replaced or not there yet. One watch serves all who are interested in the directory, and
//! a notice rings only those who asked for that very name.
//!
//! The lock is never held while the file system is asked for something: that may take for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, WatchDescriptor, WatchMask, Watches};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

/// How soon a lost or refused inotify instance is asked for again.
const RETRY: Duration = Duration::from_secs(60);

pub(super) type Inotify = EventStream<Vec<u8>>;

#[derive(Default)]
pub(super) struct Notices(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// `None`: there is no inotify; whoever looks is blind.
    watches: Option<Watches>,
    /// By watch descriptor; the kernel never gives the same one twice.
    directories: BTreeMap<i32, Directory>,
    /// All bells, for what concerns everybody.
    bells: BTreeMap<u64, Arc<Bell>>,
    next_bell: u64,
    /// Counts watches that went: whoever was adding one meanwhile may hold a dead one.
    removed: u64,
}

struct Directory {
    descriptor: WatchDescriptor,
    names: BTreeMap<OsString, BTreeMap<u64, Arc<Bell>>>,
}

#[derive(Default)]
struct Bell {
    notify: Notify,
    /// Somebody who had the file open for writing has closed it.
    written: AtomicBool,
}

impl Bell {
    fn ring(&self, written: bool) {
        if written {
            self.written.store(true, Ordering::Release);
        }
        self.notify.notify_one();
    }
}

impl Notices {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> io::Result<Inotify> {
        let inotify = inotify::Inotify::init()?;
        let stream = inotify.into_event_stream(vec![0; 16 << 10])?;
        self.table().watches = Some(stream.watches());
        Ok(stream)
    }

    /// Rings who is concerned, for ever.
    pub(super) async fn listen(&self, mut inotify: io::Result<Inotify>) -> Infallible {
        loop {
            let fault = match inotify {
                Ok(mut stream) => self.hear(&mut stream).await,
                Err(error) => error,
            };
            warn!(%fault, "no inotify; looking at server lists each second");
            self.close();
            loop {
                sleep(RETRY).await;
                inotify = self.open();
                if inotify.is_ok() {
                    info!("inotify is back");
                    self.table().ring_all();
                    break;
                }
            }
        }
    }

    async fn hear(&self, stream: &mut Inotify) -> io::Error {
        loop {
            match stream.next().await {
                Some(Ok(event)) => self.table().dispatch(&event),
                Some(Err(error)) => return error,
                None => return io::ErrorKind::UnexpectedEof.into(),
            }
        }
    }

    fn close(&self) {
        let mut table = self.table();
        table.watches = None;
        table.directories.clear();
        table.removed += 1;
        table.ring_all();
    }
}

impl Table {
    fn dispatch(&mut self, event: &EventOwned) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return self.ring_all();
        }
        let id = event.wd.get_watch_descriptor_id();
        let Some(directory) = self.directories.get(&id) else {
            return;
        };
        let written = event.mask.contains(EventMask::CLOSE_WRITE);
        match &event.name {
            Some(name) => directory.ring(name, written),
            // About the directory itself: it went, moved, or may be read by others now.
            None => directory
                .names
                .keys()
                .for_each(|name| directory.ring(name, false)),
        }
        if event.mask.contains(EventMask::IGNORED) {
            self.directories.remove(&id);
            self.removed += 1;
        }
    }

    fn ring_all(&self) {
        self.bells.values().for_each(|bell| bell.ring(false));
    }

    fn forget(&mut self, bell: u64, (id, name): &(i32, OsString)) {
        let Some(directory) = self.directories.get_mut(id) else {
            return;
        };
        if let Some(bells) = directory.names.get_mut(name) {
            bells.remove(&bell);
            if bells.is_empty() {
                directory.names.remove(name);
            }
        }
        if !directory.names.is_empty() {
            return;
        }
        if let (Some(gone), Some(watches)) = (self.directories.remove(id), &mut self.watches) {
            // An error says that the kernel has dropped it already.
            let _ = watches.remove(gone.descriptor);
            self.removed += 1;
        }
    }
}

impl Directory {
    fn ring(&self, name: &OsStr, written: bool) {
        let bells = self
            .names
            .get(name)
            .into_iter()
            .flat_map(|bells| bells.values());
        bells.for_each(|bell| bell.ring(written));
    }
}

/// One watcher's bell and the names that ring it; forgotten when dropped.
pub(super) struct Interest {
    notices: Arc<Notices>,
    id: u64,
    bell: Arc<Bell>,
    /// What the last finished round asked for.
    names: Mutex<BTreeSet<(i32, OsString)>>,
}

impl Interest {
    pub(super) fn new(notices: Arc<Notices>) -> Interest {
        let bell = Arc::new(Bell::default());
        let mut table = notices.table();
        let id = table.next_bell;
        table.next_bell += 1;
        table.bells.insert(id, bell.clone());
        drop(table);
        Interest {
            notices,
            id,
            bell,
            names: Mutex::default(),
        }
    }

    /// Comes back once something has happened since the last time it did.
    pub(super) async fn rung(&self) {
        self.bell.notify.notified().await;
    }

    pub(super) fn ring(&self, written: bool) {
        self.bell.ring(written);
    }

    /// Whether the file was closed by a writer since this was asked last.
    pub(super) fn take_written(&self) -> bool {
        self.bell.written.swap(false, Ordering::Acquire)
    }

    /// Asks anew for everything; one round at a time.
    pub(super) fn round(&self) -> Round<'_> {
        let table = self.notices.table();
        let (watches, removed) = (table.watches.clone(), table.removed);
        Round {
            interest: self,
            watches,
            removed,
            names: BTreeSet::new(),
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<(i32, OsString)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut table = self.notices.table();
        table.bells.remove(&self.id);
        for name in self.names().iter() {
            table.forget(self.id, name);
        }
    }
}

pub(super) struct Round<'a> {
    interest: &'a Interest,
    watches: Option<Watches>,
    removed: u64,
    names: BTreeSet<(i32, OsString)>,
}

impl Round<'_> {
    /// From now on whatever happens to `name` in `directory` rings. May block as long as the disk does.
    pub(super) fn watch(&mut self, directory: &Path, name: &OsStr) -> io::Result<()> {
        let watches = self
            .watches
            .as_mut()
            .ok_or_else(|| io::Error::other("no inotify"))?;
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR
            | WatchMask::DONT_FOLLOW;
        let descriptor = watches.add(directory, mask)?;
        let id = descriptor.get_watch_descriptor_id();

        let Interest {
            notices,
            id: bell_id,
            bell,
            ..
        } = self.interest;
        let mut table = notices.table();
        let directory = table.directories.entry(id).or_insert_with(|| Directory {
            descriptor,
            names: BTreeMap::new(),
        });
        let bells = directory.names.entry(name.to_owned()).or_default();
        bells.insert(*bell_id, bell.clone());
        self.names.insert((id, name.to_owned()));
        Ok(())
    }

    /// Lets go of what was asked for in the round before and not in this one.
    /// `true`: watches went while this round ran, and one of ours may have been among them.
    pub(super) fn finish(self) -> bool {
        let Interest { notices, id, .. } = self.interest;
        let mut table = notices.table();
        let doubtful = table.removed != self.removed;
        let mut names = self.interest.names();
        for old in names.difference(&self.names) {
            table.forget(*id, old);
        }
        *names = self.names;
        doubtful
    }
}
