//! All that two routers' sessions are: the connection that we open and the one that the peer opens,
//! a [`Session`] each, and which of them stays when both come up (RFC 4271 section 6.8). Pure.

use tokio::time::Instant;

use super::message::{Message, Open};
use super::notification::Notification;
use super::session::{Action, At, Ends, Event, Session};
use crate::event::{self, SessionState};

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// We did.
    Out,
    /// The peer did.
    In,
}

impl Side {
    pub(crate) const BOTH: [Side; 2] = [Side::Out, Side::In];

    fn other(self) -> Side {
        match self {
            Side::Out => Side::In,
            Side::In => Side::Out,
        }
    }
}

/// Actions, each with the connection that it is for.
pub(crate) type Actions = Vec<(Side, Action)>;

#[derive(Clone, Debug)]
pub(crate) struct Peering {
    ends: Ends,
    started: bool,
    /// Always there; it is the one that starts and retries.
    outgoing: Session,
    /// There while the connection that the peer opened is.
    incoming: Option<Session>,
    fault: Option<String>,
}

impl Peering {
    /// Nothing happens before [`Peering::start`].
    pub(crate) fn new(ends: Ends) -> Peering {
        let outgoing = Session::new(ends.clone());
        Peering {
            ends,
            started: false,
            outgoing,
            incoming: None,
            fault: None,
        }
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    pub(crate) fn start(&mut self, at: At) -> Actions {
        self.started = true;
        self.run(Side::Out, Event::Start, at)
    }

    /// Ends everything, tells the peer why, and stays ended until a start.
    pub(crate) fn stop(&mut self, why: &Notification, at: At) -> Actions {
        self.started = false;
        let mut actions = self.run(Side::Out, Event::Stop(why.clone()), at);
        actions.extend(self.run(Side::In, Event::Stop(why.clone()), at));
        self.incoming = None;
        actions
    }

    /// Whether a connection that the peer opened is taken. If so, apply the actions, which end an
    /// earlier one, and then hand in [`Event::Connected`] for [`Side::In`].
    pub(crate) fn admit(&mut self, at: At) -> Option<Actions> {
        if !self.started || self.state(Side::In) == SessionState::Established {
            return None;
        }
        // Who opens another has given up the first, or never will answer on it.
        let actions = self.run(Side::In, Event::Collision, at);
        let mut session = Session::new(self.ends.clone());
        session.handle(Event::StartPassive, at);
        self.incoming = Some(session);
        Some(actions)
    }

    pub(crate) fn handle(&mut self, side: Side, event: Event, at: At) -> Actions {
        if let Event::Received(Message::Open(open)) = &event
            && let Some(loser) = self.collision(side, open)
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
    pub(crate) fn due(&mut self, at: At) -> Actions {
        let mut actions = Actions::new();
        for side in Side::BOTH {
            while let Some(event) = self.session(side).and_then(|session| session.due(at.now)) {
                actions.extend(self.run(side, event, at));
            }
        }
        self.settle(&mut actions, at);
        actions
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let incoming = self.incoming.as_ref().and_then(Session::next_timer);
        [self.outgoing.next_timer(), incoming]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn state(&self, side: Side) -> SessionState {
        match side {
            Side::Out => self.outgoing.state(),
            Side::In => self
                .incoming
                .as_ref()
                .map_or(SessionState::Idle, Session::state),
        }
    }

    /// As the operator sees it: the connection that is furthest.
    pub(crate) fn report(&self) -> event::Session {
        let state = self.state(Side::Out).max(self.state(Side::In));
        event::Session {
            state,
            fault: self.fault.clone(),
        }
    }

    /// Which connection has to go, now that this OPEN has come by this one.
    fn collision(&self, side: Side, open: &Open) -> Option<Side> {
        // An OPEN that will be refused settles nothing.
        if self.state(side) != SessionState::OpenSent || self.outgoing.accepts(open).is_err() {
            return None;
        }
        match self.state(side.other()) {
            SessionState::Idle | SessionState::Connect | SessionState::Active => None,
            // OpenSent, too: else it would hang on which OPEN is read first. The peer is the same one.
            SessionState::OpenSent | SessionState::OpenConfirm => {
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
                let other = side.other();
                actions.extend(self.run(other, Event::Collision, at));
                // Not even a later try.
                actions.extend(self.run(other, Event::Stop(Notification::new(6, 7, [])), at));
            }
        }
        if self
            .incoming
            .as_ref()
            .is_some_and(|session| !session.is_connected())
        {
            self.incoming = None;
        }
        let parked = self.outgoing.state() == SessionState::Idle
            && self.outgoing.next_timer().is_none()
            && self.state(Side::In) != SessionState::Established;
        if self.started && parked {
            actions.extend(self.run(Side::Out, Event::StartLater, at));
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
        let Some(session) = self.session(side) else {
            return Actions::new();
        };
        let actions = session.handle(event, at);
        for action in &actions {
            match action {
                Action::Fault(fault) => self.fault = Some(fault.clone()),
                Action::Established(_) => self.fault = None,
                Action::Connect
                | Action::SendOpen(_)
                | Action::SendKeepalive
                | Action::Close(_)
                | Action::Refresh(_) => {}
            }
        }
        actions.into_iter().map(|action| (side, action)).collect()
    }
}
