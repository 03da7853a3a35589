//! The IPVS and the address sink against the real kernel, read back with ipvsadm(8) and ip(8), checks of the way
//! that IPVS's packets take, and real servers that take them out of tunnels.
//!
//! Needs root, a kernel with IPVS, ipvsadm, iproute2 and kmod, and fails without. Each test has a network namespace of its own, so nothing of
//! the machine is touched, but one unloads the module ip_vs: run it in user-mode-linux, with `--test-threads=1`.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test names the event that it expects; any other is wrong"
)]

#[path = "kernel/addresses.rs"]
mod addresses;
#[path = "kernel/connections.rs"]
mod connections;
#[path = "kernel/doctor.rs"]
mod doctor;
#[path = "kernel/draining.rs"]
mod draining;
#[path = "kernel/drift.rs"]
#[expect(
    clippy::disallowed_methods,
    reason = "the daemon has a clock of its own"
)]
mod drift;
#[path = "kernel/forwarding.rs"]
mod forwarding;
#[path = "kernel/kinds.rs"]
mod kinds;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "netns.rs"]
#[expect(dead_code, reason = "the tests of BGP use the rest of it")]
#[expect(clippy::disallowed_methods, reason = "what it waits for is no task's")]
mod netns;
#[path = "kernel/plan.rs"]
mod plan;
#[path = "kernel/realserver.rs"]
mod realserver;
#[path = "kernel/scheduling.rs"]
mod scheduling;
#[path = "kernel/stuck.rs"]
#[expect(
    clippy::disallowed_methods,
    reason = "the daemon has a clock of its own"
)]
mod stuck;
#[path = "kernel/sync.rs"]
mod sync;
#[path = "kernel/sysctl.rs"]
mod sysctl;
#[path = "kernel/traffic.rs"]
#[expect(
    clippy::disallowed_methods,
    reason = "the daemon has a clock of its own"
)]
mod traffic;
#[path = "kernel/vip.rs"]
#[expect(
    clippy::disallowed_methods,
    reason = "the daemon has a clock of its own"
)]
mod vip;

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll::event::Event;
use plimsoll::ipvs::{self, Kernel, Memory, Table};
use plimsoll::service::{Destinations, Protocol, Scheduler, VirtualService, Weight};
use tokio::time::Instant;

use lab::{Lab, expect_a_guest, in_namespace, key, pool, sh, unload_ipvs, until};

/// Starts the sink on the kernel's table; what it remembers is in the lab's directory.
async fn start(lab: &mut Lab) {
    let kernel = Kernel::connect().await.expect("a kernel with IPVS");
    let state = Some(lab.state.path().to_owned());
    lab.start(|snapshots, events| ipvs::run(Table::Kernel(kernel), state, snapshots, events))
        .await;
}

/// The table as ipvsadm(8) saves it: a line a service, a line a destination, in an order of its own.
fn table() -> Vec<String> {
    let mut lines: Vec<_> = sh("ipvsadm -Sn")
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    lines.sort();
    lines
}

/// Waits until the table is this one, in whatever order.
async fn expect_table(expected: &[&str]) {
    let mut expected: Vec<_> = expected.iter().map(|line| (*line).to_owned()).collect();
    expected.sort();
    let began = Instant::now();
    while table() != expected && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(table(), expected);
}

#[test]
fn programs_all_kinds_of_services() {
    in_namespace(async {
        let mut lab = Lab::new();
        start(&mut lab).await;
        lab.put(
            "web",
            key("192.0.2.1", 80),
            &pool(80, &[("10.0.0.1", 10), ("10.0.0.2", 0)]),
        );
        lab.put(
            "six",
            key("2001:db8::1", 443),
            &pool(443, &[("2001:db8:1::1", 2_147_483_646)]),
        );
        let dns = VirtualService::Address {
            protocol: Protocol::Udp,
            address: "2001:db8::1".parse().unwrap(),
            port: 53,
        };
        lab.put("dns", dns, &pool(53, &[("2001:db8:1::2", 1)]));
        lab.edit("dns", |config| {
            config.scheduling.one_packet = true;
            config.scheduling.scheduler = Scheduler::Sh;
        });
        let dns = VirtualService::Address {
            protocol: Protocol::Udp,
            address: "192.0.2.1".parse().unwrap(),
            port: 53,
        };
        lab.put("dns4", dns, &pool(80, &[]));
        lab.publish();
        let all = [
            "-A -t 192.0.2.1:80 -s wrr",
            "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 10",
            "-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 0",
            "-A -t [2001:db8::1]:443 -s wrr",
            "-a -t [2001:db8::1]:443 -r [2001:db8:1::1]:443 -g -w 2147483646",
            "-A -u [2001:db8::1]:53 -s sh -o",
            "-a -u [2001:db8::1]:53 -r [2001:db8:1::2]:53 -g -w 1",
            "-A -u 192.0.2.1:53 -s wrr",
        ];
        expect_table(&all).await;
        lab.expect_applied(4).await;

        // Weights, servers and settings change in place.
        lab.put(
            "web",
            key("192.0.2.1", 80),
            &pool(80, &[("10.0.0.2", 7), ("10.0.0.3", 1)]),
        );
        lab.edit("dns", |config| config.scheduling.scheduler = Scheduler::Rr);
        lab.publish();
        let mut changed = all.to_vec();
        changed[1] = "-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 7";
        changed[2] = "-a -t 192.0.2.1:80 -r 10.0.0.3:80 -g -w 1";
        changed[5] = "-A -u [2001:db8::1]:53 -s rr -o";
        expect_table(&changed).await;
        lab.expect_applied(2).await;
        lab.quiet(Duration::from_secs(3)).await;
    });
}

#[test]
fn a_server_on_this_very_host_is_an_ordinary_one() {
    in_namespace(async {
        sh("ip address add 10.0.0.1/32 dev lo");
        let mut lab = Lab::new();
        start(&mut lab).await;
        lab.put("web", key("192.0.2.1", 80), &pool(80, &[("10.0.0.1", 10)]));
        lab.publish();
        expect_table(&[
            "-A -t 192.0.2.1:80 -s wrr",
            "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 10",
        ])
        .await;
        lab.expect_applied(1).await;
        // It is not taken for somebody's change either.
        lab.quiet(Duration::from_secs(5)).await;
    });
}

#[test]
fn adopts_and_never_flushes() {
    in_namespace(async {
        // As keepalived or PyBal left it: connections counted, another scheduler, a NAT destination.
        sh("ip address add 192.0.2.1/32 dev lo");
        sh("ip address add 10.0.0.1/32 dev lo");
        sh("ipvsadm -A -t 192.0.2.1:80 -s rr -p 300");
        sh("ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3");
        sh("ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 3");
        sh("ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 0");
        let _server = std::net::TcpListener::bind("192.0.2.1:80").unwrap();
        for _ in 0..3 {
            let to = "192.0.2.1:80".parse().unwrap();
            let _ = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300));
        }
        let counted = || {
            sh("ipvsadm -Ln --stats --exact")
                .lines()
                .find(|l| l.contains("10.0.0.1:80"))
                .map(str::to_owned)
        };
        // The kernel adds them up every 2 s.
        until("connections are counted", || {
            counted().is_some_and(|line| line.split_whitespace().nth(2) == Some("3"))
        })
        .await;
        let before = counted();

        let mut lab = Lab::new();
        lab.wait("web", key("192.0.2.1", 80));
        start(&mut lab).await;
        match lab.event().await {
            Event::Found(found) => {
                let weight = |weight| Weight::new(weight).unwrap().into();
                let there = Destinations::from([
                    ("10.0.0.1:80".parse().unwrap(), weight(3)),
                    ("10.0.0.2:8080".parse().unwrap(), weight(0)),
                ]);
                assert_eq!(found, BTreeMap::from([(key("192.0.2.1", 80), there)]));
            }
            other => panic!("{other:?}"),
        }
        lab.quiet(Duration::from_secs(3)).await;
        assert_eq!(
            table().len(),
            3,
            "nothing is touched before the core knows its servers"
        );

        lab.put(
            "web",
            key("192.0.2.1", 80),
            &pool(80, &[("10.0.0.1", 10), ("10.0.0.2", 10)]),
        );
        lab.publish();
        expect_table(&[
            "-A -t 192.0.2.1:80 -s wrr",
            "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 10",
            "-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 10",
        ])
        .await;
        assert_eq!(counted(), before, "its counters were not reset");
        lab.stop().await;
        assert_eq!(table().len(), 3, "a stop leaves the table as it is");
    });
}

#[test]
fn mends_what_was_changed_by_hand() {
    in_namespace(async {
        sh("ipvsadm -A -f 7 -s rr");
        sh("ipvsadm -A -t 203.0.113.1:25 -s wlc");
        sh("ipvsadm -a -t 203.0.113.1:25 -r 10.0.0.9:25 -i -w 5");
        let mut lab = Lab::new();
        start(&mut lab).await;
        lab.put(
            "web",
            key("192.0.2.1", 80),
            &pool(80, &[("10.0.0.1", 10), ("10.0.0.2", 10)]),
        );
        lab.publish();
        lab.expect_applied(1).await;
        let right = table();
        assert_eq!(right.len(), 6);
        for by_hand in [
            "ipvsadm -D -t 192.0.2.1:80",
            "ipvsadm -d -t 192.0.2.1:80 -r 10.0.0.1:80",
            "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1",
            "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 10",
            "ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 10 -x 100 -y 10",
            "ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.3:80 -g -w 1",
            "ipvsadm -E -t 192.0.2.1:80 -s sh -b sh-port",
            "ipvsadm -E -t 192.0.2.1:80 -s wrr -p 60",
        ] {
            sh(by_hand);
            let done = Instant::now();
            match lab.event().await {
                Event::Repaired { service, .. } => {
                    assert_eq!(service, key("192.0.2.1", 80), "{by_hand}")
                }
                other => panic!("{other:?}"),
            }
            assert!(
                done.elapsed() < Duration::from_secs(5),
                "{by_hand}: {:?}",
                done.elapsed()
            );
            assert_eq!(table(), right, "{by_hand}");
            lab.expect_applied(1).await;
        }
        // What is foreign may change as it likes.
        sh("ipvsadm -D -f 7");
        sh("ipvsadm -e -t 203.0.113.1:25 -r 10.0.0.9:25 -i -w 6");
        lab.quiet(Duration::from_secs(4)).await;
        assert!(
            table().contains(
                &"-a -t 203.0.113.1:25 -r 10.0.0.9:25 -i -w 6 --tun-type ipip".to_owned()
            ),
            "{:?}",
            table()
        );
    });
}

#[test]
fn removes_only_its_own_also_after_a_restart() {
    in_namespace(async {
        sh("ipvsadm -A -t 203.0.113.1:25 -s rr");
        let mut lab = Lab::new();
        start(&mut lab).await;
        for (name, port) in [("a", 80), ("b", 81), ("c", 82)] {
            let wanted = pool(port, &[("10.0.0.1", 10)]);
            lab.put(name, key("192.0.2.1", port), &wanted);
        }
        lab.publish();
        lab.expect_applied(3).await;

        lab.snapshot.services.remove("a");
        lab.snapshot
            .retiring
            .insert(key("192.0.2.1", 80), "192.0.2.1".parse().unwrap());
        lab.publish();
        lab.quiet(Duration::from_secs(3)).await;
        assert_eq!(table().len(), 7, "it stays while its address is withdrawn");
        lab.snapshot.retiring.clear();
        lab.publish();
        until("the retired service goes", || table().len() == 5).await;

        lab.stop().await;
        lab.snapshot.services.remove("b");
        start(&mut lab).await;
        expect_table(&[
            "-A -t 203.0.113.1:25 -s rr",
            "-A -t 192.0.2.1:82 -s wrr",
            "-a -t 192.0.2.1:82 -r 10.0.0.1:82 -g -w 10",
        ])
        .await;
    });
}

#[test]
fn a_missing_scheduler_is_named_and_holds_up_nobody() {
    in_namespace(async {
        let mut lab = Lab::new();
        start(&mut lab).await;
        let wanted = |port| pool(port, &[("10.0.0.1", 10)]);
        // The one scheduler that user-mode-linux does not have.
        lab.put("bad", key("192.0.2.1", 80), &wanted(80));
        lab.edit("bad", |config| {
            config.scheduling.scheduler = Scheduler::Twos
        });
        lab.put("good", key("192.0.2.1", 81), &wanted(81));
        lab.publish();
        let (mut refused, mut applied) = (0, 0);
        while refused == 0 || applied == 0 {
            match lab.event().await {
                Event::NotApplied {
                    service,
                    fault,
                    holds,
                } => {
                    assert_eq!(service.port(), Some(80));
                    assert!(!holds);
                    assert!(
                        fault.contains("no scheduler twos: modprobe ip_vs_twos"),
                        "{fault}"
                    );
                    refused += 1;
                }
                Event::Applied { service, .. } => {
                    assert_eq!(service.port(), Some(81));
                    applied += 1;
                }
                Event::Found(_) => {}
                other => panic!("{other:?}"),
            }
        }
        // Said once, though it is tried again and again.
        lab.quiet(Duration::from_secs(2)).await;
        lab.edit("good", |config| {
            config.scheduling.scheduler = Scheduler::Twos
        });
        lab.publish();
        match lab.event().await {
            Event::NotApplied { service, holds, .. } => {
                assert!(service.port() == Some(81) && holds)
            }
            other => panic!("{other:?}"),
        }
        lab.edit("bad", |config| config.scheduling.scheduler = Scheduler::Rr);
        lab.edit("good", |config| config.scheduling.scheduler = Scheduler::Rr);
        lab.publish();
        lab.expect_applied(2).await;
        expect_table(&[
            "-A -t 192.0.2.1:80 -s rr",
            "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 10",
            "-A -t 192.0.2.1:81 -s rr",
            "-a -t 192.0.2.1:81 -r 10.0.0.1:81 -g -w 10",
        ])
        .await;
    });
}

#[test]
fn survives_the_module_being_unloaded() {
    expect_a_guest();
    in_namespace(async {
        let mut lab = Lab::new();
        start(&mut lab).await;
        lab.put("web", key("192.0.2.1", 80), &pool(80, &[("10.0.0.1", 10)]));
        lab.publish();
        lab.expect_applied(1).await;
        let right = table();

        // The sink's asking loads it again.
        until("ip_vs is unloaded", unload_ipvs).await;
        let event = lab.event().await;
        assert!(matches!(event, Event::Repaired { .. }), "{event:?}");
        lab.expect_applied(1).await;
        assert_eq!(table(), right);

        // Now it can't be loaded for a while.
        let modprobe = sh("cat /proc/sys/kernel/modprobe");
        sh("echo /bin/false > /proc/sys/kernel/modprobe");
        until("ip_vs is unloaded", unload_ipvs).await;
        match lab.event().await {
            Event::NotApplied { fault, holds, .. } => {
                assert!(fault.contains("no IPVS: modprobe ip_vs"), "{fault}");
                assert!(!holds);
            }
            other => panic!("{other:?}"),
        }
        lab.quiet(Duration::from_secs(2)).await;
        sh(&format!(
            "echo {} > /proc/sys/kernel/modprobe",
            modprobe.trim()
        ));
        let event = lab.event().await;
        assert!(matches!(event, Event::Repaired { .. }), "{event:?}");
        lab.expect_applied(1).await;
        assert_eq!(table(), right);
    });
}

#[test]
fn a_change_is_in_the_kernel_at_once() {
    in_namespace(async {
        let mut lab = Lab::new();
        start(&mut lab).await;
        let (full, less) = (
            pool(80, &[("10.0.0.1", 10), ("10.0.0.2", 10)]),
            pool(80, &[("10.0.0.2", 10)]),
        );
        for number in 0..200 {
            lab.put(
                &format!("s{number}"),
                key("192.0.2.1", 1000 + number),
                &full,
            );
        }
        let began = Instant::now();
        lab.publish();
        lab.expect_applied(200).await;
        println!("200 services: {:?}", began.elapsed());
        let mut times = Vec::new();
        for turn in 0..21 {
            let wanted = if turn % 2 == 0 { &less } else { &full };
            let began = Instant::now();
            lab.put("s7", key("192.0.2.1", 1007), wanted);
            lab.publish();
            lab.expect_applied(1).await;
            times.push(began.elapsed());
        }
        times.sort();
        println!(
            "one of 200: median {:?}, longest {:?}",
            times[10], times[20]
        );
        // Far from what it takes, which is a tenth of it in user-mode-linux: other work on the machine is no failure.
        assert!(times[10] < Duration::from_millis(20), "{times:?}");
    });
}

#[test]
fn the_table_in_memory_answers_as_the_kernels() {
    in_namespace(async {
        let mut lab = Lab::new();
        lab.put("web", key("192.0.2.1", 80), &pool(80, &[("10.0.0.1", 10)]));
        lab.start(|snapshots, events| {
            ipvs::run(Table::Memory(Memory::default()), None, snapshots, events)
        })
        .await;
        lab.expect_applied(1).await;
        assert_eq!(
            table(),
            Vec::<String>::new(),
            "the kernel has nothing of it"
        );
        assert!(!lab.state.path().join("owned-services.json").exists());
    });
}
