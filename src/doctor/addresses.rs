//! The service addresses on this host: where they are, how wide, and by whom.

use super::Role::{Balancer, RealServer};
use super::host::Owner;
use super::{Found, Host, command, words};

pub(super) fn lo(host: &Host, found: &mut Found) {
    match &host.interfaces {
        Err(fault) => found.unknown(fault.clone(), "run it in the host's own network namespace"),
        Ok(interfaces) => {
            for lo in interfaces
                .iter()
                .filter(|interface| interface.loopback && !interface.up)
            {
                found.fault(
                    format!("{} is down", lo.name),
                    "no address on it works, and IPVS refuses IPv4 servers",
                    command(format!("ip link set {} up", lo.name)),
                );
            }
        }
    }
}

pub(super) fn ipv6(host: &Host, found: &mut Found) {
    if !host.vips.iter().any(|vip| vip.is_ipv6()) {
        return;
    }
    for name in ["all", "lo"] {
        let sysctl = format!("net/ipv6/conf/{name}/disable_ipv6");
        match host.files.number(&sysctl) {
            Some(0) => {}
            Some(_) => found.fault(
                format!("net.ipv6.conf.{name}.disable_ipv6 is on"),
                "IPv6 service addresses cannot be put on lo",
                command(format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0")),
            ),
            None => {
                return found.fault(
                    "this kernel has no IPv6".to_owned(),
                    "IPv6 service addresses cannot be put on lo",
                    words("boot without ipv6.disable=1, or load the module ipv6"),
                );
            }
        }
    }
}

/// A balancer puts them on `lo` itself as long as it runs and may.
pub(super) fn missing(host: &Host, found: &mut Found) {
    let managed = host
        .config
        .as_ref()
        .is_some_and(|config| config.daemon.manage_addresses);
    if host.interfaces.is_err() || (host.role == Balancer && managed && host.daemon().is_none()) {
        return;
    }
    for vip in &host.vips {
        if host.places(*vip).next().is_some() {
            continue;
        }
        let why = match host.role {
            Balancer => "what is not for an address of this host is not balanced",
            RealServer => "the server drops what the balancer sends it, and clients wait",
        };
        found.fault(
            format!("{vip} is not on this host"),
            why,
            command(bind(host, *vip)),
        );
    }
}

/// As a mend for whoever has to have it on `lo`.
fn bind(host: &Host, vip: std::net::IpAddr) -> String {
    match (host.role, vip.is_ipv4()) {
        (RealServer, true) => format!("ip address add {vip}/32 dev lo label lo:LVS"),
        (Balancer, true) => format!("ip address add {vip}/32 dev lo"),
        (_, false) => format!("ip address add {vip}/128 dev lo nodad preferred_lft 0"),
    }
}

pub(super) fn interface(host: &Host, found: &mut Found) {
    for vip in &host.vips {
        for (interface, own) in host.places(*vip) {
            if !interface.arp {
                continue;
            }
            let (name, length) = (&interface.name, own.length);
            let delete = format!("ip address del {vip}/{length} dev {name}");
            let elsewhere = host.places(*vip).any(|(other, _)| !other.arp);
            let by_daemon = host.role == Balancer && host.daemon().is_some();
            found.fault(
                format!("{vip} is on {name}"),
                "the kernel answers ARP or neighbour discovery for it there, so clients may be served by this host \
                 alone, past the balancer or past the routers' choice of one",
                command(match elsewhere || by_daemon {
                    true => delete,
                    false => format!("{delete} && {}", bind(host, *vip)),
                }),
            );
        }
    }
}

pub(super) fn prefix(host: &Host, found: &mut Found) {
    for vip in &host.vips {
        let full = if vip.is_ipv4() { 32 } else { 128 };
        for (interface, own) in host.places(*vip) {
            if !interface.loopback || own.length == full {
                continue;
            }
            let (name, length) = (&interface.name, own.length);
            found.fault(
                format!("{vip} is on {name} with the prefix length {length}"),
                "this host takes all addresses of the prefix for its own, and reaches nobody who has one of them",
                command(format!("ip address del {vip}/{length} dev {name} && {}", bind(host, *vip))),
            );
        }
    }
}

/// What Plimsoll put there bears its mark; keepalived's are [`super::rivals::vrrp`]'s business.
pub(super) fn owner(host: &Host, found: &mut Found) {
    let managed = host
        .config
        .as_ref()
        .is_some_and(|config| config.daemon.manage_addresses);
    if !managed || host.daemon().is_none() {
        return;
    }
    for vip in &host.vips {
        for (interface, own) in host.places(*vip) {
            if own.owner != Owner::Unknown || interface.arp {
                continue;
            }
            let (name, length) = (&interface.name, own.length);
            found.warning(
                format!("{vip} was put on {name} by somebody else"),
                "it goes when they take it away, and stays when it leaves the configuration: Plimsoll removes only its own",
                command(format!("ip address del {vip}/{length} dev {name}")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity::Fault;
    use super::super::host::Address;
    use super::*;

    fn on(host: &mut Host, interface: usize, address: &str, length: u8) {
        let address = Address {
            address: address.parse().unwrap(),
            length,
            owner: Owner::Unknown,
            duplicate: false,
        };
        host.interfaces.as_mut().unwrap()[interface]
            .addresses
            .push(address);
    }

    #[test]
    fn each_address_belongs_on_lo_alone_and_in_full_length() {
        let (mut host, _root) = Host::sample(RealServer);
        for look in [lo, missing, interface, prefix] {
            assert_eq!(host.found(look), []);
        }
        host.vips.insert("192.0.2.2".parse().unwrap());
        let text = |text: &str| [(Fault, text.to_owned())];
        assert_eq!(host.found(missing), text("192.0.2.2 is not on this host"));
        on(&mut host, 1, "192.0.2.2", 24);
        assert_eq!(host.found(missing), []);
        assert_eq!(host.found(prefix), []);
        assert_eq!(host.found(interface), text("192.0.2.2 is on eth0"));
        on(&mut host, 0, "192.0.2.2", 24);
        assert_eq!(
            host.found(prefix),
            text("192.0.2.2 is on lo with the prefix length 24")
        );
        host.interfaces.as_mut().unwrap()[0].up = false;
        assert_eq!(host.found(lo), text("lo is down"));
    }

    #[test]
    fn ipv6_is_wanted_only_for_ipv6() {
        let (mut host, _root) = Host::sample(RealServer);
        assert_eq!(host.found(ipv6), []);
        host.vips.insert("2001:db8::1".parse().unwrap());
        assert_eq!(
            host.found(ipv6),
            [(Fault, "this kernel has no IPv6".to_owned())]
        );
        host.write("proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n");
        host.write("proc/sys/net/ipv6/conf/lo/disable_ipv6", "1\n");
        assert_eq!(
            host.found(ipv6),
            [(Fault, "net.ipv6.conf.lo.disable_ipv6 is on".to_owned())]
        );
    }
}
