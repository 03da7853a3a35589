//! Servers that their list depools and whose open connections go on for a while.

use super::stories::disabled;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Four servers, all up, the kernel as it shall be.
fn four(service: Service) -> Story {
    let name = service.name.to_string();
    let mut story = Story::started(config([service]));
    story.list(&name, servers(4));
    for i in 1..=4 {
        story.up(&name, &format!("10.0.0.{i}"));
    }
    story.apply();
    story
}

fn text() -> Service {
    Service {
        drain_timeout: TIMEOUT,
        depool_guard: DepoolGuard::Off,
        ..service("text", "192.0.2.1", 80)
    }
}

fn first() -> SocketAddr {
    "10.0.0.1:80".parse().expect("an address")
}

impl Story {
    /// Who drains, and for how many seconds more: `10.0.0.1 60`.
    fn check_draining(&mut self, expected: &str) -> &mut Story {
        let view = self.service("text").clone();
        let line = |(host, server): (&Host, &snapshot::Server)| {
            let rest = (server.draining?).duration_since(self.now);
            let rest = rest.as_secs_f64().round();
            Some(format!("{host} {rest}"))
        };
        let seen: Vec<_> = view.servers.iter().filter_map(line).collect();
        assert_eq!(seen.join(", "), expected);
        let backends = view.servers.values().filter(|s| s.draining.is_some());
        let backends = backends.filter_map(|s| Some(backend(s.address?))).collect();
        assert_eq!(*view.draining, backends);
        self
    }

    fn weight_of_first(&self) -> Option<u32> {
        let destinations = self.service("text").destinations.as_ref()?;
        Some(destinations.get(&first())?.weight.get())
    }

    fn drained(&mut self, backend: SocketAddr) -> &mut Story {
        let service = self.service("text").key();
        let backends = [backend].into();
        self.event(Event::Drained { service, backends })
    }
}

#[test]
fn until_its_last_connection_is_gone() {
    let mut story = four(text());
    story.list("text", disabled(servers(4), &[1]));
    story.check_draining("10.0.0.1 60");
    story.check(
        "text",
        "10.0.0.1 disabled/up/not pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
    assert_eq!(story.weight_of_first(), Some(0));
    story.drained("10.0.0.2:80".parse().expect("an address"));
    story.pass(20 * SECOND).check_draining("10.0.0.1 40");
    story.drained(first()).check_draining("");
    assert_eq!(story.weight_of_first(), None);
    // It was the same server's word, late.
    story.drained(first()).check_draining("");
}

#[test]
fn or_until_drain_timeout() {
    let mut story = four(text());
    // Off the list, it is still there.
    let mut three = servers(4);
    three.remove("10.0.0.1");
    story.list("text", three).check_draining("10.0.0.1 60");
    assert_eq!(story.weight_of_first(), Some(0));
    story.pass(TIMEOUT - SECOND).check_draining("10.0.0.1 1");
    let due = story.balancer.wake_at().expect("its end");
    story.pass(due - story.now).check_draining("");
    assert_eq!(story.weight_of_first(), None);
    assert!(!story.service("text").servers.contains_key("10.0.0.1"));
}

#[test]
fn a_repool_brings_its_weight_back_at_once() {
    let mut service = text();
    service.comeback.slow_start = Some(100 * SECOND);
    let mut story = four(service);
    story.pass(200 * SECOND);
    story.list("text", disabled(servers(4), &[1]));
    story.pass(30 * SECOND).check_draining("10.0.0.1 30");
    story.list("text", servers(4)).check_draining("");
    assert_eq!(story.weight_of_first(), Some(10));
    // Its next one has the whole time again.
    story.list("text", disabled(servers(4), &[1]));
    story.check_draining("10.0.0.1 60");
}

#[test]
fn not_of_one_that_fails() {
    let mut story = four(text());
    story.list("text", disabled(servers(4), &[1, 2]));
    story.check_draining("10.0.0.1 60, 10.0.0.2 60");
    story.down("text", "10.0.0.1");
    story.check_draining("10.0.0.2 60");
    assert_eq!(story.weight_of_first(), None);
    // Nor is it waited for if it comes back, or if it was down when it was taken out.
    story.up("text", "10.0.0.1").check_draining("10.0.0.2 60");
    story.down("text", "10.0.0.3");
    story.list("text", disabled(servers(4), &[1, 2, 3]));
    story.check_draining("10.0.0.2 60");
}

#[test]
fn not_of_udp_nor_without_a_timeout() {
    let mut udp = text();
    udp.key = VirtualService::Address {
        protocol: Protocol::Udp,
        address: udp.address,
        port: 80,
    };
    let none = Service {
        drain_timeout: Duration::ZERO,
        ..text()
    };
    for service in [udp, none.clone()] {
        let mut story = four(service);
        story.list("text", disabled(servers(4), &[1]));
        story.check_draining("");
        assert_eq!(story.weight_of_first(), None);
    }
    // A reload that sets it to 0 ends those that are under way.
    let mut story = four(text());
    story.list("text", disabled(servers(4), &[1]));
    story.check_draining("10.0.0.1 60");
    let event = Event::Configured(Arc::new(config([none])));
    story.event(event).check_draining("");
}

#[test]
fn whoever_is_held_by_the_guard_does_not_drain() {
    let mut story = four(Service {
        depool_guard: DepoolGuard::Floor,
        ..text()
    });
    story.list("text", disabled(servers(4), &[1, 2, 3]));
    story.check(
        "text",
        "10.0.0.1 disabled/up/pooled (depool-guard)
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 enabled/up/pooled",
    );
    story.check_draining("10.0.0.2 60, 10.0.0.3 60");
    assert_eq!(story.weight_of_first(), Some(10));
}
