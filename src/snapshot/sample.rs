//! Snapshots for tests, written down as an operator would read them. Not part of the program:
//! the unit tests and `integration/api.rs` include it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imbl::OrdMap;
use ipnet::IpNet;

use crate::config::{self, Config};
use crate::routing::session::{
    Figures, Foreign, Hint, Negotiated, Route, Session, SessionState, Told, Untold,
};
use crate::routing::{Attributes, Community, GRACEFUL_SHUTDOWN, Interface, PeerId, Policy, Role};
use crate::service::{Family, Host, Listed, Protocol, ServiceName, VirtualService, Weight};
use crate::snapshot::{
    Announcement, Applied, Condition, Counters, Health, Held, Mode, MonitorState, PeerOrders,
    Pooled, Refusal, Server, Service, Snapshot, Source, Vip,
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
        overrides: Default::default(),
        overrides_kept: true,
        troubles: Arc::default(),
        repairs: Arc::default(),
        reload_refused: None,
        config_file: None,
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
        .map(|s| {
            (
                SocketAddr::new(s.address.unwrap(), 80),
                Weight::DEFAULT.into(),
            )
        })
        .collect();
    let config = config::Service {
        depool_threshold: config::Threshold::new(threshold).unwrap(),
        ..config::Service::new(
            name.clone(),
            ip("192.0.2.1"),
            VirtualService::Address {
                protocol: Protocol::Tcp,
                address: ip("192.0.2.1"),
                port: 80,
            },
            config::Servers::File("/pools.json".into()),
        )
    };
    let service = Service {
        config: Arc::new(config),
        size: all.values().filter(|s| s.listed.is_some()).count(),
        servers: Arc::new(all),
        destinations: Some(Arc::new(destinations)),
        draining: Arc::default(),
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
        refusal: None,
        newcomer: false,
        counters: Counters::default(),
        traffic: Arc::default(),
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
        depool: true,
        up_transitions: 2,
        down_transitions: 1,
        figures: Arc::default(),
    }];
    let server = Server {
        note: None,
        overridden: None,
        listed: (!says("gone")).then_some(listed),
        address: Some(ip("10.0.0.99")),
        unresolved: None,
        health,
        kept_down: None,
        monitors,
        pooled,
        draining: None,
        scaled: Vec::new(),
        stuck: None,
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
        prefix: None,
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

/// 2026-01-02T03:04:05Z, and so many seconds.
pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_323_045 + seconds)
}

/// Gives a snapshot four peers, of which the first has a session, the second is refused, the third is disabled
/// and the fourth unheard of, and four addresses. Its session came up at [`at`] 0; the timers run at 11,520.
pub(crate) fn sessions(snapshot: &mut Snapshot) {
    let interface = |name| Interface::new(name).unwrap();
    let ids = [
        PeerId::Address(ip("10.0.0.1")),
        PeerId::Address(ip("2001:db8::1")),
        PeerId::LinkLocal("fe80::1".parse().unwrap(), interface("eth1")),
        PeerId::Interface(interface("eth2")),
    ];
    let config = Arc::make_mut(&mut snapshot.config);
    config.bgp = bgp(&[]).bgp.clone().map(|bgp| config::Bgp {
        peers: ids.iter().map(peer).collect(),
        ..bgp
    });
    let [first, second, third, _] = ids;
    snapshot.peers = Arc::new([(first.clone(), established()), (second, refused())].into());
    let said = |enabled, text: &str, clears| PeerOrders {
        enabled,
        text: Some(text.into()),
        clears,
    };
    let orders = [
        (first, said(None, "new filters", 1)),
        (third, said(Some(false), "new line card", 0)),
    ];
    snapshot.peer_orders = Arc::new(orders.into());
    let mut failed = vip("192.0.2.2", true, None);
    let change = Arc::make_mut(&mut failed.1);
    change.condition = Condition::Failed;
    change.announce = Ok(Announcement {
        to: Some(Arc::new(["core".into()].into())),
        ..Announcement::default()
    });
    let mut refused = vip("192.0.2.3", true, None);
    let change = Arc::make_mut(&mut refused.1);
    change.condition = Condition::Failed;
    change.announce = Err(Refusal::NothingPooled);
    let healthy = ["192.0.2.1", "2001:db8::7"].map(|address| vip(address, true, None));
    snapshot.vips = healthy.into_iter().chain([failed, refused]).collect();
}

fn peer(id: &PeerId) -> (PeerId, Arc<config::Peer>) {
    let mut peer = config::Peer::new(id.clone(), 14907);
    match id {
        PeerId::Address(IpAddr::V4(_)) => {
            peer.description = Some("the first router".into());
            peer.groups = ["core".into()].into();
            peer.maximum_prefixes = 5;
        }
        PeerId::LinkLocal(..) => peer.peer_as = 64600,
        PeerId::Address(IpAddr::V6(_)) | PeerId::Interface(_) => {}
    }
    (id.clone(), Arc::new(peer))
}

fn established() -> Session {
    let told = |seconds_before, code, subcode, text: &str| {
        Some(Arc::new(Told {
            at: at(0) - Duration::from_secs(seconds_before),
            code,
            subcode,
            text: text.into(),
        }))
    };
    let route = |attributes| {
        Arc::new(Route {
            next_hop: ip("10.0.0.99"),
            attributes: Arc::new(attributes),
            inside: None,
        })
    };
    let healthy = Attributes {
        med: 10,
        ..Attributes::default()
    };
    let failed = Attributes {
        med: 1010,
        prepend: 2,
        communities: [GRACEFUL_SHUTDOWN, Community::Standard(64600 << 16 | 100)].into(),
        ..Attributes::default()
    };
    Session {
        state: SessionState::Established,
        since: Some(at(0)),
        told_last: told(0, 6, 4, "Cease / Administrative Reset: new filters"),
        heard_last: told(60, 4, 0, "Hold Timer Expired"),
        negotiated: Some(Arc::new(negotiated())),
        routes: [
            (IpNet::from(ip("192.0.2.1")), route(healthy)),
            (IpNet::from(ip("192.0.2.2")), route(failed)),
        ]
        .into_iter()
        .collect(),
        untold: OrdMap::unit(ip("2001:db8::7"), Untold::Family),
        foreign: foreign().into_iter().collect(),
        over_maximum: [Family::Ipv4].into(),
        figures: Arc::new(figures()),
        ..Session::default()
    }
}

fn refused() -> Session {
    Session {
        state: SessionState::Active,
        since: Some(at(0)),
        fault: Some("connect: connection refused".to_owned()),
        hint: Some(Hint::Refused),
        ..Session::default()
    }
}

fn negotiated() -> Negotiated {
    Negotiated {
        local: "10.0.0.99:40000".parse().unwrap(),
        remote: "10.0.0.1:179".parse().unwrap(),
        identifier: Ipv4Addr::new(10, 0, 0, 1),
        families: [Family::Ipv4].into(),
        hold_time: Duration::from_secs(30),
        four_octet_as: true,
        route_refresh: true,
        enhanced_route_refresh: false,
        extended_messages: false,
        extended_next_hop: false,
        role: Some(Role::Provider),
    }
}

/// Another balancer's announcement of the first address, and our own of the second, returned.
fn foreign() -> [(IpNet, Arc<Foreign>); 2] {
    let other = Foreign {
        ours: false,
        next_hop: Some(ip("10.0.0.98")),
        as_path: "14907 64600".to_owned(),
        med: Some(20),
        local_pref: None,
        communities: [Community::Standard(64600 << 16 | 7)].into(),
    };
    let own = Foreign {
        ours: true,
        next_hop: Some(ip("10.0.0.99")),
        as_path: "64600".to_owned(),
        med: None,
        communities: BTreeSet::new(),
        ..other.clone()
    };
    [
        (ip("192.0.2.1").into(), Arc::new(other)),
        (ip("192.0.2.2").into(), Arc::new(own)),
    ]
}

fn figures() -> Figures {
    let milliseconds = |seconds, more| {
        let since = at(seconds).duration_since(UNIX_EPOCH).unwrap();
        AtomicU64::new(u64::try_from(since.as_millis()).unwrap() + more)
    };
    Figures {
        sent: [2, 3, 1, 4000, 0].map(AtomicU64::new),
        received: [2, 9, 1, 4001, 1].map(AtomicU64::new),
        prefixes: [6, 1].map(AtomicU64::new),
        malformed: AtomicU64::new(8),
        times_established: AtomicU64::new(2),
        times_lost: AtomicU64::new(1),
        hold_timer: milliseconds(11_540, 400),
        keepalive_timer: milliseconds(11_524, 0),
        retry_timer: AtomicU64::new(0),
    }
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
        monitor: Default::default(),
        metrics: Default::default(),
        ipvs: Default::default(),
        api: config::Api {
            listen: Vec::new(),
            control: None,
        },
        bgp,
        etcd: None,
        services,
    }
}
