//! What etcd's v2 API answers, and what it means for the wanted pools. Pure: no socket, no clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::conftool::PoolPath;
use crate::source::etcd::news::{Change, Entry, Tree};

/// `EcodeKeyNotFound`: the directory does not exist.
pub(super) const KEY_NOT_FOUND: u64 = 100;
/// `EcodeEventIndexCleared`: etcd keeps the last 1,000 events of all keys, and ours is older.
pub(super) const EVENT_INDEX_CLEARED: u64 = 401;

/// Why an answer with a good status is of no use.
#[derive(Debug, thiserror::Error)]
pub(in crate::source::etcd) enum BadAnswer {
    #[error("it is not JSON of the v2 API")]
    Json(#[source] serde_json::Error),
    #[error("it has no node")]
    NoNode,
}

/// The wanted pools and the keys that they have, as of the last answer.
#[derive(Debug)]
pub(super) struct Pools {
    /// `[etcd] prefix` and a slash.
    root: String,
    wanted: BTreeSet<String>,
    known: BTreeSet<String>,
}

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Changes as of this index; none, if it is about what nobody wants.
    Changes { index: u64, changes: Vec<Change> },
    /// An action that this program does not know: only a fresh read tells what it did.
    Unknown(String),
}

#[derive(Deserialize)]
struct Answer {
    action: String,
    node: Option<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    /// The root of all has none.
    #[serde(default)]
    key: String,
    #[serde(default)]
    dir: bool,
    value: Option<String>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    modified_index: u64,
}

/// `errorCode` of an answer with a bad status, if it is the API's own.
pub(super) fn error_code(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fault {
        error_code: u64,
    }
    let fault: Fault = serde_json::from_slice(body).ok()?;
    Some(fault.error_code)
}

impl Pools {
    pub(super) fn new(prefix: &str, wanted: &BTreeSet<PoolPath>) -> Pools {
        Pools {
            root: format!("{prefix}/"),
            wanted: wanted.iter().map(PoolPath::to_string).collect(),
            known: BTreeSet::new(),
        }
    }

    /// The directory that has all wanted pools in it, and as little else as may be.
    pub(super) fn directory(&self) -> String {
        let mut pools = self.wanted.iter();
        let mut common: Vec<&str> = pools
            .next()
            .map(|pool| pool.split('/').collect())
            .unwrap_or_default();
        for pool in pools {
            let same = common.iter().zip(pool.split('/'));
            let length = same.take_while(|(one, other)| **one == *other).count();
            common.truncate(length);
        }
        let directory = format!("{}{}", self.root, common.join("/"));
        directory.trim_end_matches('/').to_owned()
    }

    /// The directory does not exist.
    pub(super) fn none(&mut self) -> BTreeMap<String, Entry> {
        self.known.clear();
        BTreeMap::new()
    }

    /// All that the wanted pools have, out of the answer to a recursive GET.
    pub(super) fn all(&mut self, body: &[u8]) -> Result<BTreeMap<String, Entry>, BadAnswer> {
        let mut entries = BTreeMap::new();
        let mut open = vec![parse(body)?.1];
        while let Some(node) = open.pop() {
            if let Some((key, entry)) = self.entry(&node) {
                entries.insert(key, entry);
            }
            open.extend(node.nodes);
        }
        self.known = entries.keys().cloned().collect();
        Ok(entries)
    }

    /// What the answer to a long-poll changes.
    pub(super) fn event(&mut self, body: &[u8]) -> Result<Heard, BadAnswer> {
        let (action, node) = parse(body)?;
        let changes = match &*action {
            // Of a directory etcd sends one event, whatever was in it; and it may be one above ours.
            "delete" | "expire" | "compareAndDelete" => self.gone_below(&node.key),
            "set" | "create" | "update" | "compareAndSwap" => self.written(&node),
            _ => return Ok(Heard::Unknown(action)),
        };
        let index = node.modified_index;
        Ok(Heard::Changes { index, changes })
    }

    fn written(&mut self, node: &Node) -> Vec<Change> {
        match self.entry(node) {
            Some((key, entry)) => {
                self.known.insert(key.clone());
                vec![change(key, Some(entry))]
            }
            // A directory made in the place of a value; one that was there keeps what it has.
            None if node.dir => self.gone(|known| known == node.key),
            None => Vec::new(),
        }
    }

    fn gone_below(&mut self, key: &str) -> Vec<Change> {
        let below = format!("{}/", key.trim_end_matches('/'));
        self.gone(|known| known == key || known.starts_with(&below))
    }

    /// Forgets the known keys of which this, said of the whole key, is true.
    fn gone(&mut self, is_gone: impl Fn(&str) -> bool) -> Vec<Change> {
        let root = &self.root;
        let gone = |known: &&String| is_gone(&format!("{root}{known}"));
        let gone: Vec<String> = self.known.iter().filter(gone).cloned().collect();
        self.known
            .retain(|known| !is_gone(&format!("{root}{known}")));
        gone.into_iter().map(|key| change(key, None)).collect()
    }

    /// The key below the prefix and what stands there, if it is a value in a wanted pool.
    fn entry(&self, node: &Node) -> Option<(String, Entry)> {
        let value = node.value.as_ref().filter(|_| !node.dir)?;
        let key = node.key.strip_prefix(&self.root)?;
        let (end, _) = key.match_indices('/').nth(2)?;
        self.wanted.contains(&key[..end]).then(|| {
            let entry = Entry::new(value.as_str(), node.modified_index);
            (key.to_owned(), entry)
        })
    }
}

fn change(key: String, entry: Option<Entry>) -> Change {
    Change {
        tree: Tree::Pools,
        key,
        entry,
    }
}

fn parse(body: &[u8]) -> Result<(String, Node), BadAnswer> {
    let answer: Answer = serde_json::from_slice(body).map_err(BadAnswer::Json)?;
    Ok((answer.action, answer.node.ok_or(BadAnswer::NoNode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/conftool/v1/pools";

    fn pools(wanted: &[&str]) -> Pools {
        let wanted = wanted.iter().map(|path| path.parse().unwrap()).collect();
        Pools::new(PREFIX, &wanted)
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let show = |change: &Change| match &change.entry {
            None => format!("{} gone", change.key),
            Some(entry) => {
                let value = String::from_utf8_lossy(entry.value.as_ref().unwrap());
                format!("{} {value} @{}", change.key, entry.modified)
            }
        };
        changes.iter().map(show).collect()
    }

    /// The changes of an event, a line each.
    fn hear(pools: &mut Pools, event: &str) -> (u64, Vec<String>) {
        match pools.event(event.as_bytes()).unwrap() {
            Heard::Changes { index, changes } => (index, shown(&changes)),
            Heard::Unknown(action) => panic!("{action}"),
        }
    }

    /// As etcd 3.4 answers, with another pool beside the wanted one and a key one level too deep.
    const ALL: &str = r#"{"action":"get","node":{"key":"/conftool/v1/pools/eqiad","dir":true,"nodes":[
        {"key":"/conftool/v1/pools/eqiad/a","dir":true,"nodes":[
            {"key":"/conftool/v1/pools/eqiad/a/web","dir":true,"nodes":[
                {"key":"/conftool/v1/pools/eqiad/a/web/h1","value":"{\"weight\": 1, \"pooled\": \"yes\"}","modifiedIndex":5,"createdIndex":4},
                {"key":"/conftool/v1/pools/eqiad/a/web/h2","value":"","modifiedIndex":6,"createdIndex":6},
                {"key":"/conftool/v1/pools/eqiad/a/web/h3","dir":true,"nodes":[
                    {"key":"/conftool/v1/pools/eqiad/a/web/h3/x","value":"deep","modifiedIndex":9,"createdIndex":9}
                ],"modifiedIndex":9,"createdIndex":9},
                {"key":"/conftool/v1/pools/eqiad/a/web/empty","dir":true,"modifiedIndex":7,"createdIndex":7}
            ],"modifiedIndex":4,"createdIndex":4},
            {"key":"/conftool/v1/pools/eqiad/a/web2","dir":true,"nodes":[
                {"key":"/conftool/v1/pools/eqiad/a/web2/h1","value":"other","modifiedIndex":8,"createdIndex":8}
            ],"modifiedIndex":8,"createdIndex":8}
        ],"modifiedIndex":4,"createdIndex":4}
    ],"modifiedIndex":4,"createdIndex":4}}"#;

    fn read() -> Pools {
        let mut pools = pools(&["eqiad/a/web", "eqiad/b/web"]);
        let entries = pools.all(ALL.as_bytes()).unwrap();
        let keys: Vec<&str> = entries.keys().map(String::as_str).collect();
        let web = ["eqiad/a/web/h1", "eqiad/a/web/h2", "eqiad/a/web/h3/x"];
        assert_eq!(keys, web);
        let first = &entries["eqiad/a/web/h1"];
        assert_eq!(
            first.value.as_deref().unwrap(),
            br#"{"weight": 1, "pooled": "yes"}"#
        );
        assert_eq!(first.modified, 5);
        pools
    }

    fn event(action: &str, key: &str, rest: &str) -> String {
        format!(
            r#"{{"action":"{action}","node":{{"key":"{PREFIX}/{key}",{rest}"modifiedIndex":20,"createdIndex":5}},
            "prevNode":{{"key":"{PREFIX}/{key}","value":"before","modifiedIndex":7,"createdIndex":5}}}}"#
        )
    }

    #[test]
    fn the_directory_is_the_least_that_has_all_pools() {
        let check = |wanted: &[&str], expected: &str| {
            assert_eq!(pools(wanted).directory(), format!("{PREFIX}{expected}"));
        };
        check(&["eqiad/a/web"], "/eqiad/a/web");
        check(&["eqiad/a/web", "eqiad/a/web2"], "/eqiad/a");
        check(&["eqiad/a/web", "eqiad/b/web"], "/eqiad");
        check(&["eqiad/a/web", "codfw/a/web"], "");
        check(&[], "");
    }

    #[test]
    fn a_value_written_in_any_way_is_a_change() {
        for action in ["set", "create", "update", "compareAndSwap"] {
            let event = event(action, "eqiad/a/web/h1", r#""value":"new","#);
            let (index, changes) = hear(&mut read(), &event);
            assert_eq!(
                (index, &*changes),
                (20, &["eqiad/a/web/h1 new @20".into()][..])
            );
        }
    }

    #[test]
    fn a_value_gone_in_any_way_is_a_change() {
        for action in ["delete", "expire", "compareAndDelete"] {
            let mut pools = read();
            let event = event(action, "eqiad/a/web/h1", "");
            assert_eq!(hear(&mut pools, &event).1, ["eqiad/a/web/h1 gone"]);
            // Once is enough.
            assert_eq!(hear(&mut pools, &event).1, [""; 0]);
        }
    }

    #[test]
    fn what_nobody_wants_is_no_change() {
        for (action, key, rest) in [
            ("set", "eqiad/a/web2/h1", r#""value":"x","#),
            ("set", "eqiad/a/web", r#""value":"x","#),
            ("set", "eqiad/a/web/new", r#""dir":true,"#),
            ("update", "eqiad/a/web", r#""dir":true,"#),
            ("delete", "eqiad/a/web2", r#""dir":true,"#),
            ("delete", "eqiad/a/web2/h1", ""),
        ] {
            let (index, changes) = hear(&mut read(), &event(action, key, rest));
            assert_eq!((index, changes), (20, Vec::new()), "{action} {key}");
        }
    }

    #[test]
    fn a_directory_takes_all_below_it_along() {
        let all = ["eqiad/a/web/h1", "eqiad/a/web/h2", "eqiad/a/web/h3/x"];
        let all: Vec<String> = all.iter().map(|key| format!("{key} gone")).collect();
        for action in ["delete", "expire"] {
            for key in ["eqiad/a/web", "eqiad/a", "eqiad"] {
                let event = event(action, key, r#""dir":true,"#);
                assert_eq!(hear(&mut read(), &event).1, all, "{action} {key}");
            }
        }
        // Above the prefix, as when somebody cleans up.
        for key in ["/conftool/v1/pools", "/conftool", ""] {
            let key = if key.is_empty() {
                String::new()
            } else {
                format!(r#""key":"{key}","#)
            };
            let event =
                format!(r#"{{"action":"delete","node":{{{key}"dir":true,"modifiedIndex":20}}}}"#);
            assert_eq!(hear(&mut read(), &event).1, all, "{key}");
        }
        let event = event("delete", "eqiad/a/web/h3", r#""dir":true,"#);
        assert_eq!(hear(&mut read(), &event).1, ["eqiad/a/web/h3/x gone"]);
    }

    #[test]
    fn a_directory_in_the_place_of_a_value_is_the_values_end() {
        let event = event("set", "eqiad/a/web/h1", r#""dir":true,"#);
        assert_eq!(hear(&mut read(), &event).1, ["eqiad/a/web/h1 gone"]);
    }

    #[test]
    fn an_unknown_action_is_told_by_its_name() {
        let event = event("rename", "eqiad/a/web/h1", "");
        let heard = read().event(event.as_bytes()).unwrap();
        assert_eq!(heard, Heard::Unknown("rename".into()));
    }

    #[test]
    fn no_directory_is_no_pools() {
        let mut pools = read();
        assert!(pools.none().is_empty());
        let event = event("delete", "eqiad/a/web/h1", "");
        assert_eq!(hear(&mut pools, &event).1, [""; 0]);
    }

    #[test]
    fn what_is_not_the_api_s_is_an_error() {
        let mut pools = read();
        for body in [
            "",
            "404 page not found",
            "[]",
            r#"{"action":"get"}"#,
            &"{".repeat(10_000),
        ] {
            assert!(pools.all(body.as_bytes()).is_err(), "{body:.40}");
            assert!(pools.event(body.as_bytes()).is_err(), "{body:.40}");
        }
        assert_eq!(
            error_code(br#"{"errorCode":100,"message":"Key not found","cause":"/x","index":3}"#),
            Some(KEY_NOT_FOUND)
        );
        assert_eq!(error_code(br#"{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [1500/4]","index":2499}"#), Some(EVENT_INDEX_CLEARED));
        assert_eq!(error_code(b"404 page not found\n"), None);
    }
}
