//! A socket for datagrams to one server, and what ICMP says of them.
//!
//! The kernel takes only what comes from the server's address and, with UDP, its port. ICMP errors about what we sent
//! are read from the socket's error queue (ip(7), IP_RECVERR): without it the kernel keeps to itself that a host is
//! unreachable.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::connect::{ConnectError, sort, spare, words};
use super::outcome::Failure;

/// ICMP destination unreachable, of which code 4 is about a datagram's size (RFC 792); ICMPv6's (RFC 4443
/// section 3.1).
const UNREACHABLE: u8 = 3;
const TOO_LARGE: u8 = 4;
const UNREACHABLE_V6: u8 = 1;
/// `linux/errqueue.h`
const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;

pub(super) struct Datagrams(UdpSocket);

/// What the server made of what was sent.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// So many bytes.
    Datagram(usize),
    /// ICMP says so, in these words.
    Unreachable(String),
}

impl Datagrams {
    /// Must be called within a runtime, and does not wait.
    pub(super) fn open(
        target: SocketAddr,
        kind: Type,
        protocol: Protocol,
    ) -> Result<Datagrams, ConnectError> {
        let socket =
            Socket::new(Domain::for_address(target), kind, Some(protocol)).map_err(sort)?;
        spare(&socket)?;
        let all = || {
            socket.set_nonblocking(true)?;
            match target {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
            }
            socket.connect(&target.into())
        };
        all().map_err(sort)?;
        // Whatever it speaks, it is a socket that sends and receives.
        let socket = UdpSocket::from_std(socket.into()).map_err(sort)?;
        Ok(Datagrams(socket))
    }

    /// What was heard before, of another datagram, is forgotten.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        let socket = SockRef::from(&self.0);
        let sent = match socket.send(bytes) {
            // An error may be the last datagram's.
            Err(_) => socket.send(bytes),
            sent => sent,
        };
        match sent {
            Ok(_) => Ok(()),
            // There is no room for more on the wire, or no wire: it is lost, as any datagram may be.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                Ok(())
            }
            Err(error) => Err(sort(error).into()),
        }
    }

    /// The next datagram, as much of it as fits in `into`, or the next ICMP message.
    pub(super) async fn hear(&self, into: &mut [u8]) -> Result<Heard, Failure> {
        let interest = Interest::READABLE | Interest::ERROR;
        let heard = self.0.async_io(interest, || take(&self.0, into)).await;
        heard.map_err(|error| sort(error).into())
    }
}

fn take(socket: &UdpSocket, into: &mut [u8]) -> io::Result<Heard> {
    if let Some(why) = unreachable(socket)? {
        // The socket has the same error once more.
        socket.take_error()?;
        return Ok(Heard::Unreachable(why));
    }
    let mut receive = || recv(socket.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT);
    let received = match receive() {
        Err(Errno::EAGAIN) => Err(Errno::EAGAIN),
        // It was of an ICMP message that says nothing of the server.
        Err(_) => receive(),
        received => received,
    };
    Ok(Heard::Datagram(received?))
}

/// Empties the error queue; gives the first of it that matters.
fn unreachable(socket: &UdpSocket) -> io::Result<Option<String>> {
    let mut found = None;
    loop {
        let mut nothing = [0; 64];
        let mut into = [IoSliceMut::new(&mut nothing)];
        let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut into, Some(&mut space), flags);
        let message = match message {
            Err(Errno::EAGAIN) => return Ok(found),
            message => message?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::Ipv4RecvErr(error, _)
            | ControlMessageOwned::Ipv6RecvErr(error, _) = control
            {
                found = found.or_else(|| in_words(&error));
            }
        }
    }
}

fn in_words(error: &libc::sock_extended_err) -> Option<String> {
    let is_unreachable = match error.ee_origin {
        SO_EE_ORIGIN_ICMP => error.ee_type == UNREACHABLE && error.ee_code != TOO_LARGE,
        SO_EE_ORIGIN_ICMP6 => error.ee_type == UNREACHABLE_V6,
        _ => false,
    };
    let code = i32::try_from(error.ee_errno).unwrap_or_default();
    is_unreachable.then(|| match code {
        libc::ECONNREFUSED => "port unreachable".into(),
        libc::EHOSTUNREACH => "host unreachable".into(),
        libc::ENETUNREACH => "network unreachable".into(),
        libc::ENOPROTOOPT => "protocol unreachable".into(),
        libc::EACCES => "unreachable by the rules of a firewall".into(),
        _ => format!(
            "unreachable: {}",
            words(&io::Error::from_raw_os_error(code))
        ),
    })
}
