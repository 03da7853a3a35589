//! What stands in IPVS' table, is accepted by the kernel, and yet does not work.

use std::net::{IpAddr, SocketAddr};

use super::host::Way;
use super::{Found, Host, command, words};
use crate::ipvs::listing::{Destination, Forward, Key, Service};

pub(super) fn services(host: &Host, found: &mut Found) {
    for service in host.listing.iter().flat_map(|listing| &listing.services) {
        let name = name(&service.key);
        if let Key::Address(_, at) = &service.key
            && at.port() == 0
            && !service.persistent
        {
            found.fault(
                format!("{name}: all ports, without persistence"),
                "the kernel gives such a service no connection",
                command(format!(
                    "ipvsadm -E {} -s {} -p 360",
                    option(&service.key),
                    service.scheduler
                )),
            );
        }
        if service.destinations.is_empty() {
            found.warning(
                format!("{name}: no server"),
                "clients are refused",
                words("plimsoll says why in /alerts and at /services"),
            );
        } else if service.destinations.iter().all(|to| to.weight == 0) {
            found.fault(
                format!("{name}: all servers have weight 0"),
                "no server gets new connections: clients are refused",
                words("give one of them a weight in its list: plimsoll ctl select name=SERVER set/weight=1"),
            );
        }
        for to in &service.destinations {
            destination(service, to, found);
        }
    }
}

fn destination(service: &Service, to: &Destination, found: &mut Found) {
    let (name, option) = (name(&service.key), option(&service.key));
    let rewrites = match to.forward {
        Forward::Masquerading => true,
        Forward::DirectRouting | Forward::Tunnel | Forward::Local => false,
    };
    if let Key::Address(_, at) = &service.key
        && !rewrites
        && to.at.port() != at.port()
    {
        let right = SocketAddr::new(to.at.ip(), at.port());
        found.fault(
            format!("{name}: {} has another port, and is not reached by masquerading", to.at),
            "direct routing and tunnels change no port: the server gets packets for the service's own one",
            command(format!("ipvsadm -a {option} -r {right} -g -w {}; ipvsadm -d {option} -r {}", to.weight, to.at)),
        );
    }
    if to.forward == Forward::Local && !is_only(service, to) {
        found.warning(
            format!("{name}: {} is this host", to.at),
            "the balancer is one of the servers: its own share ends here, and only if something listens",
            words("take it out of the list, unless that is meant"),
        );
    }
}

/// A service of this host alone, a sorry server for instance, is meant.
fn is_only(service: &Service, to: &Destination) -> bool {
    service.destinations.iter().all(|other| other.at == to.at)
}

/// The ways to the servers.
pub(super) fn routes(host: &Host, found: &mut Found) {
    for server in host.servers() {
        let direct = is_direct(host, server);
        match host.ways.get(&server) {
            Some(Way::NoRoute) => found.fault(
                format!("there is no route to {server}"),
                "packets for the server are dropped",
                words(format!("put its network on an interface, or: ip route add {server} via ROUTER")),
            ),
            Some(Way::Over(_, Some(router))) if direct => found.fault(
                format!("{server} is reached by direct routing, but behind the router {router}"),
                "the packet keeps the service's address, and the router sends it back or elsewhere: the server never sees it",
                words(format!("forward to it by a tunnel, or put this host on the network of {server}")),
            ),
            Some(Way::Over(index, router)) => neighbour(host, *index, router.unwrap_or(server), found),
            Some(Way::Here) | None => {}
        }
    }
}

fn is_direct(host: &Host, server: IpAddr) -> bool {
    let services = host.listing.iter().flat_map(|listing| &listing.services);
    let mut servers = services.flat_map(|service| &service.destinations);
    servers.any(|to| to.at.ip() == server && to.forward == Forward::DirectRouting)
}

fn neighbour(host: &Host, interface: u32, next: IpAddr, found: &mut Found) {
    let is_it = |of: &&super::host::Neighbour| of.interface == interface && of.address == next;
    let name = host.interface(interface).map_or("?", |of| &of.name);
    if host
        .neighbours
        .iter()
        .find(is_it)
        .is_some_and(|of| of.failed)
    {
        found.warning(
            format!("{next} does not answer ARP or neighbour discovery on {name}"),
            "packets for it are dropped",
            words("is it up, and on this wire (VLAN)?"),
        );
    }
}

/// On a real server with a configuration: whether somebody serves what comes.
pub(super) fn listeners(host: &Host, found: &mut Found) {
    if host.config.is_none() {
        return;
    }
    for (protocol, at) in host.services() {
        let here = host.places(at.ip()).next().is_some();
        if here && at.port() != 0 && !listens(host, &protocol, at) {
            found.fault(
                format!("nothing listens at {protocol} {at}"),
                "the server refuses its share of the clients, and the fewer it has the more it is sent",
                words(format!("start it, or let it listen at {} or at all addresses", at.ip())),
            );
        }
    }
}

fn listens(host: &Host, protocol: &str, at: SocketAddr) -> bool {
    // TCP_LISTEN and TCP_CLOSE of net/tcp_states.h; UDP's sockets without a peer are in the latter.
    let state = if protocol == "tcp" { "0A" } else { "07" };
    let listening = |file: &str| {
        let table = host
            .files
            .text(&format!("proc/net/{protocol}{file}"))
            .unwrap_or_default();
        let sockets = table.lines().filter_map(|line| {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            (words.get(3) == Some(&state)).then(|| local(words.get(1)?))?
        });
        sockets.collect::<Vec<_>>()
    };
    let mut all = listening("").into_iter().chain(listening("6"));
    all.any(|of| {
        let takes =
            of.ip() == at.ip() || (of.ip().is_unspecified() && (of.is_ipv6() || at.is_ipv4()));
        of.port() == at.port() && takes
    })
}

/// `0100007F:0050`: 32-bit words in host order.
pub(super) fn local(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        Some(
            u32::from_str_radix(address.get(at..at + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let bytes: [u8; 16] = [word(0)?, word(8)?, word(16)?, word(24)?]
                .concat()
                .try_into()
                .ok()?;
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn name(key: &Key) -> String {
    match key {
        Key::Address(protocol, at) => format!("{protocol} {at}"),
        Key::Mark(mark) => format!("firewall mark {mark}"),
    }
}

/// As ipvsadm(8) names it.
fn option(key: &Key) -> String {
    match key {
        Key::Address(protocol, at) => {
            let option = match protocol.as_str() {
                "tcp" => "-t",
                "udp" => "-u",
                _ => "--sctp-service",
            };
            format!("{option} {at}")
        }
        Key::Mark(mark) => format!("-f {mark}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role::Balancer;
    use super::super::Severity::{Fault, Warning};
    use super::*;
    use crate::ipvs::listing::Listing;

    fn check(listing: &str, expected: &[(super::super::Severity, &str)]) {
        let (mut host, _root) = Host::sample(Balancer);
        host.listing = Some(Listing::of(listing));
        let found = host.found(services);
        let found: Vec<_> = found
            .iter()
            .map(|(severity, text)| (*severity, text.as_str()))
            .collect();
        assert_eq!(found, expected, "{listing}");
    }

    #[test]
    fn what_the_kernel_accepts_and_does_not_do() {
        check("TCP C0000201:0050 rr\n -> 0A000007:0050 Route 1 0 0\n", &[]);
        check("TCP C0000201:01BB rr\n -> 0A000007:4E21 Masq 1 0 0\n", &[]);
        let text = "tcp 192.0.2.1:443: 10.0.0.7:20001 has another port, and is not reached by masquerading";
        check(
            "TCP C0000201:01BB rr\n -> 0A000007:4E21 Route 1 0 0\n",
            &[(Fault, text)],
        );
        let text = "tcp 192.0.2.1:0: all ports, without persistence";
        check(
            "TCP C0000201:0000 rr\n -> 0A000007:0000 Route 1 0 0\n",
            &[(Fault, text)],
        );
        check(
            "TCP C0000201:0000 rr  persistent 36000 FFFFFFFF\n -> 0A000007:0000 Route 1 0 0\n",
            &[],
        );
        check(
            "FWM  00000007 rr\n",
            &[(Warning, "firewall mark 7: no server")],
        );
        let text = "udp 192.0.2.1:53: all servers have weight 0";
        check(
            "UDP C0000201:0035 rr\n -> 0A000007:0035 Route 0 0 0\n",
            &[(Fault, text)],
        );
        let text = "tcp 192.0.2.1:80: 10.0.0.1:80 is this host";
        check(
            "TCP C0000201:0050 rr\n -> 0A000007:0050 Route 1 0 0\n -> 0A000001:0050 Local 1 0 0\n",
            &[(Warning, text)],
        );
    }

    #[test]
    fn direct_routing_ends_at_a_router() {
        let (mut host, _root) = Host::sample(Balancer);
        host.listing = Some(Listing::of(
            "TCP C0000201:0050 rr\n -> 0A000007:0050 Route 1 0 0\n",
        ));
        let server: IpAddr = "10.0.0.7".parse().unwrap();
        host.ways.insert(server, Way::Over(2, None));
        assert_eq!(host.found(routes), []);
        host.neighbours.push(super::super::host::Neighbour {
            interface: 2,
            address: server,
            hardware: None,
            failed: true,
        });
        assert_eq!(host.found(routes)[0].0, Warning);
        for way in [
            Way::NoRoute,
            Way::Over(2, Some("10.0.0.254".parse().unwrap())),
        ] {
            host.ways.insert(server, way);
            assert_eq!(host.found(routes)[0].0, Fault);
        }
    }

    #[test]
    fn listening_sockets_are_known() {
        assert_eq!(
            local("0100007F:0050"),
            Some("127.0.0.1:80".parse().unwrap())
        );
        let six = "B80D0120000000000000000001000000:01BB";
        assert_eq!(local(six), Some("[2001:db8::1]:443".parse().unwrap()));
        assert_eq!(
            local("0000000000000000FFFF00000100007F:0001"),
            Some("127.0.0.1:1".parse().unwrap())
        );
        assert_eq!(local("x"), None);
        let (host, _root) = Host::sample(Balancer);
        let line = |local: &str, state: &str| {
            format!("  sl local\n   0: {local} 00000000:0000 {state} 00000000:00000000\n")
        };
        let at = "192.0.2.1:80".parse().unwrap();
        for (socket, state, expected) in [
            ("010200C0:0050", "0A", true),
            ("00000000:0050", "0A", true),
            ("00000000:0051", "0A", false),
            ("00000000:0050", "01", false),
            ("0100007F:0050", "0A", false),
        ] {
            host.write("proc/net/tcp", &line(socket, state));
            assert_eq!(listens(&host, "tcp", at), expected, "{socket} {state}");
        }
        host.write(
            "proc/net/tcp6",
            &line("00000000000000000000000000000000:0050", "0A"),
        );
        assert!(listens(&host, "tcp", at));
    }
}
