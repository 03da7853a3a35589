//! What the two ends say beside routes from us: refreshes, roles, texts; and what the router announces.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use plimsoll::config::MaximumAction;
use plimsoll::routing::Role;
use plimsoll::routing::session::{Session, SessionState};
use plimsoll::service::Family;

use crate::Outcome;
use crate::lab::{Lab, PATIENCE, PATIENCE_FOR_MANY, both};
use crate::netns::{Namespace, until};
use crate::raw::{self, FULL_TABLE, ONE_AT_A_TIME};
use crate::router::{Kind, prefix};

pub(crate) fn refresh(kind: Kind) -> Outcome {
    if kind == Kind::GoBgp {
        return Outcome::NotSupportedByRouter("it keeps all that it has heard and never asks");
    }
    asked_again(kind);
    Outcome::Works
}

/// The router asks, we send our routes again, and the session stays.
fn asked_again(kind: Kind) -> Lab {
    let mut lab = Lab::up(kind, |_| {});
    let refreshes = |session: &Session| session.figures.received[4].load(Relaxed);
    let updates = |session: &Session| session.figures.sent[1].load(Relaxed);
    // OpenBGPD asks once by itself when it has started; the figures are the session's own.
    let (asked, sent) = (refreshes(lab.session()), updates(lab.session()));
    lab.router.refresh();
    lab.until_figures("it is asked for", |session| refreshes(session) > asked);
    lab.until_figures("it is sent", |session| updates(session) > sent);
    lab.speaker.announce("192.0.2.9", 10);
    let [one, two] = both();
    lab.router
        .expect(&[one, crate::lab::v4("192.0.2.9", 10), two]);
    assert_eq!(lab.times_up(), 1);
    lab
}

pub(crate) fn enhanced_refresh(kind: Kind) -> Outcome {
    if kind == Kind::GoBgp {
        return Outcome::NotSupportedByRouter("no RFC 7313");
    }
    let lab = asked_again(kind);
    let negotiated = lab.session().negotiated.clone();
    assert!(negotiated.is_some_and(|both| both.enhanced_route_refresh));
    until(PATIENCE, "it has seen both ends of the refresh", || {
        let said = lab.router.log();
        let all = |words: [&str; 2]| words.iter().all(|words| said.contains(words));
        let seen = match kind {
            Kind::Bird => all(["Got BEGIN-OF-RR", "Got END-OF-RR"]),
            Kind::Frr => all(["BoRR", "EoRR"]),
            Kind::OpenBgpd => refreshes_seen(&lab.router.ask("show neighbor lb")) >= 2,
            // Messages of types that it does not know would end the session.
            Kind::ExaBgp | Kind::GoBgp => true,
        };
        seen.then_some(())
    });
    Outcome::Works
}

/// OpenBGPD's count of both kinds of marks.
fn refreshes_seen(answer: &str) -> u64 {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    let received = &answer["neighbors"][0]["stats"]["route-refresh"]["received"];
    ["borr", "eorr"]
        .map(|mark| received[mark].as_u64().unwrap())
        .iter()
        .sum()
}

/// More routes with the same attributes than an ordinary message takes.
pub(crate) fn extended_messages(kind: Kind) -> Outcome {
    match kind {
        Kind::Bird | Kind::Frr | Kind::ExaBgp => {}
        Kind::GoBgp | Kind::OpenBgpd => return Outcome::NotSupportedByRouter("no RFC 8654"),
    }
    let mut lab = Lab::up(kind, |plan| {
        plan.settings.extended_messages = true;
        plan.peer.extended_messages = true;
    });
    let negotiated = lab.session().negotiated.clone();
    assert!(negotiated.is_some_and(|both| both.extended_messages));
    let updates = |lab: &Lab| lab.session().figures.sent[1].load(Relaxed);
    let before = updates(&lab);
    lab.speaker.publish(|snapshot| {
        let first: IpAddr = [192, 0, 2, 1].into();
        let vip = snapshot.vips[&first].clone();
        for n in 0..3000u32 {
            let address = std::net::Ipv4Addr::from_bits(0xc612_0000 + n);
            snapshot.vips.insert(address.into(), vip.clone());
        }
    });
    until(PATIENCE, "all routes", || {
        (lab.router.routes().len() == 3002).then_some(())
    });
    assert_eq!(updates(&lab) - before, 1, "in one message of 15,000 bytes");
    assert_eq!(lab.times_up(), 1);
    Outcome::Works
}

pub(crate) fn roles(kind: Kind) -> Outcome {
    match kind {
        Kind::Bird | Kind::Frr | Kind::OpenBgpd => {}
        Kind::GoBgp | Kind::ExaBgp => return Outcome::NotSupportedByRouter("no RFC 9234"),
    }
    let lab = Lab::up(kind, |plan| {
        plan.settings.role = Some("provider");
        plan.peer.role = Some(Role::Customer);
        plan.peer.role_strict = true;
    });
    let negotiated = lab.session().negotiated.clone();
    assert_eq!(negotiated.unwrap().role, Some(Role::Provider));
    drop(lab);
    // Two that do not go together: Role Mismatch (RFC 9234 section 4.2).
    let mut lab = Lab::start(kind, |plan| {
        plan.settings.role = Some("provider");
        plan.peer.role = Some(Role::Provider);
    });
    let mismatch = |session: &Session| {
        let both = [&session.told_last, &session.heard_last];
        both.iter().any(|told| {
            told.as_ref()
                .is_some_and(|told| (told.code, told.subcode) == (2, 11))
        })
    };
    lab.until("Role Mismatch", mismatch);
    assert_eq!(lab.times_up(), 0);
    Outcome::Works
}

const TEXT: &str = "rack 7 moves, back at noon";

pub(crate) fn text_to_router(kind: Kind) -> Outcome {
    if kind == Kind::ExaBgp {
        // It formats bytes with a str, which Python 3 refuses, and answers 1/0.
        return Outcome::NotSupportedByRouter("4.2.21 cannot read a NOTIFICATION that has a text");
    }
    let lab = Lab::up(kind, |_| {});
    lab.speaker
        .configure(|bgp| bgp.shutdown_text = Some(TEXT.into()));
    lab.speaker.stop();
    until(PATIENCE, "the text is in its log", || {
        lab.router.log().contains(TEXT).then_some(())
    });
    Outcome::Works
}

pub(crate) fn text_from_router(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |_| {});
    if !lab.router.shut(TEXT) {
        return Outcome::NotSupportedByRouter("its API sends no text");
    }
    lab.until("the text", |session| {
        let told = session.heard_last.as_ref();
        told.is_some_and(|told| (told.code, told.subcode) == (6, 2) && told.text.contains(TEXT))
    });
    Outcome::Works
}

/// 40 prefixes where 20 are allowed: the session stays, with a word, or goes (RFC 4486).
pub(crate) fn maximum_prefixes(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |plan| {
        plan.settings.networks = (0..40).map(|n| format!("{}/24", prefix(n))).collect();
        plan.peer.maximum_prefixes = 20;
    });
    lab.until("too many", |session| {
        session.over_maximum.contains(&Family::Ipv4)
    });
    assert_eq!(lab.times_up(), 1);
    let peer = lab.peer.clone();
    lab.speaker.configure_peer(peer, |peer| {
        peer.maximum_prefixes_action = MaximumAction::Cease;
    });
    lab.until("it is told to cease", |session| {
        let told = session.told_last.as_ref();
        told.is_some_and(|told: &Arc<_>| (told.code, told.subcode) == (6, 1))
    });
    lab.until("the session ends", |session| {
        session.state != SessionState::Established
    });
    Outcome::Works
}

/// From a feeder behind the router; ExaBGP, which passes nothing on, announces it itself. Meanwhile one of our
/// own routes goes.
pub(crate) fn full_table(kind: Kind) -> Outcome {
    let _alone = ONE_AT_A_TIME.lock();
    // What each one manages in some twenty seconds.
    let count = match kind {
        Kind::Bird | Kind::Frr | Kind::OpenBgpd => FULL_TABLE,
        Kind::GoBgp | Kind::ExaBgp => 20_000,
    };
    let feeder = Namespace::new("feed");
    let mut lab = Lab::up(kind, |plan| {
        plan.peer.maximum_prefixes = 2 * FULL_TABLE;
        // The router has a lot to do.
        plan.settings.hold_time = 90;
        plan.peer.hold_time = Duration::from_secs(90);
        plan.settings.quiet = true;
        plan.settings.feeder = (kind != Kind::ExaBgp).then(|| "10.9.1.1".into());
    });
    // A neighbor's routes last as long as its connection.
    let mut _connection = None;
    match kind {
        Kind::ExaBgp => raw::by_api(&lab.router, count),
        Kind::Bird | Kind::Frr | Kind::GoBgp | Kind::OpenBgpd => {
            let router = lab.router.namespace();
            feeder.cable("feed", &["10.9.1.1/24"], router, &["10.9.1.2/24"]);
            _connection = Some(raw::feed(&feeder, count));
        }
    }
    let prefixes = |session: &Session| session.figures.prefixes[0].load(Relaxed);
    lab.until_figures("the first of them", |session| {
        prefixes(session) > u64::from(count / 10)
    });
    lab.speaker.withdraw("192.0.2.1");
    lab.until_figures("all of them", |session| {
        prefixes(session) >= u64::from(count)
    });
    until(PATIENCE_FOR_MANY, "the withdrawal", || {
        (!lab.router.knows("192.0.2.1/32")).then_some(())
    });
    assert_eq!(lab.times_up(), 1);
    Outcome::Works
}
