//! SIGHUP: what changed changes, the rest is not touched, and what is wrong is refused whole.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use socket2::{Domain, Socket, Type};

use crate::lab::{Daemon, Lab, ROUTER_AS, SOON, Service, bgp, failed, route};
use crate::netns::{Namespace, run, until};
use crate::router::Router;
use crate::server::Server;

const UP: &str = "enabled/up/pooled";

fn web(name: &str, address: &str, server: &str) -> Service {
    Service::new(name, address).servers(&[server]).idle()
}

impl Lab {
    /// Tells the daemon, and waits until it has heard.
    fn reload(&self, daemon: &Daemon) {
        let heard = |log: &str| {
            log.matches("<6>reloaded").count() + log.matches("<4>reload refused").count()
        };
        let before = heard(&daemon.log());
        daemon.signal(Signal::SIGHUP);
        until(SOON, "it reloads", || {
            (heard(&daemon.log()) > before).then_some(())
        });
    }
}

/// Services, servers, monitors and peers come and go.
#[test]
fn what_did_not_change_is_not_disturbed() {
    let lab = Lab::new();
    lab.wire();
    let servers = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"];
    let servers = servers.map(|address| Server::start(&lab, address));
    let routers = [2, 3, 4].map(|n| lab.router(n, false));
    let stays = web("stays", "192.0.2.1", "127.0.1.1").med(5);
    let goes = web("goes", "192.0.2.3", "127.0.1.4");
    let comes = web("comes", "192.0.2.4", "127.0.1.4");
    let pair = |hosts: &[&str]| Service::new("pair", "192.0.2.2").servers(hosts).idle();
    lab.configure(&[
        &bgp(&[2, 3]),
        &stays,
        &pair(&["127.0.1.2", "127.0.1.3"]),
        &goes,
    ]);
    let mut daemon = lab.start();
    let before = [
        route("192.0.2.1/32", 5),
        route("192.0.2.2/32", 0),
        route("192.0.2.3/32", 0),
    ];
    routers[0].expect(&before);
    routers[1].expect(&before);
    let session = routers[0].session();

    // A peer, a service and a server for others.
    lab.configure(&[
        &bgp(&[2, 4]),
        &stays,
        &pair(&["127.0.1.2", "127.0.1.4"]),
        &comes,
    ]);
    lab.reload(&daemon);
    let after = [
        route("192.0.2.1/32", 5),
        route("192.0.2.2/32", 0),
        route("192.0.2.4/32", 0),
    ];
    routers[0].expect(&after);
    routers[1].expect(&[]);
    routers[2].expect(&after);
    until(SOON, "the peer that goes is told why", || {
        routers[1]
            .log()
            .contains("Received: Peer de-configured")
            .then_some(())
    });
    lab.expect_pool("pair", &[("127.0.1.2", UP), ("127.0.1.4", UP)]);
    lab.expect_pool("comes", &[("127.0.1.4", UP)]);
    assert_eq!(lab.get("/pools").unwrap(), "comes\npair\nstays\n");
    until(SOON, "the address leaves", || {
        (!lab.has_address("192.0.2.3")).then_some(())
    });
    assert!(lab.has_address("192.0.2.4"));
    until(SOON, "the old server is left alone", || {
        servers[2].open().is_empty().then_some(())
    });
    let established = |n: u8| {
        lab.metric(&format!(
            "plimsoll_bgp_session_established{{local_asn=\"64600\",peer=\"10.9.0.{n}\"}}"
        ))
    };
    assert_eq!([2, 3, 4].map(established), [Some(1.0), None, Some(1.0)]);

    // A monitor more.
    lab.configure(&[
        &bgp(&[2, 4]),
        &stays,
        &pair(&["127.0.1.2", "127.0.1.4"]).fetch(),
        &comes,
    ]);
    lab.reload(&daemon);
    until(SOON, "the new monitor asks", || {
        (servers[1].requests() > 1).then_some(())
    });
    lab.expect_pool("pair", &[("127.0.1.2", UP), ("127.0.1.4", UP)]);
    routers[0].expect(&after);

    // And off again.
    lab.configure(&[
        &bgp(&[2, 4]),
        &stays,
        &pair(&["127.0.1.2", "127.0.1.4"]),
        &comes,
    ]);
    lab.reload(&daemon);
    let quiet = || {
        let before = servers[1].requests();
        std::thread::sleep(Duration::from_millis(700));
        (servers[1].requests() == before).then_some(())
    };
    until(SOON, "the old monitor asks no more", quiet);

    // The one that stayed has seen nothing of all this, and the pair's idle connection is still its first.
    assert_eq!((servers[0].accepted(), servers[0].open()), (1, [1].into()));
    assert_eq!(servers[1].open(), [1].into());
    assert_eq!(routers[0].session(), session, "the session was not reset");
    for prefix in ["192.0.2.1/32", "192.0.2.2/32"] {
        let log = routers[0].log();
        let removed = log
            .lines()
            .filter(|line| line.contains("removed") && line.contains(prefix));
        assert_eq!(
            removed.count(),
            0,
            "{prefix} was announced all the time: {log}"
        );
    }
    let (log, mended) = (daemon.log(), "someone else");
    assert!(!log.contains(mended), "{log}");
    daemon.stop(Duration::from_secs(4));
}

/// One service, up and announced.
fn announced(service: &Service) -> (Lab, Server, Router, Daemon) {
    let lab = Lab::new();
    lab.wire();
    let server = Server::start(&lab, "127.0.1.1");
    let router = lab.router(2, false);
    lab.configure(&[&bgp(&[2]), service]);
    let daemon = lab.start();
    router.expect(&[route("192.0.2.1/32", 0)]);
    (lab, server, router, daemon)
}

#[test]
fn a_bad_file_is_refused_whole() {
    let good = web("web", "192.0.2.1", "127.0.1.1");
    let (lab, server, router, mut daemon) = announced(&good);
    let session = router.session();
    // One good service among them, which does not come either.
    let wrong = web("wrong", "192.0.2.2", "127.0.1.1")
        .key("depool-threshold = 7")
        .key("colour = 1");
    let fine = web("fine", "192.0.2.3", "127.0.1.1");
    lab.configure(&[&bgp(&[2]), &wrong, &fine]);
    lab.reload(&daemon);
    let log = daemon.log();
    let file = lab.config();
    for key in ["depool-threshold", "colour"] {
        let line = |line: &&str| {
            line.starts_with(&format!("<4>{}:", file.display()))
                && line.contains(&format!(" service.wrong.{key}: "))
        };
        assert_eq!(log.lines().filter(line).count(), 1, "{key} in {log}");
    }
    let alerts = lab.until_alert("reload: Refused, the old configuration stays: ");
    assert!(
        alerts.contains("depool-threshold") && alerts.contains("colour"),
        "{alerts}"
    );
    assert_eq!(lab.metric("plimsoll_reload_refused"), Some(1.0));

    lab.until_json("/api/v1/config", "\"on_disk\":\"bad\"");

    // A good one is told of, and waits for a reload.
    lab.configure(&[&bgp(&[2]), &good, &fine]);
    lab.until_json("/api/v1/config", "\"on_disk\":\"differs\"");
    assert_eq!(lab.get("/pools").unwrap(), "web\n");

    // Nor does a missing one end it.
    fs::remove_file(&file).unwrap();
    lab.reload(&daemon);
    lab.until_alert("cannot be read: No such file or directory");
    assert_eq!(lab.get("/pools").unwrap(), "web\n");
    lab.configure(&[&bgp(&[2]), &good]);
    lab.reload(&daemon);
    lab.until_no_alert("reload");
    lab.until_json("/api/v1/config", "\"on_disk\":\"in-force\"");
    lab.expect_pool("web", &[("127.0.1.1", UP)]);
    router.expect(&[route("192.0.2.1/32", 0)]);
    assert_eq!(
        (server.accepted(), router.session()),
        (1, session),
        "nothing was disturbed"
    );
    assert!(!lab.has_address("192.0.2.3"));
    daemon.stop(Duration::from_secs(4));
}

/// What a reload cannot change is said, until the file says again what is in force.
#[test]
fn what_only_a_start_can_change_is_said() {
    let good = web("web", "192.0.2.1", "127.0.1.1");
    let (lab, _server, _router, mut daemon) = announced(&good);
    lab.configure(&[
        &lab.api("listen = [\"127.0.0.1:9091\"]\n"),
        &bgp(&[2]),
        &good,
    ]);
    lab.reload(&daemon);
    lab.until_alert("reload: [api] listen takes effect at the next start");
    daemon.until_log(
        "<4>trouble part=\"reload\" fault=\"[api] listen takes effect at the next start\"",
    );
    let text = fs::read_to_string(lab.config()).unwrap();
    fs::write(lab.config(), text.replace("/state\"", "/elsewhere\"")).unwrap();
    lab.reload(&daemon);
    lab.until_alert("[api] listen, [daemon] state-directory");
    lab.configure(&[&bgp(&[2]), &good]);
    lab.reload(&daemon);
    lab.until_no_alert("reload");
    daemon.stop(Duration::from_secs(4));
}

/// The file lies on a disk that hangs: nothing else does, and the end comes when it is asked for.
#[test]
fn a_file_that_hangs_holds_up_nothing() {
    let good = web("web", "192.0.2.1", "127.0.1.1").key("depool-threshold = 0");
    let (lab, mut server, router, mut daemon) = announced(&good);
    fs::remove_file(lab.config()).unwrap();
    nix::unistd::mkfifo(&lab.config(), Mode::S_IRWXU).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.signal(Signal::SIGHUP);
    server.die();
    router.expect(&[]);
    server.revive(&lab);
    router.expect(&[route("192.0.2.1/32", 0)]);
    let took = daemon.stop(SOON);
    assert!(took < Duration::from_secs(3), "{took:?}");
    router.expect(&[]);
}

/// Told faster than it can read, it ends with the last one.
#[test]
fn the_last_of_many_reloads_counts() {
    let stays = web("stays", "192.0.2.1", "127.0.1.1");
    let (lab, server, router, mut daemon) = announced(&stays);
    let session = router.session();
    for n in 0..50 {
        let other = web("other", &format!("192.0.2.{}", 100 + n), "127.0.1.1").med(n);
        if n % 3 == 0 {
            lab.configure(&[&bgp(&[2]), &stays]);
        } else {
            lab.configure(&[&bgp(&[2]), &stays, &other]);
        }
        daemon.signal(Signal::SIGHUP);
    }
    router.expect(&[route("192.0.2.1/32", 0), route("192.0.2.149/32", 49)]);
    until(SOON, "no address of the others stays", || {
        (lab.addresses().len() == 2).then_some(())
    });
    assert_eq!(router.session(), session, "the session was not reset");
    until(SOON, "both are up", || {
        let up = |name| lab.metric(&format!("plimsoll_service_servers_up{{service={name:?}}}"));
        (up("stays") == Some(1.0) && up("other") == Some(1.0)).then_some(())
    });
    assert_eq!(
        server.open(),
        [1].into(),
        "one connection for both, not reopened"
    );
    daemon.stop(Duration::from_secs(4));
}

/// The same name at another address; two names that change places; no BGP any more, and again.
#[test]
fn addresses_move_between_services() {
    let one = |address| web("one", address, "127.0.1.1");
    let two = |address| web("two", address, "127.0.1.1").med(7);
    let (lab, _server, router, mut daemon) = announced(&one("192.0.2.1"));
    lab.configure(&[&bgp(&[2]), &one("192.0.2.2")]);
    lab.reload(&daemon);
    router.expect(&[route("192.0.2.2/32", 0)]);
    until(SOON, "the old address leaves", || {
        (!lab.has_address("192.0.2.1")).then_some(())
    });
    lab.configure(&[&bgp(&[2]), &one("192.0.2.2"), &two("192.0.2.3")]);
    lab.reload(&daemon);
    router.expect(&[route("192.0.2.2/32", 0), route("192.0.2.3/32", 7)]);
    let session = router.session();
    lab.configure(&[&bgp(&[2]), &one("192.0.2.3"), &two("192.0.2.2")]);
    lab.reload(&daemon);
    router.expect(&[route("192.0.2.2/32", 7), route("192.0.2.3/32", 0)]);
    lab.expect_pool("one", &[("127.0.1.1", UP)]);
    lab.expect_pool("two", &[("127.0.1.1", UP)]);
    assert_eq!(router.session(), session, "the session was not reset");
    lab.configure(&[&one("192.0.2.3"), &two("192.0.2.2")]);
    lab.reload(&daemon);
    router.expect(&[]);
    assert!(lab.has_address("192.0.2.2") && lab.has_address("192.0.2.3"));
    lab.configure(&[&bgp(&[2]), &one("192.0.2.3"), &two("192.0.2.2")]);
    lab.reload(&daemon);
    router.expect(&[route("192.0.2.2/32", 7), route("192.0.2.3/32", 0)]);
    daemon.stop(Duration::from_secs(4));
}

/// What one address has in services comes and goes, and its name changes: the route stays all the time.
#[test]
fn an_address_stays_announced_while_its_services_change() {
    let one = web("one", "192.0.2.1", "127.0.1.1");
    let (lab, server, router, mut daemon) = announced(&one);
    let session = router.session();
    // Slow to be judged: nobody answers there.
    let two = Service::new("two", "192.0.2.1")
        .port(81)
        .servers(&["127.0.1.1"])
        .fetch();
    lab.configure(&[&bgp(&[2]), &one, &two]);
    lab.reload(&daemon);
    lab.expect_pool("two", &[("127.0.1.1", "enabled/down/pooled")]);
    lab.configure(&[&bgp(&[2]), &web("uno", "192.0.2.1", "127.0.1.1"), &two]);
    lab.reload(&daemon);
    lab.expect_pool("uno", &[("127.0.1.1", UP)]);
    lab.configure(&[&bgp(&[2]), &two]);
    lab.reload(&daemon);
    until(SOON, "the server is left alone", || {
        server.open().is_empty().then_some(())
    });
    lab.configure(&[&bgp(&[2]), &two, &one]);
    lab.reload(&daemon);
    lab.expect_pool("one", &[("127.0.1.1", UP)]);
    // The one of its services that has nobody up demotes it.
    router.expect(&[failed("192.0.2.1/32", 0)]);
    let log = router.log();
    assert!(
        !log.contains("removed"),
        "it was announced all the time: {log}"
    );
    assert_eq!(router.session(), session, "the session was not reset");
    daemon.stop(Duration::from_secs(4));
}

/// The router is deaf and the wire is full, so that a withdrawal cannot get out: the address of the removed service
/// stays until it has.
#[test]
fn an_address_stays_until_it_is_withdrawn() {
    let lab = Lab::new();
    lab.wire();
    let mut sysctl = lab.namespace.command("sysctl");
    run(sysctl.args(["-qw", "net.ipv4.tcp_wmem=4096 4096 4096"]));
    let mut router = DeafRouter::new(&lab);
    let services: Vec<String> = (1..=300)
        .map(|n| {
            Service::new(&format!("s{n}"), &format!("2001:db8::{n:x}"))
                .servers(&["fd00:1::1"])
                .to_string()
        })
        .collect();
    let goes = Service::new("goes", "192.0.2.1").servers(&["127.0.1.1"]);
    let bgp = |med: u32| {
        bgp(&[2])
            .replace("\"3s\"", &format!("\"60s\"\nmed = {med}"))
            .replace("peer-as", "advertisement-interval = \"0s\"\npeer-as")
    };
    lab.configure(&[&bgp(0), &services.concat(), &goes]);
    let mut daemon = lab.start();
    router.greet();
    let announced = || lab.metric("plimsoll_vip_announced{vip=\"192.0.2.1\"}");
    until(SOON, "it is announced", || {
        (announced() == Some(1.0)).then_some(())
    });
    // All of it again and again, until it waits on our side.
    for med in 1..=10 {
        lab.configure(&[&bgp(med), &services.concat(), &goes]);
        lab.reload(&daemon);
    }
    lab.configure(&[&bgp(10), &services.concat()]);
    lab.reload(&daemon);
    let removed = Instant::now();
    until(SOON, "the service is gone", || {
        lab.pool("goes").is_empty().then_some(())
    });
    while removed.elapsed() < Duration::from_secs(2) {
        assert!(lab.has_address("192.0.2.1"), "gone before it was withdrawn");
        std::thread::sleep(Duration::from_millis(50));
    }
    router.listen();
    until(SOON, "the address leaves", || {
        (!lab.has_address("192.0.2.1")).then_some(())
    });
    // Not because the time was up.
    assert!(
        removed.elapsed() < Duration::from_millis(4500),
        "{:?}",
        removed.elapsed()
    );
    daemon.stop(SOON);
}

/// Says what is needed for a session with a hold time of a minute, and then reads nothing until it is told to.
struct DeafRouter {
    listener: TcpListener,
    stream: Option<TcpStream>,
    _namespace: Namespace,
}

impl DeafRouter {
    fn new(lab: &Lab) -> DeafRouter {
        let namespace = lab.cable(2);
        let handle = namespace.handle();
        let there = std::thread::spawn(move || {
            handle.enter();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(2048).unwrap();
            let address: SocketAddr = "10.9.0.2:179".parse().unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(1).unwrap();
            TcpListener::from(socket)
        });
        DeafRouter {
            listener: there.join().unwrap(),
            stream: None,
            _namespace: namespace,
        }
    }

    /// RFC 4271 section 4.2, with IPv4 and IPv6 unicast (RFC 4760).
    fn greet(&mut self) {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut body = vec![4];
        body.extend((ROUTER_AS as u16).to_be_bytes());
        body.extend([0, 60]);
        body.extend([10, 9, 0, 2]);
        // One parameter, capabilities: multiprotocol for AFI 1 and AFI 2, each SAFI 1.
        body.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1]);
        let open = [
            &[0xff; 16][..],
            &(19 + body.len() as u16).to_be_bytes(),
            &[1],
            &body,
        ]
        .concat();
        let keepalive = [&[0xff; 16][..], &19u16.to_be_bytes(), &[4]].concat();
        stream.write_all(&[open, keepalive].concat()).unwrap();
        // Their OPEN and their KEEPALIVE.
        for kind in [1, 4] {
            let mut header = [0; 19];
            stream.read_exact(&mut header).unwrap();
            assert_eq!(header[18], kind);
            let length = u16::from_be_bytes([header[16], header[17]]);
            let mut body = vec![0; usize::from(length) - header.len()];
            stream.read_exact(&mut body).unwrap();
        }
        self.stream = Some(stream);
    }

    /// Reads from now on, until the other side closes.
    fn listen(&mut self) {
        let mut stream = self.stream.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    }
}
