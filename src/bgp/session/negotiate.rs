//! What the two OPENs make of a session: who we are, what we offer, what of the peer's OPEN is refused
//! (RFC 4271 section 6.2 as far as it needs to know who the peer should be) and what both agree on.
//! Reading an OPEN is not here but in `message`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::message::Open;
use super::super::notification::Notification;
use crate::config::{Bgp, Peer};
use crate::routing::Role;
use crate::service::Family;

/// Who the two ends are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    pub local_as: u32,
    pub identifier: Ipv4Addr,
    /// What we propose, in seconds.
    pub hold_time: u16,
    pub peer_as: u32,
    /// The rest of what we offer; see [`crate::config::Peer`].
    pub families: BTreeSet<Family>,
    pub extended_next_hop: bool,
    pub extended_messages: bool,
    pub role: Option<Role>,
    pub role_strict: bool,
    /// When and how we try.
    pub passive: bool,
    pub delay_open_time: Option<Duration>,
    pub connect_retry_time: Duration,
}

/// What both ends agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub peer_as: u32,
    /// The peer's BGP Identifier.
    pub identifier: Ipv4Addr,
    /// At least one.
    pub families: BTreeSet<Family>,
    pub four_octet_as: bool,
    /// The smaller of the two (section 4.2); never zero.
    pub hold_time: Duration,
    /// The peer takes a request for its routes (RFC 2918), and marks where they begin and end (RFC 7313).
    pub route_refresh: bool,
    pub enhanced_route_refresh: bool,
    /// Both said so: UPDATE, NOTIFICATION and ROUTE-REFRESH may have 65,535 bytes (RFC 8654 section 4).
    pub extended_messages: bool,
    /// IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer marks the end of its first table (RFC 4724 section 3).
    pub end_of_rib: bool,
    /// It keeps forwarding while it restarts, and may come back before its connection is known to be lost.
    pub restarts: bool,
    /// The peer's (RFC 9234).
    pub role: Option<Role>,
}

/// An OPEN that is not taken: what the peer is told, and why in our own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub tell: Notification,
    pub why: String,
}

impl Ends {
    pub fn new(bgp: &Bgp, peer: &Peer) -> Ends {
        Ends {
            local_as: bgp.local_as,
            identifier: bgp.router_id,
            // The configuration holds it to 65535 s.
            hold_time: u16::try_from(peer.hold_time.as_secs()).unwrap_or(u16::MAX),
            peer_as: peer.peer_as,
            families: peer.families.clone(),
            extended_next_hop: peer.extended_next_hop,
            extended_messages: peer.extended_messages,
            role: peer.role,
            role_strict: peer.role_strict,
            passive: peer.passive,
            delay_open_time: peer.delay_open_time,
            connect_retry_time: peer.connect_retry_time,
        }
    }

    /// Ours.
    pub fn open(&self) -> Open {
        Open {
            asn: self.local_as,
            four_octet_as: true,
            hold_time: self.hold_time,
            identifier: self.identifier,
            families: self.families.clone(),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: self.extended_messages,
            // RFC 8950 section 4: it is about IPv4 prefixes.
            extended_next_hop: self.extended_next_hop && self.families.contains(&Family::Ipv4),
            // RFC 4724 section 3: without a family it keeps nothing of ours when we go; but who is not offered it
            // may send no End-of-RIB, and take no request for its routes before.
            graceful_restart: Some(BTreeSet::new()),
            role: self.role(),
            unknown_role: false,
        }
    }

    /// Takes the peer's OPEN or refuses it.
    pub fn agree(&self, theirs: &Open) -> Result<Negotiated, Refused> {
        self.accept_peer(theirs)?;
        self.accept_hold_time(theirs)?;
        self.accept_role(theirs)?;
        let ours = self.open();
        let families = self.accept_families(theirs)?;
        Ok(Negotiated {
            peer_as: theirs.asn,
            identifier: theirs.identifier,
            four_octet_as: theirs.four_octet_as,
            hold_time: Duration::from_secs(theirs.hold_time.min(ours.hold_time).into()),
            route_refresh: theirs.route_refresh,
            enhanced_route_refresh: theirs.enhanced_route_refresh,
            extended_messages: ours.extended_messages && theirs.extended_messages,
            extended_next_hop: ours.extended_next_hop
                && theirs.extended_next_hop
                && families.contains(&Family::Ipv4),
            families,
            end_of_rib: theirs.graceful_restart.is_some(),
            restarts: theirs.graceful_restart.iter().flatten().next().is_some(),
            role: theirs.role,
        })
    }

    /// The families that we offer and the peer did not agree on.
    pub fn missing(&self, agreed: &Negotiated) -> BTreeSet<Family> {
        self.families
            .difference(&agreed.families)
            .copied()
            .collect()
    }

    fn is_internal(&self) -> bool {
        self.peer_as == self.local_as
    }

    /// RFC 9234 section 4.1: for external sessions alone.
    fn role(&self) -> Option<Role> {
        self.role.filter(|_| !self.is_internal())
    }

    fn accept_peer(&self, theirs: &Open) -> Result<(), Refused> {
        // AS 0 cannot be configured, so RFC 7607 section 2 is kept here, too.
        if theirs.asn != self.peer_as {
            let why = format!("the peer is AS {}, not AS {}", theirs.asn, self.peer_as);
            return Err(Refused::new(Notification::new(2, 2, []), why));
        }
        // RFC 6286 section 2.2: not zero, and inside one AS not ours.
        let identifier = theirs.identifier;
        let ours = self.is_internal() && identifier == self.identifier;
        if identifier.is_unspecified() || ours {
            let whose = if ours { ", which is our own" } else { "" };
            let why = format!("the peer's identifier is {identifier}{whose}");
            return Err(Refused::new(Notification::new(2, 3, []), why));
        }
        Ok(())
    }

    /// Section 4.2: zero, or at least three seconds. Zero would mean no keepalives and no HoldTimer: of two
    /// ends of which one has lost its power the other would keep the session, and the routes, for ever, and
    /// an address that is served nowhere would stay announced. Section 6.2 lets any hold time be refused.
    fn accept_hold_time(&self, theirs: &Open) -> Result<(), Refused> {
        if theirs.hold_time < 3 {
            let why = format!(
                "the peer's hold time is {} s, 3 s is the least",
                theirs.hold_time
            );
            return Err(Refused::new(Notification::new(2, 6, []), why));
        }
        Ok(())
    }

    /// RFC 9234 section 4.2.
    fn accept_role(&self, theirs: &Open) -> Result<(), Refused> {
        let Some(ours) = self.role() else {
            return Ok(());
        };
        let why = match theirs.role {
            Some(role) if role == opposite(ours) => return Ok(()),
            None if theirs.unknown_role => {
                format!("our role is {ours:?} and the peer's is none of RFC 9234")
            }
            None if !self.role_strict => return Ok(()),
            Some(role) => format!("our role is {ours:?} and the peer's is {role:?}"),
            None => "the peer names no role, and role-strict asks for one".into(),
        };
        Err(Refused::new(Notification::new(2, 11, []), why))
    }

    /// RFC 5492 section 3: without one in common there is nothing to say; the data are the capabilities that
    /// we miss, as an OPEN would have them.
    fn accept_families(&self, theirs: &Open) -> Result<BTreeSet<Family>, Refused> {
        let both: BTreeSet<Family> = self
            .families
            .intersection(&theirs.families)
            .copied()
            .collect();
        if !both.is_empty() {
            return Ok(both);
        }
        let wanted: Vec<u8> = self
            .families
            .iter()
            .flat_map(|f| multiprotocol(*f))
            .collect();
        let why = format!(
            "no address family in common: we have {}, the peer {}",
            names(&self.families),
            names(&theirs.families)
        );
        Err(Refused::new(Notification::new(2, 7, wanted), why))
    }
}

impl Refused {
    fn new(tell: Notification, why: String) -> Refused {
        Refused { tell, why }
    }
}

/// The one role of a peer that goes with ours (RFC 9234 section 4.2, table 2).
fn opposite(role: Role) -> Role {
    match role {
        Role::Provider => Role::Customer,
        Role::Customer => Role::Provider,
        Role::RouteServer => Role::RouteServerClient,
        Role::RouteServerClient => Role::RouteServer,
        Role::Peer => Role::Peer,
    }
}

/// The capability of RFC 4760 section 8: code 1, four bytes, AFI, reserved, SAFI 1 (unicast).
fn multiprotocol(family: Family) -> [u8; 6] {
    let afi = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    [1, 4, 0, afi, 0, 1]
}

fn names(families: &BTreeSet<Family>) -> String {
    let name = |family: &Family| match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    match families.iter().map(name).collect::<Vec<_>>() {
        none if none.is_empty() => "none that we know".into(),
        some => some.join(" and "),
    }
}

#[cfg(test)]
impl Ends {
    /// With nothing configured but what must be.
    pub fn plain() -> Ends {
        let bgp = Bgp {
            local_as: 64600,
            router_id: [10, 0, 0, 1].into(),
            listen: Vec::new(),
            policy: Default::default(),
            shutdown_text: None,
            peers: Default::default(),
        };
        let peer = std::net::IpAddr::from([10, 0, 0, 2]);
        Ends::new(&bgp, &Peer::new(peer.into(), 64601))
    }
}

#[cfg(test)]
impl Negotiated {
    /// With a peer that has these families and nothing else.
    pub fn plain(families: BTreeSet<Family>) -> Negotiated {
        Negotiated {
            peer_as: 64601,
            identifier: [10, 0, 0, 2].into(),
            families,
            four_octet_as: true,
            hold_time: Duration::from_secs(9),
            route_refresh: false,
            enhanced_route_refresh: false,
            extended_messages: false,
            extended_next_hop: false,
            end_of_rib: false,
            restarts: false,
            role: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            local_as: 64600,
            hold_time: 9,
            peer_as: 4_200_000_001,
            families: both(),
            extended_messages: false,
            extended_next_hop: false,
            ..Ends::plain()
        }
    }

    fn both() -> BTreeSet<Family> {
        [Family::Ipv4, Family::Ipv6].into()
    }

    fn theirs() -> Open {
        Ends {
            local_as: 4_200_000_001,
            identifier: Ipv4Addr::new(10, 0, 0, 2),
            hold_time: 90,
            ..ends()
        }
        .open()
    }

    #[track_caller]
    fn check_refused(ends: &Ends, open: &Open, subcode: u8, words: &str) {
        let refused = ends.agree(open).unwrap_err();
        assert_eq!((refused.tell.code, refused.tell.subcode), (2, subcode));
        assert!(refused.why.contains(words), "{}", refused.why);
    }

    #[test]
    fn another_as_is_refused() {
        for (asn, four_octet_as) in [(65000, true), (23456, false), (0, true)] {
            let open = Open {
                asn,
                four_octet_as,
                ..theirs()
            };
            check_refused(&ends(), &open, 2, "not AS 4200000001");
        }
    }

    /// RFC 6286: ours is refused inside our AS only, zero anywhere.
    #[test]
    fn identifiers_that_are_refused() {
        let with = |asn, identifier| Open {
            asn,
            identifier,
            ..theirs()
        };
        let internal = Ends {
            peer_as: 64600,
            ..ends()
        };
        let zero = with(4_200_000_001, Ipv4Addr::UNSPECIFIED);
        check_refused(&ends(), &zero, 3, "0.0.0.0");
        let ours = ends().identifier;
        assert!(ends().agree(&with(4_200_000_001, ours)).is_ok());
        check_refused(&internal, &with(64600, ours), 3, "our own");
    }

    #[test]
    fn hold_times_below_three_seconds_are_refused() {
        for (hold_time, agreed) in [(0, None), (1, None), (2, None), (3, Some(3)), (90, Some(9))] {
            let open = Open {
                hold_time,
                ..theirs()
            };
            match agreed {
                None => check_refused(&ends(), &open, 6, "3 s is the least"),
                Some(seconds) => {
                    let time = ends().agree(&open).unwrap().hold_time;
                    assert_eq!(time, Duration::from_secs(seconds));
                }
            }
        }
    }

    #[test]
    fn roles_that_go_together() {
        let all = [
            Role::Provider,
            Role::RouteServer,
            Role::RouteServerClient,
            Role::Customer,
            Role::Peer,
        ];
        for ours in all {
            for peer in all {
                let ends = Ends {
                    role: Some(ours),
                    ..ends()
                };
                let open = Open {
                    role: Some(peer),
                    ..theirs()
                };
                let good = matches!(
                    (ours, peer),
                    (Role::Provider, Role::Customer)
                        | (Role::Customer, Role::Provider)
                        | (Role::RouteServer, Role::RouteServerClient)
                        | (Role::RouteServerClient, Role::RouteServer)
                        | (Role::Peer, Role::Peer)
                );
                if good {
                    assert_eq!(ends.agree(&open).unwrap().role, Some(peer));
                } else {
                    check_refused(&ends, &open, 11, "our role");
                }
            }
        }
    }

    #[test]
    fn a_peer_without_a_role() {
        let loose = Ends {
            role: Some(Role::Customer),
            ..ends()
        };
        assert_eq!(loose.agree(&theirs()).unwrap().role, None);
        let strict = Ends {
            role_strict: true,
            ..loose.clone()
        };
        check_refused(&strict, &theirs(), 11, "names no role");
        // Without a role of our own the peer's is only shown.
        let provider = Open {
            role: Some(Role::Provider),
            ..theirs()
        };
        assert_eq!(ends().agree(&provider).unwrap().role, Some(Role::Provider));
        // RFC 9234 section 4.1: nothing of it inside an AS.
        let internal = Ends {
            peer_as: 64600,
            ..strict
        };
        assert_eq!(internal.open().role, None);
        let open = Open {
            asn: 64600,
            ..theirs()
        };
        assert!(internal.agree(&open).is_ok());
    }

    #[test]
    fn families_in_common() {
        let ipv6 = Open {
            families: [Family::Ipv6].into(),
            ..theirs()
        };
        let agreed = ends().agree(&ipv6).unwrap();
        assert_eq!(agreed.families, [Family::Ipv6].into());
        assert_eq!(ends().missing(&agreed), [Family::Ipv4].into());

        let ipv4 = Ends {
            families: [Family::Ipv4].into(),
            ..ends()
        };
        check_refused(&ipv4, &ipv6, 7, "we have IPv4, the peer IPv6");
        let refused = ipv4.agree(&ipv6).unwrap_err();
        assert_eq!(refused.tell.data, [1, 4, 0, 1, 0, 1]);
        let none = Open {
            families: BTreeSet::new(),
            ..theirs()
        };
        let refused = ends().agree(&none).unwrap_err();
        assert_eq!(refused.tell.data, [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1]);
    }

    /// Each needs both ends, but a refresh and the peer's 4-byte AS numbers, which need the peer alone.
    #[test]
    fn capabilities_in_common() {
        let all = Ends {
            extended_messages: true,
            extended_next_hop: true,
            ..ends()
        };
        let rich = Open {
            extended_messages: true,
            extended_next_hop: true,
            ..theirs()
        };
        let poor = Open {
            four_octet_as: false,
            route_refresh: false,
            enhanced_route_refresh: false,
            ..theirs()
        };
        let of = |ends: &Ends, open: &Open| {
            let n = ends.agree(open).unwrap();
            (
                (n.four_octet_as, n.route_refresh, n.enhanced_route_refresh),
                (n.extended_messages, n.extended_next_hop),
            )
        };
        let (yes, no) = ((true, true, true), (false, false, false));
        assert_eq!(of(&all, &rich), (yes, (true, true)));
        assert_eq!(of(&all, &theirs()), (yes, (false, false)));
        assert_eq!(of(&ends(), &rich), (yes, (false, false)));
        assert_eq!(of(&all, &poor), (no, (false, false)));
        // RFC 8950 without IPv4 is about nothing.
        let ipv6 = Ends {
            families: [Family::Ipv6].into(),
            ..all
        };
        assert!(!ipv6.open().extended_next_hop);
        assert_eq!(of(&ipv6, &rich).1, (true, false));
        let peer = ends().agree(&theirs()).unwrap();
        let who = (4_200_000_001, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!((peer.peer_as, peer.identifier), who);
    }
}
