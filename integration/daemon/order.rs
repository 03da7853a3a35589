//! What follows from what: checks, pools, addresses, routes, and how loudly a stand-in for the real thing says so.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lab::{Daemon, Lab, SOON, Service, bgp, failed, route};
use crate::netns::until;
use crate::router::Router;
use crate::server::Server;

const UP: &str = "enabled/up/pooled";
const HELD: &str = "enabled/down/pooled";
const OUT: &str = "enabled/down/not pooled";

/// Checks and API are real, and nothing else is touched.
#[test]
fn a_dry_run_looks_and_touches_nothing() {
    let lab = Lab::new();
    lab.wire();
    // It waits for us to connect.
    let router = lab.router(2, true);
    let mut one = Server::start(&lab, "127.0.1.1");
    let _two = Server::start(&lab, "127.0.1.2");
    let web = Service::new("web", "192.0.2.1").servers(&["127.0.1.1", "127.0.1.2"]);
    lab.configure(&[&bgp(&[2]), &web.idle().fetch()]);
    let mut daemon = lab.daemon("run --dry-run");
    lab.until_it_answers();
    daemon.until_log("<4>dry run: ");
    lab.expect_pool("web", &[("127.0.1.1", UP), ("127.0.1.2", UP)]);
    one.die();
    lab.expect_pool("web", &[("127.0.1.1", OUT), ("127.0.1.2", UP)]);
    one.revive(&lab);
    lab.expect_pool("web", &[("127.0.1.1", UP), ("127.0.1.2", UP)]);
    assert_eq!(
        lab.get("/alerts").unwrap(),
        "WARNING - dry run: Nothing is done, only shown. "
    );
    assert_eq!(lab.metric("plimsoll_mode{mode=\"dry-run\"}"), Some(1.0));

    assert_eq!(lab.addresses(), [""; 0]);
    assert!(!lab.file("state").exists());
    // Its own tries to connect would be in its log.
    assert!(
        !router.log().contains("Incoming connection"),
        "{}",
        router.log()
    );
    let bgp_port = lab.inside(|| std::net::TcpStream::connect("10.9.0.1:179").is_ok());
    assert!(!bgp_port);
    daemon.stop(Duration::from_secs(3));
}

/// Both families, one server each, behind two VIPs; and a router.
fn announcing(more: impl Fn(Service) -> Service) -> (Lab, [Server; 2], Router) {
    let lab = Lab::new();
    lab.wire();
    lab.namespace.ip("address add fd00:1::1/128 dev lo nodad");
    let servers = ["127.0.1.1", "fd00:1::1"].map(|address| Server::start(&lab, address));
    let router = lab.router(2, false);
    let four = Service::new("four", "192.0.2.1")
        .med(10)
        .servers(&["127.0.1.1"]);
    let six = Service::new("six", "2001:db8::1")
        .med(20)
        .servers(&["fd00:1::1"]);
    lab.configure(&[&bgp(&[2]), &more(four), &more(six)]);
    (lab, servers, router)
}

#[test]
fn a_table_in_memory_is_all_that_is_not_real() {
    let (lab, _servers, router) = announcing(|service| service.idle());
    let mut daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 10), route("2001:db8::1/128", 20)]);
    daemon.until_log("<4>IPVS in memory: NO TRAFFIC IS BALANCED");
    let alerts = lab.until_alert("ipvs: A table in memory replaces the kernel's");
    assert!(alerts.starts_with("CRITICAL"), "{alerts}");
    assert_eq!(
        lab.metric("plimsoll_mode{mode=\"memory-table\"}"),
        Some(1.0)
    );
    lab.expect_pool("four", &[("127.0.1.1", UP)]);
    lab.expect_pool("six", &[("fd00:1::1", UP)]);
    let addresses = lab.addresses();
    let line = |part: &str| {
        let found = addresses.iter().find(|line| line.contains(part));
        found
            .unwrap_or_else(|| panic!("no {part} in {addresses:?}"))
            .clone()
    };
    assert!(line("inet 192.0.2.1/32").contains("lo:plimsoll"));
    line("inet6 2001:db8::1/128");

    // Somebody takes an address away: it comes back, and so does its route if it had to go.
    let session = router.session();
    lab.namespace.ip("address del 192.0.2.1/32 dev lo");
    until(SOON, "the address is back", || {
        lab.has_address("192.0.2.1").then_some(())
    });
    daemon.until_log("someone removed an address from this host");
    router.expect(&[route("192.0.2.1/32", 10), route("2001:db8::1/128", 20)]);
    assert_eq!(router.session(), session, "the session was not reset");
    daemon.stop(Duration::from_secs(4));
}

/// All else is ready: what is missing is one server's first answer.
#[test]
fn nothing_is_announced_before_all_first_checks_are_in() {
    let (lab, servers, router) = announcing(|service| service.idle().fetch());
    servers[0].answer(None);
    let _daemon = lab.start();
    router.expect(&[route("2001:db8::1/128", 20)]);
    until(SOON, "the slow server is asked", || {
        (servers[0].requests() > 0).then_some(())
    });
    until(SOON, "the address is there", || {
        lab.has_address("192.0.2.1").then_some(())
    });
    assert_eq!(
        lab.metric("plimsoll_vip_refused{vip=\"192.0.2.1\",reason=\"not-checked\"}"),
        Some(1.0)
    );
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(router.routes().len(), 1, "announced before it was checked");
        std::thread::sleep(Duration::from_millis(50));
    }
    servers[0].answer(Some(200));
    router.expect(&[route("192.0.2.1/32", 10), route("2001:db8::1/128", 20)]);
}

#[test]
fn the_threshold_holds_the_last_ones_and_the_route() {
    let lab = Lab::new();
    lab.wire();
    let hosts = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"];
    let mut servers = hosts.map(|address| Server::start(&lab, address));
    let router = lab.router(2, false);
    lab.configure(&[
        &bgp(&[2]),
        &Service::new("web", "192.0.2.1").servers(&hosts).idle(),
    ]);
    let mut daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 0)]);
    let session = router.session();
    let states = |states: [&'static str; 4]| -> Vec<(&str, &str)> {
        hosts.into_iter().zip(states).collect()
    };
    lab.expect_pool("web", &states([UP; 4]));
    servers[0].die();
    lab.expect_pool("web", &states([OUT, UP, UP, UP]));
    servers[1].die();
    lab.expect_pool("web", &states([OUT, OUT, UP, UP]));
    servers[2].die();
    lab.expect_pool("web", &states([OUT, OUT, HELD, UP]));
    lab.until_alert("web: Servers 127.0.1.3 are marked down but pooled");
    servers[3].die();
    lab.expect_pool("web", &states([OUT, OUT, HELD, HELD]));
    lab.until_alert("web: Servers 127.0.1.3, 127.0.1.4 are marked down but pooled");
    daemon.until_log("<4>could not depool: too many are down");
    // Nobody is up: another balancer would be better, if it has better servers.
    router.expect(&[failed("192.0.2.1/32", 0)]);
    servers[0].revive(&lab);
    lab.expect_pool("web", &states([UP, OUT, OUT, HELD]));
    router.expect(&[route("192.0.2.1/32", 0)]);
    for server in &mut servers[1..] {
        server.revive(&lab);
    }
    lab.expect_pool("web", &states([UP; 4]));
    lab.until_no_alert("marked down");
    router.expect(&[route("192.0.2.1/32", 0)]);
    assert_eq!(router.session(), session, "the session was not reset");
    assert!(
        !router.log().contains("removed"),
        "the route was there all the time"
    );
    daemon.stop(Duration::from_secs(4));
}

#[test]
fn an_address_with_nothing_pooled_is_withdrawn_until_something_is() {
    let (lab, mut servers, router) =
        announcing(|service| service.key("depool-threshold = 0").idle());
    let _daemon: Daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 10), route("2001:db8::1/128", 20)]);
    let session = router.session();
    for _ in 0..3 {
        servers[0].die();
        router.expect(&[route("2001:db8::1/128", 20)]);
        lab.expect_pool("four", &[("127.0.1.1", OUT)]);
        lab.until_alert("four: No server is pooled");
        assert!(lab.has_address("192.0.2.1"));
        servers[0].revive(&lab);
        router.expect(&[route("192.0.2.1/32", 10), route("2001:db8::1/128", 20)]);
    }
    assert_eq!(router.session(), session, "the session was not reset");
}

/// Nothing is up when it starts: the floor is pooled, checked, and only then announced, as failed.
#[test]
fn a_start_with_everything_down() {
    let (lab, mut servers, router) = announcing(|service| service.idle());
    servers.iter_mut().for_each(Server::die);
    let mut daemon = lab.start();
    router.expect(&[failed("192.0.2.1/32", 10), failed("2001:db8::1/128", 20)]);
    lab.expect_pool("four", &[("127.0.1.1", HELD)]);
    lab.until_alert("four: Servers 127.0.1.1 are marked down but pooled");
    daemon.stop(Duration::from_secs(4));
}

/// `manage-addresses = false`: somebody else puts them there and takes them away, and routes follow.
#[test]
fn addresses_may_be_left_to_others() {
    let (lab, _servers, router) = announcing(|service| service.idle());
    let text = fs::read_to_string(lab.config()).unwrap();
    let left = text.replace(
        "\nstate-directory",
        "\nmanage-addresses = false\nstate-directory",
    );
    fs::write(lab.config(), &left).unwrap();
    let mut daemon = lab.start();
    lab.until_alert("192.0.2.1: The address is not on this host");
    lab.namespace.ip("address add 192.0.2.1/32 dev lo");
    router.expect(&[route("192.0.2.1/32", 10)]);
    lab.namespace.ip("address del 192.0.2.1/32 dev lo");
    router.expect(&[]);
    // From now on it is ours to do.
    fs::write(lab.config(), text).unwrap();
    daemon.signal(Signal::SIGHUP);
    router.expect(&[route("192.0.2.1/32", 10), route("2001:db8::1/128", 20)]);
    lab.until_no_alert("not on this host");
    daemon.stop(SOON);
}

/// The namespace has no DNS: a name out of the hosts file is as good as an address, one that nobody knows is out of the
/// pool, and the others are announced without it.
#[test]
fn a_name_that_does_not_resolve_holds_up_nobody_for_long() {
    let lab = Lab::new();
    lab.wire();
    let _server = Server::start(&lab, "127.0.0.1");
    let router = lab.router(2, false);
    let web = Service::new("web", "192.0.2.1").servers(&["localhost", "web.invalid"]);
    lab.configure(&[&bgp(&[2]), &web.key("depool-threshold = 0.5").idle()]);
    let mut daemon = lab.start();
    let begun = Instant::now();
    router.expect(&[route("192.0.2.1/32", 0)]);
    println!("announced after {:?}", begun.elapsed());
    lab.expect_pool("web", &[("localhost", UP), ("web.invalid", OUT)]);
    lab.until_alert("web: Servers web.invalid do not resolve: ");
    daemon.stop(SOON);
}
