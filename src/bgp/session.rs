//! The state machine of RFC 4271 section 8 for one connection: pure, no clock, no socket, no randomness.
//!
//! [`Session::handle`] takes an event and the time and says what to do; timers are data:
//! [`Session::next_timer`] says when to come back, [`Session::due`] which event that is.
//! How two sessions to one peer get along is not here but in `peering`.
//!
//! Of the optional attributes (section 8.1.1) it has AllowAutomaticStart, PassiveTcpEstablishment (here it
//! means never to connect), DelayOpen, DampPeerOscillations (an IdleHoldTimer that backs off, after which the
//! session starts by itself) and SendNOTIFICATIONwithoutOPEN. Where it leaves section 8.2.2, its tests' table
//! says so.

mod negotiate;
mod steps;
#[cfg(test)]
mod tests;
mod timers;

use std::time::Duration;

use tokio::time::Instant;

pub use self::negotiate::{Ends, Negotiated};
use self::steps::Pace;
pub use self::timers::{At, Timers};
use super::hint::Symptom;
use super::message::{self, Message, Open};
use super::notification::Notification;
use crate::routing::session::SessionState;
use crate::service::Family;

/// The HoldTimer until the peer's OPEN is there (section 8.2.2, OpenSent: 4 minutes suggested).
const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);
/// A peer that lives sends its OPEN, and answers ours, within this.
pub(super) const ANSWER_COMES: Duration = Duration::from_secs(5);

/// Section 8.1, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// 3: AutomaticStart; 5 for who is configured to be passive.
    Start,
    /// 5: AutomaticStart_with_PassiveTcpEstablishment: for a connection that the peer has opened.
    StartPassive,
    /// 6 and 7: the same with DampPeerOscillations: starts when the IdleHoldTimer expires.
    StartLater,
    /// 2: ManualStop, with what to tell the peer.
    Stop(Notification),
    /// 9
    ConnectRetryTimerExpires,
    /// 10
    HoldTimerExpires,
    /// 11
    KeepaliveTimerExpires,
    /// 12
    DelayOpenTimerExpires,
    /// 13
    IdleHoldTimerExpires,
    /// 16 and 17: Tcp_CR_Acked, TcpConnectionConfirmed.
    Connected,
    /// 18: TcpConnectionFails, and how.
    ConnectionFails(String),
    /// 18, too: the peer's host answered our SYN with a reset.
    ConnectionRefused(String),
    /// 19, 20, 24 to 27, and RFC 2918's.
    Received(Message),
    /// 21, 22, 28: what arrived is wrong, and what the peer is told.
    Malformed(Notification),
    /// 23: OpenCollisionDump.
    Collision,
    /// 29, of RFC 9687: the peer has taken nothing of what we send.
    SendHoldTimerExpires,
    /// Not an event of the RFC: an UPDATE was sent, so the KeepaliveTimer restarts (section 4.4).
    UpdateSent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a TCP connection to the peer; one that is being opened is given up.
    Connect,
    SendOpen(Open),
    SendKeepalive,
    /// Say this and close the connection, if there is one; give up opening one.
    Close(Option<Notification>),
    /// Routes may be sent.
    Established(Negotiated),
    /// The peer wants its routes of this family again (RFC 2918).
    Refresh(Family),
    /// The connection ended or did not come up, and why.
    Fault(String),
}

#[derive(Clone, Debug)]
pub struct Session {
    ends: Ends,
    state: SessionState,
    connect_retry_counter: u32,
    timers: Timers,
    /// Set with the peer's OPEN, with the time.
    negotiated: Option<(Negotiated, Instant)>,
    established: Option<Established>,
}

#[derive(Clone, Copy, Debug)]
struct Established {
    since: Instant,
    /// Whether anything has come from the peer since then.
    heard: bool,
}

impl Session {
    /// In Idle, with no timer.
    pub fn new(ends: Ends) -> Session {
        Session {
            ends,
            state: SessionState::Idle,
            connect_retry_counter: 0,
            timers: Timers::default(),
            negotiated: None,
            established: None,
        }
    }

    pub fn state(&self) -> SessionState {
        self.state
    }

    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Whether there is (or was a moment ago) a TCP connection.
    pub fn is_connected(&self) -> bool {
        match self.state {
            SessionState::Idle => false,
            SessionState::Connect | SessionState::Active => self.delays_open(),
            SessionState::OpenSent | SessionState::OpenConfirm | SessionState::Established => true,
        }
    }

    /// Whether there is a connection and the peer's OPEN has not come by it.
    pub fn awaits_open(&self) -> bool {
        self.state == SessionState::OpenSent || self.delays_open()
    }

    /// Whether the peer has had time enough for its OPEN, and has not sent it.
    pub fn is_mute(&self, now: Instant) -> bool {
        let left = LARGE_HOLD_TIME - ANSWER_COMES;
        let expires = self.timers.hold;
        self.state == SessionState::OpenSent && expires.is_some_and(|at| at <= now + left)
    }

    /// Whether tries are as slow as they get, for what the peer said.
    pub fn is_slowest(&self) -> bool {
        self.connect_retry_counter >= steps::FAILURES_MAX
    }

    /// From the next try on they are.
    pub fn slow_down(&mut self) {
        self.connect_retry_counter = steps::FAILURES_MAX;
    }

    /// Whether the session is established, with a peer that may come back before we know that it has gone.
    pub fn peer_restarts(&self) -> bool {
        let established = self.state == SessionState::Established;
        let agreed = self.negotiated.as_ref().filter(|_| established);
        agreed.is_some_and(|(agreed, _)| agreed.restarts)
    }

    /// When to ask [`Session::due`] again.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Stops one timer that has expired and gives its event.
    pub fn due(&mut self, now: Instant) -> Option<Event> {
        self.timers.due(now)
    }

    /// Section 8.2.2.
    pub fn handle(&mut self, event: Event, at: At) -> Vec<Action> {
        match self.state {
            SessionState::Idle => self.idle(event, at),
            SessionState::Connect | SessionState::Active => self.waiting(event, at),
            SessionState::OpenSent => self.open_sent(event, at),
            SessionState::OpenConfirm => self.open_confirm(event, at),
            SessionState::Established => self.in_established(event, at),
        }
    }

    /// What this event, which is yet to be handled, tells of the two ends' configuration.
    pub fn symptom(&self, event: &Event, now: Instant) -> Option<Symptom> {
        let since_open = |(agreed, since): &(Negotiated, Instant)| Symptom::HoldTimer {
            up: now - *since,
            hold_time: agreed.hold_time,
        };
        let bad_peer_as = |n: &Notification| (n.code, n.subcode) == (2, 2);
        match (event, self.state) {
            (Event::ConnectRetryTimerExpires, SessionState::Connect) if !self.delays_open() => {
                Some(Symptom::ConnectTimedOut)
            }
            (Event::ConnectionRefused(_), SessionState::Connect)
            | (Event::ConnectionFails(_), SessionState::OpenSent) => Some(Symptom::Refused),
            (Event::HoldTimerExpires, SessionState::OpenSent) => Some(Symptom::NoOpen),
            (Event::HoldTimerExpires, _) if self.established.is_none_or(|e| !e.heard) => {
                self.negotiated.as_ref().map(since_open)
            }
            (Event::Received(Message::Notification(n)), _) if n.code == 4 => {
                self.negotiated.as_ref().map(since_open)
            }
            (Event::Received(Message::Notification(n)), _) if bad_peer_as(n) => {
                Some(Symptom::BadPeerAs)
            }
            (Event::Received(Message::Open(open)), _) if self.awaits_open() => {
                let refused = self.ends.agree(open).err()?;
                bad_peer_as(&refused.tell).then_some(Symptom::BadPeerAs)
            }
            _ => None,
        }
    }

    /// What must hold between any two events; `Err`: what does not.
    pub fn check(&self) -> Result<(), String> {
        let Timers {
            connect_retry,
            delay_open,
            hold,
            keepalive,
            idle_hold,
        } = self.timers;
        let runs = [connect_retry, delay_open, hold, keepalive, idle_hold].map(|t| t.is_some());
        let (open, up) = (self.negotiated.is_some(), self.established.is_some());
        let good = match self.state {
            SessionState::Idle => runs[..4] == [false; 4] && !open && !up,
            // One bounds the attempt to connect, the other the wait on the connection.
            SessionState::Connect => runs[0] != runs[1] && runs[2..] == [false; 3] && !open && !up,
            SessionState::Active => {
                runs[..2] != [true; 2] && runs[2..] == [false; 3] && !open && !up
            }
            SessionState::OpenSent => runs == [false, false, true, false, false] && !open && !up,
            SessionState::OpenConfirm => runs == [false, false, true, true, false] && open && !up,
            SessionState::Established => runs == [false, false, true, true, false] && open && up,
        };
        if good {
            Ok(())
        } else {
            Err(format!("{self:?}"))
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
                self.wait()
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
            | Event::DelayOpenTimerExpires
            | Event::Connected
            | Event::ConnectionFails(_)
            | Event::ConnectionRefused(_)
            | Event::Received(_)
            | Event::Malformed(_)
            | Event::Collision
            | Event::SendHoldTimerExpires
            | Event::UpdateSent => Vec::new(),
        }
    }

    /// Connect and Active, with a connection while the DelayOpenTimer runs.
    fn waiting(&mut self, event: Event, at: At) -> Vec<Action> {
        let connected = self.delays_open();
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(notification) => self.stop(Some(notification).filter(|_| connected)),
            Event::ConnectRetryTimerExpires => self.connect_again(at),
            Event::DelayOpenTimerExpires => self.send_open(at),
            Event::Connected => self.connected(at),
            // Without a DelayOpenTimer this goes to Idle; our IdleHoldTimer brings it back.
            Event::ConnectionFails(fault) | Event::ConnectionRefused(fault) => {
                if connected && self.state == SessionState::Connect {
                    self.lose(fault, at)
                } else {
                    self.fail(at, Pace::Slower, None, Some(fault))
                }
            }
            Event::Received(Message::Open(open)) if connected => match self.ends.agree(&open) {
                Ok(negotiated) => {
                    let ours = Action::SendOpen(self.ends.open());
                    [vec![ours], self.opened(negotiated, at)].concat()
                }
                Err(refused) => self.refuse_open(refused, at),
            },
            Event::Received(Message::Notification(notification)) if connected => {
                self.told(&notification, at)
            }
            Event::Malformed(notification) if connected && is_of_open(&notification) => {
                self.refuse(notification, at)
            }
            Event::Collision => self.collide(at),
            Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::SendHoldTimerExpires => self.fail(at, Pace::Slower, None, None),
            Event::Received(_) | Event::Malformed(_) => {
                let fault = "a message came before the OPEN".into();
                self.fail(at, Pace::Slower, None, Some(fault))
            }
        }
    }

    fn open_sent(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(notification) => self.stop(Some(notification)),
            Event::HoldTimerExpires => self.hold_timer_expired(at),
            Event::SendHoldTimerExpires => self.send_hold_timer_expired(at),
            // The RFC's way back without a start: to Active, and from there to Connect.
            Event::ConnectionFails(fault) | Event::ConnectionRefused(fault) => self.lose(fault, at),
            Event::Received(Message::Open(open)) => match self.ends.agree(&open) {
                Ok(negotiated) => self.opened(negotiated, at),
                Err(refused) => self.refuse_open(refused, at),
            },
            Event::Malformed(n) if is_of_open(&n) => self.refuse(n, at),
            Event::Collision => self.collide(at),
            // Section 8.2.2 would answer it with an error; nobody is left to read that.
            Event::Received(Message::Notification(notification)) => self.told(&notification, at),
            Event::Received(
                message @ (Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_)),
            ) => self.unexpected(1, &[message.kind()], at),
            Event::Malformed(notification) => self.unexpected(1, &[blamed(&notification)], at),
            Event::ConnectRetryTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::DelayOpenTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Connected => self.unexpected(1, &[], at),
        }
    }

    fn open_confirm(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater | Event::UpdateSent => {
                Vec::new()
            }
            Event::Stop(notification) => self.stop(Some(notification)),
            Event::HoldTimerExpires => self.hold_timer_expired(at),
            Event::SendHoldTimerExpires => self.send_hold_timer_expired(at),
            Event::KeepaliveTimerExpires => self.keepalive(at),
            Event::ConnectionFails(fault) | Event::ConnectionRefused(fault) => {
                self.fail(at, Pace::Slower, None, Some(fault))
            }
            Event::Received(Message::Notification(notification)) => self.told(&notification, at),
            Event::Received(Message::Keepalive) => self.establish(at),
            Event::Malformed(n) if is_of_open(&n) => self.refuse(n, at),
            Event::Collision => self.collide(at),
            Event::Received(
                message @ (Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_)),
            ) => self.unexpected(2, &[message.kind()], at),
            Event::Malformed(notification) => self.unexpected(2, &[blamed(&notification)], at),
            Event::ConnectRetryTimerExpires
            | Event::DelayOpenTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Connected => self.unexpected(2, &[], at),
        }
    }

    fn in_established(&mut self, event: Event, at: At) -> Vec<Action> {
        match event {
            Event::Start | Event::StartPassive | Event::StartLater => Vec::new(),
            Event::Stop(notification) => self.stop(Some(notification)),
            Event::HoldTimerExpires => self.hold_timer_expired(at),
            Event::SendHoldTimerExpires => self.send_hold_timer_expired(at),
            Event::KeepaliveTimerExpires => self.keepalive(at),
            Event::UpdateSent => {
                self.restart_keepalive_timer(at);
                Vec::new()
            }
            Event::ConnectionFails(fault) | Event::ConnectionRefused(fault) => {
                self.fail(at, Pace::Slower, None, Some(fault))
            }
            Event::Received(Message::Notification(notification)) => self.told(&notification, at),
            Event::Received(Message::Keepalive | Message::Update(_)) => {
                self.hear(at);
                Vec::new()
            }
            Event::Received(Message::RouteRefresh(refresh)) => {
                self.hear(at);
                self.refresh(refresh)
            }
            // Also a bad header, which section 8.2.2 forgets here and section 6.1 asks for.
            Event::Malformed(notification) => self.refuse(notification, at),
            Event::Collision => self.collide(at),
            Event::Received(message @ Message::Open(_)) => {
                self.unexpected(3, &[message.kind()], at)
            }
            Event::ConnectRetryTimerExpires
            | Event::DelayOpenTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::Connected => self.unexpected(3, &[], at),
        }
    }

    fn delays_open(&self) -> bool {
        self.timers.delay_open.is_some()
    }
}

/// The type of the message that is wrong in this way, if its header is good and it is no OPEN.
fn blamed(notification: &Notification) -> u8 {
    match notification.code {
        7 => message::ROUTE_REFRESH,
        _ => message::UPDATE,
    }
}

/// A bad header or OPEN, and not a message that is out of turn, too.
fn is_of_open(notification: &Notification) -> bool {
    matches!(notification.code, 1 | 2)
}
