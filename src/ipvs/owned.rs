//! Which services of the kernel's table are ours: remembered in a file, so that one that leaves the configuration
//! while the daemon is down is still removed, and nobody else's ever is.
//!
//! Written ahead: a service is in the file before it is in the kernel. The disk is somebody else's: writing happens
//! on a thread for it, one write at a time, and is waited for only so long.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::service::VirtualService;
use crate::state;

const FILE: &str = "owned-services.json";
/// How long a write may hold up the programming of a new service.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Owned {
    /// `None`: nothing outlives the process (a table in memory).
    path: Option<PathBuf>,
    keys: BTreeSet<VirtualService>,
    /// What the file holds, as far as we know.
    saved: BTreeSet<VirtualService>,
    writing: Option<JoinHandle<(BTreeSet<VirtualService>, io::Result<()>)>>,
    fault: Option<String>,
}

impl Owned {
    /// Reads the file. One that makes no sense is moved aside and counts as empty.
    pub(super) async fn load(state_directory: Option<PathBuf>) -> Owned {
        let path = state_directory.map(|directory| directory.join(FILE));
        let (keys, fault) = match path.clone() {
            None => (BTreeSet::new(), None),
            Some(path) => match spawn_blocking(move || read(&path)).await {
                Ok(Ok(keys)) => (keys, None),
                Ok(Err(fault)) => (BTreeSet::new(), Some(fault)),
                Err(panic) => (BTreeSet::new(), Some(panic.to_string())),
            },
        };
        Owned {
            path,
            saved: keys.clone(),
            keys,
            writing: None,
            fault,
        }
    }

    /// What the file says, without touching it.
    pub(super) fn peek(state_directory: &Path) -> Result<BTreeSet<VirtualService>, String> {
        let path = state_directory.join(FILE);
        parsed(&path).map_err(|why| format!("{}: {why}", path.display()))
    }

    pub(super) fn keys(&self) -> &BTreeSet<VirtualService> {
        &self.keys
    }

    /// Why the file can't be relied on, in words; `None`: it can.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// These are ours from now on. Whether one of them was not.
    pub(super) fn add(&mut self, keys: BTreeSet<VirtualService>) -> bool {
        let before = self.keys.len();
        self.keys.extend(keys);
        self.keys.len() > before
    }

    /// Was ours and is gone from the table.
    pub(super) fn forget(&mut self, key: &VirtualService) {
        self.keys.remove(key);
    }

    /// Whether [`Owned::save`] has something to do.
    pub(super) fn unsaved(&self) -> bool {
        self.path.is_some() && (self.keys != self.saved || self.writing.is_some())
    }

    /// Brings the file up to date and comes back when it is, or can't be, or it takes too long. A write that already
    /// took too long is not waited for again.
    pub(super) async fn save(&mut self) {
        let Some(path) = self.path.clone() else {
            return;
        };
        let patience = if self.writing.is_some() {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let deadline = Instant::now() + patience;
        while self.unsaved() {
            let writing = self.writing.get_or_insert_with(|| {
                let (path, keys) = (path.clone(), self.keys.clone());
                spawn_blocking(move || {
                    let result = write(&path, &keys);
                    (keys, result)
                })
            });
            let Ok(done) = tokio::time::timeout_at(deadline, writing).await else {
                self.fault = Some(format!("writing {} hangs", path.display()));
                return;
            };
            self.writing = None;
            match done {
                Ok((keys, Ok(()))) => {
                    self.saved = keys;
                    self.fault = None;
                }
                Ok((_, Err(e))) => {
                    self.fault = Some(format!("cannot write {}: {e}", path.display()));
                    return;
                }
                Err(panic) => {
                    self.fault = Some(panic.to_string());
                    return;
                }
            }
        }
    }
}

/// The file's shape.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    services: BTreeSet<VirtualService>,
}

fn read(path: &Path) -> Result<BTreeSet<VirtualService>, String> {
    parsed(path).map_err(|why| aside(path, &why))
}

/// `Err`: why it makes no sense.
fn parsed(path: &Path) -> Result<BTreeSet<VirtualService>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(e) => return Err(e.to_string()),
    };
    let content: Content = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    Ok(content.services)
}

fn aside(path: &Path, why: &str) -> String {
    let told = state::set_aside(path, why);
    format!("{told}; services removed while the daemon was down stay in IPVS")
}

fn write(path: &Path, keys: &BTreeSet<VirtualService>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&Content {
        services: keys.clone(),
    })?;
    state::write(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;

    fn key(port: u16) -> VirtualService {
        VirtualService::Address {
            protocol: Protocol::Tcp,
            address: "2001:db8::1".parse().unwrap(),
            port,
        }
    }

    #[tokio::test]
    async fn outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("not/there/yet");
        let mut owned = Owned::load(Some(state.clone())).await;
        assert!(owned.add([key(80), key(443)].into()));
        assert!(!owned.add([key(80)].into()));
        assert!(owned.unsaved());
        owned.save().await;
        assert!(!owned.unsaved());
        owned.forget(&key(80));
        owned.save().await;
        assert_eq!(owned.fault(), None);

        let owned = Owned::load(Some(state)).await;
        assert_eq!(owned.keys(), &BTreeSet::from([key(443)]));
        assert_eq!(owned.fault(), None);
    }

    #[tokio::test]
    async fn garbage_is_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, "{\"services\": [{\"protocol\": \"tcp\"").unwrap();
        let mut owned = Owned::load(Some(directory.path().into())).await;
        assert!(owned.keys().is_empty());
        assert!(
            owned.fault().unwrap().contains("owned-services.json.bad"),
            "{:?}",
            owned.fault()
        );
        assert!(directory.path().join("owned-services.json.bad").exists());
        owned.add([key(80)].into());
        owned.save().await;
        assert_eq!(owned.fault(), None);
    }

    #[tokio::test]
    async fn a_bad_directory_is_a_fault_until_it_is_good() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::write(&state, "a file").unwrap();
        let mut owned = Owned::load(Some(state.clone())).await;
        owned.add([key(80)].into());
        owned.save().await;
        assert!(
            owned.fault().unwrap().contains("cannot write"),
            "{:?}",
            owned.fault()
        );
        assert!(owned.unsaved());
        std::fs::remove_file(&state).unwrap();
        owned.save().await;
        assert_eq!(owned.fault(), None);
        assert!(!owned.unsaved());
    }

    #[tokio::test]
    async fn a_hanging_disk_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        // Opening a pipe for writing waits until somebody reads it.
        let pipe = directory.path().join("owned-services.json.new");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut owned = Owned::load(Some(directory.path().into())).await;
        owned.add([key(80)].into());
        owned.save().await;
        assert!(
            owned.fault().unwrap().contains("hangs"),
            "{:?}",
            owned.fault()
        );
        owned.add([key(81)].into());
        let again = Instant::now();
        owned.save().await;
        assert!(again.elapsed() < PATIENCE / 2, "waited for it again");
        assert!(owned.unsaved());
        // A pipe can't be synced: the first write fails, the next finds a file in its place.
        drop(
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&pipe)
                .unwrap(),
        );
        std::fs::remove_file(&pipe).unwrap();
        while owned.unsaved() {
            owned.save().await;
        }
        assert_eq!(owned.fault(), None);
        assert_eq!(
            Owned::load(Some(directory.path().into())).await.keys(),
            &BTreeSet::from([key(80), key(81)])
        );
    }
}
