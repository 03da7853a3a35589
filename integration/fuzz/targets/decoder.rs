//! Any bytes as a stream of BGP messages. Nothing panics; what is read makes sense; an OPEN and routes that
//! were heard can be said again and are heard the same.
//!
//! The first byte says who speaks: bit 0, of our AS; bit 1, two-byte AS numbers; bit 2, messages of up to
//! 65,535 bytes; bit 3, ONLY_TO_CUSTOMER. The rest is the stream.

#![no_main]

use std::sync::Arc;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use plimsoll::bgp::message::{self, Dialect, HEADER, Message, Open, Sender, Update};
use plimsoll::routing::session::Route;
use plimsoll::routing::{Attributes, MAX_COMMUNITIES};
use plimsoll::service::Family;

fuzz_target!(|input: &[u8]| {
    let Some((flags, mut stream)) = input.split_first() else {
        return;
    };
    let dialect = Dialect {
        local_as: 4_200_000_001,
        internal: flags & 1 != 0,
        four_octet_as: flags & 2 == 0,
        longest: match flags & 4 {
            0 => message::LONGEST,
            _ => message::LONGEST_EXTENDED,
        },
        only_to_customer: flags & 8 != 0,
    };
    while let Some(header) = stream.first_chunk::<HEADER>() {
        let length = match message::frame_length(header, dialect.longest) {
            Ok(length) => length,
            Err(told) => {
                assert_eq!(told.code, 1);
                return;
            }
        };
        assert!((HEADER..=dialect.longest).contains(&length));
        let Some(frame) = stream.split_off(..length) else {
            return;
        };
        read(frame, dialect);
    }
});

fn sender(dialect: Dialect) -> Sender {
    Sender {
        internal: dialect.internal,
        four_octet_as: dialect.four_octet_as,
    }
}

fn read(frame: &[u8], dialect: Dialect) {
    match message::decode(frame, sender(dialect)) {
        Ok(Message::Open(open)) => open_again(open),
        Ok(Message::Update(update)) => update_again(update, dialect),
        Ok(Message::Notification(notification)) => {
            let words = notification.to_string();
            assert!(!words.contains(char::is_control), "{words:?}");
            let again = message::notification(&notification);
            assert!(again.len() <= message::LONGEST);
        }
        Ok(Message::Keepalive) => assert_eq!(frame, message::keepalive()),
        Ok(Message::RouteRefresh(_)) => {}
        Err(told) => assert!(matches!(told.code, 2 | 3 | 7), "{told}"),
    }
}

/// What we would offer with the same capabilities.
fn open_again(heard: Open) {
    let mut open = Open {
        unknown_role: false,
        ..heard
    };
    if !open.four_octet_as {
        open.asn &= 0xffff;
    }
    // Whoever names no family speaks IPv4, so an OPEN of none cannot be said again.
    if open.families.is_empty() {
        open.families.insert(Family::Ipv4);
    }
    let frame = message::open(&open);
    assert!(frame.len() <= message::LONGEST);
    let again = message::decode(&frame, sender_of_open());
    assert_eq!(again, Ok(Message::Open(open)));
}

fn sender_of_open() -> Sender {
    Sender {
        internal: false,
        four_octet_as: true,
    }
}

fn update_again(update: Update, dialect: Dialect) {
    let Update {
        withdrawn,
        announced,
        attributes,
        fault,
        end_of_rib,
        disabled,
    } = update;
    assert!(end_of_rib.is_none() || announced.is_empty() && withdrawn.is_empty());
    assert!(disabled.is_empty() || fault.is_some());
    for prefix in announced.iter().chain(&withdrawn) {
        assert_eq!(*prefix, prefix.trunc());
        assert!(!disabled.contains(&Family::of_prefix(prefix)));
    }
    assert_eq!(attributes.next_hop.is_some() && announced.is_empty(), false);
    let Some(next_hop) = attributes.next_hop else {
        return;
    };
    let route = Route {
        next_hop,
        attributes: Arc::new(Attributes {
            med: attributes.med.unwrap_or(0),
            local_pref: attributes.local_pref,
            communities: attributes.communities.iter().copied().collect(),
            prepend: attributes.as_path.len() as u8,
            ..Attributes::default()
        }),
        inside: None,
    };
    for family in [Family::Ipv4, Family::Ipv6] {
        let all = announced.iter().copied();
        let all: Vec<IpNet> = all
            .filter(|net| Family::of_prefix(net) == family && message::is_unicast(*net))
            .collect();
        let room = message::prefixes_per_update(dialect, &route, family);
        for some in all.chunks(room) {
            announce_again(dialect, &route, some);
        }
    }
}

fn announce_again(dialect: Dialect, route: &Route, prefixes: &[IpNet]) {
    let frame = message::announce(dialect, route, prefixes);
    assert!(frame.len() <= dialect.longest);
    let Ok(Message::Update(again)) = message::decode(&frame, sender(dialect)) else {
        panic!("{frame:?}");
    };
    assert_eq!(again.fault, None);
    assert_eq!(again.announced, prefixes);
    assert_eq!(again.attributes.med, Some(route.attributes.med));
    let communities = route.attributes.communities.iter().take(MAX_COMMUNITIES);
    assert!(again.attributes.communities.iter().eq(communities));
}
