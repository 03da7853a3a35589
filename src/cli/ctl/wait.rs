//! `--wait`: until every balancer that is alive and serves a changed pool has the change in its kernel.
//!
//! The balancers' own records say so (`fleet::record`); they are read, then watched from that revision on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use etcd_client::EventType;
use tokio::time::{Instant, sleep, timeout_at};

use super::guard::Records;
use super::store::Store;
use crate::backoff::Backoff;
use crate::cli::etcd::EtcdError;
use crate::conftool::PoolPath;
use crate::fleet::record::{APPLIED, BALANCERS, Pool};

/// What is waited for: of each pool the revision of its change, and whom it takes away.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaited {
    pub(super) pools: BTreeMap<PoolPath, u64>,
    pub(super) gone: BTreeSet<(PoolPath, String)>,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Who has not applied what; empty: all have.
    pub(super) late: Vec<String>,
    /// Servers that should be gone and that a balancer holds, and why.
    pub(super) held: Vec<String>,
}

/// Waits for `within` at most; `say` gets a line whenever a balancer is done or gone.
pub(super) async fn wait(
    store: &mut Store,
    awaited: &Awaited,
    within: Duration,
    mut say: impl FnMut(&str),
) -> Result<Verdict, EtcdError> {
    let end = Instant::now() + within;
    let mut fleet = Fleet::new(awaited);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut last = None;
    while Instant::now() < end {
        match timeout_at(end, follow(store, &mut fleet, &mut say)).await {
            Ok(Ok(())) => return Ok(fleet.verdict()),
            Ok(Err(error)) => {
                last = Some(error);
                store.next_endpoint();
                let _ = timeout_at(end, sleep(backoff.next())).await;
            }
            Err(_) => break,
        }
    }
    match last {
        // Nobody has told us anything at all.
        Some(error) if !fleet.seen => Err(error),
        Some(_) | None => Ok(fleet.verdict()),
    }
}

/// Reads all records, then follows them; returns when nobody is late.
async fn follow(
    store: &mut Store,
    fleet: &mut Fleet<'_>,
    say: &mut impl FnMut(&str),
) -> Result<(), EtcdError> {
    while !followed(store, fleet, say).await? {}
    fleet.idle().iter().for_each(|line| say(line));
    Ok(())
}

/// `false`: a record is gone, and all are to be read anew. When a lease ends, etcd's two watches tell of its
/// keys one after the other; only a read says whether the balancer is gone or just its pool.
async fn followed(
    store: &mut Store,
    fleet: &mut Fleet<'_>,
    say: &mut impl FnMut(&str),
) -> Result<bool, EtcdError> {
    let (records, revision) = store.below(&[BALANCERS, APPLIED]).await?;
    fleet.start_over(records);
    let mut news = store.watch([BALANCERS, APPLIED], revision + 1).await?;
    loop {
        fleet.news().iter().for_each(|line| say(line));
        if fleet.is_done() {
            return Ok(true);
        }
        let response = match news.message().await {
            Ok(Some(response)) if !response.canceled() => response,
            // Compacted, without a leader, closed: all is read anew.
            Ok(_) | Err(_) => return Err(EtcdError::Answer("more of the watch")),
        };
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let Ok(key) = std::str::from_utf8(kv.key()) else {
                continue;
            };
            match event.event_type() {
                EventType::Put => fleet.set(key, Some(kv.value())),
                EventType::Delete if fleet.knows(key) => return Ok(false),
                EventType::Delete => {}
            }
        }
    }
}

/// What is known of the balancers.
struct Fleet<'a> {
    awaited: &'a Awaited,
    seen: bool,
    alive: BTreeSet<String>,
    applied: Records,
    /// Has been told of: (balancer, pool).
    told: BTreeSet<(String, PoolPath)>,
    /// Was waited for at some time, and not done.
    late: BTreeSet<(String, PoolPath)>,
}

impl<'a> Fleet<'a> {
    fn new(awaited: &'a Awaited) -> Fleet<'a> {
        Fleet {
            awaited,
            seen: false,
            alive: BTreeSet::new(),
            applied: Records::new(),
            told: BTreeSet::new(),
            late: BTreeSet::new(),
        }
    }

    fn start_over(&mut self, records: Vec<(String, Vec<u8>)>) {
        self.seen = true;
        self.alive.clear();
        self.applied.clear();
        for (key, value) in records {
            self.set(&key, Some(&value));
        }
    }

    fn set(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(balancer) = key.strip_prefix(BALANCERS) {
            match value {
                Some(_) => self.alive.insert(balancer.to_owned()),
                None => self.alive.remove(balancer),
            };
        } else if let Some(key) = applied_key(key)
            && self.awaited.pools.contains_key(&key.1)
        {
            match value {
                Some(value) => {
                    // One that we cannot read has applied nothing that we know of.
                    let unknown = || Pool {
                        revision: 0,
                        services: BTreeMap::new(),
                    };
                    let pool = serde_json::from_slice(value).unwrap_or_else(|_| unknown());
                    self.applied.insert(key, pool);
                }
                None => {
                    self.applied.remove(&key);
                }
            }
        }
    }

    /// Whether a key is one of those that bear on anything here.
    fn knows(&self, key: &str) -> bool {
        match key.strip_prefix(BALANCERS) {
            Some(balancer) => self.alive.contains(balancer),
            None => applied_key(key).is_some_and(|key| self.applied.contains_key(&key)),
        }
    }

    /// Takes note of who is late; lines on who is done or gone since it was asked last.
    fn news(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut late = BTreeSet::new();
        for ((balancer, pool), record) in &self.applied {
            let key = (balancer.clone(), pool.clone());
            if !self.alive.contains(balancer) {
                continue;
            }
            if record.revision < self.awaited.pools[pool] {
                late.insert(key);
            } else if self.told.insert(key) {
                let Pool { revision, .. } = record;
                let held = Held(record);
                lines.push(format!(
                    "{balancer}: {pool}: applied at revision {revision}{held}"
                ));
            }
        }
        for (balancer, pool) in self.late.difference(&late) {
            if !self.alive.contains(balancer) {
                lines.push(format!("{balancer}: {pool}: gone before it had applied it"));
            } else if !self.applied.contains_key(&(balancer.clone(), pool.clone())) {
                lines.push(format!("{balancer}: {pool}: no longer serves it"));
            }
        }
        self.late = late;
        lines
    }

    fn is_done(&self) -> bool {
        self.late.is_empty()
    }

    /// Lines on balancers that are alive and have nothing to do with it.
    fn idle(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for balancer in &self.alive {
            for pool in self.awaited.pools.keys() {
                if !self.applied.contains_key(&(balancer.clone(), pool.clone())) {
                    lines.push(format!("{balancer}: {pool}: does not serve it"));
                }
            }
        }
        if self.alive.is_empty() {
            lines.push("no balancer is alive".to_owned());
        }
        lines
    }

    fn verdict(&self) -> Verdict {
        let late = |(balancer, pool): &(String, PoolPath)| {
            let at = match self.applied.get(&(balancer.clone(), pool.clone())) {
                Some(Pool { revision: 0, .. }) => "it has no list in force yet".to_owned(),
                Some(record) => format!("it is at revision {}", record.revision),
                None => "it says nothing".to_owned(),
            };
            let wanted = self.awaited.pools[pool];
            format!("{balancer} has not applied {pool} at revision {wanted}: {at}")
        };
        let mut held = Vec::new();
        for ((balancer, pool), record) in &self.applied {
            for (service, record) in &record.services {
                for (host, why) in &record.held {
                    if self.awaited.gone.contains(&(pool.clone(), host.clone())) {
                        held.push(format!(
                            "{balancer} holds {host} in service {service}: {why}"
                        ));
                    }
                }
            }
        }
        Verdict {
            late: self.late.iter().map(late).collect(),
            held,
        }
    }
}

/// The pools' records as the guard reckons by them.
pub(super) fn records(found: Vec<(String, Vec<u8>)>) -> Records {
    let record = |(key, value): (String, Vec<u8>)| {
        let record = serde_json::from_slice(&value).ok()?;
        Some((applied_key(&key)?, record))
    };
    found.into_iter().filter_map(record).collect()
}

/// The balancer and the pool of an [`APPLIED`] key.
fn applied_key(key: &str) -> Option<(String, PoolPath)> {
    let (balancer, pool) = key.strip_prefix(APPLIED)?.split_once('/')?;
    Some((balancer.to_owned(), pool.parse().ok()?))
}

/// `, held: srv1 (depool-guard)`, or nothing.
struct Held<'a>(&'a Pool);

impl fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.0.services.values();
        let held: BTreeMap<_, _> = services.flat_map(|service| &service.held).collect();
        for (index, (host, why)) in held.iter().enumerate() {
            f.write_str(if index == 0 { ", held: " } else { ", " })?;
            write!(f, "{host} ({why})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "eqiad/bar/foo";

    fn awaited() -> Awaited {
        let pool: PoolPath = POOL.parse().unwrap();
        Awaited {
            pools: [(pool.clone(), 7)].into(),
            gone: [(pool, "srv1".to_owned())].into(),
        }
    }

    fn alive(balancer: &str) -> String {
        format!("{BALANCERS}{balancer}")
    }

    fn applied(balancer: &str) -> String {
        format!("{APPLIED}{balancer}/{POOL}")
    }

    fn at(revision: u64, held: &str) -> Vec<u8> {
        let service =
            r#"{"depool-threshold": 0.5, "depool-guard": "floor", "size": 2, "pooled": [],"#;
        format!(r#"{{"revision": {revision}, "services": {{"web": {service} "held": {held}}}}}}}"#)
            .into_bytes()
    }

    #[test]
    fn whoever_serves_it_is_waited_for() {
        let awaited = awaited();
        let mut fleet = Fleet::new(&awaited);
        fleet.start_over(vec![
            (alive("lb1"), b"{}".to_vec()),
            (alive("lb2"), b"{}".to_vec()),
            (alive("lb3"), b"{}".to_vec()),
            (applied("lb1"), at(6, "{}")),
            (applied("lb2"), at(9, r#"{"srv1": "depool-guard"}"#)),
            // Its lease is over; its record will be.
            (applied("lb4"), at(1, "{}")),
            (format!("{APPLIED}lb3/other/pool/here"), at(1, "{}")),
        ]);
        let line = "lb2: eqiad/bar/foo: applied at revision 9, held: srv1 (depool-guard)";
        assert_eq!(fleet.news(), [line]);
        assert!(!fleet.is_done());
        let late = "lb1 has not applied eqiad/bar/foo at revision 7: it is at revision 6";
        assert_eq!(fleet.verdict().late, [late]);
        assert_eq!(
            fleet.verdict().held,
            ["lb2 holds srv1 in service web: depool-guard"]
        );
        fleet.set(&applied("lb1"), Some(&at(7, "{}")));
        assert_eq!(fleet.news(), ["lb1: eqiad/bar/foo: applied at revision 7"]);
        assert!(fleet.is_done());
        assert_eq!(fleet.idle(), ["lb3: eqiad/bar/foo: does not serve it"]);
        assert_eq!(fleet.news(), [""; 0], "once is enough");
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let awaited = awaited();
        let mut fleet = Fleet::new(&awaited);
        fleet.start_over(vec![
            (alive("lb1"), b"{}".to_vec()),
            (alive("lb2"), b"{}".to_vec()),
            (applied("lb1"), at(6, "{}")),
            (applied("lb2"), b"written by a later version".to_vec()),
        ]);
        assert_eq!(fleet.news(), [""; 0]);
        assert_eq!(fleet.verdict().late.len(), 2);
        fleet.set(&alive("lb1"), None);
        let gone = "lb1: eqiad/bar/foo: gone before it had applied it";
        assert_eq!(fleet.news(), [gone]);
        fleet.set(&applied("lb2"), None);
        assert_eq!(fleet.news(), ["lb2: eqiad/bar/foo: no longer serves it"]);
        assert!(fleet.is_done());
    }

    #[test]
    fn one_that_starts_meanwhile_is_waited_for() {
        let awaited = awaited();
        let mut fleet = Fleet::new(&awaited);
        fleet.start_over(vec![]);
        assert!(fleet.news().is_empty() && fleet.is_done());
        assert_eq!(fleet.idle(), ["no balancer is alive"]);
        fleet.set(&alive("lb1"), Some(b"{}"));
        fleet.set(&applied("lb1"), Some(&at(3, "{}")));
        assert!(fleet.news().is_empty() && !fleet.is_done());
    }
}
