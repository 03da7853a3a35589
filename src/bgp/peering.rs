//! All that two routers' sessions are: the connection that we open and the one that the peer opens,
//! a [`Session`] each, and which of them stays when both come up (RFC 4271 section 6.8). Pure.

#[cfg(test)]
mod drive;
#[cfg(test)]
mod tests;

use tokio::time::Instant;

use super::hint::{self, Guards, Symptom};
use super::message::{Message, Open};
use super::notification::Notification;
use super::session::{ANSWER_COMES, Action, At, Ends, Event, Session, Timers};
use crate::routing::session::{Hint, SessionState};

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// We did.
    Out,
    /// The peer did.
    In,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Out, Side::In];

    fn other(self) -> Side {
        match self {
            Side::Out => Side::In,
            Side::In => Side::Out,
        }
    }
}

/// Actions, each with the connection that it is for.
pub type Actions = Vec<(Side, Action)>;

#[derive(Clone, Debug)]
pub struct Peering {
    ends: Ends,
    started: bool,
    /// Always there; it is the one that starts and retries.
    outgoing: Session,
    /// There while the connection that the peer opened is.
    incoming: Option<Session>,
    fault: Option<String>,
    /// Of the fault.
    symptom: Option<Symptom>,
    /// Since when what we have said is not answered, by any connection, and what that looks like. It outlives
    /// connections that the peer gives up for others.
    silence: Option<(Symptom, Instant)>,
}

impl Peering {
    /// Nothing happens before [`Peering::start`].
    pub fn new(ends: Ends) -> Peering {
        let outgoing = Session::new(ends.clone());
        Peering {
            ends,
            started: false,
            outgoing,
            incoming: None,
            fault: None,
            symptom: None,
            silence: None,
        }
    }

    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    pub fn start(&mut self, at: At) -> Actions {
        self.started = true;
        self.run(Side::Out, Event::Start, at)
    }

    /// Ends everything, tells the peer why, and stays ended until a start.
    pub fn stop(&mut self, why: &Notification, at: At) -> Actions {
        self.started = false;
        let mut actions = self.run(Side::Out, Event::Stop(why.clone()), at);
        actions.extend(self.run(Side::In, Event::Stop(why.clone()), at));
        self.incoming = None;
        self.silence = None;
        actions
    }

    /// Ends everything, tells the peer why, and starts at once, whatever has failed before: for an operator's
    /// clear (Cease / Administrative Reset) and for another configuration of the peer.
    pub fn restart(&mut self, ends: Ends, why: &Notification, at: At) -> Actions {
        let mut actions = self.stop(why, at);
        self.outgoing = Session::new(ends.clone());
        self.ends = ends;
        actions.extend(self.start(at));
        actions
    }

    /// Whether a connection that the peer opened is taken. If so, apply the actions, which end an
    /// earlier one, and then hand in [`Event::Connected`] for [`Side::In`]; else it is told this and closed.
    pub fn admit(&mut self, at: At) -> Result<Actions, Notification> {
        // RFC 4486 section 4: Connection Rejected, as the peer is configured not to be talked to.
        if !self.started {
            return Err(Notification::new(6, 5, []));
        }
        let mut actions = Actions::new();
        if let Some(side) = self.established_by_who_restarts() {
            // RFC 4724 section 5: it has lost its end of that connection.
            let lost = "the peer has restarted and connects again";
            actions = self.run(side, Event::ConnectionFails(lost.into()), at);
        }
        if self.state(Side::In) == SessionState::Established {
            return Err(Notification::new(6, 7, []));
        }
        // Who opens another has given up the first, or never will answer on it.
        actions.extend(self.run(Side::In, Event::Collision, at));
        let mut session = Session::new(self.ends.clone());
        session.handle(Event::StartPassive, at);
        self.incoming = Some(session);
        Ok(actions)
    }

    pub fn handle(&mut self, side: Side, event: Event, at: At) -> Actions {
        if let Event::Received(Message::Open(open)) = &event
            && let Some(loser) = self.collision(side, open, at)
        {
            let mut actions = self.run(loser, Event::Collision, at);
            if loser != side {
                actions.extend(self.run(side, event, at));
            }
            self.settle(&mut actions, at);
            return actions;
        }
        let mut actions = self.run(side, event, at);
        self.settle(&mut actions, at);
        actions
    }

    /// Handles all timers that have expired.
    pub fn due(&mut self, at: At) -> Actions {
        let mut actions = Actions::new();
        for side in Side::BOTH {
            while let Some(event) = self.session(side).and_then(|session| session.due(at.now)) {
                actions.extend(self.run(side, event, at));
            }
        }
        self.settle(&mut actions, at);
        actions
    }

    pub fn next_timer(&self) -> Option<Instant> {
        let incoming = self.incoming.as_ref().and_then(Session::next_timer);
        [self.outgoing.next_timer(), incoming]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn state(&self, side: Side) -> SessionState {
        match side {
            Side::Out => self.outgoing.state(),
            Side::In => self
                .incoming
                .as_ref()
                .map_or(SessionState::Idle, Session::state),
        }
    }

    /// As the operator sees it: the connection that is furthest.
    pub fn furthest(&self) -> SessionState {
        self.state(Side::Out).max(self.state(Side::In))
    }

    /// The last thing that went wrong, until the session is established again.
    pub fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    /// What the peer's silence looks like, or else the fault. `ours`: what is configured for the peer.
    pub fn hint(&self, ours: Guards, now: Instant) -> Option<Hint> {
        let silence = self.silence.filter(|_| self.next_hint(now).is_none());
        let silence = silence.map(|(symptom, _)| symptom);
        hint::hint(silence.or(self.symptom)?, ours)
    }

    /// When [`Peering::hint`] becomes another one by time alone.
    pub fn next_hint(&self, now: Instant) -> Option<Instant> {
        let silence = self.silence.map(|(_, since)| since + ANSWER_COMES);
        silence.filter(|at| *at > now)
    }

    /// Of the connection that is furthest; the next try is always ours.
    pub fn timers(&self) -> Timers {
        let incoming = self.incoming.as_ref();
        let furthest = incoming.filter(|incoming| incoming.state() > self.outgoing.state());
        Timers {
            connect_retry: self.outgoing.timers().connect_retry,
            idle_hold: self.outgoing.timers().idle_hold,
            ..*furthest.unwrap_or(&self.outgoing).timers()
        }
    }

    /// What must hold between any two calls; `Err`: what does not.
    pub fn check(&self) -> Result<(), String> {
        self.outgoing.check()?;
        self.incoming.as_ref().map_or(Ok(()), Session::check)?;
        let states = Side::BOTH.map(|side| self.state(side));
        let established = states.contains(&SessionState::Established);
        if established && !states.contains(&SessionState::Idle) {
            return Err(format!("a second connection beside the session: {self:?}"));
        }
        let waits = self.ends.passive && self.state(Side::Out) == SessionState::Active;
        if self.started && !waits && self.next_timer().is_none() {
            return Err(format!("nothing will ever bring it back: {self:?}"));
        }
        if !self.started && (states != [SessionState::Idle; 2] || self.next_timer().is_some()) {
            return Err(format!("not started, and not at rest: {self:?}"));
        }
        if self.silence.is_some() && (established || !self.started) {
            return Err(format!("nothing is to be answered: {self:?}"));
        }
        Ok(())
    }

    /// Which connection has to go, now that this OPEN has come by this one.
    fn collision(&self, side: Side, open: &Open, at: At) -> Option<Side> {
        // An OPEN that will be refused settles nothing.
        if !self.awaits_open(side) || self.ends.agree(open).is_err() {
            return None;
        }
        match self.state(side.other()) {
            SessionState::Idle | SessionState::Connect | SessionState::Active
                if !self.awaits_open(side.other()) =>
            {
                None
            }
            // Something took our OPEN that does not answer: who speaks is the peer.
            SessionState::OpenSent if self.is_mute(side.other(), at) => Some(side.other()),
            // OpenSent and a delayed OPEN, too: else it would hang on which OPEN is read first. The peer is the
            // same one.
            SessionState::Idle
            | SessionState::Connect
            | SessionState::Active
            | SessionState::OpenSent
            | SessionState::OpenConfirm => {
                // RFC 6286 section 2.3: the larger identifier's connection stays, then the larger AS's.
                let ours = (self.ends.identifier, self.ends.local_as);
                Some(if ours < (open.identifier, open.asn) {
                    Side::Out
                } else {
                    Side::In
                })
            }
            SessionState::Established => Some(side),
        }
    }

    /// Once one is established the other goes; once the peer's is gone ours may try again.
    fn settle(&mut self, actions: &mut Actions, at: At) {
        for side in Side::BOTH {
            if self.state(side) == SessionState::Established {
                self.silence = None;
                let other = side.other();
                actions.extend(self.run(other, Event::Collision, at));
                // Not even a later try.
                actions.extend(self.run(other, Event::Stop(Notification::new(6, 7, [])), at));
            }
        }
        let gone = self.incoming.take_if(|session| !session.is_connected());
        if gone.is_some_and(|session| session.is_slowest()) {
            // The next try is ours, whoever opened the connection on which the peer said why.
            self.outgoing.slow_down();
        }
        let parked = self.outgoing.state() == SessionState::Idle
            && self.outgoing.next_timer().is_none()
            && self.state(Side::In) != SessionState::Established;
        if self.started && parked {
            actions.extend(self.run(Side::Out, Event::StartLater, at));
        }
    }

    fn established_by_who_restarts(&self) -> Option<Side> {
        let restarts = |side: &Side| self.look(*side).is_some_and(Session::peer_restarts);
        Side::BOTH.into_iter().find(restarts)
    }

    fn is_mute(&self, side: Side, at: At) -> bool {
        self.look(side)
            .is_some_and(|session| session.is_mute(at.now))
    }

    fn awaits_open(&self, side: Side) -> bool {
        self.look(side).is_some_and(Session::awaits_open)
    }

    fn look(&self, side: Side) -> Option<&Session> {
        match side {
            Side::Out => Some(&self.outgoing),
            Side::In => self.incoming.as_ref(),
        }
    }

    fn session(&mut self, side: Side) -> Option<&mut Session> {
        match side {
            Side::Out => Some(&mut self.outgoing),
            Side::In => self.incoming.as_mut(),
        }
    }

    /// One event of one session, without regard for the other.
    fn run(&mut self, side: Side, event: Event, at: At) -> Actions {
        let Some(session) = self.look(side) else {
            return Actions::new();
        };
        let symptom = session.symptom(&event, at.now);
        // The peer has seen the collision first: no fault while the other connection is there.
        let collision = matches!(
            &event,
            Event::Received(Message::Notification(heard)) if (heard.code, heard.subcode) == (6, 7)
        ) && self.look(side.other()).is_some_and(Session::is_connected);
        let (heard, connected) = (is_heard(&event), session.is_connected());
        let Some(session) = self.session(side) else {
            return Actions::new();
        };
        let mut actions = session.handle(event, at);
        let confirms = session.state() == SessionState::OpenConfirm;
        if heard {
            self.silence = confirms.then_some((Symptom::NoKeepalive, at.now));
        }
        actions.retain(|action| !(collision && matches!(action, Action::Fault(_))));
        for action in &actions {
            match action {
                Action::Fault(fault) => {
                    (self.fault, self.symptom) = (Some(fault.clone()), symptom);
                    self.silence.take_if(|_| connected);
                }
                Action::Established(_) => (self.fault, self.symptom) = (None, None),
                Action::SendOpen(_) => {
                    self.silence.get_or_insert((Symptom::NoOpen, at.now));
                }
                Action::Connect | Action::SendKeepalive | Action::Close(_) | Action::Refresh(_) => {
                }
            }
        }
        actions.into_iter().map(|action| (side, action)).collect()
    }
}

/// Whether something has come from the peer.
fn is_heard(event: &Event) -> bool {
    match event {
        Event::Received(_) | Event::Malformed(_) => true,
        Event::Start
        | Event::StartPassive
        | Event::StartLater
        | Event::Stop(_)
        | Event::ConnectRetryTimerExpires
        | Event::HoldTimerExpires
        | Event::KeepaliveTimerExpires
        | Event::DelayOpenTimerExpires
        | Event::IdleHoldTimerExpires
        | Event::Connected
        | Event::ConnectionFails(_)
        | Event::ConnectionRefused(_)
        | Event::Collision
        | Event::SendHoldTimerExpires
        | Event::UpdateSent => false,
    }
}
