//! The wanted pools as etcd has them, and what the core was told of each: news in, lists out.
//!
//! Pure: it waits for nothing and reads no clock. It keeps what the values say, not the values.

mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::conftool::PoolPath;
use crate::service::{Freshness, Listing};

use super::news::{Change, Entry, News, Tree};
pub(super) use pool::Good;
use pool::Pool;

/// What the core shall know of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    List(Arc<Listing>),
    /// There is no list; the last good one stays.
    Failed(String),
}

/// How long nothing had been heard of etcd before a connection's first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) age: Duration,
    /// Longer than `[etcd] stale-after`.
    pub(super) stale: bool,
}

#[derive(Debug, Default)]
pub(super) struct Mirror {
    prefix: String,
    pools: BTreeMap<PoolPath, Pool>,
    /// Those that have too many keys to be followed.
    overfull: BTreeSet<PoolPath>,
}

impl Mirror {
    /// From now on these pools, below this prefix. What is known of them stays.
    pub(super) fn want(&mut self, prefix: &str, wanted: &BTreeSet<PoolPath>) {
        prefix.clone_into(&mut self.prefix);
        self.pools.retain(|path, _| wanted.contains(path));
        self.overfull.retain(|path| wanted.contains(path));
        for path in wanted {
            self.pools.entry(path.clone()).or_default();
        }
    }

    /// What was known of a pool before this process began, or before it was wanted.
    pub(super) fn remember(&mut self, path: &PoolPath, good: Arc<Good>) {
        if let Some(pool) = self.pools.get_mut(path) {
            pool.remember(good);
        }
    }

    /// Takes what a connection brought and gives what the core must be told of it, all at once.
    pub(super) fn take(&mut self, news: News, away: Away) -> Vec<(PoolPath, Told)> {
        match news {
            News::All {
                revision,
                pools,
                leases,
            } => self.all(revision, pools, leases, away),
            News::Changed { revision, changes } => self.changed(revision, changes),
            News::Alive => Vec::new(),
        }
    }

    /// The remembered lists, for pools of which the core knows nothing.
    pub(super) fn remembered(&mut self, age: Duration) -> Vec<(PoolPath, Told)> {
        let told = |(path, pool): (&PoolPath, &mut Pool)| {
            let told = pool.recall(age)?;
            Some((path.clone(), told))
        };
        self.pools.iter_mut().filter_map(told).collect()
    }

    /// What the core was told of a pool last.
    pub(super) fn told(&self, path: &PoolPath) -> Option<&Told> {
        self.pools.get(path)?.told()
    }

    /// The pools of which the core was told nothing.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &PoolPath> {
        let untold = self.pools.iter().filter(|(_, pool)| pool.told().is_none());
        untold.map(|(path, _)| path)
    }

    /// The last good state of each pool, to be remembered.
    pub(super) fn good(&self) -> BTreeMap<PoolPath, Arc<Good>> {
        let good = |(path, pool): (&PoolPath, &Pool)| Some((path.clone(), pool.good()?.clone()));
        self.pools.iter().filter_map(good).collect()
    }

    /// Whether a pool had too many keys to be followed: only a fresh read can tell how it is now.
    pub(super) fn lost_track(&self) -> bool {
        !self.overfull.is_empty()
    }

    fn all(
        &mut self,
        revision: u64,
        nodes: BTreeMap<String, Entry>,
        leases: BTreeMap<String, Entry>,
        away: Away,
    ) -> Vec<(PoolPath, Told)> {
        let (mut nodes, mut leases) = (by_pool(nodes), by_pool(leases));
        let mut told = Vec::new();
        for (path, pool) in &mut self.pools {
            let nodes = nodes.remove(path).unwrap_or_default();
            let leases = leases.remove(path).unwrap_or_default();
            let place = Place {
                prefix: &self.prefix,
                path,
            };
            for news in pool.replace(place, revision, nodes, leases, away) {
                told.push((path.clone(), news));
            }
            note(&mut self.overfull, path, pool);
        }
        told
    }

    fn changed(&mut self, revision: u64, changes: Vec<Change>) -> Vec<(PoolPath, Told)> {
        let mut touched = BTreeSet::new();
        for Change { tree, key, entry } in changes {
            let Some((path, rest)) = split(&key) else {
                continue;
            };
            if let Some(pool) = self.pools.get_mut(&path)
                && pool.change(tree, rest, entry)
            {
                touched.insert(path);
            }
        }
        let mut told = Vec::new();
        for path in touched {
            // It was there a moment ago.
            let Some(pool) = self.pools.get_mut(&path) else {
                continue;
            };
            note(&mut self.overfull, &path, pool);
            let place = Place {
                prefix: &self.prefix,
                path: &path,
            };
            if let Some(news) = pool.renew(place, revision, Freshness::Current) {
                told.push((path, news));
            }
        }
        told
    }
}

fn note(overfull: &mut BTreeSet<PoolPath>, path: &PoolPath, pool: &Pool) {
    if pool.lost_track() {
        overfull.insert(path.clone());
    } else {
        overfull.remove(path);
    }
}

/// Where a pool's keys stand.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    prefix: &'a str,
    path: &'a PoolPath,
}

impl Place<'_> {
    /// The whole key of what stands below the pool.
    fn key(self, tree: Tree, rest: &str) -> String {
        let path = self.path;
        match tree {
            Tree::Pools => format!("{}/{path}/{rest}", self.prefix),
            Tree::Leases => format!("{}{path}/{rest}", crate::conftool::LEASES),
        }
    }
}

/// `DC/CLUSTER/SERVICE` and what follows; `None` if nothing can be meant by the key.
fn split(key: &str) -> Option<(PoolPath, &str)> {
    let (end, _) = key.match_indices('/').nth(2)?;
    Some((key[..end].parse().ok()?, &key[end + 1..]))
}

fn by_pool(entries: BTreeMap<String, Entry>) -> BTreeMap<PoolPath, BTreeMap<String, Entry>> {
    let mut pools: BTreeMap<PoolPath, BTreeMap<String, Entry>> = BTreeMap::new();
    for (key, entry) in entries {
        if let Some((path, rest)) = split(&key) {
            let rest = rest.to_owned();
            pools.entry(path).or_default().insert(rest, entry);
        }
    }
    pools
}

#[cfg(test)]
mod tests;
