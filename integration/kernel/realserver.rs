//! `plimsoll realserver` with tunnels: a client's connections, sent on by IPVS in each kind of tunnel, to a server that
//! it has set up. The answers go straight to the client, as they do in earnest.
//!
//! ```text
//!   client ── cb ── balancer
//!      └── cs ── server ── bs ──┘
//! ```
//!
//! Smaller segments are not looked for: user-mode-linux has no rules of nftables for a whole packet filter
//! (`integration/realserver.rs` has).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::netns::{Namespace, Process, run, until};

const VIPS: [&str; 2] = ["192.0.2.11", "2001:db8::11"];
const SOON: Duration = Duration::from_secs(20);

struct Lab {
    client: Namespace,
    balancer: Namespace,
    server: Namespace,
    state: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let [client, balancer, server] = ["client", "balancer", "server"].map(Namespace::new);
        client.cable(
            "cb",
            &["10.0.1.1/24", "2001:db8:1::1/64"],
            &balancer,
            &["10.0.1.2/24", "2001:db8:1::2/64"],
        );
        balancer.cable(
            "bs",
            &["10.0.2.2/24", "2001:db8:2::2/64"],
            &server,
            &["10.0.2.3/24", "2001:db8:2::3/64"],
        );
        client.cable(
            "cs",
            &["10.0.3.1/24", "2001:db8:3::1/64"],
            &server,
            &["10.0.3.3/24", "2001:db8:3::3/64"],
        );
        client.ip("route add 192.0.2.11 via 10.0.1.2 src 10.0.1.1");
        client.ip("route add 2001:db8::11 via 2001:db8:1::2 src 2001:db8:1::1");
        balancer.ip("address add 192.0.2.11/32 dev lo");
        balancer.ip("address add 2001:db8::11/128 dev lo");
        server.ip("route add 10.0.1.0/24 via 10.0.3.1");
        server.ip("route add 2001:db8:1::/64 via 2001:db8:3::1");
        let lab = Lab {
            client,
            balancer,
            server,
            state: tempfile::tempdir().unwrap(),
        };
        in_it(
            &lab.balancer,
            "sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        lab.serve();
        lab
    }

    /// To every connection, for as long as the process lives.
    fn serve(&self) {
        let server = self.server.handle();
        let (bound, binding) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            server.enter();
            let listener = TcpListener::bind("[::]:80").unwrap();
            bound.send(()).unwrap();
            for stream in listener.incoming() {
                // Who went away is no loss.
                let _ = stream.unwrap().write_all(b"hello");
            }
        });
        binding.recv().unwrap();
    }

    /// IPVS sends on to these addresses of the server's.
    fn balance(&self, servers: [&str; 2], options: &str) {
        let mut commands = "ipvsadm -C".to_owned();
        for (vip, server) in VIPS.into_iter().zip(servers) {
            let vip = SocketAddr::new(vip.parse().unwrap(), 80);
            let server = SocketAddr::new(server.parse().unwrap(), 80);
            commands += &format!(
                " && ipvsadm -A -t {vip} -s rr && ipvsadm -a -t {vip} -r {server} -i {options}"
            );
        }
        in_it(&self.balancer, &commands);
    }

    fn reached(&self) -> [bool; 2] {
        VIPS.map(|vip| {
            let address = SocketAddr::new(vip.parse().unwrap(), 80);
            let client = self.client.handle();
            let ask = move || {
                client.enter();
                let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2))
                else {
                    return false;
                };
                stream.set_read_timeout(Some(SOON)).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).is_ok() && text == "hello"
            };
            std::thread::spawn(ask).join().unwrap()
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.server.command(env!("CARGO_BIN_EXE_plimsoll"));
        command
            .arg("realserver")
            .args(words)
            .arg("--state-directory")
            .arg(self.state.path());
        command
    }

    /// Nothing else is missing but the rules.
    fn expect(&self, words: &[&str]) {
        let output = self.command(words).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let missing = text
            .lines()
            .find(|line| !line.starts_with("table inet plimsoll: "));
        assert_eq!(missing, None, "{words:?}: {text}");
    }

    fn set_up(&self, options: &[&str]) {
        self.expect(&[&VIPS, options, &["--once"]].concat());
        self.expect(&[&VIPS, options, &["--check"]].concat());
    }

    /// Tunnel devices that are up, and fou's ports.
    fn ways_in(&self) -> Vec<String> {
        let links = in_it(&self.server, "ip -o link show up");
        let names = links
            .lines()
            .map(|line| line.split([':', '@']).nth(1).unwrap().trim());
        let tunnels = names.filter(|name| !["lo", "bs", "cs"].contains(name));
        let ports = "if [ -e /sys/module/fou ]; then ip fou show; fi";
        let ports = in_it(&self.server, ports);
        let mut all: Vec<String> = tunnels
            .chain(ports.lines().map(str::trim))
            .map(str::to_owned)
            .collect();
        all.sort();
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The kernel takes its time with a namespace, and services in it keep the module ip_vs in use.
        drop(self.balancer.command("ipvsadm").arg("-C").status());
    }
}

fn in_it(namespace: &Namespace, command: &str) -> String {
    run(namespace.command("sh").args(["-c", command]))
}

#[test]
fn each_kind_of_tunnel_brings_clients_to_the_server() {
    let lab = Lab::new();
    let own = ["10.0.2.3", "2001:db8:2::3"];
    let six = ["2001:db8:2::3", "2001:db8:2::3"];
    // Strict, as some distributions have it.
    in_it(&lab.server, "sysctl -q net.ipv4.conf.all.rp_filter=1");
    let gue = &["port 6080 gue", "port 6080 gue -6"][..];
    for (servers, sent, options, ways) in [
        (
            own,
            "--tun-type ipip",
            &["--tunnel", "ipip"][..],
            &["plimsoll-ip6", "plimsoll-ipip"][..],
        ),
        (
            six,
            "--tun-type ipip",
            &["--tunnel", "ipip", "--over-ipv6"],
            &["plimsoll-ip6"],
        ),
        (
            own,
            "--tun-type gre --tun-nocsum",
            &["--tunnel", "gre"],
            &["plimsoll-gre", "plimsoll-gre6"],
        ),
        (
            own,
            "--tun-type gre --tun-csum",
            &["--tunnel", "gre:checksum"],
            &["plimsoll-gre", "plimsoll-gre6"],
        ),
        (
            own,
            "--tun-type gue --tun-port 6080 --tun-nocsum",
            &["--tunnel", "gue:6080"],
            &[&["plimsoll-ip6", "plimsoll-ipip"], gue].concat(),
        ),
        (
            own,
            "--tun-type gue --tun-port 6080 --tun-csum",
            &["--tunnel", "gue:6080"],
            &[&["plimsoll-ip6", "plimsoll-ipip"], gue].concat(),
        ),
    ] {
        lab.balance(servers, sent);
        // The VIPs alone are not enough.
        lab.set_up(&[]);
        assert_eq!(lab.ways_in(), Vec::<String>::new(), "{sent}");
        assert_eq!(lab.reached(), [false, false], "{sent}");
        lab.set_up(options);
        let mut ways = ways.to_vec();
        ways.sort();
        assert_eq!(lab.ways_in(), ways, "{sent}");
        assert_eq!(lab.reached(), [true, true], "{sent}");
    }
    assert_eq!(
        in_it(&lab.server, "sysctl -n net.ipv4.conf.all.rp_filter"),
        "1\n"
    );
    lab.expect(&["--remove"]);
    assert_eq!(lab.ways_in(), Vec::<String>::new());
}

#[test]
fn tunnels_of_the_balancers_configuration() {
    let lab = Lab::new();
    let directory = lab.state.path().display();
    let file = lab.state.path().join("plimsoll.toml");
    let service = |name: &str, vip: &str, tunnel: &str, server: &str| {
        format!(
            "[service.{name}]\naddress = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\
             forwarding = \"tunnel\"\ntunnel = {{ {tunnel} }}\nserver = [{{ host = \"{server}\" }}]\n"
        )
    };
    let own = format!(
        "[daemon]\nstate-directory = \"{directory}/run\"\n[api]\nlisten = []\ncontrol = \"\"\n"
    );
    let gre = "type = \"gre\", checksum = \"csum\"";
    let gue = "type = \"gue\", port = 6080";
    let four = service("four", VIPS[0], gre, "10.0.2.3");
    let six = service("six", VIPS[1], gue, "2001:db8:2::3");
    std::fs::create_dir(lab.state.path().join("run")).unwrap();
    std::fs::write(&file, own + &four + &six).unwrap();
    let file = file.to_str().unwrap();
    let mut daemon = lab.balancer.command(env!("CARGO_BIN_EXE_plimsoll"));
    let _daemon = Process::start(daemon.args(["run", "--config", file]).stdout(Stdio::null()));
    until(SOON, "IPVS has both servers", || {
        let table = in_it(&lab.balancer, "ipvsadm -Sn");
        (table.matches("--tun-type").count() == 2).then_some(())
    });
    assert_eq!(lab.reached(), [false, false]);
    for (options, ways, reached) in [
        (
            &["--service", "four"][..],
            &["plimsoll-gre"][..],
            [true, false],
        ),
        (
            &[],
            &["plimsoll-gre", "plimsoll-ip6", "port 6080 gue -6"],
            [true, true],
        ),
    ] {
        lab.expect(&[&["--config", file, "--once"], options].concat());
        lab.expect(&[&["--config", file, "--check"], options].concat());
        assert_eq!(lab.ways_in(), ways, "{options:?}");
        assert_eq!(lab.reached(), reached, "{options:?}");
    }
}

#[test]
fn a_tunnel_device_of_somebody_elses_does_it_and_stays_his() {
    let lab = Lab::new();
    lab.balance(["10.0.2.3", "2001:db8:2::3"], "--tun-type ipip");
    in_it(&lab.server, "sysctl -q net.ipv4.conf.all.rp_filter=1");
    lab.server.ip("link add tunl1 type ipip remote 10.9.9.9");
    lab.server.ip("link set tunl0 up");
    lab.server.ip("link set tunl1 up");
    lab.set_up(&["--tunnel", "ipip"]);
    assert_eq!(lab.ways_in(), ["plimsoll-ip6", "tunl0", "tunl1"]);
    assert_eq!(lab.reached(), [true, true]);
    lab.expect(&["--remove"]);
    assert_eq!(lab.ways_in(), ["tunl0", "tunl1"]);
    let address = in_it(&lab.server, "ip -4 -o address show dev tunl0");
    assert_eq!(address, "");
    let filter = in_it(&lab.server, "sysctl -n net.ipv4.conf.tunl0.rp_filter");
    assert_eq!(filter, "0\n");
}

#[test]
fn tunnels_are_kept_and_left() {
    let lab = Lab::new();
    lab.balance(["10.0.2.3", "2001:db8:2::3"], "--tun-type ipip");
    let words = [&VIPS[..], &["--tunnel", "ipip"]].concat();
    let mut daemon = Process::start(lab.command(&words).stderr(Stdio::null()));
    let reached = |what: &str| until(SOON, what, || (lab.reached() == [true, true]).then_some(()));
    reached("set up");
    for by_hand in [
        "ip link del plimsoll-ipip; ip link del plimsoll-ip6",
        "ip link set plimsoll-ipip down; ip link set plimsoll-ip6 down",
        "ip address flush dev plimsoll-ipip; sysctl -q net.ipv4.conf.plimsoll-ipip.rp_filter=1",
        "ip link del plimsoll-ipip && ip link add plimsoll-ipip type ipip remote 10.9.9.9",
    ] {
        in_it(&lab.server, by_hand);
        reached(by_hand);
    }
    daemon.signal(Signal::SIGTERM);
    until(SOON, "it ends", || daemon.ended().then_some(()));
    assert_eq!(lab.reached(), [true, true], "all stays in place");
}
