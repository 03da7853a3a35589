//! What the speaker says of itself. The tasks write down how things are now; one task turns that
//! into events. So a slow core holds nothing up, and what it missed in between it need not know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::event::Event;
use crate::routing::PeerId;
use crate::routing::session::{Session, SessionState};

/// The part that [`Event::Trouble`] names.
const LISTEN: &str = "bgp-listen";

/// How things are. Cheap to clone: as large as there are peers and sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    peers: BTreeMap<PeerId, Session>,
    /// What we cannot hear on: addresses to listen on, interfaces of peers.
    deaf: BTreeMap<String, String>,
    /// All sessions have been ended for good.
    stopped: bool,
}

/// Where everybody writes down how he is.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<watch::Sender<Report>>);

impl Board {
    pub(crate) fn new() -> (Board, watch::Receiver<Report>) {
        let (sender, receiver) = watch::channel(Report::default());
        (Board(Arc::new(sender)), receiver)
    }

    pub(crate) fn peer(&self, peer: &PeerId, session: &Session) {
        self.0.send_if_modified(|report| {
            let changed = report.peers.get(peer) != Some(session);
            if changed {
                report.peers.insert(peer.clone(), session.clone());
            }
            changed
        });
    }

    pub(crate) fn peer_is_gone(&self, peer: &PeerId) {
        self.0
            .send_if_modified(|report| report.peers.remove(peer).is_some());
    }

    /// What is wrong where we listen: on an address, or for an interface's peer. Whether this is news.
    pub(crate) fn trouble(&self, on: &str, fault: Option<String>) -> bool {
        self.0.send_if_modified(|report| {
            let before = report.deaf.remove(on);
            let changed = before != fault;
            report
                .deaf
                .extend(fault.map(|fault| (on.to_owned(), fault)));
            changed
        })
    }

    pub(crate) fn stopped(&self) {
        self.0
            .send_if_modified(|report| !std::mem::replace(&mut report.stopped, true));
    }
}

/// Sends an event for each change, until everybody who writes is gone, or the core is.
pub(crate) async fn send(mut reports: watch::Receiver<Report>, events: mpsc::Sender<Event>) {
    let mut last = Sent::default();
    loop {
        let report = reports.borrow_and_update().clone();
        for event in last.update(report) {
            if events.send(event).await.is_err() {
                return;
            }
        }
        if reports.changed().await.is_err() {
            return;
        }
    }
}

/// What the core knows.
#[derive(Debug, Default)]
struct Sent {
    report: Report,
    announced: BTreeSet<IpAddr>,
}

impl Sent {
    /// The events that lead from the last report to this one. A peer's session is told before the
    /// prefixes that went with it; after a stop, the last of all is [`Event::Announced`].
    fn update(&mut self, report: Report) -> Vec<Event> {
        let before = std::mem::replace(&mut self.report, report);
        let mut events = Vec::new();
        for (peer, session) in &self.report.peers {
            if before.peers.get(peer) != Some(session) {
                events.push(Event::Peer {
                    peer: peer.clone(),
                    session: session.clone(),
                });
            }
        }
        for (peer, session) in &before.peers {
            let idle = session.state == SessionState::Idle;
            if !idle && !self.report.peers.contains_key(peer) {
                events.push(Event::Peer {
                    peer: peer.clone(),
                    session: Session::default(),
                });
            }
        }
        if before.deaf != self.report.deaf {
            let faults: Vec<&str> = self.report.deaf.values().map(String::as_str).collect();
            let fault = (!faults.is_empty()).then(|| faults.join("; "));
            events.push(Event::Trouble {
                part: LISTEN,
                fault,
            });
        }
        let announced = self.announced_now(&before);
        let stopped = self.report.stopped && !before.stopped;
        if let Some(announced) = announced.filter(|now| stopped || *now != self.announced) {
            self.announced = announced.clone();
            events.push(Event::Announced(announced));
        }
        events
    }

    /// The addresses that any peer has been told a prefix for; `None` if nobody's set has changed.
    fn announced_now(&self, before: &Report) -> Option<BTreeSet<IpAddr>> {
        let routes = |report: &Report| -> Vec<_> {
            report
                .peers
                .values()
                .map(|session| session.routes.clone())
                .collect()
        };
        let (before_routes, now) = (routes(before), routes(&self.report));
        let same = before_routes.len() == now.len()
            && before_routes
                .iter()
                .zip(&now)
                .all(|(before, now)| before.ptr_eq(now));
        if same && before.stopped == self.report.stopped {
            return None;
        }
        Some(
            now.iter()
                .flat_map(|routes| routes.iter())
                .map(|(prefix, route)| route.address(prefix))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;
    use crate::routing::session::Route;

    fn session(state: SessionState, told: &[u8]) -> Session {
        let route = Arc::new(Route {
            next_hop: [10, 0, 0, 9].into(),
            attributes: Arc::default(),
            inside: None,
        });
        let routes = told
            .iter()
            .map(|&n| (IpNet::from(IpAddr::from([192, 0, 2, n])), route.clone()));
        Session {
            state,
            routes: routes.collect(),
            ..Session::default()
        }
    }

    /// The events that come of it, as text.
    fn update(sent: &mut Sent, reports: &watch::Receiver<Report>) -> Vec<String> {
        let events = sent.update(reports.borrow().clone());
        events
            .iter()
            .map(|event| serde_json::to_string(event).unwrap())
            .collect()
    }

    #[test]
    fn changes_become_events_once() {
        let (board, reports) = Board::new();
        let mut sent = Sent::default();
        let (one, two) = (
            PeerId::from(IpAddr::from([10, 0, 0, 1])),
            PeerId::from(IpAddr::from([10, 0, 0, 2])),
        );
        board.peer(&one, &session(SessionState::Established, &[1, 2]));
        board.peer(&two, &session(SessionState::Idle, &[]));
        let events = update(&mut sent, &reports);
        assert_eq!(events.len(), 3);
        assert_eq!(events[2], r#"{"Announced":["192.0.2.1","192.0.2.2"]}"#);
        assert!(update(&mut sent, &reports).is_empty());

        board.peer(&two, &session(SessionState::Established, &[2]));
        assert_eq!(
            update(&mut sent, &reports).len(),
            1,
            "the union is the same"
        );
        board.peer_is_gone(&one);
        let events = update(&mut sent, &reports);
        assert!(events[0].starts_with(r#"{"Peer":{"peer":"10.0.0.1","session":{"state":"Idle","#));
        assert_eq!(events[1..], [r#"{"Announced":["192.0.2.2"]}"#]);
    }

    /// Each prefix stands for its address, and an address that is announced as another one for one address.
    #[test]
    fn announced_are_addresses() {
        let (board, reports) = Board::new();
        let mut sent = Sent::default();
        let peer = PeerId::from(IpAddr::from([10, 0, 0, 1]));
        let mut wide = session(SessionState::Established, &[1, 2]);
        let mut announced = |session: &Session| {
            board.peer(&peer, session);
            let events = update(&mut sent, &reports);
            // Behind the session's own.
            events.get(1).cloned()
        };
        let one = r#"{"Announced":["192.0.2.1"]}"#.to_owned();
        let both = r#"{"Announced":["192.0.2.1","192.0.2.2"]}"#.to_owned();
        assert_eq!(announced(&wide), Some(both));
        let second = IpAddr::from([192, 0, 2, 2]);
        let prefix: IpNet = "192.0.2.0/24".parse().unwrap();
        let route = Route {
            inside: Some(second),
            ..Route::clone(&wide.routes[&IpNet::from(second)])
        };
        wide.routes.insert(prefix, Arc::new(route));
        assert_eq!(announced(&wide), None, "no other address");
        wide.routes.remove(&IpNet::from(second));
        assert_eq!(announced(&wide), None, "its prefix stays");
        wide.routes.remove(&prefix);
        assert_eq!(announced(&wide), Some(one));
    }

    #[test]
    fn a_stop_ends_with_an_empty_set_even_if_it_was_empty() {
        let (board, reports) = Board::new();
        let mut sent = Sent::default();
        let peer = PeerId::from(IpAddr::from([10, 0, 0, 1]));
        board.peer(&peer, &session(SessionState::Established, &[]));
        update(&mut sent, &reports);
        board.peer_is_gone(&peer);
        board.stopped();
        let events = update(&mut sent, &reports);
        assert_eq!(events.len(), 2);
        assert_eq!(events[1], r#"{"Announced":[]}"#);
    }

    #[test]
    fn sockets_that_do_not_listen_are_one_trouble() {
        let (board, reports) = Board::new();
        let mut sent = Sent::default();
        board.trouble("[::]:179", Some("listen on [::]:179: denied".into()));
        let told = update(&mut sent, &reports);
        assert_eq!(
            told,
            [r#"{"Trouble":{"part":"bgp-listen","fault":"listen on [::]:179: denied"}}"#]
        );
        board.trouble("[::]:179", None);
        let told = update(&mut sent, &reports);
        assert_eq!(told, [r#"{"Trouble":{"part":"bgp-listen","fault":null}}"#]);
    }
}
