//! What operators do to sessions, as the router and the speaker see it.

use std::time::Duration;

use plimsoll::routing::session::SessionState;

use crate::fake::Fake;
use crate::netns::until;
use crate::router::{Kind, Router};
use crate::speaker::Speaker;
use crate::{FIRST, Lab, bgp, v4, v6};

const LIMIT: Duration = Duration::from_secs(20);

fn until_logged(router: &Router, words: &[&str]) {
    until(LIMIT, "the router logs what it was told", || {
        let log = router.log();
        let told = |line: &str| words.iter().all(|words| line.contains(words));
        log.lines().any(told).then_some(())
    });
}

fn until_back(speaker: &mut Speaker, lab: &Lab) {
    speaker.until_state(FIRST, SessionState::Established);
    lab.routers[0].expect(&[v4("192.0.2.1", 10), v6("2001:db8::1", 20)]);
}

/// Disabled with words for the router (RFC 9003), refused meanwhile, and enabled again.
#[test]
fn disabled_and_enabled() {
    let (mut lab, mut speaker) = Lab::up(Kind::Bird);
    speaker.order(FIRST, |orders| {
        orders.enabled = Some(false);
        orders.text = Some("moving racks".into());
    });
    speaker.until_state(FIRST, SessionState::Idle);
    speaker.until_announced(&[]);
    lab.routers[0].expect(&[]);
    until_logged(
        &lab.routers[0],
        &["Administrative shutdown", "moving racks"],
    );
    let told = speaker.session(FIRST).told_last.clone().unwrap();
    assert_eq!((told.code, told.subcode), (6, 2));
    assert!(told.text.contains("moving racks"), "{told:?}");

    // What changes meanwhile does not bring it back.
    speaker.configure(|bgp| bgp.router_id = [10, 9, 0, 77].into());
    lab.routers[0].kill();
    let mut fake = Fake::connect(lab.routers[0].namespace());
    assert_eq!(
        fake.last_words().as_deref(),
        Some(&[6, 5][..]),
        "connection rejected"
    );
    speaker.catch_up();
    assert_eq!(speaker.state(FIRST), Some(SessionState::Idle));

    lab.routers[0].run();
    speaker.order(FIRST, |orders| orders.enabled = None);
    until_back(&mut speaker, &lab);
}

/// Off in the configuration, on by an operator's word, and by the configuration.
#[test]
fn disabled_in_the_configuration() {
    let lab = Lab::new(&[Kind::Bird], |_| {});
    let mut start = bgp(&[FIRST]);
    for peer in start.peers.values_mut() {
        std::sync::Arc::make_mut(peer).enabled = false;
    }
    let mut speaker = Speaker::start(&lab.balancer, start);
    speaker.announce("192.0.2.1", 10);
    speaker.announce("2001:db8::1", 20);
    // Its own tries are refused.
    until_logged(&lab.routers[0], &["Received: Connection rejected"]);
    speaker.catch_up();
    assert_eq!(speaker.state(FIRST), Some(SessionState::Idle));
    speaker.order(FIRST, |orders| orders.enabled = Some(true));
    until_back(&mut speaker, &lab);
    let session = lab.routers[0].session();
    speaker.configure_peer(FIRST, |peer| peer.enabled = true);
    speaker.order(FIRST, |orders| orders.enabled = None);
    speaker.announce("192.0.2.1", 11);
    lab.routers[0].expect(&[v4("192.0.2.1", 11), v6("2001:db8::1", 20)]);
    assert_eq!(lab.routers[0].session(), session);
}

/// A clear is told with its words, and the session is back at once.
fn cleared(kind: Kind, told: &[&str]) {
    let (lab, mut speaker) = Lab::up(kind);
    speaker.order(FIRST, |orders| {
        orders.clears = 1;
        orders.text = Some("new optics".into());
    });
    // Behind it may come another one, of two connections that collide.
    speaker.until(LIMIT, "down with these words", |speaker| {
        let told = speaker.session(FIRST).told_last.as_ref();
        told.is_some_and(|told| (told.code, told.subcode) == (6, 4))
            && speaker.state(FIRST) < Some(SessionState::Established)
    });
    until_back(&mut speaker, &lab);
    until_logged(&lab.routers[0], told);
}

#[test]
fn cleared_bird() {
    cleared(Kind::Bird, &["Administrative reset", "new optics"]);
}

#[test]
fn cleared_frr() {
    cleared(Kind::Frr, &["new optics"]);
}

/// The daemon's stop has words, too.
#[test]
fn stopped_with_words() {
    let (lab, mut speaker) = Lab::up(Kind::Bird);
    speaker.configure(|bgp| bgp.shutdown_text = Some("host goes down for repair".into()));
    speaker.stop();
    speaker.until_state(FIRST, SessionState::Idle);
    until_logged(
        &lab.routers[0],
        &["Administrative shutdown", "host goes down for repair"],
    );
}
