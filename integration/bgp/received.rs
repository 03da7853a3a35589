//! What routers announce to us: counted, limited, and looked through for our own addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ipnet::IpNet;
use plimsoll::config::MaximumAction;
use plimsoll::routing::session::SessionState;
use plimsoll::service::Family;
use plimsoll::snapshot::Refusal;

use crate::router::Kind;
use crate::speaker::Speaker;
use crate::{FIRST, Lab, bgp, v4};

const LIMIT: Duration = Duration::from_secs(20);

fn prefixes(speaker: &Speaker) -> [u64; 2] {
    let figures = &speaker.session(FIRST).figures;
    [0, 1].map(|family| figures.prefixes[family].load(Relaxed))
}

fn until_prefixes(speaker: &mut Speaker, wanted: [u64; 2]) {
    let what = format!("{wanted:?} prefixes");
    crate::netns::until(LIMIT, &what, || {
        speaker.catch_up();
        (prefixes(speaker) == wanted).then_some(())
    });
}

fn foreign(speaker: &Speaker) -> Vec<String> {
    let foreign = &speaker.session(FIRST).foreign;
    foreign.keys().map(IpNet::to_string).collect()
}

/// Addresses of ours that the router has from elsewhere are known, those that become ours later, too.
fn announced_elsewhere(kind: Kind, others: u64) {
    let lab = Lab::new(&[kind], |settings| {
        settings.networks = vec!["192.0.2.1/32".into(), "192.0.2.9/32".into()];
    });
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.withdraw("192.0.2.1");
    speaker.until_state(FIRST, SessionState::Established);
    let wanted = ["192.0.2.1/32".to_owned()];
    speaker.until(LIMIT, "one of ours", |speaker| foreign(speaker) == wanted);
    until_prefixes(&mut speaker, [2 + others, 0]);
    assert_eq!(speaker.session(FIRST).over_maximum, [].into());

    // It was not kept when it came, so the router is asked again.
    speaker.withdraw("192.0.2.9");
    let both = ["192.0.2.1/32".to_owned(), "192.0.2.9/32".to_owned()];
    speaker.until(LIMIT, "both of ours", |speaker| foreign(speaker) == both);
    until_prefixes(&mut speaker, [2 + others, 0]);
    speaker.publish(|snapshot| drop(snapshot.vips.remove(&IpAddr::from([192, 0, 2, 1]))));
    speaker.until(LIMIT, "one is none of ours", |speaker| {
        foreign(speaker) == both[1..]
    });
    lab.routers[0].expect(&[]);
}

#[test]
fn announced_elsewhere_bird() {
    announced_elsewhere(Kind::Bird, 2);
}

#[test]
fn announced_elsewhere_frr() {
    announced_elsewhere(Kind::Frr, 1);
}

/// An address that is announced as a wider prefix is looked for by that, from when it is.
#[test]
fn a_wider_prefix_announced_elsewhere() {
    let lab = Lab::new(&[Kind::Bird], |settings| {
        settings.networks = vec!["192.0.2.0/24".into(), "192.0.2.1/32".into()];
    });
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.withdraw("192.0.2.1");
    speaker.until_state(FIRST, SessionState::Established);
    speaker.until(LIMIT, "the address", |speaker| {
        foreign(speaker) == ["192.0.2.1/32"]
    });
    speaker.vip_as(Some("192.0.2.0/24"), "192.0.2.1", Err(Refusal::Failed));
    speaker.until(LIMIT, "the prefix", |speaker| {
        foreign(speaker) == ["192.0.2.0/24"]
    });
    speaker.publish(|snapshot| drop(snapshot.vips.remove(&IpAddr::from([192, 0, 2, 1]))));
    speaker.until(LIMIT, "none of ours", |speaker| foreign(speaker).is_empty());
}

/// BIRD announces two prefixes: over a maximum of one there is a warning, and the routes stay.
#[test]
fn over_the_maximum_and_warned() {
    let lab = Lab::new(&[Kind::Bird], |_| {});
    let mut start = bgp(&[FIRST]);
    for peer in start.peers.values_mut() {
        Arc::make_mut(peer).maximum_prefixes = 1;
    }
    let mut speaker = Speaker::start(&lab.balancer, start);
    speaker.announce("192.0.2.1", 10);
    speaker.until(LIMIT, "over the maximum", |speaker| {
        speaker
            .peers
            .get(&FIRST.into())
            .is_some_and(|session| session.over_maximum == [Family::Ipv4].into())
    });
    lab.routers[0].expect(&[v4("192.0.2.1", 10)]);
    let session = lab.routers[0].session();
    speaker.configure_peer(FIRST, |peer| peer.maximum_prefixes = 2);
    speaker.until(LIMIT, "no longer", |speaker| {
        speaker.session(FIRST).over_maximum.is_empty()
    });
    until_prefixes(&mut speaker, [2, 0]);
    assert_eq!(lab.routers[0].session(), session);
}

/// RFC 4486: the router is told how many would have been taken, and left alone until somebody does something.
#[test]
fn over_the_maximum_and_ended() {
    let lab = Lab::new(&[Kind::Bird], |_| {});
    let mut start = bgp(&[FIRST]);
    for peer in start.peers.values_mut() {
        let peer = Arc::make_mut(peer);
        peer.maximum_prefixes = 1;
        peer.maximum_prefixes_action = MaximumAction::Cease;
    }
    let mut speaker = Speaker::start(&lab.balancer, start);
    speaker.announce("192.0.2.1", 10);
    speaker.until(LIMIT, "ended", |speaker| {
        let told = |session: &plimsoll::routing::session::Session| {
            let last = session.told_last.as_ref();
            last.is_some_and(|told| (told.code, told.subcode) == (6, 1))
                && session.state == SessionState::Idle
        };
        speaker.peers.get(&FIRST.into()).is_some_and(told)
    });
    assert!(
        speaker.fault(FIRST).contains("maximum-prefixes = 1"),
        "{}",
        speaker.fault(FIRST)
    );
    let told = "Received: Maximum number of prefixes reached";
    crate::netns::until(LIMIT, told, || {
        lab.routers[0].log().contains(told).then_some(())
    });
    let rejected = || {
        lab.routers[0]
            .log()
            .matches("Received: Connection rejected")
            .count()
    };
    crate::netns::until(LIMIT, "its tries are refused", || {
        (rejected() >= 2).then_some(())
    });
    speaker.catch_up();
    assert_eq!(speaker.state(FIRST), Some(SessionState::Idle));

    speaker.configure_peer(FIRST, |peer| peer.maximum_prefixes = 2);
    speaker.until_state(FIRST, SessionState::Established);
    lab.routers[0].expect(&[v4("192.0.2.1", 10)]);
    assert_eq!(speaker.fault(FIRST), "");
}
