//! The whole speaker over TCP, threads, sockets and all, and a router that says and does whatever the fuzzer's
//! bytes mean: `live/script.rs` reads them, `live/lab.rs` acts them out and looks at what the speaker makes of it.
//!
//! What must hold in every run, whatever the router does:
//! - No task of the speaker panics, and it goes on.
//! - What it writes are whole messages that can be read and are no fault of an UPDATE; nothing follows a
//!   NOTIFICATION but the end of the connection, and that comes.
//! - No UPDATE before both have said OPEN and KEEPALIVE, and no session that is called established.
//! - Beside a connection that is established there is soon no other.
//! - Another router, which is there from the first run to the last, never loses its session and knows all the time
//!   what is announced.
//! - Then the same router does all right: it gets a session at once and hears what is announced, no less and no
//!   more. Its peer is removed: all is withdrawn, then told (Cease / Peer De-configured), and no socket is left.
//!
//! All runs share a speaker, on the loopback device; each has a router's address of its own, so that none has to
//! wait for the other's back-off. IPv4 and IPv6 addresses are announced; the sessions themselves are over IPv4,
//! since of IPv6 addresses the loopback device has only one.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

#[path = "../live/lab.rs"]
mod lab;
#[path = "../live/script.rs"]
mod script;
#[expect(dead_code, reason = "the tests of BGP use all of it")]
#[path = "../../bgp/speaker.rs"]
mod speaker;
#[path = "../live/wire.rs"]
mod wire;

/// What the speaker's tests know as their own network namespace: here it is the one that we are in.
mod netns {
    pub(crate) struct Namespace;

    impl Namespace {
        pub(crate) fn handle(&self) -> Namespace {
            Namespace
        }

        pub(crate) fn enter(self) {}
    }
}

const LOCAL_AS: u32 = 4_200_000_001;
const US: &str = "127.0.0.1";
/// A next hop, not an address of this host.
const US_V6: &str = "2001:db8:ffff::1";

thread_local! {
    static LAB: RefCell<lab::Lab> = RefCell::new(lab::Lab::new());
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(script) = script::read(bytes) {
        LAB.with_borrow_mut(|lab| lab.run(&script));
    }
});
