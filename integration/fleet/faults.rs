//! etcd goes, hangs, refuses, forgets; a balancer dies, or has a double.

use std::time::Duration;

use plimsoll::config::Etcd;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::edge::{Balancer, LEASE, Store, pool, section, snapshot};

/// What etcd takes beyond a lease's time to notice its end, on a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_is_gone_when_its_lease_ends() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let with = || snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let _stays = Balancer::start("lvs1", with());
    let dies = Balancer::start("lvs2", with());
    store.until("there", |records| records.len() == 4).await;
    drop(dies);
    let died = Instant::now();
    assert_eq!(store.records().await.len(), 4, "its lease has not ended");
    let records = store.until("gone", |records| records.len() == 2).await;
    assert!(died.elapsed() < LEASE + NOTICED, "{:?}", died.elapsed());
    assert!(records.keys().all(|key| key.contains("lvs1")));
}

/// The next process takes over what the one before has left, and keeps it beyond that one's lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_over() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let with = || snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let first = Balancer::start("lvs1", with());
    let records = store.until("there", |records| records.len() == 2).await;
    let started = records["balancers/lvs1"]["started"].clone();
    drop(first);
    let mut second = Balancer::start("lvs1", with());
    let over = |records: &std::collections::BTreeMap<String, serde_json::Value>| {
        let ours = records.get("balancers/lvs1");
        ours.is_some_and(|record| record["started"] != started)
    };
    store.until("taken over", over).await;
    let end = Instant::now() + LEASE + NOTICED / 2;
    while Instant::now() < end {
        assert_eq!(store.records().await.len(), 2);
        sleep(Duration::from_millis(200)).await;
    }
    second.untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_of_one_name_are_told_of() {
    let cluster = Cluster::start(1);
    let with = || snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let mut one = Balancer::start("lvs1", with());
    // What tells them apart is when they started.
    let mut store = Store::of(&cluster, 0).await;
    store.until("there", |records| records.len() == 2).await;
    let mut other = Balancer::start("lvs1", with());
    for balancer in [&mut one, &mut other] {
        let fault = balancer.trouble().await.unwrap();
        assert!(fault.contains("two hosts of one name?"), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deletes_is_written_anew() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let with = snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let mut balancer = Balancer::start("lvs1", with);
    for key in ["/plimsoll/v1/balancers/", "/plimsoll/v1/applied/lvs1/dc"] {
        store.until("there", |records| records.len() == 2).await;
        cluster.etcdctl(&["del", "--prefix", key]);
        assert_eq!(store.records().await.len(), 1);
    }
    store.until("there", |records| records.len() == 2).await;
    balancer.untroubled();
}

/// A session that ends for that is an ordinary one: new lease, all records anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_somebody_revokes_is_got_anew() {
    let cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let with = snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let mut balancer = Balancer::start("lvs1", with);
    store.until("there", |records| records.len() == 2).await;
    let leases = cluster.etcdctl(&["lease", "list"]);
    let lease = leases.lines().nth(1).expect("a lease");
    cluster.etcdctl(&["lease", "revoke", lease]);
    store.until("there", |records| records.len() == 2).await;
    balancer.untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_goes_and_comes_back() {
    let mut cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let with = snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let mut balancer = Balancer::start("lvs1", with);
    store.until("there", |records| records.len() == 2).await;
    cluster.kill(0);
    let fault = balancer.trouble().await.unwrap();
    assert!(fault.contains(&cluster.endpoints()[0]), "{fault}");
    assert!(fault.to_lowercase().contains("refused"), "{fault}");
    // What happens meanwhile is told when it is back.
    balancer.set(pool("text", 6));
    balancer.set(pool("upload", 7));
    cluster.spawn(0);
    cluster.wait_for_all();
    assert_eq!(balancer.trouble().await, None);
    let mut store = Store::of(&cluster, 0).await;
    store.until_applied("lvs1", "text", 6).await;
    store.until_applied("lvs1", "upload", 7).await;
}

/// With all its data: as from a backup that was made before we came.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_comes_back_empty() {
    let mut cluster = Cluster::start(1);
    let mut store = Store::of(&cluster, 0).await;
    let with = snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let _balancer = Balancer::start("lvs1", with);
    store.until("there", |records| records.len() == 2).await;
    cluster.kill(0);
    cluster.wipe(0);
    cluster.spawn(0);
    cluster.wait_for_all();
    let mut store = Store::of(&cluster, 0).await;
    store.until("there", |records| records.len() == 2).await;
}

/// Its connection stays open and nothing answers. Another endpoint takes over before the lease ends, so
/// nobody sees the balancer go.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_is_left() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut endpoints = cluster.endpoints();
    // A follower: what is tested is our connection, not an election.
    let frozen = (leader + 1) % 3;
    endpoints.swap(0, frozen);
    let mut store = Store::of(&cluster, leader).await;
    let with = snapshot(section(&endpoints), [pool("text", 5)]);
    let mut balancer = Balancer::start("lvs1", with);
    store.until("there", |records| records.len() == 2).await;
    cluster.freeze(frozen);
    balancer.set(pool("text", 6));
    let end = Instant::now() + LEASE + NOTICED;
    while Instant::now() < end {
        assert_eq!(store.records().await.len(), 2);
        sleep(Duration::from_millis(100)).await;
    }
    store.until_applied("lvs1", "text", 6).await;
    balancer.untroubled();
    cluster.thaw(frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_may_be_killed() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut endpoints = cluster.endpoints();
    endpoints.swap(0, leader);
    let mut store = Store::of(&cluster, (leader + 1) % 3).await;
    let with = snapshot(section(&endpoints), [pool("text", 5)]);
    let balancer = Balancer::start("lvs1", with);
    store.until("there", |records| records.len() == 2).await;
    cluster.kill(leader);
    balancer.set(pool("text", 6));
    store.until_applied("lvs1", "text", 6).await;
    store.until("there", |records| records.len() == 2).await;
}

/// NOSPACE: nothing can be written, but what was said before lives on, since we do.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_keeps_what_it_has() {
    let quota = (4 * 1024 * 1024).to_string();
    let cluster = Cluster::start_with(1, "http", &["--quota-backend-bytes", &quota]);
    let mut store = Store::of(&cluster, 0).await;
    let with = snapshot(section(&cluster.endpoints()), [pool("text", 5)]);
    let mut balancer = Balancer::start("lvs1", with);
    store.until("there", |records| records.len() == 2).await;
    store.fill().await;
    balancer.set(pool("text", 6));
    let fault = balancer.trouble().await.unwrap();
    assert!(fault.contains("database space exceeded"), "{fault}");
    let end = Instant::now() + LEASE + NOTICED;
    while Instant::now() < end {
        assert_eq!(store.records().await.len(), 2);
        sleep(Duration::from_millis(200)).await;
    }
    store.until_applied("lvs1", "text", 5).await;
    cluster.etcdctl(&["del", "--prefix", "fill"]);
    let revision = store.revision().await.to_string();
    cluster.etcdctl(&["compact", &revision]);
    cluster.etcdctl(&["defrag"]);
    cluster.etcdctl(&["alarm", "disarm"]);
    assert_eq!(balancer.trouble().await, None);
    store.until_applied("lvs1", "text", 6).await;
}

/// A user with a password, whose token ends each second and who may not write at first.
#[tokio::test(flavor = "multi_thread")]
async fn users_and_what_they_may() {
    let cluster = Cluster::start_with(1, "http", &["--auth-token-ttl", "1"]);
    for arguments in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "plimsoll:secret"],
        &["role", "add", "balancer"],
        &["user", "grant-role", "plimsoll", "balancer"],
        &["auth", "enable"],
    ] {
        cluster.etcdctl(arguments);
    }
    let password = cluster.folder().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let user = |name: &str| Etcd {
        user: Some(name.to_owned()),
        password_file: Some(password.clone()),
        ..section(&cluster.endpoints())
    };
    let with = snapshot(user("plimsoll"), [pool("text", 5)]);
    let mut balancer = Balancer::start("lvs1", with);
    let fault = balancer.trouble().await.unwrap();
    assert!(fault.contains("permission denied"), "{fault}");
    let granting = "role grant-permission balancer readwrite --prefix /plimsoll/v1/";
    let granting: Vec<&str> = granting.split(' ').collect();
    cluster.etcdctl(&[&["--user", "root:secret"][..], &granting].concat());
    // A token of before is no longer good, which may be told too.
    while balancer.trouble().await.is_some() {}
    let mut store = Store::at(&user("root"), 0).await;
    for revision in 6..10 {
        sleep(Duration::from_millis(1500)).await;
        balancer.set(pool("text", revision));
        store.until_applied("lvs1", "text", revision).await;
    }
    balancer.untroubled();
}
