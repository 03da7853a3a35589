//! Stories of what is announced: conditions and their attributes, withdrawals, any or all services, up-delay,
//! and what operators say of peers.

use super::stories::{announced, disabled};
use super::*;
use crate::config::{Announce, Needs, Peer, WithdrawWhen};
use crate::event::PeerOrder;
use crate::routing::{Community, PeerId};
use crate::snapshot::{Condition, PeerOrders};

const WELL: &str = "192.0.2.1 med 5";
const DEGRADED: &str = "192.0.2.1 med 55 64600:1";
const FAILED: &str = "192.0.2.1 med 1005 graceful-shutdown";
const WAITS: &str = "192.0.2.1: it is well again, but not for up-delay yet";
const NOTHING_POOLED: &str = "192.0.2.1: a service has nothing pooled";
const NOT_APPLIED: &str = "192.0.2.1: the kernel does not hold a service of it";

fn second() -> Duration {
    Duration::from_secs(1)
}

/// On one address, its list always obeyed; degraded has attributes of its own, failed the default's.
fn on(port: u16, change: impl FnOnce(&mut Announce)) -> Service {
    let mut announce = Announce {
        degraded: Arc::new(Policy {
            communities: BTreeSet::from([Community::Standard(64600 << 16 | 1)]),
            ..Policy::of_med(55)
        }),
        ..Announce::default()
    };
    change(&mut announce);
    Service {
        announce: Arc::new(announce),
        depool_guard: DepoolGuard::Off,
        ..service(&format!("p{port}"), "192.0.2.1", port)
    }
}

fn up_delay(seconds: u64) -> Service {
    on(80, |announce| {
        announce.up_delay = Duration::from_secs(seconds);
    })
}

impl Story {
    /// So many of a service's four servers are up, and the kernel has what is wanted.
    fn up_of_four(&mut self, service: &str, up: u8) -> &mut Story {
        self.list(service, servers(4));
        for i in 1..=4 {
            let host = format!("10.0.0.{i}");
            if i <= up {
                self.up(service, &host);
            } else {
                self.down(service, &host);
            }
        }
        self.apply()
    }

    fn nothing_pooled(&mut self, service: &str) -> &mut Story {
        let none = disabled(servers(4), &[1, 2, 3, 4]);
        self.list(service, none).apply()
    }

    fn kernel_refuses(&mut self, service: &str, holds: bool) -> &mut Story {
        let service = self.service(service).key();
        let fault = "out of memory".to_owned();
        self.event(Event::NotApplied {
            service,
            fault,
            holds,
        })
    }

    fn present(&mut self, present: bool) -> &mut Story {
        let vips = self.snapshot.vips.keys().copied();
        self.event(Event::Addresses {
            present: vips.filter(|_| present).collect(),
            faults: BTreeMap::new(),
        })
    }

    fn reload(&mut self, services: impl IntoIterator<Item = Service>) -> &mut Story {
        self.event(Event::Configured(Arc::new(config(services))))
    }

    fn condition(&self) -> Condition {
        let vip = self.snapshot.vips.values().next();
        vip.expect("an address").condition
    }
}

#[test]
fn what_each_condition_has_peers_told() {
    let (degraded, failed) = (
        "192.0.2.1: it is degraded, and withdraw-when says so",
        "192.0.2.1: it has failed, and withdraw-when says so",
    );
    for (withdraw_when, expected) in [
        (
            WithdrawWhen::Degraded,
            [WELL, degraded, failed, NOTHING_POOLED],
        ),
        (
            WithdrawWhen::Failed,
            [WELL, DEGRADED, failed, NOTHING_POOLED],
        ),
        (
            WithdrawWhen::NotPooled,
            [WELL, DEGRADED, FAILED, NOTHING_POOLED],
        ),
        (WithdrawWhen::Never, [WELL, DEGRADED, FAILED, FAILED]),
    ] {
        let text = on(80, |announce| announce.withdraw_when = withdraw_when);
        let mut story = Story::started(config([text]));
        for (up, expected) in [4, 1, 0].iter().zip(expected) {
            story.up_of_four("p80", *up).check_vips(expected);
        }
        story.nothing_pooled("p80").check_vips(expected[3]);
        // And back: without up-delay each is told at once.
        for (up, expected) in [0, 1, 4].iter().zip(expected[..3].iter().rev()) {
            story.up_of_four("p80", *up).check_vips(expected);
        }
    }
}

#[test]
fn by_default_a_degraded_address_is_told_as_a_healthy_one() {
    let mut story = Story::started(config([service("p80", "192.0.2.1", 80)]));
    story.up_of_four("p80", 1).check_vips(WELL);
    assert_eq!(story.condition(), Condition::Degraded);
    story.up_of_four("p80", 0).check_vips(FAILED);
}

#[test]
fn a_pool_that_is_drained_has_failed() {
    let text = on(80, |announce| announce.withdraw_when = WithdrawWhen::Never);
    let mut story = Story::started(config([text]));
    story.up_of_four("p80", 4).check_vips(WELL);
    let drained = Listed {
        enabled: true,
        weight: weight(0),
    };
    let drained = servers(4).into_keys().map(|host| (host, drained));
    story
        .list("p80", drained.collect())
        .apply()
        .check_vips(FAILED);
}

/// PyBal announces whatever its servers do; but not what the kernel lacks.
#[test]
fn what_is_never_withdrawn_for_its_servers_needs_the_kernel_and_the_address_all_the_same() {
    let text = on(80, |announce| announce.withdraw_when = WithdrawWhen::Never);
    let mut story = Story::started(config([text]));
    story.check_vips("192.0.2.1: a service has no server list yet");
    story.list("p80", disabled(servers(1), &[1]));
    story.check_vips("192.0.2.1: not every server has been checked yet");
    story.down("p80", "10.0.0.1").check_vips(NOT_APPLIED);
    // The kernel has the service, and nobody in it.
    story.apply().check_vips(FAILED);
    story.present(false);
    story.check_vips("192.0.2.1: the address is not on this host");
    story.present(true).check_vips(FAILED);
    // A server that comes back does not have to be waited for.
    story
        .list("p80", servers(1))
        .up("p80", "10.0.0.1")
        .check_vips(WELL);
    story.kernel_refuses("p80", true).check_vips(WELL);
    story.kernel_refuses("p80", false).check_vips(NOT_APPLIED);
}

fn any(port: u16) -> Service {
    on(port, |announce| announce.services = Needs::Any)
}

#[test]
fn with_any_one_service_that_can_be_served_is_enough() {
    let mut story = Story::started(config([any(80), any(443)]));
    story
        .up_of_four("p443", 4)
        .check_vips(WELL)
        .list("p80", servers(4))
        .check_vips(WELL)
        .up_of_four("p80", 4)
        .check_vips(WELL)
        .kernel_refuses("p80", false)
        .check_vips(WELL)
        .nothing_pooled("p443")
        .check_vips(WELL);
    // Without any the first one's reason is told.
    story
        .kernel_refuses("p80", false)
        .check_vips(NOTHING_POOLED);
    story.apply().check_vips(WELL);
    story
        .up_of_four("p443", 4)
        .nothing_pooled("p80")
        .check_vips(WELL)
        .kernel_refuses("p443", false)
        .check_vips(NOT_APPLIED);
}

#[test]
fn with_any_an_address_is_as_good_as_the_best_service_that_can_be_served() {
    let mut story = Story::started(config([any(80), any(443)]));
    story.up_of_four("p80", 4).up_of_four("p443", 0);
    story.check_vips(WELL);
    story.up_of_four("p80", 1).check_vips(DEGRADED);
    story.up_of_four("p443", 4).check_vips(WELL);
    // The good one is lost: what remains is degraded.
    story.kernel_refuses("p443", false).check_vips(DEGRADED);
    story.up_of_four("p80", 0);
    story.kernel_refuses("p443", false).check_vips(FAILED);
}

#[test]
fn with_any_a_new_service_changes_nothing_until_it_is_ready() {
    let mut story = announced([any(80)]);
    story.reload([any(80), any(443)]).check_vips(WELL);
    story.nothing_pooled("p80").check_vips(NOTHING_POOLED);
    let key = story.service("p443").key();
    story.event(Event::Found([(key, Destinations::new())].into()));
    story.up_of_four("p443", 4).check_vips(WELL);
}

/// Nobody asks it yet, and it has no servers: by that the address would have failed.
#[test]
fn a_new_service_does_not_demote_the_others_address() {
    let all = |port| on(port, |_| {});
    let mut story = announced([all(80)]);
    story.reload([all(80), all(443)]).check_vips(WELL);
    assert_eq!(story.condition(), Condition::Healthy);
    let key = story.service("p443").key();
    story.event(Event::Found([(key, Destinations::new())].into()));
    story.list("p443", servers(4)).check_vips(WELL);
    // Ready, but with nobody up: now it counts.
    story.up_of_four("p443", 0).check_vips(FAILED);
}

#[test]
fn the_first_announcement_after_a_start_does_not_wait() {
    let mut story = Story::started(config([up_delay(10)]));
    story.nothing_pooled("p80").down("p80", "10.0.0.1");
    story.up_of_four("p80", 4).check_vips(WELL);
}

#[test]
fn a_withdrawn_address_comes_back_when_it_has_been_well_for_up_delay() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4).nothing_pooled("p80");
    story.pass(100 * second()).check_vips(NOTHING_POOLED);
    story.list("p80", servers(4)).apply().check_vips(WAITS);
    assert_eq!(story.condition(), Condition::Healthy);
    // It was well when the kernel had it, in the last step.
    let due = story.now + 10 * second();
    assert_eq!(story.balancer.wake_at(), Some(due));
    story
        .pass(10 * second() - Duration::from_millis(1))
        .check_vips(WAITS);
    story.pass(Duration::from_millis(1)).check_vips(WELL);
    assert_eq!(story.balancer.wake_at(), None);
}

#[test]
fn a_break_begins_up_delay_anew() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4).nothing_pooled("p80");
    for _ in 0..3 {
        story.list("p80", servers(4)).apply();
        story.pass(9 * second()).check_vips(WAITS);
        story.nothing_pooled("p80").check_vips(NOTHING_POOLED);
    }
    story.list("p80", servers(4)).apply();
    story.pass(9 * second()).check_vips(WAITS);
    story.pass(second()).check_vips(WELL);
}

#[test]
fn a_demoted_address_is_told_better_step_by_step() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4).nothing_pooled("p80");
    story.up_of_four("p80", 0).check_vips(WAITS);
    story
        .pass(4 * second())
        .up_of_four("p80", 1)
        .check_vips(WAITS);
    story
        .pass(4 * second())
        .up_of_four("p80", 4)
        .check_vips(WAITS);
    // No longer withdrawn, no longer failed, no longer degraded for ten seconds.
    story.pass(2 * second()).check_vips(FAILED);
    story.pass(4 * second()).check_vips(DEGRADED);
    story.pass(4 * second()).check_vips(WELL);
}

#[test]
fn a_worse_state_is_told_at_once() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4).check_vips(WELL);
    story.up_of_four("p80", 1).check_vips(DEGRADED);
    story.up_of_four("p80", 0).check_vips(FAILED);
    // A blink in which it is well does not help it.
    story.up_of_four("p80", 4).check_vips(FAILED);
    story.up_of_four("p80", 1).check_vips(FAILED);
    story.nothing_pooled("p80").check_vips(NOTHING_POOLED);
}

#[test]
fn kernel_and_address_can_flap_too() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4);
    story.kernel_refuses("p80", false).check_vips(NOT_APPLIED);
    story.apply().check_vips(WAITS);
    story.pass(10 * second()).check_vips(WELL);
    story.present(false);
    story.present(true).check_vips(WAITS);
    story.pass(10 * second()).check_vips(WELL);
}

#[test]
fn another_up_delay_holds_from_the_reload_on() {
    let waiting = || {
        let mut story = Story::started(config([up_delay(10)]));
        story.up_of_four("p80", 4).nothing_pooled("p80");
        story.up_of_four("p80", 4).pass(6 * second());
        story.check_vips(WAITS);
        story
    };
    waiting().reload([up_delay(5)]).check_vips(WELL);
    waiting().reload([up_delay(0)]).check_vips(WELL);
    let mut story = waiting();
    story.reload([up_delay(20)]).pass(10 * second());
    story.check_vips(WAITS).pass(4 * second()).check_vips(WELL);
    // What has been told is not taken back by it.
    story.reload([up_delay(1000)]).check_vips(WELL);
}

#[test]
fn up_delay_goes_with_the_address() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4).nothing_pooled("p80");
    story.up_of_four("p80", 4).pass(6 * second());
    let mut renamed = up_delay(10);
    renamed.name = name("www");
    story.reload([renamed.clone()]).check_vips(WAITS);
    story.pass(4 * second()).check_vips(WELL);
    // Taken away and brought back it is as at a start, and nothing is left over of its timers.
    story.nothing_pooled("www").up_of_four("www", 4);
    story.check_vips(WAITS).reload([]).pass(second());
    story.check_vips("").reload([renamed]);
    story.check_vips("192.0.2.1: a service has no server list yet");
    let key = story.service("www").key();
    story.event(Event::Found([(key, Destinations::new())].into()));
    story.up_of_four("www", 4).check_vips(WELL);
    story.pass(100 * second()).check_vips(WELL);
    assert_eq!(story.balancer.wake_at(), None);
}

/// Held servers or none, announced or not: it is the address's until its services say another, or are gone.
#[test]
fn a_wider_prefix_is_the_address_s_whatever_its_condition() {
    let wide = || {
        on(80, |announce| {
            announce.prefix = "192.0.2.0/24".parse().ok();
        })
    };
    let prefix = |story: &Story| {
        let vips = story.snapshot.vips.iter();
        let prefixes = vips.map(|(address, vip)| vip.prefix_of(*address).to_string());
        prefixes.collect::<Vec<_>>().join(" ")
    };
    let mut story = Story::started(config([wide()]));
    assert_eq!(prefix(&story), "192.0.2.0/24");
    story.up_of_four("p80", 4).check_vips(WELL);
    story.nothing_pooled("p80").check_vips(NOTHING_POOLED);
    assert_eq!(prefix(&story), "192.0.2.0/24");
    story.up_of_four("p80", 4).reload([on(80, |_| {})]);
    story.check_vips(WELL);
    assert_eq!(prefix(&story), "192.0.2.1/32");
    story.reload([wide()]).check_vips(WELL);
    assert_eq!(prefix(&story), "192.0.2.0/24");
}

#[test]
fn what_its_operator_took_out_does_not_wait_when_he_wants_it_back() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4);
    let mut out = up_delay(10);
    Arc::make_mut(&mut out.announce).announce = false;
    story
        .reload([out])
        .check_vips("192.0.2.1: announce = false");
    story.reload([up_delay(10)]).check_vips(WELL);
}

#[test]
fn a_service_in_the_place_of_the_only_one_makes_the_address_wait() {
    let mut story = Story::started(config([up_delay(10)]));
    story.up_of_four("p80", 4);
    let other = on(443, |announce| announce.up_delay = 10 * second());
    story.reload([other]);
    story.check_vips("192.0.2.1: a service has no server list yet");
    let key = story.service("p443").key();
    story.event(Event::Found([(key, Destinations::new())].into()));
    story.up_of_four("p443", 4).check_vips(WAITS);
    story.pass(10 * second()).check_vips(WELL);
}

fn peer(last: u8) -> PeerId {
    PeerId::Address([10, 64, 0, last].into())
}

fn with_peers(peers: &[u8]) -> Config {
    let mut config = config([service("p80", "192.0.2.1", 80)]);
    let peers = peers.iter().map(|last| {
        let new = Peer::new(peer(*last), 14907);
        (peer(*last), Arc::new(new))
    });
    config.bgp.as_mut().expect("a section").peers = peers.collect();
    config
}

fn order(story: &mut Story, to: u8, order: PeerOrder) -> Option<PeerOrders> {
    let peer = peer(to);
    story.event(Event::PeerOrder {
        peer: peer.clone(),
        order,
    });
    story.snapshot.peer_orders.get(&peer).cloned()
}

#[test]
fn operators_orders_are_shown_until_others_come() {
    let mut story = Story::started(with_peers(&[1, 2]));
    let said = |enabled, text: Option<&str>, clears| {
        Some(PeerOrders {
            enabled,
            text: text.map(Into::into),
            clears,
        })
    };
    let clear = |text: &str| PeerOrder::Clear(Some(text.into()));
    assert_eq!(
        order(&mut story, 1, clear("why not")),
        said(None, Some("why not"), 1)
    );
    assert_eq!(
        order(&mut story, 1, PeerOrder::Clear(None)),
        said(None, None, 2)
    );
    let disable = PeerOrder::Disable(Some("linecard swap".into()));
    let disabled = said(Some(false), Some("linecard swap"), 2);
    assert_eq!(order(&mut story, 1, disable), disabled);
    // A session that is down can be cleared; why it is down is still told.
    let disabled = said(Some(false), Some("linecard swap"), 3);
    assert_eq!(order(&mut story, 1, clear("again")), disabled);
    assert_eq!(
        order(&mut story, 1, PeerOrder::Enable),
        said(Some(true), None, 3)
    );
    assert_eq!(story.snapshot.peer_orders.len(), 1, "the other has none");
}

#[test]
fn an_order_lasts_as_long_as_its_peer() {
    let mut story = Story::started(with_peers(&[1, 2]));
    assert_eq!(order(&mut story, 9, PeerOrder::Disable(None)), None);
    for of in [1, 2] {
        assert!(order(&mut story, of, PeerOrder::Disable(None)).is_some());
    }
    story.event(Event::Configured(Arc::new(with_peers(&[2, 3]))));
    let known: Vec<PeerId> = story.snapshot.peer_orders.keys().cloned().collect();
    assert_eq!(known, [peer(2)]);
    // Who comes back is as configured.
    story.event(Event::Configured(Arc::new(with_peers(&[1, 2]))));
    assert_eq!(story.snapshot.peer_orders.get(&peer(1)), None);
}

/// Sinks compare by pointers: an order touches nothing else.
#[test]
fn an_order_changes_no_announcement() {
    let mut story = Story::started(with_peers(&[1]));
    story.up_of_four("p80", 4);
    let before = story.snapshot.clone();
    order(&mut story, 1, PeerOrder::Disable(None));
    assert!(before.vips.ptr_eq(&story.snapshot.vips));
    assert!(Arc::ptr_eq(&before.peers, &story.snapshot.peers));
}
