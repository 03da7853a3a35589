//! What one peer is to be told of the prefix of an address, or why it is not told. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::message;
use super::session::Negotiated;
use crate::config::Peer;
use crate::routing::session::{Route, Untold};
use crate::routing::{PeerId, Policy};
use crate::service::Family;
use crate::snapshot::{Announcement, Vip};

/// For one established session, with the peer's configuration as it is now.
#[derive(Debug)]
pub(crate) struct Export {
    peer: Arc<Peer>,
    /// By family, since nothing else of an address makes a difference.
    next_hops: BTreeMap<Family, Result<IpAddr, Untold>>,
    /// The routes in use, by all that they come of beside the peer. So a hundred thousand addresses of one
    /// policy share one.
    routes: BTreeMap<Origins, Arc<Route>>,
    /// How many routes there may be before those that nobody uses any more are looked for.
    crowded: usize,
}

/// Two announcements with equal layers are told as one route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origins {
    next_hop: IpAddr,
    inside: Option<IpAddr>,
    base: Arc<Policy>,
    own: Arc<Policy>,
    condition: Arc<Policy>,
}

impl Export {
    /// `local`: our own end of the session's connection.
    pub(crate) fn new(peer: Arc<Peer>, negotiated: &Negotiated, local: IpAddr) -> Export {
        let families = [Family::Ipv4, Family::Ipv6].into_iter();
        Export {
            next_hops: families
                .map(|family| (family, next_hop(family, &peer, negotiated, local)))
                .collect(),
            peer,
            routes: BTreeMap::new(),
            crowded: 64,
        }
    }

    /// `None`: the address is not announced, or not to this peer.
    pub(crate) fn route(
        &mut self,
        address: IpAddr,
        vip: &Vip,
    ) -> Option<Result<Arc<Route>, Untold>> {
        let announcement = vip.announce.as_ref().ok()?;
        let is_meant = self.peer.is_meant(address, announcement.to.as_deref());
        if !message::is_unicast(vip.prefix_of(address)) || !is_meant {
            return None;
        }
        let next_hop = self.next_hops.get(&Family::of(address))?;
        let inside = vip.prefix.map(|_| address);
        Some(next_hop.map(|next_hop| self.shared(announcement, next_hop, inside)))
    }

    fn shared(
        &mut self,
        announcement: &Announcement,
        next_hop: IpAddr,
        inside: Option<IpAddr>,
    ) -> Arc<Route> {
        let origins = Origins {
            next_hop,
            inside,
            base: announcement.base.clone(),
            own: announcement.own.clone(),
            condition: announcement.condition.clone(),
        };
        if let Some(route) = self.routes.get(&origins) {
            return route.clone();
        }
        if self.routes.len() >= self.crowded {
            self.routes.retain(|_, route| Arc::strong_count(route) > 1);
            self.crowded = (self.routes.len() * 2).max(64);
        }
        let attributes = announcement.attributes(Some(&self.peer.policy));
        let route = Arc::new(Route {
            next_hop,
            attributes: Arc::new(attributes),
            inside,
        });
        self.routes.insert(origins, route.clone());
        route
    }
}

/// The one that is configured, else our own end of the connection (RFC 4271 section 5.1.3), as far as the
/// family lets it be one. An IPv6 one serves IPv4 prefixes where both ends said so (RFC 8950 section 4).
fn next_hop(
    family: Family,
    peer: &Peer,
    negotiated: &Negotiated,
    local: IpAddr,
) -> Result<IpAddr, Untold> {
    if !negotiated.families.contains(&family) {
        return Err(Untold::Family);
    }
    let local = local.to_canonical();
    let ipv4 = || {
        peer.next_hop_ipv4
            .map(IpAddr::V4)
            .or(local.is_ipv4().then_some(local))
    };
    let ipv6 = || {
        let own = (local.is_ipv6() && is_reachable(local, peer)).then_some(local);
        peer.next_hop_ipv6.map(IpAddr::V6).or(own)
    };
    match family {
        Family::Ipv4 if negotiated.extended_next_hop => ipv4().or_else(ipv6),
        Family::Ipv4 => ipv4(),
        Family::Ipv6 => ipv6(),
    }
    .ok_or(Untold::NextHop)
}

/// A link-local address is a next hop for a router that knows its neighbours by such addresses, and for no other.
fn is_reachable(local: IpAddr, peer: &Peer) -> bool {
    let link_local = match local {
        IpAddr::V4(_) => false,
        IpAddr::V6(local) => local.is_unicast_link_local(),
    };
    match peer.id {
        PeerId::Address(_) => !link_local,
        PeerId::LinkLocal(..) | PeerId::Interface(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routing::{Community, Interface, Med};
    use crate::snapshot::{Condition, Refusal};

    const V4: &str = "192.0.2.1";
    const V6: &str = "2001:db8::1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn peer(change: impl FnOnce(&mut Peer)) -> Arc<Peer> {
        let mut peer = Peer::new(ip("10.0.0.2").into(), 64601);
        change(&mut peer);
        Arc::new(peer)
    }

    fn agreed(change: impl FnOnce(&mut Negotiated)) -> Negotiated {
        let mut negotiated = Negotiated::plain([Family::Ipv4, Family::Ipv6].into());
        change(&mut negotiated);
        negotiated
    }

    fn vip(announce: Result<Announcement, Refusal>) -> Vip {
        Vip {
            services: BTreeSet::new(),
            present: true,
            fault: None,
            condition: Condition::Healthy,
            prefix: None,
            announce,
        }
    }

    /// The next hop of an IPv4 and of an IPv6 address.
    fn next_hops(
        peer: Arc<Peer>,
        negotiated: &Negotiated,
        local: &str,
    ) -> [Result<IpAddr, Untold>; 2] {
        let mut export = Export::new(peer, negotiated, ip(local));
        let vip = vip(Ok(Announcement::default()));
        [V4, V6].map(|address| {
            let route = export.route(ip(address), &vip).expect("it is meant");
            route.map(|route| route.next_hop)
        })
    }

    #[test]
    fn where_the_next_hop_comes_from() {
        let (none, good) = (Err(Untold::NextHop), |text| Ok(ip(text)));
        let plain = || peer(|_| {});
        let all = agreed(|_| {});
        let extended = agreed(|agreed| agreed.extended_next_hop = true);

        assert_eq!(
            next_hops(plain(), &all, "10.0.0.1"),
            [good("10.0.0.1"), none]
        );
        assert_eq!(
            next_hops(plain(), &all, "::ffff:10.0.0.1"),
            [good("10.0.0.1"), none]
        );
        assert_eq!(next_hops(plain(), &all, "fd00::1"), [none, good("fd00::1")]);
        assert_eq!(
            next_hops(plain(), &extended, "fd00::1"),
            [good("fd00::1"); 2]
        );

        let both = || {
            peer(|peer| {
                peer.next_hop_ipv4 = Some([10, 0, 0, 9].into());
                peer.next_hop_ipv6 = "fd00::9".parse().ok();
            })
        };
        for local in ["10.0.0.1", "fd00::1"] {
            for negotiated in [&all, &extended] {
                let told = next_hops(both(), negotiated, local);
                assert_eq!(told, [good("10.0.0.9"), good("fd00::9")], "{local}");
            }
        }

        assert_eq!(next_hops(plain(), &extended, "fe80::1"), [none; 2]);
        let eth1 = Interface::new("eth1").unwrap();
        let unnumbered = peer(|peer| peer.id = PeerId::Interface(eth1));
        assert_eq!(
            next_hops(unnumbered, &extended, "fe80::1"),
            [good("fe80::1"); 2]
        );
        let ipv4 = agreed(|agreed| agreed.families = [Family::Ipv4].into());
        assert_eq!(
            next_hops(both(), &ipv4, "fd00::1"),
            [good("10.0.0.9"), Err(Untold::Family)]
        );
    }

    #[test]
    fn who_is_told() {
        let group = |name: &str| BTreeSet::from([Arc::from(name)]);
        let to = |groups: Option<BTreeSet<Arc<str>>>| {
            vip(Ok(Announcement {
                to: groups.map(Arc::new),
                ..Announcement::default()
            }))
        };
        let mut edge = Export::new(
            peer(|peer| peer.groups = group("edge")),
            &agreed(|_| {}),
            ip("10.0.0.1"),
        );
        let mut none = Export::new(peer(|_| {}), &agreed(|_| {}), ip("10.0.0.1"));
        for (vip, told) in [
            (to(None), [true, true]),
            (to(Some(group("edge"))), [true, false]),
            (to(Some(group("core"))), [false, false]),
            (to(Some(BTreeSet::new())), [false, false]),
            (vip(Err(Refusal::NothingPooled)), [false, false]),
        ] {
            let now = [&mut edge, &mut none].map(|export| export.route(ip(V4), &vip).is_some());
            assert_eq!(now, told, "{vip:?}");
        }
        assert!(
            edge.route(ip("224.0.0.1"), &to(None)).is_none(),
            "no unicast address"
        );
        // One session a family: the other family's addresses are nothing that this peer lacks.
        let ipv4 = || BTreeSet::from([Family::Ipv4]);
        let mut half = Export::new(
            peer(|peer| peer.families = ipv4()),
            &agreed(|agreed| agreed.families = ipv4()),
            ip("10.0.0.1"),
        );
        assert!(half.route(ip(V6), &to(None)).is_none(), "not configured");
        assert!(half.route(ip(V4), &to(None)).is_some());
    }

    /// So that whoever reads what a peer has been told finds the address again.
    #[test]
    fn a_wider_prefix_has_a_route_of_its_own() {
        let mut export = Export::new(peer(|_| {}), &agreed(|_| {}), ip("10.0.0.1"));
        let mut route = |address, prefix: Option<&str>| {
            let prefix = prefix.map(|prefix| prefix.parse().unwrap());
            let vip = Vip {
                prefix,
                ..vip(Ok(Announcement::default()))
            };
            export.route(ip(address), &vip).unwrap().unwrap()
        };
        let itself = route(V4, None);
        assert!(Arc::ptr_eq(&itself, &route("192.0.2.2", None)));
        let wider = route(V4, Some("192.0.2.0/24"));
        assert_eq!(wider.address(&"192.0.2.0/24".parse().unwrap()), ip(V4));
        assert_eq!(itself.address(&ip("192.0.2.2").into()), ip("192.0.2.2"));
        assert_eq!(wider.attributes, itself.attributes);
    }

    #[test]
    fn attributes_come_of_all_layers_and_equal_routes_are_one() {
        let layer = |med, community| {
            Arc::new(Policy {
                med,
                communities: [Community::Standard(community)].into(),
                ..Policy::default()
            })
        };
        let announcement = || Announcement {
            base: layer(Some(Med::Set(10)), 1),
            own: layer(Some(Med::Add(5)), 3),
            condition: layer(Some(Med::Add(1000)), 4),
            to: None,
        };
        let peer = peer(|peer| peer.policy = layer(Some(Med::Set(50)), 2));
        let mut export = Export::new(peer, &agreed(|_| {}), ip("10.0.0.1"));
        let mut route = |announcement| {
            export
                .route(ip(V4), &vip(Ok(announcement)))
                .unwrap()
                .unwrap()
        };
        let one = route(announcement());
        assert_eq!(one.attributes.med, 1055);
        assert_eq!(one.attributes.communities.len(), 4);
        assert!(Arc::ptr_eq(&one, &route(announcement())));
        let other = route(Announcement {
            condition: Arc::default(),
            ..announcement()
        });
        assert_eq!(other.attributes.med, 55);
        // Thousands of others, each forgotten at once, leave nothing behind.
        for med in 0..5000 {
            route(Announcement {
                own: Arc::new(Policy::of_med(med)),
                ..announcement()
            });
        }
        assert!(
            Arc::ptr_eq(&one, &route(announcement())),
            "what is in use stays"
        );
        assert!(export.routes.len() <= 64, "{}", export.routes.len());
    }
}
