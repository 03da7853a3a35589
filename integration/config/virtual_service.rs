//! What a virtual service and its servers are to IPVS: each rule with its message, and what is read of a good one.

use std::collections::BTreeSet;

use plimsoll::config::{Config, Service};
use plimsoll::service::{
    Delivery, Family, Forwarding, GueChecksum, Host, Persistence, PersistenceEngine, Scheduler,
    SchedulerFlag, Tunnel, VirtualService,
};

use super::{check, check_all, web};

fn service(text: &str) -> Service {
    let config = Config::parse(text, "FILE").unwrap_or_else(|error| panic!("{text}\n{error}"));
    Service::clone(&config.services["web"])
}

/// A service of a firewall mark: line 3 is blank, `lines` begin on line 5.
fn marked(lines: &str) -> String {
    format!(
        "[service.web]\naddress = \"2001:db8::1\"\n\nscheduler = \"rr\"\n{lines}\nservers = \"file:///web.json\"\n"
    )
}

/// On lines 7 and 8, and its server's from line 9 on.
fn masqueraded(lines: &str) -> String {
    web(&format!(
        "forwarding = \"masquerading\"\n[[service.web.server]]\n{lines}"
    ))
}

#[test]
fn what_a_service_is_known_by() {
    for (mark, right) in [
        ("0", "the integer 0 is out of range; write 1 to 4294967295"),
        (
            "4294967296",
            "the integer 4294967296 is out of range; write 1 to 4294967295",
        ),
        (
            "\"7\"",
            "expected an integer, found the string \"7\"; write 7 without quotes",
        ),
    ] {
        let expected = format!("5: service.web.firewall-mark: {right}");
        check(&marked(&format!("firewall-mark = {mark}")), &expected);
    }
    for (key, value) in [("port", "80"), ("protocol", "\"udp\"")] {
        check(
            &marked(&format!("firewall-mark = 7\n{key} = {value}")),
            &format!(
                "6: service.web.{key}: the firewall says which packets get firewall-mark; leave out one of the two"
            ),
        );
    }
    let marks = service(&marked("firewall-mark = 7"));
    let mark = 7.try_into().unwrap();
    let family = Family::Ipv6;
    assert_eq!(marks.key, VirtualService::Mark { mark, family });
    assert_eq!(marks.server_port, 0);
    let twice = marked("firewall-mark = 7") + &marked("firewall-mark = 7").replace("web]", "two]");
    check(
        &twice,
        "7: service.two: IPv6 firewall mark 7 is service.web (line 1) already; write another firewall-mark",
    );
    check_all(&[
        (
            "port = 0",
            "7: service.web.port: port 0 is all ports, which needs persistence; write persistence-timeout = \"5m\" too, say, or 1 to 65535",
        ),
        (
            "port = 65536",
            "7: service.web.port: the integer 65536 is out of range; write 1 to 65535",
        ),
        (
            "protocol = \"dccp\"",
            "7: service.web.protocol: unknown protocol \"dccp\"; allowed are tcp, udp, sctp",
        ),
    ]);
    let all = service(&web("port = 0\npersistence-timeout = \"5m\""));
    assert_eq!((all.key.port(), all.server_port), (None, 0));
}

#[test]
fn flags_and_persistence() {
    check_all(&[
        (
            "scheduler-flags = [\"sh-port\"]",
            "7: service.web.scheduler-flags[0]: it is a flag of the scheduler sh, this one is wrr; leave it out",
        ),
        (
            "scheduler = \"mh\"\nscheduler-flags = [\"mh-port\", \"sh-fallback\"]",
            "8: service.web.scheduler-flags[1]: it is a flag of the scheduler sh, this one is mh; leave it out",
        ),
        (
            "scheduler = \"mh\"\ndrain-timeout = \"1m\"",
            "8: service.web.drain-timeout: by mh, clients whose hash is of a server that drains are refused; write scheduler-flags = [\"mh-fallback\"] too, or \"0s\"",
        ),
        (
            "scheduler = \"dh\"\ndrain-timeout = \"1m\"",
            "8: service.web.drain-timeout: by dh, clients whose hash is of a server that drains are refused; write \"0s\"",
        ),
        (
            "scheduler-flags = [\"port\"]",
            "7: service.web.scheduler-flags[0]: unknown scheduler flag \"port\"; allowed are sh-fallback, sh-port, mh-fallback, mh-port",
        ),
        (
            "protocol = \"sctp\"\none-packet = true",
            "8: service.web.one-packet: one-packet scheduling is for UDP, this service is SCTP; leave it out or write protocol = \"udp\"",
        ),
        (
            "persistence-timeout = 300",
            "7: service.web.persistence-timeout: expected a duration, found the integer 300; write \"300s\" if seconds are meant",
        ),
        (
            "persistence-timeout = \"0s\"",
            "7: service.web.persistence-timeout: \"0s\" is out of range; write 1s to 1month 13h 26m 24s",
        ),
        (
            "persistence-timeout = \"1500ms\"",
            "7: service.web.persistence-timeout: \"1500ms\" is not in whole seconds; write \"1s\", say",
        ),
        (
            "persistence-prefix-length = 24",
            "7: service.web.persistence-prefix-length: of no use without persistence-timeout; write that too, or leave this out",
        ),
        (
            "protocol = \"udp\"\npersistence-engine = \"sip\"",
            "8: service.web.persistence-engine: of no use without persistence-timeout; write that too, or leave this out",
        ),
        (
            "persistence-timeout = \"5m\"\npersistence-prefix-length = 33",
            "8: service.web.persistence-prefix-length: the integer 33 is out of range; write 1 to 32",
        ),
        (
            "address = \"2001:db8::1\"\npersistence-timeout = \"5m\"\npersistence-prefix-length = 129",
            "9: service.web.persistence-prefix-length: the integer 129 is out of range; write 1 to 128",
        ),
        (
            "persistence-timeout = \"5m\"\npersistence-engine = \"sip\"",
            "8: service.web.persistence-engine: the kernel's looks into SIP over UDP alone; leave it out or write protocol = \"udp\"",
        ),
        (
            "protocol = \"udp\"\npersistence-timeout = \"5m\"\npersistence-engine = \"h323\"",
            "9: service.web.persistence-engine: unknown persistence engine \"h323\"; allowed are sip",
        ),
    ]);
    for (lines, seconds) in [
        ("", 300),
        ("drain-timeout = \"1m\"", 60),
        ("scheduler = \"sh\"", 0),
        ("scheduler = \"sh\"\nscheduler-flags = [\"sh-port\"]", 0),
        ("scheduler = \"mh\"\ndrain-timeout = \"0s\"", 0),
        (
            "scheduler = \"mh\"\nscheduler-flags = [\"mh-fallback\"]",
            300,
        ),
    ] {
        let time = service(&web(lines)).drain_timeout.as_secs();
        assert_eq!(time, seconds, "{lines}");
    }
    let read = service(&web(
        "protocol = \"udp\"\nscheduler = \"mh\"\nscheduler-flags = [\"mh-port\", \"mh-fallback\"]\none-packet = true\n\
         persistence-timeout = \"1h\"\npersistence-prefix-length = 24\npersistence-engine = \"sip\"",
    ));
    assert_eq!(read.scheduling.scheduler, Scheduler::Mh);
    let both = BTreeSet::from([SchedulerFlag::Fallback, SchedulerFlag::Port]);
    assert_eq!(read.scheduling.flags, both);
    assert!(read.scheduling.one_packet);
    let persistence = Persistence {
        timeout: 3600,
        prefix_length: Some(24),
        engine: Some(PersistenceEngine::Sip),
    };
    assert_eq!(read.scheduling.persistence, Some(persistence));
}

#[test]
fn forwarding_and_tunnels() {
    let of_no_use = "of no use without forwarding = \"tunnel\"; write that too, or leave this out";
    let tunnel = |table: &str| format!("forwarding = \"tunnel\"\ntunnel = {{ {table} }}");
    let rule = |lines: &str, expected: &str| check(&web(lines), expected);
    rule(
        "forwarding = \"nat\"",
        "7: service.web.forwarding: unknown forwarding \"nat\"; allowed are direct-routing, masquerading, tunnel",
    );
    for way in [
        "",
        "forwarding = \"masquerading\"\n",
        "forwarding = \"direct-routing\"\n",
    ] {
        let line = 7 + way.lines().count();
        rule(
            &format!("{way}tunnel = {{ type = \"ipip\" }}"),
            &format!("{line}: service.web.tunnel: {of_no_use}"),
        );
    }
    for (table, expected) in [
        ("", "tunnel.type: missing; write type = \"ipip\", say"),
        (
            "type = \"vxlan\"",
            "tunnel.type: unknown type \"vxlan\"; allowed are ipip, gue, gre",
        ),
        (
            "type = \"gue\"",
            "tunnel.port: missing; write port = 5555, say",
        ),
        (
            "type = \"gue\", port = 0",
            "tunnel.port: the integer 0 is out of range; write 1 to 65535",
        ),
        (
            "type = \"gue\", port = 5555, checksum = \"none\"",
            "tunnel.checksum: unknown checksum \"none\"; allowed are nocsum, csum, remcsum",
        ),
        (
            "type = \"gre\", checksum = \"remcsum\"",
            "tunnel.checksum: unknown checksum \"remcsum\"; allowed are nocsum, csum",
        ),
        (
            "type = \"ipip\", checksum = \"csum\"",
            "tunnel.checksum: IP in IP has no checksum; write type = \"gre\" or \"gue\", or leave this out",
        ),
        (
            "type = \"gre\", port = 5555",
            "tunnel.port: only GUE has a port; write type = \"gue\", or leave this out",
        ),
    ] {
        rule(&tunnel(table), &format!("8: service.web.{expected}"));
    }
    for (table, expected) in [
        ("type = \"ipip\"", Tunnel::Ipip),
        ("type = \"gre\"", Tunnel::Gre { checksum: false }),
        (
            "type = \"gre\", checksum = \"csum\"",
            Tunnel::Gre { checksum: true },
        ),
        (
            "type = \"gue\", port = 5555, checksum = \"remcsum\"",
            Tunnel::Gue {
                port: 5555,
                checksum: GueChecksum::Remote,
            },
        ),
    ] {
        let read = service(&web(&tunnel(table)));
        assert_eq!(read.delivery.forwarding, Forwarding::Tunnel(expected));
    }
    let plain = service(&web("forwarding = \"tunnel\""));
    assert_eq!(plain.delivery.forwarding, Forwarding::Tunnel(Tunnel::Ipip));
}

#[test]
fn ports_and_families_of_servers() {
    let rewrites = "only masquerading rewrites ports: the servers listen on the service's; write forwarding = \"masquerading\", or";
    check_all(&[
        (
            "server-port = 8080",
            &format!("7: service.web.server-port: {rewrites} leave this out"),
        ),
        (
            "forwarding = \"masquerading\"\nserver-port = 0",
            "8: service.web.server-port: the integer 0 is out of range; write 1 to 65535",
        ),
        (
            "[[service.web.server]]\nhost = \"10.0.0.1:8080\"",
            &format!("8: service.web.server[0].host: {rewrites} the name without a port"),
        ),
        (
            "server-family = \"ipv6\"",
            "7: service.web.server-family: another family than the address's needs a tunnel; write forwarding = \"tunnel\", or leave this out",
        ),
        (
            "forwarding = \"masquerading\"\nserver-family = \"ipv6\"",
            "8: service.web.server-family: another family than the address's needs a tunnel; write forwarding = \"tunnel\", or leave this out",
        ),
        (
            "server-family = \"v6\"",
            "7: service.web.server-family: unknown server-family \"v6\"; allowed are ipv4, ipv6",
        ),
        (
            "forwarding = \"tunnel\"\nserver-family = \"ipv6\"\n[[service.web.server]]\nhost = \"10.0.0.1\"",
            "10: service.web.server[0].host: 10.0.0.1 is an IPv4 address, but the service's servers are of IPv6; write an IPv6 address or a name",
        ),
        (
            "upper-threshold = 10\nlower-threshold = 11",
            "8: service.web.lower-threshold: larger than upper-threshold; write a smaller one, or leave it out",
        ),
        (
            "lower-threshold = 11",
            "7: service.web.lower-threshold: larger than upper-threshold; write a smaller one, or leave it out",
        ),
        (
            "upper-threshold = -1",
            "7: service.web.upper-threshold: the integer -1 is out of range; write 0 to 4294967295",
        ),
    ]);
    check(
        &masqueraded("host = \"10.0.0.1:8080\"\nforwarding = \"direct-routing\""),
        &format!("9: service.web.server[0].host: {rewrites} the name without a port"),
    );
    let same = "[[service.web.server]]\nhost = \"10.0.0.1:8080\"\n";
    check(
        &masqueraded(&format!("host = \"10.0.0.1:8080\"\n{same}")),
        "11: service.web.server[1].host: 10.0.0.1:8080 is a server already, on line 9; leave one of them out",
    );
    let read = service(&web(
        "forwarding = \"tunnel\"\nserver-family = \"ipv6\"\nupper-threshold = 10\nlower-threshold = 8",
    ));
    assert_eq!(read.server_family, Family::Ipv6);
    assert_eq!((read.delivery.upper, read.delivery.lower), (10, 8));
}

#[test]
fn a_server_may_differ_from_its_service() {
    let read = service(&web(
        "upper-threshold = 100\n[[service.web.server]]\nhost = \"10.0.0.1\"\n\
         [[service.web.server]]\nhost = \"10.0.0.2\"\nforwarding = \"tunnel\"\ntunnel = { type = \"gre\" }\nlower-threshold = 50\n\
         [[service.web.server]]\nhost = \"10.0.0.3:8080\"\nforwarding = \"masquerading\"",
    ));
    let host = |text: &str| text.parse::<Host>().unwrap();
    let of = |forwarding, lower| Delivery {
        forwarding,
        upper: 100,
        lower,
    };
    let gre = Forwarding::Tunnel(Tunnel::Gre { checksum: false });
    assert_eq!(
        read.delivery(&host("10.0.0.1")),
        of(Forwarding::DirectRouting, 0)
    );
    assert_eq!(read.delivery(&host("10.0.0.2")), of(gre, 50));
    let third = host("10.0.0.3:8080");
    assert_eq!(read.delivery(&third), of(Forwarding::Masquerading, 0));
    let address = third.literal().unwrap();
    assert_eq!(
        read.backend(&third, address),
        "10.0.0.3:8080".parse().unwrap()
    );
    let first = host("10.0.0.1");
    let address = first.literal().unwrap();
    assert_eq!(
        read.backend(&first, address),
        "10.0.0.1:80".parse().unwrap()
    );
}

#[test]
fn the_sorry_server() {
    let rule = |lines: &str, expected: &str| check(&web(lines), expected);
    for (sorry, expected) in [
        (
            "\"sorry.example.com\"",
            "\"sorry.example.com\" is no address; write one like \"10.0.0.99\", the pool may be empty because names do not resolve",
        ),
        (
            "5",
            "expected the sorry server's address, found the integer 5; write it in quotes, like \"10.0.0.99\"",
        ),
        (
            "\"10.0.0.99:0\"",
            "\"10.0.0.99:0\" is no address; write one like \"10.0.0.99\", the pool may be empty because names do not resolve",
        ),
        (
            "\"10.0.0.99:80\"",
            "only masquerading rewrites ports; write forwarding = \"masquerading\", or the address alone",
        ),
        (
            "\"2001:db8::99\"",
            "2001:db8::99 is an IPv6 address, but the service's servers are of IPv4; write an IPv4 address",
        ),
    ] {
        rule(
            &format!("sorry = {sorry}"),
            &format!("7: service.web.sorry: {expected}"),
        );
    }
    let sorry = |lines: &str| service(&web(lines)).sorry.unwrap().to_string();
    assert_eq!(sorry("sorry = \"10.0.0.99\""), "10.0.0.99:80");
    let masquerading = "forwarding = \"masquerading\"\nserver-port = 8080\n";
    assert_eq!(
        sorry(&format!("{masquerading}sorry = \"10.0.0.99\"")),
        "10.0.0.99:8080"
    );
    assert_eq!(
        sorry(&format!("{masquerading}sorry = \"10.0.0.99:81\"")),
        "10.0.0.99:81"
    );
}
