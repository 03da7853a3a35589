//! What we must remember to be able to undo it: settings as they were, ports of ours, and how the kernel shows our
//! rules. In a directory that is gone after a reboot, as all of that is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Fault;
use crate::state;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    /// By name.
    pub(super) settings: BTreeMap<String, Setting>,
    pub(super) ports: BTreeSet<Port>,
    pub(super) clamp: Option<Clamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) before: String,
    pub(super) set: String,
}

/// A UDP port of fou's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Port {
    pub(super) ipv6: bool,
    pub(super) port: u16,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Clamp {
    /// What we gave to nft, and what it showed afterwards.
    pub(super) script: String,
    pub(super) shown: String,
}

impl Saved {
    /// What can't be read counts as nothing.
    pub(super) fn read(directory: &Path) -> Saved {
        let path = path(directory);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Saved::default(),
            Err(cause) => {
                warn!(file = %path.display(), error = %cause, "cannot be read: what was before us is not known");
                return Saved::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|cause| {
            warn!(file = %path.display(), error = %cause, "cannot be read: what was before us is not known");
            Saved::default()
        })
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), String> {
        // Cannot fail: all keys are strings, and nothing serializes by code of its own.
        let text = serde_json::to_vec_pretty(self).expect("plain data is JSON");
        let path = path(directory);
        state::write(&path, &text)
            .map_err(|cause| format!("cannot write {}: {cause}", path.display()))
    }

    pub(super) fn exists(directory: &Path) -> bool {
        path(directory).exists()
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("saved.json")
}

/// Held by whoever changes things: two would undo each other's work for ever. Gone with the process.
pub(super) fn lock(directory: &Path) -> Result<File, Fault> {
    let fault = |source| Fault::Directory {
        path: directory.to_owned(),
        source,
    };
    std::fs::create_dir_all(directory).map_err(fault)?;
    let lock = File::open(directory).map_err(fault)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Fault::Busy {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(fault(source)),
    }
}
