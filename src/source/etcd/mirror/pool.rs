//! One pool of the mirror: what each of its keys says, and the list that follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::news::{Entry, MOST_KEYS, Tree};
use super::{Away, Place, Told};
use crate::conftool::{BadNode, Lease, Node, Pooled};
use crate::service::{BadName, Freshness, Host, Listed, Listing, Note, ServerList};

/// The most faults of a pool that are told one by one.
const MOST_FAULTS: usize = 100;
/// The most bytes of a key that are told.
const LONGEST_KEY: usize = 512;

/// A pool's last good state: that from which its list was made, and can be made again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Good {
    pub(in super::super) revision: Option<u64>,
    pub(in super::super) nodes: BTreeMap<Host, Node>,
    /// Those that count.
    pub(in super::super) leases: BTreeMap<Host, Lease>,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Whether the values below are etcd's, all of them.
    known: bool,
    /// It has, or had, more keys than we keep.
    overfull: bool,
    nodes: BTreeMap<String, Value<Node>>,
    leases: BTreeMap<String, Value<Lease>>,
    good: Option<Arc<Good>>,
    told: Option<Told>,
}

/// What a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value<T> {
    /// As of which revision it says so, good or not.
    modified: u64,
    /// The last good value, and as of which revision.
    good: Option<(T, u64)>,
    fault: Option<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Value(#[from] BadNode),
    #[error("the key is one level too deep; a node's ends with its host")]
    TooDeep,
    #[error(transparent)]
    Host(#[from] BadName),
}

impl Pool {
    pub(super) fn remember(&mut self, good: Arc<Good>) {
        if self.good.is_none() {
            self.good = Some(good);
        }
    }

    pub(super) fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    pub(super) fn good(&self) -> Option<&Arc<Good>> {
        self.good.as_ref()
    }

    pub(super) fn lost_track(&self) -> bool {
        self.overfull
    }

    /// The remembered list, if nothing was told yet.
    pub(super) fn recall(&mut self, age: Duration) -> Option<Told> {
        if self.told.is_some() {
            return None;
        }
        // By a clock that ran backwards nobody knows how old it is.
        let age = if age == Duration::MAX {
            Duration::ZERO
        } else {
            age
        };
        let listing = self.good.as_ref()?.listing(Freshness::Saved { age });
        self.told = Some(Told::List(Arc::new(listing)));
        self.told.clone()
    }

    /// This is all there is. What must be told, in order.
    pub(super) fn replace(
        &mut self,
        place: Place<'_>,
        revision: u64,
        nodes: BTreeMap<String, Entry>,
        leases: BTreeMap<String, Entry>,
        away: Away,
    ) -> Vec<Told> {
        let before = self.good.clone();
        let remembered = before.as_deref().filter(|_| !self.known);
        self.overfull = nodes.len().max(leases.len()) > MOST_KEYS;
        self.known = !self.overfull;
        let touched = if self.overfull {
            self.forget();
            true
        } else {
            let node = |host: &Host| {
                let known = remembered?;
                // A lease that did not count then is not to count now; of an older backup nobody knows.
                let void = known.revision.filter(|known| *known <= revision);
                let leased = known.leases.contains_key(host);
                let written = if leased { 0 } else { void.unwrap_or(0) };
                Some((known.nodes.get(host)?.clone(), written))
            };
            // Later than the node it overlays.
            let lease = |host: &Host| Some((remembered?.leases.get(host)?.clone(), 1));
            let nodes = replace(&mut self.nodes, nodes, Node::parse, node);
            replace(&mut self.leases, leases, Lease::parse, lease) || nodes
        };
        let heard_of = match &self.told {
            // What came from our own disk is confirmed even if it is still so.
            Some(Told::List(list)) => !matches!(list.freshness, Freshness::Saved { .. }),
            Some(Told::Failed(_)) => true,
            None => false,
        };
        // An older backup counts again from there: by the revision that was told before, a write to come would
        // be taken for applied.
        let went_back = before
            .as_ref()
            .is_some_and(|before| before.revision > Some(revision));
        if heard_of && !touched && !went_back {
            return Vec::new();
        }
        let servers = |good: &Good| good.listing(Freshness::Current).servers;
        let now = servers(&self.count(revision));
        let differs = before.is_some_and(|before| servers(&before) != now);
        let freshness = if away.stale && differs {
            Freshness::CatchUp
        } else {
            Freshness::Current
        };
        // What stays for want of a list, and what a catch-up is measured by: the core must know that too.
        let first = (now.is_empty() || freshness == Freshness::CatchUp)
            .then(|| self.recall(away.age))
            .flatten();
        let now = self.renew(place, revision, freshness);
        first.into_iter().chain(now).collect()
    }

    /// One key of it. Whether that matters.
    pub(super) fn change(&mut self, tree: Tree, rest: &str, entry: Option<Entry>) -> bool {
        if !self.known {
            return self.overfull;
        }
        match tree {
            Tree::Pools => change(&mut self.nodes, rest, entry, Node::parse),
            Tree::Leases => change(&mut self.leases, rest, entry, Lease::parse),
        }
        if self.nodes.len().max(self.leases.len()) > MOST_KEYS {
            (self.known, self.overfull) = (false, true);
            self.forget();
        }
        true
    }

    /// Makes the list anew. What must be told, if anything: a list with its new revision always, a fault once.
    pub(super) fn renew(
        &mut self,
        place: Place<'_>,
        revision: u64,
        freshness: Freshness,
    ) -> Option<Told> {
        let good = self.count(revision);
        let mut listing = good.listing(freshness);
        let told = if self.overfull || listing.servers.is_empty() {
            Told::Failed(self.why_not(place))
        } else {
            listing.faults = self.faults(place);
            self.good = Some(Arc::new(good));
            Told::List(Arc::new(listing))
        };
        let again = matches!(told, Told::Failed(_)) && self.told.as_ref() == Some(&told);
        self.told = Some(told);
        if again { None } else { self.told.clone() }
    }

    fn forget(&mut self) {
        self.nodes.clear();
        self.leases.clear();
    }

    /// The values that count.
    fn count(&self, revision: u64) -> Good {
        let mut counted = Good {
            revision: Some(revision),
            ..Good::default()
        };
        for (rest, value) in &self.nodes {
            let (Some((node, written)), Ok(host)) = (&value.good, rest.parse::<Host>()) else {
                continue;
            };
            let lease = self
                .leases
                .get(rest)
                .and_then(|lease| lease.good.as_ref())
                // A later write of the node itself voids the lease.
                .filter(|(_, leased)| leased > written);
            if let Some((lease, _)) = lease {
                counted.leases.insert(host.clone(), lease.clone());
            }
            counted.nodes.insert(host, node.clone());
        }
        counted
    }

    fn faults(&self, place: Place<'_>) -> BTreeMap<String, String> {
        let nodes = self.nodes.iter().filter_map(|(rest, value)| {
            let fault = value.fault.as_ref()?;
            Some((place.key(Tree::Pools, &shortened(rest)), fault.to_string()))
        });
        let leases = self.leases.iter().filter_map(|(rest, value)| {
            let fault = value.fault.as_ref()?;
            Some((place.key(Tree::Leases, &shortened(rest)), fault.to_string()))
        });
        let number = nodes.clone().count() + leases.clone().count();
        let mut faults: BTreeMap<_, _> = nodes.chain(leases).take(MOST_FAULTS).collect();
        if number > MOST_FAULTS {
            let more = format!("and {} more", number - MOST_FAULTS);
            faults.insert(place.key(Tree::Pools, ""), more);
        }
        faults
    }

    /// Why there is no list.
    fn why_not(&self, place: Place<'_>) -> String {
        let directory = place.key(Tree::Pools, "");
        if self.overfull {
            return format!("{directory} has more than {MOST_KEYS} keys");
        }
        if self.nodes.is_empty() {
            return format!("{directory} is empty or missing");
        }
        let faults = self.faults(place);
        let inactive = self.nodes.values().filter(|node| node.good.is_some());
        let inactive = inactive.count();
        match faults.iter().next() {
            None => format!("{directory}: all servers are inactive ({inactive})"),
            Some((key, fault)) => format!(
                "{directory} has no usable server: {inactive} inactive, {} at fault; {key}: {fault}",
                self.nodes.len() - inactive
            ),
        }
    }
}

impl Good {
    /// The list that follows from the values; empty if no server is to be listed.
    fn listing(&self, freshness: Freshness) -> Listing {
        let mut servers = ServerList::new();
        let mut notes = BTreeMap::new();
        for (host, node) in &self.nodes {
            let lease = self.leases.get(host);
            let node = lease.map_or(node, |lease| &lease.node);
            let note = Note {
                reason: node.reason.as_deref().map(Into::into),
                until: lease.map(|lease| lease.until.as_str().into()),
                confirmed: node.confirmed,
            };
            if note != Note::default() {
                notes.insert(host.clone(), note);
            }
            let enabled = match node.pooled {
                Pooled::Yes => true,
                Pooled::No => false,
                Pooled::Inactive => continue,
            };
            let weight = node.weight;
            servers.insert(host.clone(), Listed { enabled, weight });
        }
        Listing {
            servers,
            notes,
            faults: BTreeMap::new(),
            revision: self.revision,
            freshness,
        }
    }
}

/// Makes `known` what `entries` say. Whether a key came, went or was written. The revision of its last write
/// does not say that alone: another cluster, or one restored from a backup, may have come to the same number.
fn replace<T: Clone + PartialEq>(
    known: &mut BTreeMap<String, Value<T>>,
    entries: BTreeMap<String, Entry>,
    parse: impl Fn(&[u8]) -> Result<T, BadNode>,
    remembered: impl Fn(&Host) -> Option<(T, u64)>,
) -> bool {
    let mut before = std::mem::take(known);
    let mut touched = false;
    for (rest, entry) in entries {
        let was = before.remove(&rest);
        let good = match &was {
            Some(was) => was.good.clone(),
            None => rest.parse().ok().and_then(|host| remembered(&host)),
        };
        let value = value(&rest, entry, good, &parse);
        touched |= was.as_ref() != Some(&value);
        known.insert(rest, value);
    }
    touched || !before.is_empty()
}

fn change<T>(
    known: &mut BTreeMap<String, Value<T>>,
    rest: &str,
    entry: Option<Entry>,
    parse: impl Fn(&[u8]) -> Result<T, BadNode>,
) {
    let was = known.remove(rest).and_then(|was| was.good);
    if let Some(entry) = entry {
        known.insert(rest.to_owned(), value(rest, entry, was, &parse));
    }
}

fn value<T>(
    rest: &str,
    entry: Entry,
    was: Option<(T, u64)>,
    parse: &impl Fn(&[u8]) -> Result<T, BadNode>,
) -> Value<T> {
    let modified = entry.modified;
    let (good, fault) = match read(rest, entry, parse) {
        Ok(good) => (Some((good, modified)), None),
        Err(fault) => (was, Some(fault)),
    };
    Value {
        modified,
        good,
        fault,
    }
}

fn read<T>(
    rest: &str,
    entry: Entry,
    parse: &impl Fn(&[u8]) -> Result<T, BadNode>,
) -> Result<T, Fault> {
    if rest.contains('/') {
        return Err(Fault::TooDeep);
    }
    rest.parse::<Host>()?;
    Ok(parse(&entry.value?)?)
}

fn shortened(rest: &str) -> String {
    match rest.char_indices().nth(LONGEST_KEY) {
        None => rest.to_owned(),
        Some((end, _)) => format!("{}…", &rest[..end]),
    }
}
