//! The path attributes of a received UPDATE, read as RFC 7606 says: whatever can be made of them, and the
//! gravest fault. It knows attributes, not what they are worth: see `update`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::as_path::AsPath;
use super::update::prefixes;
use super::{AS_TRANS, Received, Sender, take_u16, unicast};
use crate::bgp::notification::Notification;
use crate::routing::Community;
use crate::service::Family;

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const MULTI_EXIT_DISC: u8 = 4;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const COMMUNITIES: u8 = 8;
const ORIGINATOR_ID: u8 = 9;
const CLUSTER_LIST: u8 = 10;
const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;
const EXTENDED_COMMUNITIES: u8 = 16;
const AS4_PATH: u8 = 17;
const AS4_AGGREGATOR: u8 = 18;
const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
const LARGE_COMMUNITY: u8 = 32;
const ONLY_TO_CUSTOMER: u8 = 35;

/// The flags (RFC 4271 section 4.3).
const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;

/// UPDATE Message Error subcodes (RFC 4271 section 6.3).
const MALFORMED_LIST: u8 = 1;
const MISSING: u8 = 3;
const FLAGS: u8 = 4;
const LENGTH: u8 = 5;
const INVALID_ORIGIN: u8 = 6;
const INVALID_NEXT_HOP: u8 = 8;
const OPTIONAL_ATTRIBUTE: u8 = 9;
const MALFORMED_AS_PATH: u8 = 11;

/// All that the list says.
#[derive(Default)]
pub(super) struct Found {
    /// Without the next hop.
    pub(super) received: Received,
    /// NEXT_HOP, if it is there and good.
    pub(super) next_hop: Option<Ipv4Addr>,
    /// Of MP_REACH_NLRI.
    pub(super) announced: Vec<IpNet>,
    pub(super) announced_by: Option<IpAddr>,
    /// Of MP_UNREACH_NLRI.
    pub(super) withdrawn: Vec<IpNet>,
    pub(super) withdraws: Option<Family>,
    /// Families whose MP_REACH_NLRI or MP_UNREACH_NLRI cannot be read.
    pub(super) disabled: BTreeSet<Family>,
    /// MP_REACH_NLRI has prefixes, even if not for us to read.
    pub(super) reaches: bool,
    /// There are attributes beside MP_UNREACH_NLRI.
    pub(super) others: bool,
    /// The gravest fault, and of those the first.
    pub(super) fault: Option<Fault>,
    /// A fault asks for treat-as-withdraw.
    pub(super) unusable: bool,
    /// Types that the list has; a broken one counts.
    present: BTreeSet<u8>,
    as_path: AsPath,
    as4_path: Option<AsPath>,
    /// AGGREGATOR's AS is a real one.
    aggregator_is_real: bool,
}

pub(super) struct Fault {
    pub(super) approach: Approach,
    /// What the peer is told if it comes to that.
    pub(super) told: Notification,
    pub(super) why: String,
}

/// RFC 7606 section 2, the weaker ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Approach {
    AttributeDiscard,
    TreatAsWithdraw,
    Disable,
}

/// One attribute as it came.
struct Attribute<'a> {
    flags: u8,
    kind: u8,
    value: &'a [u8],
    /// With flags, type and length.
    whole: &'a [u8],
}

/// Why an attribute is malformed: the subcode and the words.
type Wrong = (u8, &'static str);

/// `outside`: the UPDATE has prefixes outside of MP_REACH_NLRI, too. `Err`: a fault that ends the session.
pub(super) fn read(list: &[u8], outside: bool, sender: Sender) -> Result<Found, Notification> {
    let mut found = Found::default();
    // RFC 4760 section 3: beside MP_REACH_NLRI alone it is to be ignored.
    let ignored = (!outside && contains(list, MP_REACH_NLRI)).then_some(NEXT_HOP);
    let mut list = list;
    while !list.is_empty() {
        let Some(attribute) = cut(&mut list) else {
            // RFC 7606 section 4: an overrun or an underrun.
            found.others = true;
            found.fault(Approach::TreatAsWithdraw, || {
                let told = Notification::new(3, MALFORMED_LIST, []);
                (told, "the list of attributes breaks off".into())
            });
            break;
        };
        found.others |= attribute.kind != MP_UNREACH_NLRI;
        if ignored != Some(attribute.kind) {
            found.attribute(&attribute, sender)?;
        }
    }
    found.finish(sender);
    Ok(found)
}

impl Found {
    /// What an UPDATE that announces must have (RFC 7606 section 3 d, RFC 4760 section 3). `next_hop`: some of
    /// its prefixes stand outside of MP_REACH_NLRI.
    pub(super) fn require(&mut self, next_hop: bool) {
        for (kind, required) in [(ORIGIN, true), (AS_PATH, true), (NEXT_HOP, next_hop)] {
            if required && !self.present.contains(&kind) {
                self.fault(Approach::TreatAsWithdraw, || {
                    let told = Notification::new(3, MISSING, [kind]);
                    (told, format!("{} is missing", name(kind)))
                });
            }
        }
    }

    fn attribute(&mut self, attribute: &Attribute<'_>, sender: Sender) -> Result<(), Notification> {
        let kind = attribute.kind;
        let multiprotocol = matches!(kind, MP_REACH_NLRI | MP_UNREACH_NLRI);
        if !self.present.insert(kind) {
            // RFC 7606 section 3 (g): of all others the first one counts.
            if multiprotocol {
                return Err(Notification::new(3, MALFORMED_LIST, []));
            }
            self.wrong(
                attribute,
                Approach::AttributeDiscard,
                (MALFORMED_LIST, "there twice"),
            );
            return Ok(());
        }
        if multiprotocol {
            return self.multiprotocol(attribute);
        }
        // RFC 7606 sections 7.5, 7.9, 7.10: whatever it says.
        if !sender.internal && matches!(kind, LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST) {
            let why = (OPTIONAL_ATTRIBUTE, "from an external peer");
            self.wrong(attribute, Approach::AttributeDiscard, why);
            return Ok(());
        }
        let good = check_flags(attribute).and_then(|()| self.value(attribute, sender));
        if let Err(why) = good {
            self.wrong(attribute, approach(kind), why);
        }
        Ok(())
    }

    /// RFC 7606 section 7, and of newer attributes their own RFCs.
    fn value(&mut self, attribute: &Attribute<'_>, sender: Sender) -> Result<(), Wrong> {
        let value = attribute.value;
        match attribute.kind {
            ORIGIN => match value {
                [0..=2] => {}
                [_] => return Err((INVALID_ORIGIN, "of no known value")),
                _ => return Err(BAD_LENGTH),
            },
            AS_PATH => {
                self.as_path = AsPath::read(value, sender.four_octet_as)
                    .map_err(|why| (MALFORMED_AS_PATH, why))?;
                if !sender.internal && self.as_path.has_confederation() {
                    let why = "a confederation's segment from outside of it";
                    return Err((MALFORMED_AS_PATH, why));
                }
            }
            NEXT_HOP => self.next_hop = Some(next_hop(value)?),
            MULTI_EXIT_DISC => self.received.med = Some(four_bytes(value)?),
            LOCAL_PREF => self.received.local_pref = Some(four_bytes(value)?),
            ATOMIC_AGGREGATE if !value.is_empty() => return Err(BAD_LENGTH),
            AGGREGATOR => self.aggregator(value, sender.four_octet_as)?,
            COMMUNITIES => self.communities(value, |&one: &[u8; 4]| {
                Community::Standard(u32::from_be_bytes(one))
            })?,
            ORIGINATOR_ID | ONLY_TO_CUSTOMER => drop(four_bytes(value)?),
            CLUSTER_LIST => whole_number_of(4, value)?,
            EXTENDED_COMMUNITIES => {
                self.communities(value, |&one: &[u8; 8]| Community::Extended(one))?;
            }
            AS4_PATH | AS4_AGGREGATOR if sender.four_octet_as => {
                // RFC 6793 section 4.1.
                return Err((OPTIONAL_ATTRIBUTE, "from a peer of 4-byte AS numbers"));
            }
            AS4_PATH if value.is_empty() => return Err(BAD_LENGTH),
            AS4_PATH => {
                let path = AsPath::read(value, true).map_err(|why| (OPTIONAL_ATTRIBUTE, why))?;
                self.as4_path = Some(path);
            }
            AS4_AGGREGATOR => match value {
                [0, 0, 0, 0, _, _, _, _] => return Err((OPTIONAL_ATTRIBUTE, "AS 0")),
                [_, _, _, _, _, _, _, _] => {}
                _ => return Err(BAD_LENGTH),
            },
            IPV6_EXTENDED_COMMUNITIES => whole_number_of(20, value)?,
            LARGE_COMMUNITY => self.communities(value, |one: &[u8; 12]| {
                let [global, first, second] = [0, 4, 8].map(|at| number(&one[at..at + 4]));
                Community::Large(global, first, second)
            })?,
            // One that we do not know is none of our business.
            _ => {}
        }
        Ok(())
    }

    fn communities<const SIZE: usize>(
        &mut self,
        value: &[u8],
        community: impl Fn(&[u8; SIZE]) -> Community,
    ) -> Result<(), Wrong> {
        whole_number_of(SIZE, value)?;
        let (all, _) = value.as_chunks::<SIZE>();
        self.received.communities.extend(all.iter().map(community));
        Ok(())
    }

    /// RFC 7606 section 7.7, RFC 7607.
    fn aggregator(&mut self, value: &[u8], four_octet_as: bool) -> Result<(), Wrong> {
        let asn = match (value, four_octet_as) {
            ([a, b, c, d, _, _, _, _], true) => u32::from_be_bytes([*a, *b, *c, *d]),
            ([a, b, _, _, _, _], false) => u16::from_be_bytes([*a, *b]).into(),
            _ => return Err(BAD_LENGTH),
        };
        self.aggregator_is_real = asn != u32::from(AS_TRANS);
        match asn {
            0 => Err((OPTIONAL_ATTRIBUTE, "AS 0")),
            _ => Ok(()),
        }
    }

    /// RFC 4760 sections 3, 4, 7; RFC 7606 sections 5.3, 7.11, 7.12. Families that we do not speak are passed over.
    fn multiprotocol(&mut self, attribute: &Attribute<'_>) -> Result<(), Notification> {
        let told = || Notification::new(3, OPTIONAL_ATTRIBUTE, attribute.whole);
        let reaches = attribute.kind == MP_REACH_NLRI;
        let [afi_high, afi_low, safi, rest @ ..] = attribute.value else {
            return Err(told());
        };
        self.reaches |= reaches;
        let Some(family) = unicast([*afi_high, *afi_low], *safi) else {
            return Ok(());
        };
        let good = check_flags(attribute).and_then(|()| match reaches {
            true => self.reach(family, rest),
            false => prefixes(rest, family)
                .map(|all| (self.withdrawn, self.withdraws) = (all, Some(family)))
                .ok_or(BAD_PREFIX),
        });
        if let Err((_, why)) = good {
            self.disabled.insert(family);
            self.fault(Approach::Disable, || {
                let why = format!("{} of {family}: {why}", name(attribute.kind));
                (told(), why)
            });
        }
        // RFC 4271 section 6.3 asks it of NEXT_HOP; a route by no host is as useless here.
        let no_host = self.announced_by.is_some_and(|by| !is_host(by));
        if reaches && no_host && !self.announced.is_empty() {
            self.wrong(attribute, Approach::TreatAsWithdraw, NO_HOST);
        }
        Ok(())
    }

    /// From the next hop's length on.
    fn reach(&mut self, family: Family, mut rest: &[u8]) -> Result<(), Wrong> {
        let next_hop = rest
            .split_off_first()
            .and_then(|length| rest.split_off(..usize::from(*length)))
            .and_then(|next_hop| multiprotocol_next_hop(family, next_hop))
            .ok_or((INVALID_NEXT_HOP, "a next hop of a wrong length"))?;
        // A reserved byte, to be ignored.
        rest.split_off_first().ok_or(BAD_LENGTH)?;
        self.reaches = !rest.is_empty();
        self.announced = prefixes(rest, family).ok_or(BAD_PREFIX)?;
        self.announced_by = Some(next_hop);
        Ok(())
    }

    /// RFC 6793 section 4.2.3.
    fn finish(&mut self, sender: Sender) {
        let path = std::mem::take(&mut self.as_path);
        let aggregated = self.present.contains(&AS4_AGGREGATOR) && self.aggregator_is_real;
        let path = match self.as4_path.take() {
            Some(four_octet) if !sender.four_octet_as && !aggregated => path.merged(four_octet),
            Some(_) | None => path,
        };
        self.received.as_path = path.to_string();
    }

    fn wrong(&mut self, attribute: &Attribute<'_>, approach: Approach, (subcode, why): Wrong) {
        self.fault(approach, || {
            let told = Notification::new(3, subcode, attribute.whole);
            (told, format!("{}: {why}", name(attribute.kind)))
        });
    }

    /// RFC 7606 section 3 (h). Words are made for a fault that counts alone: a message has room for thousands.
    fn fault(&mut self, approach: Approach, told_and_why: impl FnOnce() -> (Notification, String)) {
        self.unusable |= approach == Approach::TreatAsWithdraw;
        if self
            .fault
            .as_ref()
            .is_none_or(|worst| worst.approach < approach)
        {
            let (told, why) = told_and_why();
            self.fault = Some(Fault {
                approach,
                told,
                why,
            });
        }
    }
}

const BAD_LENGTH: Wrong = (LENGTH, "of a wrong length");
const NO_HOST: Wrong = (INVALID_NEXT_HOP, "a next hop that is no host's address");
const BAD_PREFIX: Wrong = (OPTIONAL_ATTRIBUTE, "a prefix that cannot be read");

/// The next attribute of the list; `None`: it breaks off.
fn cut<'a>(list: &mut &'a [u8]) -> Option<Attribute<'a>> {
    let start = *list;
    let flags = *list.split_off_first()?;
    let kind = *list.split_off_first()?;
    let length = if flags & EXTENDED_LENGTH == 0 {
        u16::from(*list.split_off_first()?)
    } else {
        take_u16(list)?
    };
    let value = list.split_off(..usize::from(length))?;
    let whole = &start[..start.len() - list.len()];
    Some(Attribute {
        flags,
        kind,
        value,
        whole,
    })
}

fn contains(mut list: &[u8], kind: u8) -> bool {
    while let Some(attribute) = cut(&mut list) {
        if attribute.kind == kind {
            return true;
        }
    }
    false
}

/// RFC 7606 section 3 (c). Who sends a well-known attribute that we do not know has its flags wrong: we know
/// them all.
fn check_flags(attribute: &Attribute<'_>) -> Result<(), Wrong> {
    let good = match attribute.kind {
        ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => TRANSITIVE,
        MULTI_EXIT_DISC | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH_NLRI | MP_UNREACH_NLRI => {
            OPTIONAL
        }
        AGGREGATOR
        | COMMUNITIES
        | EXTENDED_COMMUNITIES
        | AS4_PATH
        | AS4_AGGREGATOR
        | IPV6_EXTENDED_COMMUNITIES
        | LARGE_COMMUNITY
        | ONLY_TO_CUSTOMER => OPTIONAL | TRANSITIVE,
        _ => OPTIONAL | attribute.flags & TRANSITIVE,
    };
    match attribute.flags & (OPTIONAL | TRANSITIVE) == good {
        true => Ok(()),
        false => Err((FLAGS, "with wrong flags")),
    }
}

/// What a malformed one costs (RFC 7606 sections 3 f and 7, RFC 6793 section 6).
fn approach(kind: u8) -> Approach {
    match kind {
        ATOMIC_AGGREGATE | AGGREGATOR | AS4_PATH | AS4_AGGREGATOR => Approach::AttributeDiscard,
        _ => Approach::TreatAsWithdraw,
    }
}

/// RFC 7606 section 7.3, RFC 4271 section 6.3: the address of a host.
fn next_hop(value: &[u8]) -> Result<Ipv4Addr, Wrong> {
    let address = Ipv4Addr::from_bits(four_bytes(value)?);
    match is_host(address.into()) {
        true => Ok(address),
        false => Err(NO_HOST),
    }
}

fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
        }
    }
}

/// RFC 4760 section 3, RFC 2545 section 3, RFC 8950 section 3; `None`: of a length that it cannot have.
/// Of two addresses the global one, if there is one.
fn multiprotocol_next_hop(family: Family, value: &[u8]) -> Option<IpAddr> {
    let v6 = |octets: &[u8]| <[u8; 16]>::try_from(octets).map(Ipv6Addr::from).ok();
    match (family, value.len()) {
        (Family::Ipv4, 4) => Some(Ipv4Addr::from_bits(number(value)).into()),
        (Family::Ipv4 | Family::Ipv6, 16) => v6(value).map(IpAddr::from),
        (Family::Ipv4 | Family::Ipv6, 32) => {
            let (first, second) = (v6(&value[..16])?, v6(&value[16..])?);
            let global = if first.is_unspecified() {
                second
            } else {
                first
            };
            Some(global.into())
        }
        _ => None,
    }
}

fn four_bytes(value: &[u8]) -> Result<u32, Wrong> {
    match value.len() {
        4 => Ok(number(value)),
        _ => Err(BAD_LENGTH),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// At least one.
fn whole_number_of(size: usize, value: &[u8]) -> Result<(), Wrong> {
    match !value.is_empty() && value.len().is_multiple_of(size) {
        true => Ok(()),
        false => Err(BAD_LENGTH),
    }
}

fn name(kind: u8) -> String {
    let name = match kind {
        ORIGIN => "ORIGIN",
        AS_PATH => "AS_PATH",
        NEXT_HOP => "NEXT_HOP",
        MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
        LOCAL_PREF => "LOCAL_PREF",
        ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        AGGREGATOR => "AGGREGATOR",
        COMMUNITIES => "COMMUNITIES",
        ORIGINATOR_ID => "ORIGINATOR_ID",
        CLUSTER_LIST => "CLUSTER_LIST",
        MP_REACH_NLRI => "MP_REACH_NLRI",
        MP_UNREACH_NLRI => "MP_UNREACH_NLRI",
        EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        AS4_PATH => "AS4_PATH",
        AS4_AGGREGATOR => "AS4_AGGREGATOR",
        IPV6_EXTENDED_COMMUNITIES => "IPv6 EXTENDED COMMUNITIES",
        LARGE_COMMUNITY => "LARGE_COMMUNITY",
        ONLY_TO_CUSTOMER => "ONLY_TO_CUSTOMER",
        other => return format!("attribute {other}"),
    };
    name.into()
}
