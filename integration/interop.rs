//! What the BGP speaker and five routers make of each other: a test a router, a function a feature. Each
//! test writes a row, of which `integration/interop` makes the matrix. Needs root, iproute2 and the routers.
//!
//! ```text
//!  balancer: the real speaker ──wire── router: one of five ──feed── feeder: bytes (a full table)
//! ```
//!
//! A router that has not got a feature is not to blame: that is an outcome, and it says why. What fails fails
//! the test.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test: a failure is a panic, the clock is the world's"
)]

#[path = "bgp/fake.rs"]
#[expect(dead_code, reason = "the tests of bad peers use all of it")]
mod fake;
#[path = "interop.d/lab.rs"]
mod lab;
#[path = "interop.d/life.rs"]
mod life;
#[path = "netns.rs"]
mod netns;
#[path = "interop.d/raw.rs"]
mod raw;
#[path = "routers.rs"]
#[expect(dead_code, reason = "the benchmark uses the rest of it")]
mod router;
#[path = "interop.d/routes.rs"]
mod routes;
#[path = "interop.d/session.rs"]
mod session;
#[path = "bgp/speaker.rs"]
#[expect(dead_code, reason = "the tests of BGP use all of it")]
mod speaker;
#[path = "interop.d/table.rs"]
mod table;
#[path = "interop.d/transport.rs"]
mod transport;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use router::Kind;

const LOCAL_AS: u32 = 4_200_000_001;
const ROUTER_AS: u32 = 65001;
const US: &str = "10.9.0.1";
const US_V6: &str = "fd00:9::1";

enum Outcome {
    Works,
    NotSupportedByRouter(&'static str),
    Fails(String),
}

type Feature<Who> = (&'static str, fn(Who) -> Outcome);

/// A million from most.
const FULL_TABLE: &str = "1,000,000 prefixes from it (GoBGP, ExaBGP: 20,000)";

/// The columns. Those of the raw peer, which is no router, stand at the end.
const FEATURES: &[Feature<Kind>] = &[
    ("IPv4 route with all attributes", routes::ipv4),
    ("IPv6 route with all attributes", routes::ipv6),
    ("withdrawal, IPv4 and IPv6", routes::withdrawal),
    ("attributes change, session stays", routes::change),
    ("both ends with 4-byte AS numbers", routes::four_octet_as),
    ("iBGP with LOCAL_PREF", routes::internal),
    (
        "IPv4 over IPv6 next hop (RFC 8950)",
        routes::extended_next_hop,
    ),
    ("nothing but IPv6 on the wire", transport::ipv6_only),
    ("link-local address", transport::link_local),
    ("unnumbered interface", transport::unnumbered),
    ("TCP MD5, same key", transport::md5),
    ("TCP MD5, other key: none, hint", transport::md5_other_key),
    ("GTSM at both ends", transport::gtsm),
    ("GTSM at the router's end only", transport::gtsm_theirs),
    ("GTSM at our end only", transport::gtsm_ours),
    ("the router connects", life::router_connects),
    ("we connect", life::we_connect),
    ("both connect, our id larger", life::collision_larger),
    ("both connect, our id smaller", life::collision_smaller),
    ("router killed and back", life::killed),
    ("router stopped and back", life::stopped),
    ("we are killed, cut off: all is gone", life::we_die),
    ("router reconfigured, reset", life::reconfigured),
    ("router frozen: dropped, and back", life::frozen),
    ("router frozen for less: stays", life::frozen_shortly),
    ("route refresh", session::refresh),
    (
        "enhanced route refresh (RFC 7313)",
        session::enhanced_refresh,
    ),
    ("extended messages (RFC 8654)", session::extended_messages),
    ("roles (RFC 9234)", session::roles),
    (
        "shutdown text to the router (RFC 9003)",
        session::text_to_router,
    ),
    ("shutdown text from the router", session::text_from_router),
    (
        "maximum-prefixes: warn and cease",
        session::maximum_prefixes,
    ),
    (FULL_TABLE, session::full_table),
];

const RAW: &[Feature<()>] = &[
    (FULL_TABLE, raw::full_table),
    ("malformed UPDATEs (RFC 7606)", raw::malformed),
];

#[test]
fn bird() {
    router(Kind::Bird);
}

#[test]
fn frr() {
    router(Kind::Frr);
}

#[test]
fn gobgp() {
    router(Kind::GoBgp);
}

#[test]
fn openbgpd() {
    router(Kind::OpenBgpd);
}

#[test]
fn exabgp() {
    router(Kind::ExaBgp);
}

#[test]
fn raw_bytes() {
    row("raw bytes", (), RAW);
}

fn router(kind: Kind) {
    row(&format!("{kind:?}"), kind, FEATURES);
}

/// Tries all features, writes the row, and panics if one fails. Most of a feature's time is spent waiting, so
/// a few of them are tried at a time.
fn row<Who: Copy + Send + Sync>(name: &str, who: Who, features: &[Feature<Who>]) {
    const AT_A_TIME: usize = 3;
    let chosen = std::env::var("INTEROP_FEATURE").unwrap_or_default();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    std::fs::create_dir_all(&folder).unwrap();
    let file = Mutex::new(File::create(folder.join(name)).unwrap());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(String::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((feature, try_it)) = features.get(at) else {
                break;
            };
            if !feature.contains(&chosen) {
                continue;
            }
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| try_it(who)));
            let outcome = outcome.unwrap_or_else(|panic| Outcome::Fails(message(&*panic)));
            let took = begun.elapsed().as_secs_f64();
            let (word, why) = match &outcome {
                Outcome::Works => ("works", ""),
                Outcome::NotSupportedByRouter(why) => ("not-supported", *why),
                Outcome::Fails(why) => {
                    let _ = writeln!(failed.lock().unwrap(), "- {feature}: {why}");
                    ("fails", why.lines().next().unwrap_or_default())
                }
            };
            writeln!(
                file.lock().unwrap(),
                "{at}\t{feature}\t{word}\t{took:.1}\t{why}"
            )
            .unwrap();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{name}:\n{failed}");
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let fixed = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or(fixed)
        .unwrap_or_else(|| "a panic without words".into())
}
