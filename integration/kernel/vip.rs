//! The daemon with real IPVS and three servers: who does not take packets for the VIP is told of or leaves the table.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::netns::{Namespace, Process, run, until};

const LIMIT: Duration = Duration::from_secs(30);
const VIPS: [&str; 2] = ["10.100.0.1", "fd00:100::1"];

/// Its addresses are of cable `n` to the balancer.
struct Server {
    n: u8,
    host: Namespace,
}

impl Server {
    /// With the VIPs on `lo`, as it should be.
    fn new(n: u8, balancer: &Namespace) -> Server {
        let server = Server {
            n,
            host: Namespace::new(&format!("srv{n}")),
        };
        let (near, far) = (format!("10.9.{n}.1/24"), format!("fd00:9:{n}::1/64"));
        let [v4, v6] = server.addresses();
        let theirs = [format!("{v4}/24"), format!("{v6}/64")];
        let theirs = [theirs[0].as_str(), theirs[1].as_str()];
        balancer.cable(&format!("eth{n}"), &[&near, &far], &server.host, &theirs);
        server.bind();
        server
    }

    fn addresses(&self) -> [String; 2] {
        let n = self.n;
        [format!("10.9.{n}.2"), format!("fd00:9:{n}::2")]
    }

    fn bind(&self) {
        self.host.ip(&format!("address add {}/32 dev lo", VIPS[0]));
        self.host
            .ip(&format!("address add {}/128 dev lo nodad", VIPS[1]));
    }

    fn unbind(&self) {
        self.host.ip(&format!("address del {}/32 dev lo", VIPS[0]));
        self.host.ip(&format!("address del {}/128 dev lo", VIPS[1]));
    }

    /// A web server at both VIPs, until the tests end.
    fn serve(&self, port: u16) {
        for vip in VIPS {
            let host = self.host.handle();
            let address = SocketAddr::new(vip.parse().unwrap(), port);
            let listen = move || {
                host.enter();
                TcpListener::bind(address).unwrap()
            };
            let listener = std::thread::spawn(listen).join().unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    // Whoever resets the connection has what he wanted.
                    let _ = stream.and_then(answer);
                }
            });
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 1000])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// IPVS's destinations of all services at this port of the VIPs.
fn table(balancer: &Namespace, port: u16) -> BTreeSet<String> {
    let text = run(balancer.command("ipvsadm").arg("-Sn"));
    let services = [
        format!("{}:{port}", VIPS[0]),
        format!("[{}]:{port}", VIPS[1]),
    ];
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_port = lines.filter(|words| words[0] == "-a" && services.contains(&words[2].to_owned()));
    of_port.map(|words| words[4].to_owned()).collect()
}

fn destinations(servers: &[&Server], port: u16) -> BTreeSet<String> {
    let addresses = servers.iter().flat_map(|server| server.addresses());
    let at_port = |address: String| SocketAddr::new(address.parse().unwrap(), port).to_string();
    addresses.map(at_port).collect()
}

fn until_table(balancer: &Namespace, port: u16, servers: &[&Server]) -> Duration {
    let since = Instant::now();
    let expected = destinations(servers, port);
    until(LIMIT, &format!("in IPVS: {expected:?}"), || {
        (table(balancer, port) == expected).then_some(since.elapsed())
    })
}

pub(super) fn get(balancer: &Namespace, path: &str) -> String {
    let host = balancer.handle();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    let ask = move || {
        host.enter();
        let mut text = String::new();
        let mut stream = TcpStream::connect("127.0.0.1:9090").unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    std::thread::spawn(ask).join().unwrap()
}

/// Two services of each family: `web` is checked at the VIP and depools, `told` says nothing of checks.
fn configuration(directory: &std::path::Path, servers: &[&Server]) -> String {
    let directory = directory.display();
    let mut text = format!(
        "[daemon]\nstate-directory = \"{directory}\"\n[api]\ncontrol = \"{directory}/control.sock\"\n"
    );
    for (n, vip) in VIPS.into_iter().enumerate() {
        for (name, port) in [("web", 80), ("told", 81)] {
            let name = format!("{name}{n}");
            text += &format!(
                "[service.{name}]\naddress = \"{vip}\"\nport = {port}\nprotocol = \"tcp\"\nscheduler = \"wrr\"\ndepool-threshold = 0.0\n"
            );
            for server in servers {
                let host = &server.addresses()[n];
                text += &format!("[[service.{name}.server]]\nhost = \"{host}\"\n");
            }
            if port == 80 {
                text += &format!(
                    "[[service.{name}.monitor]]\ntype = \"vip-reachability\"\ninterval = \"1s\"\ntimeout = \"1s\"\n\
                     [[service.{name}.monitor]]\ntype = \"proxy-fetch\"\nurl = \"http://www.example.com/\"\npath = \"vip\"\ninterval = \"1s\"\n"
                );
            }
        }
    }
    text
}

#[test]
fn a_server_that_does_not_take_packets_for_the_vip() {
    let directory = tempfile::tempdir().unwrap();
    let balancer = Namespace::new("lb");
    let [good, without, deaf] = [1, 2, 3].map(|n| Server::new(n, &balancer));
    for port in [80, 81] {
        good.serve(port);
        without.serve(port);
    }
    let file = directory.path().join("plimsoll.toml");
    std::fs::write(
        &file,
        configuration(directory.path(), &[&good, &without, &deaf]),
    )
    .unwrap();
    let mut daemon = balancer.command(env!("CARGO_BIN_EXE_plimsoll"));
    daemon.arg("run").arg("--config").arg(&file);
    let daemon = Process::start(daemon.stdout(Stdio::null()));

    // One has the VIP and no listener.
    until_table(&balancer, 80, &[&good, &without]);
    until_table(&balancer, 81, &[&good, &without, &deaf]);
    let on_lo = run(balancer
        .command("ip")
        .args("-brief address show dev lo".split(' ')));
    assert!(VIPS.iter().all(|vip| on_lo.contains(vip)), "{on_lo}");

    without.unbind();
    let took = until_table(&balancer, 80, &[&good]);
    println!("without the VIP it left IPVS after {took:?}");
    // An interval with its jitter, a timeout, and some time for a machine with one processor.
    assert!(took < Duration::from_secs(5), "{took:?}");
    for (n, vip) in VIPS.into_iter().enumerate() {
        let host = &without.addresses()[n];
        let silent = format!("does not answer for VIP {vip} port 80: is it bound on lo?");
        let shown = get(&balancer, &format!("/services/web{n}/{host}"));
        assert!(shown.contains(&silent), "{shown}");
        let host = &deaf.addresses()[n];
        let refused = format!("connection refused at VIP {vip} port 80");
        let shown = get(&balancer, &format!("/services/web{n}/{host}"));
        assert!(shown.contains(&refused), "{shown}");
        // What is only told is in the table still, and all know.
        let hosts = [&without, &deaf].map(|server| server.addresses()[n].clone());
        let alert = format!(
            "told{n}: Servers {} may lose what clients send to the VIP, and are not depooled for it: ",
            hosts.join(", ")
        );
        until(LIMIT, &alert, || {
            get(&balancer, "/alerts").contains(&alert).then_some(())
        });
    }
    until_table(&balancer, 81, &[&good, &without, &deaf]);

    without.bind();
    until_table(&balancer, 80, &[&good, &without]);

    // IPVS had no part in it, and nothing is left of it.
    let connections = run(balancer.command("ipvsadm").arg("-Lnc"));
    assert_eq!(connections.lines().count(), 2, "{connections}");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    for server in [&good, &without, &deaf] {
        let left = || {
            run(server
                .host
                .command("ss")
                .args(["-tanH", "exclude", "listening"]))
        };
        let since = Instant::now();
        while !left().is_empty() {
            assert!(since.elapsed() < LIMIT, "left at {}:\n{}", server.n, left());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
