//! What is below the messages: addresses, keys, TTLs.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use plimsoll::config::{Authentication, Ttl};
use plimsoll::routing::session::{Hint, SessionState};
use plimsoll::routing::{Interface, PeerId};
use plimsoll::secret::Secret;
use plimsoll::service::Family;

use crate::Outcome;
use crate::lab::{Lab, OUR_LINK_LOCAL, PATIENCE, PORT, Plan, THEIR_LINK_LOCAL, over_ipv6, v6};
use crate::netns::{counter, until};
use crate::router::Kind;

pub(crate) fn ipv6_only(kind: Kind) -> Outcome {
    let mut lab = Lab::start(kind, |plan| {
        over_ipv6(plan);
        plan.ipv4 = false;
        plan.peer.families = BTreeSet::from([Family::Ipv6]);
        plan.peer.next_hop_ipv4 = None;
        plan.peer.next_hop_ipv6 = None;
    });
    lab.speaker.announce("2001:db8::1", 20);
    lab.until_state(SessionState::Established);
    lab.router.expect(&[v6("2001:db8::1", 20)]);
    Outcome::Works
}

/// No address of the wire but link-local ones.
fn no_addresses(plan: &mut Plan) {
    (plan.ipv4, plan.ipv6) = (false, false);
    plan.peer.next_hop_ipv4 = None;
    plan.peer.next_hop_ipv6 = None;
    plan.peer.extended_next_hop = true;
    plan.settings.extended_next_hop = true;
}

/// IPv6, and IPv4 where the router can (RFC 8950), come by the link-local next hop.
#[track_caller]
fn by_link_local(lab: &mut Lab, kind: Kind) -> Outcome {
    lab.speaker.announce("2001:db8::1", 20);
    let mut wanted = vec!["2001:db8::1/128"];
    if kind != Kind::OpenBgpd {
        lab.speaker.announce("192.0.2.1", 10);
        wanted.insert(0, "192.0.2.1/32");
    }
    lab.until_state(SessionState::Established);
    until(PATIENCE, "the routes", || {
        let routes = lab.router.routes();
        let by_us = |next_hop: &str| next_hop.contains(OUR_LINK_LOCAL);
        (routes.keys().eq(&wanted) && routes.values().all(|route| by_us(&route.next_hop)))
            .then_some(())
    });
    Outcome::Works
}

pub(crate) fn link_local(kind: Kind) -> Outcome {
    match kind {
        Kind::Bird | Kind::Frr | Kind::GoBgp | Kind::OpenBgpd => {}
        Kind::ExaBgp => return Outcome::NotSupportedByRouter("no address with an interface"),
    }
    let mut lab = Lab::start(kind, |plan| {
        no_addresses(plan);
        let theirs: Ipv6Addr = THEIR_LINK_LOCAL.parse().unwrap();
        plan.peer.id = PeerId::LinkLocal(theirs, Interface::new("wire").unwrap());
        plan.settings.address = match kind {
            Kind::Bird | Kind::Frr | Kind::ExaBgp => THEIR_LINK_LOCAL.into(),
            Kind::GoBgp | Kind::OpenBgpd => format!("{THEIR_LINK_LOCAL}%{PORT}"),
        };
        plan.settings.neighbor = format!("{OUR_LINK_LOCAL}%{PORT}");
    });
    by_link_local(&mut lab, kind)
}

pub(crate) fn unnumbered(kind: Kind) -> Outcome {
    match kind {
        Kind::Bird | Kind::Frr => {}
        Kind::GoBgp => return Outcome::NotSupportedByRouter("it sends no Router Advertisements"),
        Kind::OpenBgpd | Kind::ExaBgp => {
            return Outcome::NotSupportedByRouter("a neighbor needs an address");
        }
    }
    let mut lab = Lab::start(kind, |plan| {
        no_addresses(plan);
        plan.peer.id = PeerId::Interface(Interface::new("wire").unwrap());
        plan.settings.address = THEIR_LINK_LOCAL.into();
        plan.settings.unnumbered = Some(PORT);
    });
    by_link_local(&mut lab, kind)
}

fn key(bytes: &[u8]) -> Option<Authentication> {
    Some(Authentication::Md5(Secret::new(bytes)))
}

/// OpenBGPD takes the key and then speaks without.
fn no_md5(kind: Kind) -> Option<Outcome> {
    let why = "on Linux it has no TCP MD5, whatever its configuration says";
    (kind == Kind::OpenBgpd).then_some(Outcome::NotSupportedByRouter(why))
}

pub(crate) fn md5(kind: Kind) -> Outcome {
    if let Some(outcome) = no_md5(kind) {
        return outcome;
    }
    for over in [|_: &mut Plan| {}, over_ipv6] {
        drop(Lab::up(kind, |plan| {
            over(plan);
            plan.settings.password = Some("s3cr3t-of-both".into());
            plan.peer.authentication = key(b"s3cr3t-of-both");
        }));
    }
    Outcome::Works
}

pub(crate) fn md5_other_key(kind: Kind) -> Outcome {
    if let Some(outcome) = no_md5(kind) {
        return outcome;
    }
    let mut lab = Lab::start(kind, |plan| {
        plan.settings.password = Some("s3cr3t-of-the-router".into());
        plan.peer.authentication = key(b"s3cr3t-of-ours");
    });
    lab.until("a hint", |session| session.hint == Some(Hint::Md5));
    assert_eq!((lab.times_up(), lab.router.established()), (0, false));
    Outcome::Works
}

pub(crate) fn gtsm(kind: Kind) -> Outcome {
    for over in [|_: &mut Plan| {}, over_ipv6] {
        drop(Lab::up(kind, |plan| {
            over(plan);
            plan.settings.ttl_security = true;
            plan.peer.ttl = Ttl::Security(1);
        }));
    }
    Outcome::Works
}

pub(crate) fn gtsm_theirs(kind: Kind) -> Outcome {
    if kind == Kind::ExaBgp {
        return Outcome::NotSupportedByRouter(
            "Python 3.11 cannot set IP_MINTTL, and it says nothing",
        );
    }
    let mut lab = one_end(kind, |plan| plan.settings.ttl_security = true);
    // Where the router speaks before it has heard us, its silence comes later and looks otherwise.
    let hints = [Some(Hint::Gtsm), Some(Hint::NoOpen)];
    lab.until_soon("a hint", |session| hints.contains(&session.hint));
    Outcome::Works
}

/// The hint goes with what is wrong.
pub(crate) fn gtsm_ours(kind: Kind) -> Outcome {
    for passive in [false, true] {
        let mut lab = one_end(kind, |plan| {
            plan.peer.ttl = Ttl::Security(1);
            plan.peer.passive = passive;
        });
        lab.until_soon("a hint", |session| session.hint == Some(Hint::Gtsm));
        let peer = lab.peer.clone();
        lab.speaker
            .configure_peer(peer, |peer| peer.ttl = Ttl::Default);
        if kind == Kind::OpenBgpd {
            // After what it takes for an error it refuses us for minutes.
            lab.router.run();
        }
        lab.until_state(SessionState::Established);
        assert_eq!(lab.session().hint, None);
    }
    Outcome::Works
}

/// One end's kernel drops what the other one sends.
fn one_end(kind: Kind, change: impl FnOnce(&mut Plan)) -> Lab {
    let lab = Lab::start(kind, change);
    until(PATIENCE, "what comes with the other TTL is dropped", || {
        let drops = |at| counter(at, "TCPMinTTLDrop");
        (drops(&lab.balancer) + drops(lab.router.namespace()) >= 1).then_some(())
    });
    lab
}
