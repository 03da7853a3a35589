//! The configuration reader from outside: each rule with its message, the example that ships, and texts
//! that are anything but a configuration.

#[path = "config/bgp.rs"]
mod bgp;
#[path = "config/checks.rs"]
mod checks;
#[path = "config/comeback.rs"]
mod comeback;
#[path = "config/connection.rs"]
mod connection;
#[path = "config/etcd.rs"]
mod etcd;
#[path = "config/ipvs.rs"]
mod ipvs;
#[path = "config/vip.rs"]
mod vip;
#[path = "config/virtual_service.rs"]
mod virtual_service;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll::check::{Damping, IdleConnection, Keepalive, Monitor, Probe, ProxyFetch};
use plimsoll::config::{Config, DepoolGuard, LARGEST, Mistakes, Servers, Threshold};
use plimsoll::routing::Med;
use plimsoll::service::{Host, Protocol, Scheduler, Weight};
use proptest::prelude::*;

const WEB: &str = r#"[service.web]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///web.json"
"#;

fn example_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/plimsoll.toml")
}

fn example() -> String {
    fs::read_to_string(example_path()).expect("conf/plimsoll.toml is part of the source")
}

/// A good `[service.web]` on lines 1 to 6, then `lines` from line 7 on. Keys that `lines` names are left
/// blank in the part before, and so is `servers` if `lines` lists them inline.
fn web(lines: &str) -> String {
    let good = [
        "[service.web]",
        "address = \"192.0.2.1\"",
        "port = 80",
        "protocol = \"tcp\"",
        "scheduler = \"wrr\"",
        "servers = \"file:///web.json\"",
    ];
    let key = |line: &str| line.split([' ', '.']).next().unwrap_or_default().to_owned();
    let before_tables = lines.lines().take_while(|line| !line.starts_with('['));
    let mut own: Vec<String> = before_tables.map(key).collect();
    if lines.starts_with("server =") || lines.contains("[[service.web.server]]") {
        own.push("servers".to_owned());
    }
    let blank = |line| if own.contains(&key(line)) { "" } else { line };
    let good: Vec<&str> = good.into_iter().map(blank).collect();
    format!("{}\n{lines}\n", good.join("\n"))
}

/// The mistakes without the file's name; empty if the text is good.
fn mistakes(text: &str) -> String {
    match Config::parse(text, "FILE") {
        Ok(_) => String::new(),
        Err(mistakes) => {
            let text = mistakes.to_string();
            let lines = text
                .lines()
                .map(|line| line.strip_prefix("FILE:").expect("the file's name"));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

fn check(text: &str, expected: &str) {
    let found = mistakes(text);
    assert!(
        found == expected,
        "{text}\n--- found:\n{found}\n--- expected:\n{expected}\n"
    );
}

/// Checks (lines of a service, mistakes); the lines begin on line 7.
fn check_all(rules: &[(&str, &str)]) {
    for (lines, expected) in rules {
        check(&web(lines), expected);
    }
}

#[test]
fn addresses_ports_protocols() {
    check_all(&[
        (
            r#"address = "192.0.2""#,
            r#"7: service.web.address: "192.0.2" is not an IP address; write one like "192.0.2.11" or "2001:db8::11""#,
        ),
        (
            "address = 5",
            r#"7: service.web.address: expected an IP address, found the integer 5; write it in quotes, like "192.0.2.11""#,
        ),
        (
            r#"address = "0.0.0.0""#,
            "7: service.web.address: 0.0.0.0 is the unspecified address; write a unicast address",
        ),
        (
            r#"address = "::""#,
            "7: service.web.address: :: is the unspecified address; write a unicast address",
        ),
        (
            r#"address = "224.0.0.1""#,
            "7: service.web.address: 224.0.0.1 is a multicast address; write a unicast address",
        ),
        (
            r#"address = "ff02::1""#,
            "7: service.web.address: ff02::1 is a multicast address; write a unicast address",
        ),
        (
            r#"address = "127.0.0.1""#,
            "7: service.web.address: 127.0.0.1 is a loopback address; write one that other hosts can reach",
        ),
        (
            r#"address = "::1""#,
            "7: service.web.address: ::1 is a loopback address; write one that other hosts can reach",
        ),
        (
            r#"address = "255.255.255.255""#,
            "7: service.web.address: 255.255.255.255 is the broadcast address; write a unicast address",
        ),
        (
            r#"address = "::ffff:192.0.2.1""#,
            r#"7: service.web.address: ::ffff:192.0.2.1 is an IPv4-mapped IPv6 address; write "192.0.2.1""#,
        ),
        (
            r#"address = "fe80::1""#,
            "7: service.web.address: fe80::1 is a link-local address, which means nothing without an interface; write a unicast address",
        ),
        (
            "port = 0",
            "7: service.web.port: port 0 is all ports, which needs persistence; write persistence-timeout = \"5m\" too, say, or 1 to 65535",
        ),
        (
            "port = 65536",
            "7: service.web.port: the integer 65536 is out of range; write 1 to 65535",
        ),
        (
            "port = -1",
            "7: service.web.port: the integer -1 is out of range; write 1 to 65535",
        ),
        (
            r#"port = "80""#,
            r#"7: service.web.port: expected an integer, found the string "80"; write 80 without quotes"#,
        ),
        (
            "port = 80.5",
            "7: service.web.port: expected an integer, found the number 80.5; write 1 to 65535",
        ),
        (
            "port = true",
            "7: service.web.port: expected an integer, found true; write 1 to 65535",
        ),
        (
            r#"protocol = "sctpp""#,
            r#"7: service.web.protocol: unknown protocol "sctpp"; did you mean "sctp"? Allowed are tcp, udp, sctp"#,
        ),
        (
            r#"protocol = "TCP""#,
            r#"7: service.web.protocol: unknown protocol "TCP"; did you mean "tcp"? Allowed are tcp, udp, sctp"#,
        ),
    ]);
}

#[test]
fn schedulers_and_thresholds() {
    check_all(&[
        (
            r#"scheduler = "wr""#,
            r#"7: service.web.scheduler: unknown scheduler "wr"; allowed are rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos"#,
        ),
        (
            r#"scheduler = "wwrr""#,
            r#"7: service.web.scheduler: unknown scheduler "wwrr"; did you mean "wrr"? Allowed are rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos"#,
        ),
        (
            "scheduler = 3",
            "7: service.web.scheduler: expected a scheduler, found the integer 3; write one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos, in quotes",
        ),
        (
            "one-packet = true",
            r#"7: service.web.one-packet: one-packet scheduling is for UDP, this service is TCP; leave it out or write protocol = "udp""#,
        ),
        (
            r#"one-packet = "yes""#,
            r#"7: service.web.one-packet: expected true or false, found the string "yes"; write true"#,
        ),
        (
            "depool-threshold = 1.1",
            "7: service.web.depool-threshold: 1.1 is no fraction of the servers; write 0 to 1, say 0.5",
        ),
        (
            "depool-threshold = -0.1",
            "7: service.web.depool-threshold: -0.1 is no fraction of the servers; write 0 to 1, say 0.5",
        ),
        (
            "depool-threshold = nan",
            "7: service.web.depool-threshold: NaN is no fraction of the servers; write 0 to 1, say 0.5",
        ),
        (
            r#"depool-threshold = ".5""#,
            r#"7: service.web.depool-threshold: expected a number, found the string ".5"; write 0 to 1, say 0.5"#,
        ),
        (
            "depool-threshold = inf",
            "7: service.web.depool-threshold: inf is no fraction of the servers; write 0 to 1, say 0.5",
        ),
        (
            r#"depool-guard = "flor""#,
            r#"7: service.web.depool-guard: unknown depool-guard "flor"; did you mean "floor"? Allowed are off, last, floor"#,
        ),
        (
            "depool-guard = false",
            "7: service.web.depool-guard: expected a depool-guard, found false; write one of off, last, floor, in quotes",
        ),
        ("depool-threshold = 0", ""),
        ("depool-threshold = 1", ""),
        (
            r#"protocol = "udp"
one-packet = true"#,
            "",
        ),
    ]);
}

#[test]
fn unknown_keys() {
    check_all(&[
        (
            r#"shceduler = "wrr""#,
            r#"7: service.web.shceduler: unknown key "shceduler"; did you mean "scheduler"?"#,
        ),
        (
            r#"ip = "1.2.3.4""#,
            r#"7: service.web.ip: unknown key "ip"; did you mean "address"?"#,
        ),
        (
            "colour = 1",
            r#"7: service.web.colour: unknown key "colour"; allowed are address, port, protocol, firewall-mark, scheduler, scheduler-flags, one-packet, persistence-timeout, persistence-prefix-length, persistence-engine, server-port, server-family, sorry, drain-timeout, depool-threshold, depool-guard, servers, server, monitor, vip-reachability, start, flap-hold, slow-start, bgp, forwarding, tunnel, upper-threshold, lower-threshold"#,
        ),
        (
            r#""a\nb" = 1"#,
            r#"7: service.web."a\nb": unknown key "a\nb"; allowed are address, port, protocol, firewall-mark, scheduler, scheduler-flags, one-packet, persistence-timeout, persistence-prefix-length, persistence-engine, server-port, server-family, sorry, drain-timeout, depool-threshold, depool-guard, servers, server, monitor, vip-reachability, start, flap-hold, slow-start, bgp, forwarding, tunnel, upper-threshold, lower-threshold"#,
        ),
    ]);
}

#[test]
fn server_lists() {
    check_all(&[
        (
            r#"servers = "etcd://h:1/k""#,
            r#"7: service.web.servers: "etcd://h:1/k": the servers of etcd stand in [etcd] endpoints; write one like "etcd:eqiad/cache_text/nginx""#,
        ),
        (
            r#"servers = "file://etc/x""#,
            r#"7: service.web.servers: "etc/x" is not an absolute path; write one that begins with /"#,
        ),
        (
            r#"servers = "/etc/x""#,
            r#"7: service.web.servers: "/etc/x" is not a server list's URL; write one like "file:///etc/plimsoll/pools/text.json" or "etcd:eqiad/cache_text/nginx""#,
        ),
        (
            "servers = 1",
            r#"7: service.web.servers: expected a server list's URL, found the integer 1; write it in quotes, like "file:///etc/plimsoll/pools/text.json""#,
        ),
        (
            "servers = []",
            r#"7: service.web.servers: expected a server list's URL, found a list; write "file:///etc/plimsoll/pools/text.json""#,
        ),
        (
            "server = []",
            "7: service.web.server: no server; write at least one, an empty list never empties a pool",
        ),
        (
            r#"servers = "file:///x"
server = [{host = "a"}]"#,
            "7: service.web.servers: there is [[service.web.server]] too, on line 8; leave out one of the two",
        ),
        (
            r#"servers = "file:///a\u0000b""#,
            r#"7: service.web.servers: "/a\0b" has a zero byte in it, no path has; leave it out"#,
        ),
        (
            r#"servers = "k8s://x""#,
            r#"7: service.web.servers: "k8s://x": "k8s" is not supported by this version; write "file:///etc/plimsoll/pools/text.json", "etcd:eqiad/cache_text/nginx" or [[service.web.server]]"#,
        ),
    ]);
}

#[test]
fn inline_servers() {
    check_all(&[
        (
            r#"[[service.web.server]]
host = "2001:db8::1""#,
            "8: service.web.server[0].host: 2001:db8::1 is an IPv6 address, but the service's servers are of IPv4; write an IPv4 address or a name",
        ),
        (
            r#"[[service.web.server]]
host = "a"
weight = 2147483647
enabled = 1
name = 3"#,
            r#"9: service.web.server[0].weight: the integer 2147483647 is out of range; write 0 to 2147483646
10: service.web.server[0].enabled: expected true or false, found the integer 1; write true or false
11: service.web.server[0].name: unknown key "name"; allowed are host, weight, enabled, forwarding, tunnel, upper-threshold, lower-threshold"#,
        ),
        (
            r#"[[service.web.server]]
host = "A.x"
[[service.web.server]]
host = "a.x.""#,
            "10: service.web.server[1].host: a.x. is a server already, on line 8; leave one of them out",
        ),
        (
            r#"[[service.web.server]]
host = "a b"
[[service.web.server]]
host = "10.0.0.256"
[[service.web.server]]
host = "a:80"
[[service.web.server]]
host = "0.0.0.0"
[[service.web.server]]
weight = 1"#,
            r#"8: service.web.server[0].host: a server's name must be 1 to 253 characters out of letters, digits, '.', '_', '-', ':', '[' and ']', not "a b"; write a DNS name or an IP address
10: service.web.server[1].host: "10.0.0.256" is neither an IPv4 address nor a name; write one like "192.0.2.11"
12: service.web.server[2].host: only masquerading rewrites ports: the servers listen on the service's; write forwarding = "masquerading", or the name without a port
14: service.web.server[3].host: 0.0.0.0 is the unspecified address; write a unicast address
15: service.web.server[4].host: missing; write the server's name or address, in quotes"#,
        ),
        (
            r#"address = "2001:db8::1"
[[service.web.server]]
host = "10.0.0.1""#,
            "9: service.web.server[0].host: 10.0.0.1 is an IPv4 address, but the service's servers are of IPv6; write an IPv6 address or a name",
        ),
        (
            "server = 3",
            "7: service.web.server: expected an array of tables, found the integer 3; write [[service.web.server]]",
        ),
        (
            r#"[[service.web.server]]
host = "10.0.0.1"
[[service.web.server]]
host = "cp1.example.com"
weight = 0
enabled = false"#,
            "",
        ),
    ]);
}

#[test]
fn monitors() {
    check_all(&[
        ("monitor = []", ""),
        (
            "monitor = 1",
            "7: service.web.monitor: expected an array of tables, found the integer 1; write [[service.web.monitor]]",
        ),
        (
            "monitor = [1]",
            "7: service.web.monitor[0]: expected a table, found the integer 1; write [[service.web.monitor]]",
        ),
        (
            r#"[service.web.monitor]
type = "proxy-fetch""#,
            "7: service.web.monitor: expected an array of tables, found a table; write [[service.web.monitor]]",
        ),
        (
            "[[service.web.monitor]]",
            r#"7: service.web.monitor[0].type: missing; write type = "proxy-fetch", say"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "ProxyFetch""#,
            r#"8: service.web.monitor[0].type: unknown monitor type "ProxyFetch"; did you mean "proxy-fetch"? Allowed are idle-connection, proxy-fetch, tcp, tls, http, grpc, run-command, dns-query, udp, ping, vip-reachability"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "dns""#,
            r#"8: service.web.monitor[0].type: unknown monitor type "dns"; allowed are idle-connection, proxy-fetch, tcp, tls, http, grpc, run-command, dns-query, udp, ping, vip-reachability"#,
        ),
        (
            r#"protocol = "udp"
[[service.web.monitor]]
type = "idle-connection""#,
            "9: service.web.monitor[0].type: idle-connection needs a TCP service, this one is UDP; write proxy-fetch or no monitor",
        ),
    ]);
}

#[test]
fn idle_connection() {
    check_all(&[
        (
            r#"[[service.web.monitor]]
type = "idle-connection"
connect-timeout = 5
max-delay = "5"
timeout-clean-reconnect = "0s""#,
            r#"9: service.web.monitor[0].connect-timeout: expected a duration, found the integer 5; write "5s" if seconds are meant
10: service.web.monitor[0].max-delay: "5" is not a duration; write "5s" if seconds are meant
11: service.web.monitor[0].timeout-clean-reconnect: "0s" is out of range; write 1ms to 1day"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "idle-connection"
connect-timeout = "2days"
max-delay = "five"
timeout-clean-reconnect = "-1s""#,
            r#"9: service.web.monitor[0].connect-timeout: "2days" is out of range; write 1ms to 1day
10: service.web.monitor[0].max-delay: "five" is not a duration; write a number and a unit, like "10s"
11: service.web.monitor[0].timeout-clean-reconnect: "-1s" is not a duration; write a number and a unit, like "10s""#,
        ),
        (
            r#"[[service.web.monitor]]
type = "idle-connection"
keepalive = false
keepalive-idle = "10s""#,
            "10: service.web.monitor[0].keepalive-idle: no use with keepalive = false; leave out keepalive-idle, or write keepalive = true",
        ),
        (
            r#"[[service.web.monitor]]
type = "idle-connection"
keepalive-idle = "1.5s"
keepalive-interval = "10h"
keepalive-retries = 128"#,
            r#"9: service.web.monitor[0].keepalive-idle: "1.5s" is not in whole seconds; write "1s", say
10: service.web.monitor[0].keepalive-interval: "10h" is out of range; write 1s to 9h 6m 7s
11: service.web.monitor[0].keepalive-retries: the integer 128 is out of range; write 1 to 127"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "idle-connection"
url = "http://x""#,
            r#"9: service.web.monitor[0].url: unknown key "url"; allowed are type, port, depool, connect-timeout, timeout-clean-reconnect, max-delay, keepalive, keepalive-idle, keepalive-interval, keepalive-retries"#,
        ),
    ]);
}

#[test]
fn damping_of_results() {
    let with = |lines: &str| {
        let monitor = "[[service.web.monitor]]\ntype = \"proxy-fetch\"\nurl = \"http://x/\"\n";
        let config = Config::parse(&web(&format!("{monitor}{lines}")), "FILE").unwrap();
        config.services["web"].monitors[0].clone()
    };
    let plain = with("");
    assert_eq!(plain.damping, Damping::InARow { rise: 1, fall: 1 });
    assert_eq!(
        (plain.port, plain.depool, plain.fast_interval),
        (None, true, None)
    );
    let damped = with("rise = 3\nfast-interval = \"1s\"\nport = 8080\ndepool = false");
    assert_eq!(damped.damping, Damping::InARow { rise: 3, fall: 1 });
    let fast = Some(Duration::from_secs(1));
    assert_eq!(
        (damped.port, damped.depool, damped.fast_interval),
        (Some(8080), false, fast)
    );
    assert_eq!(
        with("window = \"3/5\"").damping,
        Damping::Window { bad: 3, of: 5 }
    );
    assert_eq!(
        with("window = \"64 / 64\"").damping,
        Damping::Window { bad: 64, of: 64 }
    );
    check_all(&[
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = "http://x/"
rise = 0
fall = 65
interval = "5s"
fast-interval = "6s"
port = 0
depool = "no""#,
            r#"10: service.web.monitor[0].rise: the integer 0 is out of range; write 1 to 64
11: service.web.monitor[0].fall: the integer 65 is out of range; write 1 to 64
13: service.web.monitor[0].fast-interval: longer than interval; write a shorter one, or leave it out
14: service.web.monitor[0].port: the integer 0 is out of range; write 1 to 65535
15: service.web.monitor[0].depool: expected true or false, found the string "no"; write false"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = "http://x/"
window = "3/5"
fall = 3"#,
            "11: service.web.monitor[0].fall: of no use with window; leave out fall, or window",
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = "http://x/"
window = "6/5""#,
            r#"10: service.web.monitor[0].window: "6/5" is no window; write one like "3/5", which is down while 3 of the last 5 results are bad, of at most 64"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = ["http://x/", "http://y/"]
check-all = true
max-failures = 2"#,
            "11: service.web.monitor[0].max-failures: all URLs may fail; of 2 write 1 at most",
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = ["http://x/", "http://y/"]
max-failures = 1"#,
            "10: service.web.monitor[0].max-failures: of no use without check-all = true, which fetches all URLs",
        ),
    ]);
}

#[test]
fn proxy_fetch() {
    check_all(&[
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch""#,
            r#"7: service.web.monitor[0].url: missing; write url = ["http://www.example.com/healthz"], say"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = []
status = []"#,
            r#"9: service.web.monitor[0].url: no URL; write ["http://www.example.com/healthz"], say
10: service.web.monitor[0].status: no status; write [200], say"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = ["ftp://x/", "http://", "x", 5, "http://u:p@x/", "data:x"]
status = [99, 600, "200"]"#,
            r#"9: service.web.monitor[0].url[0]: "ftp://x/" is not http or https; write a URL like "http://www.example.com/healthz"
9: service.web.monitor[0].url[1]: "http://" is not a URL (empty host); write one like "http://www.example.com/healthz"
9: service.web.monitor[0].url[2]: "x" is not a URL (relative URL without a base); write one like "http://www.example.com/healthz"
9: service.web.monitor[0].url[3]: expected a URL, found the integer 5; write it in quotes, like "http://www.example.com/healthz"
9: service.web.monitor[0].url[4]: user and password in a URL are not supported by this version; write it without
9: service.web.monitor[0].url[5]: "data:x" is not http or https; write a URL like "http://www.example.com/healthz"
10: service.web.monitor[0].status[0]: the integer 99 is out of range; write 100 to 599
10: service.web.monitor[0].status[1]: the integer 600 is out of range; write 100 to 599
10: service.web.monitor[0].status[2]: expected an integer, found the string "200"; write 200 without quotes"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = "https://x/"
status = 200
http_status = 3"#,
            r#"11: service.web.monitor[0].http_status: unknown key "http_status"; did you mean "status"?"#,
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = "http://x/"
interval = "86400s"
timeout = "1ms""#,
            "",
        ),
        (
            r#"[[service.web.monitor]]
type = "proxy-fetch"
url = "http://x/"
interval = "86401s"
timeout = "999us""#,
            r#"10: service.web.monitor[0].interval: "86401s" is out of range; write 1ms to 1day
11: service.web.monitor[0].timeout: "999us" is out of range; write 1ms to 1day"#,
        ),
    ]);
}

#[test]
fn not_toml() {
    check_all(&[
        (
            "port = 80x",
            r#"7:8: not TOML at "80x": string values must be quoted, expected literal string"#,
        ),
        ("port 80", "7:6: not TOML: key with no value, expected `=`"),
        (
            "port = 1
port = 2",
            r#"8:1: not TOML at "port": duplicate key"#,
        ),
        ("[service.web]", r#"7:10: not TOML at "web": duplicate key"#),
        (
            r#"a = "\q""#,
            r#"7:7: not TOML: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\`, `"`, `x`, `u`, `U`"#,
        ),
        (
            r#"port = 80x
scheduler = "x"
colour = 1"#,
            r#"7:8: not TOML at "80x": string values must be quoted, expected literal string
8: service.web.scheduler: unknown scheduler "x"; allowed are rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos
9: service.web.colour: unknown key "colour"; allowed are address, port, protocol, firewall-mark, scheduler, scheduler-flags, one-packet, persistence-timeout, persistence-prefix-length, persistence-engine, server-port, server-family, sorry, drain-timeout, depool-threshold, depool-guard, servers, server, monitor, vip-reachability, start, flap-hold, slow-start, bgp, forwarding, tunnel, upper-threshold, lower-threshold"#,
        ),
    ]);
}

#[test]
fn sections() {
    check("", "1: service: no service; write [service.NAME] for each");
    check(
        "service = 3",
        "1: service: expected a table, found the integer 3; write [service.NAME] for each",
    );
    check(
        "[service]",
        "1: service: no service; write [service.NAME] for each",
    );
    check(
        "[service.web]",
        r#"1: service.web.address: missing; write address = "192.0.2.11", say
1: service.web.port: missing; write port = 80, say
1: service.web.protocol: missing; write protocol = "tcp" or "udp"
1: service.web.scheduler: missing; write scheduler = "wrr", say
1: service.web.servers: missing; write servers = "file:///PATH" or "etcd:DC/CLUSTER/SERVICE", or [[service.web.server]] for each"#,
    );
    check(
        r#"[service."a b"]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///x"
"#,
        r#"1: service."a b": a service's name must be 1 to 128 characters out of letters, digits, '.', '_' and '-', not "a b"; write a name like [service.text-https]"#,
    );
    check(
        r#"serivce = 1
[daemon]
state-directory = "x"
manage-addresses = 1
[api]
listen=["127.0.0.1", "[::1]:0", 3, "[::1]:1", "[::1]:1"]
control = "plimsoll.sock""#,
        r#"1: serivce: unknown key "serivce"; did you mean "service"?
1: service: no service; write [service.NAME] for each
3: daemon.state-directory: "x" is not an absolute path; write one that begins with /
4: daemon.manage-addresses: expected true or false, found the integer 1; write true or false
6: api.listen[0]: "127.0.0.1" is not an address and port; write one like "127.0.0.1:9090" or "[::1]:9090"
6: api.listen[1]: "[::1]:0" has port 0; write a port from 1 to 65535
6: api.listen[2]: expected an address and port, found the integer 3; write it in quotes, like "127.0.0.1:9090"
6: api.listen[4]: [::1]:1 stands in the list twice; leave one of them out
7: api.control: "plimsoll.sock" is not an absolute path; write one that begins with /"#,
    );
    let long = format!("/{}", "x".repeat(107));
    check(
        &format!("[api]\ncontrol = \"{long}\"\n{WEB}"),
        "2: api.control: a path of 108 bytes; a Unix socket's has at most 107",
    );
    check(
        "service.x = 3",
        "1: service.x: expected a table, found the integer 3; write [service.x]",
    );
    check(
        "daemon = 3",
        "1: daemon: expected a table, found the integer 3; write [daemon]
1: service: no service; write [service.NAME] for each",
    );
    check(
        &format!(
            "[api]\nlisten = []\ncontrol = \"\"\n{}",
            WEB.replace(".web]", ".\"text.eqiad\"]")
        ),
        "",
    );
}

#[test]
fn services_that_disagree() {
    check(
        r#"[service.a]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///a.json"
[service.b]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///b.json"
"#,
        "7: service.b: tcp 192.0.2.1:80 is service.a (line 1) already; write another address, port or protocol",
    );
    check(
        r#"[service.a]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///a.json"
[service.b]
address = "192.0.2.1"
port = 80
protocol = "udp"
scheduler = "wrr"
servers = "file:///b.json"
[service.c]
address = "192.0.2.1"
port = 81
protocol = "tcp"
scheduler = "wrr"
servers = "file:///c.json"
"#,
        "",
    );
    check(
        r#"[service.b]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///b.json"
[service.a]
address = "192.0.2.1"
port = 81
protocol = "tcp"
scheduler = "wrr"
servers = "file:///a.json"
bgp = { announce = false, med = 3 }
"#,
        "13: service.a.bgp.announce: false here, but true for service.b (line 1), of the same address 192.0.2.1; write the same for both
13: service.a.bgp.med: 3 here, but 0 for service.b (line 1), of the same address 192.0.2.1; write the same for both",
    );
    check(
        r#"[bgp]
local-as = 64600
router-id = "10.0.0.1"
med = 5
next-hop-ipv4 = "10.0.0.1"
[[bgp.peer]]
address = "10.0.0.2"
peer-as = 14907
[service.a]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///a.json"
[service.b]
address = "192.0.2.1"
port = 81
protocol = "tcp"
scheduler = "wrr"
servers = "file:///b.json"
bgp.med = 5
"#,
        "",
    );
    check(
        r#"[service.a]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "wrr"
servers = "file:///a.json"
bgp.med = 1
[service.b]
address = "192.0.2.1"
port = 81
protocol = "tcp"
scheduler = "wrr"
servers = "file:///b.json"
bgp.med = 2
"#,
        "14: service.b.bgp.med: 2 here, but 1 for service.a (line 1), of the same address 192.0.2.1; write the same for both",
    );
    check(
        r#"[service.a]
address = "192.0.2.1"
port = 80
protocol = "tcp"
[service.b]
address = "192.0.2.1"
port = 80
protocol = "tcp"
scheduler = "x"
servers = "y"
"#,
        r#"1: service.a.scheduler: missing; write scheduler = "wrr", say
1: service.a.servers: missing; write servers = "file:///PATH" or "etcd:DC/CLUSTER/SERVICE", or [[service.a.server]] for each
5: service.b: tcp 192.0.2.1:80 is service.a (line 1) already; write another address, port or protocol
9: service.b.scheduler: unknown scheduler "x"; allowed are rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos
10: service.b.servers: "y" is not a server list's URL; write one like "file:///etc/plimsoll/pools/text.json" or "etcd:eqiad/cache_text/nginx""#,
    );
}

#[test]
fn a_dozen_mistakes_at_once_in_the_order_of_lines() {
    check(
        r#"[service.web]
address = "192.0.2.300"
port = 0
protocol = "tpc"
shceduler = "wrr"
depool-threshold = 50
servers = "etcd://conf:2379/web"
[[service.web.monitor]]
type = "proxy-fetch"
url = "gopher://x/"
interval = 10
[bgp]
local-as = 23456
hold-time = "1s"
[[bgp.peer]]
address = "10.64.0.1"
[daemon]
state-directory = "state"
port = 80x
"#,
        r#"2: service.web.address: "192.0.2.300" is not an IP address; write one like "192.0.2.11" or "2001:db8::11"
3: service.web.port: port 0 is all ports, which needs persistence; write persistence-timeout = "5m" too, say, or 1 to 65535
4: service.web.protocol: unknown protocol "tpc"; did you mean "tcp"? Allowed are tcp, udp, sctp
5: service.web.shceduler: unknown key "shceduler"; did you mean "scheduler"?
6: service.web.depool-threshold: 50 is no fraction of the servers; write 0 to 1, say 0.5
7: service.web.servers: "etcd://conf:2379/web": the servers of etcd stand in [etcd] endpoints; write one like "etcd:eqiad/cache_text/nginx"
10: service.web.monitor[0].url: "gopher://x/" is not http or https; write a URL like "http://www.example.com/healthz"
11: service.web.monitor[0].interval: expected a duration, found the integer 10; write "10s" if seconds are meant
13: bgp.local-as: 23456 is AS_TRANS, which is no one's; write the AS's own number
14: bgp.hold-time: "1s" is out of range; write 3s to 18h 12m 15s
18: daemon.state-directory: "state" is not an absolute path; write one that begins with /
19:8: not TOML at "80x": string values must be quoted, expected literal string"#,
    );
}

#[test]
fn defaults() {
    let config = Config::parse(
        &format!(
            "{}[[service.web.monitor]]\ntype = \"idle-connection\"\n",
            web("[[service.web.monitor]]\ntype = \"proxy-fetch\"\nurl = \"http://x/\"")
        ),
        "FILE",
    )
    .unwrap();
    assert_eq!(
        config.daemon.state_directory,
        Path::new("/var/lib/plimsoll")
    );
    assert!(config.daemon.manage_addresses);
    assert_eq!(
        config.api.listen,
        [
            "127.0.0.1:9090".parse().unwrap(),
            "[::1]:9090".parse().unwrap()
        ]
    );
    let control = config.api.control.as_deref();
    assert_eq!(control, Some(Path::new("/run/plimsoll/control.sock")));
    assert_eq!(config.bgp, None);
    let web = &config.services["web"];
    assert_eq!(web.depool_threshold, Threshold::new(0.5).unwrap());
    assert_eq!(web.depool_guard, DepoolGuard::Floor);
    assert!(!web.scheduling.one_packet);
    assert!(web.announce.announce);
    assert_eq!(web.announce.policy.med, None);
    let seconds = Duration::from_secs;
    let keepalive = Keepalive {
        idle: seconds(10),
        interval: seconds(30),
        retries: 3,
    };
    let fetch = ProxyFetch {
        url: vec!["http://x/".parse().unwrap()],
        status: [200].as_slice().into(),
        check_all: None,
        verify_certificate: false,
    };
    let idle = IdleConnection {
        timeout_clean_reconnect: seconds(3),
        max_delay: seconds(300),
        keepalive: Some(keepalive),
    };
    let expected = [
        Monitor::new(Probe::ProxyFetch(fetch), seconds(10), seconds(5)),
        Monitor::new(Probe::IdleConnection(idle), seconds(1), seconds(5)),
    ];
    assert_eq!(
        web.monitors
            .iter()
            .map(|monitor| (**monitor).clone())
            .collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn inline_servers_are_read() {
    let lines = "[[service.web.server]]\nhost = \"cp1.example.com\"\nweight = 0\nenabled = false\n[[service.web.server]]\nhost = \"10.0.0.1\"";
    let config = Config::parse(&web(lines), "FILE").unwrap();
    let Servers::Inline(list) = &config.services["web"].servers else {
        panic!("not inline");
    };
    let read = |host: &str| {
        let listed = list[&host.parse::<Host>().unwrap()];
        (listed.enabled, listed.weight)
    };
    assert_eq!(read("cp1.example.com"), (false, Weight::new(0).unwrap()));
    assert_eq!(read("10.0.0.1"), (true, Weight::DEFAULT));
    assert_eq!(list.len(), 2);
}

#[test]
fn the_example_is_good_and_shows_the_defaults() {
    let example = Config::read(&example_path()).unwrap();
    let least = Config::parse(&web(""), "FILE").unwrap();
    assert_eq!(example.daemon, least.daemon);
    assert_eq!(example.api, least.api);
    let [text, dns] = ["text", "dns"].map(|name| &example.services[name]);
    assert_eq!(
        text.servers,
        Servers::File("/etc/plimsoll/pools/text.json".into())
    );
    assert_eq!(
        (text.key.protocol(), text.scheduling.scheduler),
        (Some(Protocol::Tcp), Scheduler::Wrr)
    );
    assert_eq!(text.depool_guard, DepoolGuard::Floor);
    assert_eq!(text.announce.policy.med, Some(Med::Set(10)));
    assert!(dns.scheduling.one_packet);
    assert_eq!(example.services.len(), 2);

    let minimal = "[[service.web.monitor]]\ntype = \"idle-connection\"\n[[service.web.monitor]]\ntype = \"proxy-fetch\"\nurl = \"http://www.example.com/healthz\"\n[[service.web.monitor]]\ntype = \"vip-reachability\"";
    let minimal = Config::parse(&web(minimal), "FILE").unwrap();
    let [idle, fetch, .., vip] = &text.monitors[..] else {
        panic!("{:?}", text.monitors);
    };
    assert_eq!(
        [idle, fetch, vip],
        [0, 1, 2].map(|n| &minimal.services["web"].monitors[n])
    );
}

/// A date is the one type that no key takes, so each key that is really read must complain of it.
#[test]
fn every_key_of_the_example_is_read() {
    let example = example();
    let mut keys = 0;
    for (index, line) in example.lines().enumerate() {
        let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let mut lines: Vec<String> = example.lines().map(str::to_owned).collect();
        lines[index] = format!("{key} = 2000-01-01");
        let mistakes = Config::parse(&lines.join("\n"), "FILE").unwrap_err();
        let noted = mistakes.iter().any(|mistake| {
            mistake.line == Some(index + 1) && mistake.key.ends_with(&format!(".{key}"))
        });
        assert!(
            noted,
            "{key} = 2000-01-01 in line {}:\n{mistakes}",
            index + 1
        );
        keys += 1;
    }
    assert!(keys > 30, "{keys} keys");
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let said = |name: &str, content: Option<&[u8]>| {
        let path = directory.path().join(name);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let mistakes = Config::read(&path).unwrap_err();
        assert_eq!(mistakes.count(), 1);
        mistakes
            .to_string()
            .strip_prefix(&path.display().to_string())
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        said("none", None),
        ": cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        said("", None),
        ": cannot be read: Is a directory (os error 21)"
    );
    assert_eq!(
        said("latin1", Some(b"# a\n# \xfc\n")),
        ":2: not UTF-8; save the file in UTF-8"
    );
    let large = "#".repeat(LARGEST + 1);
    let text = "larger than 16 MiB; move servers to lists of their own";
    assert_eq!(
        said("large", Some(large.as_bytes())),
        format!(": cannot be read: {text}")
    );
    assert_eq!(mistakes(&large), format!(" {text}"));
    let largest = format!("{}\n{}", &large[..LARGEST - 1000], web(""));
    assert_eq!(mistakes(&largest), "");
}

#[test]
fn deep_nesting_ends_in_a_mistake() {
    for text in [
        "[".repeat(1_000_000),
        format!("a = {}", "[".repeat(1_000_000)),
        format!("a = {}", "{a = ".repeat(200_000)),
        format!("a{} = 1", ".a".repeat(500_000)),
        format!("[a{}]", ".a".repeat(500_000)),
    ] {
        assert!(mistakes(&text).contains("not TOML"), "{:.20}", text);
    }
}

#[test]
fn no_end_of_mistakes() {
    let many: String = (0..5000)
        .map(|number| format!("key{number} = 1\n"))
        .collect();
    let mistakes = Config::parse(&many, "FILE").unwrap_err();
    assert_eq!(mistakes.count(), 5001);
    assert_eq!(mistakes.iter().count(), Mistakes::LISTED);
    let text = mistakes.to_string();
    assert_eq!(text.lines().count(), Mistakes::LISTED + 1);
    assert!(text.ends_with("\nFILE: and 4001 more mistakes"), "{text}");

    // In a text as large as this only the first error of TOML is told.
    let mistakes = Config::parse(&"=\n".repeat(1024 * 1024), "FILE").unwrap_err();
    assert_eq!(mistakes.count(), 1);
    let long = format!(
        "[service]\n{} = {:?}",
        "k".repeat(100_000),
        "v".repeat(100_000)
    );
    assert!(Config::parse(&long, "FILE").unwrap_err().to_string().len() < 1000);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = Config::parse(&text, "FILE").map_err(|mistakes| mistakes.to_string());
    }

    /// Text out of TOML's own signs gets further than bytes do.
    #[test]
    fn any_toml_like_text_is_survived(text in "([\\[\\]{}=.,\"'#\n \\\\]|service|bgp|peer|defaults|condition|failed|communities|med|allow|address|interface|monitor|web|1|true|x){0,60}") {
        let _ = Config::parse(&text, "FILE").map_err(|mistakes| mistakes.to_string());
    }

    /// Pieces of the example cut out, doubled, moved or overwritten: good, or refused with mistakes in order.
    #[test]
    fn any_mutation_of_the_example_is_survived(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..60, any::<prop::sample::Index>(), "[\\PC\n]{0,3}"), 1..6),
    ) {
        let mut text: Vec<char> = example().lines().filter(|line| !line.starts_with('#')).flat_map(|line| line.chars().chain(['\n'])).collect();
        for (from, length, to, new) in cuts {
            let start = from.index(text.len() + 1);
            let end = (start + length).min(text.len());
            let piece: Vec<char> = text.splice(start..end, new.chars()).collect();
            let at = to.index(text.len() + 1);
            if length % 2 == 0 {
                text.splice(at..at, piece);
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(mistakes) = Config::parse(&text, "FILE") {
            prop_assert!(mistakes.count() > 0);
            prop_assert!(mistakes.iter().is_sorted_by_key(|mistake| mistake.line));
            let lines = text.lines().count() + 1;
            prop_assert!(mistakes.iter().all(|mistake| mistake.line.is_none_or(|line| (1..=lines).contains(&line))));
            prop_assert_eq!(mistakes.to_string().lines().count(), mistakes.iter().count());
        }
    }
}
