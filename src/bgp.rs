//! The BGP sink: makes what each peer has been told equal to the snapshot's announced addresses.
//! It decides nothing; what may be announced stands in the snapshot.
//!
//! ```text
//!                 ┌──────────── thread "bgp" ─────────────┐
//!  snapshots ─────┼► Speaker ── Orders ─► peer.rs, a task ─┼─► Board ─► report.rs ─► events
//!                 │  listener.rs ── accepted ──┘ a peer    │
//!                 │  unnumbered.rs ─ neighbours ┘          │
//!                 └────────────────────────────────────────┘
//! ```
//!
//! All that has to be in time, timers, keepalives and withdrawals, happens on a thread of its own (`thread`); only
//! events are sent from the caller's.
//!
//! Each peer has a session of its own (RFC 4271), with IPv4 and IPv6 unicast over it (RFC 4760), 4-byte AS
//! numbers (RFC 6793), route refresh (RFC 2918). Graceful restart (RFC 4724) is offered without a family: when we
//! go, nothing is kept. What peers announce is counted and forgotten.
//!
#![doc = include_str!("bgp/rfc.md")]

mod established;
mod export;
mod heard;
mod hint;
mod listener;
pub mod message;
pub mod notification;
mod peer;
pub mod peering;
mod report;
mod rib;
pub mod session;
mod sockopt;
mod thread;
mod transport;
mod unnumbered;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::listener::{Accepted, Listeners};
use self::notification::{Cease, Notification};
use self::peer::Orders;
use self::report::Board;
use self::session::Ends;
use self::thread::Thread;
use self::unnumbered::Wires;
use crate::event::Event;
use crate::routing::PeerId;
use crate::snapshot::Snapshot;

/// So many connections of a peer may wait until its task takes them.
const ACCEPTED: usize = 2;

/// Runs until it is dropped or nobody publishes snapshots any more.
///
/// Sends [`Event::Peer`] at each change of a session, [`Event::Announced`] at each change of the union
/// of what the peers have been told, and [`Event::Trouble`] for `bgp-listen`. When a snapshot says
/// `stopping`, it withdraws everything, ends each session with Cease / Administrative Shutdown,
/// sends [`Event::Peer`] with Idle for each that was not, and then [`Event::Announced`] with the empty
/// set, once more if it was empty before: after that all connections are closed.
///
/// It works on a thread of its own, in the network namespace of the thread that first polls it. Dropping it ends
/// that thread soon after, and closes all sockets without a word. Panics if the thread has.
pub async fn run(snapshots: watch::Receiver<Arc<Snapshot>>, events: mpsc::Sender<Event>) {
    let (board, reports) = Board::new();
    match Thread::start("bgp", speak(snapshots, board)) {
        Ok(thread) => drop(tokio::join!(thread.ended(), report::send(reports, events))),
        Err(error) => tracing::error!(%error, "the BGP thread cannot be started"),
    }
}

async fn speak(mut snapshots: watch::Receiver<Arc<Snapshot>>, board: Board) {
    let (accepted, mut connections) = mpsc::channel(16);
    let wires = Wires::new(board.clone());
    let mut speaker = Speaker {
        snapshot: None,
        peers: BTreeMap::new(),
        tasks: JoinSet::new(),
        listeners: Listeners::new(accepted, wires.neighbours(), board.clone()),
        wires,
        board,
    };
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        speaker.update(snapshot);
        loop {
            tokio::select! {
                changed = snapshots.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(connection) = connections.recv() => speaker.accept(connection),
                Some(_) = speaker.tasks.join_next() => speaker.bury(),
            }
        }
    }
}

struct Speaker {
    /// The newest.
    snapshot: Option<Arc<Snapshot>>,
    peers: BTreeMap<PeerId, Handle>,
    tasks: JoinSet<()>,
    listeners: Listeners,
    wires: Wires,
    board: Board,
}

struct Handle {
    orders: watch::Sender<Arc<Orders>>,
    accepted: mpsc::Sender<TcpStream>,
}

impl Speaker {
    fn update(&mut self, snapshot: Arc<Snapshot>) {
        let bgp = snapshot.config.bgp.as_ref();
        let bgp = bgp.filter(|_| !snapshot.stopping);
        let peers = bgp.into_iter().flat_map(|bgp| bgp.peers.keys());
        self.wires.set(
            &peers
                .filter_map(|id| match id {
                    PeerId::Interface(interface) => Some(interface),
                    PeerId::Address(_) | PeerId::LinkLocal(..) => None,
                })
                .collect(),
        );
        self.listeners.set(bgp);
        self.snapshot = Some(snapshot);
        self.order();
    }

    /// Gives each peer its orders, as far as they changed; starts tasks of new ones.
    fn order(&mut self) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let none = BTreeMap::new();
        let bgp = snapshot.config.bgp.as_ref();
        let wanted = bgp.map_or(&none, |bgp| &bgp.peers);
        let end = if snapshot.stopping {
            let text = bgp.and_then(|bgp| bgp.shutdown_text.as_deref());
            Notification::cease_because(Cease::AdministrativeShutdown, text)
        } else {
            Notification::cease(Cease::PeerDeconfigured)
        };
        for (peer, handle) in &self.peers {
            if snapshot.stopping || !wanted.contains_key(peer) {
                handle.end(&end);
            }
        }
        if snapshot.stopping {
            if self.peers.is_empty() {
                self.board.stopped();
            }
            return;
        }
        let Some(bgp) = bgp else { return };
        for (id, peer) in wanted {
            let orders = Orders {
                ends: Ends::new(bgp, peer),
                peer: peer.clone(),
                vips: snapshot.vips.clone(),
                said: snapshot.peer_orders.get(id).cloned().unwrap_or_default(),
                end: None,
            };
            match self.peers.get(id) {
                Some(handle) => handle.order(orders),
                None => self.start(id.clone(), orders),
            }
        }
    }

    fn start(&mut self, peer: PeerId, orders: Orders) {
        let (orders, receiver) = watch::channel(Arc::new(orders));
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        self.tasks.spawn(peer::run(
            receiver,
            connections,
            self.wires.neighbours(),
            self.board.clone(),
        ));
        self.peers.insert(peer, Handle { orders, accepted });
    }

    /// Forgets the peers whose task has ended, and starts those that are wanted again.
    fn bury(&mut self) {
        let board = &self.board;
        self.peers.retain(|peer, handle| {
            let alive = !handle.orders.is_closed();
            if !alive {
                board.peer_is_gone(peer);
            }
            alive
        });
        self.order();
    }

    fn accept(&mut self, Accepted { peer, stream }: Accepted) {
        if let Some(handle) = self.peers.get(&peer) {
            // If its task has enough to do with others, this one is dropped.
            drop(handle.accepted.try_send(stream));
        }
    }
}

impl Handle {
    /// Wakes the peer's task only if something is new for it.
    fn order(&self, orders: Orders) {
        self.orders.send_if_modified(|old| {
            let changed = !old.same(&orders);
            if changed {
                *old = Arc::new(orders);
            }
            changed
        });
    }

    fn end(&self, why: &Notification) {
        let orders = Orders::clone(&self.orders.borrow());
        self.order(Orders {
            end: orders.end.or_else(|| Some(why.clone())),
            ..orders
        });
    }
}
