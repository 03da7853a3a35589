//! 10,000 random changes from four writers, with the daemon's connections cut at random and members that die
//! meanwhile; at the end etcd, the API and the table say the same, and nothing was shown that was never asked for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etcd_client::TxnOp;
use fastrand::Rng;

use crate::scene::{Scene, Settings, host};
use crate::store::{Store, key, node};

const CHANGES: usize = 10_000;
const WRITERS: usize = 4;
const SERVICES: usize = 5;
/// Those that a pool may have; the first of them always is there, so that no pool is ever empty.
const SERVERS: usize = 20;

/// A writer waits for up to so many milliseconds after each change, so that there is time for faults.
const REST: u64 = 30;

/// The seed of all chance in here but the moments at which things happen.
const SEED: &str = "PLIMSOLL_SEED";

#[test]
fn ten_thousand_changes() {
    let seed = std::env::var(SEED)
        .ok()
        .map(|seed| seed.parse().expect("a number"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut scene = Scene::new(Settings {
        services: SERVICES,
        servers: SERVERS / 2,
        ..Settings::default()
    });
    let done = AtomicUsize::new(0);
    let begun = Instant::now();
    let mut disturbances = 0;
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            let writer = Writer {
                store: Store::new(scene.cluster.endpoints()),
                rng: rng.fork(),
                leases: Vec::new(),
            };
            scope.spawn(|| writer.write(CHANGES / WRITERS, &done));
        }
        let mut next_death = Duration::from_secs(5);
        while done.load(Ordering::Relaxed) < CHANGES {
            disturb(&mut scene, &mut rng);
            disturbances += 1;
            if begun.elapsed() > next_death {
                next_death += Duration::from_secs(10);
                let leader = scene.cluster.leader();
                scene.cluster.kill(leader);
                thread::sleep(Duration::from_millis(rng.u64(0..2000)));
                scene.cluster.spawn(leader);
                scene.cluster.wait_for_all();
                println!(
                    "{} changes, leader {leader} died",
                    done.load(Ordering::Relaxed)
                );
            }
        }
    });
    println!(
        "{CHANGES} changes in {:?}, {disturbances} disturbances",
        begun.elapsed()
    );
    scene.reconnect();
    let took = scene.settled();
    let seen: usize = scene
        .services
        .iter()
        .map(|name| scene.observer().count(name))
        .sum();
    let had: usize = scene.history.pools.values().map(Vec::len).sum();
    println!("equal {took:?} after the last; of {had} states of pools {seen} were seen");
    assert!(had > CHANGES / 2, "{had} states");
    assert!(seen > had / 20, "{seen} of {had} states were seen");
}

/// Something happens to the daemon's connections, and lasts for a moment.
fn disturb(scene: &mut Scene, rng: &mut Rng) {
    let one = &scene.proxies[rng.usize(..scene.proxies.len())];
    match rng.u8(0..12) {
        0..4 => one.cut(),
        4..7 => one.cut_after(rng.usize(0..5000)),
        7 => one.hang(),
        8 => one.delay(Duration::from_millis(rng.u64(0..100))),
        9 => scene.proxies.iter().for_each(|proxy| proxy.refuse()),
        10 => one.refuse(),
        _ => {
            // What has been read may be forgotten; whoever is behind must read anew.
            scene.history.follow(&mut scene.store);
            scene.store.compact(scene.history.read());
        }
    }
    thread::sleep(Duration::from_millis(rng.u64(20..400)));
    scene.reconnect();
    thread::sleep(Duration::from_millis(rng.u64(20..400)));
}

struct Writer {
    store: Store,
    rng: Rng,
    leases: Vec<i64>,
}

impl Writer {
    fn write(mut self, changes: usize, done: &AtomicUsize) {
        for _ in 0..changes {
            self.change();
            thread::sleep(Duration::from_millis(self.rng.u64(0..REST)));
            done.fetch_add(1, Ordering::Relaxed);
        }
        // What these leases say ends some time or other; not while the result is looked at.
        for lease in std::mem::take(&mut self.leases) {
            self.store.revoke(lease);
        }
    }

    fn change(&mut self) {
        match self.rng.u8(0..20) {
            // Several servers of several pools at once.
            0 | 1 => {
                let mut operations = Vec::new();
                for service in 0..SERVICES {
                    for server in 0..SERVERS {
                        if self.rng.u8(0..5) == 0 {
                            operations.push(self.operation(service, server));
                        }
                    }
                }
                self.store.write(&operations);
            }
            2 => {
                let (service, server) = self.any();
                let pooled = if server == 0 || self.rng.bool() {
                    "yes"
                } else {
                    "no"
                };
                let lease = self
                    .store
                    .lease(&name(service), &host(service, server), pooled, 600);
                self.leases.push(lease);
            }
            3 if !self.leases.is_empty() => {
                let which = self.rng.usize(..self.leases.len());
                let lease = self.leases.swap_remove(which);
                self.store.revoke(lease);
            }
            _ => {
                let (service, server) = self.any();
                let operation = self.operation(service, server);
                self.store.write(&[operation]);
            }
        }
    }

    fn any(&mut self) -> (usize, usize) {
        (self.rng.usize(..SERVICES), self.rng.usize(..SERVERS))
    }

    /// What may happen to a server: another weight, pooled or not, gone.
    fn operation(&mut self, service: usize, server: usize) -> TxnOp {
        let key = key(&name(service), &host(service, server));
        let weight = self.rng.u64(0..200);
        let pooled = match self.rng.u8(0..10) {
            _ if server == 0 => "yes",
            0..5 => "yes",
            5..8 => "no",
            8 => "inactive",
            _ => return TxnOp::delete(key, None),
        };
        TxnOp::put(key, node(pooled, weight), None)
    }
}

fn name(service: usize) -> String {
    format!("s{service}")
}
