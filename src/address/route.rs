//! The host's addresses over rtnetlink: list, add, remove, and an alarm when someone changes them.
//! Which ones to change is [`super`]'s business.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, Handle, MulticastGroup};
use tokio::task::JoinSet;

/// Each network namespace's `lo` (`LOOPBACK_IFINDEX` of net/net_namespace.h).
const LO: u32 = 1;
/// IFA_PROTO, kept by kernels from 5.18 on. Theirs end at 3.
const MARK: AddressProtocol = AddressProtocol::Other(0x50);
/// IPv4 has labels, IPv6 does not.
const LABEL: &str = "lo:plimsoll";
/// How long an answer may take that should be there at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("cannot open a route socket: {0}")]
    Open(io::Error),
    #[error("the connection ended before the answer")]
    Closed,
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("cannot list addresses: {}", .0.desc())]
    List(Errno),
    #[error("cannot hear of changes: {0}")]
    Alarm(io::Error),
}

pub(super) enum Failure {
    Refused(Errno),
    Lost(Lost),
}

/// One address of some interface.
#[derive(Debug)]
pub(super) struct Assigned {
    pub(super) address: IpAddr,
    /// Not refused by duplicate address detection (RFC 4862 section 5.4).
    pub(super) usable: bool,
    /// On lo and put there by us, in this run or an earlier one.
    pub(super) ours: bool,
    pub(super) message: AddressMessage,
}

impl Assigned {
    fn of(message: AddressMessage) -> Option<Assigned> {
        let (mut local, mut peer, mut marked) = (None, None, false);
        for attribute in &message.attributes {
            if let AddressAttribute::Local(address) = attribute {
                local = Some(*address);
            } else if let AddressAttribute::Address(address) = attribute {
                peer = Some(*address);
            } else if let AddressAttribute::Protocol(protocol) = attribute {
                marked |= *protocol == MARK;
            } else if let AddressAttribute::Label(label) = attribute {
                marked |= label == LABEL;
            }
        }
        Some(Assigned {
            // IFA_LOCAL is left out where it equals IFA_ADDRESS (IPv6).
            address: local.or(peer)?,
            usable: !message.header.flags.contains(AddressHeaderFlags::Dadfailed),
            ours: marked && message.header.index == LO,
            message,
        })
    }
}

pub(super) struct Route {
    handle: Handle,
    /// Drives the socket; ends with this value.
    _connection: JoinSet<()>,
}

impl Route {
    pub(super) fn open() -> Result<Route, Lost> {
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(Lost::Open)?;
        // Otherwise a success, a failed dump and a dead connection all look like the end of the answers.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Route {
            handle,
            _connection: tasks,
        })
    }

    /// All addresses of all interfaces.
    pub(super) async fn list(&mut self) -> Result<Vec<Assigned>, Lost> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        match self.request(all, NLM_F_DUMP).await {
            Ok(messages) => Ok(messages.into_iter().filter_map(Assigned::of).collect()),
            Err(Failure::Refused(errno)) => Err(Lost::List(errno)),
            Err(Failure::Lost(why)) => Err(why),
        }
    }

    /// Puts a VIP on lo, with our mark.
    pub(super) async fn add(&mut self, vip: IpAddr) -> Result<(), Failure> {
        let message = RouteNetlinkMessage::NewAddress(on_lo(vip));
        self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .await?;
        Ok(())
    }

    pub(super) async fn remove(&mut self, assigned: &Assigned) -> Result<(), Failure> {
        let message = RouteNetlinkMessage::DelAddress(assigned.message.clone());
        self.request(message, NLM_F_ACK).await?;
        Ok(())
    }

    /// The addresses in the answer, once it is whole.
    async fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<AddressMessage>, Failure> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self
            .handle
            .request(request)
            .map_err(|_| Failure::Lost(Lost::Closed))?;
        let work = async {
            let mut addresses = Vec::new();
            while let Some(answer) = answers.next().await {
                let code =
                    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) =
                        answer.payload
                    {
                        addresses.push(message);
                        continue;
                    } else if let NetlinkPayload::Error(end) = answer.payload {
                        end.raw_code()
                    } else if let NetlinkPayload::Done(end) = answer.payload {
                        end.code
                    } else {
                        continue;
                    };
                return match code {
                    0 => Ok(addresses),
                    errno => Err(Failure::Refused(Errno::from_raw(errno.wrapping_abs()))),
                };
            }
            Err(Failure::Lost(Lost::Closed))
        };
        tokio::time::timeout(PATIENCE, work)
            .await
            .unwrap_or(Err(Failure::Lost(Lost::Timeout)))
    }
}

fn on_lo(vip: IpAddr) -> AddressMessage {
    let mut message = match vip {
        IpAddr::V4(vip) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(LO)
            .address(vip, 32)
            .build(),
        IpAddr::V6(vip) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(LO)
            .address(vip, 128)
            .build(),
    };
    message.attributes.push(AddressAttribute::Protocol(MARK));
    match vip {
        IpAddr::V4(_) => {
            message.header.scope = AddressScope::Host;
            message
                .attributes
                .push(AddressAttribute::Label(LABEL.to_owned()));
        }
        IpAddr::V6(_) => {
            message.header.flags |= AddressHeaderFlags::Nodad;
            // Deprecated at once (RFC 4862 section 5.5.4): never chosen as the source of our own connections.
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message
                .attributes
                .push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    message
}

/// Rings when any address of this host changes. What changed is not read: a look at all of them tells it, and can't
/// be led astray by a message that was lost.
pub(super) struct Alarm {
    socket: TokioSocket,
    rest: Vec<u8>,
}

impl Alarm {
    pub(super) fn open() -> Result<Alarm, Lost> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let mask = groups
            .iter()
            .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
            Ok(socket)
        };
        let socket = open().map_err(Lost::Open)?;
        Ok(Alarm {
            socket,
            rest: Vec::with_capacity(4096),
        })
    }

    pub(super) async fn rung(&mut self) -> Result<(), Lost> {
        self.rest.clear();
        match self.socket.recv(&mut self.rest).await {
            // More changed than the socket could hold.
            Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(()),
            other => other.map_err(Lost::Alarm),
        }
    }

    /// Forgets what has rung so far, or a good part of it.
    pub(super) fn silence(&mut self) {
        for _ in 0..10_000 {
            self.rest.clear();
            if self.socket.socket_ref().recv(&mut self.rest, 0).is_err() {
                break;
            }
        }
    }
}
