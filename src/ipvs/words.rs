//! Changes in words: which object, what it was, what it is to be, in the terms of ipvsadm(8). Pure.

use std::net::Ipv4Addr;

use super::table::{
    Change, DIRECT_ROUTING, Destination, Encapsulation, FALLBACK, Held, MASQUERADING, ONE_PACKET,
    PERSISTENT, PORT, Settings, TUNNEL,
};
use crate::service::Family;

/// What is not there.
const GONE: &str = "gone";

/// Each change of a service that is held so until then. A service that is taken away takes its servers with it, which
/// are not named.
pub(super) fn each<'a>(
    family: Family,
    held: Option<&'a Held>,
    changes: &'a [Change],
) -> impl Iterator<Item = String> + 'a {
    let was = move |backend| held.and_then(|held| held.destinations.get(backend));
    changes.iter().map(move |change| match change {
        Change::AddService(to) => format!("service: {GONE} -> {}", shown(&options(to, family))),
        Change::EditService(to) => {
            let was = held.map(|held| options(&held.settings, family));
            format!("service: {}", step(was, options(to, family)))
        }
        Change::RemoveService => {
            let was = held.map_or(GONE.to_owned(), |held| {
                shown(&options(&held.settings, family))
            });
            format!("service: {was} -> {GONE}")
        }
        Change::AddDestination(backend, to) => {
            format!("server {backend}: {GONE} -> {}", shown(&route(to)))
        }
        Change::EditDestination(backend, to) => {
            format!(
                "server {backend}: {}",
                step(was(backend).map(route), route(to))
            )
        }
        Change::RemoveDestination(backend) => {
            let was = was(backend).map_or(GONE.to_owned(), |was| shown(&route(was)));
            format!("server {backend}: {was} -> {GONE}")
        }
    })
}

/// For a log line: not more than fits one.
pub(super) fn line(family: Family, held: Option<&Held>, changes: &[Change]) -> String {
    const SHOWN: usize = 8;
    let mut line = each(family, held, changes)
        .take(SHOWN)
        .collect::<Vec<_>>()
        .join(", ");
    if changes.len() > SHOWN {
        line.push_str(&format!(" and {} more", changes.len() - SHOWN));
    }
    line
}

/// One thing that can be said of an object; objects of one kind have the same ones in the same order.
struct Point {
    words: String,
    /// It need not be said.
    usual: bool,
}

fn point(usual: bool, words: impl Into<String>) -> Point {
    let words = words.into();
    Point { words, usual }
}

fn shown(points: &[Point]) -> String {
    let unusual = points.iter().filter(|point| !point.usual);
    let words: Vec<_> = unusual.map(|point| point.words.as_str()).collect();
    words.join(" ")
}

/// Only what differs.
fn step(was: Option<Vec<Point>>, is: Vec<Point>) -> String {
    let Some(was) = was else {
        return format!("{GONE} -> {}", shown(&is));
    };
    let pairs = was.iter().zip(&is);
    let different = pairs.filter(|(was, is)| was.words != is.words);
    let steps: Vec<_> = different
        .map(|(was, is)| format!("{} -> {}", was.words, is.words))
        .collect();
    steps.join(", ")
}

fn options(settings: &Settings, family: Family) -> Vec<Point> {
    let Settings {
        scheduler,
        flags,
        timeout,
        netmask,
        engine,
    } = settings;
    let has = |bit| flags & bit != 0;
    let mut points = vec![point(false, format!("-s {scheduler}"))];
    let names = [(FALLBACK, "fallback"), (PORT, "port")];
    let names = names.into_iter().filter(|(bit, _)| has(*bit));
    let names: Vec<_> = names
        .map(|(_, name)| format!("{scheduler}-{name}"))
        .collect();
    points.push(match names.is_empty() {
        true => point(true, "no -b"),
        false => point(false, format!("-b {}", names.join(","))),
    });
    points.push(match has(ONE_PACKET) {
        true => point(false, "-o"),
        false => point(true, "no -o"),
    });
    points.push(match has(PERSISTENT) {
        true => point(false, format!("-p {timeout}")),
        // Means nothing, and yet it is another number.
        false if *timeout > 0 => point(true, format!("no -p ({timeout})")),
        false => point(true, "no -p"),
    });
    points.push(match family {
        Family::Ipv4 => {
            let mask = Ipv4Addr::from_bits(u32::from_be(*netmask));
            point(mask == Ipv4Addr::BROADCAST, format!("-M {mask}"))
        }
        Family::Ipv6 => point(*netmask == 128, format!("-M {netmask}")),
    });
    points.push(match engine {
        Some(engine) => point(false, format!("--pe {engine}")),
        None => point(true, "no --pe"),
    });
    let rest = flags & !(PERSISTENT | ONE_PACKET | FALLBACK | PORT);
    points.push(point(rest == 0, format!("flags {rest:#x}")));
    points
}

fn route(to: &Destination) -> Vec<Point> {
    let Destination {
        weight,
        forward,
        upper,
        lower,
        tunnel,
    } = to;
    vec![
        point(false, forwarding(*forward, *tunnel)),
        point(false, format!("-w {weight}")),
        point(*upper == 0, format!("-x {upper}")),
        point(*lower == 0, format!("-y {lower}")),
    ]
}

fn forwarding(forward: u32, tunnel: Encapsulation) -> String {
    if forward != TUNNEL {
        return match forward {
            MASQUERADING => "-m".to_owned(),
            DIRECT_ROUTING => "-g".to_owned(),
            other => format!("forwarding {other}"),
        };
    }
    let Encapsulation { kind, port, flags } = tunnel;
    let checksum = match flags & 3 {
        0 => "",
        1 => " --tun-csum",
        _ => " --tun-remcsum",
    };
    match kind {
        0 => "-i".to_owned(),
        1 => format!("-i --tun-type gue --tun-port {port}{checksum}"),
        2 => format!("-i --tun-type gre{checksum}"),
        other => format!("-i, tunnel type {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings() -> Settings {
        Settings {
            scheduler: "wrr".into(),
            flags: 0,
            timeout: 0,
            netmask: u32::MAX,
            engine: None,
        }
    }

    fn check(held: Option<&Held>, family: Family, change: Change, expected: &str) {
        assert_eq!(line(family, held, &[change]), expected);
    }

    #[test]
    fn of_a_service() {
        let held = Held {
            settings: settings(),
            destinations: BTreeMap::new(),
            traffic: Default::default(),
        };
        let persistent = Settings {
            scheduler: "mh".into(),
            flags: PERSISTENT | FALLBACK | PORT,
            timeout: 300,
            netmask: u32::from_be_bytes([255, 255, 255, 0]).to_be(),
            engine: None,
        };
        let v4 = Family::Ipv4;
        check(
            None,
            v4,
            Change::AddService(settings()),
            "service: gone -> -s wrr",
        );
        check(
            None,
            v4,
            Change::AddService(persistent.clone()),
            "service: gone -> -s mh -b mh-fallback,mh-port -p 300 -M 255.255.255.0",
        );
        check(
            Some(&held),
            v4,
            Change::EditService(persistent),
            "service: -s wrr -> -s mh, no -b -> -b mh-fallback,mh-port, no -p -> -p 300, \
             -M 255.255.255.255 -> -M 255.255.255.0",
        );
        let sip = Settings {
            flags: ONE_PACKET,
            netmask: 64,
            engine: Some("sip".into()),
            ..settings()
        };
        let held = Held {
            settings: sip,
            ..held
        };
        let plain = Settings {
            netmask: 128,
            ..settings()
        };
        check(
            Some(&held),
            Family::Ipv6,
            Change::EditService(plain),
            "service: -o -> no -o, -M 64 -> -M 128, --pe sip -> no --pe",
        );
        check(
            Some(&held),
            Family::Ipv6,
            Change::RemoveService,
            "service: -s wrr -o -M 64 --pe sip -> gone",
        );
    }

    #[test]
    fn of_a_server() {
        let backend = "10.0.0.1:80".parse().unwrap();
        let held = Held {
            settings: settings(),
            destinations: BTreeMap::from([(backend, Destination::direct(1))]),
            traffic: Default::default(),
        };
        let check = |held, change, expected| check(held, Family::Ipv4, change, expected);
        let limited = Destination {
            upper: 100,
            lower: 10,
            forward: MASQUERADING,
            ..Destination::direct(10)
        };
        check(
            Some(&held),
            Change::EditDestination(backend, limited.clone()),
            "server 10.0.0.1:80: -g -> -m, -w 1 -> -w 10, -x 0 -> -x 100, -y 0 -> -y 10",
        );
        check(
            None,
            Change::AddDestination(backend, limited),
            "server 10.0.0.1:80: gone -> -m -w 10 -x 100 -y 10",
        );
        for (tunnel, expected) in [
            ((0, 0, 0), "-i"),
            ((1, 5555, 1), "-i --tun-type gue --tun-port 5555 --tun-csum"),
            (
                (1, 5555, 2),
                "-i --tun-type gue --tun-port 5555 --tun-remcsum",
            ),
            ((2, 0, 0), "-i --tun-type gre"),
        ] {
            let (kind, port, flags) = tunnel;
            let to = Destination {
                forward: TUNNEL,
                tunnel: Encapsulation { kind, port, flags },
                ..Destination::direct(1)
            };
            let expected = format!("server 10.0.0.1:80: -g -> {expected}");
            let told = line(
                Family::Ipv4,
                Some(&held),
                &[Change::EditDestination(backend, to)],
            );
            assert_eq!(told, expected);
        }
        check(
            Some(&held),
            Change::RemoveDestination(backend),
            "server 10.0.0.1:80: -g -w 1 -> gone",
        );
    }

    #[test]
    fn many_are_cut_short() {
        let backend = |port| ([10, 0, 0, 1], port).into();
        let many: Vec<_> = (1..11)
            .map(|port| Change::RemoveDestination(backend(port)))
            .collect();
        let line = line(Family::Ipv4, None, &many);
        assert!(
            line.ends_with("server 10.0.0.1:8: gone -> gone and 2 more"),
            "{line}"
        );
    }
}
