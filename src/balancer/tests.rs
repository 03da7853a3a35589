//! Stories: events in, expected snapshot out. After every step the invariants of [`invariants`] are checked.

mod announcing;
mod comeback;
mod draining;
mod invariants;
mod lists;
mod overrides;
mod ports;
mod random;
mod reckoned;
mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Balancer;
use crate::check::{Check, Comeback, IdleConnection, Monitor, Probe};
use crate::config::{Api, Bgp, Config, Daemon, DepoolGuard, Servers, Service, Threshold};
use crate::event::{Event, Verdict};
use crate::routing::Policy;
use crate::service::{
    Destination, Destinations, Host, Listed, Listing, Protocol, ServerList, ServiceName,
    VirtualService, Weight,
};
use crate::snapshot::{self, Mode, Pooled, Snapshot};

/// A balancer, its latest snapshot, and the time as the story has it.
struct Story {
    balancer: Balancer,
    now: Instant,
    snapshot: Arc<Snapshot>,
    /// The services for which the kernel has a server that gets new connections, as the story says.
    kernel: BTreeSet<VirtualService>,
    /// What the kernel was last read to hold, of those services that it did not refuse since.
    in_kernel: BTreeMap<VirtualService, Arc<Destinations>>,
    /// The most servers that a service's list, or the kernel's table for it, ever had.
    largest: BTreeMap<VirtualService, usize>,
    /// The services of which the kernel's table has been told.
    found: BTreeSet<VirtualService>,
    /// The services that were configured while their address was announced.
    came_later: BTreeSet<VirtualService>,
    /// Since when the kernel shall have a server.
    entered: BTreeMap<(VirtualService, Host), Instant>,
    /// How the addresses that are announced, or were, have fared.
    seen: BTreeMap<IpAddr, reckoned::Seen>,
}

impl Story {
    fn new(config: Config) -> Story {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can be had in no other way; the story moves it on"
        )]
        let now = Instant::now();
        Story::at(now, config)
    }

    fn at(now: Instant, config: Config) -> Story {
        let mut balancer = Balancer::new(Mode::Real, Arc::new(config), now);
        let snapshot = balancer.snapshot(now);
        let mut story = Story {
            balancer,
            now,
            snapshot,
            kernel: BTreeSet::new(),
            in_kernel: BTreeMap::new(),
            largest: BTreeMap::new(),
            found: BTreeSet::new(),
            came_later: BTreeSet::new(),
            entered: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        story.measure();
        story.hold();
        story
    }

    /// A pool that the kernel does not have yet and whose address is on the host.
    fn started(config: Config) -> Story {
        let mut story = Story::new(config);
        let keys: Vec<VirtualService> = story.snapshot.services.values().map(|s| s.key()).collect();
        story.event(Event::Found(
            keys.iter().map(|key| (*key, Destinations::new())).collect(),
        ));
        let services = story.snapshot.services.values();
        let present = services.map(|service| service.config.address).collect();
        story.event(Event::Addresses {
            present,
            faults: BTreeMap::new(),
        });
        story
    }

    fn event(&mut self, event: Event) -> &mut Story {
        let step = Duration::from_millis(1);
        // What is due comes before what happens.
        if self
            .balancer
            .wake_at()
            .is_some_and(|at| at <= self.now + step)
        {
            self.pass(step);
        } else {
            self.now += step;
        }
        let before = self.snapshot.clone();
        for event in flat(&event) {
            self.note(event);
        }
        self.balancer.handle(event.clone(), self.now);
        self.snapshot = self.balancer.snapshot(self.now);
        self.measure();
        self.hold();
        invariants::hold_over(&before, &event, self);
        self
    }

    fn hold(&mut self) {
        invariants::hold(self);
        reckoned::hold(self);
    }

    fn measure(&mut self) {
        for service in self.snapshot.services.values() {
            let largest = self.largest.entry(service.key()).or_default();
            *largest = service.size.max(*largest);
            for (host, server) in service.servers.iter() {
                let entry = self.entered.entry((service.key(), host.clone()));
                if server.pooled.in_ipvs() {
                    entry.or_insert(self.now);
                }
            }
        }
        let there = |key: &VirtualService, host: &Host| {
            let mut services = self.snapshot.services.values();
            let service = services.find(|service| service.key() == *key);
            let server = service.and_then(|service| service.servers.get(host));
            server.is_some_and(|server| server.pooled.in_ipvs())
        };
        self.entered.retain(|(key, host), _| there(key, host));
    }

    /// What the story itself knows from an event that is about to happen.
    fn note(&mut self, event: &Event) {
        let mut read = |key: VirtualService, serves: bool| {
            if serves {
                self.kernel.insert(key);
            } else {
                self.kernel.remove(&key);
            }
        };
        if let Event::Applied {
            service,
            destinations,
        } = event
        {
            read(
                *service,
                destinations.values().any(|to| to.weight.get() > 0),
            );
            self.in_kernel.insert(*service, destinations.clone());
        } else if let Event::NotApplied { service, holds, .. } = event {
            read(*service, *holds);
            self.in_kernel.remove(service);
        } else if let Event::List { service, list, .. } = event {
            if let Some(view) = self.snapshot.services.get(service) {
                let largest = self.largest.entry(view.key()).or_default();
                *largest = list.servers.len().max(*largest);
            }
        } else if let Event::Found(table) = event {
            for (key, destinations) in table {
                let largest = self.largest.entry(*key).or_default();
                *largest = destinations.len().max(*largest);
            }
        } else if let Event::Configured(config) = event {
            let keys = |config: &Config| -> BTreeMap<VirtualService, IpAddr> {
                let services = config.services.values();
                services
                    .map(|service| (service.key, service.address))
                    .collect()
            };
            let announced = |address: &IpAddr| {
                let vip = self.snapshot.vips.get(address);
                vip.is_some_and(|vip| vip.announce.is_ok())
            };
            let (new, old) = (keys(config), keys(&self.snapshot.config));
            self.in_kernel.retain(|key, _| new.contains_key(key));
            let come = new
                .iter()
                .filter(|(key, address)| !old.contains_key(key) && announced(address));
            let come: Vec<_> = come.map(|(key, _)| *key).collect();
            self.kernel.retain(|key| new.contains_key(key));
            self.came_later.retain(|key| new.contains_key(key));
            self.came_later.extend(come);
        }
    }

    fn list(&mut self, service: &str, list: ServerList) -> &mut Story {
        self.listing(service, Listing::from(list))
    }

    fn listing(&mut self, service: &str, list: Listing) -> &mut Story {
        let event = self.list_event(service, list);
        self.event(event)
    }

    fn list_event(&self, service: &str, list: Listing) -> Event {
        Event::List {
            service: name(service),
            from: self.service(service).config.servers.clone(),
            list: Arc::new(list),
        }
    }

    /// All of a server's monitors say so.
    fn all(&mut self, service: &str, host: &str, verdict: &Verdict) -> &mut Story {
        let of_host = |(id, check): (&_, &Arc<Check>)| (check.host.as_str() == host).then_some(*id);
        let checks: Vec<_> = self
            .service(service)
            .checks
            .iter()
            .filter_map(of_host)
            .collect();
        for check in checks {
            self.event(Event::Checked {
                service: name(service),
                check,
                verdict: verdict.clone(),
            });
        }
        self
    }

    fn up(&mut self, service: &str, host: &str) -> &mut Story {
        self.all(service, host, &Verdict::Up)
    }

    fn down(&mut self, service: &str, host: &str) -> &mut Story {
        self.all(service, host, &Verdict::Down("connection refused".into()))
    }

    /// The kernel does what it is told, for all services.
    fn apply(&mut self) -> &mut Story {
        let wanted: Vec<_> = self
            .snapshot
            .services
            .values()
            .filter_map(|s| Some((s.key(), s.destinations.clone()?)))
            .collect();
        for (service, destinations) in wanted {
            self.event(Event::Applied {
                service,
                destinations,
            });
        }
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Story {
        self.now += time;
        self.balancer.tick(self.now);
        self.snapshot = self.balancer.snapshot(self.now);
        self.measure();
        self.hold();
        self
    }

    fn service(&self, service: &str) -> &Arc<snapshot::Service> {
        self.snapshot
            .services
            .get(service)
            .expect("the story names a configured service")
    }

    /// The pool in one line: `a up pooled, b down held`.
    fn check(&mut self, service: &str, expected: &str) -> &mut Story {
        let line = |(host, server): (&Host, &snapshot::Server)| match server.pooled {
            Pooled::Held(why) => format!("{host} {server} ({why})"),
            Pooled::Yes | Pooled::No => format!("{host} {server}"),
        };
        let seen: Vec<String> = self.service(service).servers.iter().map(line).collect();
        assert_eq!(seen.join("\n"), lines(expected).join("\n"));
        self
    }

    /// What is announced and why not, by address: `192.0.2.1 med 1005 graceful-shutdown`.
    fn check_vips(&mut self, expected: &str) -> &mut Story {
        let line = |(address, vip): (&IpAddr, &Arc<snapshot::Vip>)| match &vip.announce {
            Ok(announcement) => {
                let told = announcement.attributes(None);
                let communities = told.communities.iter().map(|c| format!(" {c}"));
                let communities: String = communities.collect();
                format!("{address} med {}{communities}", told.med)
            }
            Err(why) => format!("{address}: {why}"),
        };
        let seen: Vec<String> = self.snapshot.vips.iter().map(line).collect();
        assert_eq!(seen.join("\n"), lines(expected).join("\n"));
        self
    }
}

/// The event itself, or those that happened at once.
fn flat(event: &Event) -> Vec<&Event> {
    if let Event::Together(events) = event {
        events.iter().flat_map(flat).collect()
    } else {
        vec![event]
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

fn name(name: &str) -> ServiceName {
    name.parse().expect("the story's names are good")
}

fn host(host: &str) -> Host {
    host.parse().expect("the story's names are good")
}

fn weight(weight: u32) -> Weight {
    Weight::new(weight).expect("the story's weights are good")
}

/// Servers 10.0.0.1, 10.0.0.2, …, enabled, weight 10.
fn servers(count: u8) -> ServerList {
    (1..=count)
        .map(|i| (host(&format!("10.0.0.{i}")), listed(true)))
        .collect()
}

fn listed(enabled: bool) -> Listed {
    Listed {
        enabled,
        weight: weight(10),
    }
}

fn monitor(max_delay: u64) -> Arc<Monitor> {
    let probe = Probe::IdleConnection(IdleConnection {
        timeout_clean_reconnect: Duration::from_secs(3),
        max_delay: Duration::from_secs(max_delay),
        keepalive: None,
    });
    Arc::new(Monitor::new(
        probe,
        Duration::from_secs(1),
        Duration::from_secs(5),
    ))
}

fn service(service: &str, address: &str, port: u16) -> Service {
    let address = address.parse().expect("the story's addresses are good");
    let key = VirtualService::Address {
        protocol: Protocol::Tcp,
        address,
        port,
    };
    let servers = Servers::File(format!("/pools/{service}.json").into());
    Service {
        monitors: vec![monitor(300)],
        drain_timeout: Duration::ZERO,
        ..Service::new(name(service), address, key, servers)
    }
}

/// A server's place in the kernel's table, in a service on port 80.
fn backend(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

fn config(services: impl IntoIterator<Item = Service>) -> Config {
    Config {
        daemon: Daemon {
            state_directory: "/state".into(),
            manage_addresses: true,
        },
        monitor: Default::default(),
        metrics: Default::default(),
        ipvs: Default::default(),
        api: Api {
            listen: Vec::new(),
            control: None,
        },
        bgp: Some(Bgp {
            local_as: 64600,
            router_id: [10, 64, 0, 11].into(),
            listen: Vec::new(),
            policy: Arc::new(Policy::of_med(5)),
            shutdown_text: None,
            peers: BTreeMap::new(),
        }),
        etcd: None,
        services: services
            .into_iter()
            .map(|s| (s.name.clone(), Arc::new(s)))
            .collect(),
    }
}

fn addresses(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses
        .iter()
        .map(|a| a.parse().expect("the story's addresses are good"))
        .collect()
}
