//! BGP messages ↔ bytes. The only file that knows the codec crate (`netgauze-bgp-pkt`).
//!
//! What we send is built by the codec. Of what we receive, this file itself checks what RFC 4271
//! and RFC 7606 make a reason to end a session; whatever else the codec dislikes is only counted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::{
    BgpCapability, FourOctetAsCapability, MultiProtocolExtensionsCapability,
};
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::open::{BgpOpenMessage, BgpOpenMessageParameter};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4Path, As4PathSegment, AsPath, AsPathSegmentType, LocalPreference, MpReach,
    MpUnreach, MultiExitDiscriminator, NextHop, Origin, PathAttribute, PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::{ParseFrom, ParseFromWithOneInput};

use super::notification::Notification;
use crate::routing::session::Route;
use crate::routing::{Community, Role};
use crate::service::Family;

/// RFC 4271 section 4.1.
pub(crate) const HEADER: usize = 19;
/// RFC 4271 section 4.1; we do not offer longer ones (RFC 8654).
pub(crate) const LONGEST: usize = 4096;
/// What an AS number of more than two bytes looks like in two (RFC 6793 section 9).
const AS_TRANS: u16 = 23456;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Open(Open),
    Update(Update),
    Notification(Notification),
    Keepalive,
    RouteRefresh(Refresh),
}

/// RFC 4271 section 4.2, with the capabilities (RFC 5492) that matter to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// The 4-byte one if the sender has it (RFC 6793).
    pub(crate) asn: u32,
    pub(crate) four_octet_as: bool,
    /// In seconds.
    pub(crate) hold_time: u16,
    pub(crate) identifier: Ipv4Addr,
    /// Unicast families (RFC 4760); who names none at all speaks IPv4.
    pub(crate) families: BTreeSet<Family>,
    /// RFC 2918, RFC 7313, RFC 8654.
    pub(crate) route_refresh: bool,
    pub(crate) enhanced_route_refresh: bool,
    pub(crate) extended_messages: bool,
    /// IPv4 unicast with an IPv6 next hop (RFC 8950).
    pub(crate) extended_next_hop: bool,
    /// The sender's (RFC 9234).
    pub(crate) role: Option<Role>,
}

/// RFC 2918 section 3, RFC 7313 section 3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refresh {
    /// `None`: one that we do not speak.
    pub(crate) family: Option<Family>,
    pub(crate) kind: RefreshKind,
}

/// The Message Subtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshKind {
    /// 0: a request for the routes.
    Request,
    /// 1 and 2: before and after them.
    Begin,
    End,
    /// To be ignored.
    Other(u8),
}

/// A received UPDATE as RFC 7606 leaves it: what was announced with attributes that cannot be used is among
/// the withdrawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) withdrawn: Vec<IpNet>,
    pub(crate) announced: Vec<IpNet>,
    /// What the announced ones have in common.
    pub(crate) attributes: Received,
    /// What was wrong with it, if something was.
    pub(crate) fault: Option<String>,
}

/// Received attributes, as far as somebody looks at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// The global one, if there are two.
    pub(crate) next_hop: Option<IpAddr>,
    /// As [`crate::routing::session::Foreign::as_path`] has it.
    pub(crate) as_path: String,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) communities: BTreeSet<Community>,
}

/// How UPDATEs to one peer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) local_as: u32,
    /// The peer is of our own AS.
    pub(crate) internal: bool,
    /// Both sides know 4-byte AS numbers.
    pub(crate) four_octet_as: bool,
    /// The longest message that the peer takes (RFC 4271 section 4.1, RFC 8654).
    pub(crate) longest: usize,
    /// Announce with ONLY_TO_CUSTOMER (RFC 9234 section 5).
    pub(crate) only_to_customer: bool,
}

/// So many prefixes fit one UPDATE with all attributes that we ever send.
pub(crate) fn prefixes_per_update(family: Family) -> usize {
    match family {
        // 23 bytes of header and lengths, at most 70 of attributes, 5 a prefix.
        Family::Ipv4 => (LONGEST - 23 - 70) / 5,
        // As above, 25 of MP_REACH_NLRI, 17 a prefix.
        Family::Ipv6 => (LONGEST - 23 - 70 - 25) / 17,
    }
}

/// Whether BGP carries it in a unicast family at all.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => v4(address).is_some(),
        IpAddr::V6(address) => v6(address).is_some(),
    }
}

pub(crate) fn open(open: &Open) -> Vec<u8> {
    let mut capabilities: Vec<BgpCapability> = open
        .families
        .iter()
        .map(|&family| multiprotocol(family))
        .collect();
    capabilities.push(BgpCapability::RouteRefresh);
    if open.four_octet_as {
        capabilities.push(BgpCapability::FourOctetAs(FourOctetAsCapability::new(
            open.asn,
        )));
    }
    encode(&BgpMessage::Open(BgpOpenMessage::new(
        u16::try_from(open.asn).unwrap_or(AS_TRANS),
        open.hold_time,
        open.identifier,
        vec![BgpOpenMessageParameter::new_capabilities(capabilities)],
    )))
}

pub(crate) fn keepalive() -> Vec<u8> {
    encode(&BgpMessage::KeepAlive)
}

pub(crate) fn notification(notification: &Notification) -> Vec<u8> {
    // The codec has a type for each subcode, we need none: six lines.
    let data = &notification.data[..notification.data.len().min(LONGEST - HEADER - 2)];
    let mut frame = vec![0xff; 16];
    frame.extend(((HEADER + 2 + data.len()) as u16).to_be_bytes());
    frame.extend([NOTIFICATION, notification.code, notification.subcode]);
    frame.extend(data);
    frame
}

/// All of one family, at most [`prefixes_per_update`] of them.
pub(crate) fn announce(dialect: Dialect, route: &Route, prefixes: &[IpAddr]) -> Vec<u8> {
    let mut list = Vec::new();
    let mut nlri = Vec::new();
    match route.next_hop {
        // MP_REACH_NLRI stands first (RFC 7606 section 5.1).
        IpAddr::V6(next_hop_global) => list.push(attribute(PathAttributeValue::MpReach(
            MpReach::Ipv6Unicast {
                next_hop_global,
                next_hop_local: None,
                nlri: v6_list(prefixes),
            },
        ))),
        IpAddr::V4(_) => nlri = v4_list(prefixes),
    }
    list.push(attribute(PathAttributeValue::Origin(Origin::IGP)));
    list.push(attribute(PathAttributeValue::AsPath(as_path(dialect))));
    if let IpAddr::V4(next_hop) = route.next_hop {
        list.push(attribute(PathAttributeValue::NextHop(NextHop::new(
            next_hop,
        ))));
    }
    let med = MultiExitDiscriminator::new(route.attributes.med);
    list.push(attribute(PathAttributeValue::MultiExitDiscriminator(med)));
    if dialect.internal {
        // RFC 4271 section 5.1.5: to internal peers always, to external ones never.
        list.push(attribute(PathAttributeValue::LocalPreference(
            LocalPreference::new(100),
        )));
    } else if !dialect.four_octet_as && u16::try_from(dialect.local_as).is_err() {
        // RFC 6793 section 4.2.2.
        let path = As4Path::new(vec![As4PathSegment::new(
            AsPathSegmentType::AsSequence,
            vec![dialect.local_as],
        )]);
        list.push(attribute(PathAttributeValue::As4Path(path)));
    }
    encode(&BgpMessage::Update(BgpUpdateMessage::new(
        Vec::new(),
        list,
        nlri,
    )))
}

/// All of one family, at most [`prefixes_per_update`] of them.
pub(crate) fn withdraw(family: Family, prefixes: &[IpAddr]) -> Vec<u8> {
    let update = match family {
        Family::Ipv4 => BgpUpdateMessage::new(v4_list(prefixes), Vec::new(), Vec::new()),
        Family::Ipv6 => {
            let nlri = v6_list(prefixes);
            let list = attribute(PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast {
                nlri,
            }));
            BgpUpdateMessage::new(Vec::new(), vec![list], Vec::new())
        }
    };
    encode(&BgpMessage::Update(update))
}

/// RFC 4724 section 2: an UPDATE that withdraws nothing.
pub(crate) fn end_of_rib(family: Family) -> Vec<u8> {
    withdraw(family, &[])
}

fn as_path(dialect: Dialect) -> AsPath {
    let sequence = AsPathSegmentType::AsSequence;
    match (dialect.internal, dialect.four_octet_as) {
        // RFC 4271 section 5.1.2: empty to internal peers.
        (true, _) => AsPath::as4_path_segments(Vec::new()),
        (false, true) => {
            AsPath::as4_path_segments(vec![As4PathSegment::new(sequence, vec![dialect.local_as])])
        }
        (false, false) => AsPath::as2_path_segments(vec![As2PathSegment::new(
            sequence,
            vec![u16::try_from(dialect.local_as).unwrap_or(AS_TRANS)],
        )]),
    }
}

fn attribute(value: PathAttributeValue) -> PathAttribute {
    let optional = value.can_be_optional().unwrap_or(true);
    let transitive = value.can_be_transitive().unwrap_or(true);
    let long = matches!(
        value,
        PathAttributeValue::MpReach(_) | PathAttributeValue::MpUnreach(_)
    );
    // The flags are those that the value itself asks for.
    PathAttribute::from(optional, transitive, false, long, value)
        .expect("an attribute with its own flags")
}

fn multiprotocol(family: Family) -> BgpCapability {
    let address_type = address_type(family);
    BgpCapability::MultiProtocolExtensions(MultiProtocolExtensionsCapability::new(address_type))
}

fn address_type(family: Family) -> AddressType {
    match family {
        Family::Ipv4 => AddressType::Ipv4Unicast,
        Family::Ipv6 => AddressType::Ipv6Unicast,
    }
}

fn v4(address: Ipv4Addr) -> Option<Ipv4UnicastAddress> {
    let net = Ipv4Unicast::from_net(Ipv4Net::from(address)).ok()?;
    Some(Ipv4UnicastAddress::new_no_path_id(net))
}

fn v6(address: Ipv6Addr) -> Option<Ipv6UnicastAddress> {
    let net = Ipv6Unicast::from_net(Ipv6Net::from(address)).ok()?;
    Some(Ipv6UnicastAddress::new(None, net))
}

fn v4_list(prefixes: &[IpAddr]) -> Vec<Ipv4UnicastAddress> {
    let one = |prefix: &IpAddr| match prefix {
        IpAddr::V4(address) => v4(*address),
        IpAddr::V6(_) => None,
    };
    prefixes.iter().filter_map(one).collect()
}

fn v6_list(prefixes: &[IpAddr]) -> Box<[Ipv6UnicastAddress]> {
    let one = |prefix: &IpAddr| match prefix {
        IpAddr::V6(address) => v6(*address),
        IpAddr::V4(_) => None,
    };
    prefixes.iter().filter_map(one).collect()
}

fn encode(message: &BgpMessage) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len());
    // Writing to a Vec does not fail, and an OPEN of ours is far below its limit of 4096 bytes.
    message.write(&mut frame).expect("a message fits");
    frame
}

/// The whole message's length (RFC 4271 section 6.1).
pub(crate) fn frame_length(header: &[u8; HEADER]) -> Result<usize, Notification> {
    let [marker @ .., high, low, kind] = header;
    if marker != &[0xff; 16] {
        return Err(Notification::new(1, 1, []));
    }
    let length = u16::from_be_bytes([*high, *low]);
    let (shortest, longest) = match *kind {
        OPEN => (29, LONGEST),
        UPDATE => (23, LONGEST),
        NOTIFICATION => (21, LONGEST),
        KEEPALIVE => (HEADER, HEADER),
        // RFC 2918 section 3.
        ROUTE_REFRESH => (23, 23),
        kind => return Err(Notification::new(1, 3, [kind])),
    };
    if !(shortest..=longest).contains(&usize::from(length)) {
        return Err(Notification::new(1, 2, length.to_be_bytes()));
    }
    Ok(usize::from(length))
}

/// Reads a frame whose header [`frame_length`] has passed. `Err`: what the peer is to be told.
pub(crate) fn decode(frame: &[u8], four_octet_as: bool) -> Result<Message, Notification> {
    let kind = frame.get(HEADER - 1).copied().unwrap_or(0);
    let body = frame.get(HEADER..).unwrap_or(&[]);
    match kind {
        OPEN => decode_open(body).map(Message::Open),
        UPDATE => decode_update(body, four_octet_as).map(Message::Update),
        NOTIFICATION => match body {
            [code, subcode, data @ ..] => {
                let (code, subcode) = (*code, *subcode);
                Ok(Message::Notification(Notification {
                    code,
                    subcode,
                    data: data.to_vec(),
                }))
            }
            [] | [_] => Err(Notification::new(1, 2, (frame.len() as u16).to_be_bytes())),
        },
        KEEPALIVE => Ok(Message::Keepalive),
        ROUTE_REFRESH => Ok(Message::RouteRefresh(Refresh {
            family: match body {
                [0, 1, _, 1] => Some(Family::Ipv4),
                [0, 2, _, 1] => Some(Family::Ipv6),
                _ => None,
            },
            kind: match body.get(2) {
                None | Some(0) => RefreshKind::Request,
                Some(1) => RefreshKind::Begin,
                Some(2) => RefreshKind::End,
                Some(other) => RefreshKind::Other(*other),
            },
        })),
        kind => Err(Notification::new(1, 3, [kind])),
    }
}

/// RFC 4271 section 6.2: what does not depend on who the peer should be.
fn decode_open(body: &[u8]) -> Result<Open, Notification> {
    let unspecific = || Notification::new(2, 0, []);
    let [
        version,
        as_high,
        as_low,
        hold_high,
        hold_low,
        a,
        b,
        c,
        d,
        parameters @ ..,
    ] = body
    else {
        return Err(unspecific());
    };
    if *version != 4 {
        return Err(Notification::new(2, 1, [0, 4]));
    }
    let mut open = Open {
        asn: u16::from_be_bytes([*as_high, *as_low]).into(),
        four_octet_as: false,
        hold_time: u16::from_be_bytes([*hold_high, *hold_low]),
        identifier: Ipv4Addr::new(*a, *b, *c, *d),
        families: BTreeSet::new(),
        route_refresh: false,
        enhanced_route_refresh: false,
        extended_messages: false,
        extended_next_hop: false,
        role: None,
    };
    let mut names_families = false;
    // RFC 9072 section 2: 255 twice says that lengths have two bytes.
    let (long, parameters) = match parameters {
        [_, 255, high, low, rest @ ..] => (true, (u16::from_be_bytes([*high, *low]), rest)),
        [length, rest @ ..] => (false, (u16::from(*length), rest)),
        [] => return Err(unspecific()),
    };
    let mut parameters = match parameters {
        (length, rest) if usize::from(length) == rest.len() => SliceReader::new(rest),
        _ => return Err(unspecific()),
    };
    while !parameters.is_empty() {
        let (kind, mut capabilities) = tlv(&mut parameters, long).ok_or_else(unspecific)?;
        if kind != 2 {
            return Err(Notification::new(2, 4, []));
        }
        while !capabilities.is_empty() {
            let whole = capabilities.as_slice();
            let (_, value) = tlv(&mut capabilities, false).ok_or_else(unspecific)?;
            let mut one = SliceReader::new(&whole[..2 + value.remaining()]);
            match BgpCapability::parse(&mut one) {
                Ok(BgpCapability::FourOctetAs(capability)) => {
                    open.asn = capability.asn4();
                    open.four_octet_as = true;
                }
                Ok(BgpCapability::MultiProtocolExtensions(capability)) => {
                    names_families = true;
                    let named = capability.address_type();
                    let families = [Family::Ipv4, Family::Ipv6].into_iter();
                    open.families
                        .extend(families.filter(|&family| address_type(family) == named));
                }
                Ok(BgpCapability::RouteRefresh) => open.route_refresh = true,
                // RFC 5492 section 3: what we do not know (or make nothing of) is ignored.
                Ok(_) | Err(_) => {}
            }
        }
    }
    if !names_families {
        open.families.insert(Family::Ipv4);
    }
    Ok(open)
}

/// Type, length, value; the length has two bytes if `long`.
fn tlv<'a>(from: &mut SliceReader<'a>, long: bool) -> Option<(u8, SliceReader<'a>)> {
    let kind = from.read_u8().ok()?;
    let length = if long {
        from.read_u16_be().ok()?
    } else {
        from.read_u8().ok()?.into()
    };
    Some((kind, from.take_slice(length.into()).ok()?))
}

/// Since we keep nothing of an UPDATE, treat-as-withdraw, attribute discard and AFI/SAFI disable
/// (RFC 7606 section 2) are all the same to us: ignoring it. Left is what must reset the session.
fn decode_update(body: &[u8], four_octet_as: bool) -> Result<Update, Notification> {
    // RFC 7606 section 3 (b), RFC 4271 section 6.3: lengths that cannot be.
    let malformed_list = || Notification::new(3, 1, []);
    let mut rest = SliceReader::new(body);
    let mut part = || {
        rest.read_u16_be()
            .and_then(|length| rest.take_slice(length.into()))
    };
    let withdrawn = part().map_err(|_| malformed_list())?;
    let attributes = part().map_err(|_| malformed_list())?;
    // RFC 7606 section 3 (j), section 5.3: prefixes that cannot be read.
    if !prefixes_are_sound(withdrawn) || !prefixes_are_sound(rest) {
        return Err(Notification::new(3, 10, []));
    }
    // RFC 7606 section 3 (g).
    if has_two_of_mp(attributes) {
        return Err(malformed_list());
    }
    let mut context = BgpParsingContext::default();
    context.set_asn4(four_octet_as);
    Ok(
        match BgpUpdateMessage::parse(&mut SliceReader::new(body), &mut context) {
            Ok(update) => prefixes_of(&update),
            Err(error) => Update {
                fault: Some(format!("{error:?}")),
                ..Update::default()
            },
        },
    )
}

fn prefixes_are_sound(mut prefixes: SliceReader<'_>) -> bool {
    while let Ok(bits) = prefixes.read_u8() {
        if bits > 32 || prefixes.take_slice(bits.div_ceil(8).into()).is_err() {
            return false;
        }
    }
    true
}

fn has_two_of_mp(mut attributes: SliceReader<'_>) -> bool {
    let (mut reach, mut unreach) = (0, 0);
    // A list that breaks off is treat-as-withdraw (RFC 7606 section 4).
    while let Ok(flags) = attributes.read_u8() {
        // RFC 4271 section 4.3: the Extended Length bit.
        let Some((kind, _)) = tlv(&mut attributes, flags & 0x10 != 0) else {
            break;
        };
        reach += i32::from(kind == 14);
        unreach += i32::from(kind == 15);
    }
    reach > 1 || unreach > 1
}

fn prefixes_of(update: &BgpUpdateMessage) -> Update {
    let v4 = |list: &[Ipv4UnicastAddress]| -> Vec<IpNet> {
        list.iter()
            .map(|one| one.network().address().into())
            .collect()
    };
    let v6 = |list: &[Ipv6UnicastAddress]| -> Vec<IpNet> {
        list.iter()
            .map(|one| one.network().address().into())
            .collect()
    };
    let mut all = Update {
        withdrawn: v4(update.withdraw_routes()),
        announced: v4(update.nlri()),
        ..Update::default()
    };
    for attribute in update.path_attributes() {
        if let PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, .. }) = attribute.value() {
            all.announced.extend(v6(nlri));
        }
        if let PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) = attribute.value() {
            all.withdrawn.extend(v6(nlri));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Attributes;

    const EXTERNAL: Dialect = Dialect {
        local_as: 4_200_000_001,
        internal: false,
        four_octet_as: true,
        longest: LONGEST,
        only_to_customer: false,
    };

    fn ours() -> Open {
        Open {
            asn: 4_200_000_001,
            four_octet_as: true,
            hold_time: 30,
            identifier: Ipv4Addr::new(10, 64, 0, 11),
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            route_refresh: true,
            enhanced_route_refresh: false,
            extended_messages: false,
            extended_next_hop: false,
            role: None,
        }
    }

    fn read(frame: &[u8]) -> Result<Message, Notification> {
        let header = frame[..HEADER].try_into().unwrap();
        assert_eq!(frame_length(header)?, frame.len());
        decode(frame, true)
    }

    /// What the codec itself makes of it.
    fn update(frame: &[u8], four_octet_as: bool) -> BgpUpdateMessage {
        let mut context = BgpParsingContext::default();
        context.set_asn4(four_octet_as);
        match BgpMessage::parse(&mut SliceReader::new(frame), &mut context) {
            Ok(BgpMessage::Update(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    fn values(update: &BgpUpdateMessage) -> Vec<PathAttributeValue> {
        update
            .path_attributes()
            .iter()
            .map(|attribute| attribute.value().clone())
            .collect()
    }

    fn route(next_hop: IpAddr, med: u32) -> Route {
        let attributes = Attributes {
            med,
            ..Attributes::default()
        };
        Route {
            next_hop,
            attributes: attributes.into(),
        }
    }

    /// Announced, withdrawn, and whether something was wrong.
    fn counts(read: Result<Message, Notification>) -> (usize, usize, bool) {
        match read {
            Ok(Message::Update(update)) => (
                update.announced.len(),
                update.withdrawn.len(),
                update.fault.is_some(),
            ),
            other => panic!("{other:?}"),
        }
    }

    fn many(family: Family, count: usize) -> Vec<IpAddr> {
        let one = |n: usize| match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n as u32)),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n as u128)),
        };
        (1..=count).map(one).collect()
    }

    /// A frame of this type around this body.
    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xff; 16];
        frame.extend(((HEADER + body.len()) as u16).to_be_bytes());
        frame.push(kind);
        frame.extend(body);
        frame
    }

    fn open_body(parameters: &[u8]) -> Vec<u8> {
        let mut body = vec![4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, parameters.len() as u8];
        body.extend(parameters);
        body
    }

    #[test]
    fn what_we_send_reads_back() {
        assert_eq!(read(&open(&ours())), Ok(Message::Open(ours())));
        assert_eq!(
            open(&ours())[20..22],
            [0x5b, 0xa0],
            "AS_TRANS in the two-byte field"
        );
        assert_eq!(read(&keepalive()), Ok(Message::Keepalive));
        let cease = Notification::new(6, 2, *b"\x02hi");
        assert_eq!(
            read(&notification(&cease)),
            Ok(Message::Notification(cease.clone()))
        );
        assert_eq!(cease.to_string(), "administrative shutdown (6/2): \"hi\"");
    }

    #[test]
    fn full_updates_fit_and_read_back() {
        let next_hops = [IpAddr::from([10, 0, 0, 1]), "2001:db8::b".parse().unwrap()];
        for next_hop in next_hops {
            let family = Family::of(next_hop);
            let count = prefixes_per_update(family);
            let prefixes = many(family, count);
            for (internal, four_octet_as) in [(false, true), (false, false), (true, true)] {
                let dialect = Dialect {
                    internal,
                    four_octet_as,
                    ..EXTERNAL
                };
                let frame = announce(dialect, &route(next_hop, u32::MAX), &prefixes);
                assert!(
                    frame.len() <= LONGEST && frame.len() > LONGEST - 100,
                    "{}",
                    frame.len()
                );
                assert_eq!(counts(decode(&frame, four_octet_as)), (count, 0, false));
            }
            let frame = withdraw(family, &prefixes);
            assert!(frame.len() <= LONGEST);
            assert_eq!(counts(read(&frame)), (0, count, false));
        }
    }

    #[test]
    fn attributes_to_each_kind_of_peer() {
        let route = route(IpAddr::from([10, 0, 0, 1]), 7);
        let prefixes = many(Family::Ipv4, 1);
        let sequence = AsPathSegmentType::AsSequence;
        let common = |path: AsPath| {
            vec![
                PathAttributeValue::Origin(Origin::IGP),
                PathAttributeValue::AsPath(path),
                PathAttributeValue::NextHop(NextHop::new(Ipv4Addr::new(10, 0, 0, 1))),
                PathAttributeValue::MultiExitDiscriminator(MultiExitDiscriminator::new(7)),
            ]
        };
        let segment = vec![As4PathSegment::new(sequence, vec![EXTERNAL.local_as])];

        let external = update(&announce(EXTERNAL, &route, &prefixes), true);
        assert_eq!(
            values(&external),
            common(AsPath::as4_path_segments(segment.clone()))
        );

        let internal = Dialect {
            internal: true,
            ..EXTERNAL
        };
        let mut expected = common(AsPath::as4_path_segments(Vec::new()));
        expected.push(PathAttributeValue::LocalPreference(LocalPreference::new(
            100,
        )));
        assert_eq!(
            values(&update(&announce(internal, &route, &prefixes), true)),
            expected
        );

        let old = Dialect {
            four_octet_as: false,
            ..EXTERNAL
        };
        let two = As2PathSegment::new(sequence, vec![AS_TRANS]);
        let mut expected = common(AsPath::as2_path_segments(vec![two]));
        expected.push(PathAttributeValue::As4Path(As4Path::new(segment)));
        assert_eq!(
            values(&update(&announce(old, &route, &prefixes), false)),
            expected
        );
    }

    #[test]
    fn end_of_rib_is_one() {
        assert_eq!(end_of_rib(Family::Ipv4).len(), 23);
        let marks = [Family::Ipv4, Family::Ipv6].map(|f| update(&end_of_rib(f), true).end_of_rib());
        assert_eq!(
            marks,
            [
                Some(AddressType::Ipv4Unicast),
                Some(AddressType::Ipv6Unicast)
            ]
        );
    }

    #[test]
    fn headers_are_checked() {
        let good: [u8; HEADER] = keepalive().try_into().unwrap();
        let with = |at: usize, byte: u8| {
            let mut header = good;
            header[at] = byte;
            frame_length(&header).map_err(|told| (told.code, told.subcode, told.data))
        };
        assert_eq!(with(3, 0xfe), Err((1, 1, vec![])));
        assert_eq!(with(17, 18), Err((1, 2, vec![0, 18])));
        assert_eq!(
            with(17, 20),
            Err((1, 2, vec![0, 20])),
            "a KEEPALIVE has no body"
        );
        assert_eq!(with(18, 1), Err((1, 2, vec![0, 19])), "an OPEN has one");
        assert_eq!(with(18, 6), Err((1, 3, vec![6])));
        let mut long = good;
        long[16..19].copy_from_slice(&[0x10, 0x01, UPDATE]);
        assert_eq!(
            frame_length(&long),
            Err(Notification::new(1, 2, [0x10, 0x01]))
        );
    }

    #[test]
    fn opens_of_others() {
        let refused =
            |body: &[u8]| read(&frame(OPEN, body)).map_err(|told| (told.code, told.subcode));
        let accepted = |parameters: &[u8]| match refused(&open_body(parameters)) {
            Ok(Message::Open(open)) => open,
            other => panic!("{other:?}"),
        };
        // No capability at all: IPv4, two-byte AS.
        let plain = accepted(&[]);
        assert_eq!(
            (plain.asn, plain.four_octet_as, plain.hold_time),
            (65001, false, 90)
        );
        assert_eq!(plain.families, BTreeSet::from([Family::Ipv4]));
        // Unknown capability, unknown family (AFI 16388), graceful restart of half a family: ignored.
        let odd = accepted(&[2, 13, 200, 1, 9, 1, 4, 0x40, 4, 0, 71, 64, 2, 0, 1]);
        assert_eq!(odd.families, BTreeSet::new());
        // One parameter a capability.
        let apart = accepted(&[2, 6, 1, 4, 0, 2, 0, 1, 2, 6, 65, 4, 0, 1, 0, 0]);
        assert_eq!(
            (apart.asn, apart.families),
            (65536, BTreeSet::from([Family::Ipv6]))
        );
        // RFC 9072.
        let mut extended = open_body(&[]);
        extended.truncate(9);
        extended.extend([255, 255, 0, 9, 2, 0, 6, 1, 4, 0, 2, 0, 1]);
        assert!(refused(&extended).is_ok());

        let mut version = open_body(&[]);
        version[0] = 3;
        assert_eq!(
            read(&frame(OPEN, &version)),
            Err(Notification::new(2, 1, [0, 4]))
        );
        assert_eq!(refused(&open_body(&[1, 0])), Err((2, 4)));
        assert_eq!(refused(&open_body(&[2, 9, 1])), Err((2, 0)));
        assert_eq!(refused(&open_body(&[2, 3, 65, 4, 0])), Err((2, 0)));
        let mut short = open_body(&[2, 0]);
        short[9] = 1;
        assert_eq!(refused(&short), Err((2, 0)));
    }

    #[test]
    fn only_what_rfc_7606_says_ends_the_session() {
        let told =
            |body: &[u8]| read(&frame(UPDATE, body)).map_err(|told| (told.code, told.subcode));
        let malformed = |body: &[u8]| counts(read(&frame(UPDATE, body))) == (0, 0, true);
        assert_eq!(
            told(&[0, 9, 0, 0]),
            Err((3, 1)),
            "withdrawn routes beyond the end"
        );
        assert_eq!(
            told(&[0, 0, 0, 1]),
            Err((3, 1)),
            "attributes beyond the end"
        );
        assert_eq!(told(&[0, 2, 33, 1, 0, 0]), Err((3, 10)));
        assert_eq!(told(&[0, 0, 0, 0, 24, 10, 0]), Err((3, 10)));
        assert!(malformed(&[0, 0, 0, 4, 0x40, 1, 1, 9]), "ORIGIN 9");
        assert!(
            malformed(&[0, 0, 0, 3, 0x40, 1, 9]),
            "an attribute breaks off"
        );
        assert!(
            malformed(&[0, 0, 0, 7, 0x80, 15, 4, 0, 2, 1, 200]),
            "an IPv6 /200"
        );
        let twice = [0, 0, 0, 12, 0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1];
        assert_eq!(told(&twice), Err((3, 1)), "MP_UNREACH_NLRI twice");
    }

    #[test]
    fn refreshes_name_a_family() {
        let refresh = |body: [u8; 4]| match read(&frame(ROUTE_REFRESH, &body)) {
            Ok(Message::RouteRefresh(refresh)) => refresh.family,
            other => panic!("{other:?}"),
        };
        assert_eq!(refresh([0, 1, 0, 1]), Some(Family::Ipv4));
        assert_eq!(refresh([0, 2, 0, 1]), Some(Family::Ipv6));
        assert_eq!(refresh([0, 1, 0, 128]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u8..7, body: Vec<u8>, four_octet_as: bool) {
            let frame = frame(kind, &body);
            drop(frame_length(frame[..HEADER].try_into().unwrap()));
            drop(decode(&frame, four_octet_as));
        }
    }
}
