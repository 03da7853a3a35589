//! A BGP session as the operator sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use imbl::OrdMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Attributes, Community, Role};
use crate::service::Family;

/// RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SessionState {
    #[default]
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

/// All that changes seldom. What changes all the time is in `figures`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Session {
    pub state: SessionState,
    /// Since when it is established, or not.
    pub since: Option<SystemTime>,
    /// The last thing that went wrong, in words, until the session is established again.
    pub fault: Option<String>,
    /// What the way it fails looks like.
    pub hint: Option<Hint>,
    /// The last NOTIFICATION that the peer was told, and that it told us, ever.
    pub told_last: Option<Arc<Told>>,
    pub heard_last: Option<Arc<Told>>,
    /// While it is established.
    pub negotiated: Option<Arc<Negotiated>>,
    /// What the peer has been told and not been told otherwise.
    #[serde(skip)]
    pub routes: OrdMap<IpNet, Arc<Route>>,
    /// Addresses that the peer shall have and is not told, and why.
    #[serde(skip)]
    pub untold: OrdMap<IpAddr, Untold>,
    /// The prefixes that our own addresses are announced as, as the peer announces them to us.
    #[serde(skip)]
    pub foreign: OrdMap<IpNet, Arc<Foreign>>,
    /// Families of which the peer announces more than `maximum-prefixes`.
    pub over_maximum: BTreeSet<Family>,
    #[serde(skip)]
    pub figures: Arc<Figures>,
}

/// Figures are no change: they are the same ones for as long as the peer is configured.
impl PartialEq for Session {
    fn eq(&self, other: &Session) -> bool {
        let Session {
            state,
            since,
            fault,
            hint,
            told_last,
            heard_last,
            negotiated,
            routes,
            untold,
            foreign,
            over_maximum,
            figures,
        } = self;
        (state, since, fault, hint) == (&other.state, &other.since, &other.fault, &other.hint)
            && (told_last, heard_last) == (&other.told_last, &other.heard_last)
            && (negotiated, over_maximum) == (&other.negotiated, &other.over_maximum)
            && (routes.ptr_eq(&other.routes) || *routes == other.routes)
            && (untold.ptr_eq(&other.untold) || *untold == other.untold)
            && (foreign.ptr_eq(&other.foreign) || *foreign == other.foreign)
            && Arc::ptr_eq(figures, &other.figures)
    }
}

/// What a symptom tells of the configuration of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    /// What one end sends is not heard, or no longer once the connection is up: one end alone has GTSM.
    Gtsm,
    /// Connecting times out though a key is set (or asked for by the router).
    Md5,
    /// Refused: nothing listens there, or the router waits after an error.
    Refused,
    /// The connection stands, and the peer's OPEN does not come.
    NoOpen,
    /// Established, and the peer did not agree on a family that we have addresses of.
    FamilyNotActivated,
    /// The peer's AS is not the one that is configured.
    PeerAs,
}

/// A question to whoever looks for the cause: a symptom proves nothing.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hint::Gtsm => "one end hears nothing of the other: is ttl-security set at one end only?",
            Hint::Md5 => {
                "no answer: is the key another one at the other end, or is there a filter?"
            }
            Hint::Refused => {
                "does the router listen and know us? After an error it may refuse for minutes"
            }
            Hint::NoOpen => {
                "connected, but the router says nothing: does it hang, or has it ttl-security and we have not?"
            }
            Hint::FamilyNotActivated => {
                "is the family of all announced addresses activated for us on the router?"
            }
            Hint::PeerAs => "is peer-as the router's AS?",
        })
    }
}

/// A NOTIFICATION and when it was sent or came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    pub at: SystemTime,
    pub code: u8,
    pub subcode: u8,
    /// In words, with the operator's text (RFC 9003) if there is one.
    pub text: String,
}

/// What both ends agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Negotiated {
    /// Both ends of the connection.
    pub local: std::net::SocketAddr,
    pub remote: std::net::SocketAddr,
    /// The peer's BGP Identifier.
    pub identifier: std::net::Ipv4Addr,
    pub families: BTreeSet<Family>,
    pub hold_time: Duration,
    pub four_octet_as: bool,
    pub route_refresh: bool,
    pub enhanced_route_refresh: bool,
    pub extended_messages: bool,
    /// IPv4 prefixes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer's (RFC 9234).
    pub role: Option<Role>,
}

/// What a peer has been told of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Route {
    /// Of the prefix's family, or IPv6 (RFC 8950).
    pub next_hop: IpAddr,
    pub attributes: Arc<Attributes>,
    /// The address of ours that it is for, if the prefix is wider than that.
    pub inside: Option<IpAddr>,
}

impl Route {
    /// The address of ours that this prefix has been told for.
    pub fn address(&self, prefix: &IpNet) -> IpAddr {
        self.inside.unwrap_or_else(|| prefix.addr())
    }
}

/// Why a peer is not told of an address that is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Untold {
    /// The peer did not agree on the family.
    Family,
    /// No next hop of the family is configured or known.
    NextHop,
}

/// What one of our addresses is announced as, as somebody else announces it, or as it comes back from us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Foreign {
    /// Its next hop is ours: our own announcement, returned.
    pub ours: bool,
    pub next_hop: Option<IpAddr>,
    /// As sent: `65001 {64600 64601}`. A very long one is cut short, and ends in `…`.
    pub as_path: String,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    /// Of very many the first.
    pub communities: BTreeSet<Community>,
}

/// Counters and timers of a peer; whoever shows them reads them then.
#[derive(Debug, Default)]
pub struct Figures {
    /// Messages by type, OPEN to ROUTE-REFRESH (RFC 4271 section 4.1, RFC 2918): 1 is the first.
    pub sent: [AtomicU64; 5],
    pub received: [AtomicU64; 5],
    /// Prefixes that the peer announces now, IPv4 and IPv6; counted up to `maximum-prefixes`.
    pub prefixes: [AtomicU64; 2],
    /// UPDATEs that were treated as withdrawals or of which attributes were dropped (RFC 7606).
    pub malformed: AtomicU64,
    pub times_established: AtomicU64,
    pub times_lost: AtomicU64,
    /// When they expire, in milliseconds since 1970; 0: not running.
    pub hold_timer: AtomicU64,
    pub keepalive_timer: AtomicU64,
    pub retry_timer: AtomicU64,
}
