//! `vip-reachability`, as a monitor and as what every TCP service has, and `path`.

use std::time::Duration;

use plimsoll::check::{Damping, Monitor, Path, Probe};
use plimsoll::config::{Config, Service};

use super::{check_all, web};

fn service(lines: &str) -> Service {
    let config = Config::parse(&web(lines), "FILE").expect("it is good");
    Service::clone(&config.services["web"])
}

const MONITOR: &str = "[[service.web.monitor]]\ntype = \"vip-reachability\"\n";
const FETCH: &str =
    "[[service.web.monitor]]\ntype = \"proxy-fetch\"\nurl = \"http://www.example.com/\"\n";

#[test]
fn every_tcp_service_has_one() {
    for (lines, expected) in [
        ("", true),
        (FETCH, true),
        ("vip-reachability = true", true),
        ("vip-reachability = false", false),
        ("protocol = \"udp\"", false),
        ("protocol = \"udp\"\nvip-reachability = false", false),
        // It is written.
        (MONITOR, false),
    ] {
        assert_eq!(service(lines).vip_reachability, expected, "{lines}");
    }
    assert_eq!(service("").monitors, []);
    check_all(&[
        (
            "vip-reachability = 1",
            "7: service.web.vip-reachability: expected true or false, found the integer 1; write true or false",
        ),
        (
            "protocol = \"udp\"\nvip-reachability = true",
            "8: service.web.vip-reachability: it is for TCP, this service is UDP; leave it out, or write a [[service.NAME.monitor]] of this type, with the port of a TCP server",
        ),
        (
            &format!("vip-reachability = true\n{MONITOR}"),
            "7: service.web.vip-reachability: there is a monitor of this type, which takes its place; leave this out",
        ),
    ]);
}

#[test]
fn as_a_monitor() {
    let of = |lines: &str| Monitor::clone(&service(&format!("{MONITOR}{lines}")).monitors[0]);
    let seconds = Duration::from_secs;
    let default = Monitor::new(Probe::VipReachability, seconds(10), seconds(5));
    assert_eq!(of(""), default);
    assert!(default.depool);
    let all = of("interval = \"2s\"\ntimeout = \"1s\"\nfall = 3\nport = 81\ndepool = false");
    let expected = Monitor {
        damping: Damping::InARow { rise: 1, fall: 3 },
        port: Some(81),
        depool: false,
        ..Monitor::new(Probe::VipReachability, seconds(2), seconds(1))
    };
    assert_eq!(all, expected);
    check_all(&[(
        &format!("{MONITOR}path = \"vip\""),
        r#"9: service.web.monitor[0].path: unknown key "path"; allowed are type, port, depool, interval, fast-interval, timeout, rise, fall, window"#,
    )]);
}

#[test]
fn the_way_of_a_fetch() {
    let path = |lines: &str| service(&format!("{FETCH}{lines}")).monitors[0].path;
    assert_eq!(path(""), Path::Server);
    assert_eq!(path("path = \"server\""), Path::Server);
    assert_eq!(path("path = \"vip\""), Path::Vip);
    check_all(&[(
        &format!("{FETCH}path = \"VIP\""),
        r#"10: service.web.monitor[0].path: unknown path "VIP"; did you mean "vip"? Allowed are server, vip"#,
    )]);
}
