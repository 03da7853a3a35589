//! Values that are none: that server keeps what it had, or is left out; the rest of its pool goes on; the alert
//! names the key and what is wrong with it.

use std::collections::BTreeMap;

use etcd_client::{DeleteOptions, TxnOp};

use crate::observer::{Serving, told};
use crate::scene::{PROMISE, Scene, Settings, host};
use crate::store::{PREFIX, key, node};

/// Values, and what the alert says of each.
const BAD: &[(&str, &str)] = &[
    ("", "not a JSON object"),
    ("yes", "not a JSON object"),
    ("[1]", "not a JSON object"),
    ("{\"weight\": 10, \"pooled\": \"yes\"", "not a JSON object"),
    (
        "{\"weight\": 10, \"pooled\": \"maybe\"}",
        "pooled is \"maybe\"",
    ),
    ("{\"weight\": 10, \"pooled\": true}", "pooled is true"),
    ("{\"weight\": 10}", "pooled is missing"),
    ("{\"pooled\": \"yes\"}", "weight is missing"),
    ("{\"weight\": -1, \"pooled\": \"no\"}", "weight is -1"),
    (
        "{\"weight\": 4294967296, \"pooled\": \"no\"}",
        "weight is 4294967296",
    ),
    (
        "{\"weight\": 2147483647, \"pooled\": \"no\"}",
        "weight is 2147483647",
    ),
    ("{\"weight\": 1.5, \"pooled\": \"no\"}", "weight is 1.5"),
    (
        "{\"weight\": \"10\", \"pooled\": \"no\"}",
        "weight is \"10\"",
    ),
    ("{\"weight\": null, \"pooled\": \"no\"}", "weight is null"),
];

/// Waits until the pool is this.
fn until_pool(scene: &mut Scene, service: &str, expected: &Serving) {
    scene.wait(PROMISE, &told(expected), |scene| {
        let pool = scene.pool(service);
        if pool == *expected {
            Ok(())
        } else {
            Err(told(&pool))
        }
    });
}

#[test]
fn a_bad_value_of_a_server_that_had_a_good_one() {
    let mut scene = Scene::new(Settings::default());
    let (bad, other) = (host(0, 0), host(0, 1));
    for (number, (value, fault)) in BAD.iter().enumerate() {
        let mut expected = scene.pool("s0");
        scene.store.put("s0", &bad, value);
        scene.until_alert(&["s0", &key("s0", &bad), fault]);
        // The one beside it changes all the same, and nothing else does.
        let weight = 100 + number as u64;
        scene.store.set("s0", &other, "yes", weight);
        expected.get_mut(&other).unwrap().listed.weight = weight;
        until_pool(&mut scene, "s0", &expected);
        // A fresh read finds it bad, and knows no more of it than before.
        scene.isolate();
        scene.reconnect();
        scene.store.set("s1", &host(1, 0), "yes", weight);
        scene.wait(PROMISE, "it follows again", |scene| {
            let seen = scene.pool("s1")[&host(1, 0)].listed.weight;
            if seen == weight {
                Ok(())
            } else {
                Err(format!("weight {seen}"))
            }
        });
        assert_eq!(scene.pool("s0"), expected, "after {value:?}");
        let others = scene.get("/alerts").unwrap();
        assert!(
            !others.contains(&other) && !others.contains("s1: "),
            "{others}"
        );
    }
    scene.store.set("s0", &bad, "no", 3);
    scene.settled();
    scene.until_no_alert(&bad);
}

#[test]
fn a_bad_value_of_a_server_that_had_none() {
    let mut scene = Scene::new(Settings::default());
    let (new, before) = ("10.1.0.99", scene.pool("s0"));
    for (value, fault) in BAD {
        scene.store.put("s0", new, value);
        scene.until_alert(&[&key("s0", new), fault]);
        assert_eq!(scene.pool("s0"), before, "with {value:?}");
    }
    // What is bad when the daemon starts was never good.
    scene.stop();
    std::fs::remove_dir_all(scene.file("state")).unwrap();
    scene.start();
    scene.until_alert(&[&key("s0", new), "weight is null"]);
    assert_eq!(scene.pool("s0"), before);
    scene.store.set("s0", new, "yes", 5);
    scene.settled();
    scene.until_no_alert(new);
    scene.store.put("s0", new, "nonsense");
    scene.until_alert(&[&key("s0", new)]);
    scene.store.delete("s0", new);
    scene.settled();
    scene.until_no_alert(new);
}

/// Keys that are no server's: too deep, not deep enough, no name, not even text.
#[test]
fn keys_that_name_no_server() {
    let mut scene = Scene::new(Settings::default());
    let before = scene.pools();
    for (key, part) in [
        (key("s0", "10.1.0.1/more"), "10.1.0.1/more"),
        (key("s0", "two words"), "two words"),
        (key("s0", ""), "dc1/text/s0/"),
    ] {
        scene
            .store
            .write(&[TxnOp::put(&*key, node("yes", 1), None)]);
        scene.until_alert(&["s0", part]);
        assert_eq!(scene.pools(), before, "with {key:?}");
        scene.store.write(&[TxnOp::delete(&*key, None)]);
        scene.until_no_alert(part);
    }
    // These are no pool's of ours: they are nobody's business.
    let mut bytes = key("s0", "").into_bytes();
    bytes.extend([0xff, 0xfe]);
    scene.store.write(&[
        TxnOp::put(bytes, node("yes", 1), None),
        TxnOp::put(format!("{PREFIX}dc1/text/s0"), "nonsense", None),
        TxnOp::put(format!("{PREFIX}dc1"), "nonsense", None),
        TxnOp::put(format!("{PREFIX}dc1/text/s00/10.9.9.9"), "nonsense", None),
        TxnOp::put(
            "/conftool/v1/poolsother/dc1/text/s0/10.9.9.9",
            "nonsense",
            None,
        ),
    ]);
    scene.turn();
    scene.settled();
    scene.store.set("s0", &host(0, 4), "yes", 77);
    scene.settled();
}

/// A name that does not resolve waits for its address; the others do not.
#[test]
fn a_name_that_does_not_resolve() {
    let mut scene = Scene::new(Settings::default());
    let before = scene.pool("s0");
    scene.store.set("s0", "nowhere.invalid", "yes", 10);
    scene.until_alert(&["s0", "nowhere.invalid"]);
    let pool: BTreeMap<_, _> = scene.pool("s0");
    assert!(!pool["nowhere.invalid"].pooled, "{pool:?}");
    scene.store.set("s0", &host(0, 0), "no", 10);
    scene.wait(PROMISE, "the others are followed", |scene| {
        let pool = scene.pool("s0");
        if pool[&host(0, 0)].pooled {
            Err(told(&pool))
        } else {
            Ok(())
        }
    });
    scene.store.set("s0", &host(0, 0), "yes", 10);
    scene.store.delete("s0", "nowhere.invalid");
    until_pool(&mut scene, "s0", &before);
    scene.until_no_alert("nowhere.invalid");
}

/// More rubbish than anyone wants to read: one alert a pool, and the servers are followed.
#[test]
fn thousands_of_bad_values() {
    let mut scene = Scene::new(Settings::default());
    rubbish(&mut scene, 30);
    let text = scene.until_alert(&["s0", &key("s0", "bad")]);
    assert!(text.len() < 20_000, "{} bytes of alerts", text.len());
    scene.store.set("s0", &host(0, 0), "no", 7);
    scene.store.set("s1", &host(1, 0), "no", 7);
    scene.wait(PROMISE, "the good ones are followed", |scene| {
        let pools = scene.pools();
        let followed = |n: usize| !pools[&format!("s{n}")][&host(n, 0)].pooled;
        if followed(0) && followed(1) {
            Ok(())
        } else {
            Err("not yet".into())
        }
    });
    scene.store.write(&[sweep()]);
    scene.settled();
    scene.until_no_alert("bad");
}

/// So many keys that the pool is not followed: it stays as it is, the others go on, and all is well again some
/// time after they are gone.
#[test]
fn more_keys_than_a_pool_may_have() {
    let mut scene = Scene::new(Settings::default());
    let before = scene.pool("s0");
    rubbish(&mut scene, 60);
    scene.until_alert(&["s0", "keys"]);
    scene.store.set("s0", &host(0, 0), "no", 7);
    scene.store.set("s1", &host(1, 0), "no", 7);
    scene.wait(PROMISE, "the other one is followed", |scene| {
        let followed = !scene.pool("s1")[&host(1, 0)].pooled;
        if followed {
            Ok(())
        } else {
            Err("not yet".into())
        }
    });
    assert_eq!(scene.pool("s0"), before);
    scene.store.write(&[sweep()]);
    let took = scene.equal(std::time::Duration::from_secs(60));
    println!("equal {took:?} after their end");
    scene.check();
}

/// So many hundreds of keys in s0 whose values are bad.
fn rubbish(scene: &mut Scene, hundreds: usize) {
    for hundred in 0..hundreds {
        let put = |n| TxnOp::put(key("s0", &format!("bad{}", hundred * 100 + n)), "x", None);
        scene.store.write(&(0..100).map(put).collect::<Vec<_>>());
    }
}

/// The end of all of them.
fn sweep() -> TxnOp {
    let all = DeleteOptions::new().with_prefix();
    TxnOp::delete(key("s0", "bad"), Some(all))
}
