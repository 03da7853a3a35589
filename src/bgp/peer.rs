//! One peer's task: moves messages, time and orders between the sockets, the state machines
//! ([`Peering`]) and the routes ([`Established`]). It waits for nobody but its own sockets.
//!
//! ```text
//!  bgp.rs ── Orders (watch) ──┐        ┌─► Connection (Out)
//!         ── accepted ────────┼─► Peer ┼─► Connection (In)
//!  Board ◄── session ─────────┘        └── Peering, Established: pure
//! ```

mod figures;
mod links;
mod shown;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::links::Link;
use self::shown::said;
use super::established::{self, Established};
use super::message::{self, Message, Sender};
use super::notification::{Cease, Notification};
use super::peering::{Actions, Peering, Side};
use super::report::Board;
use super::session::{Action, At, Ends, Event, Negotiated};
use super::sockopt::Failed;
use super::transport::{self, Incoming, Settings};
use super::unnumbered::Neighbours;
use crate::config;
use crate::config::MaximumAction;
use crate::routing::session::{Figures, Session};
use crate::service::Family;
use crate::snapshot::{PeerOrders, Vip};

/// How long the last withdrawals may take at an end in order.
const WITHDRAW: Duration = Duration::from_secs(3);
/// How long a peer that announced too much is left alone, unless somebody changes its configuration or clears it:
/// longer than after other ends, since time alone mends nothing.
const OVER_MAXIMUM: Duration = Duration::from_secs(300);

/// What `bgp.rs` wants of a peer's task; the newest order counts.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) ends: Ends,
    pub(crate) peer: Arc<config::Peer>,
    /// All our addresses; those that are announced are for the peer if its groups are meant.
    pub(crate) vips: OrdMap<IpAddr, Arc<Vip>>,
    pub(crate) said: PeerOrders,
    /// Withdraw everything, give this reason, close, end the task.
    pub(crate) end: Option<Notification>,
}

impl Orders {
    pub(crate) fn same(&self, other: &Orders) -> bool {
        self.vips.ptr_eq(&other.vips)
            && (Arc::ptr_eq(&self.peer, &other.peer) || self.peer == other.peer)
            && (&self.ends, &self.said, &self.end) == (&other.ends, &other.said, &other.end)
    }

    /// Whether there is to be a session: the operator's word goes over the configuration's.
    fn enabled(&self) -> bool {
        self.said.enabled.unwrap_or(self.peer.enabled)
    }

    /// How the peer is reached.
    fn settings(&self) -> Settings {
        Settings::of(self.ends.local_as, &self.peer)
    }

    fn cease(&self, why: Cease) -> Notification {
        Notification::cease_because(why, self.said.text.as_deref())
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
    outgoing: Option<Link>,
    incoming: Option<Link>,
    established: Option<Established>,
    /// Left alone until then, and why.
    shunned: Option<(Instant, String)>,
    /// Everything is being withdrawn, for the end; until then it may take.
    ending: Option<Instant>,
    /// The connections' tasks, also of those that are being closed.
    tasks: JoinSet<()>,
    /// As the operator sees it, except for what [`Peer::report`] looks up.
    shown: Session,
    /// The last fault in the log.
    logged: Option<String>,
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
            established: None,
            shunned: None,
            ending: None,
            tasks: JoinSet::new(),
            shown: Session {
                since: Some(figures::wall_clock()),
                figures: Arc::new(Figures::default()),
                ..Session::default()
            },
            logged: None,
        }
    }

    async fn live(&mut self) {
        self.report();
        if self.current.end.is_some() {
            return;
        }
        if self.current.enabled() {
            self.start();
        }
        loop {
            self.send_updates();
            self.report();
            if self.is_ended() {
                return;
            }
            let pending = self.established.as_ref().filter(|e| e.is_pending());
            let sending = pending.map(|established| established.side);
            let timer = self.next_timer();
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
                () = sleep(timer) => self.timers(),
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Says why and closes; returns when the sockets are closed.
    async fn end(&mut self) {
        let why = self.current.end.clone();
        let why = why.unwrap_or_else(|| Notification::cease(Cease::AdministrativeShutdown));
        self.stop(&why);
        while self.tasks.join_next().await.is_some() {}
        self.report();
    }

    fn is_ended(&self) -> bool {
        let Some(until) = self.ending else {
            return false;
        };
        match &self.established {
            Some(established) => established.is_empty() || Instant::now() >= until,
            // Nothing to withdraw.
            None => true,
        }
    }

    fn start(&mut self) {
        self.shunned = None;
        let actions = self.peering.start(at());
        self.apply(actions);
    }

    fn stop(&mut self, why: &Notification) {
        let actions = self.peering.stop(why, at());
        self.apply(actions);
    }

    fn restart(&mut self, why: &Notification) {
        self.shunned = None;
        let ends = self.current.ends.clone();
        let actions = self.peering.restart(ends, why, at());
        self.apply(actions);
    }

    fn obey(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        if self.ending.is_some() {
            // There is no way back from an end.
            return;
        }
        let before = std::mem::replace(&mut self.current, orders);
        if self.current.end.is_some() {
            self.ending = Some(Instant::now() + WITHDRAW);
            if let Some(established) = &mut self.established {
                established.want_nothing();
            }
            return;
        }
        self.obey_session(&before);
        if let Some(established) = &mut self.established {
            established.obey(&before, &self.current);
        }
        self.check_maximum();
    }

    /// What the orders mean for the session itself.
    fn obey_session(&mut self, before: &Orders) {
        let orders = self.current.clone();
        let (was_enabled, enabled) = (before.enabled(), orders.enabled());
        // Policy, next hops, limits and all that is not agreed on when a session begins change without a reset.
        let kept = orders.ends == *self.peering.ends() && orders.settings() == before.settings();
        if was_enabled && !enabled {
            self.shunned = None;
            self.stop(&orders.cease(Cease::AdministrativeShutdown));
        }
        let at_rest = !was_enabled || !enabled;
        if at_rest && !kept {
            // It begins with what is new.
            self.peering = Peering::new(orders.ends.clone());
        }
        if !enabled {
            return;
        }
        if !was_enabled {
            self.start();
        } else if !kept {
            self.restart(&Notification::cease(Cease::OtherConfigurationChange));
        } else if orders.said.clears > before.said.clears {
            self.restart(&orders.cease(Cease::AdministrativeReset));
        } else if self.shunned.is_some() && orders.peer != before.peer {
            // Somebody has done something about what it was left alone for.
            self.start();
        }
    }

    fn receive(&mut self, side: Side, incoming: Option<Incoming>) {
        let Some(incoming) = incoming else { return };
        let event = match incoming {
            Incoming::Frame(frame) => {
                figures::count(&self.shown.figures.received, &frame);
                match message::decode(&frame, self.sender()) {
                    Ok(message) => {
                        self.hear(side, &message);
                        Event::Received(message)
                    }
                    Err(notification) => Event::Malformed(notification),
                }
            }
            Incoming::BadHeader(notification) => Event::Malformed(notification),
            Incoming::Failed(fault) => Event::ConnectionFails(fault),
            Incoming::SendHoldExpired => Event::SendHoldTimerExpires,
            Incoming::Written(withdrawn) => {
                if let Some(established) = self.established_by(side) {
                    established.written(&withdrawn);
                }
                return;
            }
        };
        self.event(side, event);
        self.check_maximum();
    }

    /// What of a message is not the state machine's affair.
    fn hear(&mut self, side: Side, message: &Message) {
        match message {
            Message::Update(update) => {
                let vips = self.current.vips.clone();
                let Some(established) = self.established_by(side) else {
                    return;
                };
                established.hear(update, &vips);
                if let Some(fault) = &update.fault {
                    figures::add(&self.shown.figures.malformed);
                    tracing::debug!(peer = %self.current.peer.id, fault, "a malformed UPDATE");
                }
            }
            Message::RouteRefresh(refresh) => {
                if let Some(established) = self.established_by(side) {
                    established.refreshed(*refresh);
                }
            }
            Message::Notification(told) => self.shown.heard_last = Some(Arc::new(said(told))),
            Message::Open(_) | Message::Keepalive => {}
        }
    }

    fn check_maximum(&mut self) {
        let Some(established) = &mut self.established else {
            return;
        };
        for (index, family) in figures::FAMILIES.into_iter().enumerate() {
            figures::set(
                &self.shown.figures.prefixes[index],
                established.count(family),
            );
        }
        let new = established.newly_over_maximum();
        let over = established.over_maximum();
        let config::Peer {
            id,
            maximum_prefixes,
            maximum_prefixes_action,
            ..
        } = &*self.current.peer;
        let Some(&family) = over.first() else { return };
        if !new.is_empty() {
            tracing::warn!(peer = %id, over = ?new, maximum_prefixes, "the peer announces too many prefixes");
        }
        match maximum_prefixes_action {
            MaximumAction::Warn => {}
            MaximumAction::Cease => {
                let why = too_many(family, *maximum_prefixes);
                let fault = format!("{why}: more than maximum-prefixes = {maximum_prefixes}");
                self.stop(&why);
                self.shunned = Some((Instant::now() + OVER_MAXIMUM, fault));
            }
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let routes = self.established.as_ref().and_then(Established::next_due);
        let shunned = self.shunned.as_ref().map(|(until, _)| *until);
        let session = self.peering.next_timer();
        let hint = self.peering.next_hint(Instant::now());
        [session, hint, self.ending, routes, shunned]
            .into_iter()
            .flatten()
            .min()
    }

    fn timers(&mut self) {
        // If it was us who slept, what has arrived meanwhile is news of the peer, too.
        for side in Side::BOTH {
            for _ in 0..transport::FRAMES_IN {
                let link = self.link(side).as_mut();
                let arrived = link.and_then(|link| link.connection.try_recv());
                if arrived.is_none() {
                    break;
                }
                self.receive(side, arrived);
            }
        }
        let actions = self.peering.due(at());
        self.apply(actions);
        let now = Instant::now();
        if self
            .shunned
            .as_ref()
            .is_some_and(|(until, _)| *until <= now)
        {
            self.start();
        }
    }

    fn event(&mut self, side: Side, event: Event) {
        let actions = self.peering.handle(side, event, at());
        self.apply(actions);
    }

    fn apply(&mut self, actions: Actions) {
        let mut ended = None;
        for (side, action) in actions {
            match action {
                Action::Connect => {
                    let connecting =
                        transport::connect(self.current.settings(), self.neighbours.clone());
                    self.connecting = Some(Box::pin(connecting));
                }
                Action::SendOpen(open) => drop(self.send(side, message::open(&open), Vec::new())),
                Action::SendKeepalive => drop(self.send(side, message::keepalive(), Vec::new())),
                Action::Close(notification) => {
                    ended = self.close(side, notification.as_ref()).or(ended);
                }
                Action::Established(negotiated) => self.establish(side, negotiated),
                Action::Refresh(family) => {
                    if let Some(established) = self.established_by(side) {
                        established.refresh(family);
                    }
                }
                // It comes behind the close that it is the reason of.
                Action::Fault(fault) => match &mut ended {
                    Some(ended) => ended.why = fault,
                    None => self.log_fault(fault),
                },
            }
        }
        if let Some(ended) = ended {
            self.log_end(ended);
        }
    }

    fn establish(&mut self, side: Side, negotiated: Negotiated) {
        let Some(link) = self.link(side) else { return };
        let (local, remote) = (link.local, link.remote);
        let shown = established::shown(&negotiated, local, remote);
        self.log_established(&shown);
        self.shown.negotiated = Some(Arc::new(shown));
        let now = Instant::now();
        let orders = &self.current;
        self.established = Some(Established::new(side, local.ip(), negotiated, orders, now));
        figures::add(&self.shown.figures.times_established);
    }

    /// Only UPDATEs are read by it, and they come when it is settled.
    fn sender(&self) -> Sender {
        let ends = &self.current.ends;
        let established = self.established.as_ref();
        Sender {
            internal: ends.local_as == ends.peer_as,
            four_octet_as: established.is_none_or(Established::four_octet_as),
        }
    }

    /// As many UPDATEs as the writer has room for.
    fn send_updates(&mut self) {
        let now = Instant::now();
        let Some(established) = &mut self.established else {
            return;
        };
        established.release(now);
        let side = established.side;
        let mut sent = false;
        while self.has_room(side)
            && let Some(established) = &mut self.established
            && let Some(update) = established.next(now)
        {
            let is_update = figures::is_update(&update.frame);
            // Only we put something in, so the room is still there.
            sent |= self.send(side, update.frame, update.withdrawn) && is_update;
        }
        if sent {
            self.event(side, Event::UpdateSent);
        }
    }

    fn established_by(&mut self, side: Side) -> Option<&mut Established> {
        self.established.as_mut().filter(|e| e.side == side)
    }
}

/// RFC 4486 section 4: which family, and how many would have been taken.
fn too_many(family: Family, maximum: u32) -> Notification {
    let afi: u8 = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    let [a, b, c, d] = maximum.to_be_bytes();
    let why = Notification::cease(Cease::MaximumPrefixes);
    Notification::new(why.code, why.subcode, [0, afi, 1, a, b, c, d])
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
async fn next(link: &mut Option<Link>, sending: bool) -> Option<Incoming> {
    match link {
        Some(link) => link.connection.next(sending).await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
