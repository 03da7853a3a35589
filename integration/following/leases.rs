//! A server that is depooled for a time (`plimsoll ctl --for`) comes back by itself, whatever happens meanwhile.

use std::time::Duration;

use crate::process::SOON;
use crate::scene::{PROMISE, Scene, Settings, host};

/// etcd rounds it up to what its elections need.
const SECONDS: i64 = 3;

/// Waits until the server is pooled, or is not.
fn until(scene: &mut Scene, limit: Duration, pooled: bool) {
    let host = host(0, 0);
    scene.wait(limit, &format!("{host} pooled: {pooled}"), |scene| {
        let served = scene.pool("s0")[&host];
        if served.pooled == pooled {
            Ok(())
        } else {
            Err(format!("{served:?}"))
        }
    });
}

#[test]
fn a_lease_ends_by_itself() {
    let mut scene = Scene::new(Settings::default());
    scene.store.lease("s0", &host(0, 0), "no", SECONDS);
    until(&mut scene, PROMISE, false);
    scene.settled();
    until(&mut scene, SOON, true);
    scene.settled();
}

/// Nobody tells the daemon: it reads that it is so.
#[test]
fn a_lease_ends_while_disconnected() {
    let mut scene = Scene::new(Settings::default());
    let lease = scene.store.lease("s0", &host(0, 0), "no", SECONDS);
    scene.settled();
    scene.isolate();
    // It has ended when it cannot be revoked any more, which is as good.
    scene.store.revoke(lease);
    until(&mut scene, PROMISE, false);
    scene.reconnect();
    until(&mut scene, PROMISE, true);
    scene.settled();
    scene.isolate();
    scene.store.lease("s0", &host(0, 0), "no", 600);
    scene.reconnect();
    until(&mut scene, PROMISE, false);
    scene.settled();
}

/// Leases belong to the leader; its successor keeps them.
#[test]
fn a_lease_outlives_the_leader() {
    let mut scene = Scene::new(Settings::default());
    let lease = scene.store.lease("s0", &host(0, 0), "no", 600);
    scene.settled();
    let leader = scene.cluster.leader();
    scene.cluster.kill(leader);
    // Of another service: who writes the server's node itself ends what the lease says.
    scene.turn_of(1);
    scene.settled();
    until(&mut scene, PROMISE, false);
    scene.store.revoke(lease);
    until(&mut scene, PROMISE, true);
    scene.settled();
}

/// Who writes the node itself has the last word; what the lease says later on is nothing.
#[test]
fn a_lease_is_voided_by_a_later_word() {
    let mut scene = Scene::new(Settings::default());
    let lease = scene.store.lease("s0", &host(0, 0), "no", 600);
    until(&mut scene, PROMISE, false);
    scene.store.set("s0", &host(0, 0), "yes", 10);
    until(&mut scene, PROMISE, true);
    scene.store.revoke(lease);
    scene.turn();
    scene.settled();
    // The other way round, by a fresh read.
    scene.isolate();
    scene.store.lease("s0", &host(0, 0), "no", 600);
    scene.store.set("s0", &host(0, 0), "yes", 10);
    scene.reconnect();
    scene.turn();
    scene.settled();
}
