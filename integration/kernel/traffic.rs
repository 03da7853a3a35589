//! A client, a balancer that runs the daemon, and two servers on one wire, for traffic through real IPVS.
//!
//! ```text
//!              10.8.0.0/24 ("out")
//!  client ───────────────────────── balancer
//!    │ .101 .102                       │ .1       10.9.0.0/24, fd00:9::/64
//!    └──────────────┬──────────────────┘
//!             a .11 │ b .12
//! ```
//!
//! The servers have the first VIP on `lo` and can unpack every tunnel. The other VIP is for masquerading: packets to
//! it come by "out", and the servers send what is for there through the balancer.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::{Namespace, Process, run};

pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Longer than any answer takes; what is lost costs so much.
const PATIENCE: Duration = Duration::from_secs(2);

/// IPv4, IPv6. On `lo` of the servers.
pub(super) const VIPS: [&str; 2] = ["10.100.0.1", "fd00:100::1"];
/// Not on the servers.
pub(super) const MASQUERADED: [&str; 2] = ["10.100.0.2", "fd00:100::2"];
pub(super) const A: [&str; 2] = ["10.9.0.11", "fd00:9::11"];
pub(super) const B: [&str; 2] = ["10.9.0.12", "fd00:9::12"];
/// The client has two addresses of each family.
pub(super) const CLIENTS: [[&str; 2]; 2] =
    [["10.9.0.101", "10.9.0.102"], ["fd00:9::101", "fd00:9::102"]];
/// Its address on "out".
pub(super) const OUT: [&str; 2] = ["10.8.0.101", "fd00:8::101"];
pub(super) const GUE_PORT: u16 = 5555;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        }
    }

    /// As ipvsadm(8) asks for it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Transport::Tcp => "-t",
            Transport::Udp => "-u",
            Transport::Sctp => "--sctp-service",
        }
    }
}

/// One `[service.NAME]`: its own keys, then one `[[service.NAME.server]]` for each text.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) keys: String,
    pub(super) servers: Vec<String>,
}

impl Service {
    /// At an address and port, scheduled by `rr` unless `keys` say else.
    pub(super) fn new(
        name: &str,
        (vip, port, transport): (&str, u16, Transport),
        keys: &str,
        servers: &[&str],
    ) -> Service {
        let transport = transport.name();
        let at = format!("address = \"{vip}\"\nport = {port}\nprotocol = \"{transport}\"\n");
        Service::known_by(name, &at, keys, servers)
    }

    pub(super) fn known_by(name: &str, at: &str, keys: &str, servers: &[&str]) -> Service {
        let scheduler = match keys.contains("scheduler = ") {
            true => "",
            false => "scheduler = \"rr\"\n",
        };
        let server = |text: &&str| match text.contains('=') {
            true => (*text).to_owned(),
            false => format!("host = \"{text}\""),
        };
        Service {
            name: name.to_owned(),
            keys: format!("{at}{scheduler}{keys}"),
            servers: servers.iter().map(server).collect(),
        }
    }

    fn toml(&self) -> String {
        let Service {
            name,
            keys,
            servers,
        } = self;
        let drain = match keys.contains("drain-timeout = ") {
            true => "",
            false => "drain-timeout = \"0s\"\n",
        };
        let mut text = format!(
            "[service.{name}]\n{keys}\n{drain}depool-threshold = 0.0\ndepool-guard = \"off\"\n"
        );
        for server in servers {
            text += &format!("[[service.{name}.server]]\n{server}\n");
        }
        text
    }
}

pub(super) struct Lab {
    /// First, so that it ends before its namespace does.
    daemon: Option<Process>,
    directory: tempfile::TempDir,
    pub(super) balancer: Namespace,
    pub(super) client: Namespace,
    servers: [(&'static str, Namespace); 2],
    _wire: Namespace,
}

impl Lab {
    pub(super) fn new() -> Lab {
        // The kernel asks for the other kinds of tunnels by itself.
        run(Command::new("busybox").args(["modprobe", "fou"]));
        let wire = Namespace::new("wire");
        wire.ip("link add br0 type bridge");
        wire.ip("link set br0 up");
        let host = |name: &str, addresses: &[&str]| {
            let host = Namespace::new(name);
            wire.cable(name, &[], &host, addresses);
            wire.ip(&format!("link set {name} master br0"));
            host
        };
        let own = |addresses: [&str; 2]| {
            [
                format!("{}/24", addresses[0]),
                format!("{}/64", addresses[1]),
            ]
        };
        let balancer = host("balancer", &["10.9.0.1/24", "fd00:9::1/64"]);
        let clients = CLIENTS
            .iter()
            .flatten()
            .map(|address| match address.contains(':') {
                true => format!("{address}/64"),
                false => format!("{address}/24"),
            });
        let clients: Vec<_> = clients.collect();
        let clients: Vec<_> = clients.iter().map(String::as_str).collect();
        let client = host("client", &clients);
        balancer.cable(
            "out",
            &["10.8.0.1/24", "fd00:8::1/64"],
            &client,
            &[&format!("{}/24", OUT[0]), &format!("{}/64", OUT[1])],
        );
        write(&balancer, "net/ipv4/ip_forward", "1");
        write(&balancer, "net/ipv6/conf/all/forwarding", "1");
        let routes = VIPS.iter().zip(["10.9.0.1", "fd00:9::1"]);
        let out = MASQUERADED.iter().zip(["10.8.0.1", "fd00:8::1"]);
        for (vip, via) in routes.chain(out) {
            client.ip(&format!("route add {vip} via {via}"));
        }
        let servers = [("a", A), ("b", B)].map(|(name, addresses)| {
            let [v4, v6] = own(addresses);
            let server = host(&format!("server-{name}"), &[&v4, &v6]);
            furnish(&server, addresses);
            (name, server)
        });
        Lab {
            daemon: None,
            directory: tempfile::tempdir().unwrap(),
            balancer,
            client,
            servers,
            _wire: wire,
        }
    }

    /// The daemon has these services, from now on.
    pub(super) fn run(&mut self, services: &[Service]) {
        let directory = self.directory.path().display();
        let mut text = format!(
            "[daemon]\nstate-directory = \"{directory}\"\n[api]\ncontrol = \"{directory}/control.sock\"\n"
        );
        text.extend(services.iter().map(Service::toml));
        let file = self.directory.path().join("plimsoll.toml");
        std::fs::write(&file, text).unwrap();
        match &self.daemon {
            Some(daemon) => daemon.signal(Signal::SIGHUP),
            None => {
                let mut daemon = self.balancer.command(env!("CARGO_BIN_EXE_plimsoll"));
                daemon.arg("run").arg("--config").arg(&file);
                self.daemon = Some(Process::start(daemon.stdout(Stdio::null())));
            }
        }
    }

    /// The table as ipvsadm(8) saves it.
    pub(super) fn table(&self) -> BTreeSet<String> {
        let text = run(self.balancer.command("ipvsadm").arg("-Sn"));
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Waits until IPVS has these destinations of this service, and no others: `-t 10.100.0.1:80`, and
    /// `10.9.0.11:80 -g -w 10` for each.
    pub(super) fn until_destinations(&self, service: &str, expected: &[&str]) {
        let start = format!("-a {service} -r ");
        let whole = |words: &&str| format!("{start}{words}");
        let expected: BTreeSet<_> = expected.iter().map(whole).collect();
        let of_service = || -> BTreeSet<_> {
            let lines = self.table().into_iter();
            lines.filter(|line| line.starts_with(&start)).collect()
        };
        let mut found = of_service();
        let begun = std::time::Instant::now();
        while found != expected && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
            found = of_service();
        }
        assert_eq!(found, expected, "of {service}, in {:#?}", self.table());
    }

    /// IPVS's connections, templates of persistence too, as lines of words.
    pub(super) fn connections(&self) -> Vec<String> {
        let text = run(self.balancer.command("ipvsadm").arg("-Lnc"));
        text.lines().skip(2).map(str::to_owned).collect()
    }

    /// Both servers answer at the first VIPs, with their names of one letter, by TCP and UDP, until the tests end.
    pub(super) fn serve_vips(&self, port: u16) {
        for (name, _) in &self.servers {
            self.serve(name, VIPS, port);
        }
    }

    /// One of them does at these addresses.
    pub(super) fn serve(&self, name: &str, addresses: [&str; 2], port: u16) {
        for (name, server) in self.servers.iter().filter(|(own, _)| *own == name) {
            for address in addresses {
                serve(
                    name,
                    server,
                    SocketAddr::new(address.parse().unwrap(), port),
                );
            }
        }
    }

    /// It answers by SCTP, too.
    pub(super) fn serve_sctp(&self, name: &str, address: &str, port: u16) {
        let at = SocketAddr::new(address.parse().unwrap(), port);
        for (name, server) in self.servers.iter().filter(|(own, _)| *own == name) {
            answer(name, inside(server, move || sctp_listener(at).unwrap()));
        }
    }

    pub(super) fn server(&self, name: &str) -> &Namespace {
        let mut those = self.servers.iter().filter(|(own, _)| *own == name);
        &those.next().expect("a server of this name").1
    }

    /// What comes to the balancer over this device and is `tcp dst_port 80`, say, gets the mark. By tc(8): the guest's
    /// nf_tables knows no family of addresses.
    pub(super) fn mark(&self, device: &str, what: &str, mark: u32) {
        let tc = |words: &str| run(self.balancer.command("tc").args(words.split(' ')));
        tc(&format!("qdisc replace dev {device} clsact"));
        for family in ["ip", "ipv6"] {
            tc(&format!(
                "filter add dev {device} ingress protocol {family} flower ip_proto {what} action skbedit mark {mark}"
            ));
        }
    }

    /// Who answers a new connection, or a packet from a new port.
    pub(super) fn ask(&self, transport: Transport, to: (&str, u16)) -> io::Result<String> {
        self.ask_from(transport, None, to)
    }

    pub(super) fn ask_from(
        &self,
        transport: Transport,
        from: Option<(&str, u16)>,
        to: (&str, u16),
    ) -> io::Result<String> {
        let at = |(address, port): (&str, u16)| SocketAddr::new(address.parse().unwrap(), port);
        let (from, to) = (from.map(at), at(to));
        inside(&self.client, move || match transport {
            Transport::Tcp => Ok(connect(Protocol::TCP, from, to)?.0),
            Transport::Sctp => Ok(connect(Protocol::SCTP, from, to)?.0),
            Transport::Udp => packet(from, to, b"who"),
        })
    }

    /// Who answers this text from this address, and from a port that the kernel chooses.
    pub(super) fn ask_with(&self, text: &str, from: &str, to: (&str, u16)) -> io::Result<String> {
        let at = |(address, port): (&str, u16)| SocketAddr::new(address.parse().unwrap(), port);
        let (from, to, text) = (at((from, 0)), at(to), text.to_owned());
        inside(&self.client, move || {
            packet(Some(from), to, text.as_bytes())
        })
    }

    /// The names of those who answer so many of them, in their order; a loss is told.
    pub(super) fn asks(&self, transport: Transport, to: (&str, u16), count: usize) -> Vec<String> {
        let answer = |_| match self.ask(transport, to) {
            Ok(name) => name,
            Err(error) => error.to_string(),
        };
        (0..count).map(answer).collect()
    }

    /// A connection that is open until the answer is dropped.
    pub(super) fn open(&self, to: (&str, u16)) -> (String, TcpStream) {
        let to = SocketAddr::new(to.0.parse().unwrap(), to.1);
        inside(&self.client, move || {
            connect(Protocol::TCP, None, to).unwrap()
        })
    }
}

fn write(host: &Namespace, setting: &str, value: &str) {
    let (path, value) = (format!("/proc/sys/{setting}"), value.to_owned());
    inside(host, move || {
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    });
}

/// On a thread that is in the host's network.
pub(super) fn inside<T: Send + 'static>(
    host: &Namespace,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let host = host.handle();
    let thread = std::thread::spawn(move || {
        host.enter();
        work()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// As a real server is made ready: the VIPs on `lo`, not told by ARP, and a device for each kind of packet that a
/// tunnel can bring. GUE hands what it unpacks to the device of what was inside.
fn furnish(server: &Namespace, [v4, v6]: [&str; 2]) {
    for (setting, value) in [
        ("arp_ignore", "1"),
        ("arp_announce", "2"),
        ("rp_filter", "0"),
    ] {
        for of in ["all", "default"] {
            write(server, &format!("net/ipv4/conf/{of}/{setting}"), value);
        }
    }
    server.ip(&format!("address add {}/32 dev lo", VIPS[0]));
    server.ip(&format!("address add {}/128 dev lo nodad", VIPS[1]));
    server.ip("route add 10.8.0.0/24 via 10.9.0.1");
    server.ip("route add fd00:8::/64 via fd00:9::1");
    // A device takes packets either with a checksum or without one: so `b` is for GRE with.
    let checksum = if v4 == B[0] { " icsum" } else { "" };
    for (device, what) in [
        ("in4", format!("ipip local {v4}")),
        ("six4", format!("sit local {v4}")),
        ("gre4", format!("gre local {v4}{checksum}")),
        ("in6", format!("ip6tnl mode any local {v6} remote ::")),
        ("gre6", format!("ip6gre local {v6} remote ::{checksum}")),
    ] {
        server.ip(&format!("link add {device} type {what}"));
        server.ip(&format!("link set {device} up"));
    }
    server.ip(&format!("fou add port {GUE_PORT} gue"));
    server.ip(&format!("-6 fou add port {GUE_PORT} gue"));
}

fn serve(name: &'static str, server: &Namespace, at: SocketAddr) {
    let (listener, socket) = inside(server, move || {
        (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())
    });
    answer(name, listener);
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 100]) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

fn answer(name: &'static str, listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whoever resets the connection has what he wanted. Else the client ends it, and until then has sent back
            // what it sends.
            std::thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let _ = io::copy(&mut &stream, &mut &stream);
            });
        }
    });
}

/// One of the sockets that are used as those of TCP are (RFC 6458 section 4).
fn sctp_listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::SCTP))?;
    socket.bind(&at.into())?;
    socket.listen(16)?;
    Ok(TcpListener::from(socket))
}

/// The server's name, and the connection.
fn connect(
    protocol: Protocol,
    from: Option<SocketAddr>,
    to: SocketAddr,
) -> io::Result<(String, TcpStream)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
    if let Some(from) = from {
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok((String::from_utf8_lossy(&name).into_owned(), stream))
}

fn packet(from: Option<SocketAddr>, to: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => "0.0.0.0".parse().unwrap(),
        SocketAddr::V6(_) => "::".parse().unwrap(),
    };
    let socket = UdpSocket::bind(from.unwrap_or(SocketAddr::new(any, 0)))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(bytes)?;
    let mut name = [0; 100];
    let length = socket.recv(&mut name)?;
    Ok(String::from_utf8_lossy(&name[..length]).into_owned())
}
