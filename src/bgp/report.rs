//! What the speaker says of itself. The tasks write down how things are now; one task turns that
//! into events. So a slow core holds nothing up, and what it missed in between it need not know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdSet;
use tokio::sync::{mpsc, watch};

use crate::event::{Event, Session, SessionState};

/// The part that [`Event::Trouble`] names.
const LISTEN: &str = "bgp-listen";

/// How things are. Cheap to clone: as large as there are peers and sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    peers: BTreeMap<IpAddr, Status>,
    /// Sockets that we cannot listen on.
    deaf: BTreeMap<SocketAddr, String>,
    /// All sessions have been ended for good.
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Status {
    session: Session,
    told: OrdSet<IpAddr>,
}

/// Where everybody writes down how he is.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<watch::Sender<Report>>);

impl Board {
    pub(crate) fn new() -> (Board, watch::Receiver<Report>) {
        let (sender, receiver) = watch::channel(Report::default());
        (Board(Arc::new(sender)), receiver)
    }

    /// The peer's session, and the prefixes that it has been told.
    pub(crate) fn peer(&self, address: IpAddr, session: Session, told: &OrdSet<IpAddr>) {
        self.0
            .send_if_modified(|report| match report.peers.get_mut(&address) {
                Some(status) if status.session == session && status.told.ptr_eq(told) => false,
                Some(_) | None => {
                    report.peers.insert(
                        address,
                        Status {
                            session,
                            told: told.clone(),
                        },
                    );
                    true
                }
            });
    }

    pub(crate) fn peer_is_gone(&self, address: IpAddr) {
        self.0
            .send_if_modified(|report| report.peers.remove(&address).is_some());
    }

    /// Whether this is news.
    pub(crate) fn listening(&self, on: SocketAddr, fault: Option<String>) -> bool {
        self.0.send_if_modified(|report| {
            let before = report.deaf.remove(&on);
            let changed = before != fault;
            report.deaf.extend(fault.map(|fault| (on, fault)));
            changed
        })
    }

    /// Sockets that are not among these are nobody's business any more.
    pub(crate) fn listening_only(&self, wanted: &[SocketAddr]) {
        self.0.send_if_modified(|report| {
            let before = report.deaf.len();
            report.deaf.retain(|socket, _| wanted.contains(socket));
            report.deaf.len() != before
        });
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
        for (&address, status) in &self.report.peers {
            if before.peers.get(&address).map(|before| &before.session) != Some(&status.session) {
                events.push(Event::Peer {
                    address,
                    session: status.session.clone(),
                });
            }
        }
        for (&address, status) in &before.peers {
            let idle = status.session.state == SessionState::Idle;
            if !idle && !self.report.peers.contains_key(&address) {
                let session = Session {
                    state: SessionState::Idle,
                    fault: None,
                };
                events.push(Event::Peer { address, session });
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

    /// The union over all peers; `None` if nobody's set has changed.
    fn announced_now(&self, before: &Report) -> Option<BTreeSet<IpAddr>> {
        let sets = |report: &Report| -> Vec<OrdSet<IpAddr>> {
            report
                .peers
                .values()
                .map(|status| status.told.clone())
                .collect()
        };
        let (before_sets, now) = (sets(before), sets(&self.report));
        let same = before_sets.len() == now.len()
            && before_sets
                .iter()
                .zip(&now)
                .all(|(before, now)| before.ptr_eq(now));
        if same && before.stopped == self.report.stopped {
            return None;
        }
        Some(now.iter().flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: SessionState) -> Session {
        Session { state, fault: None }
    }

    fn told(of: &[u8]) -> OrdSet<IpAddr> {
        of.iter().map(|&n| IpAddr::from([192, 0, 2, n])).collect()
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
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        board.peer(one, session(SessionState::Established), &told(&[1, 2]));
        board.peer(two, session(SessionState::Idle), &told(&[]));
        let events = update(&mut sent, &reports);
        assert_eq!(events.len(), 3);
        assert_eq!(events[2], r#"{"Announced":["192.0.2.1","192.0.2.2"]}"#);
        assert!(update(&mut sent, &reports).is_empty());

        board.peer(two, session(SessionState::Established), &told(&[2]));
        assert_eq!(
            update(&mut sent, &reports).len(),
            1,
            "the union is the same"
        );
        board.peer_is_gone(one);
        let events = update(&mut sent, &reports);
        assert_eq!(
            events[0],
            r#"{"Peer":{"address":"10.0.0.1","session":{"state":"Idle","fault":null}}}"#
        );
        assert_eq!(events[1..], [r#"{"Announced":["192.0.2.2"]}"#]);
    }

    #[test]
    fn a_stop_ends_with_an_empty_set_even_if_it_was_empty() {
        let (board, reports) = Board::new();
        let mut sent = Sent::default();
        let peer = IpAddr::from([10, 0, 0, 1]);
        board.peer(peer, session(SessionState::Established), &told(&[]));
        update(&mut sent, &reports);
        board.peer_is_gone(peer);
        board.stopped();
        let events = update(&mut sent, &reports);
        assert_eq!(events.len(), 2);
        assert_eq!(events[1], r#"{"Announced":[]}"#);
    }

    #[test]
    fn sockets_that_do_not_listen_are_one_trouble() {
        let (board, reports) = Board::new();
        let mut sent = Sent::default();
        let socket: SocketAddr = "[::]:179".parse().unwrap();
        board.listening(socket, Some("listen on [::]:179: denied".into()));
        let told = update(&mut sent, &reports);
        assert_eq!(
            told,
            [r#"{"Trouble":{"part":"bgp-listen","fault":"listen on [::]:179: denied"}}"#]
        );
        board.listening(socket, None);
        let told = update(&mut sent, &reports);
        assert_eq!(told, [r#"{"Trouble":{"part":"bgp-listen","fault":null}}"#]);
    }
}
