//! All that two routers' sessions are: the connection that we open and the one that the peer opens,
//! a [`Session`] each, and which of them stays when both come up (RFC 4271 section 6.8). Pure.

use tokio::time::Instant;

use super::message::{Message, Open};
use super::notification::Notification;
use super::session::{Action, At, Ends, Event, Session};
use crate::routing::session::SessionState;

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
    pub(crate) fn furthest(&self) -> SessionState {
        self.state(Side::Out).max(self.state(Side::In))
    }

    /// The last thing that went wrong, until the session is established again.
    pub(crate) fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    /// Which connection has to go, now that this OPEN has come by this one.
    fn collision(&self, side: Side, open: &Open, at: At) -> Option<Side> {
        // An OPEN that will be refused settles nothing.
        if self.state(side) != SessionState::OpenSent || self.outgoing.accepts(open).is_err() {
            return None;
        }
        match self.state(side.other()) {
            SessionState::Idle | SessionState::Connect | SessionState::Active => None,
            // Something took our OPEN that does not answer: who speaks is the peer.
            SessionState::OpenSent if self.is_mute(side.other(), at) => Some(side.other()),
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

    fn is_mute(&self, side: Side, at: At) -> bool {
        match side {
            Side::Out => self.outgoing.is_mute(at.now),
            Side::In => self
                .incoming
                .as_ref()
                .is_some_and(|session| session.is_mute(at.now)),
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::bgp::notification::Cease;

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
            families: [crate::service::Family::Ipv4].into(),
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
        assert_eq!(peering.admit(at), Some(Actions::new()));
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
            peering.admit(at);
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
            Some("bad peer AS (2/2)")
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
        assert!(peering.admit(at).is_some());
        let actions = peering.handle(Side::In, Event::Connected, at);
        assert!(actions.contains(&collision(Side::In)));
        assert_eq!(peering.state(Side::Out), SessionState::Established);
    }

    #[test]
    fn while_the_peers_connection_is_established_we_open_none_and_after_it_we_do() {
        let at = At::new(Instant::now(), 0.0);
        let mut peering = Peering::new(ends(9, 5));
        peering.start(at);
        peering.admit(at);
        for event in [Event::Connected, received(Message::Open(open(5)))] {
            peering.handle(Side::In, event, at);
        }
        let actions = peering.handle(Side::In, received(Message::Keepalive), at);
        assert!(
            actions.contains(&(Side::Out, Action::Close(None))),
            "the attempt is given up"
        );
        assert_eq!(peering.state(Side::Out), SessionState::Idle);
        assert!(peering.admit(at).is_none(), "a third connection");
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
        assert!(peering.admit(at).is_none());
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
                        Some(actions) => {
                            self.apply(peer, actions);
                            self.attached[peer][Side::In as usize] = Some(n);
                            self.event(peer, Side::In, Event::Connected, at);
                        }
                        None => self.links[n].to[opener]
                            .push_back(Event::ConnectionFails("refused".into())),
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
    }

    proptest! {
        /// Whatever the order in which connections come up and messages arrive: soon there is
        /// one session, and it is the same for both.
        #[test]
        fn two_that_both_connect_agree(order: [u8; 32], larger: bool, active in 0usize..3) {
            let (a, b) = if larger { (9, 5) } else { (5, 9) };
            let mut net = Net {
                peers: [Peering::new(ends(a, b)), Peering::new(ends(b, a))],
                connecting: [false; 2],
                attached: [[None; 2]; 2],
                links: Vec::new(),
                now: Instant::now(),
            };
            let begun = net.now;
            let mut random = order.iter().cycle().map(|byte| usize::from(*byte));
            let at = At::new(net.now, 0.0);
            for peer in 0..2 {
                // One of them may be late.
                if active == 2 || active == peer {
                    let actions = net.peers[peer].start(at);
                    net.apply(peer, actions);
                }
            }
            let mut late = Some(1 - active.min(1)).filter(|_| active < 2);
            while !net.is_settled() {
                prop_assert!(net.now - begun < Duration::from_secs(60), "no end of it");
                let choice = random.next().unwrap();
                let at = At::new(net.now, choice as f64 / 255.0);
                let mut steps = net.steps();
                if !steps.is_empty() {
                    let step = steps.swap_remove(choice % steps.len());
                    net.take(step, at);
                    continue;
                }
                if let Some(peer) = late.take() {
                    let actions = net.peers[peer].start(at);
                    net.apply(peer, actions);
                    continue;
                }
                let next = net.peers.iter().filter_map(Peering::next_timer).min();
                net.now = next.expect("somebody tries again");
                let at = At::new(net.now, choice as f64 / 255.0);
                for peer in 0..2 {
                    let actions = net.peers[peer].due(at);
                    net.apply(peer, actions);
                }
            }
        }
    }
}
