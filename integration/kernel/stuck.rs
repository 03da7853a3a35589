//! The daemon with three servers, real traffic and no check: who lacks the VIP is told by the kernel's figures alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::netns::{Namespace, Process, run, until};
use super::vip::get;

const VIP: &str = "10.100.0.1";
const LIMIT: Duration = Duration::from_secs(30);
/// What the first packet of a client leaves behind is in the table for a minute; in two there is a verdict, if the
/// two begin with the fault.
const FOUND_WITHIN: Duration = Duration::from_secs(250);

/// A host on the network that all share.
fn host(network: &Namespace, name: &str, address: &str) -> Namespace {
    let host = Namespace::new(name);
    network.cable(name, &[], &host, &[&format!("{address}/24")]);
    network.ip(&format!("link set {name} master lan"));
    host
}

/// With a web server, and not yet with the VIP. Nobody hears of it by ARP.
fn server(network: &Namespace, name: &str, address: &str) -> Namespace {
    let server = host(network, name, address);
    let settings = "cd /proc/sys/net/ipv4/conf/all; echo 1 > arp_ignore; echo 2 > arp_announce";
    run(server.command("sh").args(["-c", settings]));
    let inside = server.handle();
    let listen = move || {
        inside.enter();
        TcpListener::bind("0.0.0.0:80").unwrap()
    };
    let listener = std::thread::spawn(listen).join().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || stream.and_then(answer));
        }
    });
    server
}

/// Until the client ends it.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    while stream.read(&mut [0; 1000])? > 0 {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
    Ok(())
}

/// Asks one thing and keeps the connection for a while, as browsers do.
fn visit() -> std::io::Result<()> {
    let vip = SocketAddr::new(VIP.parse().unwrap(), 80);
    let mut stream = TcpStream::connect_timeout(&vip, Duration::from_secs(1))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")?;
    let _ = stream.read(&mut [0; 1000])?;
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// Conns, InPkts and InBytes of a server, as ipvsadm(8) has them.
fn counted(balancer: &Namespace, server: &str) -> Vec<String> {
    let text = run(balancer
        .command("ipvsadm")
        .args(["-Ln", "--stats", "--exact"]));
    let line = text.lines().find(|line| line.contains(server)).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    [2, 3, 5].map(|n| words[n].to_owned()).into()
}

#[test]
fn a_server_that_lacks_the_vip_is_seen_in_the_figures() {
    let directory = tempfile::tempdir().unwrap();
    let network = Namespace::new("lan");
    network.ip("link add name lan type bridge forward_delay 0");
    network.ip("link set lan up");
    let balancer = host(&network, "lb", "10.9.0.1");
    let clients = host(&network, "clients", "10.9.0.2");
    clients.ip(&format!("route add {VIP} via 10.9.0.1"));
    let servers = ["10.9.0.11", "10.9.0.12", "10.9.0.13"];
    let hosts: Vec<Namespace> = (servers.iter().enumerate())
        .map(|(n, address)| server(&network, &format!("srv{n}"), address))
        .collect();
    let bind = |n: usize| hosts[n].ip(&format!("address add {VIP}/32 dev lo"));
    bind(0);
    bind(1);

    let state = directory.path().display();
    let mut text = format!(
        "[daemon]\nstate-directory = \"{state}\"\n[api]\ncontrol = \"{state}/control.sock\"\n\
         [service.web]\naddress = \"{VIP}\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"wlc\"\n\
         vip-reachability = false\n"
    );
    for server in servers {
        text += &format!("[[service.web.server]]\nhost = \"{server}\"\n");
    }
    let file = directory.path().join("plimsoll.toml");
    std::fs::write(&file, text).unwrap();
    let mut daemon = balancer.command(env!("CARGO_BIN_EXE_plimsoll"));
    daemon.arg("run").arg("--config").arg(&file);
    let daemon = Process::start(daemon.stdout(Stdio::null()));
    until(LIMIT, "three servers in IPVS", || {
        let table = run(balancer.command("ipvsadm").arg("-Sn"));
        let all = servers.iter().all(|server| table.contains(server));
        all.then_some(())
    });

    let over = Arc::new(AtomicBool::new(false));
    let visitors: Vec<_> = (0..40)
        .map(|_| {
            let (inside, over) = (clients.handle(), over.clone());
            std::thread::spawn(move || {
                inside.enter();
                while !over.load(Ordering::Relaxed) {
                    // That some get no answer is what this is about.
                    let _ = visit();
                }
            })
        })
        .collect();

    let alerts = || get(&balancer, "/alerts");
    let stuck = "web: Connections to 10.9.0.13 come to nothing";
    let since = Instant::now();
    until(FOUND_WITHIN, stuck, || {
        let alerts = alerts();
        // Nobody else is ever said to be.
        let right = !alerts.contains("come to nothing") || alerts.contains(stuck);
        assert!(right, "{alerts}");
        alerts.contains(stuck).then_some(())
    });
    println!("found after {:?}: {}", since.elapsed(), alerts());
    println!("{}", run(balancer.command("ipvsadm").arg("-Ln")));
    println!("{}", get(&balancer, "/services/web"));
    assert!(since.elapsed() > Duration::from_secs(60));
    let shown = get(&balancer, "/services/web");
    let of = |server: &str| {
        let line = shown.lines().find(|line| line.starts_with(server));
        line.unwrap().to_owned()
    };
    for server in &servers[..2] {
        assert!(!of(server).contains("takes no connection up"), "{shown}");
    }
    assert!(of(servers[2]).contains("takes no connection up"), "{shown}");
    let metrics = get(&balancer, "/metrics");
    let metric = |name: &str, rest: &str| {
        let start = format!(
            "plimsoll_server_{name}{{service=\"web\",host=\"{}\"",
            servers[2]
        );
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&(start.clone() + rest)));
        line.unwrap_or_else(|| panic!("{start}{rest}\n{metrics}"))
    };
    assert!(metric("stuck", "} ").ends_with(" 1"));
    assert!(metric("open_connections", ",state=\"inactive\"} ").ends_with(" 0"));
    assert!(!metric("open_connections", ",state=\"active\"} ").ends_with(" 0"));
    // It is in the table as before.
    let table = run(balancer.command("ipvsadm").arg("-Sn"));
    assert!(table.contains(servers[2]), "{table}");

    bind(2);
    let since = Instant::now();
    until(FOUND_WITHIN, "it is taken back", || {
        (!alerts().contains("come to nothing")).then_some(())
    });
    println!("taken back after {:?}", since.elapsed());

    over.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.join().unwrap();
    }
    for server in servers {
        until(LIMIT, "the figures are the kernel's", || {
            let counted = counted(&balancer, server);
            let expected = format!(
                "in all {} connections, in {} packets of {} bytes",
                counted[0], counted[1], counted[2]
            );
            let shown = get(&balancer, &format!("/services/web/{server}"));
            shown.contains(&expected).then_some(())
        });
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
}
