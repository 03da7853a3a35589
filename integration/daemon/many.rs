//! Many servers, many changes: memory and processor time stay within bounds, and the API answers meanwhile.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::lab::{Daemon, Lab, SOON, Service, bgp, route};
use crate::netns::until;
use crate::server::Server;

/// All servers of a service die and come back, again and again: 10,000 times in all.
#[test]
fn flaps_cost_no_memory() {
    const SERVERS: usize = 500;
    let lab = Lab::new();
    let mut server = Server::start(&lab, "0.0.0.0");
    let hosts: Vec<String> = (0..SERVERS)
        .map(|n| format!("127.1.{}.{}", n / 250, 1 + n % 250))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let web = Service::new("web", "192.0.2.1").servers(&hosts).monitor(
        "type = \"idle-connection\"\nmax-delay = \"50ms\"\ntimeout-clean-reconnect = \"100ms\"",
    );
    lab.configure(&[&web]);
    let mut daemon = lab.start();
    let up = |wanted: usize| {
        until(SOON * 2, &format!("{wanted} servers are up"), || {
            (lab.metric("plimsoll_service_servers_up{service=\"web\"}") == Some(wanted as f64))
                .then_some(())
        });
    };
    let mut flap = |times: usize| {
        for _ in 0..times {
            server.die();
            up(0);
            server.revive(&lab);
            up(SERVERS);
        }
    };
    up(SERVERS);
    flap(2);
    let before = daemon.status("VmRSS");
    flap(18);
    let after = daemon.status("VmRSS");
    println!("{before} KiB before, {after} KiB after");
    assert!(
        after < before + before / 2 + 8192,
        "{before} KiB before, {after} KiB after"
    );
    daemon.stop(SOON);
}

/// 1,000 services of 20 servers each, in one file; a server less where the host allows fewer descriptors.
#[test]
fn twenty_thousand_servers() {
    const SERVICES: usize = 1000;
    /// For so long a monitoring system would wait, on a machine that does much else.
    const ANSWER: Duration = Duration::from_secs(10);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let servers = (hard as usize - 600) / SERVICES;
    let servers = servers.min(20);
    assert!(servers > 10, "of {hard} descriptors");
    let lab = Lab::new();
    lab.wire();
    let router = lab.router(2, false);
    let mut server = Server::start(&lab, "0.0.0.0");
    let services: Vec<String> = (0..SERVICES)
        .map(|n| {
            let vip = format!("198.18.{}.{}", n / 250, 1 + n % 250);
            // Each its own servers: the same ones would be checked once for all.
            let host = |server| format!("127.{}.{}.{server}", 1 + n / 250, n % 250);
            let hosts: Vec<String> = (1..=servers).map(host).collect();
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let service = Service::new(&format!("s{n:04}"), &vip).servers(&hosts);
            service.monitor("type = \"idle-connection\"").to_string()
        })
        .collect();
    lab.configure(&[&bgp(&[2]), &services.concat()]);
    let begun = Instant::now();
    let mut daemon = lab.start();
    println!("it answers after {:?}", begun.elapsed());
    let mut slowest = Duration::ZERO;
    until(SOON * 4, "all connections are there", || {
        let asked = Instant::now();
        lab.get("/pools/s0500").unwrap();
        slowest = slowest.max(asked.elapsed());
        (server.open().len() == SERVICES * servers).then_some(())
    });
    println!(
        "all checked after {:?}, slowest answer {slowest:?}, {:?} of processor time",
        begun.elapsed(),
        daemon.busy()
    );
    until(SOON * 2, "all are pooled", || {
        let text = lab.get("/metrics")?;
        let pooled = format!(" {servers}");
        let full = |line: &&str| {
            line.starts_with("plimsoll_service_servers_pooled{") && line.ends_with(&pooled)
        };
        (text.lines().filter(full).count() == SERVICES).then_some(())
    });
    println!(
        "all pooled after {:?}, {} KiB",
        begun.elapsed(),
        daemon.status("VmRSS")
    );
    assert!(slowest < ANSWER, "{slowest:?}");
    assert_eq!(
        server.accepted(),
        SERVICES * servers,
        "each was connected to once"
    );
    until(SOON * 2, "all are announced", || {
        (router.routes().len() == SERVICES).then_some(())
    });
    println!("all announced after {:?}", begun.elapsed());
    let session = router.session();
    // How the rest does when nothing happens.
    let (busy, begun) = (daemon.busy(), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let idle = (daemon.busy() - busy).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("{:.1} % of a core when idle", idle * 100.0);
    assert!(idle < 0.5, "{idle}");
    // All of them die at once.
    let (busy, begun) = (daemon.busy(), Instant::now());
    server.die();
    println!("dead after {:?}", begun.elapsed());
    let mut slowest = Duration::ZERO;
    until(SOON * 4, "all are down", || {
        let asked = Instant::now();
        // It may answer none for a while, but is there again.
        lab.get("/pools/s0500")?;
        slowest = slowest.max(asked.elapsed());
        let text = lab.get("/metrics")?;
        let down =
            |line: &&str| line.starts_with("plimsoll_service_servers_up{") && line.ends_with(" 0");
        (text.lines().filter(down).count() == SERVICES).then_some(())
    });
    println!(
        "all down after {:?}, slowest answer {slowest:?}, {:?} of processor time",
        begun.elapsed(),
        daemon.busy() - busy
    );
    // The threshold holds half of each pool, and so the routes.
    assert_eq!(router.session(), session, "the session was not reset");
    let log = router.log();
    assert!(!log.contains("removed"), "all were announced all the time");
    let took = daemon.stop(SOON);
    println!("ended in {took:?}");
    router.expect(&[]);
}

/// The checks leave something for the rest: routers, lists and the API go on, and it is said.
#[test]
fn fewer_descriptors_than_servers() {
    const LIMIT: usize = 1024;
    let lab = Lab::new();
    lab.wire();
    let router = lab.router(2, true);
    let server = Server::start(&lab, "0.0.0.0");
    let hosts: Vec<String> = (0..LIMIT)
        .map(|n| format!("127.1.{}.{}", n / 250, 1 + n % 250))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let list = lab.file("web.json");
    fs::write(&list, r#"{"127.0.1.1": {}}"#).unwrap();
    let many = Service::new("many", "192.0.2.1")
        .servers(&hosts)
        .key("depool-threshold = 0.1")
        .idle();
    let listed = Service::new("listed", "192.0.2.2")
        .key(&format!("servers = \"file://{}\"", list.display()));
    lab.configure(&[&bgp(&[2]), &many, &listed]);
    let mut prlimit = lab.namespace.command("prlimit");
    prlimit
        .arg(format!("--nofile={LIMIT}"))
        .arg(env!("CARGO_BIN_EXE_plimsoll"));
    prlimit
        .args(["run", "--ipvs", "memory", "-c"])
        .arg(lab.config());
    let log = File::create(lab.file("log")).unwrap();
    let mut daemon = Daemon::spawn(prlimit.stderr(log), lab.file("log"));
    lab.until_alert("monitor: too many open files");
    router.expect(&[route("192.0.2.1/32", 0), route("192.0.2.2/32", 0)]);
    assert!(server.open().len() > LIMIT / 2, "{}", server.open().len());
    fs::write(&list, r#"{"127.0.1.1": {"weight": 77}}"#).unwrap();
    lab.until_json("/pools/listed/127.0.1.1", "\"weight\":77");
    // A reload, too, and with fewer servers all are well.
    lab.configure(&[&bgp(&[2]), &listed]);
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    router.expect(&[route("192.0.2.2/32", 0)]);
    daemon.stop(SOON);
}
