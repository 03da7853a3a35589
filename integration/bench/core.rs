//! What one event costs the core, from the event to the published snapshot, by the number of services:
//! one server of 20 flaps. Once more for services that all share one address. Invariant 5: it must not depend on how many services there are.
//!
//! `cargo bench --bench core` prints the median of each size and its ratio to the smallest; exit 1 if an
//! event at 1,000 services costs more than twice what it costs at 10.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll::balancer::Balancer;
use plimsoll::check::{IdleConnection, Monitor, Probe};
use plimsoll::config::{Api, Config, Daemon, Servers, Service};
use plimsoll::event::{CheckId, Event, Verdict};
use plimsoll::service::{Host, Listed, Protocol, ServerList, ServiceName, VirtualService, Weight};
use plimsoll::snapshot::{Mode, Snapshot};

/// Services, and the addresses that they have among them.
const SIZES: [(u32, u32); 4] = [(10, 10), (100, 100), (1000, 1000), (1000, 1)];
const SERVERS: u32 = 20;
const ROUNDS: usize = 200;
/// Events a round: the clock's own cost is spread over them.
const EVENTS: u32 = 100;

fn main() -> ExitCode {
    let mut loads: Vec<Load> = SIZES.iter().map(|size| Load::new(*size)).collect();
    let mut times = vec![Vec::with_capacity(ROUNDS); loads.len()];
    // In turns, so that what else the machine does falls on all sizes alike.
    for round in 0..ROUNDS {
        for (load, times) in loads.iter_mut().zip(&mut times) {
            let start = Instant::now();
            for event in 0..EVENTS {
                load.flap(event % 2 == 0);
            }
            if round > 0 {
                times.push(start.elapsed() / EVENTS);
            }
        }
    }
    let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
    let ratio = |median: &Duration| median.as_secs_f64() / medians[0].as_secs_f64();
    println!("services  addresses  event (median of {ROUNDS} rounds)  ratio");
    for ((size, addresses), median) in SIZES.iter().zip(&medians) {
        println!(
            "{size:>8}  {addresses:>9}  {:>8.2} µs                   {:.2}",
            median.as_secs_f64() * 1e6,
            ratio(median)
        );
    }
    if medians.iter().any(|median| ratio(median) > 2.0) {
        println!("an event costs more the more services there are");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A balancer whose every service has all servers up, as one of them is about to flap.
struct Load {
    balancer: Balancer,
    now: Instant,
    service: ServiceName,
    check: CheckId,
    /// As a sink would hold it.
    seen: Arc<Snapshot>,
}

impl Load {
    fn new((services, addresses): (u32, u32)) -> Load {
        let now = Instant::now();
        let mut balancer = Balancer::new(Mode::Real, Arc::new(config(services, addresses)), now);
        let seen = balancer.snapshot(now);
        let keys = seen
            .services
            .values()
            .map(|s| (s.key(), BTreeMap::new()))
            .collect();
        balancer.handle(Event::Found(keys), now);
        let checks: Vec<_> = seen
            .services
            .values()
            .flat_map(|s| s.checks.keys().map(|id| (s.config.name.clone(), *id)))
            .collect();
        assert_eq!(checks.len(), (services * SERVERS) as usize);
        for (service, check) in &checks {
            balancer.handle(
                Event::Checked {
                    service: service.clone(),
                    check: *check,
                    verdict: Verdict::Up,
                },
                now,
            );
        }
        let (service, check) = checks[checks.len() / 2].clone();
        let seen = balancer.snapshot(now);
        Load {
            balancer,
            now,
            service,
            check,
            seen,
        }
    }

    fn flap(&mut self, down: bool) {
        let verdict = if down {
            Verdict::Down("connection refused".into())
        } else {
            Verdict::Up
        };
        self.now += Duration::from_millis(1);
        let event = Event::Checked {
            service: self.service.clone(),
            check: self.check,
            verdict,
        };
        self.balancer.handle(event, self.now);
        self.seen = black_box(self.balancer.snapshot(self.now));
        let pooled = self.seen.services[&self.service]
            .destinations
            .as_ref()
            .map(|d| d.len());
        assert_eq!(pooled, Some(SERVERS as usize - usize::from(down)));
    }
}

fn config(services: u32, addresses: u32) -> Config {
    let service = |i: u32| {
        let name: ServiceName = format!("service-{i:04}").parse().expect("a good name");
        let server = |j: u32| {
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i * SERVERS + j));
            (
                Host::from(address),
                Listed {
                    enabled: true,
                    weight: Weight::DEFAULT,
                },
            )
        };
        let list: ServerList = (0..SERVERS).map(server).collect();
        let probe = IdleConnection {
            timeout_clean_reconnect: Duration::from_secs(3),
            max_delay: Duration::from_secs(300),
            keepalive: None,
        };
        let monitor = Monitor::new(
            Probe::IdleConnection(probe),
            Duration::from_secs(1),
            Duration::from_secs(5),
        );
        let address = IpAddr::V4(Ipv4Addr::from(0xc000_0200 + i % addresses));
        let key = VirtualService::Address {
            protocol: Protocol::Tcp,
            address,
            port: u16::try_from(1000 + i).expect("few services"),
        };
        let service = Service {
            monitors: vec![Arc::new(monitor)],
            ..Service::new(name.clone(), address, key, Servers::Inline(Arc::new(list)))
        };
        (name, Arc::new(service))
    };
    Config {
        daemon: Daemon {
            state_directory: "/var/lib/plimsoll".into(),
            manage_addresses: true,
        },
        monitor: Default::default(),
        metrics: Default::default(),
        ipvs: Default::default(),
        api: Api {
            listen: Vec::new(),
            control: None,
        },
        bgp: None,
        etcd: None,
        services: (0..services).map(service).collect(),
    }
}
