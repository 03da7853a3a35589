//! Finds the router at the other end of an interface that a peer is named by (`interface = "eth1"`), and lets
//! it find us: both ends send Router Advertisements (RFC 4861), and the link-local address that one comes from
//! is the neighbour's. Ours have a lifetime of zero, so no host takes us for its router. That is what FRR
//! does for `neighbor eth1 interface`, and what BIRD's `radv` answers to. It opens no BGP connection.
//!
//! ```text
//!  bgp.rs ── interfaces ─► a task each ◄─ raw ICMPv6 socket ─► the wire
//!                              └─ Neighbours (watch) ─► transport.rs (whom to call), listener.rs (whose key)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::cmsg_space;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::report::Board;
use super::sockopt::{self, FARTHEST, Failed};
use crate::backoff::Backoff;
use crate::chain::chain;
use crate::routing::Interface;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// RFC 4861 section 4.1: type, code, checksum (which the kernel fills in), reserved.
const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
/// RFC 4861 section 4.2: we leave the hop limit and all times to whoever is a router; lifetime zero.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// RFC 4861 section 10: MIN_DELAY_BETWEEN_RAS, and MAX_RA_DELAY_TIME.
const LEAST: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_millis(500);
/// Between two advertisements once a router is known; FRR's own choice for such a wire.
const SETTLED: Duration = Duration::from_secs(10);
/// After so long without a word a router is asked, and after so long it is forgotten.
const QUIET: Duration = Duration::from_secs(20);
const GONE: Duration = Duration::from_secs(60);
/// The same while there are two: one that has replaced the other is alone soon.
const REPLACED: Duration = Duration::from_secs(15);

/// Of one wire so many are remembered, and named to the operator.
const MOST_ROUTERS: usize = 4;

/// The link-local addresses that routers have been heard from, by interface. Each interface that is followed
/// and where somebody was heard is there.
pub(crate) type Neighbours = BTreeMap<Interface, BTreeSet<Ipv6Addr>>;

/// One task an interface; dropping it ends all.
#[derive(Debug)]
pub(crate) struct Wires {
    wires: BTreeMap<Interface, AbortHandle>,
    tasks: JoinSet<()>,
    neighbours: Arc<watch::Sender<Neighbours>>,
    board: Board,
}

impl Wires {
    pub(crate) fn new(board: Board) -> Wires {
        Wires {
            wires: BTreeMap::new(),
            tasks: JoinSet::new(),
            neighbours: Arc::new(watch::Sender::default()),
            board,
        }
    }

    pub(crate) fn neighbours(&self) -> watch::Receiver<Neighbours> {
        self.neighbours.subscribe()
    }

    /// Follows these interfaces and no others; those that stay are not touched.
    pub(crate) fn set(&mut self, wanted: &BTreeSet<&Interface>) {
        self.wires.retain(|interface, task| {
            let keep = wanted.contains(interface);
            if !keep {
                task.abort();
                publish(&self.neighbours, interface, BTreeSet::new());
                self.board.trouble(interface.as_str(), None);
            }
            keep
        });
        for &interface in wanted {
            self.wires.entry(interface.clone()).or_insert_with(|| {
                let (neighbours, board) = (self.neighbours.clone(), self.board.clone());
                self.tasks
                    .spawn(follow(interface.clone(), neighbours, board))
            });
        }
        // Those that were aborted.
        while self.tasks.try_join_next().is_some() {}
    }
}

/// The number that the kernel knows it by now; another one after it was gone.
pub(crate) fn index(interface: &Interface) -> Result<u32, Failed> {
    if_nametoindex(interface.as_str())
        .map_err(io::Error::from)
        .map_err(Failed::to(format!("find the interface {interface}")))
}

/// `None`: it is gone.
pub(crate) fn name(index: u32) -> Option<Interface> {
    let name = if_indextoname(index).ok()?;
    Interface::new(name.to_str().ok()?)
}

fn publish(
    neighbours: &watch::Sender<Neighbours>,
    interface: &Interface,
    routers: BTreeSet<Ipv6Addr>,
) {
    neighbours.send_if_modified(|all| {
        if routers.is_empty() {
            return all.remove(interface).is_some();
        }
        let changed = all.get(interface) != Some(&routers);
        if changed {
            all.insert(interface.clone(), routers);
        }
        changed
    });
}

async fn follow(interface: Interface, neighbours: Arc<watch::Sender<Neighbours>>, board: Board) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    loop {
        let fault = match Wire::open(&interface) {
            Ok(mut wire) => wire.talk(&neighbours, &board, &mut backoff).await,
            Err(fault) => fault,
        };
        publish(&neighbours, &interface, BTreeSet::new());
        let fault = format!("{interface}: {}", chain(&fault));
        if board.trouble(interface.as_str(), Some(fault.clone())) {
            tracing::warn!(fault, "the BGP peer of an interface cannot be looked for");
        }
        sleep(backoff.next()).await;
    }
}

struct Wire {
    interface: Interface,
    index: u32,
    socket: UdpSocket,
    /// When each was last heard.
    routers: BTreeMap<Ipv6Addr, Instant>,
    /// When we last sent an advertisement, and when the next is due.
    sent: Option<Instant>,
    due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Solicitation,
    Advertisement(Ipv6Addr),
}

impl Wire {
    fn open(interface: &Interface) -> Result<Wire, Failed> {
        let index = index(interface)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).map_err(
            Failed::to("open a raw ICMPv6 socket (it needs CAP_NET_RAW)"),
        )?;
        let prepare = || {
            let socket = SockRef::from(&socket);
            socket.set_nonblocking(true)?;
            socket.bind_device(Some(interface.as_str().as_bytes()))?;
            sockopt::only_router_discovery(&socket)?;
            socket.set_recv_hoplimit_v6(true)?;
            // RFC 4861 section 6.1.2: who is not on the wire cannot send this.
            socket.set_multicast_hops_v6(FARTHEST.into())?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_loop_v6(false)?;
            // A host that does not forward IPv6 is not among them by itself.
            socket.join_multicast_v6(&ALL_ROUTERS, index)
        };
        prepare().map_err(Failed::to("prepare the ICMPv6 socket"))?;
        // To tokio one socket of datagrams is like the other.
        let socket =
            UdpSocket::from_std(socket.into()).map_err(Failed::to("wait for the ICMPv6 socket"))?;
        Ok(Wire {
            interface: interface.clone(),
            index,
            socket,
            routers: BTreeMap::new(),
            sent: None,
            due: Instant::now(),
        })
    }

    /// Until the interface or the socket fails.
    async fn talk(
        &mut self,
        neighbours: &watch::Sender<Neighbours>,
        board: &Board,
        backoff: &mut Backoff,
    ) -> Failed {
        loop {
            let step = tokio::select! {
                message = self.receive() => message.map(|message| self.take(message)),
                () = sleep_until(self.due) => self.speak().inspect(|()| backoff.reset()),
            };
            if let Err(fault) = step {
                return fault;
            }
            let routers: BTreeSet<Ipv6Addr> = self.routers.keys().copied().collect();
            if self.sent.is_some() {
                let fault = several(&self.interface, &routers);
                if board.trouble(self.interface.as_str(), fault.clone())
                    && let Some(fault) = fault
                {
                    tracing::warn!(fault, "the BGP peer of an interface is not known");
                }
            }
            publish(neighbours, &self.interface, routers);
        }
    }

    async fn receive(&self) -> Result<Option<Message>, Failed> {
        let received = self
            .socket
            .async_io(Interest::READABLE, || {
                let mut bytes = [0; 1500];
                let mut control = cmsg_space!(i32);
                let mut parts = [IoSliceMut::new(&mut bytes)];
                let received = recvmsg::<SockaddrIn6>(
                    self.socket.as_raw_fd(),
                    &mut parts,
                    Some(&mut control),
                    MsgFlags::MSG_DONTWAIT,
                )?;
                let mut hops = None;
                for message in received.cmsgs()? {
                    if let ControlMessageOwned::Ipv6HopLimit(limit) = message {
                        hops = Some(limit);
                    }
                }
                let (from, length) = (received.address, received.bytes);
                Ok(from
                    .zip(hops)
                    .and_then(|(from, hops)| read(&bytes[..length], from.ip(), hops)))
            })
            .await;
        received.map_err(Failed::to("receive from the ICMPv6 socket"))
    }

    fn take(&mut self, message: Option<Message>) {
        let now = Instant::now();
        match message {
            Some(Message::Advertisement(from)) => {
                let new = note(&mut self.routers, from, now);
                if new {
                    tracing::debug!(interface = %self.interface, %from, "heard a router");
                    // It may wait to hear us.
                    self.hurry(now);
                }
            }
            Some(Message::Solicitation) => self.hurry(now),
            None => {}
        }
    }

    /// RFC 4861 section 6.2.6: after a short random time, and never two soon after each other.
    fn hurry(&mut self, now: Instant) {
        let earliest = self.sent.map_or(now, |sent| now.max(sent + LEAST));
        self.due = self.due.min(earliest + ANSWER.mul_f64(fastrand::f64()));
    }

    /// Advertises us, asks for what we do not know, forgets who is gone.
    fn speak(&mut self) -> Result<(), Failed> {
        // A socket stays bound to an interface that is no more.
        if index(&self.interface)? != self.index {
            let gone = io::Error::new(io::ErrorKind::NotFound, "it was replaced by another one");
            return Err(Failed::to("use the interface")(gone));
        }
        let now = Instant::now();
        let patience = if self.routers.len() > 1 {
            REPLACED
        } else {
            GONE
        };
        self.routers
            .retain(|_, heard| now.duration_since(*heard) < patience);
        self.send(&ADVERTISEMENT, ALL_NODES)?;
        let quiet = |heard: &Instant| now.duration_since(*heard) > QUIET;
        let settled = self.routers.len() == 1;
        if !settled || self.routers.values().any(quiet) {
            self.send(&SOLICITATION, ALL_ROUTERS)?;
        }
        let pause = if settled { SETTLED } else { LEAST };
        self.sent = Some(now);
        self.due = now + pause.mul_f64(1.0 + fastrand::f64() / 4.0);
        Ok(())
    }

    fn send(&self, message: &[u8], to: Ipv6Addr) -> Result<(), Failed> {
        let to = SocketAddrV6::new(to, 0, 0, self.index);
        SockRef::from(&self.socket)
            .send_to(message, &to.into())
            .map(drop)
            .map_err(Failed::to("send a Router Advertisement or Solicitation"))
    }
}

/// Notes that a router was heard; whether that is a new one. Who sends from ever new addresses costs no more
/// than a few: two are too many already.
fn note(routers: &mut BTreeMap<Ipv6Addr, Instant>, from: Ipv6Addr, now: Instant) -> bool {
    if routers.len() >= MOST_ROUTERS && !routers.contains_key(&from) {
        return false;
    }
    routers.insert(from, now).is_none()
}

/// A wire has two ends: which of several routers is meant is not ours to guess.
pub(crate) fn several(interface: &Interface, routers: &BTreeSet<Ipv6Addr>) -> Option<String> {
    (routers.len() > 1).then(|| {
        let all: Vec<String> = routers.iter().map(Ipv6Addr::to_string).collect();
        format!(
            "{interface} has more than one router: {}; name one of them by its address",
            all.join(", ")
        )
    })
}

/// RFC 4861 sections 6.1.1 and 6.1.2; the kernel has looked at the checksum.
fn read(message: &[u8], from: Ipv6Addr, hop_limit: i32) -> Option<Message> {
    if hop_limit != i32::from(FARTHEST) {
        return None;
    }
    match message {
        [133, 0, ..] if message.len() >= SOLICITATION.len() => Some(Message::Solicitation),
        [134, 0, ..] if message.len() >= ADVERTISEMENT.len() && from.is_unicast_link_local() => {
            Some(Message::Advertisement(from))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_neighbour_can_have_sent_is_read() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let advertised = Some(Message::Advertisement(router));
        assert_eq!(read(&ADVERTISEMENT, router, 255), advertised);
        let with_option = [&ADVERTISEMENT[..], &[1, 1, 2, 0, 0, 0, 0, 1]].concat();
        assert_eq!(read(&with_option, router, 255), advertised);
        let asked = Some(Message::Solicitation);
        assert_eq!(read(&SOLICITATION, router, 255), asked);
        assert_eq!(read(&SOLICITATION, Ipv6Addr::UNSPECIFIED, 255), asked);

        assert_eq!(read(&ADVERTISEMENT, router, 254), None);
        assert_eq!(read(&SOLICITATION, router, 64), None);
        assert_eq!(read(&ADVERTISEMENT, global, 255), None);
        assert_eq!(read(&ADVERTISEMENT[..15], router, 255), None);
        assert_eq!(read(&SOLICITATION[..7], router, 255), None);
        assert_eq!(read(&[134, 1, 0, 0], router, 255), None);
        assert_eq!(read(&[135; 24], router, 255), None);
        assert_eq!(read(&[], router, 255), None);
    }

    #[test]
    fn two_routers_are_one_too_many() {
        let interface = Interface::new("eth1").unwrap();
        let routers = |last: &[u16]| -> BTreeSet<Ipv6Addr> {
            let address = |last: &u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, *last);
            last.iter().map(address).collect()
        };
        assert_eq!(several(&interface, &routers(&[])), None);
        assert_eq!(several(&interface, &routers(&[1])), None);
        assert_eq!(
            several(&interface, &routers(&[1, 2])).unwrap(),
            "eth1 has more than one router: fe80::1, fe80::2; name one of them by its address"
        );
    }

    #[test]
    fn a_flood_of_routers_costs_no_more_than_a_few() {
        let (mut routers, now) = (BTreeMap::new(), Instant::now());
        let address = |last: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
        assert!(note(&mut routers, address(0), now));
        assert!(!note(&mut routers, address(0), now), "it is known");
        for last in 1..10_000 {
            note(&mut routers, address(last), now);
        }
        assert_eq!(routers.len(), MOST_ROUTERS);
        let later = now + GONE;
        assert!(!note(&mut routers, address(1), later));
        assert_eq!(routers[&address(1)], later, "who is known is still heard");
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let nowhere = Interface::new("nowhere0").unwrap();
        let text = chain(&index(&nowhere).unwrap_err());
        assert!(text.starts_with("find the interface nowhere0: "), "{text}");
        let loopback = Interface::new("lo").unwrap();
        assert_eq!(name(index(&loopback).unwrap()), Some(loopback));
    }
}
