//! What an operator says in place of the lists.

use super::stories::{disabled, four_up};
use super::*;
use crate::service::{Action, Note, Override, Overruled};

const HOUR: Duration = Duration::from_secs(3600);

fn overruled(host_name: &str, service: Option<&str>) -> Overruled {
    Overruled {
        host: host(host_name),
        service: service.map(name),
    }
}

fn order(overruled: Overruled, action: Action, confirmed: bool) -> Event {
    let note = Note {
        reason: Some("disk".into()),
        until: Some("2026-11-22T04:00:00Z".into()),
        confirmed,
    };
    let by = Override {
        action,
        note: Arc::new(note),
    };
    Event::Override {
        overruled,
        by,
        left: HOUR,
    }
}

impl Story {
    fn order(&mut self, host: &str, action: Action) -> &mut Story {
        self.event(order(overruled(host, None), action, false))
    }
}

const ALL_FOUR: &str = "10.0.0.1 enabled/up/pooled
     10.0.0.2 enabled/up/pooled
     10.0.0.3 enabled/up/pooled
     10.0.0.4 enabled/up/pooled";

const WITHOUT_ONE: &str = "10.0.0.1 disabled/up/not pooled
     10.0.0.2 enabled/up/pooled
     10.0.0.3 enabled/up/pooled
     10.0.0.4 enabled/up/pooled";

#[test]
fn a_server_is_depooled_whatever_its_list_says_and_comes_back_by_itself() {
    let mut story = four_up();
    story
        .order("10.0.0.1", Action::Depool)
        .check("text", WITHOUT_ONE);
    // The list says again what it said.
    story.list("text", servers(4)).check("text", WITHOUT_ONE);
    let server = story.service("text").servers["10.0.0.1"].clone();
    assert_eq!(server.overridden, Some((Action::Depool, listed(true))));
    assert_eq!(server.note.unwrap().reason.as_deref(), Some("disk"));
    assert_eq!(story.snapshot.overrides.len(), 1);
    story
        .pass(HOUR - Duration::from_secs(1))
        .check("text", WITHOUT_ONE);
    story.pass(Duration::from_secs(1)).check("text", ALL_FOUR);
    assert!(story.snapshot.overrides.is_empty());
    assert_eq!(story.service("text").servers["10.0.0.1"].overridden, None);
}

#[test]
fn a_server_is_pooled_against_its_list_if_it_works() {
    let mut story = four_up();
    story
        .list("text", disabled(servers(4), &[1]))
        .check("text", WITHOUT_ONE);
    story
        .order("10.0.0.1", Action::Pool)
        .check("text", ALL_FOUR);
    story.down("text", "10.0.0.1").check(
        "text",
        "10.0.0.1 enabled/down/not pooled
         10.0.0.2 enabled/up/pooled
         10.0.0.3 enabled/up/pooled
         10.0.0.4 enabled/up/pooled",
    );
    story.up("text", "10.0.0.1");
    let ended = Event::OverrideEnded(overruled("10.0.0.1", None));
    story.event(ended.clone()).check("text", WITHOUT_ONE);
    story.event(ended).check("text", WITHOUT_ONE);
}

#[test]
fn a_weight_is_the_kernels() {
    let mut story = four_up();
    story.order("10.0.0.1", Action::Weight(weight(3)));
    let backend = SocketAddr::from(([10, 0, 0, 1], 80));
    let weight_of = |story: &Story| {
        let wanted = story.service("text").destinations.clone();
        wanted.unwrap()[&backend].weight.get()
    };
    assert_eq!(weight_of(&story), 3);
    story.pass(HOUR);
    assert_eq!(weight_of(&story), 10);
}

#[test]
fn one_for_a_service_goes_before_one_for_all() {
    let [a, b] = ["a", "b"].map(|name| service(name, "192.0.2.1", 80));
    let b = Service {
        key: service("b", "192.0.2.1", 81).key,
        ..b
    };
    let mut story = Story::started(config([a.clone(), b.clone()]));
    for name in ["a", "b"] {
        story.list(name, servers(4));
        for i in 1..=4 {
            story.up(name, &format!("10.0.0.{i}"));
        }
    }
    story.order("10.0.0.1", Action::Depool);
    let only_b = overruled("10.0.0.1", Some("b"));
    story.event(order(only_b.clone(), Action::Pool, false));
    story.check("a", WITHOUT_ONE).check("b", ALL_FOUR);
    story.event(Event::OverrideEnded(only_b));
    story.check("a", WITHOUT_ONE).check("b", WITHOUT_ONE);
    // A service that comes later hears of it, too.
    let c = Service {
        key: service("c", "192.0.2.1", 82).key,
        ..service("c", "192.0.2.1", 82)
    };
    let key = c.key;
    story.event(Event::Configured(Arc::new(config([a, b, c]))));
    story.event(Event::Found([(key, Destinations::new())].into()));
    story.list("c", servers(4));
    for i in 1..=4 {
        story.up("c", &format!("10.0.0.{i}"));
    }
    story.check("c", WITHOUT_ONE);
}

#[test]
fn the_guard_holds_overrides_as_it_holds_lists_unless_they_are_confirmed() {
    let mut story = four_up();
    for i in 1..=3 {
        story.order(&format!("10.0.0.{i}"), Action::Depool);
    }
    story.check(
        "text",
        "10.0.0.1 disabled/up/not pooled
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/pooled (depool-guard)
         10.0.0.4 enabled/up/pooled",
    );
    let third = overruled("10.0.0.3", None);
    story.event(order(third, Action::Depool, true)).check(
        "text",
        "10.0.0.1 disabled/up/not pooled
         10.0.0.2 disabled/up/not pooled
         10.0.0.3 disabled/up/not pooled
         10.0.0.4 enabled/up/pooled",
    );
}

#[test]
fn who_is_not_listed_is_not_pooled_by_it() {
    let mut story = four_up();
    story
        .order("10.0.0.9", Action::Pool)
        .check("text", ALL_FOUR);
    let mut five = servers(4);
    five.insert(host("10.0.0.9"), listed(false));
    story.list("text", five).up("text", "10.0.0.9");
    let view = story.service("text").clone();
    assert_eq!(view.servers["10.0.0.9"].to_string(), "enabled/up/pooled");
    story.list("text", servers(4)).check("text", ALL_FOUR);
}

#[test]
fn a_second_word_takes_the_place_of_the_first_and_has_its_own_time() {
    let mut story = four_up();
    story.order("10.0.0.1", Action::Depool);
    story.pass(HOUR / 2);
    story.order("10.0.0.1", Action::Depool);
    story.pass(HOUR / 2).check("text", WITHOUT_ONE);
    story.pass(HOUR / 2).check("text", ALL_FOUR);
}
