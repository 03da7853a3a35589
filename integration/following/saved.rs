//! What the daemon remembers on disk, and what it makes of an etcd that was away for long.

use std::fs;
use std::time::{Duration, Instant};

use etcd_client::TxnOp;

use crate::observer::told;
use crate::process::SOON;
use crate::scene::{PROMISE, Scene, Settings, host};
use crate::store::{key, node};

/// In the state directory.
const FILE: &str = "etcd-lists.json";

/// Started with etcd away, it has what it had, and says how old that is.
#[test]
fn a_start_with_etcd_away() {
    let mut scene = Scene::new(Settings::default());
    for crashes in [false, true] {
        for _ in 0..10 {
            scene.turn();
        }
        scene.settled();
        let before = scene.pools();
        until_saved(&mut scene);
        if crashes {
            scene.crash();
        } else {
            scene.stop();
        }
        let gone = Instant::now();
        (0..3).for_each(|member| scene.cluster.kill(member));
        std::thread::sleep(Duration::from_secs(2));
        scene.start();
        scene.wait(SOON, "the pools are what they were", |scene| {
            let pools = scene.pools();
            if pools == before {
                Ok(())
            } else {
                Err(format!("{pools:?}"))
            }
        });
        let text = scene.until_alert(&["Saved ones are in force for 3 services"]);
        let age = text.split_once("the oldest is ").unwrap().1;
        let age = humantime::parse_duration(age.split_once(" old").unwrap().0).unwrap();
        let least = gone.elapsed().as_secs() - 1;
        assert!(
            (least..least + 30).contains(&age.as_secs()),
            "{least} s, and {text}"
        );
        let list = scene.detail("s1")["summary"]["list"].clone();
        let seconds = list["age_seconds"].as_u64().unwrap();
        assert!(
            (least..least + 30).contains(&seconds),
            "{least} s, and {list}"
        );
        assert_eq!(list["state"], "saved");
        (0..3).for_each(|member| scene.cluster.spawn(member));
        scene.cluster.wait_for_all();
        scene.turn();
        let took = scene.settled();
        println!("equal {took:?} after the change");
        scene.until_no_alert("Saved");
        assert_eq!(scene.detail("s1")["summary"]["list"]["state"], "good");
    }
}

/// Lists are written a moment after they are in force.
fn until_saved(scene: &mut Scene) {
    let revision = |pool: &serde_json::Value| pool["revision"].as_i64().unwrap_or(0);
    let newest = |scene: &Scene| {
        let last = scene
            .history
            .pools
            .values()
            .filter_map(|moments| moments.last());
        last.map(|moment| moment.revision).max().unwrap()
    };
    // After a fault it is tried again only some time later.
    scene.wait(2 * SOON, "the newest lists are saved", |scene| {
        let text = fs::read(scene.file("state").join(FILE)).map_err(|e| e.to_string())?;
        let saved: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        let pools = saved["pools"].as_object().ok_or("no pools")?;
        let saved = pools.values().map(revision).max().unwrap_or(0);
        let newest = newest(scene);
        if saved >= newest {
            Ok(())
        } else {
            Err(format!("revision {saved}, not {newest}"))
        }
    });
}

/// What is saved is not what was saved: the start goes on, and etcd's answer is what counts.
#[test]
fn a_saved_list_that_is_broken() {
    let mut scene = Scene::new(Settings::default());
    for broken in [
        &b""[..],
        b"{",
        b"\xff\xfe\0",
        b"[]",
        b"null",
        b"{\"version\": 999}",
    ] {
        scene.stop();
        let file = scene.file("state").join(FILE);
        assert!(file.exists(), "something was saved");
        fs::write(file, broken).unwrap();
        scene.isolate();
        scene.start();
        scene.until_alert(&[FILE]);
        assert!(scene.pools().values().all(|pool| pool.is_empty()));
        scene.reconnect();
        scene.settled();
    }
}

/// The file cannot be written: that is said, and nothing else is different.
#[test]
fn nothing_can_be_saved() {
    let mut scene = Scene::new(Settings::default());
    until_saved(&mut scene);
    let file = scene.file("state").join(FILE);
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(file.join("in the way")).unwrap();
    scene.turn();
    scene.settled();
    scene.until_alert(&[FILE]);
    for _ in 0..5 {
        scene.turn();
        scene.settled();
    }
    // With it there again all is as it was.
    fs::remove_dir_all(&file).unwrap();
    until_saved(&mut scene);
    scene.until_no_alert(FILE);
}

const SERVERS: usize = 10;

/// `depool-threshold` is 0.5 and there are 10 servers: the line is 5.
fn away_for_long(service: &'static str) -> Scene {
    Scene::new(Settings {
        services: 2,
        servers: SERVERS,
        service,
        etcd: "stale-after = \"1s\"".into(),
        ..Settings::default()
    })
}

/// Disconnects, makes it so many servers of s0 that are not pooled, and connects again when it has been too long.
fn depool_meanwhile(scene: &mut Scene, depooled: usize) {
    scene.isolate();
    let gone = Instant::now();
    set(scene, depooled, 20);
    while gone.elapsed() < Duration::from_secs(2) {
        assert_eq!(scene.pooled("s0"), SERVERS);
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.reconnect();
}

/// The first so many are not pooled, the rest are.
fn set(scene: &mut Scene, depooled: usize, weight: u64) {
    let operation = |server| {
        let pooled = if server < depooled { "no" } else { "yes" };
        TxnOp::put(key("s0", &host(0, server)), node(pooled, weight), None)
    };
    let all: Vec<TxnOp> = (0..SERVERS).map(operation).collect();
    scene.store.write(&all);
}

fn until_pooled(scene: &mut Scene, number: usize) {
    scene.wait(
        PROMISE,
        &format!("{number} servers of s0 are pooled"),
        |scene| {
            let pool = scene.pool("s0");
            let pooled = pool.values().filter(|served| served.pooled).count();
            let followed = pool.values().all(|served| served.listed.weight != 10);
            if pooled == number && followed {
                Ok(())
            } else {
                Err(told(&pool))
            }
        },
    );
}

/// The alert names the three that stay though they should go.
fn until_held_alert(scene: &mut Scene) -> String {
    let pool = scene.pool("s0");
    let held = pool
        .iter()
        .filter(|(_, served)| served.pooled && !served.listed.enabled);
    let held: Vec<&str> = held.map(|(host, _)| host.as_str()).collect();
    assert_eq!(held.len(), 3, "{pool:?}");
    let parts: Vec<&str> = ["s0"].into_iter().chain(held).collect();
    scene.until_alert(&parts)
}

/// Never fewer than this many at any time that was looked at.
fn least(scene: &Scene) -> usize {
    let seen = scene.observer().all("s0").into_iter();
    let seen = seen.filter(|pool| !pool.is_empty());
    let pooled = seen.map(|pool| pool.values().filter(|served| served.pooled).count());
    pooled.min().unwrap_or(0)
}

#[test]
fn a_catch_up_is_held_at_the_floor() {
    for service in ["depool-guard = \"floor\"", "depool-guard = \"last\""] {
        let mut scene = away_for_long(service);
        depool_meanwhile(&mut scene, 8);
        until_pooled(&mut scene, 5);
        let text = until_held_alert(&mut scene);
        println!("{text}");
        // A short absence later it is the same list, and is held all the same.
        scene.isolate();
        scene.reconnect();
        scene.store.set("s1", &host(1, 0), "yes", 66);
        scene.wait(PROMISE, "s1 is followed", |scene| {
            let seen = scene.pool("s1")[&host(1, 0)].listed.weight;
            if seen == 66 {
                Ok(())
            } else {
                Err(format!("weight {seen}"))
            }
        });
        assert_eq!(scene.pooled("s0"), 5, "{service}");
        assert!(least(&scene) >= 5, "{service}");
        // Enough of them come back: nobody is held, and all is as it is in etcd.
        set(&mut scene, 5, 30);
        scene.equal(PROMISE);
        scene.until_no_alert("s0: ");
        assert_eq!(scene.pooled("s0"), 5, "{service}");
        assert!(least(&scene) >= 5, "{service}");
    }
}

/// The operator says it again, with etcd in touch: then it is the guard alone that counts.
#[test]
fn a_catch_up_is_released_by_the_next_change() {
    let mut scene = away_for_long("depool-guard = \"last\"");
    depool_meanwhile(&mut scene, 8);
    until_pooled(&mut scene, 5);
    set(&mut scene, 8, 30);
    until_pooled(&mut scene, 2);
    scene.equal(PROMISE);
    set(&mut scene, SERVERS, 30);
    until_pooled(&mut scene, 1);
}

/// A server that is to go all the same: its value says `confirmed`.
#[test]
fn a_catch_up_lets_go_who_is_confirmed() {
    let mut scene = away_for_long("depool-guard = \"floor\"");
    depool_meanwhile(&mut scene, 8);
    until_pooled(&mut scene, 5);
    let confirmed = "{\"weight\": 30, \"pooled\": \"no\", \"confirmed\": true}";
    let all: Vec<TxnOp> = (0..8)
        .map(|server| TxnOp::put(key("s0", &host(0, server)), confirmed, None))
        .collect();
    scene.store.write(&all);
    until_pooled(&mut scene, 2);
}

/// What stays above the floor is obeyed, however long it was.
#[test]
fn a_catch_up_above_the_floor() {
    let mut scene = away_for_long("depool-guard = \"floor\"");
    depool_meanwhile(&mut scene, 4);
    let took = scene.settled();
    println!("equal after {took:?}");
}

#[test]
fn a_catch_up_with_the_guard_off() {
    let mut scene = away_for_long("depool-guard = \"off\"");
    depool_meanwhile(&mut scene, SERVERS);
    let took = scene.settled();
    println!("equal after {took:?}");
}

/// Away for less than `stale-after`: the guard, and nothing more.
#[test]
fn a_short_absence() {
    let mut scene = Scene::new(Settings {
        services: 2,
        servers: SERVERS,
        service: "depool-guard = \"last\"",
        ..Settings::default()
    });
    depool_meanwhile(&mut scene, 8);
    until_pooled(&mut scene, 2);
    scene.settled();
}

/// The daemon itself was away: what is in etcd when it starts is held against what it remembers.
#[test]
fn a_start_after_a_long_time() {
    let mut scene = away_for_long("depool-guard = \"floor\"");
    scene.stop();
    set(&mut scene, 8, 20);
    scene.isolate();
    scene.start();
    scene.wait(SOON, "the remembered list is in force", |scene| {
        let pooled = scene.pooled("s0");
        if pooled == SERVERS {
            Ok(())
        } else {
            Err(format!("{pooled} are pooled"))
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    scene.reconnect();
    until_pooled(&mut scene, 5);
    until_held_alert(&mut scene);
    assert!(least(&scene) >= 5);
}
