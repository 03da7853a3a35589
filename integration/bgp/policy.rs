//! What differs from peer to peer, and how often a peer is told.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll::routing::session::{SessionState, Untold};
use plimsoll::routing::{Med, Policy};
use plimsoll::snapshot::Refusal;

use crate::fake::{Fake, UPDATE, hello};
use crate::router::{Kind, Route};
use crate::speaker::{Speaker, peer};
use crate::{FIRST, Lab, ROUTER_AS, SECOND, US, US_V6, bgp, entry, route, v4, v6};

fn med(med: Med) -> Arc<Policy> {
    Arc::new(Policy {
        med: Some(med),
        ..Policy::default()
    })
}

/// Groups, MED and next hops of their own, and another policy without a reset.
#[test]
fn each_peer_is_told_by_its_own_policy() {
    let lab = Lab::new(&[Kind::Bird, Kind::Frr], |_| {});
    let (bird, frr) = (&lab.routers[0], &lab.routers[1]);
    let mut bgp = bgp(&[]);
    let mut edge = peer(FIRST, ROUTER_AS);
    edge.groups = ["edge".into()].into();
    edge.policy = med(Med::Add(5));
    let mut core = peer(SECOND, ROUTER_AS);
    core.groups = ["core".into()].into();
    core.policy = med(Med::Set(70));
    core.next_hop_ipv4 = Some(Ipv4Addr::new(10, 9, 0, 99));
    bgp.peers.extend([edge, core].map(entry));
    let mut speaker = Speaker::start(&lab.balancer, bgp);
    speaker.announce("192.0.2.1", 10);
    speaker.announce_to("edge", "192.0.2.2", 20);
    speaker.announce_to("core", "192.0.2.3", 30);
    speaker.until_state(FIRST, SessionState::Established);
    speaker.until_state(SECOND, SessionState::Established);
    bird.expect(&[v4("192.0.2.1", 15), v4("192.0.2.2", 25)]);
    let other = |last: u8, med| (format!("192.0.2.{last}/32"), route("10.9.0.99", med));
    frr.expect(&[other(1, 70), other(3, 70)]);
    let sessions = [bird.session(), frr.session()];

    speaker.configure_peer(FIRST, |peer| {
        peer.policy = med(Med::Set(1));
        peer.groups = ["core".into()].into();
        peer.description = Some("rack 4".into());
        peer.maximum_prefixes = 7;
    });
    speaker.configure_peer(SECOND, |peer| {
        peer.groups = ["edge".into()].into();
        peer.next_hop_ipv4 = None;
        peer.advertisement_interval = Duration::from_millis(1);
    });
    bird.expect(&[v4("192.0.2.1", 1), v4("192.0.2.3", 1)]);
    frr.expect(&[v4("192.0.2.1", 70), v4("192.0.2.2", 70)]);
    speaker.announce_to("core", "192.0.2.1", 40);
    frr.expect(&[v4("192.0.2.2", 70)]);
    assert_eq!([bird.session(), frr.session()], sessions, "no reset");
}

/// Without a next hop in the configuration it is our end of the connection, and what has none is said.
#[test]
fn our_own_address_is_the_next_hop() {
    let lab = Lab::new(&[Kind::Bird], |_| {});
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.configure_peer(FIRST, |peer| {
        (peer.next_hop_ipv4, peer.next_hop_ipv6) = (None, None);
    });
    speaker.announce("192.0.2.1", 10);
    speaker.announce("2001:db8::1", 20);
    speaker.until_state(FIRST, SessionState::Established);
    lab.routers[0].expect(&[v4("192.0.2.1", 10)]);
    let untold = |speaker: &Speaker| -> Vec<(IpAddr, Untold)> {
        let untold = &speaker.session(FIRST).untold;
        untold
            .iter()
            .map(|(address, why)| (*address, *why))
            .collect()
    };
    let v6_address = "2001:db8::1".parse().unwrap();
    assert_eq!(untold(&speaker), [(v6_address, Untold::NextHop)]);

    speaker.configure_peer(FIRST, |peer| peer.next_hop_ipv6 = US_V6.parse().ok());
    lab.routers[0].expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
    speaker.until(Duration::from_secs(5), "nothing is untold", |speaker| {
        untold(speaker).is_empty()
    });
}

/// What an UPDATE says of MULTI_EXIT_DISC; `None`: it announces nothing.
fn med_of(body: &[u8]) -> Option<u32> {
    let at = body.windows(3).position(|three| three == [0x80, 4, 4])?;
    Some(u32::from_be_bytes(body[at + 3..at + 7].try_into().unwrap()))
}

/// The next UPDATE, keepalives left out, and when it came.
fn next_update(fake: &mut Fake) -> (Vec<u8>, Instant) {
    loop {
        match fake.read() {
            Some((UPDATE, body)) => return (body, Instant::now()),
            Some(_) => {}
            None => panic!("the session has ended"),
        }
    }
}

/// RFC 4271 section 9.2.1.1: what changes often is told now and then, as it is then; withdrawals at once.
#[test]
fn changes_keep_their_distance_and_withdrawals_do_not() {
    const INTERVAL: Duration = Duration::from_secs(3);
    let mut lab = Lab::new(&[Kind::Bird], |_| {});
    lab.routers[0].kill();
    let speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.configure_peer(FIRST, |peer| {
        peer.advertisement_interval = INTERVAL;
        // Longer than this takes: the router here sends no keepalives.
        peer.hold_time = Duration::from_secs(60);
    });
    speaker.announce("192.0.2.1", 10);
    let mut fake = Fake::established(lab.routers[0].namespace(), &hello().message());
    let (body, first) = next_update(&mut fake);
    assert_eq!(med_of(&body), Some(10));
    let marks = [next_update(&mut fake), next_update(&mut fake)];
    assert!(marks.iter().all(|(body, _)| med_of(body).is_none()));

    for med in 11..40 {
        speaker.announce("192.0.2.1", med);
    }
    speaker.announce("192.0.2.2", 50);
    let (body, other) = next_update(&mut fake);
    assert_eq!(med_of(&body), Some(50), "another prefix is not held up");
    let (body, second) = next_update(&mut fake);
    assert_eq!(med_of(&body), Some(39), "the last of them alone");
    let (waited, late) = (second - first, second - other);
    assert!(
        waited >= INTERVAL - Duration::from_millis(200),
        "{waited:?} after {late:?}"
    );

    speaker.withdraw("192.0.2.1");
    let (body, third) = next_update(&mut fake);
    assert_eq!(body, [0, 5, 32, 192, 0, 2, 1, 0, 0]);
    assert!(
        third - second < INTERVAL / 2,
        "at once: {:?}",
        third - second
    );
}

fn announce_as(speaker: &Speaker, prefix: &str, address: &str, med: u32) {
    speaker.vip_as(Some(prefix), address, Ok(Policy::of_med(med).into()));
}

/// Addresses that are announced as wider prefixes, then as themselves, and as wider ones again: nothing is left
/// behind, and an address counts as announced all the time.
fn wider_prefixes(kind: Kind) {
    let lab = Lab::new(&[kind], |_| {});
    let router = &lab.routers[0];
    let mut speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    let both = |med| {
        announce_as(&speaker, "192.0.2.0/24", "192.0.2.53", med);
        announce_as(&speaker, "2001:db8:1::/48", "2001:db8:1::53", med);
    };
    let wide = |med| -> [(String, Route); 2] {
        [
            ("192.0.2.0/24".into(), route(US, med)),
            ("2001:db8:1::/48".into(), route(US_V6, med)),
        ]
    };
    both(10);
    // Another address in it is a route of its own.
    speaker.announce("192.0.2.1", 30);
    let with_other = |some: [(String, Route); 2]| [&some[..], &[v4("192.0.2.1", 30)]].concat();
    router.expect(&with_other(wide(10)));
    let session = router.session();
    both(11);
    router.expect(&with_other(wide(11)));

    speaker.announce("192.0.2.53", 12);
    speaker.announce("2001:db8:1::53", 12);
    let narrow = [v4("192.0.2.53", 12), v6("2001:db8:1::53", 12)];
    router.expect(&with_other(narrow));
    both(13);
    router.expect(&with_other(wide(13)));
    // One takes over the prefix of another, which goes back to its own.
    speaker.publish(|snapshot| {
        let [one, other] = [[192, 0, 2, 53], [192, 0, 2, 1]].map(IpAddr::from);
        let (wide, narrow) = (snapshot.vips[&one].clone(), snapshot.vips[&other].clone());
        snapshot.vips.insert(one, narrow);
        snapshot.vips.insert(other, wide);
    });
    let [v4_wide, v6_wide] = wide(13);
    router.expect(&[v4_wide, v6_wide.clone(), v4("192.0.2.53", 30)]);
    let all = ["192.0.2.1", "192.0.2.53", "2001:db8:1::53"];
    let addresses = all.map(|address| address.parse::<IpAddr>().unwrap());
    speaker.until_announced(&all);

    speaker.vip_as(Some("192.0.2.0/24"), "192.0.2.1", Err(Refusal::Failed));
    router.expect(&[v6_wide, v4("192.0.2.53", 30)]);
    speaker.until_announced(&all[1..]);
    speaker.publish(|snapshot| drop(snapshot.vips.remove(&addresses[2])));
    router.expect(&[v4("192.0.2.53", 30)]);
    speaker.until_announced(&all[1..2]);
    speaker.withdraw("192.0.2.53");
    router.expect(&[]);
    speaker.until_announced(&[]);
    assert_eq!(router.session(), session, "no reset");
}

#[test]
fn wider_prefixes_bird() {
    wider_prefixes(Kind::Bird);
}

#[test]
fn wider_prefixes_frr() {
    wider_prefixes(Kind::Frr);
}

/// The router always has a route to the address.
#[test]
fn another_prefix_is_announced_before_the_old_one_is_withdrawn() {
    let mut lab = Lab::new(&[Kind::Bird], |_| {});
    lab.routers[0].kill();
    let speaker = Speaker::start(&lab.balancer, bgp(&[FIRST]));
    speaker.configure_peer(FIRST, |peer| peer.hold_time = Duration::from_secs(60));
    speaker.announce("192.0.2.1", 10);
    let mut fake = Fake::established(lab.routers[0].namespace(), &hello().message());
    let first = [0; 3].map(|_| next_update(&mut fake).0);
    assert_eq!(med_of(&first[0]), Some(10), "then End-of-RIB, twice");
    announce_as(&speaker, "192.0.2.0/24", "192.0.2.1", 11);
    let (body, _) = next_update(&mut fake);
    assert_eq!(med_of(&body), Some(11));
    assert!(body.ends_with(&[24, 192, 0, 2]), "{body:?}");
    let (body, _) = next_update(&mut fake);
    assert_eq!(body, [0, 5, 32, 192, 0, 2, 1, 0, 0]);
    speaker.announce("192.0.2.1", 12);
    let (body, _) = next_update(&mut fake);
    assert!(body.ends_with(&[32, 192, 0, 2, 1]), "{body:?}");
    let (body, _) = next_update(&mut fake);
    assert_eq!(body, [0, 4, 24, 192, 0, 2, 0, 0]);
}
