//! Reads the wanted pools, and nothing else, at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use etcd_client::{Client, GetOptions};

use super::super::news::{Entry, MOST_KEYS, News, Tree};
use super::Ended;
use crate::conftool::{LEASES, PoolPath};
use crate::etcd::{Reader, RequestError, after, next};

/// How often a read that was overtaken by a compaction is begun anew.
const AGAIN: usize = 5;

/// Which keys are ours.
pub(super) struct Wanted {
    /// With a slash at its end.
    prefix: String,
    /// `DC/CLUSTER/SERVICE/`, in the order of the keys.
    directories: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn new(prefix: &str, wanted: &BTreeSet<PoolPath>) -> Wanted {
        Wanted {
            prefix: format!("{prefix}/"),
            directories: wanted.iter().map(|path| format!("{path}/")).collect(),
        }
    }

    fn root(&self, tree: Tree) -> &str {
        match tree {
            Tree::Pools => &self.prefix,
            Tree::Leases => LEASES,
        }
    }

    /// From the first wanted pool's first key to what comes after the last one's.
    pub(super) fn range(&self, tree: Tree) -> (Vec<u8>, Vec<u8>) {
        let root = self.root(tree);
        let first = self.directories.first().map_or("", String::as_str);
        let past = self.directories.last().map(|last| after(last));
        let whole = |end: &str| format!("{root}{end}").into_bytes();
        (whole(first), whole(&past.unwrap_or_default()))
    }

    /// What follows the tree's root, if the key is in a wanted pool.
    pub(super) fn key(&self, tree: Tree, key: &[u8]) -> Option<String> {
        let below = key.strip_prefix(self.root(tree).as_bytes())?;
        let slashes = below.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let (end, _) = slashes.map(|(at, _)| (at + 1, ())).nth(2)?;
        let directory = std::str::from_utf8(&below[..end]).ok()?;
        let known = self.directories.contains(directory);
        known.then(|| String::from_utf8_lossy(below).into_owned())
    }

    /// All there is, and as of which revision.
    pub(super) async fn read(
        &self,
        client: &Client,
        within: Duration,
    ) -> Result<(i64, News), Ended> {
        let mut reader = Reader::new(client, within);
        for _ in 0..AGAIN {
            match self.read_once(&mut reader).await {
                Err(Ended::Read {
                    cause: RequestError::Compacted,
                    ..
                }) => reader.start_over(),
                read => return read,
            }
        }
        Err(Ended::Restless(self.prefix.clone()))
    }

    async fn read_once(&self, reader: &mut Reader) -> Result<(i64, News), Ended> {
        let pools = self.tree(Tree::Pools, reader).await?;
        let leases = self.tree(Tree::Leases, reader).await?;
        let revision = reader.revision().ok_or(Ended::Senseless("revision"))?;
        let all = News::All {
            revision: u64::try_from(revision).unwrap_or_default(),
            pools,
            leases,
        };
        Ok((revision, all))
    }

    /// Goes through the keys from one wanted directory to the next; what lies between them is skipped
    /// where it is more than a page.
    async fn tree(
        &self,
        tree: Tree,
        reader: &mut Reader,
    ) -> Result<BTreeMap<String, Entry>, Ended> {
        let root = self.root(tree).as_bytes();
        let mut found = BTreeMap::new();
        let mut directory = self.directories.first().map(String::as_str);
        let (mut from, end) = self.range(tree);
        let options = GetOptions::new().with_range(end);
        let mut in_directory = 0;
        while let Some(current) = directory {
            let start = [root, current.as_bytes()].concat();
            from = from.max(start);
            let page = reader.page(&from, &options).await;
            let page = page.map_err(|cause| Ended::Read {
                what: String::from_utf8_lossy(&from).into_owned(),
                cause,
            })?;
            for kv in page.kvs() {
                let Some(key) = self.key(tree, kv.key()) else {
                    continue;
                };
                let modified = u64::try_from(kv.mod_revision()).unwrap_or_default();
                found.insert(key, Entry::new(kv.value(), modified));
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else {
                break;
            };
            from = next(last.key());
            let below = String::from_utf8_lossy(&from[root.len()..]).into_owned();
            let next = self.directory(&below);
            in_directory = if next == directory {
                in_directory + page.kvs().len()
            } else {
                0
            };
            directory = next;
            // The mirror refuses such a pool; what more it has need not be read.
            if in_directory > MOST_KEYS
                && let Some(full) = directory
            {
                let past = after(full);
                from = [root, past.as_bytes()].concat();
                directory = self.directory(&past);
                in_directory = 0;
            }
        }
        Ok(found)
    }

    /// The first wanted directory of which some key may be at `from` or later.
    fn directory(&self, from: &str) -> Option<&str> {
        let holds = |directory: &&String| from.starts_with(directory.as_str());
        let until = (Bound::Unbounded, Bound::Included(from));
        let inside = self.directories.range::<str, _>(until).next_back();
        let directory = inside.filter(holds).or_else(|| {
            self.directories
                .range::<str, _>((Bound::Excluded(from), Bound::Unbounded))
                .next()
        });
        directory.map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pools: &[&str]) -> Wanted {
        let pools = pools.iter().map(|path| path.parse().unwrap()).collect();
        Wanted::new("/pools", &pools)
    }

    #[test]
    fn only_keys_of_wanted_pools_are_taken() {
        let wanted = wanted(&["d/c/s", "d/c/s-2"]);
        let key = |text: &str| wanted.key(Tree::Pools, text.as_bytes());
        assert_eq!(key("/pools/d/c/s/a").as_deref(), Some("d/c/s/a"));
        assert_eq!(key("/pools/d/c/s-2/a/b").as_deref(), Some("d/c/s-2/a/b"));
        assert_eq!(key("/pools/d/c/s/").as_deref(), Some("d/c/s/"));
        for other in [
            "/pools/d/c/s",
            "/pools/d/c/s2/a",
            "/poolsd/c/s/a",
            "/x/d/c/s/a",
        ] {
            assert_eq!(key(other), None, "{other}");
        }
        assert_eq!(key("/plimsoll/v1/leases/d/c/s/a"), None);
        let lease = b"/plimsoll/v1/leases/d/c/s/a\xff";
        let lease = wanted.key(Tree::Leases, lease);
        assert_eq!(lease.as_deref(), Some("d/c/s/a\u{fffd}"));
        assert_eq!(wanted.key(Tree::Pools, b"/pools/\xff/c/s/a"), None);
    }

    #[test]
    fn the_next_directory_is_that_of_the_key_or_the_one_behind_it() {
        let wanted = wanted(&["d/c/s", "d/c/s-2", "d/x/s"]);
        for (from, expected) in [
            ("", Some("d/c/s-2/")),
            ("d/c/s-2/", Some("d/c/s-2/")),
            ("d/c/s-2/a\0", Some("d/c/s-2/")),
            // '-' comes before '/', which comes before '0'.
            ("d/c/s-20", Some("d/c/s/")),
            ("d/c/s/zzz\0", Some("d/c/s/")),
            ("d/c/s0", Some("d/x/s/")),
            ("d/x/s/a", Some("d/x/s/")),
            ("d/x/s0", None),
        ] {
            assert_eq!(wanted.directory(from), expected, "{from:?}");
        }
        let whole = (b"/pools/d/c/s-2/".to_vec(), b"/pools/d/x/s0".to_vec());
        assert_eq!(wanted.range(Tree::Pools), whole);
    }
}
