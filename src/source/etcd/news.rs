//! What a connection to etcd brings, the same for both of its APIs.

#![expect(dead_code, reason = "its users come next")]

use std::collections::BTreeMap;

/// A value as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    /// As of which revision (v2: index) this is the value.
    pub(super) modified: u64,
}

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
