//! The source of lists against a real etcd: what comes of each change, and of each thing that happens to etcd.
//! What must happen is waited for with a deadline; what must not is shown by what comes next instead.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a panic is the message, and the clock is the world's"
)]

#[path = "cluster.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is shared with other tests")]
mod cluster;
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../src/snapshot/sample.rs"]
mod sample;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use plimsoll::config::{Config, Etcd, Servers};
use plimsoll::event::Event;
use plimsoll::service::{Freshness, Listing};
use plimsoll::snapshot::Snapshot;
use plimsoll::{config, routing, service, snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// Within this the pools must be as etcd has them.
const SOON: Duration = Duration::from_secs(5);
const PREFIX: &str = "/conftool/v1/pools";

/// The source, and what it has said so far.
struct Running {
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: mpsc::Receiver<Event>,
    lists: BTreeMap<String, Arc<Listing>>,
    /// By service, and of parts by their names.
    faults: BTreeMap<String, String>,
    _task: JoinSet<()>,
}

impl Running {
    fn start(etcd: &Arc<Etcd>, services: &[(&str, &str)], state: Option<&Path>) -> Running {
        let (snapshots, receiver) = watch::channel(snapshot_of(etcd, services));
        let (sender, events) = mpsc::channel(16);
        let mut task = JoinSet::new();
        let state = state.map(Path::to_owned);
        task.spawn(plimsoll::source::run(state, receiver, sender));
        Running {
            snapshots,
            events,
            lists: BTreeMap::new(),
            faults: BTreeMap::new(),
            _task: task,
        }
    }

    fn publish(&self, etcd: &Arc<Etcd>, services: &[(&str, &str)]) {
        self.snapshots.send_replace(snapshot_of(etcd, services));
    }

    /// The next event.
    async fn next(&mut self) -> Event {
        let event = timeout(SOON, self.events.recv()).await;
        let event = event.expect("nothing came in time").expect("it ended");
        self.note(&event);
        event
    }

    fn note(&mut self, event: &Event) {
        match event.clone() {
            Event::List { service, list, .. } => {
                assert!(!list.servers.is_empty());
                self.faults.remove(service.as_str());
                self.lists.insert(service.to_string(), list);
            }
            Event::SourceFailed { service, fault, .. } => {
                self.faults.insert(service.to_string(), fault);
            }
            Event::Trouble { part, fault } => {
                self.faults.remove(part);
                if let Some(fault) = fault {
                    self.faults.insert(part.to_owned(), fault);
                }
            }
            Event::Together(events) => events.iter().for_each(|event| self.note(event)),
            other => panic!("{other:?}"),
        }
    }

    /// Takes events until `good`, and for no longer than `SOON`.
    async fn until(&mut self, what: &str, good: impl Fn(&Running) -> bool) {
        let end = Instant::now() + SOON;
        while !good(self) {
            let Ok(event) = timeout_at(end, self.events.recv()).await else {
                panic!("not {what}: {:#?} {:#?}", self.texts(), self.faults);
            };
            self.note(&event.expect("it ended"));
        }
    }

    /// Until a service's list is this.
    async fn list(&mut self, service: &str, expected: &str) {
        let good = |running: &Running| running.text(service) == expected;
        self.until(&format!("{service}: {expected}"), good).await;
    }

    fn text(&self, service: &str) -> String {
        self.lists
            .get(service)
            .map_or_else(String::new, |list| hosts(list))
    }

    fn texts(&self) -> BTreeMap<&String, String> {
        let text = |(name, list): (_, &Arc<Listing>)| (name, hosts(list));
        self.lists.iter().map(text).collect()
    }
}

fn hosts(list: &Listing) -> String {
    let server = |(host, listed): (&service::Host, &service::Listed)| {
        let off = if listed.enabled { "" } else { "!" };
        format!("{off}{host}*{}", listed.weight)
    };
    list.servers
        .iter()
        .map(server)
        .collect::<Vec<_>>()
        .join(" ")
}

fn snapshot_of(etcd: &Arc<Etcd>, services: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = sample::snapshot([]);
    let service = |(name, pool): &(&str, &str)| {
        sample::edit(sample::service(name, 0.5, &[]), |service| {
            Arc::make_mut(&mut service.config).servers = Servers::Etcd(pool.parse().unwrap());
        })
    };
    snapshot.services = services.iter().map(service).collect();
    let mut config = Config::clone(&snapshot.config);
    config.etcd = Some(etcd.clone());
    snapshot.config = Arc::new(config);
    Arc::new(snapshot)
}

/// `[etcd]` from the text of a section.
fn section(text: &str) -> Arc<Etcd> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plimsoll.toml");
    std::fs::write(&path, text).unwrap();
    Config::read_etcd(&path).unwrap()
}

fn put(cluster: &Cluster, node: &str, value: &str) {
    cluster.etcdctl(&["put", &format!("{PREFIX}/{node}"), value]);
}

fn delete(cluster: &Cluster, node: &str) {
    cluster.etcdctl(&["del", &format!("{PREFIX}/{node}")]);
}

fn node(cluster: &Cluster, node: &str, weight: u32, pooled: &str) {
    put(cluster, node, &value(weight, pooled));
}

fn value(weight: u32, pooled: &str) -> String {
    format!(r#"{{"weight": {weight}, "pooled": "{pooled}"}}"#)
}

/// Whether etcd is in trouble for what these words say.
fn says(words: &str) -> impl Fn(&Running) -> bool {
    move |running| {
        running
            .faults
            .get("etcd")
            .is_some_and(|fault| fault.contains(words))
    }
}

/// Writes all of these in one transaction.
async fn transaction(client: &mut Client, nodes: &[(String, String)]) {
    let put = |(node, value): &(String, String)| {
        TxnOp::put(format!("{PREFIX}/{node}"), value.as_str(), None)
    };
    let puts: Vec<TxnOp> = nodes.iter().map(put).collect();
    client.txn(Txn::new().and_then(puts)).await.unwrap();
}

async fn client(cluster: &Cluster) -> Client {
    Client::connect(cluster.endpoints(), None).await.unwrap()
}

const WEB: &[(&str, &str)] = &[("web", "dc/c/web")];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_listed() {
    let cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/web/b", 2, "no");
    node(&cluster, "dc/c/web/c", 3, "inactive");
    node(&cluster, "dc/c/other/d", 1, "yes");
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*1 !b*2").await;
    let first = running.lists["web"].revision.unwrap();
    node(&cluster, "dc/c/web/c", 3, "yes");
    running.list("web", "a*1 !b*2 c*3").await;
    assert_eq!(running.lists["web"].revision, Some(first + 1));
    delete(&cluster, "dc/c/web/b");
    running.list("web", "a*1 c*3").await;

    // Not a change of the list, but of its revision: somebody may wait for that.
    node(&cluster, "dc/c/web/a", 1, "yes");
    let told = |r: &Running| r.lists["web"].revision == Some(first + 3);
    running.until("a new revision", told).await;
    assert_eq!(running.lists["web"].freshness, Freshness::Current);
    assert!(running.faults.is_empty(), "{:?}", running.faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_comes_within_milliseconds() {
    let cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    let mut client = client(&cluster).await;
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*1").await;
    let mut times = Vec::new();
    for weight in 100..200 {
        let key = format!("{PREFIX}/dc/c/web/a");
        client.put(key, value(weight, "yes"), None).await.unwrap();
        let start = Instant::now();
        running.list("web", &format!("a*{weight}")).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "put to event: median {:?}, worst {:?}",
        times[50], times[99]
    );
    // Well under a millisecond on an idle machine; a poll would show even on a busy one.
    assert!(times[50] < Duration::from_millis(50), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_event() {
    let cluster = Cluster::start(1);
    let mut client = client(&cluster).await;
    let pools = ["dc/c/web", "dc/c/img", "dc/c/api"];
    let nodes = |weight| {
        let name = |n: usize| format!("{}/h{n:02}", pools[n % 3]);
        let nodes = (0..20).map(|n| (name(n), value(weight, "yes")));
        nodes.collect::<Vec<_>>()
    };
    transaction(&mut client, &nodes(1)).await;
    // Two services have one pool.
    let services = [
        ("api", pools[2]),
        ("img", pools[1]),
        ("web", pools[0]),
        ("web6", pools[0]),
    ];
    let mut running = Running::start(&section(&cluster.section()), &services, None);
    let Event::Together(first) = running.next().await else {
        panic!("in pieces")
    };
    assert_eq!(first.len(), 4);
    for weight in 2..30 {
        transaction(&mut client, &nodes(weight)).await;
        let Event::Together(events) = running.next().await else {
            panic!("in pieces")
        };
        assert_eq!(events.len(), 4);
        for (service, _) in services {
            let text = running.text(service);
            let all = text
                .split(' ')
                .filter(|s| s.ends_with(&format!("*{weight}")));
            assert_eq!(all.count(), if service == "api" { 6 } else { 7 }, "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_is_named_and_the_rest_goes_on() {
    let cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/web/b", 1, "yes");
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*1 b*1").await;
    let long = format!(
        r#"{{"weight": 1, "pooled": "yes", "x": "{}"}}"#,
        "x".repeat(100_000)
    );
    for (bad, words) in [
        ("yes", "not a JSON object"),
        (r#"{"weight": 1, "pooled": "maybe"}"#, "pooled is \"maybe\""),
        (r#"{"pooled": "yes"}"#, "weight is missing"),
        (r#"{"weight": -1, "pooled": "yes"}"#, "weight is -1"),
        (
            r#"{"weight": 2147483647, "pooled": "yes"}"#,
            "weight is 2147483647",
        ),
        (r#"{"weight": 1.5, "pooled": "yes"}"#, "weight is 1.5"),
        (&long, "bytes long"),
    ] {
        let key = format!("{PREFIX}/dc/c/web/a");
        put(&cluster, "dc/c/web/a", bad);
        let named = |r: &Running| {
            let fault = r.lists["web"].faults.get(&key);
            fault.is_some_and(|fault| fault.contains(words))
        };
        running.until(words, named).await;
        assert_eq!(running.text("web"), "a*1 b*1");
    }
    put(&cluster, "dc/c/web/b/c", &value(1, "no"));
    node(&cluster, "dc/c/web/b", 2, "yes");
    running.list("web", "a*1 b*2").await;
    assert_eq!(running.lists["web"].faults.len(), 2);
    delete(&cluster, "dc/c/web/b/c");
    node(&cluster, "dc/c/web/a", 3, "no");
    running.list("web", "!a*3 b*2").await;
    assert!(running.lists["web"].faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_is_a_fault() {
    let cluster = Cluster::start(1);
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    let empty = "/conftool/v1/pools/dc/c/web/ is empty or missing";
    let says = |r: &Running| r.faults.get("web").is_some_and(|fault| fault == empty);
    running.until("a fault", says).await;
    node(&cluster, "dc/c/web/a", 1, "yes");
    running.list("web", "a*1").await;
    assert!(running.faults.is_empty());
    cluster.etcdctl(&["del", "--prefix", PREFIX]);
    running.until("a fault", says).await;
    node(&cluster, "dc/c/web/a", 1, "yes");
    running.until("no fault", |r| r.faults.is_empty()).await;
    assert_eq!(running.text("web"), "a*1");
}

/// etcd tells nodes and leases by two watches, and which it tells first is its whim: `plimsoll ctl` writes a
/// node and deletes the lease over it at once, and what is under the lease must not show in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_and_its_node_change_at_once() {
    let cluster = Cluster::start(1);
    let mut client = client(&cluster).await;
    let (node, lease) = (
        format!("{PREFIX}/dc/c/web/a"),
        "/plimsoll/v1/leases/dc/c/web/a",
    );
    let until = r#"{"weight": 1, "pooled": "no", "until": "2026-01-01T00:00:00Z"}"#;
    client.put(&*node, value(1, "yes"), None).await.unwrap();
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*1").await;
    for number in 0..300 {
        client.put(lease, until, None).await.unwrap();
        running.list("web", "!a*1").await;
        let both = [
            TxnOp::put(&*node, value(2, "no"), None),
            TxnOp::delete(lease, None),
        ];
        let done = client.txn(Txn::new().and_then(both)).await.unwrap();
        let written = u64::try_from(done.header().unwrap().revision()).unwrap();
        while running.lists["web"].revision < Some(written) {
            running.next().await;
            assert_eq!(running.text("web"), "!a*2", "change {number}");
        }
        client.put(&*node, value(1, "yes"), None).await.unwrap();
        running.list("web", "a*1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_itself() {
    let cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 5, "yes");
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*5").await;
    let mut client = client(&cluster).await;
    let lease = client.lease_grant(2, None).await.unwrap().id();
    let key = "/plimsoll/v1/leases/dc/c/web/a";
    let value = r#"{"weight": 5, "pooled": "no", "reason": "T1", "until": "2026-01-01T00:00:00Z"}"#;
    let options = PutOptions::new().with_lease(lease);
    client.put(key, value, Some(options)).await.unwrap();
    running.list("web", "!a*5").await;
    let note = &running.lists["web"].notes["a"];
    assert_eq!(note.reason.as_deref(), Some("T1"));
    assert_eq!(note.until.as_deref(), Some("2026-01-01T00:00:00Z"));
    running.list("web", "a*5").await;
    assert!(running.lists["web"].notes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_disturbs_no_pool_that_stays() {
    let cluster = Cluster::start(1);
    for pool in ["web", "img", "api"] {
        node(&cluster, &format!("dc/c/{pool}/a"), 1, "yes");
    }
    let etcd = section(&cluster.section());
    let both: &[_] = &[("img", "dc/c/img"), ("web", "dc/c/web")];
    let mut running = Running::start(&etcd, WEB, None);
    running.list("web", "a*1").await;

    running.publish(&etcd, both);
    // Nothing else comes first.
    let event = running.next().await;
    assert!(
        matches!(&event, Event::List { service, .. } if service.as_str() == "img"),
        "{event:?}"
    );
    // A second service of a pool that is known is told at once.
    let three: &[_] = &[
        ("img", "dc/c/img"),
        ("web", "dc/c/web"),
        ("web6", "dc/c/web"),
    ];
    running.publish(&etcd, three);
    let event = running.next().await;
    assert!(
        matches!(&event, Event::List { service, .. } if service.as_str() == "web6"),
        "{event:?}"
    );

    // One that goes and comes back is read anew.
    running.publish(&etcd, WEB);
    node(&cluster, "dc/c/web/a", 2, "yes");
    running.list("web", "a*2").await;
    node(&cluster, "dc/c/img/a", 3, "yes");
    running.publish(&etcd, both);
    running.list("img", "a*3").await;

    // Other settings, another connection, the same pools.
    let other = section(&format!("{}timeout = \"3s\"\n", cluster.section()));
    running.publish(&other, both);
    node(&cluster, "dc/c/web/a", 4, "yes");
    let event = running.next().await;
    assert!(matches!(&event, Event::List { .. }), "{event:?}");
    assert_eq!(running.text("web"), "a*4");
    assert!(running.faults.is_empty());
}

/// Each reload with another pool is another connection; the old ones leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ended_are_closed() {
    let cluster = Cluster::start(1);
    for pool in ["web", "img"] {
        node(&cluster, &format!("dc/c/{pool}/a"), 1, "yes");
    }
    let etcd = section(&cluster.section());
    let endpoint = &cluster.endpoints()[0];
    let port: u16 = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    // etcd's own gateway has one.
    let before = connections(port);
    let pools = [("img", "dc/c/img"), ("web", "dc/c/web")];
    let mut running = Running::start(&etcd, WEB, None);
    running.list("web", "a*1").await;
    for n in 0..200 {
        running.publish(&etcd, &pools[n % 2..][..1]);
        assert!(matches!(running.next().await, Event::List { .. }));
    }
    let end = Instant::now() + SOON;
    while connections(port) > before + 1 {
        assert!(Instant::now() < end, "{} connections", connections(port));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many clients of this port on loopback have an open connection (proc_net_tcp(5): state 01).
fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    let open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&*to) && fields.next() == Some("01")
    };
    table.lines().filter(open).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_keys_come_in_pages() {
    let cluster = Cluster::start(1);
    let mut client = client(&cluster).await;
    let pools = ["dc/c/a", "dc/c/a-2", "dc/c/b", "dc/c/c", "dd/c/d"];
    let many = |pool: &str, size: usize| {
        let name = |n: usize| (format!("{pool}/h{n:04}"), value(1, "yes"));
        (0..size).map(name).collect::<Vec<_>>()
    };
    for (pool, size) in [
        (pools[0], 2500),
        (pools[1], 10),
        ("dc/c/a0", 4000),
        (pools[2], 4096),
        ("dc/c/b-not", 50),
        (pools[3], 4097),
        (pools[4], 1),
    ] {
        for nodes in many(pool, size).chunks(128) {
            transaction(&mut client, nodes).await;
        }
    }
    // These are more than a message may be long, though they are few.
    let pad = "x".repeat(16_000);
    let long = format!(r#"{{"weight": 1, "pooled": "yes", "x": "{pad}"}}"#);
    for nodes in many("dd/c/long", 1200).chunks(60) {
        let long = nodes.iter().map(|(key, _)| (key.clone(), long.clone()));
        transaction(&mut client, &long.collect::<Vec<_>>()).await;
    }
    let services = [
        ("a", pools[0]),
        ("a2", pools[1]),
        ("b", pools[2]),
        ("c", pools[3]),
        ("d", pools[4]),
        ("long", "dd/c/long"),
    ];
    let mut running = Running::start(&section(&cluster.section()), &services, None);
    running.until("all", |r| r.lists.len() == 5).await;
    let sizes: Vec<_> = running
        .lists
        .values()
        .map(|list| list.servers.len())
        .collect();
    assert_eq!(sizes, [2500, 10, 4096, 1, 1200]);
    let refused = "/conftool/v1/pools/dc/c/c/ has more than 4096 keys";
    assert_eq!(running.faults["c"], refused);
    node(&cluster, "dd/c/d/h0000", 2, "yes");
    running.list("d", "h0000*2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_is_left() {
    let cluster = Cluster::start(3);
    node(&cluster, "dc/c/web/a", 1, "yes");
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*1").await;
    let endpoints = cluster.endpoints();
    for (frozen, weight) in [(0, 10), (1, 11), (2, 12)] {
        cluster.freeze(frozen);
        // Whichever leads then.
        let others: Vec<_> = (0..3)
            .filter(|n| *n != frozen)
            .map(|n| &*endpoints[n])
            .collect();
        let mut client = Client::connect(others, None).await.unwrap();
        let key = format!("{PREFIX}/dc/c/web/a");
        while client
            .put(key.as_str(), value(weight, "yes"), None)
            .await
            .is_err()
        {}
        running.list("web", &format!("a*{weight}")).await;
        cluster.thaw(frozen);
        cluster.wait_for_all();
    }
    assert!(running.faults.is_empty(), "{:?}", running.faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_while_we_were_away_is_read() {
    let mut cluster = Cluster::start(3);
    for n in 0..3 {
        node(&cluster, &format!("dc/c/web/{n}"), 1, "yes");
    }
    // Only one of the three is known to us.
    let one = format!("[etcd]\nendpoints = [{:?}]\n", cluster.endpoints()[0]);
    let mut running = Running::start(&section(&one), WEB, None);
    running.list("web", "0*1 1*1 2*1").await;
    cluster.kill(0);
    cluster.leader();
    let endpoints = cluster.endpoints();
    let mut client = Client::connect(&endpoints[1..], None).await.unwrap();
    let mut revision = 0;
    for weight in 2..200 {
        let key = format!("{PREFIX}/dc/c/web/1");
        let put = client.put(key, value(weight, "yes"), None).await.unwrap();
        revision = put.header().unwrap().revision();
    }
    client
        .delete(format!("{PREFIX}/dc/c/web/2"), None)
        .await
        .unwrap();
    client.compact(revision + 1, None).await.unwrap();
    cluster.spawn(0);
    // And nothing in between: one list, the right one.
    let event = loop {
        match running.next().await {
            Event::Trouble { .. } => {}
            event => break event,
        }
    };
    assert!(matches!(event, Event::List { .. }), "{event:?}");
    assert_eq!(running.text("web"), "0*1 1*199");
    running.until("no trouble", |r| r.faults.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_is_believed() {
    let mut cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/web/b", 1, "yes");
    let backup = cluster.save(0);
    let mut running = Running::start(&section(&cluster.section()), WEB, None);
    running.list("web", "a*1 b*1").await;
    node(&cluster, "dc/c/web/a", 2, "yes");
    node(&cluster, "dc/c/web/b", 1, "no");
    running.list("web", "a*2 !b*1").await;
    let revision = running.lists["web"].revision;
    cluster.kill(0);
    cluster.restore(&backup);
    cluster.spawn(0);
    running.list("web", "a*1 b*1").await;
    assert!(running.lists["web"].revision < revision);
    cluster.wait_for_all();
    node(&cluster, "dc/c/web/a", 7, "yes");
    running.list("web", "a*7 b*1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_away_is_trouble_until_it_is_back() {
    let mut cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    let section = section(&format!("{}timeout = \"1s\"\n", cluster.section()));
    let mut running = Running::start(&section, WEB, None);
    running.list("web", "a*1").await;
    cluster.kill(0);
    let endpoint = &cluster.endpoints()[0];
    running
        .until("trouble", |r| r.faults.contains_key("etcd"))
        .await;
    let fault = &running.faults["etcd"];
    let expected = format!("no endpoint of [etcd] answers: {endpoint}/: ");
    assert!(fault.starts_with(&expected), "{fault}");
    assert!(fault.contains("Connection refused"), "{fault}");
    assert!(fault.len() < 500, "{fault}");
    assert_eq!(running.text("web"), "a*1");
    cluster.spawn(0);
    running.until("no trouble", |r| r.faults.is_empty()).await;
    node(&cluster, "dc/c/web/a", 2, "yes");
    running.list("web", "a*2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_etcd_takes_the_saved_lists() {
    let mut cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/web/b", 2, "no");
    node(&cluster, "dc/c/new/a", 1, "yes");
    let etcd = section(&format!("{}timeout = \"1s\"\n", cluster.section()));
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("etcd-lists.json");
    let mut running = Running::start(&etcd, WEB, Some(state.path()));
    running.list("web", "a*1 !b*2").await;
    let revision = running.lists["web"].revision;
    wait_for(&file).await;
    drop(running);
    cluster.kill(0);

    let both: &[_] = &[("new", "dc/c/new"), ("web", "dc/c/web")];
    let mut running = Running::start(&etcd, both, Some(state.path()));
    running.list("web", "a*1 !b*2").await;
    let list = &running.lists["web"];
    assert_eq!(list.revision, revision);
    let Freshness::Saved { age } = list.freshness else {
        panic!("{:?}", list.freshness)
    };
    assert!(age < SOON * 4, "{age:?}");
    let told = |r: &Running| r.faults.contains_key("etcd-lists") && r.faults.contains_key("etcd");
    running.until("troubles", told).await;
    assert!(running.faults["etcd-lists"].contains("has no list of 1 pools"));
    assert!(!running.lists.contains_key("new"));
    // Nothing is written over the file while etcd has said nothing.
    assert!(std::fs::read_to_string(&file).unwrap().contains("dc/c/web"));

    cluster.spawn(0);
    let current = |r: &Running| {
        let fresh = |list: &Arc<Listing>| list.freshness == Freshness::Current;
        r.lists.len() == 2 && r.lists.values().all(fresh) && r.faults.is_empty()
    };
    running.until("current", current).await;
    assert_eq!(running.text("web"), "a*1 !b*2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_we_were_down_for_long_is_a_catch_up() {
    let cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/img/a", 1, "yes");
    let both: &[_] = &[("img", "dc/c/img"), ("web", "dc/c/web")];
    let etcd = section(&cluster.section());
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("etcd-lists.json");
    let mut running = Running::start(&etcd, both, Some(state.path()));
    running.list("web", "a*1").await;
    wait_for(&file).await;
    drop(running);

    let text = std::fs::read_to_string(&file).unwrap();
    let mut content: serde_json::Value = serde_json::from_str(&text).unwrap();
    content["time"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&file, content.to_string()).unwrap();
    node(&cluster, "dc/c/web/a", 1, "no");
    let mut running = Running::start(&etcd, both, Some(state.path()));
    // What the catch-up is measured by comes before it, and no snapshot shows it.
    let Event::Together(events) = running.next().await else {
        panic!("in pieces")
    };
    let fresh = |event: &Event| match event {
        Event::List { service, list, .. } => match list.freshness {
            Freshness::Current => format!("{service} current"),
            Freshness::CatchUp => format!("{service} catch-up"),
            Freshness::Saved { .. } => format!("{service} saved"),
        },
        other => panic!("{other:?}"),
    };
    let events: Vec<_> = events.iter().map(fresh).collect();
    assert_eq!(events, ["img current", "web saved", "web catch-up"]);
    assert_eq!(running.text("web"), "!a*1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_said_and_mended() {
    let mut cluster = Cluster::start(1);
    node(&cluster, "dc/c/web/a", 1, "yes");
    cluster.kill(0);
    let etcd = section(&format!("{}timeout = \"1s\"\n", cluster.section()));
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("etcd-lists.json");
    std::fs::write(&file, "{\"version\": 1, ").unwrap();
    let mut running = Running::start(&etcd, WEB, Some(state.path()));
    running.until("a fault", |r| r.faults.len() == 2).await;
    let fault = &running.faults["etcd-lists"];
    assert!(fault.contains("etcd-lists.json.bad"), "{fault}");
    assert!(running.lists.is_empty());
    cluster.spawn(0);
    running.list("web", "a*1").await;
    assert_eq!(running.lists["web"].freshness, Freshness::Current);
    running.until("mended", |r| r.faults.is_empty()).await;
    wait_for(&file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_expire_are_renewed() {
    let mut cluster =
        Cluster::start_with(1, "http", &["--auth-token-ttl", "1", "--bcrypt-cost", "4"]);
    node(&cluster, "dc/c/web/a", 1, "yes");
    node(&cluster, "dc/c/img/a", 1, "yes");
    let etcdctl = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        cluster.etcdctl(&arguments);
    };
    etcdctl("user add root:secret");
    etcdctl("user grant-role root root");
    etcdctl("user add plimsoll:word");
    etcdctl("role add lists");
    etcdctl("user grant-role plimsoll lists");
    etcdctl("role grant-permission lists read --prefix /conftool/v1/pools/");
    etcdctl("role grant-permission lists read --prefix /plimsoll/v1/leases/");
    etcdctl("auth enable");
    cluster.log_in("root:secret");

    let password = cluster.folder().join("password");
    std::fs::write(&password, "wrong\n").unwrap();
    let user = format!("timeout = \"1s\"\nuser = \"plimsoll\"\npassword-file = {password:?}\n");
    let etcd = section(&format!("{}{user}", cluster.section()));
    let mut running = Running::start(&etcd, WEB, None);
    running
        .until("refused", says("invalid user ID or password"))
        .await;
    std::fs::write(&password, "word\n").unwrap();
    running.list("web", "a*1").await;
    running.until("no trouble", |r| r.faults.is_empty()).await;

    // Only time makes a token expire.
    tokio::time::sleep(Duration::from_secs(3)).await;
    node(&cluster, "dc/c/web/a", 2, "yes");
    running.list("web", "a*2").await;
    running.publish(&etcd, &[("img", "dc/c/img"), ("web", "dc/c/web")]);
    running.list("img", "a*1").await;
    // Without a connection and without a token.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.kill(0);
    cluster.spawn(0);
    cluster.wait_for_all();
    node(&cluster, "dc/c/web/a", 3, "yes");
    running.list("web", "a*3").await;

    // What the role does not cover is said.
    cluster.etcdctl(&[
        "role",
        "revoke-permission",
        "lists",
        "--prefix",
        "/plimsoll/v1/leases/",
    ]);
    running.publish(&etcd, &[("web", "dc/c/web"), ("zoo", "dc/c/zoo")]);
    let refused = says("the watch of /plimsoll/v1/leases/dc/c/web/ was cancelled");
    running.until("refused", refused).await;
    assert_eq!(running.text("web"), "a*3");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_shown_and_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    authority(folder.path());
    let arguments = [
        "--cert-file",
        &file("server.pem"),
        "--key-file",
        &file("server.key"),
        "--trusted-ca-file",
        &file("ca.pem"),
        "--client-cert-auth",
    ];
    let cluster = Cluster::start_with(1, "https", &arguments);
    let with = |certificate: &str| {
        let text = format!("timeout = \"1s\"\nca = {:?}\n{certificate}", file("ca.pem"));
        section(&format!("{}{text}", cluster.section()))
    };
    let ours = format!(
        "certificate = {:?}\nkey = {:?}\n",
        file("client.pem"),
        file("client.key")
    );
    let etcd = with(&ours);
    let end = Instant::now() + 6 * SOON;
    let key = format!("{PREFIX}/dc/c/web/a");
    loop {
        assert!(Instant::now() < end, "etcd does not answer");
        if let Ok(mut client) = plimsoll::etcd::connect(&etcd, &etcd.endpoints[0]).await
            && let Ok(put) = timeout(SOON, client.put(&*key, value(1, "yes"), None)).await
            && put.is_ok()
        {
            break;
        }
    }
    let mut running = Running::start(&with(""), WEB, None);
    running
        .until("refused", |r| r.faults.contains_key("etcd"))
        .await;
    assert!(running.lists.is_empty());
    running.publish(&etcd, WEB);
    running.list("web", "a*1").await;
    running.until("no trouble", |r| r.faults.is_empty()).await;
}

/// Writes an authority, and a server's and a client's certificate of it, with their keys.
fn authority(folder: &Path) {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let write = |name: &str, pem: String| std::fs::write(folder.join(name), pem).unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", ca.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(ca, key);
    for (name, names) in [
        ("server", vec!["127.0.0.1".to_owned()]),
        ("client", Vec::new()),
    ] {
        let mut params = CertificateParams::new(names).unwrap();
        // etcd's own gateway shows the server's certificate as a client.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        write(
            &format!("{name}.pem"),
            params.signed_by(&key, &issuer).unwrap().pem(),
        );
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

async fn wait_for(file: &Path) {
    let end = Instant::now() + SOON;
    while !file.exists() {
        assert!(Instant::now() < end, "no {}", file.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
