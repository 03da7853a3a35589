//! BGP messages ↔ bytes. This file and those in its folder are the only ones that know the codec crate
//! (`netgauze-bgp-pkt`). Pure; what a message means for a session is not theirs.
//!
//! What we send is built by the codec. What we receive is read here: which fault ends the session, which
//! one takes a family or a route and which costs an attribute alone is RFC 7606's to say, and the codec
//! stops at the first fault that it finds.

mod announce;
mod as_path;
mod attributes;
mod open;
mod update;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::iana::RouteRefreshSubcode;
use netgauze_bgp_pkt::route_refresh::BgpRouteRefreshMessage;
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::WritablePdu;

pub use self::announce::{
    announce, end_of_rib, is_unicast, prefixes_per_update, withdraw, withdrawals_per_update,
};
use super::notification::Notification;
use crate::routing::{Community, Role};
use crate::service::Family;

/// RFC 4271 section 4.1.
pub const HEADER: usize = 19;
/// RFC 4271 section 4.1: the longest message, where none longer is agreed on.
pub const LONGEST: usize = 4096;
/// RFC 8654 section 4: the longest that a receiver must take who has named the capability.
pub const LONGEST_EXTENDED: usize = 65535;
/// What an AS number of more than two bytes looks like in two (RFC 6793 section 9).
const AS_TRANS: u16 = 23456;

const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
pub(crate) const ROUTE_REFRESH: u8 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(Update),
    Notification(Notification),
    Keepalive,
    RouteRefresh(Refresh),
}

impl Message {
    /// Its type, as the header has it (RFC 4271 section 4.1, RFC 2918 section 3).
    pub fn kind(&self) -> u8 {
        match self {
            Message::Open(_) => OPEN,
            Message::Update(_) => UPDATE,
            Message::Notification(_) => NOTIFICATION,
            Message::Keepalive => KEEPALIVE,
            Message::RouteRefresh(_) => ROUTE_REFRESH,
        }
    }
}

/// RFC 4271 section 4.2, with the capabilities (RFC 5492) that matter to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The 4-byte one if the sender has it (RFC 6793).
    pub asn: u32,
    pub four_octet_as: bool,
    /// In seconds.
    pub hold_time: u16,
    pub identifier: Ipv4Addr,
    /// Unicast families (RFC 4760); who names none at all speaks IPv4.
    pub families: BTreeSet<Family>,
    /// RFC 2918, RFC 7313, RFC 8654.
    pub route_refresh: bool,
    pub enhanced_route_refresh: bool,
    pub extended_messages: bool,
    /// IPv4 unicast with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The sender marks the end of its first table, and these are the families whose packets it forwards on while
    /// it restarts (RFC 4724 section 3).
    pub graceful_restart: Option<BTreeSet<Family>>,
    /// The sender's (RFC 9234).
    pub role: Option<Role>,
    /// It names a role that is none of those: if we have one, it does not fit (RFC 9234 section 4.2).
    pub unknown_role: bool,
}

/// RFC 2918 section 3, RFC 7313 section 3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// `None`: one that we do not speak.
    pub family: Option<Family>,
    pub kind: RefreshKind,
}

/// The Message Subtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// 0: a request for the routes.
    Request,
    /// 1 and 2: before and after them.
    Begin,
    End,
    /// To be ignored.
    Other(u8),
}

/// A received UPDATE as RFC 7606 leaves it: what was announced with attributes that cannot be used is among
/// the withdrawn. A prefix in both lists is announced (RFC 4271 section 4.3): withdraw first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub withdrawn: Vec<IpNet>,
    pub announced: Vec<IpNet>,
    /// What the announced ones have in common.
    pub attributes: Received,
    /// What was wrong with it, if something was.
    pub fault: Option<String>,
    /// It is a family's End-of-RIB marker and says nothing else (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// AFI/SAFI disable (RFC 7606 section 2): forget all that was heard of these families, and hear no more
    /// of them in this session.
    pub disabled: BTreeSet<Family>,
}

/// Received attributes, as far as somebody looks at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The global one, if there are two; `None` if the announced ones do not share one.
    pub next_hop: Option<IpAddr>,
    /// As [`crate::routing::session::Foreign::as_path`] has it.
    pub as_path: String,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: BTreeSet<Community>,
}

/// How UPDATEs to one peer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub local_as: u32,
    /// The peer is of our own AS.
    pub internal: bool,
    /// Both sides know 4-byte AS numbers.
    pub four_octet_as: bool,
    /// The longest message that the peer takes (RFC 4271 section 4.1, RFC 8654).
    pub longest: usize,
    /// Announce with ONLY_TO_CUSTOMER (RFC 9234 section 5).
    pub only_to_customer: bool,
}

/// Who a message comes from, as far as the meaning of an UPDATE hangs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The peer is of our own AS.
    pub internal: bool,
    /// Both sides know 4-byte AS numbers.
    pub four_octet_as: bool,
}

/// With those capabilities that it names, in one parameter. They never need more than 255 bytes, so the
/// longer form (RFC 9072) is only read.
pub fn open(open: &Open) -> Vec<u8> {
    open::encode(open)
}

pub fn keepalive() -> Vec<u8> {
    encode(&BgpMessage::KeepAlive)
}

/// RFC 7313 section 4: before the routes of a refresh, towards peers that speak of enhanced ones.
pub fn begin_refresh(family: Family) -> Vec<u8> {
    refresh(family, RouteRefreshSubcode::BeginningOfRouteRefresh)
}

/// RFC 7313 section 4: after the routes of a refresh.
pub fn end_refresh(family: Family) -> Vec<u8> {
    refresh(family, RouteRefreshSubcode::EndOfRouteRefresh)
}

/// RFC 2918 section 3: the peer is to send its routes of this family again.
pub fn request_refresh(family: Family) -> Vec<u8> {
    refresh(family, RouteRefreshSubcode::NormalRequest)
}

fn refresh(family: Family, subtype: RouteRefreshSubcode) -> Vec<u8> {
    encode(&BgpMessage::RouteRefresh(BgpRouteRefreshMessage::new(
        address_type(family),
        subtype,
    )))
}

/// Data beyond what a message of 4,096 bytes holds is cut off.
pub fn notification(notification: &Notification) -> Vec<u8> {
    // The codec has a type for each subcode, we need none: six lines.
    let data = &notification.data[..notification.data.len().min(LONGEST - HEADER - 2)];
    let mut frame = vec![0xff; 16];
    frame.extend(((HEADER + 2 + data.len()) as u16).to_be_bytes());
    frame.extend([NOTIFICATION, notification.code, notification.subcode]);
    frame.extend(data);
    frame
}

/// The whole message's length (RFC 4271 section 6.1). `longest`: [`LONGEST`], or [`LONGEST_EXTENDED`] if our
/// own OPEN has offered that: whoever offers it must take such messages, whatever the peer offers.
pub fn frame_length(header: &[u8; HEADER], longest: usize) -> Result<usize, Notification> {
    let [marker @ .., high, low, kind] = header;
    if marker != &[0xff; 16] {
        return Err(Notification::new(1, 1, []));
    }
    let length = u16::from_be_bytes([*high, *low]);
    let (shortest, longest) = match *kind {
        // RFC 8654 section 4: these two never grow.
        OPEN => (29, LONGEST),
        KEEPALIVE => (HEADER, HEADER),
        UPDATE => (23, longest),
        NOTIFICATION => (21, longest),
        // A wrong one has an error of its own (RFC 7313 section 5).
        ROUTE_REFRESH => (HEADER, longest),
        kind => return Err(Notification::new(1, 3, [kind])),
    };
    if !(shortest..=longest).contains(&usize::from(length)) {
        return Err(Notification::new(1, 2, length.to_be_bytes()));
    }
    Ok(usize::from(length))
}

/// Reads a frame whose header [`frame_length`] has passed. `Err`: what the peer is to be told.
pub fn decode(frame: &[u8], sender: Sender) -> Result<Message, Notification> {
    let kind = frame.get(HEADER - 1).copied().unwrap_or(0);
    let body = frame.get(HEADER..).unwrap_or(&[]);
    match kind {
        OPEN => open::decode(body).map(Message::Open),
        UPDATE => update::decode(body, sender).map(Message::Update),
        NOTIFICATION => match body {
            [code, subcode, data @ ..] => {
                let told = Notification::new(*code, *subcode, data);
                Ok(Message::Notification(told))
            }
            [] | [_] => Err(Notification::new(1, 2, (frame.len() as u16).to_be_bytes())),
        },
        KEEPALIVE => Ok(Message::Keepalive),
        ROUTE_REFRESH => decode_refresh(body)
            .map(Message::RouteRefresh)
            .ok_or_else(|| Notification::new(7, 1, frame)),
        kind => Err(Notification::new(1, 3, [kind])),
    }
}

/// `None`: its length is wrong (RFC 7313 section 5). What follows a mere request (RFC 5291) is not ours to read.
fn decode_refresh(body: &[u8]) -> Option<Refresh> {
    let [afi_high, afi_low, subtype, safi, rest @ ..] = body else {
        return None;
    };
    let kind = match subtype {
        0 => RefreshKind::Request,
        1 => RefreshKind::Begin,
        2 => RefreshKind::End,
        other => RefreshKind::Other(*other),
    };
    match kind {
        RefreshKind::Begin | RefreshKind::End if !rest.is_empty() => None,
        RefreshKind::Begin | RefreshKind::End | RefreshKind::Request | RefreshKind::Other(_) => {
            let family = unicast([*afi_high, *afi_low], *safi);
            Some(Refresh { family, kind })
        }
    }
}

/// IANA's numbers: address family and subsequent address family; `None`: one that we do not speak.
fn unicast(afi: [u8; 2], safi: u8) -> Option<Family> {
    match (afi, safi) {
        ([0, 1], 1) => Some(Family::Ipv4),
        ([0, 2], 1) => Some(Family::Ipv6),
        _ => None,
    }
}

fn address_type(family: Family) -> AddressType {
    match family {
        Family::Ipv4 => AddressType::Ipv4Unicast,
        Family::Ipv6 => AddressType::Ipv6Unicast,
    }
}

fn encode(message: &BgpMessage) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len());
    // Writing to a Vec does not fail, and an OPEN of ours is far below its limit of 4096 bytes.
    message.write(&mut frame).expect("a message fits");
    frame
}

fn take_u16(from: &mut &[u8]) -> Option<u16> {
    let bytes = from.split_off(..2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
