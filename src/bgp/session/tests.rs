//! Stories of one session; the whole of section 8.2.2 as a table is in `table`.

mod table;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::steps::STABLE;
use super::*;
use crate::bgp::message::{Refresh, RefreshKind, Update};
use crate::bgp::notification::Cease;

fn ends() -> Ends {
    let identifier = Ipv4Addr::new(10, 0, 0, 1);
    Ends {
        local_as: 64600,
        identifier,
        hold_time: 9,
        peer_as: 4_200_000_001,
        ..Ends::plain()
    }
}

fn theirs() -> Open {
    Open {
        asn: 4_200_000_001,
        four_octet_as: true,
        hold_time: 90,
        identifier: Ipv4Addr::new(10, 0, 0, 2),
        families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
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

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A session and its time, which only goes on by [`Story::wait`]; timers without jitter.
struct Story {
    session: Session,
    now: Instant,
}

impl Story {
    fn new() -> Story {
        Story::of(ends())
    }

    fn of(ends: Ends) -> Story {
        Story {
            session: Session::new(ends),
            now: Instant::now(),
        }
    }

    /// One that has come this far.
    fn in_state(state: SessionState) -> Story {
        Story::of_in_state(ends(), state)
    }

    fn of_in_state(ends: Ends, state: SessionState) -> Story {
        let mut story = Story::of(ends);
        if state == SessionState::Active {
            story.event(Event::StartPassive);
            return story;
        }
        let way = [
            (SessionState::Connect, Event::Start),
            (SessionState::OpenSent, Event::Connected),
            (SessionState::OpenConfirm, received(Message::Open(theirs()))),
            (SessionState::Established, received(Message::Keepalive)),
        ];
        for (reached, event) in way {
            if reached <= state {
                story.event(event);
            }
        }
        assert_eq!(story.session.state(), state);
        story
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let actions = self.session.handle(event, At::new(self.now, 0.0));
        assert_eq!(self.session.check(), Ok(()));
        actions
    }

    /// Waits until the next timer and handles it: how long that was, which it was, what came of it.
    fn wait(&mut self) -> (f64, Event, Vec<Action>) {
        let next = self.session.next_timer().expect("a timer");
        let waited = next - self.now;
        assert_eq!(
            self.session.due(next - Duration::from_nanos(1)),
            None,
            "too early"
        );
        self.now = next;
        let event = self.session.due(self.now).expect("it is due");
        let actions = self.event(event.clone());
        (waited.as_secs_f64(), event, actions)
    }

    #[track_caller]
    fn check(&mut self, event: Event, actions: &[Action], state: SessionState) {
        let from = self.session.state();
        assert_eq!(self.event(event.clone()), actions, "{event:?} in {from:?}");
        assert_eq!(self.session.state(), state, "{event:?} in {from:?}");
    }
}

fn close_with(code: u8, subcode: u8) -> Vec<Action> {
    let notification = Notification::new(code, subcode, []);
    let fault = notification.to_string();
    vec![Action::Close(Some(notification)), Action::Fault(fault)]
}

const CONNECTED: [SessionState; 3] = [
    SessionState::OpenSent,
    SessionState::OpenConfirm,
    SessionState::Established,
];

#[test]
fn from_start_to_established_and_its_timers() {
    let mut story = Story::new();
    assert_eq!(story.session.next_timer(), None);
    story.check(Event::Start, &[Action::Connect], SessionState::Connect);
    let ours = story.session.ends.open();
    assert_eq!((ours.asn, ours.hold_time), (64600, 9));
    story.check(
        Event::Connected,
        &[Action::SendOpen(ours)],
        SessionState::OpenSent,
    );
    assert_eq!(
        story.session.next_timer(),
        Some(story.now + LARGE_HOLD_TIME)
    );
    let open = received(Message::Open(theirs()));
    story.check(open, &[Action::SendKeepalive], SessionState::OpenConfirm);
    let negotiated = ends().agree(&theirs()).unwrap();
    let established = [Action::Established(negotiated)];
    story.check(
        received(Message::Keepalive),
        &established,
        SessionState::Established,
    );

    let keepalive = (
        3.0,
        Event::KeepaliveTimerExpires,
        vec![Action::SendKeepalive],
    );
    assert_eq!(story.wait(), keepalive);
    assert_eq!(story.wait(), keepalive);
    let hold = (3.0, Event::HoldTimerExpires, close_with(4, 0));
    assert_eq!(story.wait(), hold, "9 s without a word");
    assert_eq!(story.session.state(), SessionState::Idle);
    let (waited, event, actions) = story.wait();
    assert_eq!((waited, event), (1.0, Event::IdleHoldTimerExpires));
    assert_eq!(actions, [Action::Connect]);
}

#[test]
fn what_restarts_the_hold_and_keepalive_timers() {
    for message in [Message::Keepalive, Message::Update(Update::default())] {
        let mut story = Story::in_state(SessionState::Established);
        story.now += seconds(2.0);
        story.check(received(message), &[], SessionState::Established);
        assert_eq!(story.session.timers.hold, Some(story.now + seconds(9.0)));
    }
    let mut story = Story::in_state(SessionState::Established);
    story.now += seconds(2.0);
    story.check(Event::UpdateSent, &[], SessionState::Established);
    assert_eq!(story.session.next_timer(), Some(story.now + seconds(3.0)));
}

#[test]
fn ends_of_a_connected_session() {
    for state in CONNECTED {
        let bad = Notification::new(1, 2, []);
        let mut story = Story::in_state(state);
        story.check(Event::Malformed(bad), &close_with(1, 2), SessionState::Idle);

        let mut story = Story::in_state(state);
        story.check(
            received(Message::Notification(Notification::new(6, 4, []))),
            &[
                Action::Close(None),
                Action::Fault("the peer says: administrative reset (6/4)".into()),
            ],
            SessionState::Idle,
        );

        let mut story = Story::in_state(state);
        let collision = Notification::new(6, 7, []);
        story.check(
            Event::Collision,
            &[Action::Close(Some(collision))],
            SessionState::Idle,
        );
        assert!(story.session.next_timer().is_some(), "tries again");

        let mut story = Story::in_state(state);
        let cease = Notification::cease(Cease::AdministrativeShutdown);
        let told = [Action::Close(Some(cease.clone()))];
        story.check(Event::Stop(cease), &told, SessionState::Idle);
        assert_eq!(story.session.next_timer(), None, "stays");
    }
}

#[test]
fn a_lost_connection() {
    let fails = || Event::ConnectionFails("reset".into());
    let lost = [Action::Close(None), Action::Fault("reset".into())];
    let mut story = Story::in_state(SessionState::OpenSent);
    story.check(fails(), &lost, SessionState::Active);
    let (_, event, actions) = story.wait();
    assert_eq!(
        (event, actions),
        (Event::ConnectRetryTimerExpires, vec![Action::Connect])
    );
    assert_eq!(story.session.state(), SessionState::Connect);
    for state in [
        SessionState::OpenConfirm,
        SessionState::Established,
        SessionState::Connect,
    ] {
        let mut story = Story::in_state(state);
        story.check(fails(), &lost, SessionState::Idle);
        assert_eq!(story.wait().1, Event::IdleHoldTimerExpires);
        assert_eq!(story.session.state(), SessionState::Connect);
    }
}

#[test]
fn tries_grow_apart_up_to_half_a_minute_and_start_over_once_stable() {
    let mut story = Story::in_state(SessionState::Connect);
    let mut waits = Vec::new();
    for _ in 0..7 {
        story.event(Event::ConnectionFails("refused".into()));
        waits.push(story.wait().0);
        assert_eq!(story.session.state(), SessionState::Connect);
    }
    assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);

    // A SYN without an answer is given up and sent again, as far apart.
    let (waited, event, actions) = story.wait();
    assert_eq!((waited, event), (30.0, Event::ConnectRetryTimerExpires));
    assert_eq!(actions.last(), Some(&Action::Connect));

    for (lasts, wait) in [(STABLE - seconds(0.1), 30.0), (STABLE, 1.0)] {
        story.event(Event::Connected);
        story.event(received(Message::Open(theirs())));
        story.event(received(Message::Keepalive));
        assert_eq!(story.session.state(), SessionState::Established);
        story.now += lasts;
        story.event(Event::ConnectionFails("reset".into()));
        assert_eq!(story.wait().0, wait);
    }
}

#[test]
fn idle_waits_for_a_start() {
    let mut story = Story::new();
    for event in [
        Event::Connected,
        received(Message::Keepalive),
        Event::Collision,
    ] {
        story.check(event, &[], SessionState::Idle);
    }
    story.check(Event::StartLater, &[], SessionState::Idle);
    assert_eq!(story.wait().2, [Action::Connect]);
    for state in [SessionState::Connect, SessionState::Active] {
        let mut story = Story::in_state(state);
        let stop = Event::Stop(Notification::new(6, 2, []));
        story.check(stop, &[Action::Close(None)], SessionState::Idle);
        assert_eq!(story.session.next_timer(), None);
    }
}

/// RFC 2918 section 4, and RFC 7313 section 5 where the peer speaks it.
#[test]
fn a_refresh_of_what_was_agreed_on() {
    let kinds = [
        RefreshKind::Request,
        RefreshKind::Begin,
        RefreshKind::End,
        RefreshKind::Other(77),
    ];
    for (enhanced_route_refresh, answered) in [(false, &kinds[..]), (true, &kinds[..1])] {
        let mut story = Story::in_state(SessionState::OpenSent);
        story.event(received(Message::Open(Open {
            families: [Family::Ipv6].into(),
            enhanced_route_refresh,
            ..theirs()
        })));
        story.event(received(Message::Keepalive));
        for kind in kinds {
            for family in [None, Some(Family::Ipv4), Some(Family::Ipv6)] {
                let wanted = family == Some(Family::Ipv6) && answered.contains(&kind);
                let actions: &[Action] = match wanted {
                    true => &[Action::Refresh(Family::Ipv6)],
                    false => &[],
                };
                story.now += seconds(1.0);
                let refresh = received(Message::RouteRefresh(Refresh { family, kind }));
                story.check(refresh, actions, SessionState::Established);
                assert_eq!(story.session.timers.hold, Some(story.now + seconds(9.0)));
            }
        }
    }
}

fn delayed() -> Ends {
    Ends {
        delay_open_time: Some(seconds(4.0)),
        ..ends()
    }
}

#[test]
fn an_open_that_is_delayed() {
    for (start, state) in [
        (Event::Start, SessionState::Connect),
        (Event::StartPassive, SessionState::Active),
    ] {
        // The peer says nothing, either.
        let mut story = Story::of(delayed());
        story.event(start.clone());
        story.check(Event::Connected, &[], state);
        assert!(story.session.is_connected());
        let ours = Action::SendOpen(ends().open());
        let sent = (4.0, Event::DelayOpenTimerExpires, vec![ours.clone()]);
        assert_eq!(story.wait(), sent);
        assert_eq!(story.session.state(), SessionState::OpenSent);

        // The peer's OPEN comes first.
        let mut story = Story::of(delayed());
        story.event(start.clone());
        story.event(Event::Connected);
        story.now += seconds(2.0);
        let answer = [ours, Action::SendKeepalive];
        let open = || received(Message::Open(theirs()));
        story.check(open(), &answer, SessionState::OpenConfirm);

        // One that is refused needs no OPEN of ours, nor does a stop.
        let mut story = Story::of(delayed());
        story.event(start.clone());
        story.event(Event::Connected);
        let why = Notification::cease(Cease::AdministrativeShutdown);
        let told = [Action::Close(Some(why.clone()))];
        story.check(Event::Stop(why), &told, SessionState::Idle);
    }
    // A delay of nothing is none.
    let mut story = Story::of(Ends {
        delay_open_time: Some(Duration::ZERO),
        ..ends()
    });
    story.event(Event::Start);
    let sent = [Action::SendOpen(ends().open())];
    story.check(Event::Connected, &sent, SessionState::OpenSent);
}

#[test]
fn who_is_passive_never_connects() {
    let mut story = Story::of(Ends {
        passive: true,
        ..ends()
    });
    story.check(Event::Start, &[], SessionState::Active);
    assert_eq!(story.session.next_timer(), None, "it is the peer's turn");
    story.event(Event::Connected);
    let lost = [Action::Close(None), Action::Fault("reset".into())];
    let fails = || Event::ConnectionFails("reset".into());
    story.check(fails(), &lost, SessionState::Active);
    assert_eq!(story.session.next_timer(), None);
    story.check(fails(), &lost, SessionState::Idle);
    assert_eq!(story.wait().2, []);
    assert_eq!(story.session.state(), SessionState::Active);
}

/// Time alone does not mend them, but a session comes back whatever the peer said.
#[test]
fn after_a_cease_that_a_person_has_to_mend_tries_are_slow() {
    for (subcode, wait) in [
        (1, 30.0),
        (2, 30.0),
        (3, 30.0),
        (4, 1.0),
        (6, 1.0),
        (7, 1.0),
    ] {
        let mut story = Story::in_state(SessionState::Established);
        story.now += STABLE;
        let cease = Notification::new(6, subcode, []);
        story.event(received(Message::Notification(cease)));
        let (waited, _, actions) = story.wait();
        assert_eq!(
            (waited, actions),
            (wait, vec![Action::Connect]),
            "6/{subcode}"
        );
    }
}

#[test]
fn a_collision_is_no_failure() {
    let mut story = Story::in_state(SessionState::OpenSent);
    for _ in 0..3 {
        story.event(Event::Collision);
        assert_eq!(story.wait().0, 1.0);
        story.event(Event::Connected);
        let told = Message::Notification(Notification::new(6, 7, []));
        story.event(received(told));
        assert_eq!(story.wait().0, 1.0);
        story.event(Event::Connected);
    }
}

#[test]
fn the_longest_wait_is_configured() {
    for (longest, waits) in [
        (5.0, [1.0, 2.0, 4.0, 5.0, 5.0]),
        // Less than a second would be a flood.
        (0.0, [1.0; 5]),
    ] {
        let mut story = Story::of(Ends {
            connect_retry_time: seconds(longest),
            ..ends()
        });
        story.event(Event::Start);
        for wait in waits {
            story.event(Event::ConnectionRefused("refused".into()));
            assert_eq!(story.wait().0, wait);
        }
    }
    // Nor does it overflow.
    let mut story = Story::of(Ends {
        connect_retry_time: Duration::from_secs(65535),
        ..ends()
    });
    story.event(Event::Start);
    story.session.connect_retry_counter = u32::MAX;
    story.event(Event::ConnectionRefused("refused".into()));
    assert_eq!(story.wait().0, 65535.0);
}

#[test]
fn symptoms() {
    let check = |story: &Story, event: Event, symptom| {
        assert_eq!(
            story.session.symptom(&event, story.now),
            symptom,
            "{event:?}"
        );
    };
    let hold_timer = |up| {
        Some(Symptom::HoldTimer {
            up: seconds(up),
            hold_time: seconds(9.0),
        })
    };
    let told =
        |code, subcode| received(Message::Notification(Notification::new(code, subcode, [])));
    let fails = || Event::ConnectionFails("gone".into());
    let refused = || Event::ConnectionRefused("refused".into());
    let other = || received(Message::Open(Open { asn: 1, ..theirs() }));

    let story = Story::in_state(SessionState::Connect);
    check(
        &story,
        Event::ConnectRetryTimerExpires,
        Some(Symptom::ConnectTimedOut),
    );
    check(&story, refused(), Some(Symptom::Refused));
    check(&story, fails(), None);
    let story = Story::in_state(SessionState::OpenSent);
    check(&story, fails(), Some(Symptom::Refused));
    check(&story, other(), Some(Symptom::BadPeerAs));
    check(&story, received(Message::Open(theirs())), None);
    check(&story, told(2, 2), Some(Symptom::BadPeerAs));
    check(&story, told(4, 0), None);
    check(&story, Event::HoldTimerExpires, Some(Symptom::NoOpen));
    for state in [SessionState::OpenConfirm, SessionState::Established] {
        let mut story = Story::in_state(state);
        story.now += seconds(9.0);
        check(&story, Event::HoldTimerExpires, hold_timer(9.0));
        check(&story, told(4, 0), hold_timer(9.0));
        check(&story, fails(), None);
    }
    let mut story = Story::in_state(SessionState::Established);
    story.event(received(Message::Keepalive));
    story.now += seconds(9.0);
    check(&story, Event::HoldTimerExpires, None);
    check(&story, told(4, 0), hold_timer(9.0));
}

#[test]
fn jitter_takes_up_to_a_quarter_of_all_but_the_hold_timer() {
    let now = Instant::now();
    for (random, least) in [(0.0, 1.0), (1.0, 0.75), (7.0, 0.75), (-1.0, 1.0)] {
        let mut session = Session::new(ends());
        let at = At::new(now, random);
        session.handle(Event::Start, at);
        assert_eq!(session.timers.connect_retry, Some(now + seconds(least)));
        session.handle(Event::Connected, at);
        session.handle(received(Message::Open(theirs())), at);
        assert_eq!(session.timers.keepalive, Some(now + seconds(3.0 * least)));
        assert_eq!(session.timers.hold, Some(now + seconds(9.0)));
        session.handle(Event::ConnectionFails(String::new()), at);
        assert_eq!(session.timers.idle_hold, Some(now + seconds(least)));
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let good = Just(theirs());
    let bad = Just(Open { asn: 1, ..theirs() });
    prop_oneof![
        1 => Just(Event::Start),
        1 => Just(Event::StartPassive),
        1 => Just(Event::StartLater),
        1 => Just(Event::Stop(Notification::new(6, 2, []))),
        1 => Just(Event::ConnectRetryTimerExpires),
        1 => Just(Event::HoldTimerExpires),
        1 => Just(Event::KeepaliveTimerExpires),
        1 => Just(Event::DelayOpenTimerExpires),
        1 => Just(Event::SendHoldTimerExpires),
        1 => Just(Event::ConnectionRefused("no".into())),
        1 => Just(Event::IdleHoldTimerExpires),
        3 => Just(Event::Connected),
        1 => Just(Event::ConnectionFails("gone".into())),
        1 => Just(Event::Malformed(Notification::new(3, 1, []))),
        1 => Just(Event::Collision),
        1 => Just(Event::UpdateSent),
        3 => good.prop_map(|open| received(Message::Open(open))),
        1 => bad.prop_map(|open| received(Message::Open(open))),
        3 => Just(received(Message::Keepalive)),
        1 => Just(received(Message::Update(Update::default()))),
        1 => Just(received(Message::RouteRefresh(Refresh { family: Some(Family::Ipv4), kind: RefreshKind::Request }))),
        1 => Just(received(Message::Notification(Notification::new(6, 4, [])))),
    ]
}

proptest! {
    /// Never Established but after an OPEN and a KEEPALIVE each way on this connection; never
    /// stuck: unless stopped, there is a timer or somebody to wait for; no timer in the past.
    #[test]
    fn any_events(delay: bool, events in prop::collection::vec((any_event(), 0u64..20, 0.0..1.0f64), 0..60)) {
        let mut session = Session::new(if delay { delayed() } else { ends() });
        let mut now = Instant::now();
        let mut started = false;
        let (mut sent, mut heard) = (Vec::new(), Vec::new());
        for (event, pause, random) in events {
            now += Duration::from_secs(pause);
            if session.state() == SessionState::Idle {
                heard.clear();
            }
            if let Event::Received(message) = &event {
                heard.push(message.clone());
            }
            let starts = [
                Event::Start,
                Event::StartLater,
                Event::StartPassive,
                Event::IdleHoldTimerExpires,
            ];
            started = started && !matches!(event, Event::Stop(_)) || starts.contains(&event);
            let due = session.due(now).into_iter();
            for event in due.chain([event]) {
                let actions = session.handle(event, At::new(now, random));
                prop_assert_eq!(session.check(), Ok(()));
                for action in actions {
                    match action {
                        Action::Connect | Action::Close(_) => {
                            sent.clear();
                            heard.clear();
                        }
                        Action::SendOpen(_) => {
                            sent = vec!["open"];
}
                        Action::SendKeepalive => sent.push("keepalive"),
                        Action::Established(_) => {
                            prop_assert_eq!(&sent[..2], ["open", "keepalive"]);
                            prop_assert!(matches!(heard[0], Message::Open(_)));
                            prop_assert_eq!(&heard[1], &Message::Keepalive);
                            prop_assert_eq!(session.state(), SessionState::Established);
                        }
                        Action::Refresh(_) | Action::Fault(_) => {}
                    }
                }
            }
            let passive = session.state() == SessionState::Active;
            if started && !passive {
                prop_assert!(session.next_timer().is_some_and(|next| next >= now));
            }
            if !started {
                prop_assert_eq!(session.state(), SessionState::Idle);
            }
        }
    }
}
