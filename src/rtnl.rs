//! The host's addresses and interfaces over rtnetlink: list, add, change, remove, and an alarm when someone changes
//! them. Which ones to change is its callers' business.

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
use netlink_packet_route::link::{
    InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
pub use rtnetlink::MulticastGroup;
use rtnetlink::{AddressMessageBuilder, Handle};
use tokio::task::JoinSet;

/// Each network namespace's `lo` (`LOOPBACK_IFINDEX` of net/net_namespace.h).
pub const LO: u32 = 1;
/// How long an answer may take that should be there at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("cannot open a route socket: {0}")]
    Open(io::Error),
    #[error("the connection ended before the answer")]
    Closed,
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("cannot list addresses: {}", .0.desc())]
    Addresses(Errno),
    #[error("cannot list interfaces: {}", .0.desc())]
    Links(Errno),
    #[error("cannot hear of changes: {0}")]
    Alarm(io::Error),
}

#[derive(Debug)]
pub enum Failure {
    Refused(Errno),
    Lost(Lost),
}

/// By what addresses are known to be somebody's.
#[derive(Debug)]
pub struct Mark {
    /// IFA_PROTO, kept by kernels from 5.18 on. Theirs end at 3.
    pub protocol: u8,
    /// IPv4 has labels, IPv6 does not.
    pub label: &'static str,
}

/// One address of some interface.
#[derive(Clone, Debug)]
pub struct Assigned {
    pub address: IpAddr,
    pub prefix_length: u8,
    /// The interface's.
    pub index: u32,
    pub label: Option<String>,
    pub protocol: Option<u8>,
    /// Not refused by duplicate address detection (RFC 4862 section 5.4).
    pub usable: bool,
    pub message: AddressMessage,
}

impl Assigned {
    fn of(message: AddressMessage) -> Option<Assigned> {
        let (mut local, mut peer, mut protocol, mut label) = (None, None, None, None);
        for attribute in &message.attributes {
            if let AddressAttribute::Local(address) = attribute {
                local = Some(*address);
            } else if let AddressAttribute::Address(address) = attribute {
                peer = Some(*address);
            } else if let AddressAttribute::Protocol(is) = attribute {
                protocol = Some(u8::from(*is));
            } else if let AddressAttribute::Label(is) = attribute {
                label = Some(is.clone());
            }
        }
        Some(Assigned {
            // IFA_LOCAL is left out where it equals IFA_ADDRESS (IPv6).
            address: local.or(peer)?,
            prefix_length: message.header.prefix_len,
            index: message.header.index,
            label,
            protocol,
            usable: !message.header.flags.contains(AddressHeaderFlags::Dadfailed),
            message,
        })
    }

    pub fn has(&self, flag: AddressHeaderFlags) -> bool {
        self.message.header.flags.contains(flag)
    }

    pub fn on_lo(&self) -> bool {
        self.index == LO
    }
}

/// One interface, as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub mtu: u32,
    pub ethernet: bool,
    pub kind: Option<InfoKind>,
    pub data: Option<InfoData>,
}

impl Link {
    fn of(message: LinkMessage) -> Option<Link> {
        let (mut name, mut mtu, mut kind, mut data) = (None, 0, None, None);
        for attribute in message.attributes {
            if let LinkAttribute::IfName(is) = attribute {
                name = Some(is);
            } else if let LinkAttribute::Mtu(is) = attribute {
                mtu = is;
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                for info in infos {
                    if let LinkInfo::Kind(is) = info {
                        kind = Some(is);
                    } else if let LinkInfo::Data(is) = info {
                        data = Some(is);
                    }
                }
            }
        }
        Some(Link {
            index: message.header.index,
            name: name?,
            up: message.header.flags.contains(LinkFlags::Up),
            mtu,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            kind,
            data,
        })
    }
}

pub struct Route {
    handle: Handle,
    /// Drives the socket; ends with this value.
    _connection: JoinSet<()>,
}

impl Route {
    pub fn open() -> Result<Route, Lost> {
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
    pub async fn addresses(&mut self) -> Result<Vec<Assigned>, Lost> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.list(all, Lost::Addresses).await?;
        let address = |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            Assigned::of(message)
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    pub async fn links(&mut self) -> Result<Vec<Link>, Lost> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.list(all, Lost::Links).await?;
        let link = |answer| {
            let RouteNetlinkMessage::NewLink(message) = answer else {
                return None;
            };
            Link::of(message)
        };
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// Puts an address on an interface. It must not be there.
    pub async fn add(&mut self, address: AddressMessage) -> Result<(), Failure> {
        let message = RouteNetlinkMessage::NewAddress(address);
        self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .await?;
        Ok(())
    }

    pub async fn remove(&mut self, assigned: &Assigned) -> Result<(), Failure> {
        let message = RouteNetlinkMessage::DelAddress(assigned.message.clone());
        self.request(message, NLM_F_ACK).await?;
        Ok(())
    }

    /// Makes an interface of this name, up. There must be none.
    pub async fn add_link(
        &mut self,
        name: &str,
        kind: InfoKind,
        data: InfoData,
    ) -> Result<(), Failure> {
        let mut message = up();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
        ];
        let message = RouteNetlinkMessage::NewLink(message);
        self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .await?;
        Ok(())
    }

    pub async fn set_up(&mut self, link: &Link) -> Result<(), Failure> {
        let mut message = up();
        message.header.index = link.index;
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK)
            .await?;
        Ok(())
    }

    pub async fn remove_link(&mut self, link: &Link) -> Result<(), Failure> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        self.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK)
            .await?;
        Ok(())
    }

    /// All of a kind.
    pub async fn list(
        &mut self,
        all: RouteNetlinkMessage,
        refused: impl Fn(Errno) -> Lost,
    ) -> Result<Vec<RouteNetlinkMessage>, Lost> {
        match self.request(all, NLM_F_DUMP).await {
            Ok(answers) => Ok(answers),
            Err(Failure::Refused(errno)) => Err(refused(errno)),
            Err(Failure::Lost(why)) => Err(why),
        }
    }

    /// What is in the answer, once it is whole.
    pub async fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self
            .handle
            .request(request)
            .map_err(|_| Failure::Lost(Lost::Closed))?;
        let work = async {
            let mut items = Vec::new();
            while let Some(answer) = answers.next().await {
                let code = if let NetlinkPayload::InnerMessage(item) = answer.payload {
                    items.push(item);
                    continue;
                } else if let NetlinkPayload::Error(end) = answer.payload {
                    end.raw_code()
                } else if let NetlinkPayload::Done(end) = answer.payload {
                    end.code
                } else {
                    continue;
                };
                return match code {
                    0 => Ok(items),
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

fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// A VIP as it should be on `lo`, with this mark.
pub fn on_lo(vip: IpAddr, mark: &Mark) -> AddressMessage {
    let mut message = alone(LO, vip, mark.protocol);
    match vip {
        IpAddr::V4(_) => {
            message
                .attributes
                .push(AddressAttribute::Label(mark.label.to_owned()));
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

/// An address without a network, which an IPv4 host chooses for no connection to elsewhere.
pub fn alone(index: u32, address: IpAddr, protocol: u8) -> AddressMessage {
    let mut message = match address {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address, 32)
            .build(),
        IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(address, 128)
            .build(),
    };
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::from(protocol)));
    if address.is_ipv4() {
        message.header.scope = AddressScope::Host;
    }
    message
}

/// Rings when anything of these groups changes on this host. What changed is not read: a look at all of it tells, and
/// can't be led astray by a message that was lost.
pub struct Alarm {
    socket: TokioSocket,
    rest: Vec<u8>,
}

impl Alarm {
    pub fn open(groups: &[MulticastGroup]) -> Result<Alarm, Lost> {
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

    pub async fn rung(&mut self) -> Result<(), Lost> {
        self.rest.clear();
        match self.socket.recv(&mut self.rest).await {
            // More changed than the socket could hold.
            Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(()),
            other => other.map_err(Lost::Alarm),
        }
    }

    /// Forgets what has rung so far, or a good part of it.
    pub fn silence(&mut self) {
        for _ in 0..10_000 {
            self.rest.clear();
            if self.socket.socket_ref().recv(&mut self.rest, 0).is_err() {
                break;
            }
        }
    }
}
