//! Snapshots → the records that are to be written. It remembers what has been said, so that only what differs
//! is said again; it talks to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;

use super::Me;
use super::record::{self, Balancer, Pool};
use crate::config::Servers;
use crate::conftool::PoolPath;
use crate::service::ServiceName;
use crate::snapshot::{Service, Snapshot};

mod balancer;
mod pool;

/// etcd takes 128 operations in a transaction unless it is told otherwise (`--max-txn-ops`).
const MOST_WRITES: usize = 100;

/// etcd takes 1.5 MiB in a request unless it is told otherwise (`--max-request-bytes`).
const MOST_BYTES: usize = 512 * 1024;

/// Between two writes of the balancer's own record.
const BALANCER_PAUSE: Duration = Duration::from_secs(1);

/// What this balancer has to say, and what of it has been said.
pub(super) struct Statement {
    me: Arc<Me>,
    newest: Option<Arc<Snapshot>>,
    /// The hash of the newest snapshot's configuration.
    config: String,
    /// Whether the balancer's record may have changed.
    balancer_touched: bool,
    balancer_said: Option<(Balancer, Instant)>,
    services_of: BTreeMap<PoolPath, BTreeSet<ServiceName>>,
    /// Pools whose record may have changed.
    touched: BTreeSet<PoolPath>,
    /// The pool that was said last: others are due before it, so that none waits for ever.
    last: Option<PoolPath>,
    pools_said: BTreeMap<PoolPath, Pool>,
}

/// What is to be written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    balancer: Option<Balancer>,
    /// `None`: this balancer has no such pool any more.
    pools: Vec<(PoolPath, Option<Pool>)>,
    /// Keys, and their values; `None`: to be deleted.
    pub(super) writes: Vec<(String, Option<String>)>,
}

impl Statement {
    pub(super) fn new(me: Arc<Me>) -> Statement {
        Statement {
            me,
            newest: None,
            config: String::new(),
            balancer_touched: true,
            balancer_said: None,
            services_of: BTreeMap::new(),
            touched: BTreeSet::new(),
            last: None,
            pools_said: BTreeMap::new(),
        }
    }

    /// Takes the newest snapshot. What it shares with the one before costs nothing.
    pub(super) fn follow(&mut self, snapshot: Arc<Snapshot>) {
        let before = self.newest.replace(snapshot.clone());
        let before = before.as_deref();
        if before.is_none_or(|before| !Arc::ptr_eq(&before.config, &snapshot.config)) {
            self.config = snapshot.config.hash();
        }
        self.balancer_touched |= before.is_none_or(|before| balancer::differs(before, &snapshot));
        let none = OrdMap::new();
        let services = before.map_or(&none, |before| &before.services);
        for change in services.diff(&snapshot.services) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => (Some(old), Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            self.touch(old.map(|old| &**old), new.map(|new| &**new));
        }
    }

    fn touch(&mut self, old: Option<&Service>, new: Option<&Service>) {
        if let Some((path, name)) = old.and_then(place) {
            if let Some(services) = self.services_of.get_mut(path) {
                services.remove(name);
                if services.is_empty() {
                    self.services_of.remove(path);
                }
            }
            self.touched.insert(path.clone());
        }
        if let Some((path, name)) = new.and_then(place) {
            let services = self.services_of.entry(path.clone()).or_default();
            services.insert(name.clone());
            self.touched.insert(path.clone());
        }
    }

    /// What is to be written now, as much as one transaction takes. Nothing: all has been said, or its time
    /// has not come. It is not taken for said before [`Statement::said`].
    pub(super) fn batch(&mut self, now: Instant) -> Batch {
        let mut batch = Batch::default();
        let Some(newest) = self.newest.clone() else {
            return batch;
        };
        if self.balancer_due(now).is_some_and(|due| due <= now) {
            let balancer = balancer::record(&self.me, &self.config, &newest);
            if self.balancer_said.as_ref().map(|(said, _)| said) == Some(&balancer) {
                self.balancer_touched = false;
            } else {
                let key = record::balancer_key(&self.me.hostname);
                batch.writes.push((key, Some(json(&balancer))));
                batch.balancer = Some(balancer);
            }
        }
        let mut bytes = 0;
        for path in self.in_turn() {
            let Some(wanted) = self.wanted(&newest, &path) else {
                self.touched.remove(&path);
                continue;
            };
            let value = wanted.as_ref().map(json);
            bytes += value.as_ref().map_or(0, String::len);
            let full = batch.writes.len() >= MOST_WRITES || bytes > MOST_BYTES;
            if full && !batch.writes.is_empty() {
                break;
            }
            let key = record::applied_key(&self.me.hostname, &path);
            batch.writes.push((key, value));
            batch.pools.push((path, wanted));
        }
        batch
    }

    /// The touched pools, those after the one that was said last before those up to it.
    fn in_turn(&self) -> Vec<PoolPath> {
        let Some(last) = &self.last else {
            return self.touched.iter().cloned().collect();
        };
        let after = (Bound::Excluded(last), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(last));
        let touched = self.touched.range::<PoolPath, _>(after);
        let touched = touched.chain(self.touched.range::<PoolPath, _>(up_to));
        touched.cloned().collect()
    }

    /// A pool's record if it is to be written, `Some(None)` if it is to be deleted.
    fn wanted(&self, newest: &Snapshot, path: &PoolPath) -> Option<Option<Pool>> {
        let said = self.pools_said.get(path);
        let Some(names) = self.services_of.get(path) else {
            return said.map(|_| None);
        };
        let services = names
            .iter()
            .filter_map(|name| Some(&**newest.services.get(name)?));
        // What is on its way to the kernel is told once it is there; until then what was told is true.
        if said.is_some() && services.clone().any(pool::on_its_way) {
            return None;
        }
        let pool = pool::record(services);
        (said != Some(&pool)).then_some(Some(pool))
    }

    /// The batch stands in etcd.
    pub(super) fn said(&mut self, batch: Batch, now: Instant) {
        if let Some(balancer) = batch.balancer {
            self.balancer_said = Some((balancer, now));
            self.balancer_touched = false;
        }
        for (path, pool) in batch.pools {
            self.touched.remove(&path);
            self.last = Some(path.clone());
            match pool {
                Some(pool) => self.pools_said.insert(path, pool),
                None => self.pools_said.remove(&path),
            };
        }
    }

    /// When the balancer's record is to be looked at again; `None`: not before something changes.
    pub(super) fn balancer_due(&self, now: Instant) -> Option<Instant> {
        let stopping = self.newest.as_ref().is_some_and(|newest| newest.stopping);
        let due = match &self.balancer_said {
            Some((said, at)) if said.stopping == stopping => *at + BALANCER_PAUSE,
            Some(_) | None => now,
        };
        self.balancer_touched.then_some(due)
    }

    /// So many pools' records should stand in etcd.
    pub(super) fn pools_said(&self) -> usize {
        self.pools_said.len()
    }

    /// What was said is not there any more.
    pub(super) fn forget(&mut self) {
        self.balancer_touched = true;
        self.balancer_said = None;
        self.pools_said.clear();
        self.touched = self.services_of.keys().cloned().collect();
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

fn place(service: &Service) -> Option<(&PoolPath, &ServiceName)> {
    match &service.config.servers {
        Servers::Etcd(path) => Some((path, &service.config.name)),
        Servers::Inline(_) | Servers::File(_) => None,
    }
}

fn json(record: &impl serde::Serialize) -> String {
    // Cannot fail: all keys are strings or addresses, and nothing serializes by code of its own.
    serde_json::to_string(record).expect("plain data is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Policy;
    use crate::snapshot::sample::{self, edit, ip};
    use crate::snapshot::{Applied, Source};

    fn statement() -> Statement {
        Statement::new(Arc::new(Me {
            hostname: "lvs1".to_owned(),
            started: "2026-01-01T00:00:00.000Z".to_owned(),
        }))
    }

    type Named = (ServiceName, Arc<Service>);

    /// A service of the pool dc/web/POOL.
    fn of_pool(pool: &str, name: &str, revision: u64, applied: Option<u64>) -> Named {
        let service = sample::service(name, 0.5, &["a up pooled", "b guarded", "c"]);
        edit(service, |service| {
            let path = format!("dc/web/{pool}").parse().unwrap();
            Arc::make_mut(&mut service.config).servers = Servers::Etcd(path);
            service.revision = Some(revision);
            service.applied_revision = applied;
        })
    }

    /// The keys that are to be written, with the revisions of pools; they are said with that.
    fn said(statement: &mut Statement, snapshot: &Snapshot) -> Vec<String> {
        let now = Instant::now();
        statement.follow(Arc::new(snapshot.clone()));
        let batch = statement.batch(now);
        let written = |(key, value): &(String, Option<String>)| {
            let key = key.strip_prefix("/plimsoll/v1/").unwrap();
            let Some(value) = value else {
                return format!("{key} deleted");
            };
            let value: serde_json::Value = serde_json::from_str(value).unwrap();
            match value.get("revision") {
                Some(revision) => format!("{key} {revision}"),
                None => key.to_owned(),
            }
        };
        let written = batch.writes.iter().map(written).collect();
        statement.said(batch, now);
        written
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_differs_is_said() {
        let mut statement = statement();
        let (text, upload) = ("applied/lvs1/dc/web/text", "applied/lvs1/dc/web/upload");
        let mut snapshot = sample::snapshot([
            of_pool("text", "text", 5, Some(5)),
            of_pool("upload", "upload", 6, Some(6)),
            sample::service("inline", 0.5, &["a up pooled"]),
        ]);
        let all = [
            "balancers/lvs1",
            &format!("{text} 5"),
            &format!("{upload} 6"),
        ];
        assert_eq!(said(&mut statement, &snapshot), all);
        assert!(said(&mut statement, &snapshot).is_empty());
        let set = |snapshot: &mut Snapshot, (name, service): Named| {
            snapshot.services.insert(name, service);
        };
        // Another service in memory, but nothing of it is told.
        set(&mut snapshot, of_pool("text", "text", 5, Some(5)));
        assert!(said(&mut statement, &snapshot).is_empty());
        // On its way, then there.
        set(&mut snapshot, of_pool("text", "text", 7, Some(5)));
        assert!(said(&mut statement, &snapshot).is_empty());
        set(&mut snapshot, of_pool("text", "text", 7, Some(7)));
        assert_eq!(said(&mut statement, &snapshot), [format!("{text} 7")]);
        snapshot.services.remove("upload");
        assert_eq!(
            said(&mut statement, &snapshot),
            [format!("{upload} deleted")]
        );
        statement.forget();
        let all = ["balancers/lvs1", &format!("{text} 7")];
        assert_eq!(said(&mut statement, &snapshot), all);
    }

    /// What is not said stays to be said.
    #[tokio::test(start_paused = true)]
    async fn a_batch_that_failed_comes_again() {
        let mut statement = statement();
        let snapshot = sample::snapshot([of_pool("text", "text", 5, Some(5))]);
        statement.follow(Arc::new(snapshot));
        let first = statement.batch(Instant::now());
        assert_eq!(first.writes.len(), 2);
        assert_eq!(statement.batch(Instant::now()).writes, first.writes);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_service_counts() {
        let check = |services: &[Named], expected: &[&str]| {
            let mut snapshot = sample::snapshot([]);
            snapshot.services = services.iter().cloned().collect();
            let said = said(&mut statement(), &snapshot);
            assert_eq!(said[0], "balancers/lvs1");
            assert_eq!(said[1..], *expected);
        };
        let one = of_pool("text", "one", 5, Some(5));
        let two = |revision, applied| of_pool("text", "two", revision, applied);
        check(
            &[one.clone(), two(5, Some(5))],
            &["applied/lvs1/dc/web/text 5"],
        );
        check(
            &[one.clone(), two(5, Some(4))],
            &["applied/lvs1/dc/web/text 4"],
        );
        check(
            &[one.clone(), two(5, None)],
            &["applied/lvs1/dc/web/text 0"],
        );
        check(&[two(5, None)], &["applied/lvs1/dc/web/text 0"]);
        // Refused by the kernel: it has the list, and will not serve by it.
        let failed = edit(two(5, None), |service| {
            let fault = "no memory".into();
            service.applied = Applied::Failed {
                fault,
                holds: false,
            };
        });
        check(&[failed], &["applied/lvs1/dc/web/text 0"]);
        // What was applied of another list says nothing.
        let waiting = edit(two(5, Some(5)), |service| service.source = Source::Waiting);
        check(&[waiting], &["applied/lvs1/dc/web/text 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_is_told_with_what_a_depool_is_reckoned_by() {
        let mut statement = statement();
        statement.follow(Arc::new(sample::snapshot([of_pool(
            "p",
            "text",
            5,
            Some(5),
        )])));
        let batch = statement.batch(Instant::now());
        let expected = r#"{"revision":5,"services":{"text":{"depool-threshold":0.5,"depool-guard":"floor","size":3,"pooled":["a","b"],"held":{"b":"depool-guard"}}}}"#;
        assert_eq!(batch.writes[1].1.as_deref(), Some(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_what_etcd_takes_and_nobody_waits_for_ever() {
        let mut statement = statement();
        let mut snapshot = sample::snapshot([]);
        let name = |n: u64| format!("s{n:03}");
        let set = |snapshot: &mut Snapshot, n, revision| {
            let (name, service) = of_pool(&name(n), &name(n), revision, Some(revision));
            snapshot.services.insert(name, service);
        };
        (0..250).for_each(|n| set(&mut snapshot, n, 1));
        let mut batches = Vec::new();
        // The first hundred change again with each batch.
        for revision in 2..5 {
            batches.push(said(&mut statement, &snapshot));
            (0..100).for_each(|n| set(&mut snapshot, n, revision));
        }
        assert!(batches.iter().all(|batch| batch.len() <= MOST_WRITES));
        let all: BTreeSet<_> = batches.iter().flatten().collect();
        assert!(all.contains(&"applied/lvs1/dc/web/s249 1".to_owned()));

        // One that is alone as large as a transaction may be.
        let (_, server) = sample::server("a up pooled");
        let host = |n: u32| format!("{}{n}", "x".repeat(90)).parse().unwrap();
        let servers = Arc::new((0..5000).map(|n| (host(n), server.clone())).collect());
        let mut large = sample::snapshot([]);
        for n in 0..3 {
            let (name, service) = of_pool(&name(n), &name(n), 1, Some(1));
            let service = edit((name, service), |service| {
                service.servers = Arc::clone(&servers);
            });
            large.services.insert(service.0, service.1);
        }
        let mut statement = self::statement();
        statement.follow(Arc::new(large));
        for expected in [2, 1, 1] {
            let batch = statement.batch(Instant::now());
            assert_eq!(batch.writes.len(), expected);
            statement.said(batch, Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_balancers_record_waits_unless_we_stop() {
        let mut statement = statement();
        let mut snapshot = sample::snapshot([]);
        snapshot.vips.extend([sample::vip("192.0.2.1", true, None)]);
        assert_eq!(said(&mut statement, &snapshot).len(), 1);
        let mut med = 10;
        let mut change = |snapshot: &mut Snapshot| {
            med += 1;
            let vip = snapshot.vips.get_mut(&ip("192.0.2.1")).unwrap();
            Arc::make_mut(vip).announce = Ok(Policy::of_med(med).into());
        };
        change(&mut snapshot);
        assert!(said(&mut statement, &snapshot).is_empty());
        let due = statement.balancer_due(Instant::now()).unwrap();
        assert_eq!(due, Instant::now() + BALANCER_PAUSE);
        tokio::time::advance(BALANCER_PAUSE).await;
        assert_eq!(said(&mut statement, &snapshot).len(), 1);
        assert_eq!(statement.balancer_due(Instant::now()), None);
        snapshot.stopping = true;
        assert_eq!(said(&mut statement, &snapshot).len(), 1);
    }
}
