//! One story a behaviour.

use super::*;
use crate::routing::PeerId;
use crate::routing::session::{Session, SessionState};
use crate::snapshot::{Applied, Condition, ConfigFile, OnDisk, Source};

pub(super) fn four_up() -> Story {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story.list("text", servers(4));
    for i in 1..=4 {
        story.up("text", &format!("10.0.0.{i}"));
    }
    story
}

#[test]
fn four_servers_at_one_half_keep_the_last_two() {
    four_up()
        .down("text", "10.0.0.1")
        .down("text", "10.0.0.2")
        .check(
            "text",
            "10.0.0.1 enabled/down/not pooled
             10.0.0.2 enabled/down/not pooled
             10.0.0.3 enabled/up/pooled
             10.0.0.4 enabled/up/pooled",
        )
        .down("text", "10.0.0.3")
        .down("text", "10.0.0.4")
        .check(
            "text",
            "10.0.0.1 enabled/down/not pooled
             10.0.0.2 enabled/down/not pooled
             10.0.0.3 enabled/down/pooled (depool-threshold)
             10.0.0.4 enabled/down/pooled (depool-threshold)",
        );
}

#[test]
fn a_returning_server_lets_a_held_one_go() {
    let mut story = four_up();
    for i in 1..=4 {
        story.down("text", &format!("10.0.0.{i}"));
    }
    assert_eq!(story.service("text").condition, Condition::Failed);
    assert_eq!(story.service("text").counters.could_not_depool, 2);
    story.up("text", "10.0.0.1");
    assert_eq!(story.service("text").condition, Condition::Degraded);
    story.check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/down/pooled (depool-threshold)",
    );
    story.up("text", "10.0.0.2").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/down/not pooled",
    );
    assert_eq!(story.service("text").condition, Condition::Healthy);
}

#[test]
fn of_two_servers_at_one_half_the_second_stays() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story
        .list("text", servers(2))
        .up("text", "10.0.0.1")
        .up("text", "10.0.0.2");
    story
        .down("text", "10.0.0.1")
        .down("text", "10.0.0.2")
        .check(
            "text",
            "10.0.0.1 enabled/down/not pooled
         10.0.0.2 enabled/down/pooled (depool-threshold)",
        );
    story.up("text", "10.0.0.1").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled",
    );
}

#[test]
fn a_new_server_waits_for_its_first_check() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story
        .list("text", servers(1))
        .up("text", "10.0.0.1")
        .list("text", servers(2))
        .check(
            "text",
            "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled",
        );
    story.up("text", "10.0.0.2").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled",
    );
}

#[test]
fn one_monitor_of_two_is_partially_up() {
    let mut two = service("text", "192.0.2.1", 80);
    two.monitors = vec![monitor(1), monitor(2)];
    two.depool_threshold = Threshold::new(0.0).expect("in range");
    let mut story = Story::started(config([two]));
    story
        .list("text", servers(1))
        .up("text", "10.0.0.1")
        .check("text", "10.0.0.1 enabled/up/pooled");
    let check = *story
        .service("text")
        .checks
        .keys()
        .next()
        .expect("two monitors");
    let verdict = Verdict::Down("status 503, expected 200".into());
    story
        .event(Event::Checked {
            service: name("text"),
            check,
            verdict,
        })
        .check("text", "10.0.0.1 enabled/partially up/not pooled");
}

/// Neither is it waited for, nor does the server go for it; its result is there.
#[test]
fn a_monitor_that_depools_nobody() {
    let mut only_told = Monitor::clone(&monitor(2));
    only_told.depool = false;
    let mut two = service("text", "192.0.2.1", 80);
    two.monitors = vec![monitor(1), Arc::new(only_told)];
    two.depool_threshold = Threshold::new(0.0).expect("in range");
    let mut story = Story::started(config([two]));
    story.list("text", servers(1));
    let checks: Vec<_> = story.service("text").checks.keys().copied().collect();
    let mut say = |check, verdict| {
        story.event(Event::Checked {
            service: name("text"),
            check,
            verdict,
        });
        let service = story.service("text");
        let monitors = &service.servers["10.0.0.1"].monitors;
        let results = monitors
            .iter()
            .map(|m| m.result.as_ref().map(Result::is_ok));
        let text = service.servers["10.0.0.1"].to_string();
        (text, results.collect::<Vec<_>>())
    };
    let down = || Verdict::Down("refused".into());
    let (up, gone) = (
        "enabled/up/pooled".to_owned(),
        "enabled/down/not pooled".to_owned(),
    );
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(say(checks[0], Verdict::Up), (up.clone(), vec![yes, None]));
    assert_eq!(say(checks[1], down()), (up, vec![yes, no]));
    assert_eq!(say(checks[0], down()), (gone.clone(), vec![no, no]));
    assert_eq!(say(checks[1], Verdict::Up), (gone, vec![no, yes]));
}

#[test]
fn without_monitors_a_server_is_up() {
    let mut blind = service("text", "192.0.2.1", 80);
    blind.monitors.clear();
    Story::started(config([blind]))
        .list("text", servers(1))
        .check("text", "10.0.0.1 enabled/up/pooled");
}

pub(super) fn disabled(mut list: ServerList, hosts: &[u8]) -> ServerList {
    for i in hosts {
        list.insert(host(&format!("10.0.0.{i}")), listed(false));
    }
    list
}

#[test]
fn the_guard_holds_a_mass_depool_at_the_floor() {
    four_up()
        .list("text", disabled(servers(4), &[1, 2, 3, 4]))
        .check(
            "text",
            "10.0.0.1 disabled/up/pooled (depool-guard)
         10.0.0.2 disabled/up/pooled (depool-guard)
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 disabled/up/not pooled",
        );
}

#[test]
fn the_guard_goes_on_over_an_unrelated_change() {
    let mut story = four_up();
    let mut few = servers(1);
    story.list("text", few.clone()).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 disabled/up/pooled (depool-guard)",
    );
    few.insert(
        host("10.0.0.1"),
        Listed {
            enabled: true,
            weight: weight(20),
        },
    );
    story.list("text", few).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 disabled/up/pooled (depool-guard)",
    );
    story.list("text", servers(3)).up("text", "10.0.0.3").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled",
    );
}

#[test]
fn without_a_guard_a_depool_is_always_obeyed() {
    let mut text = service("text", "192.0.2.1", 80);
    text.depool_guard = DepoolGuard::Off;
    let mut story = Story::started(config([text]));
    story
        .list("text", servers(2))
        .up("text", "10.0.0.1")
        .up("text", "10.0.0.2");
    story.list("text", disabled(servers(2), &[1, 2])).check(
        "text",
        "10.0.0.1 disabled/up/not pooled
         10.0.0.2 disabled/up/not pooled",
    );
}

#[test]
fn the_guard_last_keeps_one() {
    let mut text = service("text", "192.0.2.1", 80);
    text.depool_guard = DepoolGuard::Last;
    let mut story = Story::started(config([text]));
    story.list("text", servers(3));
    for i in 1..=3 {
        story.up("text", &format!("10.0.0.{i}"));
    }
    story.list("text", disabled(servers(3), &[1, 2, 3])).check(
        "text",
        "10.0.0.1 disabled/up/pooled (depool-guard)
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/not pooled",
    );
}

#[test]
fn a_depooled_server_that_works_is_held_rather_than_a_broken_one_pooled() {
    let mut story = four_up();
    story.down("text", "10.0.0.1").down("text", "10.0.0.2");
    story.list("text", disabled(servers(4), &[3])).check(
        "text",
        "10.0.0.1 enabled/down/not pooled
         10.0.0.2 enabled/down/not pooled
         10.0.0.3 disabled/up/pooled (depool-guard)
         10.0.0.4 enabled/up/pooled",
    );
    // The line holds without it as soon as another works.
    story.up("text", "10.0.0.1").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 enabled/up/pooled",
    );
}

#[test]
fn a_failing_source_changes_nothing_but_is_shown() {
    let mut story = four_up();
    let before = story.service("text").servers.clone();
    let from = story.service("text").config.servers.clone();
    story.event(Event::SourceFailed {
        service: name("text"),
        from,
        fault: "empty".into(),
    });
    assert_eq!(story.service("text").servers, before);
    assert_eq!(story.service("text").source, Source::Failed("empty".into()));
    story.list("text", servers(4));
    assert_eq!(story.service("text").source, Source::Good);
}

#[test]
fn another_sources_last_word_is_ignored() {
    let mut story = four_up();
    let from = Servers::File("/pools/old.json".into());
    story.event(Event::List {
        service: name("text"),
        from,
        list: Arc::new(servers(1).into()),
    });
    assert_eq!(story.service("text").size, 4);
}

#[test]
fn names_are_resolved_and_keep_their_address_while_it_is_among_those_given() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story.list("text", [(host("cp1"), listed(true))].into());
    assert!(story.service("text").names.contains("cp1"));
    story.check("text", "cp1 enabled/down/not pooled");
    let resolve = |story: &mut Story, to: &[&str]| {
        let addresses = addresses(to).into_iter().collect();
        story.event(Event::Resolved {
            host: host("cp1"),
            family: crate::service::Family::Ipv4,
            addresses,
        });
        story.service("text").servers["cp1"]
            .address
            .map(|a| a.to_string())
    };
    assert_eq!(
        resolve(&mut story, &["10.0.0.7"]).as_deref(),
        Some("10.0.0.7")
    );
    story
        .up("text", "cp1")
        .check("text", "cp1 enabled/up/pooled");
    assert_eq!(
        resolve(&mut story, &["10.0.0.5", "10.0.0.7"]).as_deref(),
        Some("10.0.0.7")
    );
    story.event(Event::Unresolved {
        host: host("cp1"),
        family: crate::service::Family::Ipv4,
        fault: "no answer".into(),
    });
    story.check("text", "cp1 enabled/up/pooled");
    // Another address is another server: it is checked first, and held meanwhile as the only one.
    assert_eq!(
        resolve(&mut story, &["10.0.0.5"]).as_deref(),
        Some("10.0.0.5")
    );
    story.check("text", "cp1 enabled/down/pooled (depool-threshold)");
}

#[test]
fn a_verdict_on_the_old_address_is_ignored() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story.list("text", [(host("cp1"), listed(true))].into());
    let resolved = |address: &str| Event::Resolved {
        host: host("cp1"),
        family: crate::service::Family::Ipv4,
        addresses: addresses(&[address]).into_iter().collect(),
    };
    story.event(resolved("10.0.0.7"));
    let check = *story.service("text").checks.keys().next().expect("a check");
    story.event(resolved("10.0.0.8"));
    story.event(Event::Checked {
        service: name("text"),
        check,
        verdict: Verdict::Up,
    });
    story.check("text", "cp1 enabled/down/pooled (depool-threshold)");
}

#[test]
fn a_server_of_the_other_family_is_not_ready_and_says_why() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story.list(
        "text",
        [
            (host("2001:db8::5"), listed(true)),
            (host("10.0.0.1"), listed(true)),
        ]
        .into(),
    );
    let server = &story.service("text").servers["2001:db8::5"];
    assert_eq!(server.address, None);
    assert_eq!(
        server.unresolved.as_deref(),
        Some("2001:db8::5 is no IPv4 address")
    );
}

/// The kernel has this for the service when we come.
pub(super) fn found(story: &mut Story, hosts: &[&str]) {
    let key = story.service("text").key();
    let destinations = addresses(hosts)
        .into_iter()
        .map(|a| (backend(a), weight(10).into()))
        .collect();
    story.event(Event::Found([(key, destinations)].into()));
}

#[test]
fn a_start_over_a_serving_kernel_changes_nothing() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    assert!(
        story.service("text").destinations.is_none(),
        "nothing is known yet"
    );
    found(
        &mut story,
        &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"],
    );
    assert!(story.service("text").destinations.is_none(), "no list yet");
    story.list("text", servers(4)).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
    story.down("text", "10.0.0.2").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
}

#[test]
fn the_guard_holds_over_a_start_too() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    found(
        &mut story,
        &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"],
    );
    story.list("text", servers(1)).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 disabled/up/pooled (depool-guard)",
    );
}

#[test]
fn a_start_while_names_do_not_resolve_leaves_the_kernels_servers() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    story.list(
        "text",
        [(host("cp1"), listed(true)), (host("cp2"), listed(true))].into(),
    );
    found(&mut story, &["10.0.0.1", "10.0.0.2"]);
    story.check(
        "text",
        "10.0.0.1 disabled/up/pooled (names-unresolved)
         10.0.0.2 disabled/up/pooled (names-unresolved)
         cp1 enabled/down/not pooled
         cp2 enabled/down/not pooled",
    );
    let resolved = |name: &str, address: &str| Event::Resolved {
        host: host(name),
        family: crate::service::Family::Ipv4,
        addresses: addresses(&[address]).into_iter().collect(),
    };
    story.event(resolved("cp1", "10.0.0.1")).check(
        "text",
        "10.0.0.2 disabled/up/pooled (names-unresolved)
         cp1 enabled/up/pooled
         cp2 enabled/down/not pooled",
    );
    story.event(resolved("cp2", "10.0.0.3")).check(
        "text",
        "cp1 enabled/up/pooled
         cp2 enabled/down/not pooled",
    );
}

#[test]
fn a_removed_server_goes_though_another_name_does_not_resolve() {
    let mut story = four_up();
    let mut list = servers(3);
    list.insert(host("typo"), listed(true));
    story.list("text", list).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         typo enabled/down/not pooled",
    );
}

#[test]
fn an_address_is_announced_when_all_that_it_needs_is_there() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    story.check_vips("192.0.2.1: a service has no server list yet");
    found(&mut story, &[]);
    story
        .list("text", servers(2))
        .check_vips("192.0.2.1: not every server has been checked yet");
    story
        .up("text", "10.0.0.1")
        .apply()
        .check_vips("192.0.2.1: not every server has been checked yet");
    story
        .up("text", "10.0.0.2")
        .check_vips("192.0.2.1: the address is not on this host");
    let present = addresses(&["192.0.2.1"]);
    story.event(Event::Addresses {
        present,
        faults: BTreeMap::new(),
    });
    story.apply().check_vips("192.0.2.1 med 5");
    let key = story.service("text").key();
    let fault = "modprobe ip_vs_wrr".to_owned();
    story
        .event(Event::NotApplied {
            service: key,
            fault,
            holds: true,
        })
        .check_vips("192.0.2.1 med 5");
    assert!(matches!(
        story.service("text").applied,
        Applied::Failed { holds: true, .. }
    ));
    story
        .event(Event::NotApplied {
            service: key,
            fault: "gone".into(),
            holds: false,
        })
        .check_vips("192.0.2.1: the kernel does not hold a service of it");
    story.apply().check_vips("192.0.2.1 med 5");
    story
        .event(Event::Stop)
        .check_vips("192.0.2.1: the daemon is stopping");
}

/// As when the scheduler's module is missing at a start over a kernel that serves.
#[test]
fn what_the_kernel_serves_though_it_refuses_a_change_is_announced() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    found(&mut story, &["10.0.0.1"]);
    story.list("text", servers(1)).up("text", "10.0.0.1");
    let refused = |story: &Story, holds| Event::NotApplied {
        service: story.service("text").key(),
        fault: "modprobe ip_vs_mh".into(),
        holds,
    };
    story
        .event(refused(&story, false))
        .check_vips("192.0.2.1: the kernel does not hold a service of it");
    story
        .event(refused(&story, true))
        .check_vips("192.0.2.1 med 5");
}

#[test]
fn a_first_check_that_never_comes_is_waited_for_in_vain_for_a_while() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    story
        .list("text", servers(2))
        .up("text", "10.0.0.1")
        .apply();
    story
        .pass(Duration::from_secs(9))
        .check_vips("192.0.2.1: not every server has been checked yet");
    story
        .pass(Duration::from_secs(1))
        .check_vips("192.0.2.1 med 5");
}

#[test]
fn nothing_pooled_or_only_weight_zero_is_not_announced() {
    let mut text = service("text", "192.0.2.1", 80);
    text.depool_guard = DepoolGuard::Off;
    let mut story = Story::started(config([text]));
    story
        .list("text", servers(1))
        .up("text", "10.0.0.1")
        .apply()
        .check_vips("192.0.2.1 med 5");
    let drained = Listed {
        enabled: true,
        weight: weight(0),
    };
    story.list("text", [(host("10.0.0.1"), drained)].into());
    story.check_vips("192.0.2.1: a service has nothing pooled");
    story
        .list("text", disabled(servers(1), &[1]))
        .check_vips("192.0.2.1: a service has nothing pooled");
    // Back again: not before the kernel has it.
    story
        .list("text", servers(1))
        .apply()
        .check_vips("192.0.2.1 med 5");
}

#[test]
fn an_address_is_as_good_as_the_worst_of_its_services() {
    let services = [
        service("http", "192.0.2.1", 80),
        service("https", "192.0.2.1", 443),
    ];
    let mut story = Story::started(config(services));
    story
        .list("http", servers(1))
        .up("http", "10.0.0.1")
        .apply();
    story.check_vips("192.0.2.1: a service has no server list yet");
    story
        .list("https", servers(1))
        .up("https", "10.0.0.1")
        .apply()
        .check_vips("192.0.2.1 med 5");
    story.down("https", "10.0.0.1");
    assert_eq!(
        story
            .snapshot
            .vips
            .values()
            .map(|v| v.condition)
            .collect::<Vec<_>>(),
        [Condition::Failed]
    );
}

#[test]
fn a_removed_service_goes_after_its_address_is_withdrawn() {
    let keep = service("mail", "192.0.2.2", 25);
    let mut story = Story::started(config([service("text", "192.0.2.1", 80), keep.clone()]));
    story
        .list("text", servers(1))
        .up("text", "10.0.0.1")
        .apply();
    story.event(Event::Announced(addresses(&["192.0.2.1"])));
    let key = story.service("text").key();
    story.event(Event::Configured(Arc::new(config([keep.clone()]))));
    assert!(story.snapshot.retiring.contains_key(&key));
    story.check_vips(
        "192.0.2.1: its services are being removed
         192.0.2.2: a service has no server list yet",
    );
    story.event(Event::Announced(BTreeSet::new()));
    assert!(story.snapshot.retiring.is_empty());
    story.check_vips("192.0.2.2: a service has no server list yet");
}

#[test]
fn a_removed_service_does_not_wait_for_ever() {
    let keep = service("mail", "192.0.2.2", 25);
    let mut story = Story::started(config([service("text", "192.0.2.1", 80), keep.clone()]));
    story
        .list("text", servers(1))
        .up("text", "10.0.0.1")
        .apply();
    story.event(Event::Configured(Arc::new(config([keep]))));
    story.pass(Duration::from_secs(5));
    assert!(story.snapshot.retiring.is_empty());
}

#[test]
fn a_reload_leaves_alone_what_did_not_change() {
    let mut story = four_up();
    let before = story.service("text").clone();
    let services = [
        service("text", "192.0.2.1", 80),
        service("mail", "192.0.2.2", 25),
    ];
    story.event(Event::Configured(Arc::new(config(services.clone()))));
    assert!(Arc::ptr_eq(&before, story.service("text")));
    // A changed threshold: the same checks go on.
    let mut changed = services;
    changed[0].depool_threshold = Threshold::new(0.75).expect("in range");
    story.event(Event::Configured(Arc::new(config(changed))));
    assert!(Arc::ptr_eq(&before.checks, &story.service("text").checks));
    assert_eq!(story.service("text").floor, 3);
}

#[test]
fn a_changed_monitor_is_a_new_check_and_the_server_stays_up_meanwhile() {
    let mut story = four_up();
    let before: Vec<_> = story.service("text").checks.keys().copied().collect();
    let mut changed = service("text", "192.0.2.1", 80);
    changed.monitors = vec![monitor(7)];
    story.event(Event::Configured(Arc::new(config([changed]))));
    let after: Vec<_> = story.service("text").checks.keys().copied().collect();
    assert!(after.iter().all(|id| !before.contains(id)) && after.len() == 4);
    story.check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
}

#[test]
fn inline_servers_change_with_the_configuration() {
    let mut text = service("text", "192.0.2.1", 80);
    text.servers = Servers::Inline(Arc::new(servers(1)));
    let mut story = Story::started(config([text.clone()]));
    story
        .up("text", "10.0.0.1")
        .check("text", "10.0.0.1 enabled/up/pooled");
    text.servers = Servers::Inline(Arc::new(servers(2)));
    story
        .event(Event::Configured(Arc::new(config([text]))))
        .check(
            "text",
            "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled",
        );
}

#[test]
fn a_service_that_moves_to_another_port_starts_anew() {
    let mut story = four_up();
    story.apply();
    story.event(Event::Announced(addresses(&["192.0.2.1"])));
    story.event(Event::Configured(Arc::new(config([service(
        "text",
        "192.0.2.1",
        8080,
    )]))));
    assert_eq!(story.service("text").size, 0);
    assert_eq!(story.service("text").key().port(), Some(8080));
    story.check_vips("192.0.2.1: a service has no server list yet");
}

/// Announced, its servers up, and told to the peers.
pub(super) fn announced(services: impl IntoIterator<Item = Service>) -> Story {
    let mut story = Story::started(config(services));
    let names: Vec<String> = (story.snapshot.services.keys())
        .map(|name| name.as_str().to_owned())
        .collect();
    for name in &names {
        story.list(name, servers(2));
        story.up(name, "10.0.0.1").up(name, "10.0.0.2");
    }
    story.apply();
    let told = story.snapshot.vips.keys().copied().collect();
    story.event(Event::Announced(told));
    story
}

#[test]
fn a_renamed_service_goes_on() {
    let mut story = announced([service("text", "192.0.2.1", 80)]);
    story
        .down("text", "10.0.0.2")
        .apply()
        .check_vips("192.0.2.1 med 5");
    let before = story.service("text").clone();
    story.event(Event::Configured(Arc::new(config([service(
        "www",
        "192.0.2.1",
        80,
    )]))));
    story.check_vips("192.0.2.1 med 5");
    let states = "10.0.0.1 enabled/up/pooled
                  10.0.0.2 enabled/down/not pooled";
    story.check("www", states);
    assert_eq!(
        story.service("www").destinations.as_deref(),
        before.destinations.as_deref()
    );
    assert!(story.snapshot.retiring.is_empty());
    // Checks are told by the service's name: they are others now, and what they say counts.
    let old = &before.checks;
    assert!(
        (story.service("www").checks.iter())
            .all(|(id, check)| !old.contains_key(id) && check.service == name("www"))
    );
    // The sink tells what the kernel holds, as of a new service.
    let key = story.service("www").key();
    let held = before.destinations.as_deref().expect("known").clone();
    story.event(Event::Found([(key, held)].into()));
    story.check("www", states).check_vips("192.0.2.1 med 5");
    story.up("www", "10.0.0.2").check(
        "www",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled",
    );
}

#[test]
fn services_that_swap_their_ports_go_on() {
    let of = |http: &str, https: &str| {
        config([
            service(http, "192.0.2.1", 80),
            service(https, "192.0.2.1", 443),
        ])
    };
    let mut story = announced(of("a", "b").services.values().map(|s| Service::clone(s)));
    story.down("b", "10.0.0.2").apply();
    story.event(Event::Configured(Arc::new(of("b", "a"))));
    story.check_vips("192.0.2.1 med 5").check(
        "a",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/down/not pooled",
    );
    assert_eq!(story.service("a").source, Source::Waiting);
    story
        .list("a", servers(1))
        .list("b", servers(2))
        .check("a", "10.0.0.1 enabled/up/pooled");
    assert!(story.snapshot.retiring.is_empty());
}

#[test]
fn a_new_service_does_not_take_its_address_from_the_others() {
    let (http, https) = (
        service("http", "192.0.2.1", 80),
        service("https", "192.0.2.1", 443),
    );
    let mut story = announced([http.clone()]);
    let from = https.servers.clone();
    story.event(Event::Configured(Arc::new(config([
        http.clone(),
        https.clone(),
    ]))));
    story.check_vips("192.0.2.1 med 5");
    story.event(Event::SourceFailed {
        service: name("https"),
        from,
        fault: "no such file".into(),
    });
    // Not even if the address goes and comes back meanwhile.
    for present in [addresses(&[]), addresses(&["192.0.2.1"])] {
        let faults = BTreeMap::new();
        story.event(Event::Addresses { present, faults });
    }
    story.check_vips("192.0.2.1 med 5");
    // Once it has been ready it counts as much as any other.
    let key = story.service("https").key();
    story.event(Event::Found([(key, Destinations::new())].into()));
    story
        .list("https", servers(1))
        .up("https", "10.0.0.1")
        .apply()
        .check_vips("192.0.2.1 med 5");
    let fault = "gone".to_owned();
    story
        .event(Event::NotApplied {
            service: key,
            fault,
            holds: false,
        })
        .check_vips("192.0.2.1: the kernel does not hold a service of it");
}

#[test]
fn a_new_service_in_the_place_of_the_only_one_is_waited_for() {
    let mut story = announced([service("http", "192.0.2.1", 80)]);
    let other = service("other", "192.0.2.1", 8080);
    story.event(Event::Configured(Arc::new(config([other]))));
    story.check_vips("192.0.2.1: a service has no server list yet");
}

#[test]
fn a_service_that_came_back_and_goes_again_has_all_its_time() {
    let (mail, text) = (
        service("mail", "192.0.2.2", 25),
        service("text", "192.0.2.1", 80),
    );
    let both = || Arc::new(config([mail.clone(), text.clone()]));
    let alone = || Arc::new(config([mail.clone()]));
    let mut story = announced([mail.clone(), text.clone()]);
    story.event(Event::Configured(alone()));
    story.pass(Duration::from_secs(3));
    story.event(Event::Configured(both()));
    story.event(Event::Configured(alone()));
    story.pass(Duration::from_secs(3));
    assert_eq!(story.snapshot.retiring.len(), 1);
    story.pass(Duration::from_secs(2));
    assert!(story.snapshot.retiring.is_empty());
}

#[test]
fn a_server_of_the_other_family_holds_nobody() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    found(&mut story, &["10.0.0.1", "10.0.0.2", "10.0.0.9"]);
    let mut list = servers(2);
    list.insert(host("2001:db8::5"), listed(true));
    story.list("text", list).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         2001:db8::5 enabled/down/not pooled",
    );
}

#[test]
fn the_last_word_of_a_removed_peer_is_ignored() {
    let mut story = four_up();
    let address: IpAddr = "10.64.0.99".parse().expect("an address");
    story.event(Event::Peer {
        peer: address.into(),
        session: Session::default(),
    });
    assert!(story.snapshot.peers.is_empty());
}

#[test]
fn repairs_are_counted_and_the_last_ones_are_shown() {
    let mut story = Story::started(config([service("text", "192.0.2.1", 80)]));
    let key = story.snapshot.services["text"].key();
    let change = || "server 10.0.0.1:80: -w 1 -> -w 10".to_owned();
    story.event(Event::Repaired {
        service: key,
        change: change(),
    });
    for _ in 0..2 {
        story.event(Event::RepairedHost {
            part: "addresses",
            change: "192.0.2.1: gone -> on lo".into(),
        });
    }
    let repairs = &story.snapshot.repairs;
    assert_eq!(story.snapshot.services["text"].counters.repaired, 1);
    assert_eq!(repairs.host, BTreeMap::from([("addresses", 2)]));
    let shown = repairs.last.iter();
    let shown: Vec<_> = shown
        .map(|repair| (&*repair.object, &*repair.change))
        .collect();
    let address = ("addresses", "192.0.2.1: gone -> on lo");
    assert_eq!(shown, [("text", &*change()), address, address]);
}

#[test]
fn sessions_troubles_and_a_refused_reload_are_shown() {
    let peer = PeerId::Address([10, 64, 0, 1].into());
    let mut with_peer = config([service("text", "192.0.2.1", 80)]);
    if let Some(bgp) = &mut with_peer.bgp {
        let to = crate::config::Peer::new(peer.clone(), 14907);
        bgp.peers.insert(peer.clone(), to.into());
    }
    let mut story = Story::started(with_peer);
    let session = Session {
        state: SessionState::Active,
        fault: Some("connection refused".into()),
        ..Session::default()
    };
    story.event(Event::Peer {
        peer: peer.clone(),
        session: session.clone(),
    });
    story.event(Event::ReloadRefused("line 3".into()));
    let file = ConfigFile {
        path: "/etc/plimsoll/plimsoll.toml".into(),
        loaded: std::time::UNIX_EPOCH,
        on_disk: OnDisk::Bad("line 3".into()),
    };
    story.event(Event::ConfigFile(file.clone()));
    assert_eq!(story.snapshot.config_file.as_deref(), Some(&file));
    story.event(Event::Trouble {
        part: "state-directory",
        fault: Some("read-only".into()),
    });
    assert_eq!(story.snapshot.peers.get(&peer), Some(&session));
    assert_eq!(story.snapshot.reload_refused.as_deref(), Some("line 3"));
    assert_eq!(story.snapshot.troubles.len(), 1);
    story.event(Event::Trouble {
        part: "state-directory",
        fault: None,
    });
    let mut same = config([service("text", "192.0.2.1", 80)]);
    same.bgp = None;
    story.event(Event::Configured(Arc::new(same)));
    assert!(story.snapshot.reload_refused.is_none() && story.snapshot.troubles.is_empty());
    assert!(story.snapshot.peers.is_empty(), "no longer a peer");
    story.check_vips("192.0.2.1: no BGP is configured");
}

#[test]
fn a_server_that_takes_nothing_up_is_told_of_and_stays_pooled() {
    let mut story = four_up();
    let key = story.service("text").key();
    let say = |story: &mut Story, why: Option<&str>| {
        story.event(Event::Stuck {
            service: key,
            backend: "10.0.0.2:80".parse().unwrap(),
            why: why.map(str::to_owned),
        });
    };
    let stuck = |story: &Story| {
        let servers = &story.service("text").servers;
        let stuck = servers.iter().filter_map(|(host, server)| {
            let why = server.stuck.as_ref()?;
            Some(format!("{host}: {why}"))
        });
        stuck.collect::<Vec<_>>()
    };
    let before = story.service("text").clone();
    say(&mut story, Some("10 connections"));
    assert_eq!(stuck(&story), ["10.0.0.2: 10 connections"]);
    let after = story.service("text").clone();
    assert_eq!(before.destinations, after.destinations);
    assert!(Arc::ptr_eq(&before.traffic, &after.traffic));
    say(&mut story, None);
    assert_eq!(stuck(&story), [""; 0]);

    // On another port it is another destination.
    say(&mut story, Some("10 connections"));
    let mut moved = service("text", "192.0.2.1", 81);
    moved.monitors = story.service("text").config.monitors.clone();
    story.event(Event::Configured(Arc::new(config([moved]))));
    assert_eq!(stuck(&story), [""; 0]);
}
