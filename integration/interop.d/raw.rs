//! A peer made of bytes, for what routers do not do: a million prefixes as fast as the wire takes them, and
//! UPDATEs that no router would send.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use plimsoll::routing::session::{Session, SessionState};

use crate::fake::{Fake, UPDATE, hello, message};
use crate::lab::{Lab, PATIENCE_FOR_MANY};
use crate::netns::Namespace;
use crate::router::{FEEDER_AS, Kind, Router, prefix};
use crate::table::{attributes, connect, table};
use crate::{Outcome, ROUTER_AS};

pub(crate) const FULL_TABLE: u32 = 1_000_000;

/// Whoever has a full table has work enough for a processor.
pub(crate) static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Connects to a router as its feeder and sends it so many prefixes. The connection must be kept.
pub(crate) fn feed(namespace: &Namespace, count: u32) -> Fake {
    let us = Ipv4Addr::new(10, 9, 1, 1);
    let mut fake = connect(namespace, [10, 9, 1, 2].into(), FEEDER_AS, us);
    fake.stream
        .set_write_timeout(Some(PATIENCE_FOR_MANY))
        .unwrap();
    fake.send(&table(count, FEEDER_AS, us));
    fake
}

/// Tells ExaBGP to announce so many.
pub(crate) fn by_api(router: &Router, count: u32) {
    const A_COMMAND: u32 = 1000;
    for first in (0..count).step_by(A_COMMAND as usize) {
        let mut command = String::from("announce attributes next-hop self nlri");
        for n in first..first + A_COMMAND {
            let _ = write!(command, " {}/24", prefix(n));
        }
        router.tell(&command);
    }
}

/// A lab with a place for us in the router's stead.
fn stage() -> Lab {
    let mut lab = Lab::start(Kind::Bird, |plan| {
        plan.peer.maximum_prefixes = 2 * FULL_TABLE;
        plan.peer.hold_time = Duration::from_secs(90);
    });
    lab.router.kill();
    lab.speaker.announce("192.0.2.1", 10);
    lab
}

fn prefixes(session: &Session) -> u64 {
    session.figures.prefixes[0].load(Relaxed)
}

pub(crate) fn full_table((): ()) -> Outcome {
    let _alone = ONE_AT_A_TIME.lock();
    let mut lab = stage();
    let mut fake = Fake::established(lab.router.namespace(), &hello().message());
    lab.until_state(SessionState::Established);
    let bytes = table(FULL_TABLE, ROUTER_AS, Ipv4Addr::new(10, 9, 0, 2));
    fake.stream
        .set_write_timeout(Some(PATIENCE_FOR_MANY))
        .unwrap();
    fake.send(&bytes);
    lab.until_figures("all of them", |session| {
        prefixes(session) == u64::from(FULL_TABLE)
    });
    // The same again is no more.
    fake.send(&bytes);
    fake.send(&message(UPDATE, &[0, 4, 24, 11, 0, 0, 0, 0]));
    lab.until_figures("one less", |session| {
        prefixes(session) == u64::from(FULL_TABLE) - 1
    });
    assert_eq!(lab.times_up(), 1);
    Outcome::Works
}

/// RFC 7606: treated as withdrawals, or without the attribute; the session stays.
pub(crate) fn malformed((): ()) -> Outcome {
    let mut lab = stage();
    let mut fake = Fake::established(lab.router.namespace(), &hello().message());
    lab.until_state(SessionState::Established);
    let next_hop = Ipv4Addr::new(10, 9, 0, 2);
    let good = attributes(&[ROUTER_AS], next_hop);
    let update = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = good.clone();
        change(&mut body);
        body.extend([24, 11, 0, 0]);
        message(UPDATE, &body)
    };
    // Adds an attribute at the end.
    let with = |attribute: &'static [u8]| {
        update(&|body: &mut Vec<u8>| {
            body[3] += attribute.len() as u8;
            body.extend(attribute);
        })
    };
    let announced = update(&|_| {});
    // What each one is, what it leaves of the route, and its section.
    let table: Vec<(&str, Vec<u8>, bool)> = vec![
        ("ORIGIN 7, 7.1", update(&|body| body[7] = 7), false),
        (
            "AS_PATH segment of type 9, 7.2",
            update(&|body| body[11] = 9),
            false,
        ),
        (
            "AS_PATH segment beyond its end, 7.2",
            update(&|body| body[12] = 9),
            false,
        ),
        (
            "MULTI_EXIT_DISC of 3 bytes, 7.4",
            with(&[0x80, 4, 3, 0, 0, 0]),
            false,
        ),
        (
            "LOCAL_PREF from outside, 7.5",
            with(&[0x40, 5, 3, 0, 0, 0]),
            true,
        ),
        (
            "ATOMIC_AGGREGATE of 1 byte, 7.6",
            with(&[0x40, 6, 1, 0]),
            true,
        ),
        (
            "AGGREGATOR of 5 bytes, 7.7",
            with(&[0xc0, 7, 5, 0, 0, 0, 0, 0]),
            true,
        ),
        (
            "COMMUNITIES of 5 bytes, 7.8",
            with(&[0xc0, 8, 5, 0, 0, 0, 0, 0]),
            false,
        ),
        (
            "ORIGINATOR_ID from outside, 7.9",
            with(&[0x80, 9, 3, 0, 0, 0]),
            true,
        ),
        (
            "CLUSTER_LIST from outside, 7.10",
            with(&[0x80, 10, 3, 0, 0, 0]),
            true,
        ),
        (
            "extended communities of 7, 7.14",
            with(&[0xc0, 16, 7, 0, 0, 0, 0, 0, 0, 0]),
            false,
        ),
        (
            "large communities of 5, RFC 8092",
            with(&[0xc0, 32, 5, 0, 0, 0, 0, 0]),
            false,
        ),
        ("ORIGIN twice, 3 g", with(&[0x40, 1, 1, 0]), true),
        (
            "ORIGIN optional, 3 c",
            update(&|body| body[4] = 0xc0),
            false,
        ),
        ("no NEXT_HOP, 3 d", without_next_hop(), false),
        ("an unknown optional one", with(&[0xc0, 99, 2, 1, 2]), true),
    ];
    for (what, bytes, stays) in table {
        fake.send(&announced);
        lab.until_figures("announced", |session| prefixes(session) == 1);
        let read = lab.session().figures.received[1].load(Relaxed);
        fake.send(&bytes);
        lab.until_figures("read", |session| {
            session.figures.received[1].load(Relaxed) > read
        });
        lab.until_figures(what, |session| prefixes(session) == u64::from(stays));
        assert_eq!(lab.times_up(), 1, "{what}");
    }
    Outcome::Works
}

fn without_next_hop() -> Vec<u8> {
    let mut body = attributes(&[ROUTER_AS], Ipv4Addr::new(10, 9, 0, 2));
    body[3] -= 7;
    body.truncate(body.len() - 7);
    body.extend([24, 11, 0, 0]);
    message(UPDATE, &body)
}
