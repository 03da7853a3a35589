//! One peer's task: moves messages, time and orders between the sockets, the state machines
//! ([`Peering`]) and the routes ([`RibOut`]). It waits for nobody but its own sockets.
//!
//! ```text
//!  bgp.rs ── Orders (watch) ──┐        ┌─► Connection (Out)
//!         ── accepted ────────┼─► Peer ┼─► Connection (In)
//!  Board ◄── session, told ───┘        └── Peering, RibOut: pure
//! ```

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::message::{self, Message, Sender};
use super::notification::{Cease, Notification};
use super::peering::{Actions, Peering, Side};
use super::report::Board;
use super::rib::RibOut;
use super::session::{Action, At, Ends, Event};
use super::sockopt::Failed;
use super::transport::{self, Connection, Incoming, Limits, Outgoing, Settings};
use super::unnumbered::Neighbours;
use crate::chain::chain;
use crate::config;
use crate::routing::session::{Figures, Route, Session, SessionState};
use crate::snapshot::{PeerOrders, Vip};

/// So many connections, with those that are being closed, a peer may cost us.
const CONNECTIONS: usize = 8;
/// How long the last withdrawals may take at an end in order.
const WITHDRAW: Duration = Duration::from_secs(3);

/// What `bgp.rs` wants of a peer's task; the newest order counts.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) ends: Ends,
    pub(crate) peer: Arc<config::Peer>,
    /// All our addresses; those that are announced are for the peer if its groups are meant.
    pub(crate) vips: OrdMap<IpAddr, Arc<Vip>>,
    pub(crate) said: PeerOrders,
    /// Withdraw everything, give this reason, close, end the task.
    pub(crate) end: Option<Cease>,
}

impl Orders {
    pub(crate) fn same(&self, other: &Orders) -> bool {
        self.vips.ptr_eq(&other.vips)
            && (&self.ends, &self.peer, &self.said, self.end)
                == (&other.ends, &other.peer, &other.said, other.end)
    }

    /// How the peer is reached.
    fn settings(&self) -> Settings {
        Settings::of(self.ends.local_as, &self.peer)
    }

    /// What the peer is to be told of this address.
    fn route(&self, address: IpAddr, vip: &Vip) -> Option<Arc<Route>> {
        let announcement = vip.announce.as_ref().ok()?;
        let next_hop = match address {
            IpAddr::V4(_) => self.peer.next_hop_ipv4.map(IpAddr::from),
            IpAddr::V6(_) => self.peer.next_hop_ipv6.map(IpAddr::from),
        };
        let attributes = announcement.attributes(Some(&self.peer.policy)).into();
        message::is_unicast(address).then_some(())?;
        Some(Arc::new(Route {
            next_hop: next_hop?,
            attributes,
        }))
    }
}

/// The task's life: until it is ordered to end, and has, or the orders' sender is gone.
pub(crate) async fn run(
    orders: watch::Receiver<Arc<Orders>>,
    accepted: mpsc::Receiver<TcpStream>,
    neighbours: watch::Receiver<Neighbours>,
    board: Board,
) {
    let mut peer = Peer::new(orders, accepted, neighbours, board);
    peer.live().await;
    peer.end().await;
}

type Connecting = Pin<Box<dyn Future<Output = Result<TcpStream, Failed>> + Send>>;

struct Peer {
    orders: watch::Receiver<Arc<Orders>>,
    accepted: mpsc::Receiver<TcpStream>,
    neighbours: watch::Receiver<Neighbours>,
    board: Board,
    /// The orders that are in force.
    current: Arc<Orders>,
    peering: Peering,
    connecting: Option<Connecting>,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    /// The routes of the session that is established, and its side.
    rib: Option<(Side, RibOut)>,
    /// Everything is being withdrawn, for the end; until then it may take.
    ending: Option<Instant>,
    /// The connections' tasks, also of those that are being closed.
    tasks: JoinSet<()>,
    /// How many prefixes the peer has announced and withdrawn in this session.
    heard: (usize, usize),
    reported: SessionState,
    /// The last fault in the log.
    logged: Option<String>,
    figures: Arc<Figures>,
}

impl Peer {
    fn new(
        mut orders: watch::Receiver<Arc<Orders>>,
        accepted: mpsc::Receiver<TcpStream>,
        neighbours: watch::Receiver<Neighbours>,
        board: Board,
    ) -> Peer {
        let current = orders.borrow_and_update().clone();
        Peer {
            peering: Peering::new(current.ends.clone()),
            orders,
            accepted,
            neighbours,
            board,
            current,
            connecting: None,
            outgoing: None,
            incoming: None,
            rib: None,
            ending: None,
            tasks: JoinSet::new(),
            heard: (0, 0),
            reported: SessionState::Idle,
            logged: None,
            figures: Arc::default(),
        }
    }

    async fn live(&mut self) {
        self.report();
        if self.current.end.is_some() {
            return;
        }
        let actions = self.peering.start(at());
        self.apply(actions);
        loop {
            self.send_updates();
            self.report();
            if self.is_ended() {
                return;
            }
            let sending = self
                .rib
                .as_ref()
                .filter(|(_, rib)| rib.is_pending())
                .map(|(side, _)| *side);
            let timer = [self.peering.next_timer(), self.ending];
            tokio::select! {
                changed = self.orders.changed() => match changed {
                    Ok(()) => self.obey(),
                    Err(_) => return,
                },
                Some(stream) = self.accepted.recv() => self.accept(stream),
                result = opt(self.connecting.as_mut()) => self.connected(result),
                event = next(&mut self.outgoing, sending == Some(Side::Out)) => {
                    self.receive(Side::Out, event);
                }
                event = next(&mut self.incoming, sending == Some(Side::In)) => {
                    self.receive(Side::In, event);
                }
                () = sleep(timer.into_iter().flatten().min()) => self.timers(),
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Says why and closes; returns when the sockets are closed.
    async fn end(&mut self) {
        let why = self.current.end.unwrap_or(Cease::AdministrativeShutdown);
        let actions = self.peering.stop(&Notification::cease(why), at());
        self.apply(actions);
        while self.tasks.join_next().await.is_some() {}
        self.report();
    }

    fn is_ended(&self) -> bool {
        let Some(until) = self.ending else {
            return false;
        };
        match &self.rib {
            Some((_, rib)) => rib.told().is_empty() && !rib.is_pending() || Instant::now() >= until,
            // Nothing to withdraw.
            None => true,
        }
    }

    fn obey(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.current, orders);
        if self.ending.is_some() {
            // There is no way back from an end.
            self.current = before;
            return;
        }
        if self.current.end.is_some() {
            self.ending = Some(Instant::now() + WITHDRAW);
            if let Some((_, rib)) = &mut self.rib {
                rib.want_nothing();
            }
            return;
        }
        // A key or a TTL cannot be changed under a connection that is up.
        let other_way = before.settings() != self.current.settings();
        if other_way || self.current.ends != *self.peering.ends() {
            let why = Notification::cease(Cease::OtherConfigurationChange);
            let ends = self.current.ends.clone();
            let actions = self.peering.restart(ends, &why, at());
            self.apply(actions);
        }
        if let Some((_, rib)) = &mut self.rib {
            if before.peer != self.current.peer {
                for (prefix, vip) in &self.current.vips {
                    rib.want(*prefix, self.current.route(*prefix, vip));
                }
            }
            for change in before.vips.diff(&self.current.vips) {
                match change {
                    DiffItem::Add(prefix, vip)
                    | DiffItem::Update {
                        new: (prefix, vip), ..
                    } => {
                        rib.want(*prefix, self.current.route(*prefix, vip));
                    }
                    DiffItem::Remove(prefix, _) => rib.want(*prefix, None),
                }
            }
        }
    }

    fn accept(&mut self, stream: TcpStream) {
        if self.tasks.len() >= CONNECTIONS {
            tracing::debug!(peer = %self.current.peer.id, "a connection too many is closed unanswered");
            return;
        }
        let admitted = if self.ending.is_none() {
            self.peering.admit(at())
        } else {
            // RFC 4486: Connection Rejected.
            Err(Notification::new(6, 5, []))
        };
        match admitted {
            Ok(actions) => {
                self.apply(actions);
                self.open(Side::In, stream);
            }
            Err(why) => {
                tracing::debug!(peer = %self.current.peer.id, %why, "a connection is refused");
                Connection::new(stream, self.limits(), &mut self.tasks)
                    .close(Some(message::notification(&why)));
            }
        }
    }

    fn connected(&mut self, result: Result<TcpStream, Failed>) {
        self.connecting = None;
        match result {
            Ok(stream) => self.open(Side::Out, stream),
            Err(failed) => {
                let fault = chain(&failed);
                let event = match failed.source.kind() {
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                        Event::ConnectionRefused(fault)
                    }
                    _ => Event::ConnectionFails(fault),
                };
                self.event(Side::Out, event);
            }
        }
    }

    fn open(&mut self, side: Side, stream: TcpStream) {
        let connection = Connection::new(stream, self.limits(), &mut self.tasks);
        let (peer, ends) = (&self.current.peer.id, (connection.local, connection.remote));
        tracing::debug!(%peer, ?side, ?ends, "connected");
        *self.connection(side) = Some(connection);
        self.event(side, Event::Connected);
    }

    fn receive(&mut self, side: Side, incoming: Option<Incoming>) {
        let Some(incoming) = incoming else { return };
        let event = match incoming {
            Incoming::Frame(frame) => match message::decode(&frame, self.sender()) {
                Ok(message) => {
                    if let Message::Update(update) = &message {
                        self.heard.0 += update.announced.len();
                        self.heard.1 += update.withdrawn.len();
                    }
                    Event::Received(message)
                }
                Err(notification) => Event::Malformed(notification),
            },
            Incoming::BadHeader(notification) => Event::Malformed(notification),
            Incoming::Failed(fault) => Event::ConnectionFails(fault),
            Incoming::SendHoldExpired => Event::ConnectionFails("send hold timer expired".into()),
            Incoming::Written(withdrawn) => {
                if let Some((_, rib)) = self.rib.as_mut().filter(|(of, _)| *of == side) {
                    rib.written(&withdrawn);
                }
                return;
            }
        };
        self.event(side, event);
    }

    fn timers(&mut self) {
        // If it was us who slept, what has arrived meanwhile is news of the peer, too.
        for side in Side::BOTH {
            for _ in 0..transport::FRAMES_IN {
                let arrived = self
                    .connection(side)
                    .as_mut()
                    .and_then(Connection::try_recv);
                if arrived.is_none() {
                    break;
                }
                self.receive(side, arrived);
            }
        }
        let actions = self.peering.due(at());
        self.apply(actions);
    }

    fn event(&mut self, side: Side, event: Event) {
        let actions = self.peering.handle(side, event, at());
        self.apply(actions);
    }

    fn apply(&mut self, actions: Actions) {
        for (side, action) in actions {
            match action {
                Action::Connect => {
                    let connecting =
                        transport::connect(self.current.settings(), self.neighbours.clone());
                    self.connecting = Some(Box::pin(connecting));
                }
                Action::SendOpen(open) => self.send(side, message::open(&open)),
                Action::SendKeepalive => self.send(side, message::keepalive()),
                Action::Close(notification) => self.close(side, notification.as_ref()),
                Action::Established(negotiated) => {
                    let Ends {
                        local_as, peer_as, ..
                    } = self.current.ends;
                    let mut rib = RibOut::new(local_as, local_as == peer_as, &negotiated);
                    for (prefix, vip) in &self.current.vips {
                        rib.want(*prefix, self.current.route(*prefix, vip));
                    }
                    self.rib = Some((side, rib));
                    self.heard = (0, 0);
                    self.logged = None;
                }
                Action::Refresh(family) => {
                    if let Some((_, rib)) = &mut self.rib {
                        rib.refresh(family);
                    }
                }
                Action::Fault(fault) => self.log_fault(fault),
            }
        }
    }

    /// Only UPDATEs are read by it, and they come when it is settled.
    fn sender(&self) -> Sender {
        let ends = &self.current.ends;
        Sender {
            internal: ends.local_as == ends.peer_as,
            four_octet_as: self.rib.as_ref().is_none_or(|(_, rib)| rib.four_octet_as()),
        }
    }

    /// Where there is no room the peer has more than a keepalive before it already.
    fn send(&mut self, side: Side, frame: Vec<u8>) {
        if let Some(connection) = self.connection(side) {
            connection.send(Outgoing {
                frame,
                withdrawn: Vec::new(),
            });
        }
    }

    fn close(&mut self, side: Side, last: Option<&Notification>) {
        if side == Side::Out {
            self.connecting = None;
        }
        self.rib.take_if(|(of, _)| *of == side);
        if let Some(connection) = self.connection(side).take() {
            connection.close(last.map(message::notification));
        }
    }

    /// As many UPDATEs as the writer has room for.
    fn send_updates(&mut self) {
        let Some((side, rib)) = &mut self.rib else {
            return;
        };
        let connection = match side {
            Side::Out => &self.outgoing,
            Side::In => &self.incoming,
        };
        let Some(connection) = connection else { return };
        let mut sent = false;
        while rib.is_pending() && connection.has_room() {
            if let Some(update) = rib.next() {
                // Only we put something in, so the room is still there.
                sent = connection.send(Outgoing {
                    frame: update.frame,
                    withdrawn: update.withdrawn,
                });
            }
        }
        if sent {
            let side = *side;
            self.event(side, Event::UpdateSent);
        }
    }

    /// Once, not at each try that fails the same way.
    fn log_fault(&mut self, fault: String) {
        if self.logged.as_ref() != Some(&fault) {
            tracing::info!(peer = %self.current.peer.id, fault, "BGP session failed");
            self.logged = Some(fault);
        }
    }

    fn report(&mut self) {
        let state = self.peering.furthest();
        if state != self.reported {
            self.log_state(state);
            self.reported = state;
        }
        let routes = self.rib.as_ref().map(|(_, rib)| rib.told().clone());
        let session = Session {
            state,
            fault: self.peering.fault().cloned(),
            routes: routes.unwrap_or_default(),
            figures: self.figures.clone(),
            ..Session::default()
        };
        self.board.peer(&self.current.peer.id, session);
    }

    fn log_state(&self, state: SessionState) {
        let (peer, heard) = (&self.current.peer.id, self.heard);
        if state == SessionState::Established {
            tracing::info!(%peer, "BGP session established");
        } else if self.reported == SessionState::Established {
            tracing::info!(%peer, ?state, ?heard, "BGP session ended");
        } else {
            tracing::debug!(%peer, ?state, "BGP session changed");
        }
    }

    fn connection(&mut self, side: Side) -> &mut Option<Connection> {
        match side {
            Side::Out => &mut self.outgoing,
            Side::In => &mut self.incoming,
        }
    }

    fn limits(&self) -> Limits {
        let longest = if self.current.ends.extended_messages {
            message::LONGEST_EXTENDED
        } else {
            message::LONGEST
        };
        Limits {
            send_hold: self.current.peer.send_hold_time,
            longest,
        }
    }
}

fn at() -> At {
    At::new(Instant::now(), fastrand::f64())
}

async fn opt<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// `None`: the writer has room again.
async fn next(connection: &mut Option<Connection>, sending: bool) -> Option<Incoming> {
    match connection {
        Some(connection) => connection.next(sending).await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
