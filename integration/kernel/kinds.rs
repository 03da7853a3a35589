//! Every kind of service and of destination: made, found as it was made, changed in place and removed, as ipvsadm(8)
//! shows it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plimsoll::service::{
    Delivery, Destination, Destinations, Family, Forwarding, GueChecksum, Persistence,
    PersistenceEngine, Protocol, Scheduler, SchedulerFlag, Scheduling, Tunnel, VirtualService,
    Weight,
};

use super::lab::{Lab, in_namespace, sh};
use super::{expect_table, start};

/// A service and its destinations, with what ipvsadm(8) saves of each.
struct Kind {
    key: VirtualService,
    scheduling: Scheduling,
    saved: &'static str,
    destinations: Vec<(&'static str, Delivery, &'static str)>,
}

fn at(protocol: Protocol, address: &str, port: u16) -> VirtualService {
    VirtualService::Address {
        protocol,
        address: address.parse().unwrap(),
        port,
    }
}

fn mark(family: Family) -> VirtualService {
    VirtualService::Mark {
        mark: 7.try_into().unwrap(),
        family,
    }
}

fn flags(scheduler: Scheduler, flags: &[SchedulerFlag]) -> Scheduling {
    Scheduling {
        flags: flags.iter().copied().collect(),
        ..scheduler.into()
    }
}

fn persistent(scheduler: Scheduler, timeout: u32, prefix_length: Option<u8>) -> Scheduling {
    Scheduling {
        persistence: Some(Persistence {
            timeout,
            prefix_length,
            engine: None,
        }),
        ..scheduler.into()
    }
}

fn by(forwarding: Forwarding) -> Delivery {
    Delivery {
        forwarding,
        ..Delivery::default()
    }
}

const DIRECT: Forwarding = Forwarding::DirectRouting;
const MASQUERADING: Forwarding = Forwarding::Masquerading;
const IPIP: Forwarding = Forwarding::Tunnel(Tunnel::Ipip);

fn gue(port: u16, checksum: GueChecksum) -> Delivery {
    by(Forwarding::Tunnel(Tunnel::Gue { port, checksum }))
}

fn gre(checksum: bool) -> Delivery {
    by(Forwarding::Tunnel(Tunnel::Gre { checksum }))
}

fn before() -> Vec<Kind> {
    use Scheduler::{Lc, Mh, Rr, Sh, Wlc, Wrr};
    use SchedulerFlag::{Fallback, Port};
    vec![
        Kind {
            key: at(Protocol::Sctp, "192.0.2.1", 80),
            scheduling: Wlc.into(),
            saved: "--sctp-service 192.0.2.1:80 -s wlc",
            destinations: vec![("10.0.0.1:80", by(DIRECT), "-g")],
        },
        Kind {
            key: mark(Family::Ipv4),
            scheduling: Wrr.into(),
            saved: "-f 7 -s wrr",
            destinations: vec![
                ("10.0.0.1:0", by(DIRECT), "-g"),
                ("10.0.0.2:8080", by(MASQUERADING), "-m"),
            ],
        },
        Kind {
            key: mark(Family::Ipv6),
            scheduling: Wrr.into(),
            saved: "-f 7 -6 -s wrr",
            destinations: vec![("[2001:db8::1]:0", by(DIRECT), "-g")],
        },
        Kind {
            key: at(Protocol::Tcp, "192.0.2.2", 0),
            scheduling: persistent(Rr, 300, Some(24)),
            saved: "-t 192.0.2.2:0 -s rr -p 300 -M 255.255.255.0",
            destinations: vec![("10.0.0.1:0", by(DIRECT), "-g")],
        },
        Kind {
            key: at(Protocol::Tcp, "2001:db8::2", 0),
            scheduling: persistent(Rr, 300, Some(64)),
            saved: "-t [2001:db8::2]:0 -s rr -p 300 -M 64",
            destinations: vec![("[2001:db8::1]:0", by(DIRECT), "-g")],
        },
        Kind {
            key: at(Protocol::Udp, "192.0.2.3", 5060),
            scheduling: Scheduling {
                persistence: Some(Persistence {
                    timeout: 60,
                    prefix_length: None,
                    engine: Some(PersistenceEngine::Sip),
                }),
                ..Lc.into()
            },
            saved: "-u 192.0.2.3:5060 -s lc -p 60 --pe sip",
            destinations: vec![("10.0.0.1:5060", by(MASQUERADING), "-m")],
        },
        Kind {
            key: at(Protocol::Tcp, "192.0.2.4", 443),
            scheduling: flags(Sh, &[Fallback, Port]),
            saved: "-t 192.0.2.4:443 -s sh -b sh-fallback,sh-port",
            destinations: vec![
                ("10.0.0.1:20001", by(MASQUERADING), "-m"),
                ("10.0.0.1:20002", by(MASQUERADING), "-m"),
            ],
        },
        Kind {
            key: at(Protocol::Tcp, "2001:db8::4", 443),
            scheduling: flags(Mh, &[Port]),
            saved: "-t [2001:db8::4]:443 -s mh -b mh-port",
            destinations: vec![("[2001:db8::1]:20001", by(MASQUERADING), "-m")],
        },
        Kind {
            key: at(Protocol::Tcp, "192.0.2.5", 80),
            scheduling: Wrr.into(),
            saved: "-t 192.0.2.5:80 -s wrr",
            destinations: vec![
                ("10.0.0.1:80", by(IPIP), "-i --tun-type ipip"),
                (
                    "10.0.0.2:80",
                    gue(5555, GueChecksum::None),
                    "-i --tun-type gue --tun-port 5555 --tun-nocsum",
                ),
                (
                    "10.0.0.3:80",
                    gue(5556, GueChecksum::Udp),
                    "-i --tun-type gue --tun-port 5556 --tun-csum",
                ),
                (
                    "10.0.0.4:80",
                    gue(5557, GueChecksum::Remote),
                    "-i --tun-type gue --tun-port 5557 --tun-remcsum",
                ),
                ("10.0.0.5:80", gre(false), "-i --tun-type gre --tun-nocsum"),
                ("10.0.0.6:80", gre(true), "-i --tun-type gre --tun-csum"),
                ("[2001:db8::1]:80", by(IPIP), "-i --tun-type ipip"),
            ],
        },
        Kind {
            key: at(Protocol::Udp, "2001:db8::5", 53),
            scheduling: Wrr.into(),
            saved: "-u [2001:db8::5]:53 -s wrr",
            destinations: vec![("10.0.0.1:53", gre(true), "-i --tun-type gre --tun-csum")],
        },
        Kind {
            key: at(Protocol::Tcp, "192.0.2.6", 80),
            scheduling: Wrr.into(),
            saved: "-t 192.0.2.6:80 -s wrr",
            destinations: vec![(
                "10.0.0.1:80",
                Delivery {
                    upper: 100,
                    lower: 80,
                    ..Delivery::default()
                },
                "-g",
            )],
        },
    ]
}

/// The same services with everything about them changed.
fn after() -> Vec<Kind> {
    use Scheduler::{Mh, Rr, Sh, Wlc};
    use SchedulerFlag::Fallback;
    let mut kinds = before();
    let mut change = |n: usize, scheduling: Scheduling, saved, destinations| {
        let key = kinds[n].key;
        kinds[n] = Kind {
            key,
            scheduling,
            saved,
            destinations,
        };
    };
    let masqueraded = vec![("10.0.0.1:8080", by(MASQUERADING), "-m")];
    change(
        0,
        Rr.into(),
        "--sctp-service 192.0.2.1:80 -s rr",
        masqueraded,
    );
    let moved = vec![("10.0.0.2:8081", by(MASQUERADING), "-m")];
    change(1, persistent(Rr, 60, None), "-f 7 -s rr -p 60", moved);
    let tunnel = vec![("[2001:db8::1]:0", by(IPIP), "-i --tun-type ipip")];
    change(2, Wlc.into(), "-f 7 -6 -s wlc", tunnel);
    let direct = |to| vec![(to, by(DIRECT), "-g")];
    let prefix = persistent(Rr, 600, Some(16));
    let saved = "-t 192.0.2.2:0 -s rr -p 600 -M 255.255.0.0";
    change(3, prefix, saved, direct("10.0.0.1:0"));
    let whole = persistent(Rr, 300, None);
    let saved = "-t [2001:db8::2]:0 -s rr -p 300";
    change(4, whole, saved, direct("[2001:db8::1]:0"));
    change(
        5,
        Rr.into(),
        "-u 192.0.2.3:5060 -s rr",
        direct("10.0.0.1:5060"),
    );
    let saved = "-t 192.0.2.4:443 -s mh -b mh-fallback";
    change(6, flags(Mh, &[Fallback]), saved, direct("10.0.0.1:443"));
    let saved = "-t [2001:db8::4]:443 -s sh";
    change(7, Sh.into(), saved, direct("[2001:db8::1]:443"));
    // Each server by another way than before.
    let ways = vec![
        ("10.0.0.1:80", by(MASQUERADING), "-m"),
        ("10.0.0.2:80", by(DIRECT), "-g"),
        (
            "10.0.0.3:80",
            gue(6666, GueChecksum::None),
            "-i --tun-type gue --tun-port 6666 --tun-nocsum",
        ),
        ("10.0.0.4:80", by(IPIP), "-i --tun-type ipip"),
        ("10.0.0.5:80", gre(true), "-i --tun-type gre --tun-csum"),
        ("10.0.0.6:80", by(MASQUERADING), "-m"),
        (
            "[2001:db8::1]:80",
            gre(false),
            "-i --tun-type gre --tun-nocsum",
        ),
    ];
    change(8, Rr.into(), "-t 192.0.2.5:80 -s rr", ways);
    let own_family = direct("[2001:db8::1]:53");
    change(9, Rr.into(), "-u [2001:db8::5]:53 -s rr", own_family);
    let lower = Delivery {
        upper: 50,
        lower: 0,
        ..Delivery::default()
    };
    let thresholds = vec![("10.0.0.1:80", lower, "-g")];
    change(10, Rr.into(), "-t 192.0.2.6:80 -s rr", thresholds);
    kinds
}

impl Lab {
    fn put_kinds(&mut self, kinds: &[Kind]) {
        for (n, kind) in kinds.iter().enumerate() {
            let weight = Weight::new(5).unwrap();
            let destination = |(to, delivery, _): &(&str, Delivery, _)| {
                let delivery = *delivery;
                (to.parse().unwrap(), Destination { weight, delivery })
            };
            let wanted: Destinations = kind.destinations.iter().map(destination).collect();
            let name = format!("s{n}");
            self.put(&name, kind.key, &Arc::new(wanted));
            self.edit(&name, |config| config.scheduling = kind.scheduling.clone());
        }
    }
}

async fn expect_kinds(kinds: &[Kind], thresholds: &str) {
    let lines = kinds.iter().flat_map(|kind| {
        // `-t ADDRESS`, `--sctp-service ADDRESS`, `-f MARK`, `-f MARK -6`
        let (known_by, _) = kind.saved.split_once(" -s ").unwrap();
        let line = move |(to, _, words): &(&str, Delivery, &str)| match words.split_once(' ') {
            None => format!("-a {known_by} -r {to} {words} -w 5"),
            Some((way, tunnel)) => format!("-a {known_by} -r {to} {way} -w 5 {tunnel}"),
        };
        let service = format!("-A {}", kind.saved);
        std::iter::once(service).chain(kind.destinations.iter().map(line))
    });
    let lines: Vec<_> = lines.collect();
    expect_table(&lines.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let shown = sh("ipvsadm -Ln --thresholds");
    let set: BTreeSet<_> = shown
        .lines()
        .filter(|line| line.trim_start().starts_with("->"))
        .map(|line| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>())
        .map(|limits| limits.join(" "))
        .filter(|limits| limits.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    let expected = BTreeSet::from(["0 0".to_owned(), thresholds.to_owned()]);
    assert_eq!(set, expected, "{shown}");
}

#[test]
fn all_kinds_are_made_found_changed_in_place_and_removed() {
    in_namespace(async {
        let (before, after) = (before(), after());
        let mut lab = Lab::new();
        start(&mut lab).await;
        lab.put_kinds(&before);
        lab.publish();
        lab.expect_applied(before.len()).await;
        expect_kinds(&before, "100 80").await;
        // The rounds that follow find nothing to mend.
        lab.quiet(Duration::from_secs(5)).await;

        lab.stop().await;
        start(&mut lab).await;
        lab.expect_applied(before.len()).await;
        expect_kinds(&before, "100 80").await;
        lab.quiet(Duration::from_secs(3)).await;

        lab.put_kinds(&after);
        lab.publish();
        lab.expect_applied(after.len()).await;
        expect_kinds(&after, "50 0").await;
        lab.quiet(Duration::from_secs(5)).await;

        // And back, which finds destinations that were there before.
        lab.put_kinds(&before);
        lab.publish();
        lab.expect_applied(before.len()).await;
        expect_kinds(&before, "100 80").await;

        lab.snapshot.services.clear();
        lab.publish();
        expect_table(&[]).await;
        lab.quiet(Duration::from_secs(3)).await;
    });
}
