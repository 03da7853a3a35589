//! Stories of lists: what is confirmed, what comes late, at once or from our own disk, what drains, and as
//! of which revision the kernel is.

use super::stories::{disabled, found, four_up};
use super::*;
use crate::service::{Freshness, Note};
use crate::snapshot::{Guard, Source};

fn text_with(guard: DepoolGuard) -> Service {
    let mut text = service("text", "192.0.2.1", 80);
    text.depool_guard = guard;
    text
}

/// Four servers, all up, under this guard.
fn four_under(guard: DepoolGuard) -> Story {
    let mut story = Story::started(config([text_with(guard)]));
    story.list("text", servers(4));
    for i in 1..=4 {
        story.up("text", &format!("10.0.0.{i}"));
    }
    story
}

fn drained(mut list: ServerList, hosts: &[u8]) -> ServerList {
    for i in hosts {
        let (enabled, weight) = (true, weight(0));
        list.insert(host(&format!("10.0.0.{i}")), Listed { enabled, weight });
    }
    list
}

/// The list with the operator's confirmation for some of its hosts, or of those that are no longer in it.
fn confirmed(list: ServerList, hosts: &[u8]) -> Listing {
    let note = Note {
        reason: Some("T1".into()),
        until: None,
        confirmed: true,
    };
    let notes = hosts
        .iter()
        .map(|i| (host(&format!("10.0.0.{i}")), note.clone()));
    Listing {
        notes: notes.collect(),
        ..Listing::from(list)
    }
}

fn caught_up(list: ServerList) -> Listing {
    Listing {
        freshness: Freshness::CatchUp,
        ..Listing::from(list)
    }
}

fn saved(list: ServerList) -> Listing {
    let age = Duration::from_secs(3600);
    Listing {
        freshness: Freshness::Saved { age },
        ..Listing::from(list)
    }
}

fn at(revision: u64, list: ServerList) -> Listing {
    Listing {
        revision: Some(revision),
        ..Listing::from(list)
    }
}

/// What IPVS shall hold: `10.0.0.1 10, 10.0.0.2 0`.
fn weights(story: &Story) -> String {
    let wanted = story.service("text").destinations.as_ref().expect("known");
    let one =
        |(backend, to): (&SocketAddr, &Destination)| format!("{} {}", backend.ip(), to.weight);
    wanted.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The revision of the list in force, and the last that the kernel has.
fn revisions(story: &Story) -> (Option<u64>, Option<u64>) {
    let service = story.service("text");
    (service.revision, service.applied_revision)
}

const HELD_LATE: &str = "10.0.0.1 disabled/up/pooled (stale-catch-up)
                         10.0.0.2 disabled/up/pooled (stale-catch-up)
                         10.0.0.3 disabled/up/not pooled
                         10.0.0.4 disabled/up/not pooled";
const GONE: &str = "10.0.0.1 disabled/up/not pooled
                    10.0.0.2 disabled/up/not pooled
                    10.0.0.3 disabled/up/not pooled
                    10.0.0.4 disabled/up/not pooled";

#[test]
fn what_comes_late_is_held_at_the_floor_by_any_guard() {
    for guard in [DepoolGuard::Last, DepoolGuard::Floor] {
        let mut story = four_under(guard);
        story
            .listing("text", caught_up(disabled(servers(4), &[1, 2, 3, 4])))
            .check("text", HELD_LATE);
        let line = Some(Guard { size: 4, line: 2 });
        assert_eq!(story.service("text").guard, line);
    }
    four_under(DepoolGuard::Off)
        .listing("text", caught_up(disabled(servers(4), &[1, 2, 3, 4])))
        .check("text", GONE);
}

#[test]
fn what_comes_late_is_not_held_if_it_leaves_enough() {
    for guard in [DepoolGuard::Last, DepoolGuard::Floor, DepoolGuard::Off] {
        four_under(guard)
            .listing("text", caught_up(disabled(servers(4), &[1, 2])))
            .check(
                "text",
                "10.0.0.1 disabled/up/not pooled
                 10.0.0.2 disabled/up/not pooled
                 10.0.0.3 enabled/up/pooled
                 10.0.0.4 enabled/up/pooled",
            );
    }
}

#[test]
fn a_catch_up_is_over_when_the_list_changes_again() {
    let mut story = four_under(DepoolGuard::Last);
    let late = disabled(servers(4), &[1, 2, 3, 4]);
    story.listing("text", caught_up(late.clone()));
    // The source was away for a moment and says the same again: nobody has confirmed anything.
    story.list("text", late.clone()).check("text", HELD_LATE);
    let mut changed = late;
    changed.insert(host("10.0.0.5"), listed(false));
    story.list("text", changed.clone()).check(
        "text",
        "10.0.0.1 disabled/up/pooled (depool-guard)
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 disabled/up/not pooled
         10.0.0.5 disabled/down/not pooled",
    );
    // Under `floor` the line is the same, and only what it is said to be held for changes.
    let mut story = four_under(DepoolGuard::Floor);
    story
        .listing("text", caught_up(disabled(servers(4), &[1, 2, 3, 4])))
        .list("text", changed)
        .check(
            "text",
            "10.0.0.1 disabled/up/pooled (depool-guard)
             10.0.0.2 disabled/up/pooled (depool-guard)
             10.0.0.3 disabled/up/not pooled
             10.0.0.4 disabled/up/not pooled
             10.0.0.5 disabled/down/not pooled",
        );
}

#[test]
fn a_catch_up_that_is_taken_back_changes_nothing() {
    let mut story = four_under(DepoolGuard::Last);
    story
        .listing("text", caught_up(disabled(servers(4), &[1, 2, 3])))
        .list("text", servers(4));
    assert_eq!(
        weights(&story),
        "10.0.0.1 10, 10.0.0.2 10, 10.0.0.3 10, 10.0.0.4 10"
    );
    assert_eq!(story.service("text").guard, None);
}

/// `last` asks for one server even where the threshold asks for none.
#[test]
fn what_comes_late_is_never_taken_with_less_care() {
    let mut text = text_with(DepoolGuard::Last);
    text.depool_threshold = Threshold::new(0.0).expect("in range");
    let mut story = Story::started(config([text]));
    story.list("text", servers(1)).up("text", "10.0.0.1");
    story
        .listing("text", caught_up(disabled(servers(1), &[1])))
        .check("text", "10.0.0.1 disabled/up/pooled (stale-catch-up)");
}

#[test]
fn a_catch_up_at_a_start_is_measured_by_what_the_kernel_has() {
    let mut story = Story::new(config([text_with(DepoolGuard::Last)]));
    found(
        &mut story,
        &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"],
    );
    story
        .listing("text", caught_up(disabled(servers(4), &[1, 2, 3, 4])))
        .check("text", HELD_LATE);
}

/// The kernel has three of the six that were listed when we ended; the list that comes now has one.
#[test]
fn a_catch_up_at_a_start_is_measured_by_what_was_saved_too() {
    let mut story = Story::new(config([text_with(DepoolGuard::Last)]));
    found(&mut story, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let both = [saved(servers(6)), caught_up(servers(1))];
    let both = both.map(|listing| story.list_event("text", listing));
    story.event(Event::Together(both.into()));
    let guard = story.service("text").guard;
    assert_eq!(guard, Some(Guard { size: 6, line: 3 }));
    assert_eq!(weights(&story), "10.0.0.1 10, 10.0.0.2 10, 10.0.0.3 10");
}

#[test]
fn a_catch_up_ends_with_its_source() {
    let mut story = four_under(DepoolGuard::Last);
    let late = disabled(servers(4), &[1, 2, 3, 4]);
    story.listing("text", caught_up(late.clone()));
    let mut elsewhere = text_with(DepoolGuard::Last);
    elsewhere.servers = Servers::File("/pools/elsewhere.json".into());
    // Until the new source has spoken nothing is let go.
    story
        .event(Event::Configured(Arc::new(config([elsewhere]))))
        .check("text", HELD_LATE);
    story.list("text", late).check(
        "text",
        "10.0.0.1 disabled/up/pooled (depool-guard)
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 disabled/up/not pooled",
    );
}

#[test]
fn a_reload_that_lifts_the_guard_lets_go_what_came_late() {
    let mut story = four_under(DepoolGuard::Floor);
    story.listing("text", caught_up(disabled(servers(4), &[1, 2, 3, 4])));
    let off = config([text_with(DepoolGuard::Off)]);
    story
        .event(Event::Configured(Arc::new(off)))
        .check("text", GONE);
}

#[test]
fn a_confirmed_depool_passes_the_guard_and_no_other() {
    four_up()
        .listing(
            "text",
            confirmed(disabled(servers(4), &[1, 2, 3, 4]), &[1, 2, 3]),
        )
        .check(
            "text",
            "10.0.0.1 disabled/up/not pooled
             10.0.0.2 disabled/up/not pooled
             10.0.0.3 disabled/up/not pooled
             10.0.0.4 disabled/up/pooled (depool-guard)",
        );
}

#[test]
fn a_confirmed_removal_passes_the_guard_and_no_other() {
    let mut few = servers(4);
    for i in 1..=3 {
        few.remove(&host(&format!("10.0.0.{i}")));
    }
    four_up().listing("text", confirmed(few, &[1, 2])).check(
        "text",
        "10.0.0.3 disabled/up/pooled (depool-guard)
             10.0.0.4 enabled/up/pooled",
    );
}

#[test]
fn whoever_is_held_goes_when_it_is_confirmed() {
    for late in [false, true] {
        let mut story = four_up();
        let all = disabled(servers(4), &[1, 2, 3, 4]);
        let mut first = Listing::from(all.clone());
        if late {
            first.freshness = Freshness::CatchUp;
        }
        let why = if late {
            "stale-catch-up"
        } else {
            "depool-guard"
        };
        story.listing("text", first);
        story
            .listing("text", confirmed(all.clone(), &[1]))
            .check(
                "text",
                &format!(
                    "10.0.0.1 disabled/up/not pooled
                     10.0.0.2 disabled/up/pooled ({why})
                     10.0.0.3 disabled/up/not pooled
                     10.0.0.4 disabled/up/not pooled"
                ),
            )
            .listing("text", confirmed(all, &[1, 2]))
            .check("text", GONE);
    }
}

#[test]
fn what_the_operator_said_is_shown_while_it_stands() {
    let mut story = four_up();
    story.listing("text", confirmed(disabled(servers(4), &[1]), &[1]));
    let note = |story: &Story| story.service("text").servers["10.0.0.1"].note.clone();
    let reason = |note: Arc<Note>| note.reason.clone();
    assert_eq!(note(&story).and_then(reason).as_deref(), Some("T1"));
    story.list("text", servers(4));
    assert_eq!(note(&story), None);
}

#[test]
fn draining_a_server_keeps_it_in_ipvs() {
    let mut story = four_up();
    story.list("text", drained(servers(4), &[1, 2])).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
    assert_eq!(
        weights(&story),
        "10.0.0.1 0, 10.0.0.2 0, 10.0.0.3 10, 10.0.0.4 10"
    );
}

#[test]
fn the_guard_holds_a_mass_drain_at_the_floor() {
    let mut story = four_up();
    story.apply().check_vips("192.0.2.1 med 5");
    let all = drained(servers(4), &[1, 2, 3, 4]);
    story.list("text", all.clone()).check(
        "text",
        "10.0.0.1 enabled/up/pooled (depool-guard)
         10.0.0.2 enabled/up/pooled (depool-guard)
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
    assert_eq!(
        weights(&story),
        "10.0.0.1 10, 10.0.0.2 10, 10.0.0.3 0, 10.0.0.4 0"
    );
    story.check_vips("192.0.2.1 med 5");
    story.listing("text", confirmed(all, &[1, 2, 3, 4]));
    assert_eq!(
        weights(&story),
        "10.0.0.1 0, 10.0.0.2 0, 10.0.0.3 0, 10.0.0.4 0"
    );
    story.check_vips("192.0.2.1: a service has nothing pooled");
}

#[test]
fn the_other_guards_hold_a_mass_drain_too() {
    let mut last = four_under(DepoolGuard::Last);
    last.list("text", drained(servers(4), &[1, 2, 3, 4]));
    let one = "10.0.0.1 10, 10.0.0.2 0, 10.0.0.3 0, 10.0.0.4 0";
    assert_eq!(weights(&last), one);
    let mut late = four_under(DepoolGuard::Last);
    late.listing("text", caught_up(drained(servers(4), &[1, 2, 3, 4])));
    let two = "10.0.0.1 10, 10.0.0.2 10, 10.0.0.3 0, 10.0.0.4 0";
    assert_eq!(weights(&late), two);
    let mut off = four_under(DepoolGuard::Off);
    off.list("text", drained(servers(4), &[1, 2, 3, 4]));
    let none = "10.0.0.1 0, 10.0.0.2 0, 10.0.0.3 0, 10.0.0.4 0";
    assert_eq!(weights(&off), none);
}

/// Two drain already; the others may not go as if those two served.
#[test]
fn drained_servers_do_not_count_for_the_guard() {
    let mut story = four_up();
    story.list("text", drained(servers(4), &[1, 2]));
    let list = disabled(drained(servers(4), &[1, 2]), &[3, 4]);
    story.list("text", list.clone()).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 disabled/up/pooled (depool-guard)
         10.0.0.4 disabled/up/pooled (depool-guard)",
    );
    // And they themselves may go at any time: that is what they were drained for.
    story.list("text", disabled(list, &[1, 2])).check(
        "text",
        "10.0.0.1 disabled/up/not pooled
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/pooled (depool-guard)
         10.0.0.4 disabled/up/pooled (depool-guard)",
    );
}

/// As conftool's `inactive` servers come back: depooled and with weight 0.
#[test]
fn whoever_the_guard_holds_keeps_its_weight() {
    let mut story = four_up();
    let mut all = servers(4);
    for listed in all.values_mut() {
        *listed = Listed {
            enabled: false,
            weight: weight(0),
        };
    }
    story.list("text", all);
    assert_eq!(weights(&story), "10.0.0.1 10, 10.0.0.2 10");
}

#[test]
fn a_drain_that_is_held_is_done_as_soon_as_others_serve() {
    let mut story = four_up();
    story.down("text", "10.0.0.3").down("text", "10.0.0.4");
    let list = drained(servers(4), &[1]);
    story.list("text", list).check(
        "text",
        "10.0.0.1 enabled/up/pooled (depool-guard)
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/down/not pooled",
    );
    story.up("text", "10.0.0.4").check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/down/not pooled
         10.0.0.4 enabled/up/pooled",
    );
    assert_eq!(weights(&story), "10.0.0.1 0, 10.0.0.2 10, 10.0.0.4 10");
}

fn resolved(name: &str, address: &str) -> Event {
    Event::Resolved {
        host: host(name),
        family: crate::service::Family::Ipv4,
        addresses: addresses(&[address]).into_iter().collect(),
    }
}

#[test]
fn the_guard_holds_over_a_start_with_names_too() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    found(&mut story, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let list = ["cp1", "cp2", "cp3"].map(|name| (host(name), listed(false)));
    story.list("text", list.into());
    for i in 1..=3 {
        story.event(resolved(&format!("cp{i}"), &format!("10.0.0.{i}")));
    }
    story.check(
        "text",
        "cp1 disabled/up/not pooled
         cp2 disabled/up/pooled (depool-guard)
         cp3 disabled/up/pooled (depool-guard)",
    );
}

#[test]
fn the_guard_holds_a_drain_over_a_start_too() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    found(&mut story, &["10.0.0.1", "10.0.0.2"]);
    story.list("text", drained(servers(2), &[1, 2]));
    assert_eq!(weights(&story), "10.0.0.1 10, 10.0.0.2 0");
    // The list first, the kernel's table after.
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    story.list("text", drained(servers(2), &[1, 2]));
    found(&mut story, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(weights(&story), "10.0.0.1 10, 10.0.0.2 0");
}

#[test]
fn a_revision_is_applied_when_the_kernel_was_read_to_be_so() {
    let mut story = four_up();
    assert_eq!(revisions(&story), (None, None), "this source counts none");
    story.listing("text", at(7, servers(3)));
    assert_eq!(revisions(&story), (Some(7), None));
    story.apply();
    assert_eq!(revisions(&story), (Some(7), Some(7)));
    // Nothing changes in IPVS: another order of the same, a server that is down already.
    story.listing("text", at(8, servers(3)));
    assert_eq!(revisions(&story), (Some(8), Some(8)));
    story.listing("text", at(9, disabled(servers(3), &[1])));
    assert_eq!(revisions(&story), (Some(9), Some(8)));
    let key = story.service("text").key();
    let refused = |holds| Event::NotApplied {
        service: key,
        fault: "no".into(),
        holds,
    };
    story.event(refused(true));
    assert_eq!(revisions(&story), (Some(9), Some(8)));
    // Not even for a list that would change nothing.
    story.listing("text", at(10, disabled(servers(3), &[1])));
    assert_eq!(revisions(&story), (Some(10), Some(8)));
    story.apply();
    assert_eq!(revisions(&story), (Some(10), Some(10)));
    // What checks change is no list's doing.
    story.down("text", "10.0.0.3");
    assert_eq!(revisions(&story), (Some(10), Some(10)));
}

/// Another history of the store has come to the same number.
#[test]
fn a_revision_is_not_applied_for_another_list_that_has_it() {
    let mut story = four_up();
    story.listing("text", at(7, servers(4))).apply();
    assert_eq!(revisions(&story), (Some(7), Some(7)));
    story.listing("text", at(7, servers(4)));
    assert_eq!(revisions(&story), (Some(7), Some(7)));
    story.listing("text", at(7, disabled(servers(4), &[1])));
    assert_eq!(revisions(&story), (Some(7), None));
    story.apply();
    assert_eq!(revisions(&story), (Some(7), Some(7)));
}

/// The sink may be at work on what was wanted in between.
#[test]
fn there_and_back_again_is_not_applied_before_the_sink_says_so() {
    let mut story = four_up();
    story.listing("text", at(1, servers(4))).apply();
    let first = story.service("text").destinations.clone().expect("known");
    story.listing("text", at(2, disabled(servers(4), &[1])));
    story.listing("text", at(3, servers(4)));
    assert_eq!(revisions(&story), (Some(3), Some(1)));
    // Its answer to the first one, read once more in the meantime.
    let service = story.service("text").key();
    story.event(Event::Applied {
        service,
        destinations: first,
    });
    assert_eq!(revisions(&story), (Some(3), Some(1)));
    story.apply();
    assert_eq!(revisions(&story), (Some(3), Some(3)));
}

#[test]
fn a_store_that_went_back_has_nothing_applied_yet() {
    let mut story = four_up();
    story.listing("text", at(100, servers(4))).apply();
    assert_eq!(revisions(&story), (Some(100), Some(100)));
    story.listing("text", at(50, disabled(servers(4), &[1])));
    assert_eq!(revisions(&story), (Some(50), None));
    story.apply();
    assert_eq!(revisions(&story), (Some(50), Some(50)));
}

#[test]
fn another_source_begins_anew() {
    let mut story = four_up();
    let mut list = at(5, servers(4));
    list.faults = [("a/b/c/cp9".to_owned(), "no JSON".to_owned())].into();
    story.listing("text", list).apply();
    assert_eq!(story.service("text").list_faults.len(), 1);
    let pooled = weights(&story);
    let mut elsewhere = service("text", "192.0.2.1", 80);
    elsewhere.servers = Servers::File("/pools/elsewhere.json".into());
    story.event(Event::Configured(Arc::new(config([elsewhere]))));
    assert_eq!(revisions(&story), (None, None));
    assert!(story.service("text").list_faults.is_empty());
    assert_eq!(story.service("text").source, Source::Waiting);
    assert_eq!(weights(&story), pooled, "the last list stays until then");
    story.listing("text", at(2, servers(4)));
    assert_eq!(revisions(&story), (Some(2), Some(2)));
}

#[test]
fn what_cannot_be_read_is_kept_with_the_list_and_goes_with_the_next() {
    let mut story = four_up();
    let mut list = at(5, servers(4));
    let faults: BTreeMap<_, _> = [("a/b/c/cp9".to_owned(), "no JSON".to_owned())].into();
    list.faults = faults.clone();
    story.listing("text", list.clone());
    assert_eq!(*story.service("text").list_faults, faults);
    let before = story.service("text").list_faults.clone();
    list.revision = Some(6);
    story.listing("text", list);
    assert!(Arc::ptr_eq(&before, &story.service("text").list_faults));
    story.list("text", servers(4));
    assert!(story.service("text").list_faults.is_empty());
}

#[test]
fn what_happens_at_once_is_seen_at_once() {
    let services = [
        service("http", "192.0.2.1", 80),
        service("https", "192.0.2.1", 443),
    ];
    let mut story = Story::started(config(services));
    for name in ["http", "https"] {
        story.list(name, servers(4));
        for i in 1..=4 {
            story.up(name, &format!("10.0.0.{i}"));
        }
    }
    let list = || Listing::from(disabled(servers(4), &[1, 2]));
    let both = ["http", "https"].map(|name| story.list_event(name, list()));
    // One call and one snapshot after it: there is none in between to see.
    story.event(Event::Together(both.into()));
    for name in ["http", "https"] {
        story.check(
            name,
            "10.0.0.1 disabled/up/not pooled
             10.0.0.2 disabled/up/not pooled
             10.0.0.3 enabled/up/pooled
             10.0.0.4 enabled/up/pooled",
        );
    }
}

#[test]
fn two_lists_of_one_service_at_once_are_guarded_as_one() {
    let mut story = four_up();
    let lists = [
        disabled(servers(4), &[1, 2]),
        disabled(servers(4), &[1, 2, 3, 4]),
        disabled(servers(4), &[2, 3, 4]),
    ];
    let lists = lists.map(|list| story.list_event("text", Listing::from(list)));
    story.event(Event::Together(lists.into())).check(
        "text",
        "10.0.0.1 enabled/up/pooled
         10.0.0.2 disabled/up/pooled (depool-guard)
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 disabled/up/not pooled",
    );
}

#[test]
fn a_list_from_disk_serves_until_the_source_answers_with_the_same() {
    let mut story = Story::new(config([service("text", "192.0.2.1", 80)]));
    found(
        &mut story,
        &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"],
    );
    story.listing("text", saved(servers(4))).apply();
    let read_at = story.now - Duration::from_millis(1);
    let from_disk = |fault: Option<&str>| Source::Saved {
        age: Duration::from_secs(3600),
        read_at,
        fault: fault.map(Into::into),
    };
    assert_eq!(story.service("text").source, from_disk(None));
    // That the source is away does not make the list a newer one.
    let from = story.service("text").config.servers.clone();
    story.event(Event::SourceFailed {
        service: name("text"),
        from,
        fault: "timed out".into(),
    });
    assert_eq!(story.service("text").source, from_disk(Some("timed out")));
    let before = story.service("text").clone();
    story.list("text", servers(4));
    let after = story.service("text");
    assert_eq!(after.source, Source::Good);
    assert!(Arc::ptr_eq(&before.servers, &after.servers));
    assert!(Arc::ptr_eq(&before.checks, &after.checks));
    assert_eq!(before.destinations, after.destinations);
}

#[test]
fn what_comes_after_a_list_from_disk_is_guarded_as_any_change() {
    let mut story = four_under(DepoolGuard::Last);
    story.listing("text", saved(servers(4)));
    story
        .listing("text", caught_up(disabled(servers(4), &[1, 2, 3, 4])))
        .check("text", HELD_LATE);
}
