//! How sessions come and go.

use std::time::{Duration, Instant};

use plimsoll::routing::session::SessionState;

use crate::Outcome;
use crate::lab::{Lab, PATIENCE, PORT};
use crate::netns::until;
use crate::router::{Kind, Router};

/// We are passive.
pub(crate) fn router_connects(kind: Kind) -> Outcome {
    let lab = Lab::up(kind, |plan| plan.peer.passive = true);
    assert_eq!(lab.router.connections(), (0, 1));
    Outcome::Works
}

/// The router is passive, and we do not even listen.
pub(crate) fn we_connect(kind: Kind) -> Outcome {
    let lab = Lab::up(kind, |plan| {
        plan.settings.passive = true;
        plan.listen = false;
    });
    assert_eq!(lab.router.connections(), (1, 0));
    Outcome::Works
}

pub(crate) fn collision_larger(kind: Kind) -> Outcome {
    collision(kind, [10, 250, 0, 1])
}

pub(crate) fn collision_smaller(kind: Kind) -> Outcome {
    collision(kind, [10, 1, 0, 1])
}

/// Both have connected before either has read a word (RFC 4271 section 6.8): one connection stays.
fn collision(kind: Kind, our_id: [u8; 4]) -> Outcome {
    let mut lab = Lab::start(kind, |plan| {
        plan.router_id = our_id.into();
        // Our try goes on while the wire is cut.
        plan.peer.connect_retry_time = PATIENCE;
    });
    lab.speaker.announce("192.0.2.1", 10);
    lab.speaker.announce("2001:db8::1", 20);
    lab.back();
    lab.router.kill();
    lab.balancer.ip(&format!("link set {PORT} nomaster"));
    lab.router.run();
    // The router tries to connect, in vain, and hangs. Then the wire is whole again: its system completes its
    // connection and takes ours for it. When it goes on it finds both.
    until(PATIENCE, "the router tries", || {
        lab.router.connects().then_some(())
    });
    lab.router.freeze();
    lab.balancer.ip(&format!("link set {PORT} master wire"));
    until(PATIENCE, "both connections", || {
        (lab.router.connections() >= (1, 1)).then_some(())
    });
    lab.router.thaw();
    lab.back();
    let settled = Instant::now();
    let (ups, session) = (lab.times_up(), lab.router.session());
    // The hold time is 3 s: whatever is left of the other connection shows until then.
    until(Duration::from_secs(10), "it stays", || {
        assert_eq!(
            (lab.times_up(), lab.router.session()),
            (ups, session.clone())
        );
        (settled.elapsed() > Duration::from_secs(4)).then_some(())
    });
    let (theirs, ours) = lab.router.connections();
    assert_eq!(theirs + ours, 1, "one connection is left");
    Outcome::Works
}

pub(crate) fn killed(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |_| {});
    lab.router.kill();
    lab.until("the session ends", |session| {
        session.state != SessionState::Established
    });
    lab.router.run();
    lab.back();
    Outcome::Works
}

pub(crate) fn stopped(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |_| {});
    lab.router.stop();
    lab.until("the session ends", |session| {
        session.state != SessionState::Established
    });
    lab.router.run();
    lab.back();
    Outcome::Works
}

/// Another hold time, which counts after the next OPEN.
pub(crate) fn reconfigured(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |plan| plan.peer.hold_time = Duration::from_secs(9));
    let hold_time = |lab: &Lab| lab.session().negotiated.as_ref().map(|both| both.hold_time);
    assert_eq!(hold_time(&lab), Some(Duration::from_secs(3)));
    lab.router.reconfigure(|settings| settings.hold_time = 6);
    lab.back();
    lab.router.clear();
    lab.until("the new hold time", |session| {
        let negotiated = session.negotiated.as_ref();
        negotiated.is_some_and(|both| both.hold_time == Duration::from_secs(6))
    });
    lab.back();
    Outcome::Works
}

pub(crate) fn frozen(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |_| {});
    lab.router.freeze();
    lab.until("the session ends", |session| {
        session.state != SessionState::Established
    });
    let fault = lab.speaker.fault(lab.peer.clone()).to_owned();
    assert!(fault.contains("hold timer expired"), "{fault}");
    lab.router.thaw();
    lab.back();
    Outcome::Works
}

/// For about half of the hold time, and then for as long as all of it nothing happens.
pub(crate) fn frozen_shortly(kind: Kind) -> Outcome {
    let mut lab = Lab::up(kind, |_| {});
    let session = lab.router.session();
    lab.router.freeze();
    let begun = Instant::now();
    let last_for = |lab: &mut Lab, time: Duration| {
        until(PATIENCE, "that time is over", || {
            assert_eq!(lab.times_up(), 1);
            assert_eq!(lab.session().state, SessionState::Established);
            (begun.elapsed() > time).then_some(())
        });
    };
    last_for(&mut lab, Duration::from_millis(1500));
    lab.router.thaw();
    last_for(&mut lab, Duration::from_millis(5500));
    assert_eq!(lab.router.session(), session);
    lab.back();
    Outcome::Works
}

/// Killed, and cut off: what we have announced goes with the session, though the router would keep the routes of
/// who asks for it (RFC 4724).
pub(crate) fn we_die(kind: Kind) -> Outcome {
    let lab = |hold_time| {
        Lab::up(kind, |plan| {
            plan.settings.graceful_restart = true;
            plan.settings.hold_time = hold_time;
            plan.peer.hold_time = Duration::from_secs(hold_time.into());
        })
    };
    let gone = |router: &Router| {
        until(Duration::from_secs(10), "the routes are gone", || {
            router.routes().is_empty().then_some(())
        });
    };
    // Its timer is not what tells the router.
    let Lab {
        balancer: _balancer,
        router,
        speaker,
        ..
    } = lab(60);
    drop(speaker);
    gone(&router);
    let lab = lab(3);
    lab.balancer.ip(&format!("link set {PORT} nomaster"));
    gone(&lab.router);
    Outcome::Works
}
