//! Two connections to one peer, and two peerings in a net of their own.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::drive::drive;
use super::*;
use crate::bgp::notification::Cease;
use crate::routing::Role;
use crate::service::Family;

const NONE: Guards = Guards {
    key: false,
    gtsm: false,
};
const KEY: Guards = Guards { key: true, ..NONE };
const GTSM: Guards = Guards { gtsm: true, ..NONE };

fn ends(local: u8, peer: u8) -> Ends {
    let asn = |n: u8| 64600 + u32::from(n);
    let identifier = Ipv4Addr::new(10, 0, 0, local);
    Ends {
        local_as: asn(local),
        identifier,
        hold_time: 9,
        peer_as: asn(peer),
        ..Ends::plain()
    }
}

fn open(from: u8) -> Open {
    Open {
        asn: 64600 + u32::from(from),
        four_octet_as: true,
        hold_time: 9,
        identifier: Ipv4Addr::new(10, 0, 0, from),
        families: [Family::Ipv4].into(),
        route_refresh: true,
        enhanced_route_refresh: false,
        extended_messages: false,
        extended_next_hop: false,
        graceful_restart: None,
        role: None,
        unknown_role: false,
    }
}

fn received(message: Message) -> Event {
    Event::Received(message)
}

fn collision(side: Side) -> (Side, Action) {
    (
        side,
        Action::Close(Some(Notification::cease(Cease::ConnectionCollision))),
    )
}

/// Ours is `local`, the peer's is 5; both connections are up and nobody has heard an OPEN.
fn two_connections(local: u8, at: At) -> Peering {
    let mut peering = Peering::new(ends(local, 5));
    peering.start(at);
    peering.handle(Side::Out, Event::Connected, at);
    assert_eq!(peering.admit(at), Ok(Actions::new()));
    peering.handle(Side::In, Event::Connected, at);
    assert_eq!(
        Side::BOTH.map(|side| peering.state(side)),
        [SessionState::OpenSent; 2]
    );
    peering
}

/// Section 6.8, whichever OPEN comes first, and from OpenSent as from OpenConfirm.
#[test]
fn the_larger_identifiers_connection_stays() {
    let at = At::new(Instant::now(), 0.0);
    for (local, stays) in [(9, Side::Out), (1, Side::In)] {
        for first in Side::BOTH {
            let mut peering = two_connections(local, at);
            let actions = peering.handle(first, received(Message::Open(open(5))), at);
            assert!(
                actions.contains(&collision(stays.other())),
                "{local} {first:?}"
            );
            if first != stays {
                peering.handle(stays, received(Message::Open(open(5))), at);
            }
            assert_eq!(peering.state(stays), SessionState::OpenConfirm);
            assert_eq!(peering.state(stays.other()), SessionState::Idle);
            assert_eq!(peering.fault(), None, "that is no fault");
            peering.handle(stays, received(Message::Keepalive), at);
            assert_eq!(peering.furthest(), SessionState::Established);
        }
    }
}

#[test]
fn equal_identifiers_go_by_as() {
    let at = At::new(Instant::now(), 0.0);
    for (local_as, stays) in [(64700, Side::Out), (64500, Side::In)] {
        let mut peering = Peering::new(Ends {
            local_as,
            ..ends(5, 5)
        });
        peering.start(at);
        peering.handle(Side::Out, Event::Connected, at);
        peering.admit(at).unwrap();
        peering.handle(Side::In, Event::Connected, at);
        peering.handle(Side::In, received(Message::Open(open(5))), at);
        assert_eq!(peering.state(stays.other()), SessionState::Idle);
    }
}

#[test]
fn a_connection_that_stays_mute_loses() {
    let at = At::new(Instant::now(), 0.0);
    for (local, mute) in [(9, Side::Out), (1, Side::In)] {
        let speaks = mute.other();
        // By its identifier the mute one would stay.
        for (seconds, stays) in [(4, mute), (5, speaks)] {
            let mut peering = two_connections(local, at);
            let later = At::new(at.now + Duration::from_secs(seconds), 0.0);
            peering.handle(speaks, received(Message::Open(open(5))), later);
            assert_eq!(peering.state(stays.other()), SessionState::Idle, "{mute:?}");
            assert!(peering.state(stays) > SessionState::Connect);
        }
    }
}

#[test]
fn an_open_that_is_refused_ends_only_its_own_connection() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = two_connections(1, at);
    peering.handle(Side::In, received(Message::Open(open(6))), at);
    assert_eq!(peering.state(Side::In), SessionState::Idle);
    assert_eq!(peering.state(Side::Out), SessionState::OpenSent);
    assert_eq!(
        peering.fault().map(String::as_str),
        Some("bad peer AS (2/2): the peer is AS 64606, not AS 64605")
    );
}

#[test]
fn an_established_session_outlives_a_new_connection() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = Peering::new(ends(1, 5));
    peering.start(at);
    for event in [
        Event::Connected,
        received(Message::Open(open(5))),
        received(Message::Keepalive),
    ] {
        peering.handle(Side::Out, event, at);
    }
    assert_eq!(peering.furthest(), SessionState::Established);
    assert!(peering.admit(at).is_ok());
    let actions = peering.handle(Side::In, Event::Connected, at);
    assert!(actions.contains(&collision(Side::In)));
    assert_eq!(peering.state(Side::Out), SessionState::Established);
}

/// RFC 4724 section 5: a new connection of a peer that can restart says that it has, whoever opened the first.
#[test]
fn a_peer_that_restarts_is_let_in_again() {
    let at = At::new(Instant::now(), 0.0);
    for side in Side::BOTH {
        let mut peering = Peering::new(ends(1, 5));
        peering.start(at);
        if side == Side::In {
            peering.admit(at).unwrap();
        }
        let theirs = Open {
            graceful_restart: Some([Family::Ipv4].into()),
            ..open(5)
        };
        let way = [
            Event::Connected,
            received(Message::Open(theirs)),
            received(Message::Keepalive),
        ];
        for event in way.clone() {
            peering.handle(side, event, at);
        }
        assert_eq!(peering.state(side), SessionState::Established);
        let actions = peering.admit(at).unwrap();
        let fault = "the peer has restarted and connects again".to_owned();
        let lost = [(side, Action::Close(None)), (side, Action::Fault(fault))];
        assert_eq!(actions[..2], lost, "it is not told");
        for event in way {
            peering.handle(Side::In, event, at);
            assert_eq!(peering.check(), Ok(()));
        }
        assert_eq!(peering.state(Side::In), SessionState::Established);
    }
}

#[test]
fn while_the_peers_connection_is_established_we_open_none_and_after_it_we_do() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = Peering::new(ends(9, 5));
    peering.start(at);
    peering.admit(at).unwrap();
    for event in [Event::Connected, received(Message::Open(open(5)))] {
        peering.handle(Side::In, event, at);
    }
    let actions = peering.handle(Side::In, received(Message::Keepalive), at);
    assert!(
        actions.contains(&(Side::Out, Action::Close(None))),
        "the attempt is given up"
    );
    assert_eq!(peering.state(Side::Out), SessionState::Idle);
    let refused = Err(Notification::cease(Cease::ConnectionCollision));
    assert_eq!(peering.admit(at), refused, "a third connection");
    let keepalive = peering.next_timer().unwrap();
    assert_eq!(keepalive, at.now + Duration::from_secs(3));

    peering.handle(Side::In, Event::ConnectionFails("gone".into()), at);
    assert_eq!(peering.fault().map(String::as_str), Some("gone"));
    let later = At::new(peering.next_timer().unwrap(), 0.0);
    assert_eq!(peering.due(later), [(Side::Out, Action::Connect)]);
}

#[test]
fn a_stop_tells_both_and_nothing_comes_after() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = two_connections(1, at);
    let why = Notification::cease(Cease::AdministrativeShutdown);
    let told = Side::BOTH.map(|side| (side, Action::Close(Some(why.clone()))));
    assert_eq!(peering.stop(&why, at), told);
    assert_eq!(peering.next_timer(), None);
    // RFC 4486: Connection Rejected.
    assert_eq!(peering.admit(at), Err(Notification::new(6, 5, [])));
}

#[test]
fn a_clear_comes_back_at_once_whatever_failed_before() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = Peering::new(ends(1, 5));
    peering.start(at);
    for _ in 0..5 {
        let fails = Event::ConnectionFails("unreachable".into());
        peering.handle(Side::Out, fails, at);
        let later = At::new(peering.next_timer().unwrap(), 0.0);
        assert_eq!(peering.due(later), [(Side::Out, Action::Connect)]);
    }
    let why = Notification::new(6, 4, []);
    let actions = peering.restart(ends(1, 5), &why, at);
    let again = [
        (Side::Out, Action::Close(None)),
        (Side::Out, Action::Connect),
    ];
    assert_eq!(actions, again, "nobody was there to be told");
    assert_eq!(
        peering.timers().retry(),
        Some(at.now + Duration::from_secs(1))
    );
    for event in [
        Event::Connected,
        received(Message::Open(open(5))),
        received(Message::Keepalive),
    ] {
        peering.handle(Side::Out, event, at);
    }
    let actions = peering.restart(ends(1, 5), &why, at);
    let told = (Side::Out, Action::Close(Some(why.clone())));
    assert_eq!(actions, [told, (Side::Out, Action::Connect)]);
}

#[test]
fn what_the_operator_is_shown() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = Peering::new(ends(9, 5));
    peering.start(at);
    let refused = Event::ConnectionRefused("no".into());
    peering.handle(Side::Out, refused, at);
    assert_eq!(peering.hint(NONE, at.now), Some(Hint::Refused));
    let later = At::new(peering.timers().retry().unwrap(), 0.0);
    peering.due(later);
    let late = At::new(peering.timers().retry().unwrap(), 0.0);
    peering.due(late);
    assert_eq!(
        peering.fault().map(String::as_str),
        Some("connect timed out")
    );
    assert_eq!(
        [KEY, GTSM, NONE].map(|ours| peering.hint(ours, late.now)),
        [Some(Hint::Md5), Some(Hint::Gtsm), None]
    );

    peering.admit(at).unwrap();
    for event in [
        Event::Connected,
        received(Message::Open(open(5))),
        received(Message::Keepalive),
    ] {
        peering.handle(Side::In, event, at);
    }
    assert_eq!((peering.fault(), peering.hint(KEY, at.now)), (None, None));
    let timers = peering.timers();
    assert_eq!(timers.hold, Some(at.now + Duration::from_secs(9)));
    assert_eq!(timers.keepalive, Some(at.now + Duration::from_secs(3)));
    assert_eq!(timers.retry(), None);

    let told = Notification::new(4, 0, []);
    let soon = At::new(at.now + Duration::from_secs(9), 0.0);
    peering.handle(Side::In, received(Message::Notification(told)), soon);
    assert_eq!(peering.hint(NONE, soon.now), Some(Hint::Gtsm));
    // Another fault has a hint of its own, or none.
    peering.admit(soon).unwrap();
    peering.handle(Side::In, Event::Connected, soon);
    let bad = Event::Malformed(Notification::new(1, 1, []));
    peering.handle(Side::In, bad, soon);
    assert_eq!(peering.hint(NONE, soon.now), None);
}

/// Without a fault: the connection stands, and what we say is not answered.
#[test]
fn silence_is_told_within_seconds() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = Peering::new(ends(9, 5));
    let after = |seconds| At::new(at.now + Duration::from_secs(seconds), 0.0);
    let check = |peering: &Peering, seconds, hints: [Option<Hint>; 2]| {
        let now = after(seconds).now;
        assert_eq!([NONE, GTSM].map(|ours| peering.hint(ours, now)), hints);
        assert_eq!(peering.check(), Ok(()));
    };
    peering.start(at);
    // The peer gives up its connection for another before we give up on the first.
    for seconds in [0, 3] {
        peering.admit(after(seconds)).unwrap();
        peering.handle(Side::In, Event::Connected, after(seconds));
    }
    check(&peering, 4, [None, None]);
    assert_eq!(peering.next_hint(after(4).now), Some(after(5).now));
    check(&peering, 5, [Some(Hint::NoOpen), Some(Hint::Gtsm)]);
    assert_eq!(peering.next_hint(after(5).now), None);
    // That we cannot connect, either, takes nothing from it.
    peering.due(after(6));
    check(&peering, 6, [Some(Hint::NoOpen), Some(Hint::Gtsm)]);

    // It has been heard, but does not hear us.
    peering.handle(Side::In, received(Message::Open(open(5))), after(10));
    assert_eq!(peering.next_hint(after(10).now), Some(after(15).now));
    check(&peering, 15, [Some(Hint::Gtsm); 2]);
    peering.handle(Side::In, received(Message::Keepalive), after(16));
    check(&peering, 16, [None, None]);
    assert_eq!(peering.next_hint(after(16).now), None);
}

/// Where the connection itself is lost, that is what counts.
#[test]
fn silence_ends_with_its_connection() {
    let at = At::new(Instant::now(), 0.0);
    let late = At::new(at.now + Duration::from_secs(9), 0.0);
    let mut peering = two_connections(9, at);
    assert_eq!(peering.hint(NONE, late.now), Some(Hint::NoOpen));
    peering.handle(Side::Out, Event::ConnectionFails("reset".into()), late);
    assert_eq!(peering.hint(NONE, late.now), Some(Hint::Refused));
    let mut peering = two_connections(9, at);
    peering.stop(&Notification::new(6, 2, []), late);
    assert_eq!(peering.hint(NONE, late.now), None);
}

/// The peer may see the collision first and say so.
#[test]
fn a_collision_that_the_peer_ends_is_no_fault() {
    let at = At::new(Instant::now(), 0.0);
    let cease = || received(Message::Notification(Notification::new(6, 7, [])));
    let mut peering = two_connections(1, at);
    peering.handle(Side::Out, cease(), at);
    assert_eq!(
        (peering.fault(), peering.state(Side::Out)),
        (None, SessionState::Idle)
    );
    // Without another connection it is one: the peer thinks that it has a session with us.
    peering.handle(Side::In, cease(), at);
    assert!(peering.fault().is_some());
}

/// Both connections are up and neither end has sent an OPEN: the larger identifier's stays all the same.
#[test]
fn a_collision_while_opens_are_delayed() {
    let at = At::new(Instant::now(), 0.0);
    for (local, stays) in [(9, Side::Out), (1, Side::In)] {
        for first in Side::BOTH {
            let mut peering = Peering::new(Ends {
                delay_open_time: Some(Duration::from_secs(7)),
                ..ends(local, 5)
            });
            peering.start(at);
            assert_eq!(peering.handle(Side::Out, Event::Connected, at), []);
            peering.admit(at).unwrap();
            assert_eq!(peering.handle(Side::In, Event::Connected, at), []);
            let actions = peering.handle(first, received(Message::Open(open(5))), at);
            assert!(actions.contains(&collision(stays.other())));
            assert_eq!(peering.state(stays.other()), SessionState::Idle);
            if first != stays {
                peering.handle(stays, received(Message::Open(open(5))), at);
            }
            assert_eq!(peering.state(stays), SessionState::OpenConfirm);
        }
    }
}

#[test]
fn who_is_passive_waits_for_the_peer_each_time() {
    let at = At::new(Instant::now(), 0.0);
    let mut peering = Peering::new(Ends {
        passive: true,
        ..ends(9, 5)
    });
    assert_eq!(peering.start(at), []);
    assert_eq!(peering.furthest(), SessionState::Active);
    for _ in 0..2 {
        peering.admit(at).unwrap();
        for event in [
            Event::Connected,
            received(Message::Open(open(5))),
            received(Message::Keepalive),
        ] {
            peering.handle(Side::In, event, at);
        }
        assert_eq!(peering.furthest(), SessionState::Established);
        peering.handle(Side::In, Event::ConnectionFails("gone".into()), at);
        let later = At::new(peering.next_timer().unwrap(), 0.0);
        assert_eq!(peering.due(later), []);
        assert_eq!(peering.furthest(), SessionState::Active);
    }
}

/// RFC 4486 section 4: whoever opened the connection on which the peer said that it is shut down.
#[test]
fn after_a_shutdown_that_came_by_the_peers_connection_ours_waits() {
    let at = At::new(Instant::now(), 0.0);
    for (subcode, wait) in [(2, 30), (4, 1)] {
        let mut peering = Peering::new(ends(9, 5));
        peering.start(at);
        peering.admit(at).unwrap();
        let cease = Message::Notification(Notification::new(6, subcode, []));
        for event in [
            Event::Connected,
            received(Message::Open(open(5))),
            received(Message::Keepalive),
            received(cease),
        ] {
            peering.handle(Side::In, event, at);
        }
        let wait = at.now + Duration::from_secs(wait);
        assert_eq!(peering.next_timer(), Some(wait), "6/{subcode}");
        // And no longer once it has come back and stayed.
        let back = At::new(wait, 0.0);
        assert_eq!(peering.due(back), [(Side::Out, Action::Connect)]);
        for event in [
            Event::Connected,
            received(Message::Open(open(5))),
            received(Message::Keepalive),
        ] {
            peering.handle(Side::Out, event, back);
        }
        let stayed = At::new(back.now + Duration::from_secs(20), 0.0);
        peering.handle(Side::Out, Event::ConnectionFails("gone".into()), stayed);
        let soon = stayed.now + Duration::from_secs(1);
        assert_eq!(peering.next_timer(), Some(soon), "6/{subcode}");
    }
}

/// Two peerings and the connections between them; time goes on when nothing is on its way.
struct Net {
    peers: [Peering; 2],
    /// Who has begun to connect.
    connecting: [bool; 2],
    /// The link that a peer has at a side.
    attached: [[Option<usize>; 2]; 2],
    links: Vec<Link>,
    now: Instant,
}

/// One connection: what is on its way to each peer, and who opened it.
struct Link {
    opener: usize,
    accepted: bool,
    to: [VecDeque<Event>; 2],
}

enum Step {
    Connect(usize),
    Accept(usize),
    Deliver(usize, usize),
}

impl Net {
    fn steps(&self) -> Vec<Step> {
        let connects = (0..2)
            .filter(|peer| self.connecting[*peer])
            .map(Step::Connect);
        let links = self.links.iter().enumerate();
        let links = links.flat_map(|(n, link)| {
            let accept = (!link.accepted).then_some(Step::Accept(n));
            // What is on its way to who has not accepted waits.
            let ready = move |peer: &usize| {
                !link.to[*peer].is_empty() && (link.accepted || *peer == link.opener)
            };
            accept
                .into_iter()
                .chain((0..2).filter(ready).map(move |peer| Step::Deliver(n, peer)))
        });
        connects.chain(links).collect()
    }

    fn take(&mut self, step: Step, at: At) {
        match step {
            Step::Connect(peer) => {
                self.connecting[peer] = false;
                self.links.push(Link {
                    opener: peer,
                    accepted: false,
                    to: Default::default(),
                });
                self.attached[peer][Side::Out as usize] = Some(self.links.len() - 1);
                self.event(peer, Side::Out, Event::Connected, at);
            }
            Step::Accept(n) => {
                self.links[n].accepted = true;
                let opener = self.links[n].opener;
                let peer = 1 - opener;
                match self.peers[peer].admit(at) {
                    Ok(actions) => {
                        self.apply(peer, actions);
                        self.attached[peer][Side::In as usize] = Some(n);
                        self.event(peer, Side::In, Event::Connected, at);
                    }
                    Err(why) => self.links[n].to[opener].extend([
                        received(Message::Notification(why)),
                        Event::ConnectionFails("refused".into()),
                    ]),
                }
            }
            Step::Deliver(n, peer) => {
                let event = self.links[n].to[peer].pop_front().unwrap();
                let side = if self.links[n].opener == peer {
                    Side::Out
                } else {
                    Side::In
                };
                if self.attached[peer][side as usize] == Some(n) {
                    self.event(peer, side, event, at);
                }
            }
        }
    }

    fn event(&mut self, peer: usize, side: Side, event: Event, at: At) {
        let actions = self.peers[peer].handle(side, event, at);
        assert_eq!(self.peers[peer].check(), Ok(()));
        self.apply(peer, actions);
    }

    fn apply(&mut self, peer: usize, actions: Actions) {
        for (side, action) in actions {
            let slot = &mut self.attached[peer][side as usize];
            let events = match action {
                Action::Connect => {
                    self.connecting[peer] = true;
                    continue;
                }
                Action::Close(notification) => {
                    self.connecting[peer] &= side != Side::Out;
                    let told = notification.map(|n| received(Message::Notification(n)));
                    let closed = Event::ConnectionFails("closed".into());
                    let events = told.into_iter().chain([closed]).collect();
                    let Some(n) = slot.take() else { continue };
                    self.links[n].to[1 - peer].extend::<Vec<Event>>(events);
                    continue;
                }
                Action::SendOpen(open) => received(Message::Open(open)),
                Action::SendKeepalive => received(Message::Keepalive),
                Action::Established(_) | Action::Refresh(_) | Action::Fault(_) => continue,
            };
            let n = slot.expect("who sends is connected");
            self.links[n].to[1 - peer].push_back(events);
        }
    }

    /// Both are established, on the same connection, and there is no other.
    fn is_settled(&self) -> bool {
        let both = [0, 1].map(|peer| self.attached[peer].iter().flatten().collect::<Vec<_>>());
        self.peers
            .iter()
            .all(|peer| peer.furthest() == SessionState::Established)
            && both[0].len() == 1
            && both[0] == both[1]
            && self.steps().is_empty()
    }

    fn start(&mut self, peer: usize, at: At) {
        let actions = self.peers[peer].start(at);
        self.apply(peer, actions);
    }

    /// One thing happens, or time goes on to the next timer; false: there is none.
    fn go_on(&mut self, choice: usize) -> bool {
        let random = choice as f64 / 255.0;
        let mut steps = self.steps();
        if !steps.is_empty() {
            let step = steps.swap_remove(choice % steps.len());
            self.take(step, At::new(self.now, random));
            return true;
        }
        let Some(next) = self.peers.iter().filter_map(Peering::next_timer).min() else {
            return false;
        };
        self.now = next;
        for peer in 0..2 {
            let actions = self.peers[peer].due(At::new(next, random));
            assert_eq!(self.peers[peer].check(), Ok(()));
            self.apply(peer, actions);
        }
        true
    }
}

/// How a peer may be configured.
fn any_ends(local: u8, peer: u8) -> impl Strategy<Value = Ends> {
    let families = prop_oneof![
        1 => Just(vec![Family::Ipv4]),
        1 => Just(vec![Family::Ipv6]),
        3 => Just(vec![Family::Ipv4, Family::Ipv6]),
    ];
    let role = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Role::Peer)),
        1 => Just(Some(Role::Customer)),
        1 => Just(Some(Role::Provider)),
    ];
    let delay = prop::option::of(0u64..9);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (families, role, delay, flags, prop::bool::weighted(0.3)).prop_map(
        move |(families, role, delay, (strict, messages, next_hop), passive)| Ends {
            families: families.into_iter().collect(),
            role,
            role_strict: strict,
            extended_messages: messages,
            extended_next_hop: next_hop,
            delay_open_time: delay.map(Duration::from_secs),
            passive,
            ..ends(local, peer)
        },
    )
}

/// Bytes for [`drive`]: anything, or one connection's way to a session, which chance alone seldom finds.
fn any_steps() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => any::<[u8; 2]>().prop_map(Vec::from),
        1 => Just(vec![0, 0, 4, 2, 7, 0, 9, 0]),
        1 => Just(vec![0, 0, 3, 0, 7, 1, 9, 1]),
    ]
}

proptest! {
    /// Whatever the order in which connections come up and messages arrive, whatever the options: if the two
    /// can agree, soon there is one session, the same for both; if not, there never is one, and whoever may
    /// connect keeps trying.
    #[test]
    fn two_agree_or_keep_trying(
        order: [u8; 32],
        larger: bool,
        late in 0usize..3,
        options in (any_ends(1, 2), any_ends(2, 1)),
    ) {
        let (mut one, mut two) = options;
        if larger {
            std::mem::swap(&mut one.identifier, &mut two.identifier);
        }
        let can_talk = one.agree(&two.open()).is_ok() && two.agree(&one.open()).is_ok();
        let can_meet = !(one.passive && two.passive);
        let mut net = Net {
            peers: [Peering::new(one), Peering::new(two)],
            connecting: [false; 2],
            attached: [[None; 2]; 2],
            links: Vec::new(),
            now: Instant::now(),
        };
        let begun = net.now;
        let mut random = order.iter().cycle().map(|byte| usize::from(*byte));
        for peer in 0..2 {
            if peer != late {
                net.start(peer, At::new(begun, 0.0));
            }
        }
        // One of them may be late.
        for _ in 0..usize::from(order[0]) {
            if late < 2 {
                net.go_on(random.next().unwrap());
            }
        }
        if late < 2 {
            net.start(late, At::new(net.now, 0.0));
        }
        let started = net.now;
        while !net.is_settled() && net.now - started < Duration::from_secs(200) {
            if !net.go_on(random.next().unwrap()) {
                break;
            }
            if !can_talk {
                prop_assert!(net.peers.iter().all(|p| p.furthest() != SessionState::Established));
            }
        }
        prop_assert_eq!(net.is_settled(), can_talk && can_meet);
        if !net.is_settled() && can_meet {
            prop_assert!(net.links.len() >= 5, "{} tries", net.links.len());
        }
        if !can_meet {
            prop_assert_eq!(net.links.len(), 0, "who is passive connects");
        }
    }

    /// See [`super::drive`].
    #[test]
    fn whatever_happens(ends: [u8; 4], steps in prop::collection::vec(any_steps(), 0..200)) {
        prop_assert_eq!(drive(&[ends.to_vec(), steps.concat()].concat()), Ok(()));
    }
}

/// What the fuzz target `session` starts from, and what it has found, hold without a fuzzer, too.
#[test]
fn what_the_fuzzer_knows() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/integration/fuzz/seeds/session"
    );
    let seeds: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(seeds.len() > 30, "{} seeds", seeds.len());
    for seed in seeds {
        let path = seed.unwrap().path();
        let script = std::fs::read(&path).unwrap();
        assert_eq!(drive(&script), Ok(()), "{}", path.display());
    }
}
