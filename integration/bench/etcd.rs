//! How soon IPVS follows etcd: from the return of a put to the change applied and read back, as a ratio to
//! the put itself, at 1 and at 1,000 services of 20 servers each.
//!
//! ```text
//!  put ──► etcd ──watch──► source ──► control ──► ipvs ──► table
//!   ▲                                   │  ▲                 │
//!   └─ next, when applied_revision ◄────┘  └── read back ────┘
//! ```
//!
//! `cargo bench --bench etcd [memory|kernel]`: with the table in memory that `--dry-run` uses, or with the
//! kernel's (`integration/lab bench-etcd`). Everything but etcd itself is in this process, as the daemon composes it.
//! The watch may bring a change before the put has returned: what is applied by then took no time at all.
//! At the end what the sink was told to hold, and what ipvsadm(8) sees, must be what etcd has.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../cluster.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "made for tests, which do more to a cluster"
)]
mod cluster;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Cluster;
use etcd_client::{Client, Txn, TxnOp};
use plimsoll::balancer::Balancer;
use plimsoll::config::Config;
use plimsoll::conftool::{Node, Pooled};
use plimsoll::service::{Host, ServiceName, Weight};
use plimsoll::snapshot::{Mode, Snapshot};
use plimsoll::{control, ipvs, source};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

const SIZES: [u32; 2] = [1, 1000];
const SERVERS: u32 = 20;
const CHANGES: usize = 1000;
/// Changes before them that are not counted.
const WARM_UP: usize = 50;
/// Far more than any change takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// etcd takes 128 operations in a transaction.
const AT_ONCE: usize = 100;

#[tokio::main]
async fn main() -> ExitCode {
    let mut mode = Mode::DryRun;
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "memory" => mode = Mode::DryRun,
            "kernel" => mode = Mode::Real,
            // Cargo's own.
            "--bench" => {}
            other => {
                println!("etcd: {other}? memory or kernel");
                return ExitCode::from(64);
            }
        }
    }
    let table = match mode {
        Mode::Real => "the kernel's",
        Mode::MemoryTable | Mode::DryRun => "in memory",
    };
    println!(
        "The table: {table}. {CHANGES} changes, one after the other; medians and 99th percentiles in ms.\n\
         applied: from the put's return until IPVS held the change and had been read back; \
         early: the share of changes that were so by the put's return.\n\n\
         services       put     p99   applied     p99   applied/put     p99   early"
    );
    for services in SIZES {
        let figures = measure(services, mode).await;
        println!("{}", figures.line(services));
    }
    ExitCode::SUCCESS
}

async fn measure(services: u32, mode: Mode) -> Figures {
    let cluster = Cluster::start(1);
    let mut load = Load::start(&cluster, services, mode).await;
    let mut figures = Figures::default();
    for round in 0..WARM_UP + CHANGES {
        let times = load.change().await;
        if round >= WARM_UP {
            figures.add(&times);
        }
    }
    load.compare(mode);
    figures
}

/// What one change took.
struct Times {
    put: Duration,
    /// From the put's return.
    applied: Duration,
    /// It was applied when the put returned.
    already: bool,
}

#[derive(Default)]
struct Figures {
    put: Vec<Duration>,
    applied: Vec<Duration>,
    already: usize,
}

impl Figures {
    fn add(&mut self, times: &Times) {
        self.put.push(times.put);
        self.applied.push(times.applied);
        self.already += usize::from(times.already);
    }

    fn line(mut self, services: u32) -> String {
        let (put, put99) = quantiles(&mut self.put);
        let (applied, applied99) = quantiles(&mut self.applied);
        format!(
            "{services:>8}  {put:>8.2}  {put99:>6.2}  {applied:>8.2}  {applied99:>6.2}  {:>12.2}  {:>6.2}  {:>4.0} %",
            applied / put,
            applied99 / put99,
            self.already as f64 / CHANGES as f64 * 100.0
        )
    }
}

/// The median and the 99th percentile, in milliseconds.
fn quantiles(times: &mut [Duration]) -> (f64, f64) {
    times.sort();
    let at = |part: usize| times[(times.len() * part).div_ceil(100) - 1].as_secs_f64() * 1e3;
    (at(50), at(99))
}

/// The daemon's way from etcd to IPVS, running, and a client of etcd beside it.
struct Load {
    services: u32,
    client: Client,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What etcd has, and so what the table shall hold.
    nodes: BTreeMap<(u32, u32), Node>,
    random: fastrand::Rng,
    _parts: JoinSet<()>,
    _state: tempfile::TempDir,
}

impl Load {
    /// Returns when the table holds all of it.
    async fn start(cluster: &Cluster, services: u32, mode: Mode) -> Load {
        let mut client = Client::connect(cluster.endpoints(), None)
            .await
            .expect("it answers");
        let nodes: BTreeMap<_, _> = (0..services)
            .flat_map(|service| (0..SERVERS).map(move |server| ((service, server), node(10))))
            .collect();
        let puts: Vec<_> = nodes
            .iter()
            .map(|(of, node)| TxnOp::put(key(*of), node.to_string(), None))
            .collect();
        for puts in puts.chunks(AT_ONCE) {
            let done = client.txn(Txn::new().and_then(puts.to_vec())).await;
            assert!(done.expect("etcd takes it").succeeded());
        }
        let state = tempfile::tempdir().expect("a folder");
        let file = state.path().join("plimsoll.toml");
        std::fs::write(&file, config(cluster, services, state.path())).expect("writable");
        let config = Arc::new(Config::read(&file).expect("a good configuration"));
        let mut parts = JoinSet::new();
        let snapshots = compose(config, mode, &mut parts).await;
        let mut load = Load {
            services,
            client,
            snapshots,
            nodes,
            random: fastrand::Rng::with_seed(3),
            _parts: parts,
            _state: state,
        };
        load.wait_for(|snapshot| {
            let mut services = snapshot.services.values();
            services.all(|service| service.applied_revision.is_some())
        })
        .await;
        load
    }

    /// One change of one server that the table must follow.
    async fn change(&mut self) -> Times {
        let of = (
            self.random.u32(0..self.services),
            self.random.u32(0..SERVERS),
        );
        let node = self.nodes.get_mut(&of).expect("all are there");
        match (node.pooled, self.random.bool()) {
            (Pooled::Yes, true) => node.pooled = Pooled::No,
            (Pooled::Yes, false) => {
                let weight = node.weight.get() % 100 + 1;
                node.weight = Weight::new(weight).expect("small");
            }
            (Pooled::No | Pooled::Inactive, _) => node.pooled = Pooled::Yes,
        }
        let value = node.to_string();

        let start = Instant::now();
        let answer = self.client.put(key(of), value, None).await;
        let put = start.elapsed();
        let answer = answer.expect("etcd takes it");
        let start = Instant::now();
        let revision = answer.header().expect("a header").revision();
        let revision = u64::try_from(revision).expect("it counts up");
        let name = name(of.0);
        let applied =
            |snapshot: &Arc<Snapshot>| snapshot.services[&name].applied_revision >= Some(revision);
        let already = applied(&self.snapshots.borrow());
        self.wait_for(applied).await;
        Times {
            put,
            applied: start.elapsed(),
            already,
        }
    }

    async fn wait_for(&mut self, good: impl FnMut(&Arc<Snapshot>) -> bool) {
        let seen = timeout(PATIENCE, self.snapshots.wait_for(good)).await;
        let seen = seen.expect("applied in time");
        drop(seen.expect("the loop runs"));
    }

    /// Panics unless what was measured was the truth.
    fn compare(&self, mode: Mode) {
        let pooled = |service| {
            let of_service = self.nodes.range((service, 0)..(service + 1, 0));
            of_service
                .filter(|(_, node)| node.pooled == Pooled::Yes)
                .map(|(of, node)| (address(*of), node.weight))
                .collect::<BTreeMap<IpAddr, Weight>>()
        };
        let snapshot = self.snapshots.borrow();
        let table = (mode == Mode::Real).then(ipvsadm);
        for service in 0..self.services {
            let wanted = pooled(service);
            let told = &snapshot.services[&name(service)].destinations;
            let told = told.as_deref().expect("known").iter();
            let told: BTreeMap<_, _> = told.map(|(at, to)| (at.ip(), to.weight)).collect();
            assert_eq!(told, wanted, "service {service}");
            if let Some(table) = &table {
                let held = table.get(&(1000 + service)).cloned().unwrap_or_default();
                assert_eq!(held, wanted, "service {service} in the kernel");
            }
        }
    }
}

/// The parts of the daemon between etcd and IPVS, joined as the daemon joins them.
async fn compose(
    config: Arc<Config>,
    mode: Mode,
    parts: &mut JoinSet<()>,
) -> watch::Receiver<Arc<Snapshot>> {
    let table = match mode {
        Mode::Real => ipvs::Table::Kernel(ipvs::Kernel::connect().await.expect("IPVS")),
        Mode::MemoryTable | Mode::DryRun => ipvs::Table::Memory(ipvs::Memory::default()),
    };
    let state = (mode == Mode::Real).then(|| config.daemon.state_directory.clone());
    let now = Instant::now();
    let mut balancer = Balancer::new(mode, config, now);
    let (publish, snapshots) = watch::channel(balancer.snapshot(now));
    let (events, inbox) = mpsc::channel(control::EVENTS);
    parts.spawn(control::run(balancer, inbox, publish));
    parts.spawn(ipvs::run(
        table,
        state.clone(),
        snapshots.clone(),
        events.clone(),
    ));
    parts.spawn(source::run(state, snapshots.clone(), events));
    snapshots
}

/// All services have one address, and IP literals for servers: nothing to resolve, nothing to watch.
fn config(cluster: &Cluster, services: u32, state: &std::path::Path) -> String {
    let mut text = format!(
        "[daemon]\nstate-directory = {state:?}\n{}",
        cluster.section()
    );
    for service in 0..services {
        let (name, port) = (name(service), 1000 + service);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[service.{name}]\naddress = \"192.0.2.1\"\nport = {port}\nprotocol = \"tcp\"\nscheduler = \"wrr\"\n\
             depool-guard = \"off\"\nservers = \"etcd:dc/cluster/{name}\"\n\
             [service.{name}.bgp]\nannounce = false\n"
        );
    }
    text
}

fn node(weight: u32) -> Node {
    Node {
        weight: Weight::new(weight).expect("small"),
        pooled: Pooled::Yes,
        reason: None,
        confirmed: false,
    }
}

fn name(service: u32) -> ServiceName {
    format!("service{service:04}").parse().expect("a good name")
}

fn address((service, server): (u32, u32)) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + service * 256 + server))
}

fn key(of: (u32, u32)) -> String {
    let (name, host) = (name(of.0), Host::from(address(of)));
    format!("/conftool/v1/pools/dc/cluster/{name}/{host}")
}

/// The kernel's destinations by their service's port.
fn ipvsadm() -> BTreeMap<u32, BTreeMap<IpAddr, Weight>> {
    let output = Command::new("ipvsadm")
        .arg("-Sn")
        .output()
        .expect("ipvsadm");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut table: BTreeMap<u32, BTreeMap<IpAddr, Weight>> = BTreeMap::new();
    for line in text.lines() {
        // -a -t 192.0.2.1:1000 -r 10.0.0.1:1000 -g -w 10
        let words: Vec<&str> = line.split(' ').collect();
        let ["-a", "-t", service, "-r", server, "-g", "-w", weight] = words[..] else {
            continue;
        };
        let port = service
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let server: std::net::SocketAddr = server.parse().expect("an address");
        let weight = weight.parse().ok().and_then(Weight::new);
        table
            .entry(port.expect("a port"))
            .or_default()
            .insert(server.ip(), weight.expect("a weight"));
    }
    table
}
