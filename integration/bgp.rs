//! The BGP sink against real routers: BIRD and FRR, each in a network namespace of its own. What a
//! router has is asked of the router. Needs root, iproute2, bird2 and frr.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test: a failure is a panic, the clock is the world's"
)]

#[path = "bgp/fake.rs"]
mod fake;
#[path = "bgp/hostile.rs"]
mod hostile;
#[path = "netns.rs"]
mod netns;
#[path = "bgp/operated.rs"]
mod operated;
#[path = "bgp/policy.rs"]
mod policy;
#[path = "bgp/received.rs"]
mod received;
#[expect(dead_code, reason = "the matrix of interoperability uses all of it")]
#[path = "routers.rs"]
mod router;
#[path = "bgp/sockets.rs"]
mod sockets;
#[path = "bgp/speaker.rs"]
mod speaker;
#[path = "bgp/undisturbed.rs"]
mod undisturbed;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use netns::{Namespace, until};
use plimsoll::config::{Bgp, Peer};
use plimsoll::routing::PeerId;
use plimsoll::routing::session::SessionState;
use router::{Kind, Route, Router, Settings};
use speaker::{Speaker, peer};

const LOCAL_AS: u32 = 4_200_000_001;
const ROUTER_AS: u32 = 65001;
const US: &str = "10.9.0.1";
const US_V6: &str = "fd00:9::1";

/// The balancer's namespace, and routers on one wire with it: the n-th has 10.9.0.2+n and fd00:9::2+n.
struct Lab {
    balancer: Namespace,
    routers: Vec<Router>,
}

impl Lab {
    fn new(kinds: &[Kind], adjust: impl Fn(&mut Settings)) -> Lab {
        let balancer = Namespace::new("lb");
        balancer.ip("link add wire type bridge");
        balancer.ip(&format!("address add {US}/24 dev wire"));
        balancer.ip(&format!("address add {US_V6}/64 dev wire nodad"));
        balancer.ip("link set wire up");
        let routers = kinds.iter().enumerate().map(|(n, kind)| {
            let (namespace, device, n) = (Namespace::new("rt"), format!("veth{n}"), n + 2);
            let addresses = [format!("10.9.0.{n}"), format!("fd00:9::{n}")];
            let theirs = [
                format!("{}/24", addresses[0]),
                format!("{}/64", addresses[1]),
            ];
            balancer.cable(&device, &[], &namespace, &[&theirs[0], &theirs[1]]);
            balancer.ip(&format!("link set {device} master wire"));
            let mut settings = Settings {
                asn: ROUTER_AS,
                router_id: Ipv4Addr::new(10, 9, 0, n as u8),
                address: addresses[0].clone(),
                neighbor: US.into(),
                neighbor_as: LOCAL_AS,
                ..Settings::default()
            };
            adjust(&mut settings);
            Router::start(*kind, namespace, settings)
        });
        let routers = routers.collect();
        Lab { balancer, routers }
    }

    /// One router of this kind, one balancer that knows it, and 192.0.2.1 and 2001:db8::1 announced.
    fn up(kind: Kind) -> (Lab, Speaker) {
        let lab = Lab::new(&[kind], |_| {});
        let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
        speaker.announce("192.0.2.1", 10);
        speaker.announce("2001:db8::1", 20);
        speaker.until_state(FIRST, SessionState::Established);
        lab.routers[0].expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
        speaker.until_announced(&["192.0.2.1", "2001:db8::1"]);
        (lab, speaker)
    }
}

fn bgp(peers: &[IpAddr]) -> Bgp {
    Bgp {
        local_as: LOCAL_AS,
        router_id: Ipv4Addr::new(10, 9, 0, 1),
        policy: Arc::default(),
        shutdown_text: None,
        listen: vec!["0.0.0.0:179".parse().unwrap(), "[::]:179".parse().unwrap()],
        peers: peers
            .iter()
            .map(|address| entry(peer(*address, ROUTER_AS)))
            .collect(),
    }
}

fn entry(peer: Peer) -> (PeerId, Arc<Peer>) {
    (peer.id.clone(), Arc::new(peer))
}

/// What a router of another AS without policy has of a route of ours.
fn route(next_hop: &str, med: u32) -> Route {
    Route {
        next_hop: next_hop.into(),
        med,
        as_path: LOCAL_AS.to_string(),
        ..Route::default()
    }
}

fn v4(prefix: &str, med: u32) -> (String, Route) {
    (format!("{prefix}/32"), route(US, med))
}

fn v6(prefix: &str, med: u32) -> (String, Route) {
    (format!("{prefix}/128"), route(US_V6, med))
}

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 3));

/// Announced, changed without a reset, withdrawn.
fn routes(kind: Kind) {
    let (lab, mut speaker) = Lab::up(kind);
    let router = &lab.routers[0];
    let session = router.session();
    assert_eq!(speaker.trouble, None);

    speaker.announce("192.0.2.2", 10);
    speaker.announce("192.0.2.1", 77);
    speaker.announce("2001:db8::1", 78);
    router.expect(&[
        v4("192.0.2.1", 77),
        v4("192.0.2.2", 10),
        v6("2001:db8::1", 78),
    ]);
    speaker.until_announced(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);

    speaker.configure_peer(FIRST, |peer| {
        peer.next_hop_ipv4 = Some(Ipv4Addr::new(10, 9, 0, 99))
    });
    let other = |med| route("10.9.0.99", med);
    router.expect(&[
        ("192.0.2.1/32".into(), other(77)),
        ("192.0.2.2/32".into(), other(10)),
        v6("2001:db8::1", 78),
    ]);

    speaker.withdraw("192.0.2.1");
    speaker.withdraw("2001:db8::1");
    router.expect(&[("192.0.2.2/32".into(), other(10))]);
    speaker.until_announced(&["192.0.2.2"]);
    speaker.publish(|snapshot| drop(snapshot.vips.remove(&IpAddr::from([192, 0, 2, 2]))));
    router.expect(&[]);
    speaker.until_announced(&[]);

    assert_eq!(router.session(), session, "the session was not reset");
    let established = speaker
        .history
        .iter()
        .filter(|(_, s)| *s == SessionState::Established)
        .count();
    assert_eq!(
        (established, speaker.state(FIRST)),
        (1, Some(SessionState::Established))
    );
}

#[test]
fn routes_bird() {
    routes(Kind::Bird);
}

#[test]
fn routes_frr() {
    routes(Kind::Frr);
}

/// Thousands of prefixes, there and gone again, with a refresh asked for in between.
fn many(kind: Kind, refresh: &str) {
    let (lab, mut speaker) = Lab::up(kind);
    let router = &lab.routers[0];
    speaker.publish(|snapshot| {
        let vip = snapshot.vips[&IpAddr::from([192, 0, 2, 1])].clone();
        for n in 0..2500u32 {
            let address = Ipv4Addr::from_bits(0xc612_0000 + n);
            snapshot.vips.insert(address.into(), vip.clone());
        }
        for n in 0..600u128 {
            let address = std::net::Ipv6Addr::from_bits((0x2001_0db8_0001 << 80) + n);
            snapshot.vips.insert(address.into(), vip.clone());
        }
    });
    let count = |wanted: usize| {
        until(Duration::from_secs(30), "all routes", || {
            (router.routes().len() == wanted).then_some(())
        });
    };
    count(3102);
    router.ask(refresh);
    let session = router.session();
    speaker.announce("192.0.2.99", 1);
    count(3103);
    assert_eq!(router.session(), session);
    speaker.publish(|snapshot| snapshot.vips = Default::default());
    count(0);
    speaker.until_announced(&[]);
}

#[test]
fn many_bird() {
    many(Kind::Bird, "reload in lb");
}

#[test]
fn many_frr() {
    many(Kind::Frr, "clear bgp 10.9.0.1 soft in");
}

/// The router hangs: the hold timer ends the session, and it comes back.
fn hold_timer(kind: Kind) {
    let (lab, mut speaker) = Lab::up(kind);
    let router = &lab.routers[0];
    router.freeze();
    let frozen = Instant::now();
    speaker.until(Duration::from_secs(10), "the session ends", |speaker| {
        speaker.state(FIRST) != Some(SessionState::Established)
    });
    let lasted = frozen.elapsed().as_secs_f64();
    assert!(
        (1.5..4.0).contains(&lasted),
        "hold time 3 s: it took {lasted}"
    );
    assert_eq!(speaker.fault(FIRST), "hold timer expired (4/0)");
    speaker.until_announced(&[]);
    router.thaw();
    speaker.until_state(FIRST, SessionState::Established);
    router.expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
    speaker.until_announced(&["192.0.2.1", "2001:db8::1"]);
    assert_eq!(speaker.fault(FIRST), "");
}

#[test]
fn hold_timer_bird() {
    hold_timer(Kind::Bird);
}

#[test]
fn hold_timer_frr() {
    hold_timer(Kind::Frr);
}

/// The router is killed, stays away for a while, and comes back.
fn router_restart(kind: Kind) {
    let (mut lab, mut speaker) = Lab::up(kind);
    lab.routers[0].kill();
    speaker.until(Duration::from_secs(5), "the session ends", |speaker| {
        speaker.state(FIRST) != Some(SessionState::Established)
    });
    // A try that is refused at once need not show as a state, but it sets the time of the next one.
    let (mut last, mut waits) = (0, 0);
    until(Duration::from_secs(20), "two tries", || {
        let next = speaker.session(FIRST).figures.retry_timer.load(Relaxed);
        if next > last + 500 {
            (last, waits) = (next, waits + 1);
        }
        (waits >= 3).then_some(())
    });
    speaker.withdraw("2001:db8::1");
    lab.routers[0].run();
    speaker.until_state(FIRST, SessionState::Established);
    lab.routers[0].expect(&[v4("192.0.2.1", 10)]);
    speaker.until_announced(&["192.0.2.1"]);
}

#[test]
fn router_restart_bird() {
    router_restart(Kind::Bird);
}

#[test]
fn router_restart_frr() {
    router_restart(Kind::Frr);
}

/// Only the router connects, only we do.
fn who_connects(kind: Kind) {
    for passive in [false, true] {
        let lab = Lab::new(&[kind], |settings| settings.passive = passive);
        let mut bgp = bgp(&[FIRST]);
        if passive {
            bgp.listen.clear();
        } else {
            // Nobody answers there.
            let peer = bgp.peers.get_mut(&PeerId::from(FIRST)).unwrap();
            Arc::make_mut(peer).port = 1179;
        }
        let mut speaker = Speaker::start(&lab.balancer, bgp);
        speaker.announce("192.0.2.1", 10);
        speaker.until_state(FIRST, SessionState::Established);
        lab.routers[0].expect(&[v4("192.0.2.1", 10)]);
        speaker.stop();
        speaker.until_state(FIRST, SessionState::Idle);
    }
}

#[test]
fn who_connects_bird() {
    who_connects(Kind::Bird);
}

#[test]
fn who_connects_frr() {
    who_connects(Kind::Frr);
}

/// Both connect at once, with the larger identifier here and there: each time one session stays.
fn collisions(kind: Kind) {
    const ROUNDS: usize = 12;
    const WANTED: usize = 2;
    let (mut lab, mut speaker) = Lab::up(kind);
    let ids = [[10, 250, 0, 1], [10, 1, 0, 1]];
    let mut met = ids.map(|_| 0);
    for round in 0..ROUNDS {
        let (id, before) = (round % ids.len(), collisions_told(&lab.routers[0]));
        collide(&mut lab, &mut speaker, ids[id].into());
        met[id] += usize::from(collisions_told(&lab.routers[0]) > before);
        if met.iter().all(|met| *met >= WANTED) {
            break;
        }
    }
    // It stays for longer than the hold time.
    let router = &lab.routers[0];
    let session = router.session();
    speaker.catch_up();
    speaker.history.clear();
    std::thread::sleep(Duration::from_secs(5));
    speaker.catch_up();
    assert_eq!((&speaker.history[..], router.session()), (&[][..], session));
    assert!(
        met.iter().all(|met| *met >= WANTED),
        "{met:?} of {ROUNDS} rounds were collisions with {ids:?}: {}",
        router.log()
    );
}

/// A round of it. On a busy machine there may be no collision: if the router goes on late, its first act may be to give
/// its own connection up.
fn collide(lab: &mut Lab, speaker: &mut Speaker, id: Ipv4Addr) {
    let router = &mut lab.routers[0];
    router.kill();
    lab.balancer.ip("link set veth0 nomaster");
    speaker.configure(|bgp| bgp.router_id = id);
    router.run();
    // The router tries to connect, in vain, and hangs. Then the wire is whole again: its system
    // completes its connection and takes ours for it. When it goes on it finds both.
    let limit = Duration::from_secs(30);
    until(limit, "the router tries", || {
        if !router.connects() {
            return None;
        }
        router.freeze();
        let tries = router.connects();
        if !tries {
            router.thaw();
        }
        tries.then_some(())
    });
    lab.balancer.ip("link set veth0 master wire");
    until(limit, "both connections", || {
        let (ours, its) = router.connections();
        (ours >= 1 && its >= 1).then_some(())
    });
    router.thaw();
    speaker.until(limit, "established", |speaker| {
        speaker.state(FIRST) == Some(SessionState::Established)
    });
    lab.routers[0].expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
}

/// By its log, which it goes on with when it is started again.
fn collisions_told(router: &Router) -> usize {
    router.log().matches("ollision").count()
}

#[test]
fn collisions_bird() {
    collisions(Kind::Bird);
}

#[test]
fn collisions_frr() {
    collisions(Kind::Frr);
}

/// Another identifier needs another OPEN: the router is told so, and the session comes back.
fn another_identity(kind: Kind, told: &str) {
    let (lab, mut speaker) = Lab::up(kind);
    let router = &lab.routers[0];
    speaker.history.clear();
    speaker.configure(|bgp| bgp.router_id = Ipv4Addr::new(10, 250, 0, 1));
    speaker.until(Duration::from_secs(20), "down and up again", |speaker| {
        speaker
            .history
            .iter()
            .any(|(_, state)| *state < SessionState::Established)
            && speaker.state(FIRST) == Some(SessionState::Established)
    });
    router.expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
    assert!(router.log().contains(told), "{}", router.log());
}

#[test]
fn another_identity_bird() {
    another_identity(Kind::Bird, "Received: Other configuration change");
}

#[test]
fn another_identity_frr() {
    another_identity(Kind::Frr, "6/6 (Cease/Other Configuration Change)");
}

/// Withdrawn first, then Cease / Administrative Shutdown, and no way back.
fn stop(kind: Kind, removed: &str, shutdown: &str) {
    let (lab, mut speaker) = Lab::up(kind);
    let router = &lab.routers[0];
    speaker.stop();
    speaker.until_announced(&[]);
    speaker.until_state(FIRST, SessionState::Idle);
    router.expect(&[]);
    let log = until(
        Duration::from_secs(5),
        "the router logs the shutdown",
        || Some(router.log()).filter(|log| log.contains(shutdown)),
    );
    let at = |what: &str| {
        log.find(what)
            .unwrap_or_else(|| panic!("no {what:?} in {log}"))
    };
    assert!(
        at(removed) < at(shutdown),
        "withdrawn before the goodbye: {log}"
    );
    let port = SocketAddr::new(US.parse().unwrap(), 179);
    let namespace = lab.balancer.handle();
    let connects = std::thread::spawn(move || {
        namespace.enter();
        TcpStream::connect_timeout(&port, Duration::from_secs(5)).is_ok()
    });
    assert!(!connects.join().unwrap(), "nobody listens any more");
    assert_eq!(speaker.fault(FIRST), "");
}

#[test]
fn stop_bird() {
    stop(Kind::Bird, "removed", "Received: Administrative shutdown");
}

#[test]
fn stop_frr() {
    stop(Kind::Frr, "withdrawn", "Administrative Shutdown");
}

/// An IPv6 session, inside one AS: empty AS path, LOCAL_PREF.
fn internal_over_ipv6(kind: Kind) {
    let lab = Lab::new(&[kind], |settings| {
        settings.address = "fd00:9::2".into();
        settings.neighbor = US_V6.into();
        settings.asn = LOCAL_AS;
    });
    let router: IpAddr = "fd00:9::2".parse().unwrap();
    let mut bgp = bgp(&[]);
    bgp.peers.extend([entry(peer(router, LOCAL_AS))]);
    let mut speaker = Speaker::start(&lab.balancer, bgp);
    speaker.announce("192.0.2.1", 10);
    speaker.announce("2001:db8::1", 20);
    speaker.until_state(router, SessionState::Established);
    let internal = |(prefix, route): (String, Route)| {
        (
            prefix,
            Route {
                as_path: String::new(),
                local_pref: Some(100),
                ..route
            },
        )
    };
    lab.routers[0].expect(&[
        internal(v4("192.0.2.1", 10)),
        internal(v6("2001:db8::1", 20)),
    ]);
}

#[test]
fn internal_over_ipv6_bird() {
    internal_over_ipv6(Kind::Bird);
}

#[test]
fn internal_over_ipv6_frr() {
    internal_over_ipv6(Kind::Frr);
}

/// What happens to one peer is nothing to the other: it hangs, goes, comes.
#[test]
fn peers_do_not_touch_each_other() {
    let lab = Lab::new(&[Kind::Bird, Kind::Frr], |_| {});
    let (bird, frr) = (&lab.routers[0], &lab.routers[1]);
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.announce("192.0.2.1", 10);
    speaker.until_state(FIRST, SessionState::Established);
    bird.expect(&[v4("192.0.2.1", 10)]);
    let session = bird.session();

    speaker.configure(|bgp| bgp.peers.extend([entry(peer(SECOND, ROUTER_AS))]));
    speaker.until_state(SECOND, SessionState::Established);
    frr.expect(&[v4("192.0.2.1", 10)]);

    frr.freeze();
    for n in 0..50 {
        speaker.announce("192.0.2.2", n);
        speaker.withdraw("192.0.2.3");
        speaker.announce("192.0.2.3", n);
    }
    speaker.withdraw("192.0.2.1");
    bird.expect(&[v4("192.0.2.2", 49), v4("192.0.2.3", 49)]);
    frr.thaw();
    frr.expect(&[v4("192.0.2.2", 49), v4("192.0.2.3", 49)]);

    speaker.until_announced(&["192.0.2.2", "192.0.2.3"]);
    speaker.configure(|bgp| bgp.peers.retain(|peer, _| *peer != SECOND.into()));
    frr.expect(&[]);
    speaker.until_state(SECOND, SessionState::Idle);
    until(Duration::from_secs(5), "FRR is told why", || {
        frr.log()
            .contains("6/3 (Cease/Peer De-configured)")
            .then_some(())
    });
    speaker.configure(|bgp| bgp.peers.extend([entry(peer(SECOND, ROUTER_AS))]));
    speaker.until_state(SECOND, SessionState::Established);
    frr.expect(&[v4("192.0.2.2", 49), v4("192.0.2.3", 49)]);

    assert_eq!(bird.session(), session, "the first session was not reset");
    // No BGP at all any more.
    speaker.publish(|snapshot| Arc::make_mut(&mut snapshot.config).bgp = None);
    bird.expect(&[]);
    frr.expect(&[]);
    speaker.until_announced(&[]);
}

/// Whoever is no peer is not answered.
#[test]
fn strangers_are_sent_away() {
    let lab = Lab::new(&[], |_| {});
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.until_state(FIRST, SessionState::Connect);
    let namespace = lab.balancer.handle();
    let stranger = std::thread::spawn(move || {
        namespace.enter();
        let to = SocketAddr::new(US.parse().unwrap(), 179);
        let mut stream = until(Duration::from_secs(5), "it listens", || {
            TcpStream::connect(to).ok()
        });
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.read(&mut [0]).unwrap()
    });
    assert_eq!(stranger.join().unwrap(), 0, "closed without a word");
}

/// A port that is taken is reported, tried again, and the session comes by the other way meanwhile.
#[test]
fn a_taken_port_is_reported_and_tried_again() {
    let lab = Lab::new(&[Kind::Bird], |_| {});
    let namespace = lab.balancer.handle();
    let taken = std::thread::spawn(move || {
        namespace.enter();
        std::net::TcpListener::bind("0.0.0.0:179").unwrap()
    });
    let taken = taken.join().unwrap();
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.until(Duration::from_secs(5), "trouble", |speaker| {
        speaker
            .trouble
            .as_ref()
            .is_some_and(|fault| fault.contains("0.0.0.0:179"))
    });
    speaker.until_state(FIRST, SessionState::Established);
    drop(taken);
    speaker.until(Duration::from_secs(20), "no trouble", |speaker| {
        speaker.trouble.is_none()
    });
}
