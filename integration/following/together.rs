//! A transaction is one change: nobody sees half of it, in one pool or in several.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use etcd_client::TxnOp;

use crate::scene::{Scene, Settings, host};
use crate::store::{key, node};

const TRANSACTIONS: u64 = 300;

#[test]
fn nobody_sees_half_of_a_transaction() {
    let mut scene = Scene::new(Settings {
        services: 2,
        servers: 20,
        ..Settings::default()
    });
    let ended = AtomicBool::new(false);
    let api = scene.api;
    // One answer of /metrics is one moment of all services.
    let pairs = thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut pairs = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let text = crate::client::get(api, "/metrics", "text/plain").unwrap_or_default();
                let figure = |service: &str| {
                    let series =
                        format!("plimsoll_service_servers_pooled{{service=\"{service}\"}} ");
                    let value = |line: &str| line.strip_prefix(&series)?.parse::<usize>().ok();
                    text.lines().find_map(value)
                };
                pairs.extend(figure("s0").zip(figure("s1")));
            }
            pairs
        });
        for number in 0..TRANSACTIONS {
            let out = usize::try_from(number % 7).unwrap();
            let mut all = Vec::new();
            for service in 0..2 {
                for server in 0..20 {
                    let pooled = if server < out { "no" } else { "yes" };
                    let key = key(&format!("s{service}"), &host(service, server));
                    all.push(TxnOp::put(key, node(pooled, number), None));
                }
            }
            scene.store.write(&all);
        }
        scene.settled();
        ended.store(true, Ordering::Relaxed);
        looker.join().unwrap()
    });
    let halves: Vec<_> = pairs.iter().filter(|(one, other)| one != other).collect();
    assert!(halves.is_empty(), "of {} looks: {halves:?}", pairs.len());
    let mut different = pairs.clone();
    different.dedup();
    println!("{} looks saw {} states", pairs.len(), different.len());
    assert!(different.len() > 10, "{different:?}");
}
