//! The packet sockets: one for each family, for all interfaces, as the kernel wants only to be told with each packet
//! which one it leaves by. The kernel writes and takes off the link's own header.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libc::{AF_PACKET, ETH_P_IP, ETH_P_IPV6, PACKET_HOST};
use nix::sys::socket::{
    LinkAddr, MsgFlags, SockaddrLike, bind, recvfrom, sendto, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::warn;

use super::filter;
use super::neighbours::Hop;
use crate::monitor::connect::words;
use crate::monitor::outcome::Failure;

/// The largest IP packet; the kernel may have joined several of the wire's to one (GRO).
const LARGEST: usize = 65_575;
/// So many packets are read before others get their turn.
const AT_ONCE: usize = 64;
/// What the kernel keeps for us while we are late: the answers to some thousand checks.
const KEPT: usize = 4 * 1024 * 1024;
const AFTER_ERROR: Duration = Duration::from_secs(1);

pub(super) struct Line {
    ipv4: AsyncFd<Socket>,
    ipv6: AsyncFd<Socket>,
    /// Our own addresses, which the filters let answers through for.
    heard_for: Mutex<BTreeSet<IpAddr>>,
}

impl Line {
    pub(super) fn open() -> Result<Line, Failure> {
        Ok(Line {
            ipv4: packet_socket(ETH_P_IP).map_err(|error| unable(&error))?,
            ipv6: packet_socket(ETH_P_IPV6).map_err(|error| unable(&error))?,
            heard_for: Mutex::default(),
        })
    }

    /// From now on answers to this address of ours are heard.
    pub(super) fn hear_for(&self, ours: IpAddr) -> Result<(), Failure> {
        let heard = self.heard_for.lock();
        let mut heard = heard.unwrap_or_else(PoisonError::into_inner);
        if heard.contains(&ours) {
            return Ok(());
        }
        let all = || heard.iter().copied().chain([ours]);
        let (socket, program) = match ours {
            IpAddr::V4(_) => {
                let ours = |address| match address {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                };
                (&self.ipv4, filter::ipv4(all().filter_map(ours)))
            }
            IpAddr::V6(_) => {
                let ours = |address| match address {
                    IpAddr::V6(address) => Some(address),
                    IpAddr::V4(_) => None,
                };
                (&self.ipv6, filter::ipv6(all().filter_map(ours)))
            }
        };
        let attached = socket.get_ref().attach_filter(&program);
        attached.map_err(|error| unable(&error))?;
        heard.insert(ours);
        Ok(())
    }

    pub(super) fn send(&self, hop: &Hop, packet: &[u8]) -> io::Result<()> {
        let (socket, protocol) = match hop.source {
            IpAddr::V4(_) => (&self.ipv4, ETH_P_IP),
            IpAddr::V6(_) => (&self.ipv6, ETH_P_IPV6),
        };
        let to = link_address(protocol, hop.interface, hop.address)?;
        let socket = socket.get_ref().as_raw_fd();
        sendto(socket, packet, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    pub(super) async fn receive(&self, take: impl Fn(&[u8])) -> Infallible {
        let (never, _) = tokio::join!(receive(&self.ipv4, &take), receive(&self.ipv6, &take));
        never
    }
}

async fn receive(socket: &AsyncFd<Socket>, take: impl Fn(&[u8])) -> Infallible {
    let mut buffer = vec![0; LARGEST];
    loop {
        if let Err(error) = read(socket, &mut buffer, &take).await {
            warn!(%error, "a packet socket cannot be read");
            sleep(AFTER_ERROR).await;
        }
        yield_now().await;
    }
}

async fn read(socket: &AsyncFd<Socket>, buffer: &mut [u8], take: impl Fn(&[u8])) -> io::Result<()> {
    let mut ready = socket.readable().await?;
    for _ in 0..AT_ONCE {
        let read = |socket: &AsyncFd<Socket>| {
            Ok(recvfrom::<LinkAddr>(socket.get_ref().as_raw_fd(), buffer)?)
        };
        let Ok(read) = ready.try_io(read) else {
            return Ok(());
        };
        let (length, from) = read?;
        // What is for another host, seen by an interface in promiscuous mode, is not for us.
        if from.is_some_and(|from| from.pkttype() == PACKET_HOST) {
            take(&buffer[..length]);
        }
    }
    Ok(())
}

/// Hears nothing before it has a filter.
fn packet_socket(protocol: i32) -> io::Result<AsyncFd<Socket>> {
    let socket = Socket::new(
        Domain::PACKET,
        Type::DGRAM.nonblocking(),
        Some(Protocol::from(0)),
    )?;
    socket.attach_filter(&filter::nothing())?;
    // Only for who has CAP_NET_ADMIN; without it there is less room for bursts.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &KEPT);
    bind(socket.as_raw_fd(), &link_address(protocol, 0, [0; 6])?)?;
    watched(socket)
}

#[expect(unsafe_code, reason = "tokio asks for a promise")]
fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket is open, and as long as it lives its descriptor is the same one and stays open.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

#[expect(unsafe_code, reason = "there is no other way to a LinkAddr")]
fn link_address(protocol: i32, interface: u32, address: [u8; 6]) -> io::Result<LinkAddr> {
    let mut sll_addr = [0; 8];
    sll_addr[..address.len()].copy_from_slice(&address);
    let raw = libc::sockaddr_ll {
        sll_family: AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: address.len() as u8,
        sll_addr,
    };
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: it points to a whole sockaddr_ll of this length, which is copied.
    let made = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    made.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn unable(error: &io::Error) -> Failure {
    Failure::Unable(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "checks at the VIP need CAP_NET_RAW".to_owned(),
        Some(_) | None => format!("checks at the VIP need a packet socket: {}", words(error)),
    })
}
