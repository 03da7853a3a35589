//! `[bgp]`, its peers and what services say of their announcements: each rule with its message, what is read
//! of a good one, and the files that hold keys.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use plimsoll::config::{
    AoAlgorithm, Authentication, Bgp, Config, MaximumAction, Needs, Peer, Ttl, WithdrawWhen,
};
use plimsoll::routing::{
    Attributes, BLACKHOLE, Community, GRACEFUL_SHUTDOWN, Interface, Med, Origin, PeerId, Policy,
    Role,
};
use plimsoll::service::Family;
use proptest::prelude::*;

use super::{WEB, check, example, mistakes, web};

const SIX: &str = r#"[service.six]
address = "2001:db8::1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///web.json"
"#;

/// A good `[bgp]` on lines 1 to 3 with `lines` from line 4 on, a peer, a service.
fn section(lines: &str) -> String {
    let good = "[bgp]\nlocal-as = 64600\nrouter-id = \"10.0.0.1\"\n";
    let peer = "[[bgp.peer]]\naddress = \"10.0.0.2\"\npeer-as = 14907\n";
    format!("{good}{lines}\n{peer}{WEB}")
}

/// A good peer on lines 4 to 6 with `lines` from line 7 on, a service. The peer's lines are left blank where
/// `lines` has the key, or an interface in place of the address.
fn peer(lines: &str) -> String {
    let own = || lines.lines().take_while(|line| !line.starts_with('['));
    let has = |key: &str| own().any(|line| line.starts_with(&format!("{key} =")));
    let address = match has("address") || has("interface") {
        true => "",
        false => "address = \"10.0.0.2\"",
    };
    let peer_as = if has("peer-as") {
        ""
    } else {
        "peer-as = 14907"
    };
    let section = "[bgp]\nlocal-as = 64600\nrouter-id = \"10.0.0.1\"";
    format!("{section}\n[[bgp.peer]]\n{address}\n{peer_as}\n{lines}\n{WEB}")
}

fn check_peers(rules: &[(&str, &str)]) {
    for (lines, expected) in rules {
        check(&peer(lines), expected);
    }
}

fn parsed(text: &str) -> Config {
    Config::parse(text, "FILE").unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
}

fn bgp_of(text: &str) -> Bgp {
    parsed(text).bgp.expect("there is one")
}

fn peer_of(text: &str) -> Peer {
    let bgp = bgp_of(text);
    Peer::clone(bgp.peers.values().next().expect("one peer"))
}

#[test]
fn sections() {
    let rules = [
        (
            "[bgp]\n[[bgp.peer]]\naddress = \"10.0.0.2\"\npeer-as = 14907\n",
            "1: bgp.local-as: missing; write the number of our own AS
1: bgp.router-id: missing; write an IPv4 address of this host, in quotes",
        ),
        (
            "[bgp]\nlocal-as = 64600\nrouter-id = \"10.0.0.1\"\n",
            "1: bgp.peer: missing; write [[bgp.peer]] for each router, or leave out [bgp]",
        ),
        (
            "[bgp]\nlocal-as = 64600\nrouter-id = \"10.0.0.1\"\npeer = []\n",
            "4: bgp.peer: no peer; write [[bgp.peer]] for each router, or leave out [bgp]",
        ),
        (
            r#"[bgp]
local-as = 0
router-id = "0.0.0.0"
next-hop-ipv4 = "::2"
next-hop-ipv6="::1"
hold-time="0s"
[[bgp.peer]]
address="x"
peer-as=23456
port=0
"#,
            r#"2: bgp.local-as: the integer 0 is out of range; write 1 to 4294967295
3: bgp.router-id: 0.0.0.0 is no router id; write one of the host's IPv4 addresses
4: bgp.next-hop-ipv4: ::2 is an IPv6 address; write an IPv4 one, like "192.0.2.11"
5: bgp.next-hop-ipv6: ::1 is a loopback address; write one that other hosts can reach
6: bgp.hold-time: "0s" is out of range; write 3s to 18h 12m 15s
8: bgp.peer[0].address: "x" is not an IP address; write one like "192.0.2.11" or "2001:db8::11"
9: bgp.peer[0].peer-as: 23456 is AS_TRANS, which is no one's; write the AS's own number
10: bgp.peer[0].port: the integer 0 is out of range; write 1 to 65535"#,
        ),
    ];
    for (lines, expected) in rules {
        check(&format!("{lines}{WEB}"), expected);
    }
    let rules = [
        (
            "local-sa = 1",
            r#"4: bgp.local-sa: unknown key "local-sa"; did you mean "local-as"?"#,
        ),
        (
            "bgp-med = 1",
            r#"4: bgp.bgp-med: unknown key "bgp-med"; did you mean "med"?"#,
        ),
        (
            "bgp-as-path = \"1 2\"",
            r#"4: bgp.bgp-as-path: unknown key "bgp-as-path"; did you mean "prepend"?"#,
        ),
        (
            "hold-time = \"65536s\"\nmed = 4294967296\nlisten = [\"10.0.0.1\"]",
            r#"4: bgp.hold-time: "65536s" is out of range; write 3s to 18h 12m 15s
5: bgp.med: the integer 4294967296 is out of range; write 0 to 4294967295
6: bgp.listen[0]: "10.0.0.1" is not an address and port; write one like "127.0.0.1:9090" or "[::1]:9090""#,
        ),
        (
            "hold-time = \"30.5s\"",
            r#"4: bgp.hold-time: "30.5s" is not in whole seconds; write "30s", say"#,
        ),
        (
            "hold-time = 30",
            r#"4: bgp.hold-time: expected a duration, found the integer 30; write "30s" if seconds are meant"#,
        ),
        (
            "listen = [\"[::]:179\", \"[::]:179\"]",
            "4: bgp.listen[1]: [::]:179 stands in the list twice; leave one of them out",
        ),
        (
            "shutdown-text = \"\"",
            r#"4: bgp.shutdown-text: "" is empty; leave it out"#,
        ),
        (
            "shutdown-text = \"a\\nb\"",
            r#"4: bgp.shutdown-text: "a\nb" has control characters in it; write one line of plain text"#,
        ),
        (
            "med = \"+1000\"",
            "4: bgp.med: nothing stands below [bgp] that 1000 could be added to; write 1000 without quotes",
        ),
        (
            "withdraw-when = \"pooled\"",
            r#"4: bgp.withdraw-when: unknown withdraw-when "pooled"; allowed are never, not-pooled, failed, degraded"#,
        ),
        (
            "services = \"some\"",
            r#"4: bgp.services: unknown need "some"; allowed are all, any"#,
        ),
        (
            "up-delay = \"2days\"",
            r#"4: bgp.up-delay: "2days" is out of range; write 0s to 1day"#,
        ),
        (
            "condition = 1",
            "4: bgp.condition: expected a table, found the integer 1; write [bgp.condition]",
        ),
        (
            "condition.fialed = {}",
            r#"4: bgp.condition.fialed: unknown key "fialed"; did you mean "failed"?"#,
        ),
        (
            "condition.failed = { mde = 1 }",
            r#"4: bgp.condition.failed.mde: unknown key "mde"; did you mean "med"?"#,
        ),
        (
            "condition.failed = { med = \"+x\" }",
            r#"4: bgp.condition.failed.med: "+x" is no MED; write 0 to 4294967295, or one like "+1000" for so much more than otherwise"#,
        ),
        (
            "condition.failed = { med = \"7\" }",
            r#"4: bgp.condition.failed.med: expected an integer, found the string "7"; write 7 without quotes"#,
        ),
        (
            "defaults = 1",
            "4: bgp.defaults: expected a table, found the integer 1; write [bgp.defaults]",
        ),
        (
            "defaults.mulithop = 2",
            r#"4: bgp.defaults.mulithop: unknown key "mulithop"; did you mean "multihop"?"#,
        ),
    ];
    for (lines, expected) in rules {
        check(&section(lines), expected);
    }
    let long = format!("shutdown-text = {:?}", "ü".repeat(128));
    let expected = format!(
        "4: bgp.shutdown-text: \"{}\"… has 256 bytes; write 255 at most",
        "ü".repeat(80)
    );
    check(&section(&long), &expected);
}

#[test]
fn attributes() {
    let communities = |value: &str, wrong: &str| {
        check(
            &section(&format!("communities = {value}")),
            &format!("4: bgp.communities{wrong}"),
        );
    };
    communities(
        r#"["64600:100", "64600:100"]"#,
        "[1]: 64600:100 stands in the list twice; leave one of them out",
    );
    communities(
        r#"["no-exprot"]"#,
        r#"[0]: unknown community "no-exprot"; did you mean "no-export"?"#,
    );
    communities(
        r#"["70000:1"]"#,
        r#"[0]: "70000:1" is not a community; write one like "64600:100" (two numbers up to 65535), "4200000001:1:2" (large), "rt:64600:100", "soo:64600:100" or "ext:0x0002fc5800000064" (extended), or one of graceful-shutdown, accept-own, blackhole, no-export, no-advertise, no-export-subconfed, no-peer"#,
    );
    communities(
        "[64600]",
        r#"[0]: expected a community, found the integer 64600; write it in quotes, like "64600:100""#,
    );
    let many: Vec<_> = (0..65).map(|n| format!("64600:{n}")).collect();
    communities(
        &format!("{many:?}"),
        ": 65 communities are too many for a message; write 32 at most",
    );
    let rules = [
        (
            "prepend = 21",
            "4: bgp.prepend: the integer 21 is out of range; write 0 to 20",
        ),
        (
            "origin = \"ibgp\"",
            r#"4: bgp.origin: unknown origin "ibgp"; did you mean "igp"? Allowed are igp, egp, incomplete"#,
        ),
        (
            "local-pref = -1",
            "4: bgp.local-pref: the integer -1 is out of range; write 0 to 4294967295",
        ),
    ];
    for (lines, expected) in rules {
        check(&section(lines), expected);
    }
}

/// Wherever it may be written, and however.
#[test]
fn a_blackhole_needs_a_word() {
    let wrong = "blackhole lets routers drop all traffic to the address (RFC 7999); leave it out, or write allow-blackhole = true in [bgp] if that is meant";
    for written in ["blackhole", "65535:666"] {
        let communities = format!("communities = [{written:?}]");
        for (at, text) in [
            ("4: bgp.communities[0]", section(&communities)),
            (
                "4: bgp.condition.degraded.communities[0]",
                section(&format!("condition.degraded.{communities}")),
            ),
            (
                "4: bgp.defaults.communities[0]",
                section(&format!("defaults.{communities}")),
            ),
            ("7: bgp.peer[0].communities[0]", peer(&communities)),
            (
                "7: service.web.bgp.communities[0]",
                web(&format!("bgp.{communities}")),
            ),
            (
                "7: service.web.bgp.condition.failed.communities[0]",
                web(&format!("bgp.condition.failed.{communities}")),
            ),
        ] {
            check(&text, &format!("{at}: {wrong}"));
        }
        let allowed = section(&format!("allow-blackhole = true\n{communities}"));
        let allowed = format!("{allowed}bgp.condition.failed.{communities}\n");
        let config = parsed(&allowed);
        let told = BTreeSet::from([BLACKHOLE]);
        assert_eq!(config.bgp.unwrap().policy.communities, told);
        assert_eq!(config.services["web"].announce.failed.communities, told);
    }
}

#[test]
fn who_a_peer_is() {
    check_peers(&[
        (
            "address = \"fe80::1\"",
            r#"7: bgp.peer[0].address: fe80::1 is a link-local address, which means nothing without an interface; write interface = "eth1" beside it, say"#,
        ),
        (
            "interface = \"eth1\"\naddress = \"10.0.0.2\"",
            "7: bgp.peer[0].interface: 10.0.0.2 needs no interface, only a link-local address does; leave the interface out, or the address for whoever is at the other end",
        ),
        (
            "address = \"2001:db8::2%eth1\"",
            "7: bgp.peer[0].address: 2001:db8::2 needs no interface, only a link-local address does; leave the interface out, or the address for whoever is at the other end",
        ),
        (
            "address = \"fe80::1%eth1\"\ninterface = \"eth2\"",
            "7: bgp.peer[0].address: fe80::1 is on eth1 here, but interface is eth2; write one of them",
        ),
        (
            "interface = \"10.0.0.2\"",
            r#"7: bgp.peer[0].interface: 10.0.0.2 is an address, no interface's name; write address = "10.0.0.2""#,
        ),
        (
            "interface = \"eth\\u0007\"",
            r#"7: bgp.peer[0].interface: "eth\u{7}" is no interface's name; write one like "eth1", of 1 to 15 bytes"#,
        ),
        (
            "interface = \"a name that is long\"",
            r#"7: bgp.peer[0].interface: "a name that is long" is no interface's name; write one like "eth1", of 1 to 15 bytes"#,
        ),
        (
            "address = \"fe80::1%\"",
            r#"7: bgp.peer[0].address: "" is no interface's name; write one like "eth1", of 1 to 15 bytes"#,
        ),
        (
            "address = \"::ffff:10.0.0.2\"",
            r#"7: bgp.peer[0].address: ::ffff:10.0.0.2 is an IPv4-mapped IPv6 address; write "10.0.0.2""#,
        ),
        (
            "description = \"\"",
            r#"7: bgp.peer[0].description: "" is empty; leave it out"#,
        ),
    ]);
    check(
        &section("[[bgp.peer]]"),
        r#"4: bgp.peer[0].address: missing; write the router's address, in quotes, or interface = "eth1" for the router at its other end
4: bgp.peer[0].peer-as: missing; write the number of the router's AS"#,
    );
    for (one, other, wrong) in [
        (
            "address = \"10.0.0.3\"",
            "address = \"10.0.0.3\"",
            "address: 10.0.0.3 is a peer already, on line 7; leave one of them out",
        ),
        (
            "address = \"fe80::1\"\ninterface = \"eth1\"",
            "address = \"fe80::1%eth1\"\n",
            "address: fe80::1%eth1 is a peer already, on line 7; leave one of them out",
        ),
        (
            "address = \"fe80::1%eth1\"",
            "interface = \"eth1\"",
            "interface: fe80::1%eth1 is a peer already, on line 7; leave one of them out",
        ),
    ] {
        let text = peer(&format!("{one}\n[[bgp.peer]]\npeer-as = 1\n{other}"));
        let line = text.lines().count() - WEB.lines().count() - usize::from(other.ends_with('\n'));
        check(&text, &format!("{line}: bgp.peer[1].{wrong}"));
    }
    let eth1 = || Interface::new("eth1").unwrap();
    let fe80 = "fe80::1".parse().unwrap();
    for (lines, id) in [
        (
            "address = \"2001:db8::2\"",
            PeerId::Address("2001:db8::2".parse().unwrap()),
        ),
        (
            "address = \"fe80::1%eth1\"",
            PeerId::LinkLocal(fe80, eth1()),
        ),
        (
            "address = \"fe80::1\"\ninterface = \"eth1\"",
            PeerId::LinkLocal(fe80, eth1()),
        ),
        (
            "address = \"fe80::1%eth1\"\ninterface = \"eth1\"",
            PeerId::LinkLocal(fe80, eth1()),
        ),
        ("interface = \"eth1\"", PeerId::Interface(eth1())),
    ] {
        let text = peer(&format!("{lines}\nnext-hop-ipv4 = \"10.0.0.1\""));
        assert_eq!(peer_of(&text).id, id, "{lines}");
    }
}

#[test]
fn keys_of_peers() {
    check_peers(&[
        (
            "multihop = 1",
            "7: bgp.peer[0].multihop: the integer 1 is out of range; write 2 to 255",
        ),
        (
            "ttl-security = 0",
            "7: bgp.peer[0].ttl-security: the integer 0 is out of range; write 1 to 254",
        ),
        (
            "ttl-security = \"1\"",
            r#"7: bgp.peer[0].ttl-security: expected true, false or a number of hops, found the string "1"; write true, or 1 to 254"#,
        ),
        (
            "local-address = \"fe80::5\"",
            "7: bgp.peer[0].local-address: fe80::5 is a link-local address, which means nothing without an interface; write a unicast address",
        ),
        (
            "send-hold-time = \"5s\"",
            r#"7: bgp.peer[0].send-hold-time: "5s" is out of range; write 6s to 1day"#,
        ),
        (
            "connect-retry-time = \"0s\"",
            r#"7: bgp.peer[0].connect-retry-time: "0s" is out of range; write 1s to 1h"#,
        ),
        (
            "delay-open-time = \"5m\"",
            r#"7: bgp.peer[0].delay-open-time: "5m" is out of range; write 100ms to 4m"#,
        ),
        (
            "advertisement-interval = \"11m\"",
            r#"7: bgp.peer[0].advertisement-interval: "11m" is out of range; write 0s to 10m"#,
        ),
        (
            "families = []",
            r#"7: bgp.peer[0].families: the list is empty; name "ipv4", "ipv6" or both"#,
        ),
        (
            "families = [\"ipv5\"]",
            r#"7: bgp.peer[0].families[0]: unknown family "ipv5"; did you mean "ipv4"? Allowed are ipv4, ipv6"#,
        ),
        (
            "families = [\"ipv4\", \"ipv4\"]",
            "7: bgp.peer[0].families[1]: IPv4 stands in the list twice; leave one of them out",
        ),
        (
            "role = \"costumer\"",
            r#"7: bgp.peer[0].role: unknown role "costumer"; did you mean "customer"? Allowed are provider, customer, peer, route-server, route-server-client"#,
        ),
        (
            "maximum-prefixes = -1",
            "7: bgp.peer[0].maximum-prefixes: the integer -1 is out of range; write 0 to 4294967295",
        ),
        (
            "maximum-prefixes-action = \"reset\"",
            r#"7: bgp.peer[0].maximum-prefixes-action: unknown action "reset"; allowed are warn, cease"#,
        ),
        (
            "group = \"core\"",
            r#"7: bgp.peer[0].group: unknown key "group"; did you mean "groups"?"#,
        ),
        (
            "groups = [\"a b\"]",
            r#"7: bgp.peer[0].groups[0]: "a b" is no group's name; write 1 to 64 letters, digits, '.', '_' and '-'"#,
        ),
        (
            "allow = []",
            "7: bgp.peer[0].allow: the list is empty; name a prefix, or leave it out to allow any address",
        ),
        (
            "allow = [\"192.0.2.1/24\"]",
            r#"7: bgp.peer[0].allow[0]: "192.0.2.1/24" is not a prefix; write "192.0.2.0/24""#,
        ),
        (
            "allow = [\"192.0.2.1\"]",
            r#"7: bgp.peer[0].allow[0]: "192.0.2.1" is not a prefix; write "192.0.2.1/32""#,
        ),
        (
            "allow = [\"all\"]",
            r#"7: bgp.peer[0].allow[0]: "all" is not a prefix; write one like "192.0.2.0/24" or "2001:db8::/32""#,
        ),
        (
            "maximum-announced = 0",
            "7: bgp.peer[0].maximum-announced: the integer 0 is out of range; write 1 to 4294967295",
        ),
        (
            "med = true",
            "7: bgp.peer[0].med: expected an integer, found true; write 0 to 4294967295",
        ),
        (
            "password-file = \"key\"",
            r#"7: bgp.peer[0].password-file: "key" is not an absolute path; write one that begins with /"#,
        ),
        (
            "[bgp.peer.tcp-ao]\nsend-id = 256\nalgorithm = \"md5\"",
            r#"7: bgp.peer[0].tcp-ao.key-file: missing; write key-file = "/etc/plimsoll/bgp/router1.key", say
7: bgp.peer[0].tcp-ao.receive-id: missing; write the KeyID that the router sends, 0 to 255
8: bgp.peer[0].tcp-ao.send-id: the integer 256 is out of range; write 0 to 255
9: bgp.peer[0].tcp-ao.algorithm: unknown algorithm "md5"; allowed are hmac-sha-1-96, aes-128-cmac-96"#,
        ),
    ]);
}

#[test]
fn keys_that_make_no_sense_together() {
    check_peers(&[
        (
            "ttl-security = true\nmultihop = 2",
            "7: bgp.peer[0].ttl-security: there is multihop too, on line 8; leave out one of the two",
        ),
        (
            "password-file = \"/x\"\n[bgp.peer.tcp-ao]\nkey-file = \"/x\"",
            "7: bgp.peer[0].password-file: there is tcp-ao too, on line 8; leave out one of the two",
        ),
        (
            "local-port = 179",
            "7: bgp.peer[0].local-port: we listen on 0.0.0.0:179, so no connection can leave from there; write another port, or leave it out",
        ),
        (
            "address = \"2001:db8::2\"\nlocal-address = \"2001:db8::1\"\nlocal-port = 179",
            "9: bgp.peer[0].local-port: we listen on [::]:179, so no connection can leave from there; write another port, or leave it out",
        ),
        (
            "passive = true\nlocal-port = 1790",
            "8: bgp.peer[0].local-port: is for connections of our own, and with passive = true there are none; leave one of the two out",
        ),
        (
            "passive = true\nport = 179",
            "8: bgp.peer[0].port: is for connections of our own, and with passive = true there are none; leave one of the two out",
        ),
        (
            "families = [\"ipv6\"]\nnext-hop-ipv4 = \"10.0.0.1\"",
            r#"8: bgp.peer[0].next-hop-ipv4: is for IPv4, which is not among families; add "ipv4" there or leave this out"#,
        ),
        (
            "families = \"ipv4\"\nnext-hop-ipv6 = \"2001:db8::1\"",
            r#"8: bgp.peer[0].next-hop-ipv6: is for IPv6, which is not among families; add "ipv6" there or leave this out"#,
        ),
        (
            "local-address = \"2001:db8::1\"",
            "7: bgp.peer[0].local-address: 2001:db8::1 is an IPv6 address, but 10.0.0.2 is IPv4; write an IPv4 address of this host",
        ),
        (
            "local-address = \"10.0.0.2\"",
            "7: bgp.peer[0].local-address: 10.0.0.2 is the peer's own address; write one of this host",
        ),
        (
            "interface = \"eth1\"\nmultihop = 2",
            "8: bgp.peer[0].multihop: a link-local address is one hop away; leave it out, or write ttl-security = true",
        ),
        (
            "interface = \"eth1\"\nttl-security = 2",
            "8: bgp.peer[0].ttl-security: a link-local address is one hop away; write true",
        ),
        (
            "interface = \"eth1\"\nlocal-address = \"2001:db8::1\"",
            "8: bgp.peer[0].local-address: the session is between link-local addresses, ours is the interface's; leave it out",
        ),
        (
            "peer-as = 64600\nrole = \"peer\"",
            "8: bgp.peer[0].role: roles are for external peers (RFC 9234 section 4), and AS 64600 is our own; leave it out",
        ),
        (
            "role-strict = true",
            "7: bgp.peer[0].role-strict: there is no role to be strict about; write role = \"customer\", say, or role-strict = false",
        ),
        (
            "local-pref = 1",
            "7: bgp.peer[0].local-pref: LOCAL_PREF is for internal peers alone (RFC 4271 section 5.1.5), and AS 14907 is external; leave it out",
        ),
        (
            "send-hold-time = \"59s\"",
            "7: bgp.peer[0].send-hold-time: 59s is less than twice the hold time of 30s; write 1m or more",
        ),
    ]);
    let passive = "listen = [\"0.0.0.0:179\"]\n[[bgp.peer]]\naddress = \"2001:db8::2\"\npeer-as = 1\npassive = true";
    check(
        &section(passive),
        "8: bgp.peer[0].passive: no connection can come: no IPv6 address is in listen of [bgp]; write one there, or leave passive out",
    );
}

/// What a template has wrong is told at its own line, once, however many peers there are.
/// Only where we listen is a port taken.
#[test]
fn local_ports_beside_those_that_we_listen_on() {
    let taken = "9: bgp.peer[0].local-port: we listen on 10.0.0.1:1790, so no connection can leave from there; write another port, or leave it out";
    for (local, expected) in [
        ("", taken),
        ("local-address = \"10.0.0.1\"", taken),
        ("local-address = \"10.0.0.3\"", ""),
    ] {
        let text = peer(&format!("{local}\nlocal-port = 1790"));
        let listen = "listen = [\"10.0.0.1:1790\", \"[::]:1790\"]";
        let text = text.replace("[[bgp.peer]]", &format!("{listen}\n[[bgp.peer]]"));
        check(&text, expected);
    }
}

#[test]
fn templates() {
    let two = |template: &str, one: &str, other: &str| {
        let head =
            "[bgp]\nlocal-as = 64600\nrouter-id = \"10.0.0.1\"\nnext-hop-ipv4 = \"10.0.0.1\"";
        format!(
            "{head}\n[bgp.defaults]\n{template}\n[[bgp.peer]]\n{one}\n[[bgp.peer]]\n{other}\n{WEB}"
        )
    };
    let (one, other) = ("address = \"10.0.0.2\"", "address = \"10.0.0.3\"");
    for (template, expected) in [
        (
            "peer-as = 0",
            "6: bgp.defaults.peer-as: the integer 0 is out of range; write 1 to 4294967295",
        ),
        (
            "peer-as = 1\naddress = \"10.0.0.9\"",
            r#"7: bgp.defaults.address: unknown key "address"; allowed are peer-as, "#,
        ),
        (
            "peer-as = 1\nmultihop = 2\nttl-security = true",
            "8: bgp.defaults.ttl-security: there is multihop too, on line 7; leave out one of the two",
        ),
        (
            "peer-as = 1\nsend-hold-time = \"10s\"",
            "7: bgp.defaults.send-hold-time: does not fit peer 10.0.0.2 (line 8): 10s is less than twice the hold time of 30s; write 1m or more",
        ),
        (
            "peer-as = 1\npassword-file = \"/none\"",
            "7: bgp.defaults.password-file: /none cannot be read: No such file or directory (os error 2); write a file whose first line is the key",
        ),
    ] {
        let found = mistakes(&two(template, one, other));
        assert!(found.starts_with(expected), "{found}\n{expected}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    // A peer's own word goes before, also where two keys are one choice.
    let template = r#"peer-as = 1
multihop = 2
hold-time = "9s"
groups = ["core"]
med = 5
communities = ["64600:1"]
role-strict = true
role = "customer""#;
    let own = r#"address = "10.0.0.3"
peer-as = 64600
ttl-security = false
hold-time = "10s"
groups = []
communities = []
role-strict = false"#;
    check(
        &two(template, one, own),
        "13: bgp.defaults.role: does not fit peer 10.0.0.3 (line 16): roles are for external peers (RFC 9234 section 4), and AS 64600 is our own; leave it out",
    );
    let own = own.replace("peer-as = 64600", "peer-as = 2");
    let bgp = bgp_of(&two(template, one, &own));
    let peers: Vec<_> = bgp.peers.values().collect();
    assert_eq!((peers[0].peer_as, peers[1].peer_as), (1, 2));
    assert_eq!(
        (peers[0].ttl, peers[1].ttl),
        (Ttl::Multihop(2), Ttl::Default)
    );
    let seconds = |peer: &Peer| peer.hold_time.as_secs();
    assert_eq!((seconds(peers[0]), seconds(peers[1])), (9, 10));
    assert_eq!((peers[0].groups.len(), peers[1].groups.len()), (1, 0));
    assert_eq!((peers[0].role_strict, peers[1].role_strict), (true, false));
    assert_eq!(peers[1].role, Some(Role::Customer));
    assert_eq!(peers[1].policy.med, Some(Med::Set(5)));
    let communities = peers.iter().map(|peer| peer.policy.communities.len());
    assert_eq!(communities.collect::<Vec<_>>(), [1, 0]);
    assert_eq!(peers[1].next_hop_ipv4, Some(Ipv4Addr::new(10, 0, 0, 1)));
}

#[test]
fn next_hops_that_no_one_can_guess() {
    check(
        &format!("{}{SIX}", section("")),
        r#"1: bgp.next-hop-ipv6: missing, but service.six (line 14) announces an IPv6 address to peer 10.0.0.2 (line 5), over IPv4; write next-hop-ipv6 = "2001:db8::1", say"#,
    );
    check_peers(&[
        (
            "address = \"2001:db8::2\"",
            r#"1: bgp.next-hop-ipv4: missing, but service.web (line 8) announces an IPv4 address to peer 2001:db8::2 (line 4), over IPv6; write next-hop-ipv4 = "192.0.2.1", say, or extended-next-hop = true for the peer"#,
        ),
        ("address = \"2001:db8::2\"\nextended-next-hop = true", ""),
        ("interface = \"eth1\"", ""),
        (
            "address = \"2001:db8::2\"\nnext-hop-ipv4 = \"10.0.0.1\"",
            "",
        ),
        ("address = \"10.0.0.2\"", ""),
    ]);
    // None is needed for what is not announced, nor for what the peer does not take.
    let quiet = format!("{}{SIX}bgp.announce = false\n", section(""));
    check(&quiet, "");
    let four = "[[bgp.peer]]\naddress = \"2001:db8::2\"\npeer-as = 1\nfamilies = [\"ipv6\"]";
    check(&section(four), "");
}

#[test]
fn nothing_is_told_beyond_what_is_allowed() {
    check_peers(&[
        (
            "allow = [\"198.51.100.0/24\", \"192.0.2.0/32\"]",
            "9: service.web.address: 192.0.2.1 is announced to peer 10.0.0.2 (line 4), but is not in its allow (line 7); add it there, or name other peers in announce-to",
        ),
        ("allow = [\"192.0.2.0/31\"]\nmaximum-announced = 1", ""),
    ]);
    let more = SIX.replace("2001:db8::1", "192.0.2.2");
    check(
        &format!("{}{more}", peer("maximum-announced = 1")),
        "7: bgp.peer[0].maximum-announced: 2 addresses are announced to peer 10.0.0.2 (line 4), 1 may be; write 2 if they shall be, or name other peers in announce-to",
    );
    // Two services of one address are one announcement; what is not announced, or not to this peer, is none.
    let same = SIX
        .replace("2001:db8::1", "192.0.2.1")
        .replace("= 80", "= 81");
    check(&format!("{}{same}", peer("maximum-announced = 1")), "");
    let quiet = format!("{more}bgp.announce = false\n");
    check(
        &format!(
            "{}{quiet}",
            peer("maximum-announced = 1\nallow = [\"192.0.2.1/32\"]")
        ),
        "",
    );
    let others = "groups = \"core\"\n[[bgp.peer]]\naddress = \"10.0.0.3\"\npeer-as = 1\nallow = [\"10.0.0.0/8\"]";
    let to_core = format!("{}bgp.announce-to = \"core\"\n", peer(others));
    check(&to_core, "");
}

/// Lines from 7 on of a service of 192.0.2.1, and from 14 on if a second service, of 192.0.2.2, is behind it.
#[test]
fn wider_prefixes() {
    let around = r#"write "192.0.2.0/24", say"#;
    for (prefix, expected) in [
        (r#""192.0.2.0/24""#, String::new()),
        (r#""192.0.2.1/32""#, String::new()),
        (r#""192.0.0.0/8""#, String::new()),
        (
            r#""192.0.2.1/24""#,
            r#""192.0.2.1/24" is not a prefix; write "192.0.2.0/24""#.to_owned(),
        ),
        (
            r#""192.0.2.1""#,
            r#""192.0.2.1" is not a prefix; write "192.0.2.1/32""#.to_owned(),
        ),
        (
            "24",
            r#"expected a prefix, found the integer 24; write it in quotes, like "192.0.2.0/24""#
                .to_owned(),
        ),
        (
            r#""198.51.100.0/24""#,
            format!("198.51.100.0/24 does not contain the address, 192.0.2.1; {around}"),
        ),
        (
            r#""2001:db8::/48""#,
            format!("2001:db8::/48 does not contain the address, 192.0.2.1; {around}"),
        ),
        (
            r#""192.0.0.0/7""#,
            format!(
                "192.0.0.0/7 is wider than any that one network holds, an IPv4 /8 at most; {around}"
            ),
        ),
        (
            r#""0.0.0.0/0""#,
            format!(
                "0.0.0.0/0 is wider than any that one network holds, an IPv4 /8 at most; {around}"
            ),
        ),
        (
            r#""::/0""#,
            format!("::/0 is wider than any that one network holds, an IPv6 /16 at most; {around}"),
        ),
    ] {
        let expected = match expected.as_str() {
            "" => String::new(),
            text => format!("7: service.web.bgp.prefix: {text}"),
        };
        check(&web(&format!("bgp.prefix = {prefix}")), &expected);
    }
    let six = |prefix: &str| format!("{SIX}bgp.prefix = {prefix:?}\n");
    check(&six("2001::/16"), "");
    check(
        &six("2000::/15"),
        r#"7: service.six.bgp.prefix: 2000::/15 is wider than any that one network holds, an IPv6 /16 at most; write "2001:db8::/48", say"#,
    );
    // Without the address there is nothing that it must contain.
    check(
        &six("2000::/15").replace("2001:db8::1", "x"),
        r#"2: service.six.address: "x" is not an IP address; write one like "192.0.2.11" or "2001:db8::11"
7: service.six.bgp.prefix: 2000::/15 is wider than any that one network holds, an IPv6 /16 at most; write a longer one"#,
    );
    let prefix_of = |lines: &str| parsed(&web(lines)).services["web"].announce.prefix;
    let prefix = "bgp.prefix = \"192.0.2.0/24\"";
    assert_eq!(prefix_of(prefix), Some("192.0.2.0/24".parse().unwrap()));
    assert_eq!(prefix_of("bgp.prefix = \"192.0.2.1/32\""), None);
    let quiet = format!("{prefix}\nbgp.announce = false");
    assert_eq!(prefix_of(&quiet), None, "there is no announcement");

    let second = WEB.replace(".web", ".b").replace("192.0.2.1", "192.0.2.2");
    let both = |one: &str, other: &str| format!("{WEB}{one}\n{second}{other}\n");
    check(
        &both(prefix, prefix),
        "14: service.b.bgp.prefix: 192.0.2.0/24 is announced for service.web (line 1), of another address, already, and would be gone for both if it were withdrawn for one; write another prefix, or announce = false for one of the addresses",
    );
    check(&both(prefix, "bgp.prefix = \"192.0.2.0/25\""), "");
    check(&both(prefix, ""), "");
    check(&both(&quiet, prefix), "");
}

/// The prefix is held against the lists, not the address in it.
#[test]
fn wider_prefixes_that_are_allowed() {
    let told = |allow: &str, prefix: &str| {
        format!(
            "{}bgp.prefix = \"{prefix}\"\n",
            peer(&format!("allow = [\"{allow}\"]"))
        )
    };
    check(&told("192.0.2.0/24", "192.0.2.0/24"), "");
    check(&told("192.0.0.0/16", "192.0.2.0/24"), "");
    check(
        &told("192.0.2.0/25", "192.0.2.0/24"),
        "14: service.web.bgp.prefix: 192.0.2.0/24 is announced to peer 10.0.0.2 (line 4), but is not in its allow (line 7); add it there, or name other peers in announce-to",
    );
    let one = format!(
        "{}bgp.prefix = \"192.0.2.0/24\"\n",
        peer("maximum-announced = 1")
    );
    check(&one, "");
}

#[test]
fn groups() {
    let grouped = |to: &str| {
        format!(
            "{}bgp.announce-to = {to}\n",
            peer("groups = [\"core\", \"edge\"]")
        )
    };
    for (to, expected) in [
        ("[\"core\"]", ""),
        ("\"edge\"", ""),
        (
            "[\"croe\"]",
            r#"14: service.web.bgp.announce-to[0]: no peer is of group "croe"; did you mean "core"?"#,
        ),
        (
            "[\"core\", \"other\"]",
            r#"14: service.web.bgp.announce-to[1]: no peer is of group "other"; peers are of core, edge; write groups = ["other"] for a peer, or another group here"#,
        ),
        (
            "[]",
            "14: service.web.bgp.announce-to: the list is empty; name a group of peers, leave it out for all peers, or write announce = false",
        ),
    ] {
        check(&grouped(to), expected);
    }
    let text = format!("{}bgp.announce-to = \"core\"\n", peer(""));
    check(
        &text,
        r#"14: service.web.bgp.announce-to: no peer is of group "core"; no peer has groups; write groups = ["core"] for a peer, or another group here"#,
    );
    check(
        &peer("families = [\"ipv6\"]"),
        "8: service.web.bgp.announce: no peer that could be told of 192.0.2.1 has IPv4 among its families; add it there, or write announce = false",
    );
}

#[test]
fn what_services_say() {
    for (lines, expected) in [
        (
            "bgp = true",
            "7: service.web.bgp: expected a table, found true; write [service.web.bgp]",
        ),
        (
            "bgp.announce = 1",
            "7: service.web.bgp.announce: expected true or false, found the integer 1; write true or false",
        ),
        (
            "bgp.med = -1",
            "7: service.web.bgp.med: the integer -1 is out of range; write 0 to 4294967295",
        ),
        (
            "bgp.med = \"+4294967296\"",
            r#"7: service.web.bgp.med: "+4294967296" is no MED; write 0 to 4294967295, or one like "+1000" for so much more than otherwise"#,
        ),
        (
            "bgp.mde = 1",
            r#"7: service.web.bgp.mde: unknown key "mde"; did you mean "med"?"#,
        ),
        (
            "bgp.condition = { faild = {}, degraded = { x = 1 } }",
            r#"7: service.web.bgp.condition.faild: unknown key "faild"; did you mean "failed"?
7: service.web.bgp.condition.degraded.x: unknown key "x"; allowed are med, local-pref, origin, prepend, communities"#,
        ),
        (
            "bgp.withdraw-when = \"failed\"\nbgp.condition.failed = {}",
            "8: service.web.bgp.condition.failed: withdraw-when withdraws the address before it is told of as failed; leave this out, or write withdraw-when = \"not-pooled\"",
        ),
        (
            "bgp.withdraw-when = \"failed\"\nbgp.condition.degraded = {}",
            "",
        ),
    ] {
        check(&web(lines), expected);
    }
}

#[test]
fn conditions_are_replaced_whole() {
    let of = |bgp: &str, service: &str| {
        let config = parsed(&format!("{}{service}\n", section(bgp)));
        config.services["web"].announce.clone()
    };
    let least = of("", "");
    assert_eq!(least.degraded, Default::default());
    let failed = Policy {
        med: Some(Med::Add(1000)),
        communities: BTreeSet::from([GRACEFUL_SHUTDOWN]),
        ..Policy::default()
    };
    assert_eq!(*least.failed, failed);
    assert_eq!(least.withdraw_when, WithdrawWhen::NotPooled);
    assert_eq!(
        (least.services, least.up_delay),
        (Needs::All, Duration::ZERO)
    );
    assert_eq!(*of("condition.failed = {}", "").failed, Policy::default());
    assert_eq!(
        *of("condition.failed = {}", "bgp.condition.failed.med = 7").failed,
        Policy::of_med(7)
    );
    // One condition says nothing of the other, nor a service's of what it leaves out.
    let other = of(
        "condition.degraded.prepend = 2\nup-delay = \"3s\"\nservices = \"any\"\nwithdraw-when = \"degraded\"",
        "bgp.withdraw-when = \"never\"",
    );
    assert_eq!((*other.failed).clone(), failed);
    assert_eq!(other.degraded.prepend, Some(2));
    assert_eq!(
        (other.services, other.up_delay),
        (Needs::Any, Duration::from_secs(3))
    );
    assert_eq!(other.withdraw_when, WithdrawWhen::Never);
}

/// Two services of 192.0.2.1, the second with `lines` from line 14 on.
#[test]
fn services_of_one_address_agree() {
    let second = WEB.replace(".web", ".b").replace("= 80", "= 81");
    let both = |bgp: &str, one: &str, other: &str| format!("{bgp}{WEB}{one}\n{second}{other}\n");
    let differ = "for service.web (line 1), of the same address 192.0.2.1; write the same for both";
    for (one, other, expected) in [
        (
            "",
            "bgp.announce-to = \"core\"",
            "announce-to: core here, but all peers",
        ),
        (
            "bgp.withdraw-when = \"never\"",
            "",
            "withdraw-when: not-pooled here, but never",
        ),
        (
            "",
            "bgp.prefix = \"192.0.2.0/24\"",
            "prefix: 192.0.2.0/24 here, but 192.0.2.1/32",
        ),
        ("", "bgp.services = \"any\"", "services: any here, but all"),
        (
            "",
            "bgp.up-delay = \"90s\"",
            "up-delay: 1m 30s here, but 0s",
        ),
        (
            "",
            "bgp.communities = [\"no-export\", \"1:2\"]",
            "communities: 1:2, no-export here, but none",
        ),
        ("bgp.local-pref = 5", "", "local-pref: none here, but 5"),
        ("", "bgp.prepend = 1", "prepend: 1 here, but 0"),
        ("", "bgp.origin = \"egp\"", "origin: egp here, but igp"),
        (
            "",
            "bgp.condition.failed = {}",
            "condition.failed.med: 0 here, but 1000",
        ),
        (
            "",
            "bgp.condition.degraded.med = 3",
            "condition.degraded.med: 3 here, but 0",
        ),
    ] {
        let line = if other.is_empty() { 8 } else { 14 };
        let found = mistakes(&both("", one, other));
        assert_eq!(found, format!("{line}: service.b.bgp.{expected} {differ}"));
    }
    // What comes of it counts, and not which section says it; for each peer.
    for (one, other) in [
        ("", "bgp.condition.degraded.med = \"+0\""),
        ("bgp.prepend = 0", "bgp = { med = 0, origin = \"igp\" }"),
        (
            "bgp.condition.failed = { med = 1000, communities = [\"65535:0\"] }",
            "",
        ),
    ] {
        check(&both("", one, other), "");
    }
    let bgp = peer("med = 7").replace(WEB, "");
    let found = mistakes(&both(&bgp, "", "bgp.med = 0"));
    assert_eq!(
        found,
        "21: service.b.bgp.med: 0 here, but 7 for service.web (line 8), of the same address 192.0.2.1, to peer 10.0.0.2; write the same for both"
    );
}

/// The same router twice, by two interfaces: of one address the kernel has one key.
#[test]
fn one_key_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let path = directory.path().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        format!("password-file = \"{}\"", path.display())
    };
    let (one, other) = (key("one"), key("other"));
    let twice = |listen: &str, first: &str, second: &str, address: &str| {
        let peers = format!(
            "address = \"fe80::1%eth1\"\nnext-hop-ipv4 = \"10.0.0.1\"\n{first}\n\
             [[bgp.peer]]\npeer-as = 1\nnext-hop-ipv4 = \"10.0.0.1\"\naddress = \"{address}\"\n{second}"
        );
        let id = "router-id = \"10.0.0.1\"";
        peer(&peers).replace(id, &format!("{id}; listen = {listen}").replace("; ", "\n"))
    };
    let both = "[\"0.0.0.0:179\", \"[::]:179\"]";
    let wrong = "14: bgp.peer[1].address: peer fe80::1%eth1 (line 5) has the same address and another key, and the kernel knows keys by address, not by interface; give both the same key, or one of the routers another address";
    check(&twice(both, &one, &other, "fe80::1%eth2"), wrong);
    check(&twice(both, &one, "", "fe80::1%eth2"), wrong);
    check(&twice(both, &one, &one, "fe80::1%eth2"), "");
    check(&twice(both, &one, &other, "fe80::2%eth2"), "");
    check(
        &twice("[\"0.0.0.0:179\"]", &one, &other, "fe80::1%eth2"),
        "",
    );
}

/// The files' contents stand in no message.
#[test]
fn key_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let at = path.display();
    let write = |text: &[u8], mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let md5 = peer(&format!("password-file = \"{at}\""));
    let wrong = |expected: &str| {
        check(
            &md5,
            &format!("7: bgp.peer[0].password-file: {at} {expected}"),
        )
    };
    wrong(
        "cannot be read: No such file or directory (os error 2); write a file whose first line is the key",
    );
    write(b"tiger", 0o644);
    wrong("is open to everyone (mode 0644); chmod 600, or 640 with a group of its own");
    write(b"\ntiger", 0o640);
    wrong("has an empty first line; write the key there, 1 to 80 bytes");
    for text in [
        "t".repeat(81),
        format!("{}\n", "t".repeat(81)),
        "t".repeat(100_000),
    ] {
        write(text.as_bytes(), 0o600);
        wrong("has a first line of more than 80 bytes; a key has 1 to 80");
    }
    // As Windows saves it.
    for text in [&b"\xef\xbb\xbftiger"[..], b"\xff\xfet\0i\0", b"tiger\0"] {
        write(text, 0o600);
        wrong("is not plain text; save it in ASCII or UTF-8, without a byte order mark");
    }
    let key = |text: &[u8], mode: u32| {
        write(text, mode);
        match peer_of(&md5).authentication {
            Some(Authentication::Md5(secret)) => secret.bytes().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(key(b"tiger\r\nmore", 0o600), b"tiger");
    assert_eq!(key(b"\xff \n", 0o640), b"\xff ");
    for end in ["", "\n", "\r\n"] {
        let longest = format!("{}{end}", "t".repeat(80));
        assert_eq!(key(longest.as_bytes(), 0o400).len(), 80, "{end:?}");
    }
    // Neither a directory nor a pipe, which would be waited for.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    wrong("cannot be read: not a file; write a file whose first line is the key");
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    wrong("cannot be read: not a file; write a file whose first line is the key");
    fs::remove_file(&path).unwrap();

    write(b"tiger", 0o600);
    let ao = peer(&format!(
        "[bgp.peer.tcp-ao]\nkey-file = \"{at}\"\nsend-id = 0\nreceive-id = 255\nalgorithm = \"aes-128-cmac-96\""
    ));
    let config = parsed(&ao);
    let Some(Authentication::Ao(read)) = peer_of(&ao).authentication else {
        panic!("no TCP-AO");
    };
    assert_eq!((read.send_id, read.receive_id), (0, 255));
    assert_eq!(read.algorithm, AoAlgorithm::Aes128Cmac);
    assert_eq!(read.key.bytes(), b"tiger");
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("tiger") && !shown.contains("116, 105"),
        "{shown}"
    );
}

/// As routers' operators would write it, with everything.
#[test]
fn a_whole_peer() {
    let read = peer_of(&peer(
        r#"description = "cr1"
enabled = false
port = 1179
local-address = "10.0.0.1"
local-port = 1790
hold-time = "300s"
connect-retry-time = "1m"
delay-open-time = "5s"
ttl-security = 3
families = ["ipv4"]
extended-next-hop = true
extended-messages = false
role = "route-server-client"
role-strict = true
advertisement-interval = "0s"
maximum-prefixes = 5
maximum-prefixes-action = "cease"
groups = ["core", "edge"]
allow = ["192.0.2.0/24"]
maximum-announced = 3
med = "+5"
origin = "egp"
prepend = 2
communities = ["64600:1", "1:2:3"]"#,
    ));
    let peer = PeerId::Address("10.0.0.2".parse().unwrap());
    let expected = Peer {
        description: Some("cr1".into()),
        enabled: false,
        port: 1179,
        local_address: Some(IpAddr::from([10, 0, 0, 1])),
        local_port: Some(1790),
        hold_time: Duration::from_secs(300),
        send_hold_time: Duration::from_secs(600),
        connect_retry_time: Duration::from_secs(60),
        delay_open_time: Some(Duration::from_secs(5)),
        ttl: Ttl::Security(3),
        families: BTreeSet::from([Family::Ipv4]),
        extended_next_hop: true,
        extended_messages: false,
        role: Some(Role::RouteServerClient),
        role_strict: true,
        advertisement_interval: Duration::ZERO,
        maximum_prefixes: 5,
        maximum_prefixes_action: MaximumAction::Cease,
        groups: BTreeSet::from(["core".into(), "edge".into()]),
        allow: Some(vec!["192.0.2.0/24".parse().unwrap()]),
        maximum_announced: Some(3),
        policy: Policy {
            med: Some(Med::Add(5)),
            origin: Some(Origin::Egp),
            prepend: Some(2),
            communities: BTreeSet::from([
                Community::Standard(0xfc58_0001),
                Community::Large(1, 2, 3),
            ]),
            ..Policy::default()
        }
        .into(),
        ..Peer::new(peer, 14907)
    };
    assert_eq!(read, expected);
}

#[test]
fn defaults() {
    let bgp = bgp_of(&section(""));
    assert_eq!((bgp.local_as, bgp.shutdown_text), (64600, None));
    assert_eq!(Attributes::of([&*bgp.policy]), Attributes::default());
    let everywhere = ["0.0.0.0:179", "[::]:179"].map(|at| at.parse().unwrap());
    assert_eq!(bgp.listen, everywhere);
    let id = PeerId::Address("10.0.0.2".parse().unwrap());
    assert_eq!(*bgp.peers[&id], Peer::new(id.clone(), 14907));
    let least = peer_of(&peer(""));
    assert_eq!(
        (least.hold_time, least.send_hold_time),
        (Duration::from_secs(30), Duration::from_secs(480))
    );
    assert!(!least.extended_next_hop && least.extended_messages && least.enabled);
    assert!(peer_of(&peer("interface = \"eth1\"")).extended_next_hop);
    let named = peer_of(&section(
        "next-hop-ipv4 = \"10.0.0.9\"\nnext-hop-ipv6 = \"2001:db8::9\"\nhold-time = \"3s\"",
    ));
    assert_eq!(named.next_hop_ipv4, Some(Ipv4Addr::new(10, 0, 0, 9)));
    assert_eq!(named.next_hop_ipv6, Some("2001:db8::9".parse().unwrap()));
    assert_eq!(named.hold_time, Duration::from_secs(3));
}

/// With the lines that are only shown in it, for the key files that they name.
#[test]
fn the_whole_example_is_good() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["cr1.key", "cr2.key"] {
        let path = directory.path().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let made = rcgen::generate_simple_self_signed(vec!["a.example.org".into()]).unwrap();
    for (name, text) in [
        ("ca.pem", made.cert.pem()),
        ("check.pem", made.cert.pem()),
        ("check.key", made.signing_key.serialize_pem()),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let shown = |line: &str| {
        let rest = line.strip_prefix('#').unwrap_or_default();
        let key = rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
        (if key { rest } else { line }).to_owned()
    };
    let text: Vec<_> = example().lines().map(shown).collect();
    let text = text.join("\n");
    let here = directory.path().to_str().unwrap();
    let there = text.replace("/etc/plimsoll/bgp", here);
    let bgp = bgp_of(&there.replace("/etc/plimsoll/tls", here));
    let kinds = bgp.peers.values().map(|peer| match &peer.authentication {
        None => "none",
        Some(Authentication::Md5(_)) => "md5",
        Some(Authentication::Ao(_)) => "ao",
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["md5", "ao", "none"]);
    assert!(!Path::new("/etc/plimsoll/bgp").exists() || !mistakes(&text).is_empty());
}

proptest! {
    /// Whatever a key is said to be, it is taken or told of at its line, and nothing else is.
    #[test]
    fn any_value_of_any_key_is_survived(
        key in prop::sample::select(vec![
            "address", "interface", "peer-as", "port", "passive", "local-address", "hold-time", "send-hold-time",
            "ttl-security", "multihop", "password-file", "tcp-ao", "families", "next-hop-ipv4", "role", "groups",
            "allow", "maximum-announced", "med", "communities", "origin", "prepend",
        ]),
        value in prop_oneof![
            "\\PC{0,20}".prop_map(|text| format!("{:?}", text)),
            any::<i64>().prop_map(|number| number.to_string()),
            (0_u8..=32, any::<u32>()).prop_map(|(length, net)| format!("\"{}/{length}\"", Ipv4Addr::from(net))),
            "[0-9a-f:%/.]{0,20}".prop_map(|text| format!("[\"{text}\", \"{text}\"]")),
            Just("{}".to_owned()),
            Just("[[[]]]".to_owned()),
        ],
    ) {
        let text = peer(&format!("{key} = {value}"));
        let found = Config::parse(&text, "FILE").err();
        // A string as Rust writes it is not always one of TOML.
        for mistake in found.iter().flat_map(|mistakes| mistakes.iter()).filter(|_| !format!("{found:?}").contains("not TOML")) {
            let about = mistake.line == Some(7)
                || mistake.key.starts_with("bgp.next-hop")
                || mistake.key.starts_with("service.web");
            prop_assert!(about, "{text}\n{mistake}");
        }
    }
}
