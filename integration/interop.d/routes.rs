//! What routers are told of routes.

use std::collections::BTreeSet;

use plimsoll::routing::session::SessionState;
use plimsoll::routing::{Community, GRACEFUL_SHUTDOWN, Med, Origin, Policy};

use crate::lab::{Lab, both, over_ipv6, v4, v6};
use crate::router::{Kind, Route};
use crate::{LOCAL_AS, Outcome, US_V6};

/// Of each kind of community one at least.
fn communities() -> BTreeSet<Community> {
    BTreeSet::from([
        Community::Standard(64512 << 16 | 100),
        Community::Standard(0xffff_ff01),
        GRACEFUL_SHUTDOWN,
        Community::Large(LOCAL_AS, 1, 2),
        Community::Extended([0, 2, 0xfc, 0, 0, 0, 0, 100]),
    ])
}

fn all_attributes(kind: Kind, address: &str, plain: (String, Route)) -> Outcome {
    let mut lab = Lab::start(kind, |_| {});
    let policy = Policy {
        med: Some(Med::Set(50)),
        local_pref: Some(7),
        origin: Some(Origin::Egp),
        prepend: Some(2),
        communities: communities(),
    };
    lab.speaker.vip(address, Ok(policy.into()));
    lab.until_state(SessionState::Established);
    let (prefix, plain) = plain;
    let route = Route {
        as_path: [LOCAL_AS.to_string().as_str(); 3].join(" "),
        origin: Origin::Egp,
        communities: communities(),
        // FRR obeys graceful-shutdown (RFC 8326) without being told to.
        local_pref: (kind == Kind::Frr).then_some(0),
        ..plain
    };
    lab.router.expect(&[(prefix, route)]);
    Outcome::Works
}

pub(crate) fn ipv4(kind: Kind) -> Outcome {
    all_attributes(kind, "192.0.2.1", v4("192.0.2.1", 50))
}

pub(crate) fn ipv6(kind: Kind) -> Outcome {
    all_attributes(kind, "2001:db8::1", v6("2001:db8::1", 50))
}

pub(crate) fn withdrawal(kind: Kind) -> Outcome {
    let lab = Lab::up(kind, |_| {});
    lab.speaker.withdraw("192.0.2.1");
    lab.router.expect(&[v6("2001:db8::1", 20)]);
    lab.speaker.announce("192.0.2.1", 10);
    lab.router.expect(&both());
    lab.speaker.withdraw("2001:db8::1");
    lab.router.expect(&[v4("192.0.2.1", 10)]);
    Outcome::Works
}

pub(crate) fn change(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |_| {});
    let session = lab.router.session();
    lab.speaker.announce("192.0.2.1", 1010);
    lab.speaker.announce("2001:db8::1", 1020);
    lab.router
        .expect(&[v4("192.0.2.1", 1010), v6("2001:db8::1", 1020)]);
    let policy = Policy {
        communities: communities(),
        ..Policy::of_med(10)
    };
    lab.speaker.vip("192.0.2.1", Ok(policy.into()));
    let (prefix, plain) = v4("192.0.2.1", 10);
    let route = Route {
        communities: communities(),
        local_pref: (kind == Kind::Frr).then_some(0),
        ..plain
    };
    lab.router
        .expect(&[(prefix, route), v6("2001:db8::1", 1020)]);
    assert_eq!(lab.router.session(), session, "the session was not reset");
    assert_eq!(lab.times_up(), 1);
    Outcome::Works
}

pub(crate) fn four_octet_as(kind: Kind) -> Outcome {
    let lab = Lab::up(kind, |plan| {
        plan.settings.asn = 4_200_000_002;
        plan.peer.peer_as = 4_200_000_002;
    });
    assert!(lab.router.established());
    Outcome::Works
}

pub(crate) fn internal(kind: Kind) -> Outcome {
    let mut lab = Lab::start(kind, |plan| {
        plan.settings.asn = LOCAL_AS;
        plan.peer.peer_as = LOCAL_AS;
    });
    let policy = Policy {
        local_pref: Some(200),
        ..Policy::of_med(10)
    };
    lab.speaker.vip("192.0.2.1", Ok(policy.clone().into()));
    lab.speaker.vip("2001:db8::1", Ok(policy.into()));
    lab.until_state(SessionState::Established);
    let internal = |(prefix, plain): (String, Route)| {
        let route = Route {
            as_path: String::new(),
            local_pref: Some(200),
            ..plain
        };
        (prefix, route)
    };
    lab.router.expect(&[
        internal(v4("192.0.2.1", 10)),
        internal(v6("2001:db8::1", 10)),
    ]);
    Outcome::Works
}

pub(crate) fn extended_next_hop(kind: Kind) -> Outcome {
    match kind {
        Kind::Bird | Kind::Frr | Kind::GoBgp | Kind::ExaBgp => {}
        Kind::OpenBgpd => return Outcome::NotSupportedByRouter("7.7 has no RFC 8950"),
    }
    let mut lab = Lab::start(kind, |plan| {
        over_ipv6(plan);
        plan.settings.extended_next_hop = true;
        plan.peer.extended_next_hop = true;
        plan.peer.next_hop_ipv4 = None;
    });
    lab.speaker.announce("192.0.2.1", 10);
    lab.until_state(SessionState::Established);
    let (prefix, plain) = v4("192.0.2.1", 10);
    let route = Route {
        next_hop: US_V6.into(),
        ..plain
    };
    lab.router.expect(&[(prefix, route)]);
    let negotiated = lab.session().negotiated.clone();
    assert!(negotiated.is_some_and(|both| both.extended_next_hop));
    Outcome::Works
}
