//! Interfaces, addresses, neighbours and routes, as rtnetlink tells them. Only asks.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::address::MARK;
use crate::rtnl::{Failure, Lost, Route};

/// `RTPROT_KEEPALIVED` (linux/rtnetlink.h), with which keepalived marks its addresses, too.
const KEEPALIVED: AddressProtocol = AddressProtocol::Other(18);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub loopback: bool,
    /// Asks and answers ARP.
    pub arp: bool,
    pub mtu: u32,
    /// `rtnl_link_ops`' name: `ipip`, `gre`, …; hardware has none.
    pub kind: Option<String>,
    pub hardware: [u8; 6],
    pub addresses: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub address: IpAddr,
    pub length: u8,
    pub owner: Owner,
    /// IPv6's duplicate address detection found another one who has it (RFC 4862 section 5.4).
    pub duplicate: bool,
}

/// Who put it there, as far as its mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Plimsoll,
    Keepalived,
    Unknown,
}

impl Interface {
    pub fn is_tunnel(&self) -> bool {
        const TUNNELS: &[&str] = &["ipip", "ip6tnl", "gre", "ip6gre", "sit"];
        self.kind
            .as_deref()
            .is_some_and(|kind| TUNNELS.contains(&kind))
    }

    /// Whether this is an address that the wire behind the interface has, too.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| {
            let full = if address.is_ipv4() { 32 } else { 128 };
            own.length < full
                && ipnet::IpNet::new(own.address, own.length)
                    .is_ok_and(|net| net.contains(&address))
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub interface: u32,
    pub address: IpAddr,
    pub hardware: Option<[u8; 6]>,
    /// It was asked for and did not answer.
    pub failed: bool,
}

/// How packets for an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is an address of this host.
    Here,
    /// Over this interface, to this router; `None`: to the address itself.
    Over(u32, Option<IpAddr>),
    NoRoute,
}

/// With their addresses, and the connection for further questions.
pub(super) async fn interfaces() -> Result<(Route, Vec<Interface>), Lost> {
    let mut route = Route::open()?;
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut interfaces = Vec::new();
    for answer in route.list(links, Lost::Links).await? {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            interfaces.push(interface(&link));
        }
    }
    let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for answer in route.list(addresses, Lost::Addresses).await? {
        if let RouteNetlinkMessage::NewAddress(message) = answer {
            let mut of = interfaces.iter_mut();
            let of = of.find(|interface| interface.index == message.header.index);
            if let (Some(of), Some(address)) = (of, address(&message)) {
                of.addresses.push(address);
            }
        }
    }
    Ok((route, interfaces))
}

pub(super) async fn neighbours(route: &mut Route) -> Result<Vec<Neighbour>, Failure> {
    let all = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = route.request(all, NLM_F_DUMP).await?;
    Ok(answers.iter().filter_map(neighbour).collect())
}

pub(super) async fn way(route: &mut Route, to: IpAddr) -> Result<Way, Failure> {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(to),
        destination_prefix_length: if to.is_ipv4() { 32 } else { 128 },
        ..RouteHeader::default()
    };
    let destination = RouteAttribute::Destination(RouteAddress::from(to));
    message.attributes.push(destination);
    let question = RouteNetlinkMessage::GetRoute(message);
    match route.request(question, NLM_F_ACK).await {
        Ok(answers) => Ok(answers.iter().find_map(way_of).unwrap_or(Way::NoRoute)),
        Err(Failure::Refused(errno)) if is_no_route(errno) => Ok(Way::NoRoute),
        Err(failure) => Err(failure),
    }
}

/// Whether some default route limits the MSS of this host's connections.
pub(super) async fn limits_mss(route: &mut Route) -> Result<bool, Failure> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let all = RouteNetlinkMessage::GetRoute(message);
    let answers = route.request(all, NLM_F_DUMP).await?;
    Ok(answers.iter().any(|answer| {
        let RouteNetlinkMessage::NewRoute(route) = answer else {
            return false;
        };
        route.header.destination_prefix_length == 0
            && route.attributes.iter().any(|attribute| {
                matches!(attribute, RouteAttribute::Metrics(all)
                    if all.iter().any(|one| matches!(one, RouteMetric::Advmss(_) | RouteMetric::Mtu(_))))
            })
    }))
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn is_no_route(errno: Errno) -> bool {
    let no_route = [
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::ESRCH,
        Errno::EACCES,
        Errno::EINVAL,
    ];
    no_route.contains(&errno)
}

fn interface(link: &LinkMessage) -> Interface {
    let flags = link.header.flags;
    let mut interface = Interface {
        index: link.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        arp: !flags.contains(LinkFlags::Noarp) && !flags.contains(LinkFlags::Loopback),
        ..Interface::default()
    };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            interface.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            interface.mtu = *mtu;
        } else if let LinkAttribute::Address(bytes) = attribute {
            interface.hardware = bytes.as_slice().try_into().unwrap_or_default();
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            let kind = |info: &LinkInfo| {
                if let LinkInfo::Kind(kind) = info {
                    Some(name(kind))
                } else {
                    None
                }
            };
            interface.kind = infos.iter().find_map(kind);
        }
    }
    interface
}

fn name(kind: &InfoKind) -> String {
    kind.to_string().to_ascii_lowercase()
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer, mut owner) = (None, None, Owner::Unknown);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            local = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            peer = Some(*address);
        } else if let AddressAttribute::Protocol(protocol) = attribute {
            if *protocol == AddressProtocol::Other(MARK.protocol) {
                owner = Owner::Plimsoll;
            } else if *protocol == KEEPALIVED {
                owner = Owner::Keepalived;
            }
        } else if let AddressAttribute::Label(label) = attribute
            && label == MARK.label
        {
            owner = Owner::Plimsoll;
        }
    }
    Some(Address {
        // IFA_LOCAL is left out where it equals IFA_ADDRESS (IPv6).
        address: local.or(peer)?,
        length: message.header.prefix_len,
        owner,
        duplicate: message.header.flags.contains(AddressHeaderFlags::Dadfailed),
    })
}

fn neighbour(answer: &RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(destination) = attribute {
            if let NeighbourAddress::Inet(of) = destination {
                address = Some(IpAddr::V4(*of));
            } else if let NeighbourAddress::Inet6(of) = destination {
                address = Some(IpAddr::V6(*of));
            }
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            hardware = bytes.as_slice().try_into().ok();
        }
    }
    Some(Neighbour {
        interface: message.header.ifindex,
        address: address?,
        hardware,
        failed: message.header.state == NeighbourState::Failed,
    })
}

fn way_of(answer: &RouteNetlinkMessage) -> Option<Way> {
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return None;
    };
    if route.header.kind == RouteType::Local {
        return Some(Way::Here);
    }
    let (mut interface, mut router) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        } else if let RouteAttribute::Gateway(address) = attribute {
            if let RouteAddress::Inet(address) = address {
                router = Some(IpAddr::V4(*address));
            } else if let RouteAddress::Inet6(address) = address {
                router = Some(IpAddr::V6(*address));
            }
        }
    }
    Some(match interface {
        Some(index) if route.header.kind == RouteType::Unicast => Way::Over(index, router),
        Some(_) | None => Way::NoRoute,
    })
}
