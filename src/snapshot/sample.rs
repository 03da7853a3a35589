//! Snapshots for tests, written down as an operator would read them. Not part of the program:
//! the unit tests and `integration/api.rs` include it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;

use crate::config::{self, Config};
use crate::routing::{PeerId, Policy};
use crate::service::{Host, Listed, Protocol, Scheduler, ServiceName, VirtualService, Weight};
use crate::snapshot::{
    Applied, Condition, Counters, Health, Held, Mode, MonitorState, Pooled, Server, Service,
    Snapshot, Source, Vip,
};

type Named = (ServiceName, Arc<Service>);

/// A snapshot in which all but the services is quiet: no BGP, no addresses, no faults.
pub(crate) fn snapshot<const N: usize>(services: [Named; N]) -> Snapshot {
    let configs = services
        .iter()
        .map(|(name, s)| (name.clone(), s.config.clone()))
        .collect();
    Snapshot {
        mode: Mode::Real,
        config: Arc::new(configuration(None, configs)),
        services: services.into_iter().collect(),
        retiring: OrdMap::new(),
        vips: OrdMap::new(),
        peers: Arc::default(),
        peer_orders: Default::default(),
        troubles: Arc::default(),
        reload_refused: None,
        stopping: false,
    }
}

/// A service whose list is good and whose kernel state is as wanted; the n-th server has 10.0.0.n.
pub(crate) fn service(name: &str, threshold: f64, servers: &[&str]) -> Named {
    let name: ServiceName = name.parse().unwrap();
    let mut all: BTreeMap<Host, Server> = servers.iter().map(|text| server(text)).collect();
    for (n, server) in (1..).zip(all.values_mut()) {
        server.address = Some(Ipv4Addr::new(10, 0, 0, n).into());
    }
    let pooled = all.values().filter(|s| s.pooled.in_ipvs());
    let destinations = pooled
        .map(|s| (s.address.unwrap(), Weight::DEFAULT))
        .collect();
    let config = config::Service {
        name: name.clone(),
        key: VirtualService {
            protocol: Protocol::Tcp,
            address: ip("192.0.2.1"),
            port: 80,
        },
        scheduler: Scheduler::Wrr,
        one_packet: false,
        depool_threshold: config::Threshold::new(threshold).unwrap(),
        depool_guard: config::DepoolGuard::Floor,
        servers: config::Servers::File("/pools.json".into()),
        monitors: Vec::new(),
        announce: Arc::default(),
    };
    let service = Service {
        config: Arc::new(config),
        size: all.values().filter(|s| s.listed.is_some()).count(),
        servers: Arc::new(all),
        destinations: Some(Arc::new(destinations)),
        applied: Applied::Yes,
        checks: Arc::default(),
        names: Arc::default(),
        source: Source::Good,
        list_faults: Arc::default(),
        revision: None,
        applied_revision: None,
        guard: None,
        floor: 0,
        condition: Condition::Healthy,
        counters: Counters::default(),
    };
    (name, Arc::new(service))
}

/// `HOST [disabled|gone] [up|partially|unknown] [pooled|held|guarded|late]`; down and not pooled if it does not say.
pub(crate) fn server(text: &str) -> (Host, Server) {
    let mut words = text.split(' ');
    let host = words.next().unwrap().parse().unwrap();
    let words: Vec<&str> = words.collect();
    let says = |word| words.contains(&word);
    let listed = Listed {
        enabled: !says("disabled"),
        weight: Weight::DEFAULT,
    };
    let down = || Some(Err("connection refused".into()));
    let (health, result) = match () {
        () if says("up") => (Health::Up, Some(Ok(()))),
        () if says("partially") => (Health::PartiallyUp, down()),
        () if says("unknown") => (Health::Unknown, None),
        () => (Health::Down, down()),
    };
    let pooled = match () {
        () if says("pooled") => Pooled::Yes,
        () if says("held") => Pooled::Held(Held::DepoolThreshold),
        () if says("guarded") => Pooled::Held(Held::DepoolGuard),
        () if says("late") => Pooled::Held(Held::StaleCatchUp),
        () => Pooled::No,
    };
    let kind = "proxy-fetch";
    let monitors = vec![MonitorState {
        kind,
        result,
        up_transitions: 2,
        down_transitions: 1,
    }];
    let server = Server {
        note: None,
        listed: (!says("gone")).then_some(listed),
        address: Some(ip("10.0.0.99")),
        unresolved: None,
        health,
        monitors,
        pooled,
    };
    (host, server)
}

pub(crate) fn edit((name, mut service): Named, change: impl FnOnce(&mut Service)) -> Named {
    change(Arc::make_mut(&mut service));
    (name, service)
}

pub(crate) fn vip(address: &str, present: bool, fault: Option<&str>) -> (IpAddr, Arc<Vip>) {
    let vip = Vip {
        services: ["web".parse().unwrap()].into(),
        present,
        fault: fault.map(Into::into),
        condition: Condition::Healthy,
        announce: Ok(Policy::of_med(10).into()),
    };
    (ip(address), Arc::new(vip))
}

/// A configuration with these peers and no services.
pub(crate) fn bgp(peers: &[&str]) -> Arc<Config> {
    let peer = |text: &&str| {
        let peer = PeerId::Address(ip(text));
        (peer.clone(), Arc::new(config::Peer::new(peer, 14907)))
    };
    let bgp = config::Bgp {
        local_as: 64600,
        router_id: Ipv4Addr::new(10, 0, 0, 99),
        listen: Vec::new(),
        policy: Arc::default(),
        shutdown_text: None,
        peers: peers.iter().map(peer).collect(),
    };
    Arc::new(configuration(Some(bgp), BTreeMap::new()))
}

pub(crate) fn etcd(api: config::EtcdApi) -> Arc<config::Etcd> {
    Arc::new(config::Etcd {
        endpoints: Vec::new(),
        prefix: "/conftool/v1/pools".into(),
        api,
        ca: None,
        certificate: None,
        key: None,
        user: None,
        password_file: None,
        timeout: Duration::from_secs(5),
        stale_after: Duration::from_secs(60),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn configuration(
    bgp: Option<config::Bgp>,
    services: BTreeMap<ServiceName, Arc<config::Service>>,
) -> Config {
    Config {
        daemon: config::Daemon {
            state_directory: "/state".into(),
            manage_addresses: true,
        },
        api: config::Api { listen: Vec::new() },
        bgp,
        etcd: None,
        services,
    }
}
