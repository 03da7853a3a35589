//! What the tests share: a network namespace, a sink that is given snapshots, and its events.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use plimsoll::config::{self, Config, Servers};
use plimsoll::event::Event;
use plimsoll::service::{Destinations, Protocol, VirtualService, Weight};
use plimsoll::snapshot::{Applied, Condition, Counters, Mode, Service, Snapshot, Source};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Runs the test on a thread in a network namespace of its own, with `lo` up. Programs that it starts are in it, too.
pub(crate) fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network namespace: run this as root");
        sh("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test);
        // The kernel takes its time with a namespace that nobody uses, and its services keep the module ip_vs in use.
        // Where there is no IPVS there is nothing to remove.
        let _ = Command::new("ipvsadm").arg("-C").status();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What the command prints; it must succeed.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What holds for the whole machine is changed in user-mode-linux alone.
pub(crate) fn expect_a_guest() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    assert!(
        cpu.contains("User Mode Linux"),
        "this would change the machine's own modules and files: run it in user-mode-linux"
    );
}

/// Whether IPVS is no more there, all services of this network namespace with it. The kernel takes its time with
/// namespaces that are gone, whose services keep the module in use.
pub(crate) fn unload_ipvs() -> bool {
    let unload = "ipvsadm -C
        for module in $(sed -n 's/^\\(ip_vs_[a-z_]*\\) .*/\\1/p' /proc/modules); do busybox rmmod $module; done 2>/dev/null
        busybox rmmod ip_vs 2>/dev/null";
    let status = Command::new("sh").args(["-c", unload]).status();
    status.unwrap().success()
}

/// Waits for it, but not for ever.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "not so in 10 s: {what}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) struct Lab {
    pub(crate) snapshot: Snapshot,
    pub(crate) state: tempfile::TempDir,
    snapshots: watch::Sender<Arc<Snapshot>>,
    events: mpsc::Receiver<Event>,
    sink: JoinSet<()>,
}

impl Lab {
    pub(crate) fn new() -> Lab {
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
            services: Default::default(),
        };
        let snapshot = Snapshot {
            mode: Mode::Real,
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
        Lab {
            snapshots: watch::channel(Arc::new(snapshot.clone())).0,
            events: mpsc::channel(1).1,
            snapshot,
            state: tempfile::tempdir().unwrap(),
            sink: JoinSet::new(),
        }
    }

    /// Starts a sink with the snapshot as it is now.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        run: impl FnOnce(watch::Receiver<Arc<Snapshot>>, mpsc::Sender<Event>) -> F,
    ) {
        self.stop().await;
        let (snapshots, newest) = watch::channel(Arc::new(self.snapshot.clone()));
        let (events, received) = mpsc::channel(1000);
        self.snapshots = snapshots;
        self.events = received;
        self.sink.spawn(run(newest, events));
    }

    pub(crate) async fn stop(&mut self) {
        self.sink.shutdown().await;
    }

    pub(crate) fn publish(&mut self) {
        self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
    }

    /// The core wants this service so.
    pub(crate) fn put(&mut self, name: &str, key: VirtualService, wanted: &Arc<Destinations>) {
        let config = self
            .snapshot
            .services
            .get(name)
            .map(|service| service.config.clone());
        let mut service = service(name, key, Some(wanted.clone()));
        service.config = config.unwrap_or(service.config);
        self.snapshot
            .services
            .insert(name.parse().unwrap(), Arc::new(service));
    }

    /// The core knows this service, but not yet what it wants of it.
    pub(crate) fn wait(&mut self, name: &str, key: VirtualService) {
        self.snapshot
            .services
            .insert(name.parse().unwrap(), Arc::new(service(name, key, None)));
    }

    pub(crate) fn edit(&mut self, name: &str, edit: impl FnOnce(&mut config::Service)) {
        let mut service = Service::clone(&self.snapshot.services[name]);
        let mut config = config::Service::clone(&service.config);
        edit(&mut config);
        service.config = Arc::new(config);
        self.snapshot
            .services
            .insert(name.parse().unwrap(), Arc::new(service));
    }

    pub(crate) async fn event(&mut self) -> Event {
        let event = timeout(Duration::from_secs(10), self.events.recv()).await;
        event.expect("an event in 10 s").expect("the sink runs")
    }

    /// So many services are reported to be as wanted, and nothing else but what was found happens.
    pub(crate) async fn expect_applied(&mut self, mut count: usize) {
        while count > 0 {
            match self.event().await {
                Event::Applied { .. } => count -= 1,
                Event::Found(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Nothing happens for so long.
    pub(crate) async fn quiet(&mut self, time: Duration) {
        let event = timeout(time, self.events.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }
}

pub(crate) fn key(address: &str, port: u16) -> VirtualService {
    VirtualService::Address {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
    }
}

/// By direct routing, on the port of the service.
pub(crate) fn pool(port: u16, servers: &[(&str, u32)]) -> Arc<Destinations> {
    let weight = |(address, weight): &(&str, u32)| {
        let backend = SocketAddr::new(address.parse().unwrap(), port);
        (backend, Weight::new(*weight).unwrap().into())
    };
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
