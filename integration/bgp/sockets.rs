//! What the sockets of sessions have: keys, TTL, addresses, interfaces; against routers that have the same, or not.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use plimsoll::config::{Authentication, Bgp, Peer, Ttl};
use plimsoll::routing::session::SessionState;
use plimsoll::routing::{Interface, PeerId};
use plimsoll::secret::Secret;

use crate::netns::{Namespace, Process, counter, run, until};
use crate::router::{Kind, Router, Settings};
use crate::speaker::{Speaker, peer};
use crate::{LOCAL_AS, ROUTER_AS, US, US_V6, bgp, entry, v4, v6};

const LIMIT: Duration = Duration::from_secs(30);
const THEM: &str = "10.9.0.2";
const THEM_V6: &str = "fd00:9::2";
/// Link-local addresses of the two ends of `eth1`, beside those that the kernel makes.
const NEAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x901);
const FAR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x902);

/// A balancer and a router at the two ends of one cable, `eth1` to both.
fn wire() -> (Namespace, Namespace) {
    let (balancer, router) = (Namespace::new("lb"), Namespace::new("rt"));
    plug(&balancer, &router);
    (balancer, router)
}

fn plug(balancer: &Namespace, router: &Namespace) {
    let (near, far) = (format!("{US}/24"), format!("{THEM}/24"));
    let (near_v6, far_v6) = (format!("{US_V6}/64"), format!("{THEM_V6}/64"));
    balancer.cable("eth1", &[&near, &near_v6], router, &[&far, &far_v6]);
}

/// With link-local addresses that a configuration can name.
fn plug_named(balancer: &Namespace, router: &Namespace) {
    plug(balancer, router);
    balancer.ip(&format!("address add {NEAR}/64 dev eth1 nodad"));
    router.ip(&format!("address add {FAR}/64 dev eth1 nodad"));
}

fn settings(address: &str, neighbor: &str, passive: bool) -> Settings {
    Settings {
        asn: ROUTER_AS,
        router_id: Ipv4Addr::new(10, 9, 0, 2),
        address: address.into(),
        neighbor: neighbor.into(),
        neighbor_as: LOCAL_AS,
        passive,
        ..Settings::default()
    }
}

/// With more lines of the neighbor's part.
fn with_lines(settings: Settings, lines: &str) -> Settings {
    Settings {
        lines: lines.into(),
        ..settings
    }
}

/// The neighbor is whoever is at the other end of `eth1`.
fn anybody(lines: &str) -> Settings {
    Settings {
        unnumbered: Some("eth1"),
        ..with_lines(settings("", "eth1", false), lines)
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn eth1() -> PeerId {
    PeerId::Interface(Interface::new("eth1").unwrap())
}

fn password(text: &str) -> Option<Authentication> {
    Some(Authentication::Md5(Secret::new(text.as_bytes())))
}

fn with(peer: Peer) -> Bgp {
    Bgp {
        peers: [entry(peer)].into(),
        ..bgp(&[])
    }
}

/// A speaker that wants 192.0.2.1 and 2001:db8::1 announced.
fn speaker(balancer: &Namespace, peer: Peer) -> Speaker {
    let speaker = Speaker::start(balancer, with(peer));
    speaker.announce("192.0.2.1", 10);
    speaker.announce("2001:db8::1", 20);
    speaker
}

/// Waits until the kernels have dropped that many segments for this reason; the session is never up by then.
fn never_up(speaker: &mut Speaker, at: &[&Namespace], reasons: &[&str]) {
    until(LIMIT, &format!("{reasons:?}"), || {
        let pairs = at
            .iter()
            .flat_map(|at| reasons.iter().map(|reason| counter(at, reason)));
        (pairs.sum::<u64>() >= 3).then_some(())
    });
    speaker.catch_up();
    let up = |(_, state): &(PeerId, SessionState)| *state == SessionState::Established;
    assert!(!speaker.history.iter().any(up), "{:?}", speaker.history);
}

const MD5_DROPS: &[&str] = &["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"];

fn key_line(kind: Kind, key: &str) -> String {
    match kind {
        Kind::Bird => format!("password \"{key}\";"),
        Kind::Frr => format!("neighbor US password {key}"),
        Kind::GoBgp | Kind::OpenBgpd | Kind::ExaBgp => panic!("BIRD and FRR are enough here"),
    }
}

/// Who opens the connection: the other is not asked for, or nothing is there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Opens {
    We,
    They,
}

fn md5(kind: Kind, ipv6: bool, opens: Opens, ours: Option<&str>, theirs: Option<&str>) {
    let (balancer, far) = wire();
    let (us, them) = if ipv6 { (US_V6, THEM_V6) } else { (US, THEM) };
    let lines = theirs.map_or(String::new(), |key| key_line(kind, key));
    let router = Router::start(
        kind,
        far,
        with_lines(settings(them, us, opens == Opens::We), &lines),
    );
    let mut speaker = speaker(
        &balancer,
        Peer {
            authentication: ours.and_then(password),
            passive: opens == Opens::They,
            port: if opens == Opens::They { 1 } else { 179 },
            ..peer(address(them), ROUTER_AS)
        },
    );
    if ours == theirs {
        speaker.until_state(address(them), SessionState::Established);
        router.expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
        assert_eq!(speaker.trouble, None);
    } else {
        never_up(&mut speaker, &[&balancer, router.namespace()], MD5_DROPS);
    }
}

fn right_keys(kind: Kind) {
    for ipv6 in [false, true] {
        for opens in [Opens::We, Opens::They] {
            md5(kind, ipv6, opens, Some("s3cret"), Some("s3cret"));
        }
    }
}

fn wrong_keys(kind: Kind, ours: Option<&str>, theirs: Option<&str>) {
    md5(kind, false, Opens::We, ours, theirs);
    md5(kind, true, Opens::They, ours, theirs);
}

#[test]
fn equal_keys_with_bird() {
    right_keys(Kind::Bird);
}

#[test]
fn equal_keys_with_frr() {
    right_keys(Kind::Frr);
}

#[test]
fn other_keys_with_bird() {
    wrong_keys(Kind::Bird, Some("s3cret"), Some("secret"));
}

#[test]
fn other_keys_with_frr() {
    wrong_keys(Kind::Frr, Some("s3cret"), Some("secret"));
}

#[test]
fn a_key_that_only_we_have() {
    wrong_keys(Kind::Bird, Some("s3cret"), None);
    wrong_keys(Kind::Frr, Some("s3cret"), None);
}

#[test]
fn a_key_that_only_the_router_has() {
    wrong_keys(Kind::Bird, None, Some("s3cret"));
    wrong_keys(Kind::Frr, None, Some("s3cret"));
}

/// Each change resets this peer's session, and it is up again only when both have the new key.
fn key_changes(opens: Opens) {
    let (balancer, far) = wire();
    let them = address(THEM);
    let mut router = Router::start(
        Kind::Bird,
        far,
        with_lines(
            settings(THEM, US, opens == Opens::We),
            &key_line(Kind::Bird, "one"),
        ),
    );
    let mut speaker = speaker(
        &balancer,
        Peer {
            authentication: password("one"),
            port: if opens == Opens::They { 1 } else { 179 },
            ..peer(them, ROUTER_AS)
        },
    );
    speaker.until_state(them, SessionState::Established);
    for key in [Some("two"), None, Some("three")] {
        let drops = || {
            let both = [&balancer, router.namespace()];
            let all = both.map(|at| MD5_DROPS.iter().map(|name| counter(at, name)).sum::<u64>());
            all.iter().sum::<u64>()
        };
        let before = drops();
        speaker.configure_peer(them, |peer| {
            peer.authentication = key.and_then(password);
        });
        speaker.until(LIMIT, "the session is reset", |speaker| {
            speaker.state(them) != Some(SessionState::Established)
        });
        until(LIMIT, "the other key is refused", || {
            (drops() >= before + 2).then_some(())
        });
        let lines = key.map_or(String::new(), |key| key_line(Kind::Bird, key));
        router.reconfigure(|settings| settings.lines = lines);
        speaker.until_state(them, SessionState::Established);
        router.expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
    }
    assert_eq!(speaker.trouble, None);
}

#[test]
fn a_key_is_changed_where_we_connect() {
    key_changes(Opens::We);
}

#[test]
fn a_key_is_changed_where_the_router_connects() {
    key_changes(Opens::They);
}

/// This kernel, or one that has it: the peer is in by TCP-AO, or not at all, and the reason is told.
#[test]
fn without_tcp_ao_there_is_a_clear_word_and_no_session() {
    let (balancer, far) = wire();
    let them = address(THEM);
    let _router = Router::start(Kind::Bird, far, settings(THEM, US, false));
    let ao = plimsoll::config::Ao {
        key: Secret::new(b"s3cret"),
        send_id: 1,
        receive_id: 1,
        algorithm: plimsoll::config::AoAlgorithm::HmacSha1,
    };
    let mut speaker = speaker(
        &balancer,
        Peer {
            authentication: Some(Authentication::Ao(ao)),
            ..peer(them, ROUTER_AS)
        },
    );
    speaker.until(LIMIT, "a fault", |speaker| !speaker.fault(them).is_empty());
    let word = "this kernel has no TCP-AO (CONFIG_TCP_AO, Linux 6.7 or newer)";
    if speaker.fault(them).contains(word) {
        speaker.until(LIMIT, "trouble", |speaker| {
            let trouble = speaker.trouble.as_deref().unwrap_or_default();
            trouble.contains(word) && trouble.contains(THEM)
        });
    }
    let up = |(_, state): &(PeerId, SessionState)| *state == SessionState::Established;
    assert!(!speaker.history.iter().any(up));
}

fn gtsm_line(kind: Kind) -> &'static str {
    match kind {
        Kind::Bird => "ttl security on;",
        Kind::Frr => "neighbor US ttl-security hops 1",
        Kind::GoBgp | Kind::OpenBgpd | Kind::ExaBgp => panic!("BIRD and FRR are enough here"),
    }
}

/// RFC 5082 on both ends, whoever connects.
fn gtsm(kind: Kind) {
    for (ipv6, opens) in [
        (false, Opens::We),
        (true, Opens::They),
        (false, Opens::They),
    ] {
        let (balancer, far) = wire();
        let (us, them) = if ipv6 { (US_V6, THEM_V6) } else { (US, THEM) };
        let settings = settings(them, us, opens == Opens::We);
        let router = Router::start(kind, far, with_lines(settings, gtsm_line(kind)));
        let peer = Peer {
            ttl: Ttl::Security(1),
            port: if opens == Opens::They { 1 } else { 179 },
            ..peer(address(them), ROUTER_AS)
        };
        let mut speaker = speaker(&balancer, peer);
        speaker.until_state(address(them), SessionState::Established);
        router.expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
    }
}

#[test]
fn gtsm_with_bird() {
    gtsm(Kind::Bird);
}

#[test]
fn gtsm_with_frr() {
    gtsm(Kind::Frr);
}

#[test]
fn gtsm_that_only_we_have() {
    for kind in [Kind::Bird, Kind::Frr] {
        let (balancer, far) = wire();
        let _router = Router::start(kind, far, settings(THEM, US, false));
        let mut speaker = speaker(
            &balancer,
            Peer {
                ttl: Ttl::Security(1),
                ..peer(address(THEM), ROUTER_AS)
            },
        );
        never_up(&mut speaker, &[&balancer], &["TCPMinTTLDrop"]);
    }
}

#[test]
fn gtsm_that_only_the_router_has() {
    for kind in [Kind::Bird, Kind::Frr] {
        let (balancer, far) = wire();
        let settings = settings(THEM, US, false);
        let router = Router::start(kind, far, with_lines(settings, gtsm_line(kind)));
        let mut speaker = speaker(&balancer, peer(address(THEM), ROUTER_AS));
        until(LIMIT, "the router drops what we send", || {
            (counter(router.namespace(), "TCPMinTTLDrop") >= 3).then_some(())
        });
        // A router may look at the TTL only after it has accepted, and so hear our OPEN.
        speaker.until(LIMIT, "it does not last", |speaker| {
            !speaker.fault(address(THEM)).is_empty()
        });
        assert!(router.routes().is_empty());
    }
}

/// With a host between us that routes; the balancer has 10.9.0.1, the router 10.8.0.2.
fn multihop(ttl: Ttl, lines: &str) -> (Namespace, Namespace, Router, Speaker) {
    let names = ["lb", "mid", "rt"].map(Namespace::new);
    let [balancer, middle, far] = names;
    balancer.cable("eth1", &["10.9.0.1/24"], &middle, &["10.9.0.254/24"]);
    middle.cable("eth2", &["10.8.0.254/24"], &far, &["10.8.0.2/24"]);
    run(middle
        .command("sysctl")
        .args(["-q", "net.ipv4.ip_forward=1"]));
    balancer.ip("route add default via 10.9.0.254");
    far.ip("route add default via 10.8.0.254");
    let settings = settings("10.8.0.2", "10.9.0.1", false);
    let router = Router::start(Kind::Bird, far, with_lines(settings, lines));
    let peer = Peer {
        ttl,
        ..peer(address("10.8.0.2"), ROUTER_AS)
    };
    let speaker = speaker(&balancer, peer);
    (balancer, middle, router, speaker)
}

#[test]
fn a_router_behind_another_is_reached_with_the_ttl_for_it() {
    for (ttl, lines) in [
        (Ttl::Multihop(2), "multihop 2;"),
        (Ttl::Security(2), "multihop 2; ttl security on;"),
    ] {
        let (_balancer, _middle, router, mut speaker) = multihop(ttl, lines);
        speaker.until_state(address("10.8.0.2"), SessionState::Established);
        // To which it has no way of its own that we could ask `routes` for.
        until(LIMIT, "the route", || {
            let routes = router.ask("show route protocol lb");
            routes.contains("192.0.2.1/32").then_some(())
        });
    }
}

#[test]
fn a_router_behind_another_is_not_reached_without() {
    let (_balancer, _middle, _router, mut speaker) = multihop(Ttl::Default, "multihop 2;");
    let them = address("10.8.0.2");
    speaker.until(LIMIT, "the fault", |speaker| {
        speaker.fault(them) == "connect to 10.8.0.2:179: No route to host (os error 113)"
    });
    speaker.catch_up();
    let up = |(_, state): &(PeerId, SessionState)| *state == SessionState::Established;
    assert!(!speaker.history.iter().any(up), "{:?}", speaker.history);
}

/// Ours, and nobody comes in by another one.
#[test]
fn local_address_and_port() {
    let (balancer, far) = wire();
    balancer.ip("address add 10.9.0.99/24 dev eth1");
    let router = Router::start(Kind::Bird, far, settings(THEM, "10.9.0.99", true));
    let them = address(THEM);
    let mut speaker = speaker(
        &balancer,
        Peer {
            local_address: Some(address("10.9.0.99")),
            local_port: Some(17900),
            ..peer(them, ROUTER_AS)
        },
    );
    speaker.until_state(them, SessionState::Established);
    let sockets = run(router
        .namespace()
        .command("ss")
        .args(["-Htn", "state", "established"]));
    assert!(sockets.contains("10.9.0.99:17900"), "{sockets}");
    router.expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);

    let missing = address("10.9.0.98");
    speaker.configure_peer(them, |peer| peer.local_address = Some(missing));
    speaker.until(LIMIT, "the fault", |speaker| {
        speaker.fault(them)
            == "bind to the local address 10.9.0.98:17900: Cannot assign requested address (os error 99)"
    });
}

#[test]
fn who_calls_another_address_of_ours_is_no_peer() {
    let (balancer, far) = wire();
    balancer.ip("address add 10.9.0.99/24 dev eth1");
    let router = Router::start(Kind::Bird, far, settings(THEM, US, false));
    let them = address(THEM);
    let mut speaker = speaker(
        &balancer,
        Peer {
            local_address: Some(address("10.9.0.99")),
            port: 1,
            ..peer(them, ROUTER_AS)
        },
    );
    until(LIMIT, "the router has been turned away", || {
        (router.log().matches("Connecting to").count() >= 2).then_some(())
    });
    speaker.catch_up();
    let ever = |(_, state): &(PeerId, SessionState)| *state >= SessionState::OpenSent;
    assert!(!speaker.history.iter().any(ever), "{:?}", speaker.history);
    speaker.configure_peer(them, |peer| peer.local_address = None);
    speaker.until_state(them, SessionState::Established);
}

/// A link-local peer, with a key, whoever connects; the interface goes away and comes back.
fn link_local(opens: Opens) {
    let (balancer, far) = (Namespace::new("lb"), Namespace::new("rt"));
    plug_named(&balancer, &far);
    let them = PeerId::LinkLocal(FAR, Interface::new("eth1").unwrap());
    let router = Router::start(
        Kind::Bird,
        far,
        with_lines(
            settings(
                &FAR.to_string(),
                &format!("{NEAR}%eth1"),
                opens == Opens::We,
            ),
            &key_line(Kind::Bird, "s3cret"),
        ),
    );
    let mut speaker = speaker(
        &balancer,
        Peer {
            authentication: password("s3cret"),
            local_address: Some(NEAR.into()),
            port: if opens == Opens::They { 1 } else { 179 },
            ..peer(them.clone(), ROUTER_AS)
        },
    );
    speaker.until_state(them.clone(), SessionState::Established);
    until(LIMIT, "the route", || {
        router
            .routes()
            .contains_key("2001:db8::1/128")
            .then_some(())
    });

    balancer.ip("link del eth1");
    if opens == Opens::We {
        speaker.until(LIMIT, "the interface is named", |speaker| {
            speaker
                .fault(them.clone())
                .starts_with("find the interface eth1: ")
        });
    } else {
        speaker.until(LIMIT, "it is down", |speaker| {
            speaker.state(them.clone()) != Some(SessionState::Established)
        });
    }
    plug_named(&balancer, router.namespace());
    speaker.until_state(them, SessionState::Established);
    assert_eq!(speaker.trouble, None);
}

#[test]
fn a_link_local_router_that_we_connect_to() {
    link_local(Opens::We);
}

#[test]
fn a_link_local_router_that_connects_to_us() {
    link_local(Opens::They);
}

/// Found and lost and found again by Router Advertisements.
fn unnumbered(kind: Kind, key: Option<&str>) {
    let (balancer, far) = wire();
    let lines = key.map_or(String::new(), |key| key_line(kind, key));
    let router = Router::start(kind, far, anybody(&lines));
    let mut speaker = speaker(
        &balancer,
        Peer {
            authentication: key.and_then(password),
            ..peer(eth1(), ROUTER_AS)
        },
    );
    speaker.until_state(eth1(), SessionState::Established);
    let has_routes = || {
        until(LIMIT, "the route", || {
            let found = router.routes().remove("2001:db8::1/128")?;
            (found.med == 20 && found.as_path == LOCAL_AS.to_string()).then_some(())
        });
    };
    has_routes();
    assert_eq!(speaker.trouble, None);

    balancer.ip("link del eth1");
    speaker.until(LIMIT, "the interface is named", |speaker| {
        let trouble = speaker.trouble.as_deref().unwrap_or_default();
        trouble.starts_with("eth1: ")
    });
    plug(&balancer, router.namespace());
    speaker.until(LIMIT, "no trouble", |speaker| speaker.trouble.is_none());
    speaker.until_state(eth1(), SessionState::Established);
    has_routes();
}

#[test]
fn an_unnumbered_frr() {
    unnumbered(Kind::Frr, None);
}

#[test]
fn an_unnumbered_bird() {
    unnumbered(Kind::Bird, None);
}

#[test]
fn an_unnumbered_router_with_a_key() {
    unnumbered(Kind::Bird, Some("s3cret"));
    unnumbered(Kind::Frr, Some("s3cret"));
}

/// The interface is made only after the speaker has begun.
#[test]
fn an_interface_that_comes_later() {
    let (balancer, far) = (Namespace::new("lb"), Namespace::new("rt"));
    let mut speaker = speaker(&balancer, peer(eth1(), ROUTER_AS));
    speaker.until(LIMIT, "trouble and fault", |speaker| {
        let trouble = speaker.trouble.as_deref().unwrap_or_default();
        trouble.starts_with("eth1: find the interface eth1: ")
            && speaker
                .fault(eth1())
                .starts_with("find the interface eth1: ")
    });
    plug(&balancer, &far);
    speaker.until(LIMIT, "no trouble", |speaker| speaker.trouble.is_none());
    speaker.until(LIMIT, "nobody is there", |speaker| {
        speaker.fault(eth1())
            == "find the router to connect to: no Router Advertisement is heard on eth1"
    });
    let _router = Router::start(Kind::Bird, far, anybody(""));
    speaker.until_state(eth1(), SessionState::Established);
}

/// Two routers on one wire: which is meant, the configuration has to say.
#[test]
fn two_routers_on_a_wire_are_refused_until_one_is_named() {
    let (balancer, hub) = (Namespace::new("lb"), Namespace::new("hub"));
    hub.ip("link add wire type bridge");
    hub.ip("link set wire up");
    balancer.cable("eth1", &[&format!("{NEAR}/64")], &hub, &[]);
    hub.ip("link set eth1 down");
    hub.ip("link set eth1 name port1 master wire up");
    let routers: Vec<(String, Router)> = (2..4)
        .map(|n| {
            let (far, device) = (Namespace::new("rt"), format!("port{n}"));
            let address = format!("fe80::90{n}");
            far.cable("eth1", &[&format!("{address}/64")], &hub, &[]);
            // The next one is eth1 at its own end, too.
            hub.ip("link set eth1 down");
            hub.ip(&format!("link set eth1 name {device} master wire up"));
            let router = Router::start(Kind::Bird, far, anybody(""));
            (address, router)
        })
        .collect();
    let mut speaker = speaker(&balancer, peer(eth1(), ROUTER_AS));
    speaker.until(LIMIT, "the trouble", |speaker| {
        let trouble = speaker.trouble.as_deref().unwrap_or_default();
        trouble.starts_with("eth1 has more than one router: ")
            && trouble.ends_with("; name one of them by its address")
    });
    drop(routers);
    speaker.until(Duration::from_secs(60), "one of them is gone", |speaker| {
        speaker.trouble.is_none()
    });
}

/// What leaves us is marked as network control, with the TTL that the configuration says.
#[test]
fn ttl_and_traffic_class_on_the_wire() {
    for (ttl, internal, lines, wanted) in [
        (Ttl::Default, false, "", "1"),
        (Ttl::Multihop(7), false, "multihop 7;", "7"),
        (Ttl::Security(1), false, "ttl security on;", "255"),
        (Ttl::Default, true, "", "64"),
    ] {
        for ipv6 in [false, true] {
            let (balancer, far) = wire();
            let (us, them) = if ipv6 { (US_V6, THEM_V6) } else { (US, THEM) };
            let folder = tempfile::tempdir().unwrap();
            let seen = folder.path().join("seen");
            let mut command = balancer.command("tcpdump");
            command.args(["-i", "eth1", "-Q", "out", "-n", "-v", "-l", "tcp"]);
            let file = fs::File::create(&seen).unwrap();
            let _tcpdump = Process::start(command.stdout(file).stderr(Stdio::null()));
            let peer_as = if internal { LOCAL_AS } else { ROUTER_AS };
            let settings = Settings {
                asn: peer_as,
                ..settings(them, us, true)
            };
            let _router = Router::start(Kind::Bird, far, with_lines(settings, lines));
            let peer = Peer {
                ttl,
                ..peer(address(them), peer_as)
            };
            let mut speaker = speaker(&balancer, peer);
            speaker.until_state(address(them), SessionState::Established);
            let (class, hops) = if ipv6 {
                ("class 0xc0", format!("hlim {wanted},"))
            } else {
                ("tos 0xc0", format!("ttl {wanted},"))
            };
            let packets = until(LIMIT, "packets of ours", || {
                let text = fs::read_to_string(&seen).unwrap().replace("\n    ", " ");
                let lines = text.lines().filter(|line| line.contains(": Flags ["));
                // A reset for what no socket has asked for is the kernel's own.
                let ours = lines.filter(|line| !line.contains("Flags [R"));
                let ours: Vec<String> = ours.map(str::to_owned).collect();
                (ours.len() >= 5).then_some(ours)
            });
            for packet in packets {
                let right = packet.contains(class) && packet.replace(')', ",").contains(&hops);
                assert!(right, "{ttl:?}: {packet}");
            }
        }
    }
}
