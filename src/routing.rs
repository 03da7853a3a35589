//! The nouns of BGP that more than the speaker speaks of: peers' names, path attributes and what a section
//! of the configuration says of them. Plain data; messages and sessions are the speaker's own matter.

pub mod session;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// What a peer is called: in the configuration, the API, events and metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    Address(IpAddr),
    /// A link-local address, which means nothing without its interface: `fe80::1%eth1`.
    LinkLocal(Ipv6Addr, Interface),
    /// Whoever is the router at the other end of this interface (unnumbered): `eth1`.
    Interface(Interface),
}

/// A network interface's name: 1 to 15 bytes, no blank, no slash (`dev_valid_name` of the kernel).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(Arc<str>);

impl Interface {
    /// `None` if no interface can have this name.
    pub fn new(name: &str) -> Option<Interface> {
        let good = (1..16).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace());
        good.then(|| Interface(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerId::Address(address) => address.fmt(f),
            PeerId::LinkLocal(address, interface) => write!(f, "{address}%{interface}"),
            PeerId::Interface(interface) => interface.fmt(f),
        }
    }
}

impl Serialize for PeerId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl From<IpAddr> for PeerId {
    fn from(address: IpAddr) -> PeerId {
        PeerId::Address(address)
    }
}

/// ORIGIN (RFC 4271 section 5.1.1), best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

/// A tag on a route. How each is written stands at its `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 8092.
    Large(u32, u32, u32),
    /// RFC 4360: type, subtype and value as they are sent.
    Extended([u8; 8]),
}

/// BGP role of our own end (RFC 9234 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// A name by which `announce-to` picks peers.
pub type Group = Arc<str>;

/// What one section of the configuration says of path attributes. Several are laid over each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Policy {
    pub med: Option<Med>,
    pub local_pref: Option<u32>,
    pub origin: Option<Origin>,
    /// How often our own AS stands in AS_PATH beside the once that it must.
    pub prepend: Option<u8>,
    /// Those of all layers are sent.
    pub communities: BTreeSet<Community>,
}

impl Policy {
    /// Nothing but this MULTI_EXIT_DISC.
    pub fn of_med(med: u32) -> Policy {
        Policy {
            med: Some(Med::Set(med)),
            ..Policy::default()
        }
    }
}

/// MULTI_EXIT_DISC as a section names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Med {
    /// `med = 50`
    Set(u32),
    /// `med = "+1000"`: so much more than the layers below say, at most 4294967295.
    Add(u32),
}

/// The attributes that come of it (RFC 4271 section 5), beside the next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attributes {
    pub origin: Origin,
    pub prepend: u8,
    /// MULTI_EXIT_DISC, always sent.
    pub med: u32,
    /// LOCAL_PREF, sent to internal peers alone; 100 if `None`.
    pub local_pref: Option<u32>,
    pub communities: BTreeSet<Community>,
}

impl Attributes {
    /// Of layers of policy, the weakest first.
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a Policy>) -> Attributes {
        let mut all = Attributes::default();
        for layer in layers {
            match layer.med {
                Some(Med::Set(med)) => all.med = med,
                Some(Med::Add(more)) => all.med = all.med.saturating_add(more),
                None => {}
            }
            all.local_pref = layer.local_pref.or(all.local_pref);
            all.origin = layer.origin.unwrap_or(all.origin);
            all.prepend = layer.prepend.unwrap_or(all.prepend);
            all.communities.extend(&layer.communities);
        }
        all
    }
}

/// Standard ones as `64600:100`, well-known ones by their name; large ones as `64600:1:2`; extended ones
/// with their kind before: `rt:64600:100`, or all of it: `ext:0x0002fc5800000064`.
impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Community::Standard(value) => match WELL_KNOWN.iter().find(|(_, of)| of == value) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "{}:{}", value >> 16, value & 0xffff),
            },
            Community::Large(global, one, two) => write!(f, "{global}:{one}:{two}"),
            Community::Extended(bytes) => write!(f, "ext:{:#018x}", u64::from_be_bytes(*bytes)),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// RFC 8326.
pub const GRACEFUL_SHUTDOWN: Community = Community::Standard(0xffff_0000);

/// IANA, BGP Well-known Communities.
pub const WELL_KNOWN: &[(&str, u32)] = &[
    ("graceful-shutdown", 0xffff_0000),
    ("accept-own", 0xffff_0001),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];
