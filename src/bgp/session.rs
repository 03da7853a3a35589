//! The state machine of RFC 4271 section 8 for one connection: pure, no clock, no socket, no randomness.
//!
//! [`Session::handle`] takes an event and the time and says what to do; timers are data:
//! [`Session::next_timer`] says when to come back, [`Session::due`] which event that is.
//! How two sessions to one peer get along is not here but in `peering`.
//!
//! Of the optional attributes (section 8.1.1) it has AllowAutomaticStart and DampPeerOscillations:
//! an IdleHoldTimer that backs off, after which the session starts by itself. There is no DelayOpen.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Message, Open, Refresh};
use super::notification::{Cease, Notification};
use crate::config::{Bgp, Peer};
use crate::routing::Role;
use crate::routing::session::SessionState;
use crate::service::Family;

/// The HoldTimer until the peer's OPEN is there (section 8.2.2, OpenSent: 4 minutes suggested).
const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);
/// A peer that lives sends its OPEN within this.
const OPEN_COMES: Duration = Duration::from_secs(5);
/// The first and the longest wait between two tries, before jitter.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Who was established for so long is tried again quickly.
const STABLE: Duration = Duration::from_secs(10);

/// Who the two ends are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) local_as: u32,
    pub(crate) identifier: std::net::Ipv4Addr,
    /// What we propose, in seconds.
    pub(crate) hold_time: u16,
    pub(crate) peer_as: u32,
    /// The rest of what we offer; see [`crate::config::Peer`].
    pub(crate) families: BTreeSet<Family>,
    pub(crate) extended_next_hop: bool,
    pub(crate) extended_messages: bool,
    pub(crate) role: Option<Role>,
    pub(crate) role_strict: bool,
    /// When and how we try.
    pub(crate) passive: bool,
    pub(crate) delay_open_time: Option<Duration>,
    pub(crate) connect_retry_time: Duration,
}

impl Ends {
    pub(crate) fn new(bgp: &Bgp, peer: &Peer) -> Ends {
        Ends {
            local_as: bgp.local_as,
            identifier: bgp.router_id,
            // The configuration holds it to 65535 s.
            hold_time: u16::try_from(peer.hold_time.as_secs()).unwrap_or(u16::MAX),
            peer_as: peer.peer_as,
            families: peer.families.clone(),
            extended_next_hop: peer.extended_next_hop,
            extended_messages: peer.extended_messages,
            role: peer.role,
            role_strict: peer.role_strict,
            passive: peer.passive,
            delay_open_time: peer.delay_open_time,
            connect_retry_time: peer.connect_retry_time,
        }
    }
}

/// The moment of an event, and the jitter of timers that it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) now: Instant,
    jitter: f64,
}

/// Section 8.1, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// 3: AutomaticStart.
    Start,
    /// 5: AutomaticStart_with_PassiveTcpEstablishment.
    StartPassive,
    /// 6: AutomaticStart_with_DampPeerOscillations: starts when the IdleHoldTimer expires.
    StartLater,
    /// 2: ManualStop, with what to tell the peer.
    Stop(Notification),
    /// 9
    ConnectRetryTimerExpires,
    /// 10
    HoldTimerExpires,
    /// 11
    KeepaliveTimerExpires,
    /// 13
    IdleHoldTimerExpires,
    /// 16 and 17: Tcp_CR_Acked, TcpConnectionConfirmed.
    Connected,
    /// 18: TcpConnectionFails, and how.
    ConnectionFails(String),
    /// 19, 24 to 27, and RFC 2918's.
    Received(Message),
    /// 21, 22, 28: what arrived is wrong, and what the peer is told.
    Malformed(Notification),
    /// 23: OpenCollisionDump.
    Collision,
    /// Not an event of the RFC: an UPDATE was sent, so the KeepaliveTimer restarts (section 4.4).
    UpdateSent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open a TCP connection to the peer; one that is being opened is given up.
    Connect,
    SendOpen(Open),
    SendKeepalive,
    /// Say this, if there is a connection, and close it; give up opening one.
    Close(Option<Notification>),
    /// Routes may be sent.
    Established(Negotiated),
    /// The peer wants its routes of this family again (RFC 2918).
    Refresh(Family),
    /// The connection ended or did not come up, and why.
    Fault(String),
}

/// What both ends agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) families: BTreeSet<Family>,
    pub(crate) four_octet_as: bool,
    /// The smaller of the two; zero: no keepalives, no HoldTimer (section 4.2).
    pub(crate) hold_time: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    ends: Ends,
    state: SessionState,
    connect_retry_counter: u32,
    timers: Timers,
    /// Set with the peer's OPEN.
    negotiated: Option<Negotiated>,
    established: Option<Instant>,
}

/// Section 8: the timers, each stopped or with the time at which it expires.
#[derive(Clone, Debug, Default, PartialEq)]
struct Timers {
    connect_retry: Option<Instant>,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    idle_hold: Option<Instant>,
}

impl At {
    /// `random`: anything from 0 to 1.
    pub(crate) fn new(now: Instant, random: f64) -> At {
        At {
            now,
            jitter: 1.0 - random.clamp(0.0, 1.0) / 4.0,
        }
    }

    /// Section 10: three quarters of the time to all of it.
    fn after(self, time: Duration) -> Option<Instant> {
        Some(self.now + time.mul_f64(self.jitter))
    }
}

impl Session {
    /// In Idle, with no timer.
    pub(crate) fn new(ends: Ends) -> Session {
        let (timers, state) = (Timers::default(), SessionState::Idle);
        let (negotiated, established) = (None, None);
        Session {
            ends,
            state,
            connect_retry_counter: 0,
            timers,
            negotiated,
            established,
        }
    }

    pub(crate) fn state(&self) -> SessionState {
        self.state
    }

    /// Whether there is (or was a moment ago) a TCP connection.
    pub(crate) fn is_connected(&self) -> bool {
        match self.state {
            SessionState::Idle | SessionState::Connect | SessionState::Active => false,
            SessionState::OpenSent | SessionState::OpenConfirm | SessionState::Established => true,
        }
    }

    /// Whether the peer has had time enough for its OPEN, and has not sent it.
    pub(crate) fn is_mute(&self, now: Instant) -> bool {
        let left = LARGE_HOLD_TIME - OPEN_COMES;
        let expires = self.timers.hold;
        self.state == SessionState::OpenSent && expires.is_some_and(|at| at <= now + left)
    }

    /// When to ask [`Session::due`] again.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let Timers {
            connect_retry,
            hold,
            keepalive,
            idle_hold,
        } = self.timers;
        [connect_retry, hold, keepalive, idle_hold]
            .into_iter()
            .flatten()
            .min()
    }

    /// Stops one timer that has expired and gives its event.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Event> {
        let timers = &mut self.timers;
        let expired = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        if expired(&mut timers.hold) {
            Some(Event::HoldTimerExpires)
        } else if expired(&mut timers.keepalive) {
            Some(Event::KeepaliveTimerExpires)
        } else if expired(&mut timers.connect_retry) {
            Some(Event::ConnectRetryTimerExpires)
        } else if expired(&mut timers.idle_hold) {
            Some(Event::IdleHoldTimerExpires)
        } else {
            None
        }
    }

    /// Section 8.2.2.
    pub(crate) fn handle(&mut self, event: Event, at: At) -> Vec<Action> {
        match self.state {
            SessionState::Idle => self.idle(event, at),
            SessionState::Connect => self.connect(event, at),
            SessionState::Active => self.active(event, at),
            SessionState::OpenSent => self.open_sent(event, at),
            SessionState::OpenConfirm => self.open_confirm(event, at),
            SessionState::Established => self.in_established(event, at),
        }
    }

    /// Checks the peer's OPEN as far as that needs to know who it should be (section 6.2).
    pub(crate) fn accepts(&self, open: &Open) -> Result<Negotiated, Notification> {
        // AS 0 cannot be configured, so RFC 7607 is kept here, too.
        if open.asn != self.ends.peer_as {
            return Err(Notification::new(2, 2, []));
        }
        // RFC 6286 section 2.2: not zero, and inside one AS not ours.
        let internal = self.ends.peer_as == self.ends.local_as;
        if open.identifier.is_unspecified() || internal && open.identifier == self.ends.identifier {
            return Err(Notification::new(2, 3, []));
        }
        // Section 4.2: zero, or at least three seconds.
        if matches!(open.hold_time, 1 | 2) {
            return Err(Notification::new(2, 6, []));
        }
        let ours = self.open();
        Ok(Negotiated {
            families: ours
                .families
                .intersection(&open.families)
                .copied()
                .collect(),
            four_octet_as: open.four_octet_as,
            hold_time: Duration::from_secs(open.hold_time.min(ours.hold_time).into()),
        })
    }

    fn open(&self) -> Open {
        Open {
            asn: self.ends.local_as,
            four_octet_as: true,
            hold_time: self.ends.hold_time,
            identifier: self.ends.identifier,
            families: self.ends.families.clone(),
            route_refresh: true,
            enhanced_route_refresh: false,
            extended_messages: false,
            extended_next_hop: false,
            role: None,
            unknown_role: false,
        }
    }

    fn idle(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start => {
                self.connect_retry_counter = 0;
                self.start_connect(at)
            }
            Event::IdleHoldTimerExpires => self.start_connect(at),
            Event::StartPassive => {
                // The TCP connection is there already and comes as the next event.
                self.connect_retry_counter = 0;
                self.timers = Timers::default();
                self.state = SessionState::Active;
                Vec::new()
            }
            Event::StartLater => {
                self.timers.idle_hold = at.after(self.back_off());
                Vec::new()
            }
            Event::Stop(_) => {
                self.timers = Timers::default();
                Vec::new()
            }
            // Ignored in Idle.
            Event::ConnectRetryTimerExpires
            | Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::Connected
            | Event::ConnectionFails(_)
            | Event::Received(_)
            | Event::Malformed(_)
            | Event::Collision
            | Event::UpdateSent => Vec::new(),
        }
    }

    fn connect(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(_) => self.stop(None),
            Event::ConnectRetryTimerExpires => {
                self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
                let mut actions = vec![Action::Fault("connect timed out".into())];
                actions.extend(self.start_connect(at));
                actions
            }
            Event::Connected => self.connected(at),
            // No DelayOpenTimer, so this goes to Idle; our IdleHoldTimer brings it back.
            Event::ConnectionFails(fault) => self.fail(at, None, Some(fault)),
            Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Received(_)
            | Event::Malformed(_)
            | Event::Collision => self.fail(at, None, None),
        }
    }

    fn active(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(_) => self.stop(None),
            Event::ConnectRetryTimerExpires => self.start_connect(at),
            Event::Connected => self.connected(at),
            Event::ConnectionFails(fault) => self.fail(at, None, Some(fault)),
            Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Received(_)
            | Event::Malformed(_)
            | Event::Collision => self.fail(at, None, None),
        }
    }

    fn open_sent(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(notification) => self.stop(Some(notification)),
            Event::HoldTimerExpires => self.hold_timer_expired(at),
            // The RFC's way back without a start: to Active, and from there to Connect.
            Event::ConnectionFails(fault) => {
                self.timers = Timers::default();
                self.timers.connect_retry = at.after(self.back_off());
                self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
                self.state = SessionState::Active;
                vec![Action::Close(None), Action::Fault(fault)]
            }
            Event::Received(Message::Open(open)) => match self.accepts(&open) {
                Ok(negotiated) => self.opened(negotiated, at),
                Err(notification) => self.refuse(notification, at),
            },
            Event::Malformed(notification) => self.refuse(notification, at),
            Event::Collision => self.fail(
                at,
                Some(Notification::cease(Cease::ConnectionCollision)),
                None,
            ),
            // Section 8.2.2 would answer it with an error; nobody is left to read that.
            Event::Received(Message::Notification(notification)) => self.told(&notification, at),
            Event::Received(Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_))
            | Event::ConnectRetryTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Connected => self.unexpected(1, at),
        }
    }

    fn open_confirm(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(notification) => self.stop(Some(notification)),
            Event::HoldTimerExpires => self.hold_timer_expired(at),
            Event::KeepaliveTimerExpires => self.keepalive(at),
            Event::ConnectionFails(fault) => self.fail(at, None, Some(fault)),
            Event::Received(Message::Notification(notification)) => self.told(&notification, at),
            Event::Received(Message::Keepalive) => {
                self.restart_hold_timer(at);
                self.state = SessionState::Established;
                self.established = Some(at.now);
                self.negotiated
                    .clone()
                    .map(Action::Established)
                    .into_iter()
                    .collect()
            }
            Event::Malformed(notification) => self.refuse(notification, at),
            Event::Collision => self.fail(
                at,
                Some(Notification::cease(Cease::ConnectionCollision)),
                None,
            ),
            Event::Received(Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_))
            | Event::ConnectRetryTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Connected => self.unexpected(2, at),
        }
    }

    fn in_established(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater => Vec::new(),
            Event::Stop(notification) => self.stop(Some(notification)),
            Event::HoldTimerExpires => self.hold_timer_expired(at),
            Event::KeepaliveTimerExpires => self.keepalive(at),
            Event::UpdateSent => {
                self.restart_keepalive_timer(at);
                Vec::new()
            }
            Event::ConnectionFails(fault) => self.fail(at, None, Some(fault)),
            Event::Received(Message::Notification(notification)) => self.told(&notification, at),
            Event::Received(Message::Keepalive | Message::Update(_)) => {
                self.restart_hold_timer(at);
                Vec::new()
            }
            // RFC 2918 section 4: ignored for a family that was not agreed on.
            Event::Received(Message::RouteRefresh(Refresh { family, .. })) => {
                self.restart_hold_timer(at);
                let agreed = self.negotiated.iter().flat_map(|n| &n.families);
                agreed
                    .filter(|f| family == Some(**f))
                    .map(|f| Action::Refresh(*f))
                    .collect()
            }
            // Also a bad header, which section 8.2.2 forgets here and section 6.1 asks for.
            Event::Malformed(notification) => self.refuse(notification, at),
            Event::Collision => self.fail(
                at,
                Some(Notification::cease(Cease::ConnectionCollision)),
                None,
            ),
            Event::Received(Message::Open(_))
            | Event::ConnectRetryTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Connected => self.unexpected(3, at),
        }
    }

    /// To Connect; the ConnectRetryTimer bounds the attempt.
    fn start_connect(&mut self, at: At) -> Vec<Action> {
        self.timers = Timers {
            connect_retry: at.after(self.back_off()),
            ..Timers::default()
        };
        self.state = SessionState::Connect;
        vec![Action::Connect]
    }

    fn connected(&mut self, at: At) -> Vec<Action> {
        self.timers = Timers {
            hold: Some(at.now + LARGE_HOLD_TIME),
            ..Timers::default()
        };
        self.state = SessionState::OpenSent;
        vec![Action::SendOpen(self.open())]
    }

    fn opened(&mut self, negotiated: Negotiated, at: At) -> Vec<Action> {
        self.timers = Timers::default();
        self.negotiated = Some(negotiated);
        self.restart_hold_timer(at);
        self.restart_keepalive_timer(at);
        self.state = SessionState::OpenConfirm;
        vec![Action::SendKeepalive]
    }

    fn keepalive(&mut self, at: At) -> Vec<Action> {
        self.restart_keepalive_timer(at);
        vec![Action::SendKeepalive]
    }

    /// No jitter: the peer counts on the whole of it.
    fn restart_hold_timer(&mut self, at: At) {
        self.timers.hold = self.hold_time().map(|time| at.now + time);
    }

    /// Section 4.4: a third of the hold time.
    fn restart_keepalive_timer(&mut self, at: At) {
        self.timers.keepalive = self.hold_time().and_then(|time| at.after(time / 3));
    }

    fn hold_time(&self) -> Option<Duration> {
        self.negotiated
            .as_ref()
            .map(|n| n.hold_time)
            .filter(|time| !time.is_zero())
    }

    fn hold_timer_expired(&mut self, at: At) -> Vec<Action> {
        self.refuse(Notification::new(4, 0, []), at)
    }

    /// RFC 6608 section 3: the subcode says in which state.
    fn unexpected(&mut self, subcode: u8, at: At) -> Vec<Action> {
        self.refuse(Notification::new(5, subcode, []), at)
    }

    fn refuse(&mut self, notification: Notification, at: At) -> Vec<Action> {
        let fault = notification.to_string();
        self.fail(at, Some(notification), Some(fault))
    }

    fn told(&mut self, notification: &Notification, at: At) -> Vec<Action> {
        self.fail(at, None, Some(format!("the peer says: {notification}")))
    }

    /// To Idle, and from there by the IdleHoldTimer back to Connect.
    fn fail(&mut self, at: At, tell: Option<Notification>, fault: Option<String>) -> Vec<Action> {
        if self
            .established
            .take()
            .is_some_and(|since| at.now - since >= STABLE)
        {
            self.connect_retry_counter = 0;
        }
        self.timers = Timers {
            idle_hold: at.after(self.back_off()),
            ..Timers::default()
        };
        self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
        self.negotiated = None;
        self.state = SessionState::Idle;
        [Action::Close(tell)]
            .into_iter()
            .chain(fault.map(Action::Fault))
            .collect()
    }

    /// To Idle, to stay there until a start.
    fn stop(&mut self, tell: Option<Notification>) -> Vec<Action> {
        *self = Session::new(self.ends.clone());
        vec![Action::Close(tell)]
    }

    /// What the ConnectRetryCounter makes of the time to the next try.
    fn back_off(&self) -> Duration {
        RETRY_FIRST
            .saturating_mul(1 << self.connect_retry_counter.min(8))
            .min(RETRY_MAX)
    }
}

#[cfg(test)]
impl Ends {
    /// With nothing configured but what must be.
    pub(crate) fn plain() -> Ends {
        let bgp = Bgp {
            local_as: 64600,
            router_id: [10, 0, 0, 1].into(),
            listen: Vec::new(),
            policy: Default::default(),
            shutdown_text: None,
            peers: Default::default(),
        };
        let peer = std::net::IpAddr::from([10, 0, 0, 2]);
        Ends::new(&bgp, &Peer::new(peer.into(), 64601))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::bgp::message::{RefreshKind, Update};

    fn refresh(family: Option<Family>) -> Refresh {
        let kind = RefreshKind::Request;
        Refresh { family, kind }
    }

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
            Story {
                session: Session::new(ends()),
                now: Instant::now(),
            }
        }

        /// One that has come this far.
        fn in_state(state: SessionState) -> Story {
            let mut story = Story::new();
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
            self.session.handle(event, At::new(self.now, 0.0))
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
        let ours = story.session.open();
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
        let negotiated = Negotiated {
            families: theirs().families,
            four_octet_as: true,
            hold_time: Duration::from_secs(9),
        };
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
    fn hold_time_zero_means_no_timers() {
        let mut story = Story::in_state(SessionState::OpenSent);
        let open = Open {
            hold_time: 0,
            ..theirs()
        };
        story.event(received(Message::Open(open)));
        story.event(received(Message::Keepalive));
        assert_eq!(story.session.state(), SessionState::Established);
        assert_eq!(story.session.next_timer(), None);
    }

    #[test]
    fn opens_that_are_refused() {
        let table = [
            (
                Open {
                    asn: 65000,
                    ..theirs()
                },
                (2, 2),
            ),
            (
                Open {
                    asn: 23456,
                    four_octet_as: false,
                    ..theirs()
                },
                (2, 2),
            ),
            (
                Open {
                    identifier: Ipv4Addr::UNSPECIFIED,
                    ..theirs()
                },
                (2, 3),
            ),
            (
                Open {
                    hold_time: 1,
                    ..theirs()
                },
                (2, 6),
            ),
            (
                Open {
                    hold_time: 2,
                    ..theirs()
                },
                (2, 6),
            ),
        ];
        for (open, (code, subcode)) in table {
            let mut story = Story::in_state(SessionState::OpenSent);
            let told = close_with(code, subcode);
            story.check(received(Message::Open(open)), &told, SessionState::Idle);
        }
        // RFC 6286: our identifier is refused inside our AS only.
        let same = Open {
            identifier: ends().identifier,
            ..theirs()
        };
        assert!(Session::new(ends()).accepts(&same).is_ok());
        let internal = Session::new(Ends {
            peer_as: 64600,
            ..ends()
        });
        let refused = internal.accepts(&Open { asn: 64600, ..same }).unwrap_err();
        assert_eq!((refused.code, refused.subcode), (2, 3));
    }

    #[test]
    fn what_is_agreed_on() {
        let session = Session::new(ends());
        let open = Open {
            hold_time: 3,
            four_octet_as: false,
            families: BTreeSet::from([Family::Ipv6]),
            ..theirs()
        };
        let agreed = session.accepts(&open).unwrap();
        assert_eq!(agreed.hold_time, Duration::from_secs(3));
        assert_eq!(agreed.families, BTreeSet::from([Family::Ipv6]));
        assert!(!agreed.four_octet_as);
    }

    #[test]
    fn messages_out_of_turn_are_state_machine_errors() {
        let update = || Message::Update(Update::default());
        let refresh = || Message::RouteRefresh(refresh(Some(Family::Ipv4)));
        let table = [
            (
                SessionState::OpenSent,
                vec![Message::Keepalive, update(), refresh()],
                1,
            ),
            (
                SessionState::OpenConfirm,
                vec![Message::Open(theirs()), update(), refresh()],
                2,
            ),
            (SessionState::Established, vec![Message::Open(theirs())], 3),
        ];
        for (state, messages, subcode) in table {
            for message in messages {
                let mut story = Story::in_state(state);
                story.check(
                    received(message),
                    &close_with(5, subcode),
                    SessionState::Idle,
                );
            }
        }
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

    #[test]
    fn a_refresh_of_what_was_agreed_on() {
        let mut story = Story::in_state(SessionState::Established);
        let refresh = |family| received(Message::RouteRefresh(refresh(family)));
        let wanted = [Action::Refresh(Family::Ipv6)];
        story.check(
            refresh(Some(Family::Ipv6)),
            &wanted,
            SessionState::Established,
        );
        story.check(refresh(None), &[], SessionState::Established);
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
            1 => Just(received(Message::RouteRefresh(refresh(Some(Family::Ipv4))))),
            1 => Just(received(Message::Notification(Notification::new(6, 4, [])))),
        ]
    }

    proptest! {
        /// Never Established but after an OPEN and a KEEPALIVE each way on this connection; never
        /// stuck: unless stopped, there is a timer or somebody to wait for; no timer in the past.
        #[test]
        fn any_events(events in prop::collection::vec((any_event(), 0u64..20, 0.0..1.0f64), 0..60)) {
            let mut session = Session::new(ends());
            let mut now = Instant::now();
            let mut started = false;
            let (mut sent, mut heard) = (Vec::new(), Vec::new());
            for (event, pause, random) in events {
                now += Duration::from_secs(pause);
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
                    for action in session.handle(event, At::new(now, random)) {
                        match action {
                            Action::Connect | Action::Close(_) => {
                                sent.clear();
                                heard.clear();
                            }
                            Action::SendOpen(_) => {
                                sent = vec!["open"];
                                heard.clear();
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
}
