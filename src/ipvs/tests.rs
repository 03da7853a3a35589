//! The sink on a table in memory, in paused time. What only the real kernel can show is in `integration/kernel.rs`.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the event that it expects; any other is wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::table::{Destination, Settings};
use super::*;
use crate::config::{self, Config, Servers};
use crate::service::Protocol;
use crate::snapshot::traffic::{Counts, Reading, ServerTraffic};
use crate::snapshot::{Applied, Condition, Counters, Mode, Service, Source};

struct Bench {
    snapshot: Snapshot,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: mpsc::Receiver<Event>,
    memory: Memory,
    state: tempfile::TempDir,
    task: JoinSet<()>,
}

impl Bench {
    fn new() -> Bench {
        let config = Config {
            daemon: config::Daemon {
                state_directory: "/nonexistent".into(),
                manage_addresses: true,
            },
            monitor: Default::default(),
            metrics: Default::default(),
            ipvs: Default::default(),
            api: config::Api {
                listen: vec![],
                control: None,
            },
            bgp: None,
            etcd: None,
            services: BTreeMap::new(),
        };
        let snapshot = Snapshot {
            mode: Mode::MemoryTable,
            config: Arc::new(config),
            services: OrdMap::new(),
            retiring: OrdMap::new(),
            vips: OrdMap::new(),
            peers: Arc::default(),
            peer_orders: Default::default(),
            overrides: Default::default(),
            overrides_kept: true,
            troubles: Arc::default(),
            repairs: Arc::default(),
            reload_refused: None,
            config_file: None,
            stopping: false,
        };
        Bench {
            snapshots: watch::channel(Arc::new(snapshot.clone())).0,
            events: mpsc::channel(1).1,
            snapshot,
            memory: Memory::default(),
            state: tempfile::tempdir().unwrap(),
            task: JoinSet::new(),
        }
    }

    /// Starts the sink, anew if it ran, with the snapshot as it is now.
    async fn start(&mut self) {
        self.task.shutdown().await;
        let (snapshots, newest) = watch::channel(Arc::new(self.snapshot.clone()));
        let (events, received) = mpsc::channel(1000);
        self.snapshots = snapshots;
        self.events = received;
        let table = Table::Memory(self.memory.clone());
        let state = Some(self.state.path().to_owned());
        self.task.spawn(run(table, state, newest, events));
    }

    fn publish(&mut self) {
        self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
    }

    fn put(&mut self, name: &str, key: VirtualService, wanted: Option<&Arc<Destinations>>) {
        let service = service(name, key, wanted.cloned());
        self.snapshot
            .services
            .insert(name.parse().unwrap(), Arc::new(service));
    }

    async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await;
        event.expect("an event").expect("the sink runs")
    }

    async fn expect_found(&mut self, key: VirtualService, destinations: &Destinations) {
        match self.event().await {
            Event::Found(found) => assert_eq!(found, BTreeMap::from([(key, destinations.clone())])),
            other => panic!("{other:?}"),
        }
    }

    async fn expect_applied(&mut self, key: VirtualService, wanted: &Arc<Destinations>) {
        match self.event().await {
            Event::Applied {
                service,
                destinations,
            } => {
                assert_eq!(service, key);
                assert!(Arc::ptr_eq(&destinations, wanted));
            }
            other => panic!("{other:?}"),
        }
        let held = self.held(key).expect("the service");
        assert_eq!(destinations(Some(&held)), **wanted);
    }

    fn held(&self, key: VirtualService) -> Option<Held> {
        self.memory.change(key, &[]).held
    }

    /// As ipvsadm(8) would.
    fn by_hand(&self, key: VirtualService, changes: &[Change]) {
        assert_eq!(self.memory.change(key, changes).refusals, []);
    }

    /// No event comes for a while, and nothing is ready to come.
    async fn quiet(&mut self) {
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }
}

fn key(port: u16) -> VirtualService {
    VirtualService::Address {
        protocol: Protocol::Tcp,
        address: "192.0.2.1".parse().unwrap(),
        port,
    }
}

fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn pool(servers: &[(u8, u32)]) -> Arc<Destinations> {
    let weight = |(last, weight): &(u8, u32)| (server(*last), Weight::new(*weight).unwrap().into());
    Arc::new(servers.iter().map(weight).collect())
}

/// The VIP; of a firewall mark any will do.
fn address(key: VirtualService) -> IpAddr {
    match key {
        VirtualService::Address { address, .. } => address,
        VirtualService::Mark { .. } => "192.0.2.77".parse().unwrap(),
    }
}

fn service(name: &str, key: VirtualService, destinations: Option<Arc<Destinations>>) -> Service {
    let config = config::Service {
        announce: Arc::new(config::Announce {
            announce: false,
            ..config::Announce::default()
        }),
        ..config::Service::new(
            name.parse().unwrap(),
            address(key),
            key,
            Servers::File("/nonexistent".into()),
        )
    };
    Service {
        config: Arc::new(config),
        servers: Arc::default(),
        destinations,
        draining: Arc::default(),
        applied: Applied::NotYet,
        checks: Arc::default(),
        names: Arc::default(),
        source: Source::Good,
        list_faults: Arc::default(),
        revision: None,
        applied_revision: None,
        guard: None,
        size: 0,
        floor: 0,
        condition: Condition::Healthy,
        refusal: None,
        newcomer: false,
        counters: Counters::default(),
        traffic: Arc::default(),
    }
}

fn others() -> Vec<Change> {
    let settings = Settings {
        scheduler: "rr".into(),
        flags: 1,
        timeout: 0,
        netmask: u32::MAX,
        engine: None,
    };
    vec![
        Change::AddService(settings),
        Change::AddDestination(server(9), Destination::direct(3)),
    ]
}

#[tokio::test(start_paused = true)]
async fn looks_before_it_touches() {
    let mut bench = Bench::new();
    bench.by_hand(key(80), &others());
    let before = bench.held(key(80));
    bench.put("web", key(80), None);
    bench.start().await;
    bench.expect_found(key(80), &pool(&[(9, 3)])).await;
    bench.quiet().await;
    assert_eq!(bench.held(key(80)), before);

    let wanted = pool(&[(1, 10), (9, 3)]);
    bench.put("web", key(80), Some(&wanted));
    bench.publish();
    bench.expect_applied(key(80), &wanted).await;
    assert_eq!(bench.held(key(80)).unwrap().settings.scheduler, "wrr");
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn follows_changes_and_reports_each_once() {
    let mut bench = Bench::new();
    bench.put("web", key(80), None);
    bench.put("tls", key(443), None);
    bench.start().await;
    match bench.event().await {
        Event::Found(found) => {
            let none = Destinations::new();
            assert_eq!(
                found,
                BTreeMap::from([(key(80), none.clone()), (key(443), none)])
            );
        }
        other => panic!("{other:?}"),
    }
    for wanted in [
        pool(&[(1, 10)]),
        pool(&[(1, 0), (2, 5)]),
        pool(&[(2, 5)]),
        pool(&[]),
    ] {
        bench.put("web", key(80), Some(&wanted));
        bench.publish();
        bench.expect_applied(key(80), &wanted).await;
    }
    bench.quiet().await;
    assert_eq!(bench.held(key(443)), None);
}

#[tokio::test(start_paused = true)]
async fn mends_what_someone_changed() {
    let mut bench = Bench::new();
    let wanted = pool(&[(1, 10), (2, 10)]);
    bench.put("web", key(80), Some(&wanted));
    bench.start().await;
    bench.expect_found(key(80), &Destinations::new()).await;
    bench.expect_applied(key(80), &wanted).await;
    let right = bench.held(key(80));

    let backend = server(1);
    let settings = Settings {
        scheduler: "sh".into(),
        flags: 8,
        timeout: 0,
        netmask: u32::MAX,
        engine: None,
    };
    for (by_hand, told) in [
        (
            Change::RemoveService,
            "service: gone -> -s wrr, server 10.0.0.1:80: gone -> -g -w 10, \
             server 10.0.0.2:80: gone -> -g -w 10",
        ),
        (
            Change::RemoveDestination(backend),
            "server 10.0.0.1:80: gone -> -g -w 10",
        ),
        (
            Change::EditDestination(backend, Destination::direct(1)),
            "server 10.0.0.1:80: -w 1 -> -w 10",
        ),
        (
            Change::EditDestination(
                backend,
                Destination {
                    forward: 0,
                    ..Destination::direct(10)
                },
            ),
            "server 10.0.0.1:80: -m -> -g",
        ),
        (
            Change::AddDestination(server(3), Destination::direct(1)),
            "server 10.0.0.3:80: -g -w 1 -> gone",
        ),
        (
            Change::EditService(settings),
            "service: -s sh -> -s wrr, -b sh-fallback -> no -b",
        ),
    ] {
        bench.by_hand(key(80), &[by_hand]);
        let changed = Instant::now();
        let event = bench.event().await;
        match event {
            Event::Repaired { service, change } => {
                assert_eq!((service, change.as_str()), (key(80), told));
            }
            other => panic!("{other:?}"),
        }
        assert!(
            changed.elapsed() <= Duration::from_secs(5),
            "{:?}",
            changed.elapsed()
        );
        bench.expect_applied(key(80), &wanted).await;
        assert_eq!(bench.held(key(80)), right);
    }
    bench.quiet().await;
}

/// What the kernel counts when the first of two servers serves and the other takes nothing up, `n` looks long.
fn carried(n: u32) -> Reading {
    let busy = |active, inactive, packets: u64| ServerTraffic {
        active,
        inactive,
        counts: Counts {
            connections: 3 * u64::from(n),
            packets_in: 3 * packets * u64::from(n),
            ..Counts::default()
        },
        ..ServerTraffic::default()
    };
    Reading {
        counts: Counts {
            connections: 6 * u64::from(n),
            ..Counts::default()
        },
        servers: [(server(1), busy(2, 40, 6)), (server(2), busy(40, 0, 2))].into(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_counted_is_handed_on_and_who_is_stuck_is_said_once() {
    let mut bench = Bench::new();
    let wanted = pool(&[(1, 10), (2, 10)]);
    bench.put("web", key(80), Some(&wanted));
    bench.start().await;
    bench.expect_found(key(80), &Destinations::new()).await;
    bench.expect_applied(key(80), &wanted).await;
    let began = Instant::now();
    let mut said = Vec::new();
    for n in 1..100 {
        bench.memory.carry(key(80), carried(n));
        if let Ok(event) = tokio::time::timeout(Duration::from_secs(2), bench.events.recv()).await {
            said.push((began.elapsed(), event.unwrap()));
        }
    }
    let traffic = &bench.snapshot.services["web"].traffic;
    let reading = traffic.reading(Instant::now().into_std()).unwrap();
    assert!(carried(98) == *reading || carried(99) == *reading);
    match &said[..] {
        [
            (
                at,
                Event::Stuck {
                    service,
                    backend,
                    why: Some(why),
                },
            ),
        ] => {
            assert_eq!((*service, *backend), (key(80), server(2)));
            assert!(why.ends_with(", 2.0 packets each"), "{why}");
            assert!((60..130).contains(&at.as_secs()), "{at:?}");
        }
        other => panic!("{other:?}"),
    }

    // Who leaves is not said to be stuck any more.
    let less = pool(&[(1, 10)]);
    let mut service = Service::clone(&bench.snapshot.services["web"]);
    service.destinations = Some(less.clone());
    let name = "web".parse().unwrap();
    bench.snapshot.services.insert(name, Arc::new(service));
    bench.publish();
    bench.expect_applied(key(80), &less).await;
    match bench.event().await {
        Event::Stuck { backend, why, .. } => assert_eq!((backend, why), (server(2), None)),
        other => panic!("{other:?}"),
    }
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn removes_its_own_and_nothing_else() {
    let mut bench = Bench::new();
    bench.by_hand(key(25), &others());
    let wanted = pool(&[(1, 10)]);
    for (name, port) in [("a", 80), ("b", 81), ("c", 82)] {
        bench.put(name, key(port), Some(&wanted));
    }
    bench.start().await;
    let mut applied = BTreeSet::new();
    while applied.len() < 3 {
        if let Event::Applied { service, .. } = bench.event().await {
            applied.insert(service);
        }
    }
    // It stays while its address is withdrawn, and goes then.
    bench.snapshot.services.remove("a");
    bench.snapshot.retiring.insert(key(80), address(key(80)));
    bench.publish();
    bench.quiet().await;
    assert!(bench.held(key(80)).is_some());
    bench.snapshot.retiring.clear();
    bench.publish();
    bench.quiet().await;
    assert_eq!(bench.held(key(80)), None);

    // One leaves while nobody is watching.
    bench.task.shutdown().await;
    assert!(bench.held(key(81)).is_some());
    bench.snapshot.services.remove("b");
    bench.start().await;
    bench.expect_found(key(82), &wanted).await;
    bench.expect_applied(key(82), &wanted).await;
    bench.quiet().await;
    assert_eq!(bench.held(key(81)), None);

    // A stop takes nothing away.
    bench.snapshot.stopping = true;
    bench.snapshot.services.clear();
    bench.publish();
    bench.quiet().await;
    assert!(bench.held(key(82)).is_some());
    assert!(bench.held(key(25)).is_some());
}

#[tokio::test(start_paused = true)]
async fn looks_again_when_a_service_comes_back() {
    let mut bench = Bench::new();
    let wanted = pool(&[(1, 10)]);
    bench.put("web", key(80), Some(&wanted));
    bench.start().await;
    bench.expect_found(key(80), &Destinations::new()).await;
    bench.expect_applied(key(80), &wanted).await;

    // Gone and back under another name before we saw it gone.
    bench.snapshot.services.remove("web");
    bench.put("www", key(80), None);
    bench.publish();
    bench.expect_found(key(80), &wanted).await;
    // The core took it up anew before we saw that it had dropped it.
    bench.put("www", key(80), None);
    bench.publish();
    bench.expect_found(key(80), &wanted).await;
    bench.put("www", key(80), Some(&wanted));
    bench.publish();
    bench.expect_applied(key(80), &wanted).await;
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_state_directory_is_said_and_worked_without() {
    let mut bench = Bench::new();
    let file = bench.state.path().join("owned-services.json.new");
    std::fs::create_dir(&file).unwrap();
    let wanted = pool(&[(1, 10)]);
    bench.put("web", key(80), Some(&wanted));
    bench.start().await;
    bench.expect_found(key(80), &Destinations::new()).await;
    match bench.event().await {
        Event::Trouble {
            part,
            fault: Some(fault),
        } => {
            assert_eq!(part, STATE_DIRECTORY);
            assert!(fault.contains("owned-services.json"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
    bench.expect_applied(key(80), &wanted).await;
    std::fs::remove_dir(&file).unwrap();
    let event = bench.event().await;
    assert!(
        matches!(
            event,
            Event::Trouble {
                part: STATE_DIRECTORY,
                fault: None
            }
        ),
        "{event:?}"
    );
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_garbled_state_file_is_said_even_if_the_next_write_mends_it() {
    let mut bench = Bench::new();
    std::fs::write(bench.state.path().join("owned-services.json"), "garbage").unwrap();
    let wanted = pool(&[(1, 10)]);
    bench.put("web", key(80), Some(&wanted));
    bench.start().await;
    let event = bench.event().await;
    assert!(
        matches!(
            event,
            Event::Trouble {
                part: STATE_DIRECTORY,
                fault: Some(_)
            }
        ),
        "{event:?}"
    );
    bench.expect_found(key(80), &Destinations::new()).await;
    let event = bench.event().await;
    assert!(
        matches!(
            event,
            Event::Trouble {
                part: STATE_DIRECTORY,
                fault: None
            }
        ),
        "{event:?}"
    );
    bench.expect_applied(key(80), &wanted).await;
}

#[tokio::test(start_paused = true)]
async fn ends_with_the_core() {
    let mut bench = Bench::new();
    bench.start().await;
    bench.snapshots = watch::channel(Arc::new(bench.snapshot.clone())).0;
    let ended = tokio::time::timeout(Duration::from_secs(60), bench.task.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
}

fn agenda(services: &[(&str, u16)]) -> (Agenda, Snapshot) {
    let mut bench = Bench::new();
    for (name, port) in services {
        bench.put(name, key(*port), Some(&pool(&[(1, 10)])));
    }
    let mut agenda = Agenda::new(Instant::now());
    agenda.take(Arc::new(bench.snapshot.clone()), &BTreeSet::new());
    while !matches!(agenda.next(Instant::now()), Some(Task::List)) {}
    while agenda.next(Instant::now()).is_some() {}
    (agenda, bench.snapshot.clone())
}

#[tokio::test(start_paused = true)]
async fn the_newest_change_comes_first() {
    let (mut agenda, mut snapshot) = agenda(&[("a", 80), ("b", 81), ("c", 82)]);
    for (name, port) in [("c", 82), ("a", 80), ("b", 81), ("c", 82)] {
        let service = service(name, key(port), Some(pool(&[])));
        snapshot
            .services
            .insert(name.parse().unwrap(), Arc::new(service));
        agenda.take(Arc::new(snapshot.clone()), &BTreeSet::new());
    }
    let tasks: Vec<_> = std::iter::from_fn(|| agenda.next(Instant::now())).collect();
    assert_eq!(tasks, [82, 81, 80].map(|port| Task::Settle(key(port))));
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_less_and_less_often() {
    let (mut agenda, mut snapshot) = agenda(&[("a", 80)]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let now = Instant::now();
        agenda.postpone(key(80), now);
        let mut due = now;
        while agenda.next(due) != Some(Task::Settle(key(80))) || due == now {
            due += Duration::from_millis(100);
        }
        waits.push((due - now).as_millis());
        // The rounds that came due meanwhile.
        while agenda.next(due).is_some() {}
        tokio::time::advance(due - now).await;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    // A new wish is tried at once.
    agenda.postpone(key(80), Instant::now());
    snapshot.services.insert(
        "a".parse().unwrap(),
        Arc::new(service("a", key(80), Some(pool(&[])))),
    );
    agenda.take(Arc::new(snapshot), &BTreeSet::new());
    assert_eq!(agenda.next(Instant::now()), Some(Task::Settle(key(80))));
}
