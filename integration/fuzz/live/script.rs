//! What a string of bytes means: how speaker and router are configured, and step by step what happens.
//!
//! Two bytes of configuration ([`Setting`]), then steps: a byte says what, a byte how, for some more bytes follow.
//! Of the byte that says how the lower three bits are the connection where it matters, the rest a number.
//! `seeds.py` writes the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use plimsoll::bgp::message::{self, Dialect, Open};
use plimsoll::bgp::notification::Notification;
use plimsoll::routing::session::Route;
use plimsoll::routing::{Attributes, Role};
use plimsoll::service::Family;

use crate::LOCAL_AS;

/// More is not read: a run is to be short.
const STEPS: usize = 64;

#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) setting: Setting,
    pub(crate) steps: Vec<Step>,
}

/// A bit each.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) passive: bool,
    pub(crate) extended_messages: bool,
    pub(crate) delay_open: bool,
    /// The router may announce three prefixes a family, else the session ends.
    pub(crate) maximum: bool,
    /// Announcements of a prefix are milliseconds apart.
    pub(crate) interval: bool,
    pub(crate) internal: bool,
    /// The speaker is the router's customer, and insists.
    pub(crate) role: bool,
    /// The router takes connections from the start.
    pub(crate) listens: bool,
    /// What the router's OPEN says when it says what it should.
    pub(crate) open: Open,
}

#[derive(Debug)]
pub(crate) enum Step {
    Connect,
    /// Whether the speaker's connections are taken.
    Listen(bool),
    /// Wait for the speaker, but not for long.
    Pause,
    Send(usize, Vec<u8>),
    Close(usize, End),
    Announce(usize, u32),
    Withdraw(usize),
    Order(Order),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Close,
    Reset,
    /// Our direction alone.
    Half,
}

/// What an operator does to the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Clear,
    Disable,
    Enable,
    HoldTime,
    /// One that the router does not have.
    PeerAs,
    /// One that cannot change without a reset, and one that can.
    Families,
    NextHop,
    /// As it was in the beginning.
    Restore,
    Remove,
}

const ORDERS: [Order; 9] = [
    Order::Clear,
    Order::Disable,
    Order::Enable,
    Order::HoldTime,
    Order::PeerAs,
    Order::Families,
    Order::NextHop,
    Order::Restore,
    Order::Remove,
];

/// `None`: not even a configuration.
pub(crate) fn read(bytes: &[u8]) -> Option<Script> {
    let ([speaker, router], mut rest) = bytes.split_first_chunk()?;
    let setting = Setting::read(*speaker, *router);
    let mut steps = Vec::new();
    while steps.len() < STEPS
        && let Some(step) = step(&setting, &mut rest)
    {
        steps.push(step);
    }
    Some(Script { setting, steps })
}

impl Setting {
    fn read(speaker: u8, router: u8) -> Setting {
        let bit = |byte: u8, n: u8| byte >> n & 1 == 1;
        let families: &[Family] = match router & 3 {
            1 => &[Family::Ipv4],
            2 => &[Family::Ipv6],
            _ => &[Family::Ipv4, Family::Ipv6],
        };
        let (internal, role) = (bit(speaker, 5), bit(speaker, 6));
        Setting {
            passive: bit(speaker, 0),
            extended_messages: bit(speaker, 1),
            delay_open: bit(speaker, 2),
            maximum: bit(speaker, 3),
            interval: bit(speaker, 4),
            internal,
            role,
            listens: bit(speaker, 7),
            open: Open {
                asn: if internal { LOCAL_AS } else { 65001 },
                four_octet_as: !bit(router, 2),
                hold_time: if bit(router, 7) { 3 } else { 90 },
                // The speaker's is 10.0.0.100.
                identifier: Ipv4Addr::new(10, 0, 0, if bit(router, 6) { 200 } else { 1 }),
                families: families.iter().copied().collect(),
                route_refresh: !bit(router, 3),
                enhanced_route_refresh: !bit(router, 4),
                extended_messages: bit(router, 5),
                extended_next_hop: false,
                graceful_restart: None,
                role: role.then_some(Role::Provider),
                unknown_role: false,
            },
        }
    }

    /// All that a router can have.
    pub(crate) fn best_open(&self) -> Open {
        Open {
            four_octet_as: true,
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: true,
            ..self.open.clone()
        }
    }
}

/// The next step; `None`: nothing is left, or only a part of one.
fn step(setting: &Setting, rest: &mut &[u8]) -> Option<Step> {
    let what = take(rest)?;
    let how = take(rest)?;
    let (wire, number) = (usize::from(how % 8), how / 8);
    Some(match what % 16 {
        0 | 1 => Step::Connect,
        2 => Step::Listen(how % 2 == 0),
        3 => Step::Pause,
        4..=8 => Step::Send(wire, good(setting, what % 16 - 4, number)),
        // A header that is right, and a body.
        9 => {
            let length = take(rest)?;
            Step::Send(wire, frame(number % 7, take_some(rest, length)))
        }
        10 => {
            let length = take(rest)?;
            Step::Send(wire, take_some(rest, length).to_vec())
        }
        // A message with one byte that is wrong.
        11 => {
            let (at, by) = (take(rest)?, take(rest)?);
            let mut bytes = good(setting, number % 5, number / 5);
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= by;
            Step::Send(wire, bytes)
        }
        // The first part of a message.
        12 => {
            let length = take(rest)?;
            let mut bytes = good(setting, number % 5, number / 5);
            bytes.truncate(usize::from(length) % bytes.len());
            Step::Send(wire, bytes)
        }
        13 => {
            let ends = [End::Close, End::Reset, End::Half];
            Step::Close(wire, ends[usize::from(number) % 3])
        }
        14 if number % 2 == 0 => Step::Announce(wire, u32::from(number / 2)),
        14 => Step::Withdraw(wire),
        _ => Step::Order(ORDERS[usize::from(how) % ORDERS.len()]),
    })
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    rest.split_off_first().copied()
}

/// So many, or as many as there are.
fn take_some<'a>(rest: &mut &'a [u8], length: u8) -> &'a [u8] {
    let length = usize::from(length).min(rest.len());
    rest.split_off(..length).unwrap_or_default()
}

/// A message as a router sends it: OPEN, KEEPALIVE, UPDATE, ROUTE-REFRESH or NOTIFICATION.
fn good(setting: &Setting, kind: u8, number: u8) -> Vec<u8> {
    let family = [Family::Ipv4, Family::Ipv6][usize::from(number % 2)];
    match kind {
        0 => message::open(&setting.open),
        1 => message::keepalive(),
        2 => update(setting, family, number / 2),
        3 => match number / 2 % 3 {
            0 => message::request_refresh(family),
            1 => message::begin_refresh(family),
            _ => message::end_refresh(family),
        },
        _ => message::notification(&Notification::new(6, number, [])),
    }
}

/// Its first prefix is an address of ours.
fn update(setting: &Setting, family: Family, number: u8) -> Vec<u8> {
    let prefixes: Vec<IpNet> = (1..=[1, 4, 200][usize::from(number) % 3])
        .map(|n| address(family, n).into())
        .collect();
    let next_hop = match family {
        Family::Ipv4 => Ipv4Addr::new(10, 0, 0, 1).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xffff, 1).into(),
    };
    let route = Route {
        next_hop,
        inside: None,
        attributes: Arc::new(Attributes::default()),
    };
    let dialect = Dialect {
        local_as: setting.open.asn,
        internal: setting.internal,
        four_octet_as: setting.open.four_octet_as,
        longest: message::LONGEST,
        only_to_customer: false,
    };
    match number / 3 % 3 {
        0 => message::announce(dialect, &route, &prefixes),
        1 => message::withdraw(family, &prefixes),
        _ => message::end_of_rib(family),
    }
}

/// Of those that may be announced: four of each family. See [`address`].
pub(crate) fn vip(index: usize) -> IpAddr {
    let family = [Family::Ipv4, Family::Ipv6][index / 4 % 2];
    address(family, index as u8 % 4 + 1)
}

fn address(family: Family, n: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(192, 0, 2, n).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into(),
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 16];
    frame.extend(((message::HEADER + body.len()) as u16).to_be_bytes());
    frame.push(kind);
    frame.extend(body);
    frame
}
