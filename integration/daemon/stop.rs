//! How it ends, in order and not, and what the next start finds.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::{Daemon, Lab, SOON, Service, bgp, route};
use crate::netns::until;
use crate::router::Router;
use crate::server::Server;

/// One service, up and announced.
fn announced() -> (Lab, Server, Router, Daemon) {
    let lab = Lab::new();
    lab.wire();
    let server = Server::start(&lab, "127.0.1.1");
    let router = lab.router(2, false);
    lab.configure(&[
        &bgp(&[2]),
        &Service::new("web", "192.0.2.1")
            .servers(&["127.0.1.1"])
            .idle(),
    ]);
    let daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 0)]);
    (lab, server, router, daemon)
}

fn in_order(signal: Signal) {
    let (lab, server, router, mut daemon) = announced();
    daemon.signal(signal);
    let took = daemon.expect_end(0, Duration::from_secs(3));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(daemon.log().ends_with("<6>stopped\n"), "{}", daemon.log());
    router.expect(&[]);
    let shutdown = "Received: Administrative shutdown";
    let log = until(SOON, "the router is told why", || {
        Some(router.log()).filter(|log| log.contains(shutdown))
    });
    let at = |what: &str| {
        log.find(what)
            .unwrap_or_else(|| panic!("no {what:?} in {log}"))
    };
    assert!(
        at("removed") < at(shutdown),
        "withdrawn before the goodbye: {log}"
    );
    assert!(lab.has_address("192.0.2.1"), "it stays for the next start");
    until(SOON, "the server is left alone", || {
        server.open().is_empty().then_some(())
    });
}

#[test]
fn sigterm_withdraws_and_says_goodbye() {
    in_order(Signal::SIGTERM);
}

#[test]
fn sigint_withdraws_and_says_goodbye() {
    in_order(Signal::SIGINT);
}

/// A router that hangs is not waited for without end, and with a second signal not at all.
#[test]
fn a_router_that_hangs_holds_up_a_stop_only_so_long() {
    let (_lab, _server, router, mut daemon) = announced();
    router.freeze();
    daemon.signal(Signal::SIGTERM);
    daemon.until_log("stopping: withdrawing");
    let took = daemon.expect_end(0, Duration::from_secs(10));
    // FAREWELL, and a little.
    assert!(took < Duration::from_millis(7500), "{took:?}");
}

#[test]
fn a_second_signal_stops_at_once() {
    let (_lab, _server, router, mut daemon) = announced();
    router.freeze();
    daemon.signal(Signal::SIGTERM);
    daemon.until_log("stopping: withdrawing");
    daemon.signal(Signal::SIGINT);
    let took = daemon.expect_end(0, Duration::from_secs(10));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(
        daemon.log().contains("<4>told twice: stopping at once"),
        "{}",
        daemon.log()
    );
}

/// No farewell: the router finds out, the address stays, the next start takes it over and announces again.
#[test]
fn killed_and_started_again() {
    let (lab, _server, router, daemon) = announced();
    daemon.signal(Signal::SIGKILL);
    router.expect(&[]);
    assert!(lab.has_address("192.0.2.1"));
    let mut next = lab.start();
    router.expect(&[route("192.0.2.1/32", 0)]);
    lab.expect_pool("web", &[("127.0.1.1", "enabled/up/pooled")]);
    let log = next.log();
    assert_eq!(
        log.matches("put on lo").count(),
        1,
        "it was there already: {log}"
    );
    next.stop(Duration::from_secs(4));
}

/// The whole machine stops for longer than the hold time, and goes on.
#[test]
fn a_daemon_that_was_suspended_comes_back() {
    let (lab, _server, router, mut daemon) = announced();
    daemon.signal(Signal::SIGSTOP);
    router.expect(&[]);
    daemon.signal(Signal::SIGCONT);
    router.expect(&[route("192.0.2.1/32", 0)]);
    lab.expect_pool("web", &[("127.0.1.1", "enabled/up/pooled")]);
    daemon.stop(Duration::from_secs(4));
}

/// Before anything is up: no router answers, no server does.
#[test]
fn a_stop_right_after_the_start() {
    let lab = Lab::new();
    lab.wire();
    lab.configure(&[
        &bgp(&[2, 3]),
        &Service::new("web", "192.0.2.1")
            .servers(&["127.0.1.1"])
            .idle(),
    ]);
    for pause in [0, 1, 5, 20, 100] {
        let mut daemon = lab.daemon("run --ipvs memory");
        daemon.until_log("started");
        std::thread::sleep(Duration::from_millis(pause));
        let took = daemon.stop(Duration::from_secs(8));
        assert!(took < Duration::from_secs(2), "{took:?}");
        std::fs::remove_file(lab.file("log")).unwrap();
    }
}
