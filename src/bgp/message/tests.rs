//! What we send, read back; one message of each kind byte by byte; RFC 7606 rule by rule.

use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;

use super::*;
use crate::routing::session::Route;
use crate::routing::{Attributes, MAX_COMMUNITIES, Origin};

const EXTERNAL: Sender = Sender {
    internal: false,
    four_octet_as: true,
};
const INTERNAL: Sender = Sender {
    internal: true,
    ..EXTERNAL
};
/// A speaker of two-byte AS numbers.
const OLD: Sender = Sender {
    four_octet_as: false,
    ..EXTERNAL
};

const DIALECT: Dialect = Dialect {
    local_as: 4_200_000_001,
    internal: false,
    four_octet_as: true,
    longest: LONGEST,
    only_to_customer: false,
};

fn read(frame: &[u8], sender: Sender) -> Result<Message, Notification> {
    let header = frame[..HEADER].try_into().unwrap();
    assert_eq!(frame_length(header, LONGEST_EXTENDED)?, frame.len());
    decode(frame, sender)
}

fn read_update(frame: &[u8], sender: Sender) -> Update {
    match read(frame, sender) {
        Ok(Message::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

/// A frame of this type around this body.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 16];
    frame.extend(((HEADER + body.len()) as u16).to_be_bytes());
    frame.push(kind);
    frame.extend(body);
    frame
}

fn update_frame(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |field: &[u8]| (field.len() as u16).to_be_bytes();
    let body = [
        &length(withdrawn),
        withdrawn,
        &length(attributes),
        attributes,
        nlri,
    ];
    frame(UPDATE, &body.concat())
}

fn many(family: Family, count: usize) -> Vec<IpNet> {
    let one = |n: usize| match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n as u32)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n as u128)),
    };
    (1..=count).map(|n| one(n).into()).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn route(next_hop: IpAddr, attributes: Attributes) -> Route {
    Route {
        next_hop,
        attributes: Arc::new(attributes),
        inside: None,
    }
}

mod golden {
    use super::*;

    const MARKER: [u8; 16] = [0xff; 16];

    fn check(frame: &[u8], rest: &[u8]) {
        assert_eq!(frame, [&MARKER, rest].concat());
    }

    /// RFC 4271 section 4.2, RFC 5492 section 4, and each capability's RFC.
    #[test]
    fn open_with_all_capabilities() {
        let all = Open {
            asn: 4_200_000_001,
            four_octet_as: true,
            hold_time: 30,
            identifier: Ipv4Addr::new(10, 64, 0, 11),
            families: [Family::Ipv4, Family::Ipv6].into(),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: true,
            extended_next_hop: true,
            graceful_restart: Some([].into()),
            role: Some(Role::Customer),
            unknown_role: false,
        };
        #[rustfmt::skip]
        let bytes = [
            0, 70, 1, // length, type
            4, 0x5b, 0xa0, 0, 30, 10, 64, 0, 11, 41, // AS_TRANS
            2, 39, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, // RFC 4760
            2, 0, // RFC 2918
            5, 6, 0, 1, 0, 1, 0, 2, // RFC 8950
            6, 0, // RFC 8654
            9, 1, 3, // RFC 9234
            64, 2, 0, 0, // RFC 4724
            65, 4, 0xfa, 0x56, 0xea, 0x01, // RFC 6793
            70, 0, // RFC 7313
        ];
        check(&open(&all), &bytes);
        assert_eq!(read(&open(&all), EXTERNAL), Ok(Message::Open(all)));
    }

    #[test]
    fn open_without_any() {
        let none = Open {
            asn: 65001,
            four_octet_as: false,
            hold_time: 90,
            identifier: Ipv4Addr::new(10, 0, 0, 1),
            families: BTreeSet::new(),
            route_refresh: false,
            enhanced_route_refresh: false,
            extended_messages: false,
            extended_next_hop: false,
            graceful_restart: None,
            role: None,
            unknown_role: false,
        };
        let bytes = [0, 31, 1, 4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1, 2, 2, 0];
        check(&open(&none), &bytes);
        let families = [Family::Ipv4].into();
        let heard = Open { families, ..none };
        assert_eq!(read(&open(&heard), EXTERNAL), Ok(Message::Open(heard)));
    }

    #[test]
    fn keepalives() {
        check(&keepalive(), &[0, 19, 4]);
        assert_eq!(read(&keepalive(), EXTERNAL), Ok(Message::Keepalive));
    }

    #[test]
    fn notifications() {
        let cease = Notification::new(6, 2, *b"\x02hi");
        check(&notification(&cease), &[0, 24, 3, 6, 2, 2, b'h', b'i']);
        assert_eq!(
            read(&notification(&cease), EXTERNAL),
            Ok(Message::Notification(cease))
        );
        let long = notification(&Notification::new(3, 1, vec![7; 70_000]));
        assert_eq!(long.len(), LONGEST);
    }

    /// RFC 7313 section 3.2.
    #[test]
    fn refreshes() {
        check(&begin_refresh(Family::Ipv4), &[0, 23, 5, 0, 1, 1, 1]);
        check(&end_refresh(Family::Ipv6), &[0, 23, 5, 0, 2, 2, 1]);
    }

    /// RFC 4271 section 4.3, with each attribute of ours.
    #[test]
    fn an_update_to_an_external_peer() {
        let attributes = Attributes {
            origin: Origin::Incomplete,
            prepend: 1,
            med: 50,
            local_pref: Some(200),
            communities: [
                Community::Standard(0xffff_0000),
                Community::Large(64600, 1, 2),
                Community::Extended([0, 2, 0xfc, 0x58, 0, 0, 0, 100]),
            ]
            .into(),
        };
        let dialect = Dialect {
            only_to_customer: true,
            ..DIALECT
        };
        let prefixes = [net("192.0.2.1/32")];
        let frame = announce(dialect, &route([10, 0, 0, 1].into(), attributes), &prefixes);
        #[rustfmt::skip]
        let bytes = [
            0, 99, 2, 0, 0, 0, 71,
            0x40, 1, 1, 2,
            0x40, 2, 10, 2, 2, 0xfa, 0x56, 0xea, 0x01, 0xfa, 0x56, 0xea, 0x01,
            0x40, 3, 4, 10, 0, 0, 1,
            0x80, 4, 4, 0, 0, 0, 50,
            0xc0, 8, 4, 0xff, 0xff, 0, 0,
            0xc0, 16, 8, 0, 2, 0xfc, 0x58, 0, 0, 0, 100,
            0xc0, 32, 12, 0, 0, 0xfc, 0x58, 0, 0, 0, 1, 0, 0, 0, 2,
            0xc0, 35, 4, 0xfa, 0x56, 0xea, 0x01,
            32, 192, 0, 2, 1,
        ];
        check(&frame, &bytes);
    }

    /// RFC 4760 section 3, RFC 8950 section 3.
    #[test]
    fn an_update_to_an_internal_peer() {
        let dialect = Dialect {
            internal: true,
            ..DIALECT
        };
        let next_hop = "fe80::1".parse().unwrap();
        let prepended = Attributes {
            prepend: 3,
            ..Attributes::default()
        };
        let announced =
            |prefix| announce(dialect, &route(next_hop, prepended.clone()), &[net(prefix)]);
        let next_hop = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let rest = [
            0x40, 1, 1, 0, 0x40, 2, 0, 0x80, 4, 4, 0, 0, 0, 0, 0x40, 5, 4, 0, 0, 0, 100,
        ];
        let v4 = [
            &[0, 74, 2, 0, 0, 0, 51, 0x90, 14, 0, 26, 0, 1, 1, 16][..],
            &next_hop,
            &[0, 32, 192, 0, 2, 1],
            &rest,
        ];
        check(&announced("192.0.2.1/32"), &v4.concat());
        let v6 = [
            &[0, 86, 2, 0, 0, 0, 63, 0x90, 14, 0, 38, 0, 2, 1, 16][..],
            &next_hop,
            &[
                0, 128, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            ],
            &rest,
        ];
        check(&announced("2001:db8::1/128"), &v6.concat());
    }

    /// RFC 6793 section 4.2.2.
    #[test]
    fn an_update_to_a_peer_of_two_byte_as_numbers() {
        let dialect = Dialect {
            four_octet_as: false,
            ..DIALECT
        };
        let plain = route([10, 0, 0, 1].into(), Attributes::default());
        let frame = announce(dialect, &plain, &[net("192.0.2.1/32")]);
        #[rustfmt::skip]
        let bytes = [
            0, 62, 2, 0, 0, 0, 34,
            0x40, 1, 1, 0,
            0x40, 2, 4, 2, 1, 0x5b, 0xa0,
            0x40, 3, 4, 10, 0, 0, 1,
            0x80, 4, 4, 0, 0, 0, 0,
            0xc0, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0x01,
            32, 192, 0, 2, 1,
        ];
        check(&frame, &bytes[..]);
        let short = Dialect {
            local_as: 64600,
            ..dialect
        };
        let frame = announce(short, &plain, &[net("192.0.2.1/32")]);
        assert_eq!(read_update(&frame, OLD).attributes.as_path, "64600");
        assert_eq!(frame.len(), 62 - 9, "no AS4_PATH");
    }

    /// RFC 4271 section 4.3, RFC 4760 section 4, RFC 4724 section 2.
    #[test]
    fn withdrawals_and_the_end_of_rib() {
        let v4 = withdraw(Family::Ipv4, &[net("192.0.2.1/32")]);
        check(&v4, &[0, 28, 2, 0, 5, 32, 192, 0, 2, 1, 0, 0]);
        let v6 = withdraw(Family::Ipv6, &[net("2001:db8::1/128")]);
        let bytes = [
            &[0, 47, 2, 0, 0, 0, 24, 0x90, 15, 0, 20, 0, 2, 1, 128][..],
            &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ];
        check(&v6, &bytes.concat());
        // Of a shorter one only the bytes that it has.
        let v4 = withdraw(Family::Ipv4, &[net("192.0.2.0/24"), net("192.0.2.0/31")]);
        check(
            &v4,
            &[0, 32, 2, 0, 9, 24, 192, 0, 2, 31, 192, 0, 2, 0, 0, 0],
        );
        let v6 = withdraw(Family::Ipv6, &[net("2001:db8:1::/48")]);
        let bytes = [
            &[0, 37, 2, 0, 0, 0, 14, 0x90, 15, 0, 10, 0, 2, 1, 48][..],
            &[0x20, 1, 0xd, 0xb8, 0, 1],
        ];
        check(&v6, &bytes.concat());
        check(&end_of_rib(Family::Ipv4), &[0, 23, 2, 0, 0, 0, 0]);
        let v6 = end_of_rib(Family::Ipv6);
        check(&v6, &[0, 30, 2, 0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1]);
        for family in [Family::Ipv4, Family::Ipv6] {
            let marked = Update {
                end_of_rib: Some(family),
                ..Update::default()
            };
            assert_eq!(read_update(&end_of_rib(family), EXTERNAL), marked);
        }
        // A withdrawal is none, nor is one of which a part cannot be read.
        for frame in [
            v4,
            withdraw(Family::Ipv6, &[net("2001:db8::1/128")]),
            update_frame(&[], &[0x80, 15, 4, 0, 2, 1, 200], &[]),
        ] {
            assert_eq!(read_update(&frame, EXTERNAL).end_of_rib, None);
        }
    }
}

#[test]
fn headers() {
    let good: [u8; HEADER] = keepalive().try_into().unwrap();
    let with = |at: usize, byte: u8| {
        let mut header = good;
        header[at] = byte;
        frame_length(&header, LONGEST).map_err(|told| (told.code, told.subcode, told.data))
    };
    assert_eq!(with(3, 0xfe), Err((1, 1, vec![])));
    assert_eq!(with(17, 18), Err((1, 2, vec![0, 18])));
    let longer = with(17, 20);
    assert_eq!(longer, Err((1, 2, vec![0, 20])), "a KEEPALIVE has no body");
    assert_eq!(with(18, 1), Err((1, 2, vec![0, 19])), "an OPEN has one");
    assert_eq!(with(18, 6), Err((1, 3, vec![6])));
    // RFC 8654 section 4: all but OPEN and KEEPALIVE may be long, once that is agreed on.
    let long = |kind: u8, longest: usize| {
        let mut header = good;
        header[16..19].copy_from_slice(&[0x10, 0x01, kind]);
        frame_length(&header, longest)
    };
    let refused = Err(Notification::new(1, 2, [0x10, 0x01]));
    for kind in [OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH] {
        assert_eq!(long(kind, LONGEST), refused);
        let taken = match kind {
            OPEN | KEEPALIVE => refused.clone(),
            _ => Ok(4097),
        };
        assert_eq!(long(kind, LONGEST_EXTENDED), taken);
    }
}

#[test]
fn refreshes_of_others() {
    let refresh = |body: &[u8]| read(&frame(ROUTE_REFRESH, body), EXTERNAL);
    let of = |family, kind| Ok(Message::RouteRefresh(Refresh { family, kind }));
    let (v4, v6) = (Some(Family::Ipv4), Some(Family::Ipv6));
    assert_eq!(refresh(&[0, 1, 0, 1]), of(v4, RefreshKind::Request));
    assert_eq!(refresh(&[0, 2, 1, 1]), of(v6, RefreshKind::Begin));
    assert_eq!(refresh(&[0, 2, 2, 1]), of(v6, RefreshKind::End));
    assert_eq!(refresh(&[0, 2, 3, 1]), of(v6, RefreshKind::Other(3)));
    assert_eq!(refresh(&[0, 1, 0, 128]), of(None, RefreshKind::Request));
    // With an outbound route filter (RFC 5291) that nobody asked for.
    assert_eq!(
        refresh(&[0, 1, 0, 1, 1, 64, 0, 0]),
        of(v4, RefreshKind::Request)
    );
    // RFC 7313 section 5: with all of the message.
    for body in [&[0, 1, 0][..], &[], &[0, 1, 1, 1, 0], &[0, 1, 2, 1, 0]] {
        let told = Notification::new(7, 1, frame(ROUTE_REFRESH, body));
        assert_eq!(refresh(body), Err(told));
    }
}

/// However much there is to say, a message fits and is full.
#[test]
fn full_updates_fit() {
    let fullest = Attributes {
        prepend: u8::MAX,
        communities: (0..1000).map(|n| Community::Large(64600, n, n)).collect(),
        ..Attributes::default()
    };
    let hops: [IpAddr; 2] = [[10, 0, 0, 1].into(), "2001:db8::b".parse().unwrap()];
    for (attributes, hop) in [Attributes::default(), fullest]
        .into_iter()
        .flat_map(|attributes| hops.map(|hop| (attributes.clone(), hop)))
    {
        for longest in [LONGEST, LONGEST_EXTENDED] {
            for four_octet_as in [true, false] {
                let dialect = Dialect {
                    longest,
                    four_octet_as,
                    only_to_customer: true,
                    ..DIALECT
                };
                check_full(dialect, &route(hop, attributes.clone()));
            }
        }
    }
}

fn check_full(dialect: Dialect, route: &Route) {
    let sender = Sender {
        internal: dialect.internal,
        four_octet_as: dialect.four_octet_as,
    };
    for (family, size) in [(Family::Ipv4, 5), (Family::Ipv6, 17)] {
        let full: RangeInclusive<usize> = dialect.longest - size + 1..=dialect.longest;
        let count = prefixes_per_update(dialect, route, family);
        assert!(count >= 44, "{count}");
        let prefixes = many(family, count);
        let frame = announce(dialect, route, &prefixes);
        assert!(full.contains(&frame.len()), "{}", frame.len());
        let update = read_update(&frame, sender);
        assert_eq!((update.fault, update.announced), (None, prefixes));
        let communities = update.attributes.communities.len();
        let all = route.attributes.communities.len();
        assert_eq!(communities, all.min(MAX_COMMUNITIES));

        let prefixes = many(family, withdrawals_per_update(dialect, family));
        let frame = withdraw(family, &prefixes);
        assert!(full.contains(&frame.len()), "{}", frame.len());
        assert_eq!(read_update(&frame, sender).withdrawn, prefixes);
    }
}

/// A million prefixes as a router sends them, 700 a message, are a second's work even for a debug build.
#[test]
fn a_whole_table_reads_fast() {
    let attributes = Attributes {
        communities: (0..20).map(Community::Standard).collect(),
        ..Attributes::default()
    };
    let route = route([10, 0, 0, 1].into(), attributes);
    let frame = announce(DIALECT, &route, &many(Family::Ipv4, 700));
    let begin = tokio::time::Instant::now();
    let read: usize = (0..1430)
        .map(|_| read_update(&frame, EXTERNAL).announced.len())
        .sum();
    assert_eq!(read, 1_001_000);
    let took = begin.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}

mod rfc_7606 {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Outcome {
        Fine,
        /// The attribute counts for nothing.
        Discard,
        Withdraw,
        Disable(Family),
        /// The subcode.
        Reset(u8),
    }
    use Outcome::{Disable, Discard, Fine, Reset, Withdraw};

    const V4: &[u8] = &[24, 192, 0, 2];
    const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
    const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
    const OLD_PATH: &[u8] = &[0x40, 2, 4, 2, 1, 0xfd, 0xe9];
    const HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 1];

    /// ORIGIN, AS_PATH, NEXT_HOP, those of them that this is not itself, and this; with an IPv4 prefix.
    fn with(attribute: &[u8]) -> Vec<u8> {
        list_with(attribute, PATH)
    }

    fn old_with(attribute: &[u8]) -> Vec<u8> {
        list_with(attribute, OLD_PATH)
    }

    fn list_with(attribute: &[u8], path: &[u8]) -> Vec<u8> {
        let others = [ORIGIN, path, HOP]
            .into_iter()
            .filter(|one| one[1] != attribute[1]);
        let list: Vec<&[u8]> = others.chain([attribute]).collect();
        update_frame(&[], &list.concat(), V4)
    }

    fn all(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
        update_frame(&[], &attributes.concat(), nlri)
    }

    /// MP_REACH_NLRI of this family with a next hop of so many bytes.
    fn reach(afi: u8, next_hop: usize, nlri: &[u8]) -> Vec<u8> {
        reach_by(0x20, afi, next_hop, nlri)
    }

    /// The next hop is of such bytes.
    fn reach_by(byte: u8, afi: u8, next_hop: usize, nlri: &[u8]) -> Vec<u8> {
        let mut value = vec![0, afi, 1, next_hop as u8];
        value.extend([byte; 64].iter().take(next_hop));
        value.push(0);
        value.extend(nlri);
        [&[0x80, 14, value.len() as u8], &value[..]].concat()
    }

    fn check(rule: &str, frame: &[u8], sender: Sender, expected: Outcome) {
        let (outcome, update) = match read(frame, sender) {
            Err(told) => {
                assert_eq!(told.code, 3, "{rule}");
                (Reset(told.subcode), Update::default())
            }
            Ok(Message::Update(update)) => {
                let disabled = update.disabled.first().copied();
                let outcome = match (&update.fault, disabled, update.announced.len()) {
                    (None, None, _) => Fine,
                    (Some(_), Some(family), _) => Disable(family),
                    (Some(_), None, 0) => Withdraw,
                    (Some(_), None, _) => Discard,
                    (None, Some(_), _) => panic!("{rule}: disabled without a word"),
                };
                (outcome, update)
            }
            other => panic!("{rule}: {other:?}"),
        };
        assert_eq!(outcome, expected, "{rule}: {:?}", update.fault);
        match outcome {
            Withdraw => assert_eq!(update.attributes, Received::default(), "{rule}"),
            Fine | Discard | Disable(_) | Reset(_) => {}
        }
    }

    /// The rules for single attributes, in an UPDATE that announces an IPv4 prefix.
    #[test]
    fn attributes() {
        let confederation = &[0x40, 2, 12, 3, 1, 0, 0, 0xfd, 0xe8, 2, 1, 0, 0, 0xfd, 0xe9];
        #[rustfmt::skip]
        let rules: &[(&str, &[u8], Sender, Outcome)] = &[
            ("3 c: ORIGIN optional", &[0xc0, 1, 1, 0], EXTERNAL, Withdraw),
            ("3 c: MED transitive", &[0xc0, 4, 4, 0, 0, 0, 1], EXTERNAL, Withdraw),
            ("3 c: COMMUNITIES not transitive", &[0x80, 8, 4, 0, 0, 0, 1], EXTERNAL, Withdraw),
            ("3 c: the Partial bit is no conflict", &[0xe0, 8, 4, 0, 0, 0, 1], EXTERNAL, Fine),
            ("3 c: a well-known one that nobody knows", &[0x40, 99, 1, 0], EXTERNAL, Withdraw),
            ("an unknown optional one", &[0xc0, 99, 1, 0], EXTERNAL, Fine),
            ("an unknown optional one, empty", &[0x80, 99, 0], EXTERNAL, Fine),
            ("an extended length that is short", &[0x50, 1, 0, 1, 0], EXTERNAL, Fine),
            ("3 g: twice, the first one counts", &[0xc0, 8, 4, 0, 0, 0, 1, 0xc0, 8, 3, 0, 0, 0], EXTERNAL, Discard),
            ("3 g: an unknown one twice", &[0xc0, 99, 0, 0xc0, 99, 0], EXTERNAL, Discard),
            ("4: overrun", &[0xc0, 99, 9, 0], EXTERNAL, Withdraw),
            ("4: underrun", &[0xc0, 99], EXTERNAL, Withdraw),
            ("4: underrun of an extended length", &[0xd0, 99, 0], EXTERNAL, Withdraw),
            ("7.1: ORIGIN of two bytes", &[0x40, 1, 2, 0, 0], EXTERNAL, Withdraw),
            ("7.1, 4: ORIGIN of none", &[0x40, 1, 0], EXTERNAL, Withdraw),
            ("7.1: ORIGIN 3", &[0x40, 1, 1, 3], EXTERNAL, Withdraw),
            ("7.2: AS_PATH empty", &[0x40, 2, 0], EXTERNAL, Fine),
            ("7.2: a segment of type 5", &[0x40, 2, 6, 5, 1, 0, 0, 0, 1], EXTERNAL, Withdraw),
            ("7.2: a segment overruns", &[0x40, 2, 6, 2, 2, 0, 0, 0, 1], EXTERNAL, Withdraw),
            ("7.2: a single byte remains", &[0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], EXTERNAL, Withdraw),
            ("7.2: a segment of no AS", &[0x40, 2, 2, 2, 0], EXTERNAL, Withdraw),
            ("RFC 7607: AS 0", &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], EXTERNAL, Withdraw),
            ("RFC 5065 5: a confederation, external", confederation, EXTERNAL, Withdraw),
            ("RFC 5065 5: a confederation, internal", confederation, INTERNAL, Fine),
            ("7.3: NEXT_HOP of 16 bytes", &[0x40, 3, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], EXTERNAL, Withdraw),
            ("3 e: NEXT_HOP 0.0.0.0", &[0x40, 3, 4, 0, 0, 0, 0], EXTERNAL, Withdraw),
            ("3 e: NEXT_HOP multicast", &[0x40, 3, 4, 224, 0, 0, 1], EXTERNAL, Withdraw),
            ("7.4: MED of three bytes", &[0x80, 4, 3, 0, 0, 0], EXTERNAL, Withdraw),
            ("7.5: LOCAL_PREF, external", &[0x40, 5, 4, 0, 0, 0, 1], EXTERNAL, Discard),
            ("7.5: LOCAL_PREF malformed, external", &[0x40, 5, 1, 0], EXTERNAL, Discard),
            ("7.5: LOCAL_PREF, internal", &[0x40, 5, 4, 0, 0, 0, 1], INTERNAL, Fine),
            ("7.5: LOCAL_PREF malformed, internal", &[0x40, 5, 1, 0], INTERNAL, Withdraw),
            ("7.6: ATOMIC_AGGREGATE", &[0x40, 6, 0], EXTERNAL, Fine),
            ("7.6: ATOMIC_AGGREGATE of a byte", &[0x40, 6, 1, 0], EXTERNAL, Discard),
            ("3 f: ATOMIC_AGGREGATE optional", &[0xc0, 6, 0], EXTERNAL, Discard),
            ("7.7: AGGREGATOR", &[0xc0, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1], EXTERNAL, Fine),
            ("7.7: AGGREGATOR of two-byte AS", &[0xc0, 7, 6, 0, 1, 10, 0, 0, 1], EXTERNAL, Discard),
            ("RFC 7607: AGGREGATOR of AS 0", &[0xc0, 7, 8, 0, 0, 0, 0, 10, 0, 0, 1], EXTERNAL, Discard),
            ("7.8: COMMUNITIES of 5 bytes", &[0xc0, 8, 5, 0, 0, 0, 0, 0], EXTERNAL, Withdraw),
            ("7.8: COMMUNITIES of none", &[0xc0, 8, 0], EXTERNAL, Withdraw),
            ("7.9: ORIGINATOR_ID, external", &[0x80, 9, 4, 10, 0, 0, 1], EXTERNAL, Discard),
            ("7.9: ORIGINATOR_ID, internal", &[0x80, 9, 4, 10, 0, 0, 1], INTERNAL, Fine),
            ("7.9: ORIGINATOR_ID malformed, internal", &[0x80, 9, 5, 10, 0, 0, 1, 1], INTERNAL, Withdraw),
            ("7.10: CLUSTER_LIST, external", &[0x80, 10, 4, 10, 0, 0, 1], EXTERNAL, Discard),
            ("7.10: CLUSTER_LIST, internal", &[0x80, 10, 4, 10, 0, 0, 1], INTERNAL, Fine),
            ("7.10: CLUSTER_LIST of none, internal", &[0x80, 10, 0], INTERNAL, Withdraw),
            ("7.14: EXTENDED COMMUNITIES of 7 bytes", &[0xc0, 16, 7, 0, 2, 0, 0, 0, 0, 0], EXTERNAL, Withdraw),
            ("7.14: of an unknown type", &[0xc0, 16, 8, 99, 99, 0, 0, 0, 0, 0, 0], EXTERNAL, Fine),
            ("7.15: IPv6 EXTENDED COMMUNITIES of 8 bytes", &[0xc0, 25, 8, 0, 2, 0, 0, 0, 0, 0, 0], EXTERNAL, Withdraw),
            ("RFC 8092 6: LARGE_COMMUNITY of 8 bytes", &[0xc0, 32, 8, 0, 0, 0, 1, 0, 0, 0, 1], EXTERNAL, Withdraw),
            ("RFC 9234 5: ONLY_TO_CUSTOMER", &[0xc0, 35, 4, 0, 0, 0xfd, 0xe9], EXTERNAL, Fine),
            ("RFC 9234 5: ONLY_TO_CUSTOMER of 2 bytes", &[0xc0, 35, 2, 0xfd, 0xe9], EXTERNAL, Withdraw),
            ("RFC 6793 4.1: AS4_PATH of a new speaker", &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0], EXTERNAL, Discard),
            ("3 h: the stronger one, discard first", &[0x40, 6, 1, 0, 0x40, 99, 0], EXTERNAL, Withdraw),
            ("3 h: the stronger one, discard last", &[0x40, 99, 0, 0x40, 6, 1, 0], EXTERNAL, Withdraw),
        ];
        for (rule, attribute, sender, outcome) in rules {
            check(rule, &with(attribute), *sender, *outcome);
        }
        #[rustfmt::skip]
        let rules: &[(&str, &[u8], Outcome)] = &[
            ("7.7: AGGREGATOR", &[0xc0, 7, 6, 0, 1, 10, 0, 0, 1], Fine),
            ("RFC 6793 6: AS4_PATH", &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0], Fine),
            ("RFC 6793 6: AS4_PATH empty", &[0xc0, 17, 0], Discard),
            ("RFC 6793 6: AS4_PATH breaks off", &[0xc0, 17, 5, 2, 1, 0, 1, 0], Discard),
            ("RFC 6793 6: AS4_PATH of an unknown segment", &[0xc0, 17, 6, 9, 1, 0, 1, 0, 0], Discard),
            ("RFC 6793 6: AS4_AGGREGATOR", &[0xc0, 18, 8, 0, 1, 0, 0, 10, 0, 0, 1], Fine),
            ("RFC 6793 6: AS4_AGGREGATOR of 6 bytes", &[0xc0, 18, 6, 0, 1, 10, 0, 0, 1], Discard),
            ("RFC 7607: AS4_AGGREGATOR of AS 0", &[0xc0, 18, 8, 0, 0, 0, 0, 10, 0, 0, 1], Discard),
        ];
        for (rule, attribute, outcome) in rules {
            check(rule, &old_with(attribute), OLD, *outcome);
        }
    }

    /// The rules for whole messages.
    #[test]
    fn messages() {
        let v6 = &[64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0];
        let unreach = &[0x80, 15, 5, 0, 2, 1, 8, 0x20];
        let ours: &[&[u8]] = &[ORIGIN, PATH];
        let reaching = |attribute: &[u8]| all(&[ORIGIN, PATH, attribute], &[]);
        let with_v4 = |attribute: &[u8]| all(&[attribute, ORIGIN, PATH, HOP], V4);
        let ipv6 = Disable(Family::Ipv6);
        #[rustfmt::skip]
        let rules: &[(&str, Vec<u8>, Outcome)] = &[
            ("3 b: withdrawn routes beyond the end", frame(UPDATE, &[0, 9, 0, 0]), Reset(1)),
            ("3 b: attributes beyond the end", frame(UPDATE, &[0, 0, 0, 1]), Reset(1)),
            ("3 d: no ORIGIN", all(&[PATH, HOP], V4), Withdraw),
            ("3 d: no AS_PATH", all(&[ORIGIN, HOP], V4), Withdraw),
            ("3 d: no NEXT_HOP", all(ours, V4), Withdraw),
            ("3 d: no attribute at all", all(&[], V4), Withdraw),
            ("3 d: nothing is asked of a withdrawal", update_frame(V4, &[], &[]), Fine),
            ("3 d: MP_REACH_NLRI without ORIGIN", all(&[PATH, &reach(2, 16, v6)], &[]), Withdraw),
            ("3 g: MP_REACH_NLRI twice", all(&[ORIGIN, PATH, &reach(2, 16, v6), &reach(2, 16, v6)], &[]), Reset(1)),
            ("3 g: MP_UNREACH_NLRI twice", all(&[unreach, unreach], &[]), Reset(1)),
            ("3 i: a withdrawn /33", update_frame(&[33, 1, 1, 1, 1, 1], &[], &[]), Reset(10)),
            ("5.3: a /33", all(&[ORIGIN, PATH, HOP], &[33, 1, 1, 1, 1, 1]), Reset(10)),
            ("5.3: a prefix breaks off", all(&[ORIGIN, PATH, HOP], &[24, 10, 0]), Reset(10)),
            ("5.2: a bad attribute and no prefix", all(&[&[0x40, 1, 1, 9]], &[]), Reset(6)),
            ("5.2: a list that breaks off and no prefix", all(&[&[0x40, 1, 9]], &[]), Reset(1)),
            ("5.2: a withdrawal with a bad attribute", update_frame(V4, &[0x40, 1, 1, 9], &[]), Reset(6)),
            ("5.2: an empty MP_REACH_NLRI is no prefix", all(&[&[0x40, 1, 1, 9], &reach(2, 16, &[])], &[]), Reset(6)),
            ("5.2: what is only discarded", all(&[&[0x40, 6, 1, 0]], &[]), Withdraw),
            ("5.2: bad, but with a prefix", all(&[&[0x40, 1, 1, 9], PATH, HOP], V4), Withdraw),
            ("5.2: bad, with MP_REACH_NLRI", all(&[&[0x40, 1, 1, 9], PATH, &reach(2, 16, v6)], &[]), Withdraw),
            ("5.2: MP_UNREACH_NLRI alone", all(&[unreach], &[]), Fine),
            ("5.3: MP_UNREACH_NLRI of a /200", all(&[&[0x80, 15, 4, 0, 2, 1, 200]], &[]), ipv6),
            ("5.3: MP_UNREACH_NLRI with wrong flags", all(&[&[0xc0, 15, 3, 0, 2, 1]], &[]), ipv6),
            ("5.3: MP_UNREACH_NLRI of 2 bytes", all(&[&[0x80, 15, 2, 0, 2]], &[]), Reset(9)),
            ("5.3: MP_REACH_NLRI of 4 bytes", reaching(&[0x80, 14, 4, 0, 2, 1, 0]), ipv6),
            ("5.3: MP_REACH_NLRI of 2 bytes", reaching(&[0x80, 14, 2, 0, 2]), Reset(9)),
            ("5.3: MP_REACH_NLRI of a /129", reaching(&reach(2, 16, &[129, 1])), ipv6),
            ("5.3: an IPv4 /33 in MP_REACH_NLRI", reaching(&reach(1, 4, &[33, 1, 1, 1, 1, 1])), Disable(Family::Ipv4)),
            ("7.11: an IPv6 next hop", reaching(&reach(2, 16, v6)), Fine),
            ("7.11: two", reaching(&reach(2, 32, v6)), Fine),
            ("7.11: of 4 bytes", reaching(&reach(2, 4, v6)), ipv6),
            ("7.11: of 24 bytes", reaching(&reach(2, 24, v6)), ipv6),
            ("7.11: beyond the end", reaching(&[0x80, 14, 6, 0, 2, 1, 16, 1, 2]), ipv6),
            ("7.11: a bad one beside an IPv4 prefix", with_v4(&reach(2, 7, v6)), ipv6),
            ("RFC 8950 3: IPv4 by 4 bytes", reaching(&reach(1, 4, V4)), Fine),
            ("RFC 8950 3: IPv4 by 16", reaching(&reach(1, 16, V4)), Fine),
            ("RFC 8950 3: IPv4 by 32", reaching(&reach(1, 32, V4)), Fine),
            ("RFC 8950 3: IPv4 by 24, of VPNs", reaching(&reach(1, 24, V4)), Disable(Family::Ipv4)),
            ("RFC 4271 6.3: IPv4 by 0.0.0.0", reaching(&reach_by(0, 1, 4, V4)), Withdraw),
            ("RFC 4271 6.3: IPv6 by ::", reaching(&reach_by(0, 2, 16, v6)), Withdraw),
            ("RFC 4271 6.3: IPv6 by a multicast address", reaching(&reach_by(0xff, 2, 16, v6)), Withdraw),
            ("RFC 4271 6.3: nothing by ::", all(&[&reach_by(0, 2, 16, &[])], &[]), Fine),
            ("RFC 4760 3: a bad NEXT_HOP beside MP_REACH_NLRI", all(&[ORIGIN, PATH, &[0x40, 3, 1, 0], &reach(2, 16, v6)], &[]), Fine),
            ("RFC 4760 3: a bad NEXT_HOP with an IPv4 prefix", all(&[ORIGIN, PATH, &[0x40, 3, 1, 0], &reach(2, 16, v6)], V4), Withdraw),
            ("a family that we do not speak", reaching(&[0x80, 14, 7, 0, 25, 70, 4, 1, 2, 3]), Fine),
            ("RFC 4724 2: the end of another family", all(&[&[0x80, 15, 3, 0, 25, 70]], &[]), Fine),
        ];
        for (rule, frame, outcome) in rules {
            check(rule, frame, EXTERNAL, *outcome);
        }
    }

    /// What is left of a message whose IPv6 half cannot be read, and whose attributes cannot be used.
    #[test]
    fn a_family_goes_and_the_other_is_withdrawn() {
        let frame = all(&[&reach(2, 7, &[8, 1]), &[0x40, 1, 1, 9], PATH, HOP], V4);
        let update = read_update(&frame, EXTERNAL);
        assert_eq!(update.disabled, [Family::Ipv6].into());
        assert_eq!(update.withdrawn, ["192.0.2.0/24".parse().unwrap()]);
        assert!(update.announced.is_empty());
        let fault = update.fault.unwrap();
        assert_eq!(fault, "MP_REACH_NLRI of IPv6: a next hop of a wrong length");
    }

    /// RFC 7606 section 3 (g): of two MEDs the first; and what a reset tells is the attribute itself.
    #[test]
    fn the_first_one_counts() {
        let twice = [0x80, 4, 4, 0, 0, 0, 1, 0x80, 4, 4, 0, 0, 0, 2];
        let update = read_update(&with(&twice), EXTERNAL);
        assert_eq!(update.attributes.med, Some(1));
        assert_eq!(update.fault.unwrap(), "MULTI_EXIT_DISC: there twice");
        let told = read(&all(&[&[0x40, 1, 1, 9]], &[]), EXTERNAL);
        assert_eq!(told, Err(Notification::new(3, 6, [0x40, 1, 1, 9])));
    }

    #[test]
    fn next_hops() {
        let hop = |attribute: &[u8], nlri: &[u8]| {
            let list = [ORIGIN, PATH, HOP, attribute];
            read_update(&all(&list, nlri), EXTERNAL).attributes.next_hop
        };
        let reach = |addresses: &[&str]| {
            let octets = addresses
                .iter()
                .flat_map(|one| one.parse::<Ipv6Addr>().unwrap().octets());
            let mut value = vec![0, 2, 1, 16 * addresses.len() as u8];
            value.extend(octets);
            value.extend([0, 8, 0x20]);
            [&[0x80, 14, value.len() as u8], &value[..]].concat()
        };
        let is = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(hop(&reach(&["2001:db8::1"]), &[]), is("2001:db8::1"));
        assert_eq!(
            hop(&reach(&["2001:db8::1", "fe80::1"]), &[]),
            is("2001:db8::1")
        );
        assert_eq!(hop(&reach(&["::", "fe80::1"]), &[]), is("fe80::1"));
        assert_eq!(hop(&[], V4), is("10.0.0.1"));
        assert_eq!(hop(&reach(&["2001:db8::1"]), V4), None, "they have two");
    }

    /// RFC 6793 section 4.2.3.
    #[test]
    fn as4_path() {
        let path = |aggregator: &[u8]| {
            let as_path = [0x40, 2, 6, 2, 2, 0, 7, 0x5b, 0xa0];
            let as4_path = [0xc0, 17, 6, 2, 1, 0, 1, 0, 0];
            let list = [ORIGIN, &as_path, HOP, aggregator, &as4_path];
            let update = read_update(&all(&list, V4), OLD);
            assert_eq!(update.fault, None);
            update.attributes.as_path
        };
        assert_eq!(path(&[]), "7 65536");
        let both = [
            0xc0, 7, 6, 0, 9, 1, 1, 1, 1, 0xc0, 18, 8, 0, 1, 0, 0, 1, 1, 1, 1,
        ];
        assert_eq!(path(&both), "7 23456", "somebody old has aggregated since");
        let mut trans = both;
        trans[3..5].copy_from_slice(&[0x5b, 0xa0]);
        assert_eq!(path(&trans), "7 65536");
    }

    #[test]
    fn prefixes_lose_what_is_behind_their_length() {
        let frame = update_frame(&[20, 10, 1, 0xff, 0], &[], &[]);
        let expected = ["10.1.240.0/20", "0.0.0.0/0"].map(|net| net.parse().unwrap());
        assert_eq!(read_update(&frame, EXTERNAL).withdrawn, expected);
    }
}

fn communities() -> impl Strategy<Value = BTreeSet<Community>> {
    let one = prop_oneof![
        any::<u32>().prop_map(Community::Standard),
        any::<[u8; 8]>().prop_map(Community::Extended),
        any::<[u32; 3]>().prop_map(|[a, b, c]| Community::Large(a, b, c)),
    ];
    proptest::collection::btree_set(one, 0..=MAX_COMMUNITIES)
}

prop_compose! {
    fn attributes()(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        prepend: u8,
        med: u32,
        local_pref: Option<u32>,
        communities in communities(),
    ) -> Attributes {
        Attributes { origin, prepend, med, local_pref, communities }
    }
}

prop_compose! {
    fn dialect()(
        local_as in prop_oneof![1..65536u32, 65536..u32::MAX],
        internal: bool,
        four_octet_as: bool,
        only_to_customer: bool,
        extended: bool,
    ) -> Dialect {
        let longest = if extended { LONGEST_EXTENDED } else { LONGEST };
        Dialect { local_as, internal, four_octet_as, longest, only_to_customer }
    }
}

/// Whether the codec reads it, too, and to the end.
fn codec_reads(frame: &[u8], four_octet_as: bool) -> bool {
    let mut context = BgpParsingContext::default();
    context.set_asn4(four_octet_as);
    let mut reader = SliceReader::new(frame);
    BgpMessage::parse(&mut reader, &mut context).is_ok() && reader.is_empty()
}

proptest! {
    #[test]
    fn what_we_announce_reads_back(
        attributes in attributes(),
        dialect in dialect(),
        next_hop in prop_oneof![Just("10.0.0.1"), Just("2001:db8::b"), Just("fe80::1")],
        v6: bool,
        share in 0.0..=1.0f64,
    ) {
        let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
        let next_hop: IpAddr = next_hop.parse().unwrap();
        let route = route(next_hop, attributes.clone());
        let most = prefixes_per_update(dialect, &route, family);
        let prefixes = many(family, ((most as f64 * share) as usize).max(1));
        let frame = announce(dialect, &route, &prefixes);
        prop_assert!(frame.len() <= dialect.longest);
        let Dialect { internal, four_octet_as, .. } = dialect;
        let update = read_update(&frame, Sender { internal, four_octet_as });
        prop_assert_eq!(update.fault, None);
        prop_assert_eq!(update.announced, prefixes);
        prop_assert!(update.withdrawn.is_empty() && update.disabled.is_empty());
        let asns = if internal { 0 } else { 1 + usize::from(attributes.prepend) };
        let next_hop = match (family, next_hop) {
            (Family::Ipv6, IpAddr::V4(address)) => address.to_ipv6_mapped().into(),
            (Family::Ipv4 | Family::Ipv6, same) => same,
        };
        let expected = Received {
            next_hop: Some(next_hop),
            as_path: vec![dialect.local_as.to_string(); asns].join(" "),
            med: Some(attributes.med),
            local_pref: internal.then(|| attributes.local_pref.unwrap_or(100)),
            communities: attributes.communities,
        };
        prop_assert_eq!(update.attributes, expected);
        prop_assert!(codec_reads(&frame, four_octet_as));
    }

    #[test]
    fn what_we_offer_reads_back(
        asn in prop_oneof![1..65536u32, 65536..u32::MAX],
        hold_time: u16,
        identifier: u32,
        flags: [bool; 6],
        restarts: bool,
        role in proptest::option::of(0..5usize),
    ) {
        let [v6, route_refresh, enhanced_route_refresh, extended_messages, extended_next_hop, four] = flags;
        let roles = [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];
        let open = Open {
            asn,
            four_octet_as: four || asn > 65535,
            hold_time,
            identifier: Ipv4Addr::from_bits(identifier),
            families: if v6 { [Family::Ipv6].into() } else { [Family::Ipv4, Family::Ipv6].into() },
            route_refresh,
            enhanced_route_refresh,
            extended_messages,
            extended_next_hop,
            graceful_restart: restarts.then(|| [Family::Ipv6].into()),
            role: role.map(|at| roles[at]),
            unknown_role: false,
        };
        prop_assert_eq!(read(&super::open(&open), EXTERNAL), Ok(Message::Open(open)));
    }

    #[test]
    fn no_bytes_panic(kind in 0u8..7, body: Vec<u8>, internal: bool, four_octet_as: bool) {
        let frame = frame(kind, &body);
        drop(frame_length(frame[..HEADER].try_into().unwrap(), LONGEST));
        drop(decode(&frame, Sender { internal, four_octet_as }));
    }

    /// A message of ours with bytes changed: nothing panics, and what is heard makes sense.
    #[test]
    fn no_damage_panics(
        attributes in attributes(),
        dialect in dialect(),
        v6: bool,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (family, next_hop) = match v6 {
            true => (Family::Ipv6, "2001:db8::b"),
            false => (Family::Ipv4, "10.0.0.1"),
        };
        let route = route(next_hop.parse().unwrap(), attributes);
        let mut frame = announce(dialect, &route, &many(family, 3));
        let body = frame.len() - HEADER;
        for (at, byte) in damage {
            frame[HEADER + at.index(body)] = byte;
        }
        let Dialect { internal, four_octet_as, .. } = dialect;
        if let Ok(Message::Update(update)) = decode(&frame, Sender { internal, four_octet_as }) {
            let heard = update.announced.iter().chain(&update.withdrawn);
            for prefix in heard {
                prop_assert!(!update.disabled.contains(&Family::of_prefix(prefix)));
                prop_assert_eq!(*prefix, prefix.trunc());
            }
            if update.announced.is_empty() {
                prop_assert_eq!(update.attributes, Received::default());
            }
        }
    }
}
