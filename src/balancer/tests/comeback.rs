//! Servers that come and come back: what they are taken for at first, flap-hold, slow start.

use super::stories::disabled;
use super::*;
use crate::check::{FlapHold, Load, LoadFrom, LoadKind, Start};
use crate::snapshot::{Condition, KeptDown, Refusal, Scaled};

const SECOND: Duration = Duration::from_secs(1);

const FLAP_HOLD: FlapHold = FlapHold {
    transitions: 2,
    within: Duration::from_secs(60),
    hold: Duration::from_secs(100),
    longest: Duration::from_secs(300),
};

fn with(comeback: Comeback) -> Config {
    let mut text = service("text", "192.0.2.1", 80);
    text.comeback = comeback;
    config([text])
}

/// Four servers, all up, the kernel as it shall be.
fn four(comeback: Comeback) -> Story {
    let mut story = Story::started(with(comeback));
    story.list("text", servers(4));
    for i in 1..=4 {
        story.up("text", &format!("10.0.0.{i}"));
    }
    story.apply();
    story
}

fn flapping() -> Story {
    four(Comeback {
        flap_hold: Some(FLAP_HOLD),
        ..Comeback::default()
    })
}

fn slow(seconds: u64) -> Comeback {
    Comeback {
        slow_start: Some(SECOND * u32::try_from(seconds).expect("not long")),
        ..Comeback::default()
    }
}

impl Story {
    fn flap(&mut self, host: &str, times: u32) -> &mut Story {
        for _ in 0..times {
            self.down("text", host).up("text", host);
        }
        self
    }

    /// What IPVS shall have, by the last byte of the address: `1:10 2:10`.
    fn check_weights(&mut self, expected: &str) -> &mut Story {
        let destinations = self.service("text").destinations.clone();
        let weights: Vec<String> = destinations
            .iter()
            .flat_map(|all| all.iter())
            .map(|(backend, to)| {
                let address = backend.ip().to_string();
                let (_, last) = address.rsplit_once('.').expect("IPv4");
                format!("{last}:{}", to.weight)
            })
            .collect();
        assert_eq!(weights.join(" "), expected);
        self
    }

    fn kept_down(&self, host: &str) -> Option<Duration> {
        let server = &self.service("text").servers[host];
        let KeptDown::FlapHold { until } = server.kept_down?;
        Some(until - self.now)
    }
}

#[test]
fn a_server_that_flaps_stays_down_for_a_time_and_twice_as_long_the_next_time() {
    let mut story = flapping();
    story.flap("10.0.0.1", 1);
    assert_eq!(story.kept_down("10.0.0.1"), None);
    story.flap("10.0.0.1", 1).check(
        "text",
        "10.0.0.1 enabled/down/not pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
    let monitor = &story.service("text").servers["10.0.0.1"].monitors[0];
    assert_eq!(monitor.result, Some(Ok(())), "its check passes");
    assert_eq!(
        story.kept_down("10.0.0.1"),
        Some(SECOND * 100 - Duration::from_millis(1))
    );
    story.pass(SECOND * 99).check_weights("2:10 3:10 4:10");
    // It need not be told by anybody.
    assert_eq!(
        story.balancer.wake_at(),
        Some(story.now + SECOND - Duration::from_millis(1))
    );
    story.pass(SECOND).check_weights("1:10 2:10 3:10 4:10");
    assert_eq!(story.kept_down("10.0.0.1"), None);
    assert_eq!(story.balancer.wake_at(), None);
    for hold in [200, 300, 300] {
        story.flap("10.0.0.1", 2);
        let left = story.kept_down("10.0.0.1").expect("it is held");
        assert_eq!(left, SECOND * hold - Duration::from_millis(1));
        story.pass(left);
    }
    story.pass(SECOND * 300).flap("10.0.0.1", 2);
    let left = story.kept_down("10.0.0.1").expect("it is held");
    assert_eq!(
        left,
        SECOND * 100 - Duration::from_millis(1),
        "it begins anew"
    );
}

#[test]
fn at_the_end_of_its_hold_it_is_what_its_checks_say() {
    let mut story = flapping();
    story.flap("10.0.0.1", 2).down("text", "10.0.0.1");
    story.pass(SECOND * 100).check_weights("2:10 3:10 4:10");
    assert_eq!(story.kept_down("10.0.0.1"), None);
    story
        .up("text", "10.0.0.1")
        .check_weights("1:10 2:10 3:10 4:10");
}

#[test]
fn the_floor_holds_whom_a_flap_hold_keeps_down_and_rather_than_a_dead_one() {
    let mut story = flapping();
    story.down("text", "10.0.0.4").down("text", "10.0.0.3");
    story.flap("10.0.0.2", 2).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/pooled (depool-threshold)
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/down/not pooled",
    );
    story.flap("10.0.0.1", 2);
    assert_eq!(story.service("text").condition, Condition::Failed);
    story.check_weights("1:10 2:10").pass(SECOND * 100);
    assert_eq!(story.service("text").condition, Condition::Healthy);
}

#[test]
fn the_first_result_and_a_pass_in_time_are_no_flaps() {
    let mut story = Story::started(with(Comeback {
        start: Start::Up,
        flap_hold: Some(FLAP_HOLD),
        slow_start: None,
    }));
    story.list("text", servers(1)).flap("10.0.0.1", 2);
    assert_eq!(
        story.kept_down("10.0.0.1"),
        None,
        "the first one was no news of a flap"
    );
    story.pass(SECOND * 61).flap("10.0.0.1", 1);
    assert_eq!(story.kept_down("10.0.0.1"), None, "too long ago");
    story.flap("10.0.0.1", 1);
    assert!(story.kept_down("10.0.0.1").is_some());
}

#[test]
fn without_its_rule_a_hold_ends() {
    let mut story = flapping();
    story.flap("10.0.0.1", 2).check_weights("2:10 3:10 4:10");
    story
        .event(Event::Configured(Arc::new(with(Comeback::default()))))
        .check_weights("1:10 2:10 3:10 4:10")
        .flap("10.0.0.1", 5)
        .check_weights("1:10 2:10 3:10 4:10");
}

#[test]
fn a_server_that_comes_back_gets_its_weight_in_steps() {
    let mut story = four(slow(30));
    story.pass(SECOND * 30).check_weights("1:10 2:10 3:10 4:10");
    assert_eq!(story.balancer.wake_at(), None);
    story.down("text", "10.0.0.1").pass(SECOND * 7);
    story.up("text", "10.0.0.1");
    let mut weights = Vec::new();
    let begun = story.now;
    while let Some(due) = story.balancer.wake_at() {
        let view = story.service("text");
        let address = view.servers["10.0.0.1"].address.expect("a literal");
        let weight = view.destinations.as_ref().expect("known")[&backend(address)];
        weights.push(((story.now - begun).as_secs(), weight.weight.get()));
        story.pass(due - story.now);
    }
    let expected = [
        (0, 1),
        (6, 2),
        (9, 3),
        (12, 4),
        (15, 5),
        (18, 6),
        (21, 7),
        (24, 8),
        (27, 9),
    ];
    assert_eq!(weights, expected);
    story.check_weights("1:10 2:10 3:10 4:10");
    assert_eq!(story.now - begun, SECOND * 30);
}

#[test]
fn a_ramp_takes_the_lists_word() {
    let mut story = four(slow(10));
    story.pass(SECOND * 10).down("text", "10.0.0.1");
    story.up("text", "10.0.0.1").pass(SECOND * 5);
    story.check_weights("1:5 2:10 3:10 4:10");
    let mut list = servers(4);
    let of = |weight| Listed {
        enabled: true,
        weight,
    };
    list.insert(host("10.0.0.1"), of(weight(101)));
    story
        .list("text", list.clone())
        .check_weights("1:51 2:10 3:10 4:10");
    // A drain is one, and what it ends with is the ramp's, too.
    list.insert(host("10.0.0.1"), of(weight(0)));
    story
        .list("text", list.clone())
        .check_weights("1:0 2:10 3:10 4:10");
    list.insert(host("10.0.0.1"), of(weight(11)));
    story.list("text", list).check_weights("1:6 2:10 3:10 4:10");
    story.pass(SECOND * 5).check_weights("1:11 2:10 3:10 4:10");
}

#[test]
fn what_the_kernel_had_is_not_begun_anew() {
    let mut story = Story::new(with(slow(10)));
    let key = story.service("text").key();
    let found = addresses(&["10.0.0.1"]).into_iter();
    let found = found
        .map(|address| (backend(address), weight(10).into()))
        .collect();
    story
        .event(Event::Found([(key, found)].into()))
        .list("text", servers(2))
        .up("text", "10.0.0.1")
        .check_weights("1:10")
        .up("text", "10.0.0.2")
        .check_weights("1:10 2:1")
        .pass(SECOND * 10)
        .check_weights("1:10 2:10");
}

#[test]
fn a_pool_of_one_serves_from_its_first_moment() {
    let mut text = service("text", "192.0.2.1", 80);
    text.comeback = slow(10);
    text.depool_threshold = Threshold::new(0.0).expect("in range");
    let mut story = Story::started(config([text]));
    story.list("text", servers(1)).up("text", "10.0.0.1");
    story.check_weights("1:1").apply();
    story.check_vips("192.0.2.1 med 5");
    story.pass(SECOND * 10).check_weights("1:10");
}

/// A dead server that is held would else get more than one that lives.
#[test]
fn nobody_starts_slowly_beside_the_held() {
    let mut story = four(slow(10));
    for i in 1..=4 {
        story.down("text", &format!("10.0.0.{i}"));
    }
    story.check_weights("3:10 4:10").up("text", "10.0.0.1");
    story.check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/down/pooled (depool-threshold)",
    );
    story.check_weights("1:10 4:10");
    // Nobody is held any more, and the first one goes on as it is.
    story.up("text", "10.0.0.2").check_weights("1:10 2:1");
    // Whoever is on the way gets all of it when somebody is held.
    story.pass(SECOND * 5).check_weights("1:10 2:5");
    story.down("text", "10.0.0.1").check_weights("1:10 2:10");
}

#[test]
fn whom_the_guard_keeps_goes_on_as_before() {
    let mut story = four(slow(10));
    story.pass(SECOND * 10).down("text", "10.0.0.1");
    story.up("text", "10.0.0.1").pass(SECOND * 5);
    story.list("text", disabled(servers(4), &[1, 2, 3, 4]));
    story.check_weights("1:5 2:10");
    story.pass(SECOND * 5).check_weights("1:10 2:10");
}

#[test]
fn started_as_up_a_server_is_pooled_at_once_and_announced_when_it_was_checked() {
    let start = Comeback {
        start: Start::Up,
        ..Comeback::default()
    };
    let mut story = Story::started(with(start));
    let list = [(host("cp1"), listed(true)), (host("cp2"), listed(true))];
    story.list("text", list.into()).check(
        "text",
        "cp1 enabled/down/not pooled
         cp2 enabled/down/not pooled",
    );
    for (name, address) in [("cp1", "10.0.0.1"), ("cp2", "10.0.0.2")] {
        story.event(Event::Resolved {
            host: host(name),
            family: crate::service::Family::Ipv4,
            addresses: addresses(&[address]).into_iter().collect(),
        });
    }
    story.check_weights("1:10 2:10").apply();
    let refusal = Refusal::NotChecked;
    story.check_vips(&format!("192.0.2.1: {refusal}"));
    story.up("text", "cp1").down("text", "cp2").check(
        "text",
        "cp1 enabled/up/pooled
         cp2 enabled/down/not pooled",
    );
    story.apply().check_vips("192.0.2.1 med 5");
}

#[test]
fn started_as_down_the_kernels_servers_are_held_by_the_floor_alone() {
    let start = Comeback {
        start: Start::Down,
        ..Comeback::default()
    };
    let mut story = Story::new(with(start));
    let key = story.service("text").key();
    let found = addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).into_iter();
    let found = found
        .map(|address| (backend(address), weight(10).into()))
        .collect();
    story.event(Event::Found([(key, found)].into()));
    // Whose they are is not known yet: they serve.
    story.check(
        "text",
        "10.0.0.1 disabled/up/pooled (names-unresolved)
         10.0.0.2 disabled/up/pooled (names-unresolved)
         10.0.0.3 disabled/up/pooled (names-unresolved)",
    );
    story.list("text", servers(4)).check(
        "text",
        "10.0.0.1 enabled/down/pooled (depool-threshold)
         10.0.0.2 enabled/down/pooled (depool-threshold)
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/down/not pooled",
    );
    story.up("text", "10.0.0.4").up("text", "10.0.0.3").check(
        "text",
        "10.0.0.1 enabled/down/not pooled
         10.0.0.2 enabled/down/not pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
}

/// Two servers whose first monitor tells their load, and whose second one does not.
fn telling() -> Service {
    let load = Load {
        from: LoadFrom::Output,
        what: LoadKind::Weight,
        smoothing: 0,
        step: 100,
        least: 10,
        most: 200,
    };
    let tells = Monitor {
        load: Some(load),
        ..Monitor::clone(&monitor(1))
    };
    let mut text = service("text", "192.0.2.1", 80);
    text.monitors = vec![Arc::new(tells), monitor(2)];
    text
}

impl Story {
    fn load(&mut self, host: &str, percent: u32) -> &mut Story {
        let service = self.service("text");
        let tells = |check: &Check| check.host.as_str() == host && check.monitor.load.is_some();
        let checks = service.checks.iter();
        let mut checks = checks.filter(|(_, check)| tells(check)).map(|(id, _)| *id);
        let check = checks.next().expect("one of its monitors tells");
        self.event(Event::Load {
            service: name("text"),
            check,
            percent,
        })
    }
}

#[test]
fn a_weight_follows_its_servers_load() {
    let mut story = Story::started(config([telling()]));
    story.list("text", servers(2));
    // What it says before it is up counts from then on.
    story
        .load("10.0.0.1", 40)
        .up("text", "10.0.0.1")
        .up("text", "10.0.0.2");
    story.check_weights("1:4 2:10").load("10.0.0.2", 1);
    story.check_weights("1:4 2:1").load("10.0.0.2", 150);
    story.check_weights("1:4 2:15");
    let before = story.service("text").destinations.clone();
    story.load("10.0.0.1", 42);
    let after = story.service("text").destinations.clone();
    let same = before.zip(after).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b));
    assert!(
        same,
        "a load that changes no weight leaves the kernel alone"
    );
    let mut list = servers(2);
    for (host, listed) in &mut list {
        listed.weight = weight(if host.as_str() == "10.0.0.1" { 100 } else { 0 });
    }
    story.list("text", list).check_weights("1:42 2:0");
    story.load("10.0.0.2", 50).check_weights("1:42 2:0");
}

#[test]
fn a_load_of_a_server_that_is_held_waits() {
    let mut story = Story::started(config([telling()]));
    story.list("text", servers(2));
    story
        .load("10.0.0.1", 40)
        .up("text", "10.0.0.1")
        .up("text", "10.0.0.2");
    story.down("text", "10.0.0.2").down("text", "10.0.0.1");
    story.check_weights("1:10").load("10.0.0.1", 20);
    story.check_weights("1:10").up("text", "10.0.0.1");
    story.check_weights("1:2");
}

#[test]
fn slow_start_rises_to_what_the_load_leaves() {
    let mut text = telling();
    text.comeback = slow(10);
    let mut story = Story::started(config([text]));
    story.list("text", servers(4));
    for i in 1..=4 {
        story.up("text", &format!("10.0.0.{i}"));
    }
    story.pass(SECOND * 10).down("text", "10.0.0.1");
    story.load("10.0.0.1", 50).up("text", "10.0.0.1");
    story.check_weights("1:1 2:10 3:10 4:10").pass(SECOND * 5);
    story.check_weights("1:3 2:10 3:10 4:10");
    let server = &story.service("text").servers["10.0.0.1"];
    let (load, slow) = (
        Scaled::Load { percent: 50 },
        Scaled::SlowStart { percent: 50 },
    );
    assert_eq!(server.scaled, [load, slow]);
    story
        .load("10.0.0.1", 200)
        .check_weights("1:10 2:10 3:10 4:10");
    story.pass(SECOND * 5).check_weights("1:20 2:10 3:10 4:10");
}

/// It would else get all of its connections for a moment, just when it has too many.
#[test]
fn a_start_and_a_reload_leave_a_loaded_servers_weight() {
    let mut story = Story::new(config([telling()]));
    let key = story.service("text").key();
    let found = addresses(&["10.0.0.1"]).into_iter();
    let found = found
        .map(|address| (backend(address), weight(3).into()))
        .collect();
    story.event(Event::Found([(key, found)].into()));
    story.list("text", servers(1)).check_weights("1:3");
    story.up("text", "10.0.0.1").check_weights("1:3");
    story.load("10.0.0.1", 40).check_weights("1:4");
    let mut other = telling();
    let mut slower = Monitor::clone(&other.monitors[0]);
    slower.interval *= 2;
    other.monitors[0] = Arc::new(slower);
    story.event(Event::Configured(Arc::new(config([other.clone()]))));
    story
        .check_weights("1:4")
        .load("10.0.0.1", 60)
        .check_weights("1:6");
    // Nobody looks any more.
    other.monitors.remove(0);
    story.event(Event::Configured(Arc::new(config([other]))));
    story.check_weights("1:10");
}
