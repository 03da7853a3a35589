//! The address sink, read back with ip(8).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll::address;
use plimsoll::config::Config;
use plimsoll::event::Event;
use plimsoll::snapshot::{Condition, Refusal, Vip};
use tokio::time::Instant;

use super::lab::{Lab, in_namespace, sh, until};

fn vips(lab: &mut Lab, addresses: &[&str]) {
    let vip = Arc::new(Vip {
        services: BTreeSet::new(),
        present: false,
        fault: None,
        condition: Condition::Healthy,
        prefix: None,
        announce: Err(Refusal::NoBgp),
    });
    lab.snapshot.vips = addresses
        .iter()
        .map(|address| (address.parse::<IpAddr>().unwrap(), vip.clone()))
        .collect();
}

async fn start(lab: &mut Lab) {
    lab.start(address::run).await;
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect()
}

async fn report(lab: &mut Lab) -> (BTreeSet<IpAddr>, BTreeMap<IpAddr, String>) {
    match lab.event().await {
        Event::Addresses { present, faults } => (present, faults),
        other => panic!("{other:?}"),
    }
}

/// The address was put back, and this is counted and told.
async fn expect_repaired(lab: &mut Lab, vip: &str) {
    match lab.event().await {
        Event::RepairedHost { part, change } => {
            assert_eq!(
                (part, change),
                ("addresses", format!("{vip}: gone -> on lo"))
            );
        }
        other => panic!("{other:?}"),
    }
}

async fn expect(lab: &mut Lab, present: &[&str]) {
    assert_eq!(report(lab).await, (set(present), BTreeMap::new()));
}

/// The lines of `ip -o addr` for `lo` that have this address, without its index and name.
fn on_lo(address: &str) -> Vec<String> {
    let all = sh("ip -o address show dev lo");
    let lines = all
        .lines()
        .filter(|line| line.contains(&format!(" {address}/")));
    lines
        .map(|line| {
            line.split_whitespace()
                .skip(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

#[test]
fn puts_vips_on_lo_and_takes_them_away() {
    in_namespace(async {
        sh("ip address add 203.0.113.1/32 dev lo");
        sh("ip address add 2001:db8:f::1/128 dev lo");
        let mut lab = Lab::new();
        vips(&mut lab, &["192.0.2.1", "2001:db8::1"]);
        start(&mut lab).await;
        expect(&mut lab, &["192.0.2.1", "2001:db8::1"]).await;
        let [v4] = &on_lo("192.0.2.1")[..] else {
            panic!("{:?}", on_lo("192.0.2.1"))
        };
        assert!(
            v4.starts_with("inet 192.0.2.1/32 scope host") && v4.contains("lo:plimsoll"),
            "{v4}"
        );
        assert!(!v4.contains("brd"), "{v4}");
        let [v6] = &on_lo("2001:db8::1")[..] else {
            panic!("{:?}", on_lo("2001:db8::1"))
        };
        assert!(
            v6.starts_with("inet6 2001:db8::1/128 scope global") && v6.contains("deprecated"),
            "{v6}"
        );
        assert!(!v6.contains("tentative"), "{v6}");

        vips(&mut lab, &["2001:db8::1", "192.0.2.2"]);
        lab.publish();
        expect(&mut lab, &["192.0.2.2", "2001:db8::1"]).await;
        assert_eq!(on_lo("192.0.2.1"), Vec::<String>::new());

        // A stop leaves them, a start finds them, and those that nobody wants any more go.
        lab.stop().await;
        assert_eq!(on_lo("192.0.2.2").len(), 1);
        vips(&mut lab, &["192.0.2.3"]);
        start(&mut lab).await;
        expect(&mut lab, &["192.0.2.3"]).await;
        assert_eq!(on_lo("192.0.2.2"), Vec::<String>::new());
        assert_eq!(on_lo("2001:db8::1"), Vec::<String>::new());
        vips(&mut lab, &[]);
        lab.publish();
        expect(&mut lab, &[]).await;
        for foreign in ["127.0.0.1", "203.0.113.1", "2001:db8:f::1"] {
            assert_eq!(on_lo(foreign).len(), 1, "{foreign}");
        }
    });
}

#[test]
fn puts_back_at_once_what_someone_removed() {
    in_namespace(async {
        let mut lab = Lab::new();
        vips(&mut lab, &["192.0.2.1", "2001:db8::1"]);
        start(&mut lab).await;
        expect(&mut lab, &["192.0.2.1", "2001:db8::1"]).await;
        for (vip, length) in [("192.0.2.1", 32), ("2001:db8::1", 128), ("192.0.2.1", 32)] {
            sh(&format!("ip address del {vip}/{length} dev lo"));
            let removed = Instant::now();
            until("it is back", || on_lo(vip).len() == 1).await;
            assert!(
                removed.elapsed() < Duration::from_secs(1),
                "{vip}: {:?}",
                removed.elapsed()
            );
            expect_repaired(&mut lab, vip).await;
        }
        sh("ip address flush dev lo label lo:plimsoll");
        until("it is back", || on_lo("192.0.2.1").len() == 1).await;
        expect_repaired(&mut lab, "192.0.2.1").await;
        lab.quiet(Duration::from_secs(1)).await;
    });
}

#[test]
fn adopts_what_is_there() {
    in_namespace(async {
        sh("ip link add dummy0 type dummy");
        sh("ip link set dummy0 up");
        sh("ip address add 192.0.2.1/32 dev lo");
        sh("ip address add 192.0.2.2/24 dev dummy0");
        sh("ip address add 2001:db8::1/64 dev dummy0 nodad");
        let mut lab = Lab::new();
        vips(&mut lab, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        start(&mut lab).await;
        expect(&mut lab, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
        assert_eq!(on_lo("192.0.2.1").len(), 1);
        assert!(!on_lo("192.0.2.1")[0].contains("plimsoll"));
        assert_eq!(on_lo("192.0.2.2"), Vec::<String>::new());
        assert_eq!(on_lo("2001:db8::1"), Vec::<String>::new());

        // Theirs goes: ours comes.
        sh("ip address del 192.0.2.2/24 dev dummy0");
        until("ours is there", || on_lo("192.0.2.2").len() == 1).await;
        expect_repaired(&mut lab, "192.0.2.2").await;
        vips(&mut lab, &[]);
        lab.publish();
        expect(&mut lab, &[]).await;
        assert_eq!(on_lo("192.0.2.1").len(), 1, "theirs stays");
        assert_eq!(on_lo("192.0.2.2"), Vec::<String>::new());
        assert!(sh("ip -o address show dev dummy0").contains("2001:db8::1/64"));
    });
}

#[test]
fn only_looks_if_it_may_not_manage() {
    in_namespace(async {
        let mut lab = Lab::new();
        let mut config = Config::clone(&lab.snapshot.config);
        config.daemon.manage_addresses = false;
        let managed = std::mem::replace(&mut lab.snapshot.config, Arc::new(config));
        vips(&mut lab, &["192.0.2.1"]);
        start(&mut lab).await;
        let (present, faults) = report(&mut lab).await;
        assert_eq!((present, faults.len()), (BTreeSet::new(), 1), "{faults:?}");
        sh("ip address add 192.0.2.1/32 dev lo");
        expect(&mut lab, &["192.0.2.1"]).await;
        sh("ip address del 192.0.2.1/32 dev lo");
        assert_eq!(report(&mut lab).await.0, BTreeSet::new());
        // A reload may allow it.
        lab.snapshot.config = managed;
        lab.publish();
        expect(&mut lab, &["192.0.2.1"]).await;
        assert_eq!(on_lo("192.0.2.1").len(), 1);
    });
}

#[test]
fn goes_on_without_ipv6() {
    in_namespace(async {
        sh("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6");
        let mut lab = Lab::new();
        vips(&mut lab, &["192.0.2.1", "2001:db8::1"]);
        start(&mut lab).await;
        let (present, faults) = report(&mut lab).await;
        assert_eq!(present, set(&["192.0.2.1"]));
        assert!(
            faults[&"2001:db8::1".parse::<IpAddr>().unwrap()].starts_with("IPv6 is off"),
            "{faults:?}"
        );
        sh("echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6");
        expect(&mut lab, &["192.0.2.1", "2001:db8::1"]).await;
    });
}
