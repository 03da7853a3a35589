//! Who answers for the service addresses on the wire: this host, by its ARP settings, or others.

use std::net::IpAddr;

use super::Role::{Balancer, RealServer};
use super::probe::{Answer, mac};
use super::{Found, Host, command, words};

/// `arp_ignore` and `arp_announce` (kernel: Documentation/networking/ip-sysctl.rst): the larger one of `all` and the
/// interface's own is in force.
pub(super) fn sysctls(host: &Host, found: &mut Found) {
    let vips = || host.vips.iter().filter(|vip| vip.is_ipv4());
    if vips().next().is_none() {
        return;
    }
    for interface in host
        .interfaces()
        .iter()
        .filter(|interface| interface.arp && interface.up)
    {
        // A balancer that answers does harm only where others of the wire take it for one of theirs.
        if host.role == Balancer && !vips().any(|vip| interface.is_on_link(*vip)) {
            continue;
        }
        let in_force = |setting: &str| {
            let one = |of: &str| host.files.number(&format!("net/ipv4/conf/{of}/{setting}"));
            one("all").max(one(&interface.name))
        };
        let name = &interface.name;
        match in_force("arp_ignore") {
            Some(ignore) if ignore < 1 => found.fault(
                format!("arp_ignore is {ignore} on {name}"),
                "the host answers ARP for the addresses on lo, so clients or routers on this wire may send to it \
                 past the balancer that should have it",
                command("sysctl -w net.ipv4.conf.all.arp_ignore=1"),
            ),
            Some(_) => {}
            None => return found.unknown(format!("net.ipv4.conf.{name}.arp_ignore cannot be read"), "mount /proc"),
        }
        match in_force("arp_announce") {
            Some(announce) if host.role == RealServer && announce < 2 => found.fault(
                format!("arp_announce is {announce} on {name}"),
                "the host asks by ARP with the service address as its own, and whoever is asked sends that address's packets to it",
                command("sysctl -w net.ipv4.conf.all.arp_announce=2"),
            ),
            Some(_) | None => {}
        }
    }
}

pub(super) fn duplicates(host: &Host, found: &mut Found) {
    let why = "who asks on this wire gets two answers or the wrong one, and sends the address's packets past its balancer";
    match &host.answers {
        Err(fault) => found.unknown(fault.clone(), "run it as root"),
        Ok(answers) => {
            for answer in answers {
                let (vip, name) = (answer.vip, &answer.interface);
                let who = who(host, answer);
                let text = format!("{vip} is answered for on {name} by {who}");
                let mend = words(
                    "there: `plimsoll doctor`. A real server needs arp_ignore=1 and the address on lo; an old balancer \
                     must give it up",
                );
                // Nobody has a reason to ask on a wire that the address is not of, but the answer is wrong all the same
                // if a server gives it.
                match is_wanted(host, answer) {
                    true => found.fault(text, why, mend),
                    false => found.note(
                        text,
                        "harmless for as long as nobody on this wire asks for it",
                        mend,
                    ),
                }
            }
        }
    }
    for vip in &host.vips {
        for (interface, _) in host.places(*vip).filter(|(_, own)| own.duplicate) {
            found.fault(
                format!(
                    "{vip} on {} is out of use: the kernel found another host with it",
                    interface.name
                ),
                why,
                words(format!(
                    "take {vip} from the other host, then from {} and put it on lo with nodad",
                    interface.name
                )),
            );
        }
    }
}

fn is_wanted(host: &Host, answer: &Answer) -> bool {
    let is_server = || {
        let servers = host.servers();
        addresses(host, answer).any(|address| servers.contains(&address))
    };
    let on = host
        .interfaces()
        .iter()
        .find(|interface| interface.name == answer.interface);
    host.role == RealServer || on.is_some_and(|on| on.is_on_link(answer.vip)) || is_server()
}

fn addresses<'a>(host: &'a Host, answer: &'a Answer) -> impl Iterator<Item = IpAddr> + 'a {
    let those = host
        .neighbours
        .iter()
        .filter(|of| of.hardware == Some(answer.hardware));
    those.map(|of| of.address)
}

fn who(host: &Host, answer: &Answer) -> String {
    let mac = mac(answer.hardware);
    match addresses(host, answer).next() {
        Some(address) => format!("{mac} ({address})"),
        None => mac,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity::{Fault, Note};
    use super::super::host::Neighbour;
    use super::*;

    #[test]
    fn the_larger_setting_is_in_force() {
        let (host, _root) = Host::sample(RealServer);
        assert_eq!(host.found(sysctls)[0].0, Note, "unreadable");
        let set = |of: &str, ignore: &str, announce: &str| {
            host.write(&format!("proc/sys/net/ipv4/conf/{of}/arp_ignore"), ignore);
            host.write(
                &format!("proc/sys/net/ipv4/conf/{of}/arp_announce"),
                announce,
            );
        };
        set("all", "0\n", "0\n");
        set("eth0", "0\n", "1\n");
        let wrong = ["arp_ignore is 0 on eth0", "arp_announce is 1 on eth0"];
        assert_eq!(
            host.found(sysctls),
            wrong.map(|text| (Fault, text.to_owned()))
        );
        set("eth0", "1\n", "2\n");
        assert_eq!(host.found(sysctls), []);
        set("eth0", "0\n", "0\n");
        set("all", "2\n", "2\n");
        assert_eq!(host.found(sysctls), []);
    }

    #[test]
    fn a_balancer_may_answer_where_nobody_asks() {
        let (mut host, _root) = Host::sample(Balancer);
        host.write("proc/sys/net/ipv4/conf/all/arp_ignore", "0\n");
        assert_eq!(host.found(sysctls), []);
        host.vips = ["10.0.0.9".parse().unwrap()].into();
        assert_eq!(
            host.found(sysctls),
            [(Fault, "arp_ignore is 0 on eth0".to_owned())]
        );
    }

    #[test]
    fn another_host_is_named() {
        let (mut host, _root) = Host::sample(Balancer);
        let hardware = [2, 0, 0, 0, 0, 7];
        let vip = "192.0.2.1".parse().unwrap();
        host.answers = Ok(vec![Answer {
            vip,
            interface: "eth0".into(),
            hardware,
        }]);
        assert_eq!(host.found(duplicates)[0].0, Note);
        host.listing = Some(crate::ipvs::listing::Listing::of(
            "TCP C0000201:0050 rr\n -> 0A000007:0050 Route 1 0 0\n",
        ));
        host.neighbours.push(Neighbour {
            interface: 2,
            address: "10.0.0.7".parse().unwrap(),
            hardware: Some(hardware),
            failed: false,
        });
        let text = "192.0.2.1 is answered for on eth0 by 02:00:00:00:00:07 (10.0.0.7)";
        assert_eq!(host.found(duplicates), [(Fault, text.to_owned())]);
    }
}
