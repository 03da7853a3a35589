//! What a connection to etcd brings, the same for both of its APIs.

use std::collections::BTreeMap;

use crate::conftool::{BadNode, LARGEST};

/// A value as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// One that no node may have for its length is not kept.
    pub(super) value: Result<Vec<u8>, BadNode>,
    /// As of which revision (v2: index) this is the value.
    pub(super) modified: u64,
}

impl Entry {
    pub(super) fn new(value: impl AsRef<[u8]> + Into<Vec<u8>>, modified: u64) -> Entry {
        let length = value.as_ref().len();
        let value = if length > LARGEST {
            Err(BadNode::TooLong { length })
        } else {
            Ok(value.into())
        };
        Entry { value, modified }
    }
}

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tree {
    /// Below `[etcd] prefix`.
    Pools,
    /// Below [`crate::conftool::LEASES`]; v2 has none.
    Leases,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) tree: Tree,
    /// Below the tree's root: `DC/CLUSTER/SERVICE/HOST`, as a rule.
    pub(super) key: String,
    /// `None`: it is gone.
    pub(super) entry: Option<Entry>,
}

/// The most keys that a pool may have. A connection may end its reading of a pool one key later: the mirror
/// then refuses the pool.
pub(super) const MOST_KEYS: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// All there is of the wanted pools as of one revision; the first that a connection brings.
    All {
        revision: u64,
        pools: BTreeMap<String, Entry>,
        leases: BTreeMap<String, Entry>,
    },
    /// Changes since, of whole revisions: a transaction is never split.
    Changed { revision: u64, changes: Vec<Change> },
    /// Nothing has changed, and the connection lives.
    Alive,
}
