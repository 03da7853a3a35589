//! Stories of what the kernel knows servers by: ports of their own, ports that change, and the sorry server.

use super::*;
use crate::service::{Delivery, Family, Forwarding};

/// By masquerading, to port 8001 where a server names none.
fn masqueraded() -> Service {
    Service {
        delivery: Delivery {
            forwarding: Forwarding::Masquerading,
            ..Delivery::default()
        },
        server_port: 8001,
        depool_guard: DepoolGuard::Off,
        depool_threshold: Threshold::new(0.0).expect("a fraction"),
        ..service("text", "192.0.2.1", 80)
    }
}

fn hosts(hosts: &[&str]) -> ServerList {
    hosts
        .iter()
        .map(|name| (host(name), listed(true)))
        .collect()
}

fn resolved(name: &str, address: &str) -> Event {
    Event::Resolved {
        host: host(name),
        family: Family::Ipv4,
        addresses: addresses(&[address]).into_iter().collect(),
    }
}

fn found(story: &mut Story, backends: &[&str]) {
    let key = story.service("text").key();
    let at = |backend: &&str| (backend.parse().expect("it is good"), weight(10).into());
    let destinations = backends.iter().map(at).collect();
    story.event(Event::Found([(key, destinations)].into()));
}

impl Story {
    /// What IPVS shall hold: `10.0.0.1:8001 10, 10.0.0.2:8002 0`.
    fn check_kernel(&mut self, expected: &str) -> &mut Story {
        let wanted = self.service("text").destinations.as_ref().expect("known");
        let one = |(backend, to): (&SocketAddr, &Destination)| format!("{backend} {}", to.weight);
        let wanted: Vec<_> = wanted.iter().map(one).collect();
        assert_eq!(wanted.join(", "), expected);
        self
    }

    /// Where its checks go: `10.0.0.1:8001`.
    fn check_targets(&mut self, expected: &[&str]) -> &mut Story {
        let checks = self.service("text").checks.values();
        let targets: BTreeSet<_> = checks.map(|check| check.target.to_string()).collect();
        assert_eq!(targets.into_iter().collect::<Vec<_>>(), expected);
        self
    }
}

#[test]
fn one_name_may_be_two_servers_on_two_ports() {
    let mut story = Story::started(config([masqueraded()]));
    story.list("text", hosts(&["cp1:8001", "cp1:8002"]));
    let names = &story.service("text").names;
    assert_eq!(**names, BTreeSet::from([host("cp1")]), "asked for once");
    story
        .event(resolved("cp1", "10.0.0.1"))
        .check_targets(&["10.0.0.1:8001", "10.0.0.1:8002"])
        .up("text", "cp1:8001")
        .up("text", "cp1:8002")
        .check_kernel("10.0.0.1:8001 10, 10.0.0.1:8002 10")
        .down("text", "cp1:8001")
        .check(
            "text",
            "cp1:8001 enabled/down/not pooled
             cp1:8002 enabled/up/pooled",
        )
        .check_kernel("10.0.0.1:8002 10")
        // The machine moves, and both go with it.
        .event(resolved("cp1", "10.0.0.9"))
        .check_targets(&["10.0.0.9:8001", "10.0.0.9:8002"]);
}

#[test]
fn the_sorry_server_is_there_while_nobody_else_serves() {
    let text = Service {
        sorry: Some("10.0.0.99:8099".parse().expect("it is good")),
        ..masqueraded()
    };
    let mut story = Story::started(config([text]));
    story
        .list("text", servers(2))
        .check_kernel("10.0.0.99:8099 1")
        .up("text", "10.0.0.1")
        .check_kernel("10.0.0.1:8001 10")
        .down("text", "10.0.0.1")
        .check_kernel("10.0.0.99:8099 1");
    // Those that are drained keep what they have, and new clients find the sorry server.
    story.up("text", "10.0.0.1");
    let mut drained = servers(2);
    for listed in drained.values_mut() {
        listed.weight = weight(0);
    }
    story
        .list("text", drained)
        .check_kernel("10.0.0.1:8001 0, 10.0.0.99:8099 1")
        .list("text", servers(2))
        .check_kernel("10.0.0.1:8001 10");
}

#[test]
fn a_reload_moves_the_servers_to_another_port() {
    let mut story = Story::started(config([masqueraded()]));
    story.list("text", hosts(&["10.0.0.1", "10.0.0.2:8002"]));
    story
        .up("text", "10.0.0.1")
        .up("text", "10.0.0.2:8002")
        .check_kernel("10.0.0.1:8001 10, 10.0.0.2:8002 10");
    let moved = Service {
        server_port: 9001,
        ..masqueraded()
    };
    story
        .event(Event::Configured(Arc::new(config([moved]))))
        // Only who has no port of his own moves.
        .check_kernel("10.0.0.1:9001 10, 10.0.0.2:8002 10")
        .check_targets(&["10.0.0.1:9001", "10.0.0.2:8002"])
        .down("text", "10.0.0.1")
        .check_kernel("10.0.0.2:8002 10");
}

#[test]
fn what_the_kernel_has_on_other_ports_is_held_until_all_names_are_known() {
    let mut story = Story::new(config([masqueraded()]));
    found(
        &mut story,
        &["10.0.0.1:8001", "10.0.0.1:8002", "10.0.0.3:8003"],
    );
    story
        .list("text", hosts(&["cp1:8002", "cp3"]))
        .check_kernel("10.0.0.1:8001 10, 10.0.0.1:8002 10, 10.0.0.3:8003 10");
    story.event(resolved("cp1", "10.0.0.1")).check(
        "text",
        "10.0.0.1 disabled/up/pooled (names-unresolved)
         10.0.0.3:8003 disabled/up/pooled (names-unresolved)
         cp1:8002 enabled/up/pooled
         cp3 enabled/down/not pooled",
    );
    // It is on another port than the kernel's: not the server that the kernel has.
    story
        .event(resolved("cp3", "10.0.0.3"))
        .check_kernel("10.0.0.1:8002 10");
}

#[test]
fn by_direct_routing_what_the_kernel_has_on_other_ports_is_no_server() {
    let direct = Service {
        depool_guard: DepoolGuard::Off,
        ..service("text", "192.0.2.1", 80)
    };
    let mut story = Story::new(config([direct]));
    found(&mut story, &["10.0.0.1:80", "10.0.0.2:8080"]);
    story
        .list("text", hosts(&["cp1", "cp2"]))
        .check_kernel("10.0.0.1:80 10");
}
