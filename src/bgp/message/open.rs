//! OPEN (RFC 4271 section 4.2) and its capabilities (RFC 5492). Whether the sender is the right one is the
//! session's to say.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::{
    BgpCapability, ExtendedNextHopEncoding, ExtendedNextHopEncodingCapability,
    FourOctetAsCapability, GracefulRestartAddressFamily, GracefulRestartCapability,
    MultiProtocolExtensionsCapability, UnrecognizedCapability,
};
use netgauze_bgp_pkt::open::{BgpOpenMessage, BgpOpenMessageParameter};
use netgauze_iana::address_family::{AddressFamily, AddressType};

use super::{AS_TRANS, Open, address_type, take_u16, unicast};
use crate::bgp::notification::Notification;
use crate::routing::Role;
use crate::service::Family;

/// The only optional parameter that is left (RFC 5492 section 4).
const CAPABILITIES: u8 = 2;
/// RFC 9234 section 4.1.
const ROLE: u8 = 9;
/// In the value's order.
const ROLES: [Role; 5] = [
    Role::Provider,
    Role::RouteServer,
    Role::RouteServerClient,
    Role::Customer,
    Role::Peer,
];

pub(super) fn encode(open: &Open) -> Vec<u8> {
    super::encode(&BgpMessage::Open(BgpOpenMessage::new(
        u16::try_from(open.asn).unwrap_or(AS_TRANS),
        open.hold_time,
        open.identifier,
        vec![BgpOpenMessageParameter::new_capabilities(capabilities(
            open,
        ))],
    )))
}

fn capabilities(open: &Open) -> Vec<BgpCapability> {
    let multiprotocol = |&family| {
        let address_type = address_type(family);
        BgpCapability::MultiProtocolExtensions(MultiProtocolExtensionsCapability::new(address_type))
    };
    let mut all: Vec<BgpCapability> = open.families.iter().map(multiprotocol).collect();
    if open.route_refresh {
        all.push(BgpCapability::RouteRefresh);
    }
    if open.extended_next_hop {
        let encoding = ExtendedNextHopEncoding::new(AddressType::Ipv4Unicast, AddressFamily::IPv6);
        let capability = ExtendedNextHopEncodingCapability::new([encoding]);
        all.push(BgpCapability::ExtendedNextHopEncoding(capability));
    }
    if open.extended_messages {
        all.push(BgpCapability::ExtendedMessage);
    }
    if let Some(role) = open.role {
        // The codec has the numbers of a draft.
        let value = ROLES.iter().position(|&one| one == role).unwrap_or(0) as u8;
        let capability = UnrecognizedCapability::new(ROLE, [value]);
        all.push(BgpCapability::Unrecognized(capability));
    }
    if let Some(families) = &open.graceful_restart {
        // No time in which routes would be kept for us.
        let family = |&f| GracefulRestartAddressFamily::new(false, address_type(f));
        let families: Vec<_> = families.iter().map(family).collect();
        let capability = GracefulRestartCapability::new(false, false, 0, families);
        all.push(BgpCapability::GracefulRestartCapability(capability));
    }
    if open.four_octet_as {
        let capability = FourOctetAsCapability::new(open.asn);
        all.push(BgpCapability::FourOctetAs(capability));
    }
    if open.enhanced_route_refresh {
        all.push(BgpCapability::EnhancedRouteRefresh);
    }
    all
}

/// RFC 4271 section 6.2: what does not depend on who the peer should be.
pub(super) fn decode(body: &[u8]) -> Result<Open, Notification> {
    let unspecific = || Notification::new(2, 0, []);
    let (fixed, parameters) = body.split_first_chunk::<9>().ok_or_else(unspecific)?;
    let [
        version,
        as_high,
        as_low,
        hold_high,
        hold_low,
        identifier @ ..,
    ] = *fixed;
    if version != 4 {
        return Err(Notification::new(2, 1, [0, 4]));
    }
    let mut open = Open {
        asn: u16::from_be_bytes([as_high, as_low]).into(),
        four_octet_as: false,
        hold_time: u16::from_be_bytes([hold_high, hold_low]),
        identifier: Ipv4Addr::from(identifier),
        families: BTreeSet::new(),
        route_refresh: false,
        enhanced_route_refresh: false,
        extended_messages: false,
        extended_next_hop: false,
        graceful_restart: None,
        role: None,
        unknown_role: false,
    };
    let mut heard = Heard::default();
    // RFC 9072 section 2: a first parameter of type 255 says that lengths have two bytes.
    let (long, length, mut parameters) = match parameters {
        [1..=255, 255, high, low, rest @ ..] => (true, u16::from_be_bytes([*high, *low]), rest),
        [length, rest @ ..] => (false, u16::from(*length), rest),
        [] => return Err(unspecific()),
    };
    if usize::from(length) != parameters.len() {
        return Err(unspecific());
    }
    while !parameters.is_empty() {
        let (kind, mut list) = tlv(&mut parameters, long).ok_or_else(unspecific)?;
        if kind != CAPABILITIES {
            return Err(Notification::new(2, 4, []));
        }
        while !list.is_empty() {
            let (code, value) = tlv(&mut list, false).ok_or_else(unspecific)?;
            capability(&mut open, &mut heard, code, value);
        }
    }
    if !heard.names_families {
        open.families.insert(Family::Ipv4);
    }
    set_role(&mut open, &heard)?;
    Ok(open)
}

/// Type, length, value; the length has two bytes if `long`.
fn tlv<'a>(from: &mut &'a [u8], long: bool) -> Option<(u8, &'a [u8])> {
    let kind = *from.split_off_first()?;
    let length = if long {
        take_u16(from)?
    } else {
        u16::from(*from.split_off_first()?)
    };
    Some((kind, from.split_off(..usize::from(length))?))
}

/// What the capabilities say that is no field of [`Open`].
#[derive(Default)]
struct Heard {
    names_families: bool,
    roles: BTreeSet<u8>,
}

/// RFC 5492 section 3: what we do not know is ignored, and so is what we make nothing of. One that comes
/// more than once with other values: each adds to it, of AS numbers the last one counts.
fn capability(open: &mut Open, heard: &mut Heard, code: u8, value: &[u8]) {
    match (code, value) {
        // RFC 4760 section 8.
        (1, &[high, low, _, safi]) => {
            heard.names_families = true;
            open.families.extend(unicast([high, low], safi));
        }
        (2, []) => open.route_refresh = true,
        // RFC 8950 section 4: address family, subsequent address family, the next hop's family; 16 bits each.
        (5, encodings) if encodings.len() % 6 == 0 => {
            open.extended_next_hop |= encodings
                .chunks_exact(6)
                .any(|one| one == [0, 1, 0, 1, 0, 2]);
        }
        (6, []) => open.extended_messages = true,
        (ROLE, &[role]) => {
            heard.roles.insert(role);
        }
        // RFC 4724 section 3: flags and a time, then address family, subsequent address family and flags of each.
        // Of several the last one counts.
        (64, [_, _, families @ ..]) if families.len() % 4 == 0 => {
            let (families, _) = families.as_chunks();
            let families = families
                .iter()
                .filter_map(|&[high, low, safi, _]| unicast([high, low], safi));
            open.graceful_restart = Some(families.collect());
        }
        // RFC 6793 section 4.1.
        (65, &[a, b, c, d]) => {
            open.asn = u32::from_be_bytes([a, b, c, d]);
            open.four_octet_as = true;
        }
        (70, []) => open.enhanced_route_refresh = true,
        _ => {}
    }
}

/// RFC 9234 section 4.2: several roles are one if they are the same, and a mismatch if not.
fn set_role(open: &mut Open, heard: &Heard) -> Result<(), Notification> {
    if heard.roles.len() > 1 {
        return Err(Notification::new(2, 11, []));
    }
    if let Some(role) = heard.roles.first() {
        open.role = ROLES.get(usize::from(*role)).copied();
        open.unknown_role = open.role.is_none();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parameters: &[u8]) -> Vec<u8> {
        let mut body = vec![4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, parameters.len() as u8];
        body.extend(parameters);
        body
    }

    fn accepted(parameters: &[u8]) -> Open {
        decode(&body(parameters)).unwrap()
    }

    fn refused(body: &[u8]) -> (u8, u8) {
        let told = decode(body).unwrap_err();
        (told.code, told.subcode)
    }

    #[test]
    fn without_a_capability_it_is_ipv4_and_two_byte_as() {
        let plain = accepted(&[]);
        assert_eq!(
            (plain.asn, plain.four_octet_as, plain.hold_time),
            (65001, false, 90)
        );
        assert_eq!(plain.families, BTreeSet::from([Family::Ipv4]));
        assert!(!plain.route_refresh && !plain.extended_messages && plain.role.is_none());
    }

    #[test]
    fn what_we_do_not_know_is_ignored() {
        // Capability 200, AFI 16388, a graceful restart of half a family.
        let odd = accepted(&[2, 15, 200, 1, 9, 1, 4, 0x40, 4, 0, 71, 64, 4, 0, 1, 0, 1]);
        assert_eq!((odd.families, odd.graceful_restart), ([].into(), None));
        // Route refresh, role, extended message with values that they cannot have.
        let odd = accepted(&[2, 10, 2, 1, 0, 9, 2, 0, 0, 6, 1, 1]);
        assert!(!odd.route_refresh && !odd.extended_messages && odd.role.is_none());
    }

    /// RFC 5492 section 4: one parameter with all, or one parameter each.
    #[test]
    fn capabilities_come_together_or_apart() {
        let together = accepted(&[2, 12, 1, 4, 0, 2, 0, 1, 65, 4, 0, 1, 0, 0]);
        let apart = accepted(&[2, 6, 1, 4, 0, 2, 0, 1, 2, 6, 65, 4, 0, 1, 0, 0]);
        assert_eq!(together, apart);
        assert_eq!(
            (apart.asn, apart.families),
            (65536, BTreeSet::from([Family::Ipv6]))
        );
    }

    /// RFC 9072 section 2, in the long form though it is short, and with more than 255 bytes.
    #[test]
    fn parameters_with_long_lengths() {
        let extended = |first: u8, parameters: &[u8]| {
            let mut body = body(&[]);
            body.truncate(9);
            body.extend([first, 255]);
            body.extend((parameters.len() as u16).to_be_bytes());
            body.extend(parameters);
            body
        };
        let short = [2, 0, 6, 1, 4, 0, 2, 0, 1];
        // The first length is to be ignored, but 0 says that there is no parameter.
        for first in [255, 1] {
            let open = decode(&extended(first, &short)).unwrap();
            assert_eq!(open.families, BTreeSet::from([Family::Ipv6]));
        }
        assert_eq!(refused(&extended(0, &short)), (2, 0));
        let mut long = vec![2, 0x01, 0x02];
        long.extend([200, 100].into_iter().chain([7; 100]));
        long.extend([201, 148].into_iter().chain([7; 148]));
        long.extend([65, 4, 0, 1, 0, 0]);
        assert_eq!(decode(&extended(255, &long)).unwrap().asn, 65536);
        assert_eq!(refused(&extended(255, &long[..200])), (2, 0));
    }

    #[test]
    fn refused_for_what_they_say() {
        let mut version = body(&[]);
        version[0] = 3;
        assert_eq!(decode(&version), Err(Notification::new(2, 1, [0, 4])));
        assert_eq!(refused(&body(&[1, 0])), (2, 4), "authentication");
        assert_eq!(refused(&body(&[2, 9, 1])), (2, 0), "a parameter breaks off");
        assert_eq!(
            refused(&body(&[2, 3, 65, 4, 0])),
            (2, 0),
            "a capability does"
        );
        let mut short = body(&[2, 0]);
        short[9] = 1;
        assert_eq!(refused(&short), (2, 0), "more than the length says");
        assert_eq!(refused(&body(&[])[..9]), (2, 0));
    }

    #[test]
    fn roles() {
        let role = |value| accepted(&[2, 3, 9, 1, value]);
        // RFC 9234 section 4.1, table 1.
        assert_eq!(
            [0, 1, 2, 3, 4].map(|value| role(value).role),
            ROLES.map(Some)
        );
        assert!(role(5).unknown_role && role(5).role.is_none());
        assert_eq!(
            accepted(&[2, 6, 9, 1, 3, 9, 1, 3]).role,
            Some(Role::Customer)
        );
        assert_eq!(refused(&body(&[2, 6, 9, 1, 3, 9, 1, 4])), (2, 11));
        assert_eq!(
            refused(&body(&[2, 3, 9, 1, 3, 2, 3, 9, 1, 200])),
            (2, 11),
            "apart"
        );
    }

    #[test]
    fn families_of_a_graceful_restart() {
        let restart = |capabilities: &[u8]| {
            let length = capabilities.len() as u8;
            accepted(&[&[2, length], capabilities].concat()).graceful_restart
        };
        assert_eq!(restart(&[]), None);
        assert_eq!(restart(&[64, 0]), None, "it breaks off");
        assert_eq!(restart(&[64, 2, 0xc0, 120]), Some([].into()));
        let labelled_and_both = [64, 14, 0x80, 90, 0, 1, 4, 0x80, 0, 2, 1, 0, 0, 1, 1, 0x80];
        let both = [Family::Ipv4, Family::Ipv6].into();
        assert_eq!(restart(&labelled_and_both), Some(both));
        let twice = [&labelled_and_both[..], &[64, 2, 0, 0]].concat();
        assert_eq!(restart(&twice), Some([].into()), "the last one counts");
    }

    #[test]
    fn next_hop_encodings() {
        let next_hop = |value: &[u8]| {
            let length = value.len() as u8;
            accepted(&[&[2, length + 2, 5, length], value].concat()).extended_next_hop
        };
        assert!(next_hop(&[0, 1, 0, 1, 0, 2]));
        assert!(
            next_hop(&[0, 1, 0, 128, 0, 2, 0, 1, 0, 1, 0, 2]),
            "the second"
        );
        assert!(!next_hop(&[0, 1, 0, 128, 0, 2]), "of VPNs only");
        assert!(!next_hop(&[0, 1, 0, 1, 0, 2, 0]), "breaks off");
        assert!(!next_hop(&[]));
    }
}
