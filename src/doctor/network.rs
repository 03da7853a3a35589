//! What the kernel does to packets on their way: reverse path filter, forwarding, connection tracking, offloads, MTU.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use super::Role::{Balancer, RealServer};
use super::host::{Interface, Way};
use super::{Found, Host, command, kernel, words};
use crate::ipvs::listing::Forward;
use crate::service::Family;

/// The larger one of `all` and the interface's own is in force.
pub(super) fn rp_filter(host: &Host, found: &mut Found) {
    let defaults = default_routes(host);
    for interface in host
        .interfaces()
        .iter()
        .filter(|interface| interface.up && !interface.loopback)
    {
        let name = &interface.name;
        let one = |of: &str| host.files.number(&format!("net/ipv4/conf/{of}/rp_filter"));
        if one("all").max(one(name)) != Some(1) || defaults.contains(name) {
            continue;
        }
        let mend = command(format!(
            "sysctl -w net.ipv4.conf.{}.rp_filter=2",
            name.replace('.', "/")
        ));
        let text =
            format!("rp_filter is 1 (strict) on {name}, and the default route is not over it");
        let why = "packets whose way back would be over another interface are dropped without a word: clients' packets, \
                   whose answers leave by the default route";
        match host.role == RealServer && interface.is_tunnel() {
            true => found.fault(text, why, mend),
            false if interface.addresses.iter().any(|own| own.address.is_ipv4()) => {
                found.warning(text, why, mend)
            }
            false => {}
        }
    }
}

/// The interfaces of IPv4's default routes, by name.
fn default_routes(host: &Host) -> BTreeSet<String> {
    let table = host.files.text("proc/net/route").unwrap_or_default();
    let default = |line: &str| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        (words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000"))
            .then(|| words[0].to_owned())
    };
    table.lines().filter_map(default).collect()
}

pub(super) fn ip_forward(host: &Host, found: &mut Found) {
    let why = "the servers' answers to masqueraded connections end here: clients see a connection that never opens";
    for (family, sysctl) in [
        (Family::Ipv4, "net/ipv4/ip_forward"),
        (Family::Ipv6, "net/ipv6/conf/all/forwarding"),
    ] {
        let masquerades = host.forwards(Forward::Masquerading).contains(&family);
        if masquerades && host.files.number(sysctl) == Some(0) {
            let name = sysctl.replace('/', ".");
            let text =
                format!("{name} is 0, and servers are reached by masquerading over {family}");
            found.fault(text, why, command(format!("sysctl -w {name}=1")));
        }
    }
}

pub(super) fn conntrack(host: &Host, found: &mut Found) {
    let number = |name: &str| host.files.number(&format!("net/netfilter/{name}"));
    if let (Some(count), Some(most)) = (number("nf_conntrack_count"), number("nf_conntrack_max"))
        && most > 0
        && count >= most / 10 * 8
    {
        let text = format!("the table of tracked connections holds {count} of {most}");
        let why = "when it is full, packets of new connections are dropped; the kernel's log says `table full`";
        let mend = command(format!(
            "sysctl -w net.netfilter.nf_conntrack_max={}",
            most.saturating_mul(4)
        ));
        match count >= most / 100 * 95 {
            true => found.fault(text, why, mend),
            false => found.warning(text, why, mend),
        }
    }
    let some = |how| !host.forwards(how).is_empty();
    let direct = some(Forward::DirectRouting) || some(Forward::Tunnel);
    let masquerading = some(Forward::Masquerading);
    if host.role == Balancer
        && direct
        && !masquerading
        && host.files.number("net/ipv4/vs/conntrack") == Some(1)
    {
        found.warning(
            "net.ipv4.vs.conntrack is 1, and no server is reached by masquerading".to_owned(),
            "each balanced connection is tracked, of which this host sees one half only: it costs time and memory, and \
             a firewall that drops what is invalid drops clients' packets",
            command("sysctl -w net.ipv4.vs.conntrack=0"),
        );
    }
}

/// GRO does no harm: what it joins knows how it was, and is cut again on the way out.
pub(super) fn offload(host: &Host, found: &mut Found) {
    for name in &host.lro {
        found.fault(
            format!("large receive offload (LRO) is on at {name}"),
            "it joins packets to larger ones than the next wire takes, and cannot cut them again: they are dropped, and \
             clients' uploads crawl",
            command(format!("ethtool -K {name} lro off")),
        );
    }
}

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_LRO: u32 = 1 << 15;
/// linux/sockios.h
const SIOCETHTOOL: u16 = 0x8946;

/// Those with LRO on, by name (linux/ethtool.h: `ETHTOOL_GFLAGS`). Drivers without an answer have none.
pub(super) fn read_lro(interfaces: &[Interface]) -> BTreeSet<String> {
    let Ok(socket) = std::net::UdpSocket::bind("0.0.0.0:0") else {
        return BTreeSet::new();
    };
    let has = |interface: &&Interface| {
        interface.up && flags(&socket, &interface.name) & ETH_FLAG_LRO != 0
    };
    interfaces
        .iter()
        .filter(has)
        .map(|interface| interface.name.clone())
        .collect()
}

#[expect(unsafe_code, reason = "an ioctl with a pointer to our own memory")]
fn flags(socket: &std::net::UdpSocket, name: &str) -> u32 {
    /// `struct ethtool_value`
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value {
        command: ETHTOOL_GFLAGS,
        data: 0,
    };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // The last byte stays 0.
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    // SAFETY: the request and the value that it points to live beyond the call, and are of the kernel's shape.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) };
    if done == 0 { value.data } else { 0 }
}

/// What a tunnel puts before each packet, at the least: an IPv4 or an IPv6 header.
fn overhead(server: IpAddr) -> u32 {
    if server.is_ipv4() { 20 } else { 40 }
}

/// RFC 8200 section 5.
const IPV6_LEAST: u32 = 1280;

pub(super) fn mtu(host: &Host, found: &mut Found) {
    let wires = || {
        host.interfaces()
            .iter()
            .filter(|interface| interface.arp && interface.up && !interface.addresses.is_empty())
    };
    if host.vips.iter().any(|vip| vip.is_ipv6()) {
        for interface in wires().filter(|interface| interface.mtu < IPV6_LEAST) {
            let (name, mtu) = (&interface.name, interface.mtu);
            found.fault(
                format!("the MTU of {name} is {mtu}, below {IPV6_LEAST}"),
                "the kernel has no IPv6 on it",
                command(format!("ip link set {name} mtu 1500")),
            );
        }
    }
    let Some(widest) = wires().max_by_key(|interface| interface.mtu) else {
        return;
    };
    let mut said = BTreeSet::new();
    for service in host.listing.iter().flat_map(|listing| &listing.services) {
        for to in &service.destinations {
            let over = match host.ways.get(&to.at.ip()) {
                Some(Way::Over(index, _)) => host.interface(*index),
                Some(Way::Here | Way::NoRoute) | None => None,
            };
            let room = if to.forward == Forward::Tunnel {
                overhead(to.at.ip())
            } else {
                0
            };
            // A packet that fills the widest wire must fit this one, and if it comes over the same one, the tunnel's header,
            // too: that is what the servers' MSS is clamped for, which only they can see.
            if let Some(over) = over.filter(|over| over.index != widest.index)
                && over.mtu < widest.mtu + room
                && said.insert(&over.name)
            {
                found.warning(
                    format!("{} has the MTU {}, and the way to {} over {} has {}, of which {room} are the tunnel's",
                        widest.name, widest.mtu, to.at, over.name, over.mtu),
                    "full packets of clients do not fit. They are told by ICMP, and where that is filtered uploads hang",
                    command(format!("ip link set {} mtu {}", over.name, widest.mtu + room)),
                );
            }
        }
    }
}

/// With tunnels, a client's packet of the full size no longer fits the wire between balancer and server.
pub(super) fn mss(host: &Host, found: &mut Found) {
    let Some(tunnel) = host
        .interfaces()
        .iter()
        .find(|interface| interface.up && interface.is_tunnel())
    else {
        return;
    };
    let wide = |interface: &Interface| interface.arp && interface.up && interface.mtu > 1500;
    if host.limits_mss || host.interfaces().iter().any(wide) {
        return;
    }
    match firewall(host) {
        None => found.unknown(
            format!("{} is there; whether a firewall rule clamps the MSS cannot be seen: there is no nft and no iptables-save", tunnel.name),
            "apt install nftables",
        ),
        Some(rules) if rules.contains("TCPMSS") || rules.contains("maxseg size set") => {}
        Some(_) => found.warning(
            format!("{} is there, and nothing limits the MSS that clients are told", tunnel.name),
            "clients' full packets do not fit the tunnel. They are told by ICMP, and where that is filtered uploads hang",
            words("on the default route: ip route change default via ROUTER advmss 1440 (1420 for a tunnel over IPv6)"),
        ),
    }
}

/// All rules that there are, by whichever program is there; `None`: by neither. Who asks for a table that is not
/// loaded loads it, so it is left alone: there are no rules in it.
fn firewall(host: &Host) -> Option<String> {
    let mut rules = None;
    let mut ask = |is_loaded: bool, program: &str, arguments: &[&str]| {
        if !is_loaded {
            rules.get_or_insert_with(String::new);
        } else if let Ok(output) = std::process::Command::new(program).args(arguments).output() {
            *rules.get_or_insert_with(String::new) += &String::from_utf8_lossy(&output.stdout);
        }
    };
    let tables = host
        .files
        .text("proc/net/ip_tables_names")
        .unwrap_or_default();
    ask(
        kernel::is_loaded(host, "nf_tables"),
        "nft",
        &["list", "ruleset"],
    );
    ask(
        tables.contains("mangle"),
        "iptables-save",
        &["-t", "mangle"],
    );
    rules
}

#[cfg(test)]
mod tests {
    use super::super::Severity::{Fault, Warning};
    use super::*;
    use crate::ipvs::listing::Listing;

    #[test]
    fn a_strict_filter_off_the_default_route_is_found() {
        let (mut host, _root) = Host::sample(Balancer);
        let set = |host: &Host, of: &str, value| {
            host.write(&format!("proc/sys/net/ipv4/conf/{of}/rp_filter"), value)
        };
        set(&host, "all", "0");
        set(&host, "eth0", "1");
        assert_eq!(host.found(rp_filter)[0].0, Warning);
        host.write("proc/net/route", "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0 00000000 0100000A 0003 0 0 0 00000000\n");
        assert_eq!(host.found(rp_filter), []);
        let tunnel = Interface {
            index: 9,
            name: "tunl0".into(),
            up: true,
            kind: Some("ipip".into()),
            ..Interface::default()
        };
        host.interfaces.as_mut().unwrap().push(tunnel);
        set(&host, "tunl0", "1");
        assert_eq!(host.found(rp_filter), []);
        host.role = RealServer;
        assert_eq!(host.found(rp_filter)[0].0, Fault);
        set(&host, "all", "2");
        assert_eq!(host.found(rp_filter), []);
    }

    #[test]
    fn masquerading_needs_forwarding_and_direct_routing_no_tracking() {
        let (mut host, _root) = Host::sample(Balancer);
        host.write("proc/sys/net/ipv4/ip_forward", "0\n");
        host.write("proc/sys/net/ipv4/vs/conntrack", "1\n");
        host.listing = Some(Listing::of(
            "TCP C0000201:0050 rr\n -> 0A000007:0050 Route 1 0 0\n",
        ));
        assert_eq!(host.found(ip_forward), []);
        assert_eq!(host.found(conntrack)[0].0, Warning);
        host.listing = Some(Listing::of(
            "TCP C0000201:0050 rr\n -> 0A000007:0050 Masq 1 0 0\n",
        ));
        assert_eq!(host.found(ip_forward)[0].0, Fault);
        assert_eq!(host.found(conntrack), []);
        host.write("proc/sys/net/ipv4/ip_forward", "1\n");
        assert_eq!(host.found(ip_forward), []);
    }

    #[test]
    fn a_table_that_fills_is_told_before_it_is_full() {
        let (host, _root) = Host::sample(RealServer);
        host.write("proc/sys/net/netfilter/nf_conntrack_max", "1000\n");
        for (count, severity) in [("799", None), ("800", Some(Warning)), ("960", Some(Fault))] {
            host.write("proc/sys/net/netfilter/nf_conntrack_count", count);
            let found = host.found(conntrack).first().map(|(severity, _)| *severity);
            assert_eq!(found, severity, "{count}");
        }
    }

    #[test]
    fn a_narrow_way_to_a_server_is_found() {
        let (mut host, _root) = Host::sample(Balancer);
        host.listing = Some(Listing::of(
            "TCP C0000201:0050 rr\n -> 0A010007:0050 Route 1 0 0\n",
        ));
        let mut eth1 = host.interfaces()[1].clone();
        (eth1.index, eth1.name, eth1.mtu) = (3, "eth1".into(), 1400);
        host.interfaces.as_mut().unwrap().push(eth1);
        host.ways
            .insert("10.1.0.7".parse().unwrap(), Way::Over(2, None));
        assert_eq!(host.found(mtu), []);
        host.ways
            .insert("10.1.0.7".parse().unwrap(), Way::Over(3, None));
        assert_eq!(host.found(mtu)[0].0, Warning);
        host.interfaces.as_mut().unwrap()[2].mtu = 1200;
        host.vips.insert("2001:db8::1".parse().unwrap());
        assert_eq!(
            host.found(mtu)[0],
            (Fault, "the MTU of eth1 is 1200, below 1280".to_owned())
        );
    }

    #[test]
    fn offloads_are_found() {
        let (mut host, _root) = Host::sample(Balancer);
        assert_eq!(host.found(offload), []);
        host.lro.insert("eth0".into());
        assert_eq!(host.found(offload)[0].0, Fault);
        // No loopback device has it, and asking does no harm.
        assert_eq!(read_lro(host.interfaces()), BTreeSet::new());
    }
}
