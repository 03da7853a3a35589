//! The nouns of BGP that more than the speaker speaks of: peers' names, path attributes and what a section
//! of the configuration says of them. Plain data; messages and sessions are the speaker's own matter.

pub mod session;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::service::Family;

/// What a peer is called: in the configuration, the API, events and metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    Address(IpAddr),
    /// A link-local address, which means nothing without its interface: `fe80::1%eth1`.
    LinkLocal(Ipv6Addr, Interface),
    /// Whoever is the router at the other end of this interface (unnumbered): `eth1`.
    Interface(Interface),
}

/// A network interface's name: 1 to 15 bytes, no blank, no slash (`dev_valid_name` of the kernel). Nor a control
/// character, which the kernel would take: names stand in logs and on terminals.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(Arc<str>);

impl Interface {
    /// `None` if no interface can have this name.
    pub fn new(name: &str) -> Option<Interface> {
        let good = (1..16).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.contains(|c: char| {
                matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control()
            });
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

impl PeerId {
    /// The family of the session's own connection.
    pub fn family(&self) -> Family {
        match self {
            PeerId::Address(address) => Family::of(*address),
            PeerId::LinkLocal(..) | PeerId::Interface(_) => Family::Ipv6,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        })
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
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
            Community::Extended(bytes) => extended(f, *bytes),
        }
    }
}

/// By its kind if that says all of it, in digits if not: a small AS in the form for large ones, say.
fn extended(f: &mut fmt::Formatter<'_>, bytes: [u8; 8]) -> fmt::Result {
    let [kind, subtype, a, b, c, d, e, g] = bytes;
    let name = KINDS.iter().find(|(_, of)| *of == subtype);
    let (four, two) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g]));
    match (name, kind) {
        (Some((name, _)), TWO_OCTET_AS) => {
            let (number, value) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g]));
            write!(f, "{name}:{number}:{value}")
        }
        (Some((name, _)), IPV4) => write!(f, "{name}:{}:{two}", Ipv4Addr::from(four)),
        (Some((name, _)), FOUR_OCTET_AS) if four > u16::MAX.into() => {
            write!(f, "{name}:{four}:{two}")
        }
        _ => write!(f, "ext:{:#018x}", u64::from_be_bytes(bytes)),
    }
}

/// Why a text is no community; how one is written stands at [`Community`]'s `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a community")]
pub struct NotACommunity;

impl FromStr for Community {
    type Err = NotACommunity;
    fn from_str(text: &str) -> Result<Community, NotACommunity> {
        let well_known = WELL_KNOWN.iter().find(|(name, _)| *name == text);
        if let Some((_, value)) = well_known {
            return Ok(Community::Standard(*value));
        }
        let parts: Vec<&str> = text.split(':').collect();
        let kind = |name: &str| KINDS.iter().find(|(kind, _)| *kind == name);
        let found = match parts[..] {
            ["ext", digits] => in_full(digits),
            [one, two] => standard(one, two),
            [name, who, value] => match kind(name) {
                Some((_, subtype)) => of_kind(*subtype, who, value),
                None => large(name, who, value),
            },
            _ => None,
        };
        found.ok_or(NotACommunity)
    }
}

fn standard(one: &str, two: &str) -> Option<Community> {
    let [one, two] = [decimal::<u16>(one)?, decimal(two)?].map(u32::from);
    Some(Community::Standard(one << 16 | two))
}

fn large(one: &str, two: &str, three: &str) -> Option<Community> {
    Some(Community::Large(
        decimal(one)?,
        decimal(two)?,
        decimal(three)?,
    ))
}

fn in_full(digits: &str) -> Option<Community> {
    let digits = digits.strip_prefix("0x")?;
    let good = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u64::from_str_radix(digits, 16).ok().filter(|_| good)?;
    Some(Community::Extended(value.to_be_bytes()))
}

fn of_kind(subtype: u8, who: &str, value: &str) -> Option<Community> {
    let (kind, value) = if let Ok(address) = who.parse::<Ipv4Addr>() {
        let value = u64::from(decimal::<u16>(value)?);
        (IPV4, u64::from(u32::from(address)) << 16 | value)
    } else if let Some(number) = decimal::<u16>(who) {
        let value = u64::from(decimal::<u32>(value)?);
        (TWO_OCTET_AS, u64::from(number) << 32 | value)
    } else {
        let (number, value) = (decimal::<u32>(who)?, decimal::<u16>(value)?);
        (FOUR_OCTET_AS, u64::from(number) << 16 | u64::from(value))
    };
    let mut bytes = value.to_be_bytes();
    bytes[..2].copy_from_slice(&[kind, subtype]);
    Some(Community::Extended(bytes))
}

/// Digits alone: Rust itself would take a sign, too.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let good = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| good)
}

/// The types of extended communities whose value names an AS or an address (RFC 4360 section 3, RFC 5668).
const TWO_OCTET_AS: u8 = 0x00;
const IPV4: u8 = 0x01;
const FOUR_OCTET_AS: u8 = 0x02;

/// Route target and route origin (RFC 4360 sections 4 and 5), by their subtypes.
const KINDS: &[(&str, u8)] = &[("rt", 0x02), ("soo", 0x03)];

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// So many communities a route carries at most, of all kinds and from all layers together. With the longest
/// AS_PATH beside them that leaves a message of 4,096 bytes room for prefixes. Held by the configuration.
pub const MAX_COMMUNITIES: usize = 128;

/// RFC 8326.
pub const GRACEFUL_SHUTDOWN: Community = Community::Standard(0xffff_0000);

/// RFC 7999.
pub const BLACKHOLE: Community = Community::Standard(0xffff_029a);

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn communities_as_written() {
        let extended = |value: u64| Community::Extended(value.to_be_bytes());
        for (text, community) in [
            ("64600:100", Community::Standard(0xfc58_0064)),
            ("0:0", Community::Standard(0)),
            ("graceful-shutdown", GRACEFUL_SHUTDOWN),
            ("no-export", Community::Standard(0xffff_ff01)),
            (
                "4200000001:1:4294967295",
                Community::Large(4_200_000_001, 1, u32::MAX),
            ),
            ("rt:64600:100", extended(0x0002_fc58_0000_0064)),
            ("soo:64600:4294967295", extended(0x0003_fc58_ffff_ffff)),
            ("rt:4200000001:1", extended(0x0202_fa56_ea01_0001)),
            ("rt:10.0.0.1:1", extended(0x0102_0a00_0001_0001)),
            ("ext:0x4302000000000001", extended(0x4302_0000_0000_0001)),
            // An AS of two octets in the form for four: `rt:64600:100` is another community.
            ("ext:0x02020000fc580064", extended(0x0202_0000_fc58_0064)),
        ] {
            assert_eq!(text.parse(), Ok(community), "{text}");
            assert_eq!(community.to_string(), text);
        }
        // Written otherwise, and the same.
        assert_eq!("65535:666".parse(), "blackhole".parse::<Community>());
        assert_eq!(
            "ext:0x0002FC5800000064".parse(),
            "rt:64600:100".parse::<Community>()
        );
    }

    #[test]
    fn no_communities() {
        for text in [
            "",
            "1",
            ":",
            "1:",
            "+1:1",
            "65536:1",
            "1:65536",
            "1:2:3:4",
            "4294967296:1:1",
            "No-Export",
            "rt:1",
            "rt:4200000001:65536",
            "rt:10.0.0.1:65536",
            "rt:10.0.0.256:1",
            "RT:1:1",
            "ext:0002fc5800000064",
            "ext:0x2fc5800000064",
            "ext:0x+002fc5800000064",
        ] {
            assert_eq!(text.parse::<Community>(), Err(NotACommunity), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind in 0_u8..4, subtype in 0_u8..5, value: [u8; 6], large: (u32, u32, u32), standard: u32) {
            let [a, b, c, d, e, f] = value;
            for community in [
                Community::Extended([kind, subtype, a, b, c, d, e, f]),
                Community::Extended([kind, subtype, 0, 0, c, d, e, f]),
                Community::Large(large.0, large.1, large.2),
                Community::Standard(standard),
                Community::Standard(0xffff_0000 | standard & 7),
            ] {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }

        #[test]
        fn any_text_is_survived(text in "(rt|soo|ext|:|0x|[0-9.]{1,11}|\\PC){0,8}") {
            if let Ok(community) = text.parse::<Community>() {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }
    }
}
