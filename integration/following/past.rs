//! An etcd that has forgotten: compaction, an older backup, nothing at all.

use std::thread;
use std::time::{Duration, Instant};

use etcd_client::TxnOp;

use crate::observer::told;
use crate::scene::{PROMISE, Scene, Settings, host};
use crate::store::{key, node};

/// So many changes, each followed or not.
fn turns(scene: &mut Scene, number: usize) {
    (0..number).for_each(|_| scene.turn());
}

#[test]
fn compaction_while_disconnected() {
    let mut scene = Scene::new(Settings::default());
    for round in 0..3 {
        scene.isolate();
        turns(&mut scene, 20);
        // Whoever only listens for news would never hear that this one is gone.
        scene.store.delete("s0", &host(0, 4));
        scene.store.set("s1", &host(1, 4), "inactive", 0);
        scene.store.set("s2", "10.3.0.9", "yes", round);
        scene.history.follow(&mut scene.store);
        let revision = scene.store.revision();
        scene.store.compact(revision);
        scene.reconnect();
        let took = scene.settled();
        println!("equal {took:?} after the connection's return");
        scene.store.set("s0", &host(0, 4), "yes", 10);
        scene.turn();
        scene.settled();
    }
}

#[test]
fn compaction_and_defragmentation_while_connected() {
    let mut scene = Scene::new(Settings::default());
    for _ in 0..3 {
        turns(&mut scene, 5);
        scene.settled();
        let revision = scene.store.revision();
        scene.store.compact(revision);
        scene.cluster.etcdctl(&["defrag"]);
        scene.turn();
        scene.settled();
    }
}

/// A backup is put back in all members: to etcd a new cluster, with the ports and identifiers of the old one.
/// So many changes are lost by it; so many are made before the daemon comes back.
fn restore(lost: usize, made: usize) {
    let mut scene = Scene::new(Settings::default());
    turns(&mut scene, 10);
    scene.settled();
    let backup = scene.cluster.save(0);
    turns(&mut scene, lost);
    // In the backup they are other than they will be here.
    scene.store.delete("s0", &host(0, 0));
    scene.store.set("s1", "10.2.0.77", "yes", 7);
    scene.store.set("s2", &host(2, 0), "inactive", 7);
    scene.settled();
    let ours = scene.store.revision();
    scene.isolate();
    (0..3).for_each(|member| scene.cluster.kill(member));
    scene.cluster.restore(&backup);
    (0..3).for_each(|member| scene.cluster.spawn(member));
    scene.cluster.wait_for_all();
    let theirs = scene.store.revision();
    assert!(theirs < ours, "{theirs} is not older than {ours}");
    scene.history.begin_again(&mut scene.store);
    turns(&mut scene, made);
    let now = scene.store.revision();
    assert_eq!(now > ours, made > lost, "{now}, and {ours} before");
    scene.reconnect();
    let took = scene.settled();
    println!("revision {ours}, in the backup {theirs}, now {now}: equal after {took:?}");
    // Revisions that were there before are there again, with other content.
    for _ in 0..10 {
        scene.turn();
        scene.settled();
    }
}

#[test]
fn an_older_backup() {
    restore(40, 0);
}

#[test]
fn an_older_backup_with_some_changes() {
    restore(40, 5);
}

#[test]
fn an_older_backup_that_has_overtaken_us() {
    restore(10, 60);
}

/// All at once, with the daemon's connections left to find out for themselves.
#[test]
fn an_older_backup_while_connected() {
    let mut scene = Scene::new(Settings::default());
    let backup = scene.cluster.save(0);
    turns(&mut scene, 20);
    scene.settled();
    (0..3).for_each(|member| scene.cluster.kill(member));
    scene.cluster.restore(&backup);
    (0..3).for_each(|member| scene.cluster.spawn(member));
    scene.cluster.wait_for_all();
    scene.history.begin_again(&mut scene.store);
    let took = scene.settled();
    println!("equal {took:?} after the last member answered");
    turns(&mut scene, 5);
    scene.settled();
}

/// Nothing is there: each pool keeps its last list, and it is said.
#[test]
fn an_etcd_without_data() {
    const STAYS: Duration = Duration::from_secs(5);
    let mut scene = Scene::new(Settings::default());
    turns(&mut scene, 10);
    scene.settled();
    let before = scene.pools();
    (0..3).for_each(|member| scene.cluster.kill(member));
    (0..3).for_each(|member| scene.cluster.wipe(member));
    (0..3).for_each(|member| scene.cluster.spawn(member));
    scene.cluster.wait_for_all();
    let empty = Instant::now();
    for service in scene.services.clone() {
        scene.until_alert(&[&service, "empty"]);
    }
    while empty.elapsed() < STAYS {
        assert_eq!(scene.pools(), before, "with nothing in etcd");
        thread::sleep(Duration::from_millis(50));
    }
    // A pool that comes back is followed, the others stay.
    scene.history.begin_again(&mut scene.store);
    let all: Vec<_> = (0..5)
        .map(|server| {
            let key = key("s1", &host(1, server));
            TxnOp::put(key, node("yes", 33), None)
        })
        .collect();
    scene.store.write(&all);
    scene.wait(PROMISE, "s1 is followed again", |scene| {
        let pool = scene.pool("s1");
        let all = pool.len() == 5 && pool.values().all(|served| served.listed.weight == 33);
        if all { Ok(()) } else { Err(told(&pool)) }
    });
    for service in ["s0", "s2"] {
        assert_eq!(scene.pool(service), before[service]);
    }
    scene.until_alert(&["s0", "s2", "empty"]);
    for (number, service) in [(0, "s0"), (2, "s2")] {
        for server in 0..5 {
            scene.store.set(service, &host(number, server), "yes", 44);
        }
    }
    scene.equal(PROMISE);
    scene.check();
    scene.until_no_alert("empty");
}

/// One pool's directory vanishes, and comes back, while the daemon is connected and while it is not.
#[test]
fn a_directory_that_vanishes() {
    let mut scene = Scene::new(Settings::default());
    for away in [false, true] {
        let before = scene.pool("s1");
        if away {
            scene.isolate();
        }
        let all: Vec<_> = (0..5)
            .map(|server| key("s1", &host(1, server)))
            .map(|key| TxnOp::delete(key, None))
            .collect();
        scene.store.write(&all);
        scene.reconnect();
        scene.until_alert(&["s1", "empty"]);
        assert_eq!(scene.pool("s1"), before);
        scene.store.set("s0", &host(0, 0), "yes", 99);
        scene.wait(PROMISE, "the other pools go on", |scene| {
            let pool = scene.pool("s0");
            if pool[&host(0, 0)].listed.weight == 99 {
                Ok(())
            } else {
                Err("not yet".into())
            }
        });
        // All inactive is as good as none.
        scene.store.set("s1", &host(1, 0), "inactive", 1);
        scene.turn_of(2);
        assert_eq!(scene.pool("s1"), before);
        let all: Vec<_> = (0..5)
            .map(|server| key("s1", &host(1, server)))
            .map(|key| TxnOp::put(key, node("yes", 12), None))
            .collect();
        scene.store.write(&all);
        scene.settled();
        scene.until_no_alert("empty");
        scene.store.set("s0", &host(0, 0), "yes", 10);
        scene.settled();
    }
}
