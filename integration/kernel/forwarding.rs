//! Traffic through the daemon's IPVS: each way to a server, and what decides which server it is.

use super::traffic::{
    A, B, CLIENTS, GUE_PORT, LIMIT, Lab, MASQUERADED, OUT, Service, Transport, VIPS,
};
use crate::netns::{run, until};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// One way to a server, tried in both families and by TCP and UDP.
struct Way {
    name: &'static str,
    port: u16,
    keys: String,
    /// Of the server `b`.
    other: &'static str,
    /// How ipvsadm(8) shows `a` and `b`.
    shown: [String; 2],
}

impl Way {
    fn tunnel(name: &'static str, port: u16, table: &str, shown: &str) -> Way {
        Way {
            name,
            port,
            keys: format!("forwarding = \"tunnel\"\ntunnel = {{ {table} }}"),
            other: "",
            shown: [0, 1].map(|_| format!("-i -w 10 --tun-type {shown}")),
        }
    }

    fn all() -> Vec<Way> {
        let gue = |name, port, checksum: &str| {
            let table = format!("type = \"gue\", port = {GUE_PORT}, checksum = \"{checksum}\"");
            let shown = format!("gue --tun-port {GUE_PORT} --tun-{checksum}");
            Way::tunnel(name, port, &table, &shown)
        };
        let mut gre = Way::tunnel("gre", 1005, "type = \"gre\"", "gre --tun-nocsum");
        gre.other = "\ntunnel = { type = \"gre\", checksum = \"csum\" }";
        gre.shown[1] = "-i -w 10 --tun-type gre --tun-csum".to_owned();
        vec![
            Way {
                name: "direct",
                port: 1000,
                keys: String::new(),
                other: "",
                shown: [0, 1].map(|_| "-g -w 10".to_owned()),
            },
            Way::tunnel("ipip", 1001, "type = \"ipip\"", "ipip"),
            gue("gue", 1002, "nocsum"),
            gue("gue-csum", 1003, "csum"),
            gue("gue-remcsum", 1004, "remcsum"),
            gre,
        ]
    }
}

/// What ipvsadm(8) calls it.
pub(super) fn words(transport: Transport, vip: &str, port: u16) -> String {
    format!("{} {}", transport.option(), at(vip, port))
}

pub(super) fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// By turns, none lost.
fn expect_both(lab: &Lab, what: &str, transport: Transport, to: (&str, u16)) {
    let mut names = lab.asks(transport, to, 4);
    names.sort();
    assert_eq!(names, ["a", "a", "b", "b"], "{what} {transport:?} {to:?}");
}

#[test]
fn direct_routing_and_every_tunnel() {
    let mut lab = Lab::new();
    let mut services = Vec::new();
    let mut expected = Vec::new();
    // The second VIP port is of the other family's servers, which only a tunnel reaches.
    for way in Way::all() {
        lab.serve_vips(way.port);
        lab.serve_vips(way.port + 1000);
        for (vip, crossed, transport) in [0, 1]
            .into_iter()
            .flat_map(|vip| [(vip, false), (vip, true)])
            .filter(|(_, crossed)| !crossed || way.name != "direct")
            .flat_map(|(vip, crossed)| TRANSPORTS.map(|transport| (vip, crossed, transport)))
        {
            let servers = if crossed { 1 - vip } else { vip };
            let (name, port, keys) = if crossed {
                let family = ["ipv4", "ipv6"][servers];
                let keys = format!("{}\nserver-family = \"{family}\"", way.keys);
                (format!("{}-crossed", way.name), way.port + 1000, keys)
            } else {
                (way.name.to_owned(), way.port, way.keys.clone())
            };
            let b = format!("host = \"{}\"{}", B[servers], way.other);
            services.push(Service::new(
                &format!("{name}-{}-{vip}", transport.name()),
                (VIPS[vip], port, transport),
                &keys,
                &[A[servers], &b],
            ));
            let shown = [A, B].map(|server| at(server[servers], port));
            let shown = [0, 1].map(|n| format!("{} {}", shown[n], way.shown[n]));
            expected.push((name, transport, (VIPS[vip], port), shown));
        }
    }
    lab.run(&services);
    for (name, transport, to, shown) in expected {
        let shown = [0, 1].map(|n| shown[n].as_str());
        lab.until_destinations(&words(transport, to.0, to.1), &shown);
        expect_both(&lab, &name, transport, to);
    }
}

#[test]
fn masquerading_to_ports_of_their_own() {
    let mut lab = Lab::new();
    lab.serve("a", A, 20001);
    lab.serve("b", B, 20002);
    let mut services = Vec::new();
    for (n, transport) in [0, 1].into_iter().flat_map(|n| TRANSPORTS.map(|t| (n, t))) {
        services.push(Service::new(
            &format!("https{n}-{}", transport.name()),
            (MASQUERADED[n], 443, transport),
            "forwarding = \"masquerading\"\nserver-port = 20001",
            &[A[n], &at(B[n], 20002)],
        ));
    }
    lab.run(&services);
    for (n, transport) in [0, 1].into_iter().flat_map(|n| TRANSPORTS.map(|t| (n, t))) {
        let shown = [at(A[n], 20001), at(B[n], 20002)].map(|server| format!("{server} -m -w 10"));
        let service = words(transport, MASQUERADED[n], 443);
        lab.until_destinations(&service, &[&shown[0], &shown[1]]);
        expect_both(&lab, "masquerading", transport, (MASQUERADED[n], 443));
    }
}

/// The module sctp has to be there for sockets of it, the guest's kernel has it.
#[test]
fn sctp_by_direct_routing_and_by_masquerading() {
    let sctp = Transport::Sctp;
    let mut lab = Lab::new();
    for (name, addresses, port) in [("a", A, 20003), ("b", B, 20004)] {
        for n in [0, 1] {
            lab.serve_sctp(name, VIPS[n], 1100);
            lab.serve_sctp(name, addresses[n], port);
        }
    }
    let services = [0, 1].into_iter().flat_map(|n| {
        let mapped = "forwarding = \"masquerading\"\nserver-port = 20003";
        let to = (MASQUERADED[n], 1101, sctp);
        [
            direct("direct", n, (1100, sctp), ""),
            Service::new(&format!("mapped{n}"), to, mapped, &[A[n], &at(B[n], 20004)]),
        ]
    });
    lab.run(&services.collect::<Vec<_>>());
    for n in [0, 1] {
        let shown = [at(A[n], 20003), at(B[n], 20004)].map(|server| format!("{server} -m -w 10"));
        lab.until_destinations(&words(sctp, MASQUERADED[n], 1101), &[&shown[0], &shown[1]]);
        until_direct(&lab, &words(sctp, VIPS[n], 1100), n, 1100);
        // Of one address, or the server tries the client's others, which IPVS knows nothing of.
        for (from, to) in [
            (CLIENTS[n][0], (VIPS[n], 1100)),
            (OUT[n], (MASQUERADED[n], 1101)),
        ] {
            let ask = |_| lab.ask_from(sctp, Some((from, 0)), to).unwrap();
            let mut names: Vec<_> = (0..4).map(ask).collect();
            names.sort();
            assert_eq!(names, ["a", "a", "b", "b"], "{to:?}");
        }
    }
}

#[test]
fn masquerading_keeps_the_port_of_all_ports_and_of_a_mark() {
    let tcp = Transport::Tcp;
    let mut lab = Lab::new();
    for port in [3100, 3101] {
        lab.serve("a", A, port);
        lab.serve("b", B, port);
    }
    let second = ["10.8.0.102", "fd00:8::102"];
    lab.client.ip("address add 10.8.0.102/24 dev out");
    lab.client.ip("address add fd00:8::102/64 dev out nodad");
    lab.mark("out", "tcp dst_port 3101", 8);
    let service = |name: &str, n: usize, what: &str| {
        let at = format!("address = \"{}\"\n{what}\n", MASQUERADED[n]);
        let keys = "forwarding = \"masquerading\"";
        Service::known_by(&format!("{name}{n}"), &at, keys, &[A[n], B[n]])
    };
    let all = "port = 0\nprotocol = \"tcp\"\npersistence-timeout = \"1m\"";
    lab.run(&[0, 1].map(|n| service("all", n, all)));
    for n in [0, 1] {
        let both = [A, B].map(|server| format!("{} -m -w 10", at(server[n], 0)));
        lab.until_destinations(&words(tcp, MASQUERADED[n], 0), &[&both[0], &both[1]]);
        let ask = |from: &str, port| {
            lab.ask_from(tcp, Some((from, 0)), (MASQUERADED[n], port))
                .unwrap_or_else(|error| panic!("port {port} of {}: {error}", MASQUERADED[n]))
        };
        let first = ask(OUT[n], 3100);
        assert_eq!([3101, 3100].map(|port| ask(OUT[n], port)), [&*first; 2]);
        // By turns, but for what a client had before.
        assert_ne!(ask(second[n], 3100), first);
    }
    lab.run(&[0, 1].map(|n| service("marked", n, "firewall-mark = 8")));
    for (n, mark) in ["-f 8", "-f 8 -6"].into_iter().enumerate() {
        let both = [A, B].map(|server| format!("{} -m -w 10", at(server[n], 0)));
        lab.until_destinations(mark, &[&both[0], &both[1]]);
        lab.until_destinations(&words(tcp, MASQUERADED[n], 0), &[]);
        expect_both(&lab, "a mark", tcp, (MASQUERADED[n], 3101));
        // Without the mark it is for the balancer itself, and nobody is there.
        let refused = lab.ask(tcp, (MASQUERADED[n], 3100)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// Connections that their client has ended are forgotten in a second, as are those of UDP.
fn forget_soon(lab: &Lab) {
    run(lab
        .balancer
        .command("ipvsadm")
        .args(["--set", "0", "1", "1"]));
}

/// Both servers by direct routing.
pub(super) fn until_direct(lab: &Lab, service: &str, n: usize, port: u16) {
    let shown = [A, B].map(|server| format!("{} -g -w 10", at(server[n], port)));
    lab.until_destinations(service, &[&shown[0], &shown[1]]);
}

pub(super) fn direct(
    name: &str,
    n: usize,
    (port, transport): (u16, Transport),
    keys: &str,
) -> Service {
    let name = format!("{name}{n}");
    Service::new(&name, (VIPS[n], port, transport), keys, &[A[n], B[n]])
}

#[test]
fn a_client_comes_back_to_its_server() {
    let tcp = Transport::Tcp;
    let mut lab = Lab::new();
    for port in [2000, 2001, 2101, 2102] {
        lab.serve_vips(port);
    }
    let mut services = Vec::new();
    for (n, length) in [(0, 24), (1, 64)] {
        let timeout = "persistence-timeout = \"2s\"";
        let prefix = format!("{timeout}\npersistence-prefix-length = {length}");
        services.push(direct("each", n, (2000, tcp), timeout));
        services.push(direct("prefix", n, (2001, tcp), &prefix));
        services.push(direct("all-ports", n, (0, tcp), timeout));
    }
    lab.run(&services);
    for n in [0, 1] {
        let clients = CLIENTS[n];
        let ask = |client: usize, port| {
            lab.ask_from(tcp, Some((clients[client], 0)), (VIPS[n], port))
                .unwrap_or_else(|error| panic!("port {port} of {}: {error}", VIPS[n]))
        };
        for port in [2000, 2001, 0] {
            until_direct(&lab, &words(tcp, VIPS[n], port), n, port);
        }
        forget_soon(&lab);
        let first = ask(0, 2000);
        for _ in 0..5 {
            assert_eq!(ask(0, 2000), first);
        }
        // By turns, but for what a client had before.
        assert_ne!(ask(1, 2000), first);
        assert_eq!(ask(0, 2001), ask(1, 2001));
        let on_all_ports = ask(0, 2101);
        assert_eq!(ask(0, 2102), on_all_ports);
        assert_ne!(ask(1, 2102), on_all_ports);
        until(LIMIT, "the timeout is over", || {
            lab.connections().is_empty().then_some(())
        });
        // The last turn was the second client's: what each had is no more known.
        assert_eq!(ask(1, 2000), first);
        assert_ne!(ask(0, 2000), first);
    }
}

#[test]
fn firewall_marks() {
    let mut lab = Lab::new();
    for port in [3000, 3001, 3002] {
        lab.serve_vips(port);
    }
    // One mark, two services: IPVS keeps the families apart.
    for what in ["tcp dst_port 3000", "udp dst_port 3001"] {
        lab.mark("balancer", what, 7);
    }
    let service = |n: usize| {
        let at = format!("address = \"{}\"\nfirewall-mark = 7\n", VIPS[n]);
        Service::known_by(&format!("marked{n}"), &at, "", &[A[n], B[n]])
    };
    lab.run(&[service(0), service(1)]);
    for (n, service) in ["-f 7", "-f 7 -6"].into_iter().enumerate() {
        until_direct(&lab, service, n, 0);
        expect_both(&lab, "a mark", Transport::Tcp, (VIPS[n], 3000));
        expect_both(&lab, "a mark", Transport::Udp, (VIPS[n], 3001));
        // Without the mark it is for the balancer itself, and nobody is there.
        let refused = lab.ask(Transport::Tcp, (VIPS[n], 3002)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn what_one_packet_and_the_hash_of_a_port_do() {
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    let mut lab = Lab::new();
    for port in [4000, 4001, 4100, 4101] {
        lab.serve_vips(port);
    }
    let with_port = "scheduler = \"sh\"\nscheduler-flags = [\"sh-port\"]";
    let services = [0, 1].into_iter().flat_map(|n| {
        [
            direct("one-packet", n, (4000, udp), "one-packet = true"),
            direct("by-client", n, (4001, udp), ""),
            direct("port-too", n, (4100, tcp), with_port),
            direct("source", n, (4101, tcp), "scheduler = \"sh\""),
        ]
    });
    lab.run(&services.collect::<Vec<_>>());
    for n in [0, 1] {
        let names = |transport, port, own_ports: &[u16]| {
            let ask = |own: &u16| {
                lab.ask_from(transport, Some((CLIENTS[n][0], *own)), (VIPS[n], port))
                    .unwrap_or_else(|error| panic!("port {port} of {}: {error}", VIPS[n]))
            };
            own_ports
                .iter()
                .map(ask)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        for (transport, port) in [(udp, 4000), (udp, 4001), (tcp, 4100), (tcp, 4101)] {
            until_direct(&lab, &words(transport, VIPS[n], port), n, port);
        }
        let one = [41000; 6];
        let many: Vec<u16> = (41000..41020).collect();
        assert_eq!(names(udp, 4000, &one), 2, "each packet for itself");
        assert_eq!(names(udp, 4001, &one), 1, "a client's port has its server");
        assert_eq!(names(tcp, 4100, &many), 2, "the hash is of the port too");
        let others: Vec<u16> = (41100..41120).collect();
        assert_eq!(names(tcp, 4101, &others), 1, "the hash is of the address");
    }
}

#[test]
fn a_udp_client_with_a_fixed_port_leaves_a_removed_server() {
    let udp = Transport::Udp;
    let mut lab = Lab::new();
    lab.serve_vips(4200);
    lab.run(&[0, 1].map(|n| direct("dns", n, (4200, udp), "")));
    for n in [0, 1] {
        let service = words(udp, VIPS[n], 4200);
        until_direct(&lab, &service, n, 4200);
        let ask = || lab.ask_from(udp, Some((CLIENTS[n][0], 42000)), (VIPS[n], 4200));
        let had = ask().unwrap();
        assert_eq!([ask().unwrap(), ask().unwrap()], [had.clone(), had.clone()]);
        let (other, left) = if had == "a" { ("b", B[n]) } else { ("a", A[n]) };
        let without = |m: usize| match m == n {
            true => Service::new(&format!("dns{m}"), (VIPS[m], 4200, udp), "", &[left]),
            false => direct("dns", m, (4200, udp), ""),
        };
        let services = [0, 1].map(without);
        lab.run(&services);
        lab.until_destinations(&service, &[&format!("{} -g -w 10", at(left, 4200))]);
        let ask = || lab.ask_from(udp, Some((CLIENTS[n][0], 42000)), (VIPS[n], 4200));
        // The packet that finds its server gone may be lost.
        let answers = [ask(), ask()].map(|answer| answer.ok());
        assert_eq!(answers[1].as_deref(), Some(other), "{answers:?}");
    }
}

#[test]
fn a_server_over_its_threshold_gets_no_new_connections() {
    let tcp = Transport::Tcp;
    let mut lab = Lab::new();
    lab.serve_vips(4300);
    let service = |n: usize| {
        let a = format!(
            "host = \"{}\"\nupper-threshold = 2\nlower-threshold = 1",
            A[n]
        );
        let name = format!("web{n}");
        Service::new(&name, (VIPS[n], 4300, tcp), "", &[&a, B[n]])
    };
    lab.run(&[service(0), service(1)]);
    for n in [0, 1] {
        let to = (VIPS[n], 4300);
        // `ipvsadm -S` does not show thresholds; what is held is seen by what it does.
        until_direct(&lab, &words(tcp, VIPS[n], 4300), n, 4300);
        forget_soon(&lab);
        let open: Vec<_> = (0..4).map(|_| lab.open(to)).collect();
        let of_a = open.iter().filter(|(name, _)| name == "a").count();
        assert_eq!(of_a, 2);
        assert_eq!(lab.asks(tcp, to, 4), ["b"; 4]);
        drop(open);
        until(LIMIT, "it is below its lower threshold", || {
            (lab.ask(tcp, to).unwrap() == "a").then_some(())
        });
    }
}

#[test]
fn the_sorry_server_answers_while_the_pool_is_empty() {
    let tcp = Transport::Tcp;
    let mut lab = Lab::new();
    lab.serve_vips(4400);
    lab.serve("a", A, 20001);
    lab.serve("b", B, 20002);
    let services = |enabled: bool| {
        let each = |n: usize| {
            let a = format!("host = \"{}\"\nenabled = {enabled}", A[n]);
            let sorry = format!("sorry = \"{}\"", B[n]);
            let mapped = format!(
                "forwarding = \"masquerading\"\nserver-port = 20001\nsorry = \"{}\"",
                at(B[n], 20002)
            );
            let direct = (VIPS[n], 4400, tcp);
            let masqueraded = (MASQUERADED[n], 443, tcp);
            [
                Service::new(&format!("direct{n}"), direct, &sorry, &[&a]),
                Service::new(&format!("mapped{n}"), masqueraded, &mapped, &[&a]),
            ]
        };
        [0, 1].into_iter().flat_map(each).collect::<Vec<_>>()
    };
    for (enabled, name, [direct, mapped]) in [
        (true, "a", [A, A]),
        (false, "b", [B, B]),
        (true, "a", [A, A]),
    ] {
        lab.run(&services(enabled));
        let weight = if enabled { 10 } else { 1 };
        let port = if enabled { 20001 } else { 20002 };
        for n in [0, 1] {
            let direct = format!("{} -g -w {weight}", at(direct[n], 4400));
            let mapped = format!("{} -m -w {weight}", at(mapped[n], port));
            lab.until_destinations(&words(tcp, VIPS[n], 4400), &[&direct]);
            lab.until_destinations(&words(tcp, MASQUERADED[n], 443), &[&mapped]);
            assert_eq!(lab.asks(tcp, (VIPS[n], 4400), 2), [name; 2]);
            assert_eq!(lab.asks(tcp, (MASQUERADED[n], 443), 2), [name; 2]);
        }
    }
}
