//! Members that die, freeze and hang while the daemon follows.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::SOON;
use crate::proxy::Proxy;
use crate::scene::{Scene, Settings, host};
use crate::store::Store;

#[test]
fn leaders_are_killed_during_changes() {
    const BETWEEN: usize = 50;
    let mut scene = Scene::new(Settings::default());
    let (changes, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut store = Store::new(scene.cluster.endpoints());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                change(&mut store);
                changes.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..3 {
            let until = changes.load(Ordering::Relaxed) + BETWEEN;
            scene.wait(SOON, &format!("{until} changes"), |_| {
                let changes = changes.load(Ordering::Relaxed);
                if changes >= until {
                    Ok(())
                } else {
                    Err(format!("{changes}"))
                }
            });
            let leader = scene.cluster.leader();
            scene.cluster.kill(leader);
            scene.cluster.spawn(leader);
            scene.cluster.wait_for_all();
        }
        ended.store(true, Ordering::Relaxed);
    });
    let took = scene.settled();
    let changes = changes.into_inner();
    println!("{changes} changes; equal {took:?} after the last");
    assert!(
        scene.observer().count("s0") > 10,
        "{}",
        scene.observer().count("s0")
    );
}

/// Any server of any pool; the first one of each stays, so that no pool is ever empty.
fn change(store: &mut Store) {
    let (service, server) = (fastrand::usize(..3), fastrand::usize(..5));
    let pooled = fastrand::choice(["yes", "no", "inactive"]).unwrap();
    let pooled = if server == 0 { "yes" } else { pooled };
    let (name, weight) = (format!("s{service}"), fastrand::u64(0..100));
    store.set(&name, &host(service, server), pooled, weight);
    thread::sleep(Duration::from_millis(5));
}

/// The one that the daemon is connected to, each in turn.
#[test]
fn the_daemons_own_member_is_killed() {
    let mut scene = Scene::new(Settings::default());
    for member in 0..3 {
        scene.lead_to(member);
        scene.cluster.kill(member);
        scene.turn();
        let took = scene.settled();
        println!("member {member} dead: equal after {took:?}");
        scene.cluster.spawn(member);
        scene.cluster.wait_for_all();
    }
}

/// And away for so long that the daemon tries no more often than it ever will.
#[test]
fn all_are_killed_and_restarted() {
    const AWAY: Duration = Duration::from_secs(15);
    let mut scene = Scene::new(Settings::default());
    let before = scene.pools();
    let begun = Instant::now();
    (0..3).for_each(|member| scene.cluster.kill(member));
    while begun.elapsed() < AWAY {
        assert_eq!(scene.pools(), before, "with etcd away");
        thread::sleep(Duration::from_millis(100));
    }
    scene.until_alert(&["etcd"]);
    (0..3).for_each(|member| scene.cluster.spawn(member));
    scene.cluster.wait_for_all();
    scene.turn();
    let took = scene.settled();
    println!("equal {took:?} after the change, etcd having been away for {AWAY:?}");
    scene.until_no_alert("etcd");
}

/// SIGSTOP: its connections stay, and its kernel acknowledges all that is sent.
#[test]
fn the_daemons_member_freezes() {
    let mut scene = Scene::new(Settings::default());
    for member in 0..3 {
        scene.lead_to(member);
        let leads = scene.cluster.leader() == member;
        scene.cluster.freeze(member);
        scene.store.ask((member + 1) % 3);
        scene.turn();
        let took = scene.settled();
        println!("member {member} frozen (the leader: {leads}): equal after {took:?}");
        // What it has in its buffers comes now, and is old.
        scene.cluster.thaw(member);
        scene.cluster.wait_for_all();
        scene.turn();
        scene.settled();
    }
}

/// The same with those that connect anew: they are let in and hear nothing.
#[test]
fn the_daemons_endpoint_hangs() {
    let mut scene = Scene::new(Settings::default());
    for member in 0..3 {
        scene.lead_to(member);
        scene.proxies[member].hang();
        scene.turn();
        let took = scene.settled();
        println!("endpoint {member} hangs: equal after {took:?}");
        scene.turn();
        scene.settled();
        scene.proxies[member].pass();
        scene.turn();
        scene.settled();
    }
}

/// The one that is left knows of no leader: what it has may be old.
#[test]
fn a_member_without_a_leader() {
    let mut scene = Scene::new(Settings::default());
    scene.lead_to(0);
    let before = scene.pools();
    scene.cluster.kill(1);
    scene.cluster.kill(2);
    scene.until_alert(&["etcd"]);
    assert_eq!(scene.pools(), before);
    scene.cluster.spawn(1);
    scene.cluster.wait_for_all();
    scene.turn();
    let took = scene.settled();
    println!("equal {took:?} after the change");
    scene.until_no_alert("etcd");
}

/// Slow, but not silent: it stays connected to where it is.
#[test]
fn slow_connections() {
    let mut scene = Scene::new(Settings::default());
    let delay = Duration::from_millis(300);
    scene.proxies.iter().for_each(|proxy| proxy.delay(delay));
    for _ in 0..5 {
        scene.turn();
        let took = scene.settled();
        println!("equal after {took:?} with {delay:?} each way");
    }
}

/// In the middle of whatever the member sends.
#[test]
fn connections_are_cut_in_the_middle() {
    let mut scene = Scene::new(Settings::default());
    for bytes in [0, 1, 5, 9, 20, 60, 150, 400, 1000] {
        scene
            .proxies
            .iter()
            .for_each(|proxy| proxy.cut_after(bytes));
        scene.turn();
        let took = scene.settled();
        println!("cut after {bytes} bytes: equal after {took:?}");
        scene.proxies.iter().for_each(Proxy::pass);
    }
    scene.turn();
    scene.settled();
    let open: usize = scene.proxies.iter().map(Proxy::open).sum();
    assert!(open > 0, "it is connected");
    scene.wait(SOON, "not more than a few connections", |scene| {
        let open: usize = scene.proxies.iter().map(Proxy::open).sum();
        if open <= 3 {
            Ok(())
        } else {
            Err(format!("{open} are open"))
        }
    });
}
