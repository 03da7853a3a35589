//! The UPDATEs that we send. Each is of one family, with either prefixes that come or prefixes that go
//! (RFC 7606 section 5.1).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::community::{
    Community as StandardCommunity, ExtendedCommunity, LargeCommunity, UnknownExtendedCommunity,
};
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4Path, As4PathSegment, AsPath, AsPathSegmentType, Communities,
    ExtendedCommunities, LargeCommunities, LocalPreference, MpReach, MpUnreach,
    MultiExitDiscriminator, NextHop, OnlyToCustomer, Origin as OriginCode, PathAttribute,
    PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_parse_utils::WritablePdu;

use super::{AS_TRANS, Dialect, encode};
use crate::routing::session::Route;
use crate::routing::{Community, MAX_COMMUNITIES, Origin};
use crate::service::Family;

/// RFC 4271 section 5.1.5: what internal peers take where we say nothing.
const LOCAL_PREF: u32 = 100;
/// What one segment of an AS_PATH holds (RFC 4271 section 4.3).
const SEGMENT: usize = 255;

/// So many prefixes of the family fit one UPDATE with this route's attributes: at least 44, since
/// [`MAX_COMMUNITIES`] and the longest AS_PATH leave so much of 4,096 bytes.
pub fn prefixes_per_update(dialect: Dialect, route: &Route, family: Family) -> usize {
    room(dialect, &reachable(dialect, route, family, &[]), family)
}

/// So many prefixes of the family fit one UPDATE that withdraws them.
pub fn withdrawals_per_update(dialect: Dialect, family: Family) -> usize {
    room(dialect, &unreachable(family, &[]), family)
}

/// All of one family, at most [`prefixes_per_update`] of them, and at least one. An IPv4 prefix with an IPv6
/// next hop goes by RFC 8950.
///
/// A next hop is sent alone: RFC 2545 section 3 would have a link-local one beside a global one that shares
/// a link with the peer, and routers do without. One that is link-local itself takes the global one's place,
/// 16 bytes long: that is what BIRD and FRR take from a peer that has no other.
pub fn announce(dialect: Dialect, route: &Route, prefixes: &[IpNet]) -> Vec<u8> {
    let family = prefixes.first().map_or(Family::Ipv4, Family::of_prefix);
    encode(&BgpMessage::Update(reachable(
        dialect, route, family, prefixes,
    )))
}

/// All of one family, at most [`withdrawals_per_update`] of them.
pub fn withdraw(family: Family, prefixes: &[IpNet]) -> Vec<u8> {
    encode(&BgpMessage::Update(unreachable(family, prefixes)))
}

/// RFC 4724 section 2: an UPDATE that withdraws nothing.
pub fn end_of_rib(family: Family) -> Vec<u8> {
    withdraw(family, &[])
}

/// Whether BGP carries it in a unicast family at all.
pub fn is_unicast(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => v4(prefix).is_some(),
        IpNet::V6(prefix) => v6(prefix).is_some(),
    }
}

fn room(dialect: Dialect, empty: &BgpUpdateMessage, family: Family) -> usize {
    let taken = super::HEADER + empty.len();
    // The longest that there is.
    let prefix = match family {
        Family::Ipv4 => 1 + 4,
        Family::Ipv6 => 1 + 16,
    };
    dialect.longest.saturating_sub(taken) / prefix
}

fn reachable(
    dialect: Dialect,
    route: &Route,
    family: Family,
    prefixes: &[IpNet],
) -> BgpUpdateMessage {
    // MP_REACH_NLRI stands first (RFC 7606 section 5.1), the others by their type codes.
    let mut list = Vec::new();
    let mut nlri = Vec::new();
    match (family, route.next_hop) {
        (Family::Ipv4, IpAddr::V4(_)) => nlri = v4_list(prefixes),
        (Family::Ipv4, next_hop @ IpAddr::V6(_)) => {
            list.push(PathAttributeValue::MpReach(MpReach::Ipv4Unicast {
                next_hop,
                next_hop_local: None,
                nlri: v4_list(prefixes).into(),
            }));
        }
        (Family::Ipv6, next_hop) => {
            list.push(PathAttributeValue::MpReach(MpReach::Ipv6Unicast {
                next_hop_global: match next_hop {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                },
                next_hop_local: None,
                nlri: v6_list(prefixes).into(),
            }));
        }
    }
    list.extend(attributes(dialect, route, family));
    BgpUpdateMessage::new(
        Vec::new(),
        list.into_iter().map(attribute).collect::<Vec<_>>(),
        nlri,
    )
}

fn attributes(dialect: Dialect, route: &Route, family: Family) -> Vec<PathAttributeValue> {
    let attributes = &route.attributes;
    let mut list = vec![
        PathAttributeValue::Origin(match attributes.origin {
            Origin::Igp => OriginCode::IGP,
            Origin::Egp => OriginCode::EGP,
            Origin::Incomplete => OriginCode::Incomplete,
        }),
        PathAttributeValue::AsPath(as_path(dialect, attributes.prepend)),
    ];
    if let (Family::Ipv4, IpAddr::V4(next_hop)) = (family, route.next_hop) {
        list.push(PathAttributeValue::NextHop(NextHop::new(next_hop)));
    }
    let med = MultiExitDiscriminator::new(attributes.med);
    list.push(PathAttributeValue::MultiExitDiscriminator(med));
    if dialect.internal {
        // RFC 4271 section 5.1.5: to internal peers always, to external ones never.
        let value = attributes.local_pref.unwrap_or(LOCAL_PREF);
        list.push(PathAttributeValue::LocalPreference(LocalPreference::new(
            value,
        )));
    }
    let [standard, extended, large] = communities(route);
    list.extend(standard);
    list.extend(extended);
    if !dialect.internal && !dialect.four_octet_as && u16::try_from(dialect.local_as).is_err() {
        // RFC 6793 section 4.2.2.
        let path = As4Path::new(four_octet_segments(dialect.local_as, attributes.prepend));
        list.push(PathAttributeValue::As4Path(path));
    }
    list.extend(large);
    if dialect.only_to_customer {
        let value = OnlyToCustomer::new(dialect.local_as);
        list.push(PathAttributeValue::OnlyToCustomer(value));
    }
    list
}

/// RFC 4271 section 5.1.2: our own AS, and as often more as it is to be prepended. To internal peers the path
/// is empty, prepended or not: they would take our own AS in it for a loop.
fn as_path(dialect: Dialect, prepend: u8) -> AsPath {
    if dialect.internal {
        AsPath::as4_path_segments(Vec::new())
    } else if dialect.four_octet_as {
        AsPath::as4_path_segments(four_octet_segments(dialect.local_as, prepend))
    } else {
        let asn = u16::try_from(dialect.local_as).unwrap_or(AS_TRANS);
        let segments = vec![asn; 1 + usize::from(prepend)]
            .chunks(SEGMENT)
            .map(|asns| As2PathSegment::new(AsPathSegmentType::AsSequence, asns))
            .collect::<Vec<_>>();
        AsPath::as2_path_segments(segments)
    }
}

fn four_octet_segments(asn: u32, prepend: u8) -> Vec<As4PathSegment> {
    vec![asn; 1 + usize::from(prepend)]
        .chunks(SEGMENT)
        .map(|asns| As4PathSegment::new(AsPathSegmentType::AsSequence, asns))
        .collect()
}

/// COMMUNITIES (RFC 1997), EXTENDED COMMUNITIES (RFC 4360), LARGE_COMMUNITY (RFC 8092), where there are some.
fn communities(route: &Route) -> [Option<PathAttributeValue>; 3] {
    let (mut standard, mut extended, mut large) = (Vec::new(), Vec::new(), Vec::new());
    // The configuration allows no more.
    for community in route.attributes.communities.iter().take(MAX_COMMUNITIES) {
        match *community {
            Community::Standard(value) => standard.push(StandardCommunity::new(value)),
            Community::Large(global, one, two) => {
                large.push(LargeCommunity::new(global, one, two));
            }
            Community::Extended([kind, subtype, value @ ..]) => {
                let raw = UnknownExtendedCommunity::new(kind, subtype, value);
                extended.push(ExtendedCommunity::Unknown(raw));
            }
        }
    }
    [
        (!standard.is_empty()).then(|| PathAttributeValue::Communities(Communities::new(standard))),
        (!extended.is_empty())
            .then(|| PathAttributeValue::ExtendedCommunities(ExtendedCommunities::new(extended))),
        (!large.is_empty())
            .then(|| PathAttributeValue::LargeCommunities(LargeCommunities::new(large))),
    ]
}

/// A withdrawn IPv4 prefix needs no next hop, so it goes the old way, however it was announced.
fn unreachable(family: Family, prefixes: &[IpNet]) -> BgpUpdateMessage {
    match family {
        Family::Ipv4 => BgpUpdateMessage::new(v4_list(prefixes), Vec::new(), Vec::new()),
        Family::Ipv6 => {
            let nlri = v6_list(prefixes).into();
            let list = attribute(PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast {
                nlri,
            }));
            BgpUpdateMessage::new(Vec::new(), vec![list], Vec::new())
        }
    }
}

/// With a length of two bytes where one is not enough; the two with prefixes always, so that what is around
/// the prefixes has one size.
fn attribute(value: PathAttributeValue) -> PathAttribute {
    let prefixes = matches!(
        value,
        PathAttributeValue::MpReach(_) | PathAttributeValue::MpUnreach(_)
    );
    let attribute = with_length(value, prefixes);
    // Flags, type, length.
    if prefixes || attribute.len() <= 3 + usize::from(u8::MAX) {
        return attribute;
    }
    with_length(attribute.value().clone(), true)
}

fn with_length(value: PathAttributeValue, extended: bool) -> PathAttribute {
    let optional = value.can_be_optional().unwrap_or(true);
    let transitive = value.can_be_transitive().unwrap_or(true);
    // The flags are those that the value itself asks for.
    PathAttribute::from(optional, transitive, false, extended, value)
        .expect("an attribute with its own flags")
}

fn v4(prefix: Ipv4Net) -> Option<Ipv4UnicastAddress> {
    let net = Ipv4Unicast::from_net(prefix).ok()?;
    Some(Ipv4UnicastAddress::new_no_path_id(net))
}

fn v6(prefix: Ipv6Net) -> Option<Ipv6UnicastAddress> {
    let net = Ipv6Unicast::from_net(prefix).ok()?;
    Some(Ipv6UnicastAddress::new(None, net))
}

fn v4_list(prefixes: &[IpNet]) -> Vec<Ipv4UnicastAddress> {
    let one = |prefix: &IpNet| match prefix {
        IpNet::V4(prefix) => v4(*prefix),
        IpNet::V6(_) => None,
    };
    prefixes.iter().filter_map(one).collect()
}

fn v6_list(prefixes: &[IpNet]) -> Vec<Ipv6UnicastAddress> {
    let one = |prefix: &IpNet| match prefix {
        IpNet::V6(prefix) => v6(*prefix),
        IpNet::V4(_) => None,
    };
    prefixes.iter().filter_map(one).collect()
}
