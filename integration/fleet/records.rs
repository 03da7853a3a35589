//! What is written, when, and in how many transactions, while etcd is well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll::config::EtcdApi;
use plimsoll::routing::session::{Session, SessionState};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Cluster;
use crate::edge::{Balancer, LEASE, PATIENCE, Store, pool, section, snapshot};
use crate::sample::{edit, ip};

#[tokio::test(flavor = "multi_thread")]
async fn each_balancer_says_what_it_serves_and_follows() {
    let cluster = Cluster::start(3);
    let etcd = section(&cluster.endpoints());
    let mut store = Store::of(&cluster, 0).await;
    let balancers: BTreeMap<_, _> = ["lvs1", "lvs2", "lvs3"]
        .map(|hostname| {
            let services = [pool("text", 5), pool("upload", 6)];
            (
                hostname,
                Balancer::start(hostname, snapshot(etcd.clone(), services)),
            )
        })
        .into();
    let records = store.until("all there", |records| records.len() == 9).await;
    let started = &records["balancers/lvs2"]["started"];
    assert!(started.as_str().unwrap().ends_with('Z'));
    let config = &records["balancers/lvs2"]["config"];
    assert_eq!(config, &records["balancers/lvs1"]["config"]);
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": started,
        "config": config,
        "mode": "real",
        "stopping": false,
        "addresses": {"192.0.2.1": {"condition": "healthy", "med": 10, "refusal": null}},
        "peers": {},
    });
    assert_eq!(records["balancers/lvs2"], expected);
    let expected = json!({
        "revision": 5,
        "services": {"text": {
            "depool-threshold": 0.5,
            "depool-guard": "floor",
            "size": 3,
            "pooled": ["a", "b"],
            "held": {"b": "depool-threshold"},
        }},
    });
    assert_eq!(records["applied/lvs3/dc/web/text"], expected);

    balancers["lvs2"].set(pool("text", 7));
    store.until_applied("lvs2", "text", 7).await;
    store.until_applied("lvs1", "text", 5).await;
    balancers["lvs2"].change(|snapshot| {
        snapshot.services.remove("text");
    });
    let gone = |records: &BTreeMap<String, _>| !records.contains_key("applied/lvs2/dc/web/text");
    let records = store.until("gone", gone).await;
    assert_eq!(records.len(), 8);
}

/// Before the kernel has it, a pool is told as of revision 0, without its service; with several services it is the slowest that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_told_once_the_kernel_has_it() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let other_of = |service, applied: Option<u64>| {
        edit(pool("text", 8), |text| {
            let config = Arc::make_mut(&mut text.config);
            config.name = service;
            text.applied_revision = applied;
        })
        .1
    };
    let (name, _) = pool("text-udp", 0);
    let not_yet = edit(pool("text", 8), |text| text.applied_revision = None);
    let balancer = Balancer::start("lvs1", snapshot(section(&cluster.endpoints()), [not_yet]));
    store.until_applied("lvs1", "text", 0).await;
    let records = store.records().await;
    let services = &records["applied/lvs1/dc/web/text"]["services"];
    assert_eq!(*services, serde_json::json!({}));

    balancer.set(pool("text", 8));
    store.until_applied("lvs1", "text", 8).await;
    balancer.set((name.clone(), other_of(name.clone(), Some(7))));
    // It is on its way; what was told stays.
    balancer.set(pool("upload", 9));
    store.until_applied("lvs1", "upload", 9).await;
    store.until_applied("lvs1", "text", 8).await;
    balancer.set((name.clone(), other_of(name.clone(), Some(8))));
    let both = |records: &BTreeMap<String, serde_json::Value>| {
        let services = &records["applied/lvs1/dc/web/text"]["services"];
        services.as_object().unwrap().len() == 2
    };
    store.until("both", both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pools_are_a_few_transactions() {
    const POOLS: usize = 1000;
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let before = store.revision().await;
    let services = (0..POOLS).map(|n| pool(&format!("s{n}"), 5));
    let balancer = Balancer::start("lvs1", snapshot(section(&cluster.endpoints()), services));
    let all = |records: &BTreeMap<_, _>| records.len() == POOLS + 1;
    store.until("all there", all).await;
    let transactions = store.revision().await - before;
    assert!(transactions <= 11, "{transactions} transactions");

    // A change of all of them, one by one, while the writes go on.
    for n in 0..POOLS {
        balancer.set(pool(&format!("s{n}"), 6));
    }
    for n in 0..POOLS {
        balancer.set(pool(&format!("s{n}"), 7));
    }
    let last = |records: &BTreeMap<String, serde_json::Value>| {
        let mut applied = records.iter().filter(|(key, _)| key.starts_with("applied"));
        applied.all(|(_, record)| record["revision"] == 7)
    };
    store.until("the last word", last).await;
    let transactions = store.revision().await - before;
    assert!(transactions <= 200, "{transactions} transactions");
}

/// Longer than the lease, with keep-alives alone; events that change no record change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_steady_balancer_writes_nothing() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let mut balancer = Balancer::start(
        "lvs1",
        snapshot(section(&cluster.endpoints()), [pool("text", 5)]),
    );
    store.until("there", |records| records.len() == 2).await;
    let before = store.revision().await;
    let end = Instant::now() + LEASE + LEASE / 2;
    while Instant::now() < end {
        balancer.set(edit(pool("text", 5), |text| text.counters.repaired += 1));
        balancer.change(|snapshot| {
            let session = Session {
                state: SessionState::Active,
                ..Session::default()
            };
            snapshot.peers = Arc::new([(ip("10.0.0.1").into(), session)].into());
        });
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.revision().await, before);
    assert_eq!(store.records().await.len(), 2);
    balancer.untroubled();
}

/// However often it changes.
#[tokio::test(flavor = "multi_thread")]
async fn the_balancers_own_record_is_written_once_a_second_at_most() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let balancer = Balancer::start("lvs1", snapshot(section(&cluster.endpoints()), []));
    store.until("there", |records| records.len() == 1).await;
    let (before, began) = (store.revision().await, Instant::now());
    for med in 0..300 {
        balancer.change(|snapshot| {
            let vip = snapshot.vips.get_mut(&ip("192.0.2.1")).unwrap();
            Arc::make_mut(vip).announce = Ok(plimsoll::routing::Policy::of_med(med).into());
        });
        sleep(Duration::from_millis(10)).await;
    }
    let last = |records: &BTreeMap<String, serde_json::Value>| {
        records["balancers/lvs1"]["addresses"]["192.0.2.1"]["med"] == 299
    };
    store.until("the last one", last).await;
    let written = store.revision().await - before;
    let seconds = i64::try_from(began.elapsed().as_secs()).unwrap();
    assert!(
        written > 1 && written <= seconds + 2,
        "{written} in {seconds} s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_says_so_and_then_goes_at_once() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let mut balancer = Balancer::start(
        "lvs1",
        snapshot(section(&cluster.endpoints()), [pool("text", 5)]),
    );
    store.until("there", |records| records.len() == 2).await;
    let session = |state| {
        let session = Session {
            state,
            ..Session::default()
        };
        Arc::new([(ip("10.0.0.1").into(), session)].into())
    };
    balancer.change(|snapshot| {
        snapshot.stopping = true;
        snapshot.peers = session(SessionState::Established);
    });
    let said = |records: &BTreeMap<String, serde_json::Value>| {
        records["balancers/lvs1"]["stopping"] == true
    };
    let records = store.until("stopping", said).await;
    assert_eq!(records.len(), 2, "the kernel still serves the pool");
    balancer.change(|snapshot| snapshot.peers = session(SessionState::Idle));
    let ended = timeout(LEASE / 2, balancer.run.join_next()).await;
    ended.expect("it ends soon").unwrap().unwrap();
    assert!(store.records().await.is_empty());
}

/// Another cluster, another API, no etcd at all: each by a reload.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_may_change_whom_to_tell() {
    let (one, other) = (Cluster::start(1), Cluster::start(1));
    let mut store = Store::of(&one, 0).await;
    let mut balancer = Balancer::start("lvs1", snapshot(section(&one.endpoints()), []));
    store.until("there", |records| records.len() == 1).await;
    let configure = |etcd| {
        balancer.change(|snapshot| Arc::make_mut(&mut snapshot.config).etcd = etcd);
    };
    configure(Some(Arc::new(section(&other.endpoints()))));
    let began = Instant::now();
    store.until("gone", |records| records.is_empty()).await;
    let mut store = Store::of(&other, 0).await;
    store.until("there", |records| records.len() == 1).await;
    let mut old_api = section(&other.endpoints());
    old_api.api = EtcdApi::V2;
    // Back and forth, with the way back as soon as the farewell has been said.
    for _ in 0..20 {
        configure(Some(Arc::new(old_api.clone())));
        store.until("gone", |records| records.is_empty()).await;
        configure(Some(Arc::new(section(&other.endpoints()))));
        store.until("there", |records| records.len() == 1).await;
    }
    configure(None);
    store.until("gone", |records| records.is_empty()).await;
    assert!(began.elapsed() < PATIENCE);
    balancer.untroubled();
}
