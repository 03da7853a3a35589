//! `/bgp`: the sessions with the routers, what each has been told, and who else announces our addresses.
//! All of it stands in the snapshot; figures and timers are read as they are at this moment.

mod addresses;
mod overview;
mod peer;
mod routes;
mod words;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config;
use crate::routing::PeerId;
use crate::routing::session::Session;
use crate::snapshot::{PeerOrders, Snapshot};

pub(super) use self::overview::{heard, last_error};
pub(super) use self::routes::Why;

use super::Now;
use super::accept::Form;
use super::resource::Bgp;

/// The messages that [`Figures`](crate::routing::session::Figures) count, in their order.
pub(super) const MESSAGES: [&str; 5] = [
    "open",
    "update",
    "notification",
    "keepalive",
    "route-refresh",
];

/// `Err`: there is no such peer, and which there are.
pub(super) fn found(
    resource: &Bgp,
    snapshot: &Snapshot,
    form: Form,
    now: Now,
) -> Result<String, String> {
    Ok(match resource {
        Bgp::Peers => overview::overview(snapshot, form, now),
        Bgp::Addresses => addresses::addresses(snapshot, form),
        Bgp::Peer(name) => peer::peer(&Known::find(snapshot, name)?, form, now),
        Bgp::Routes(name) => routes::routes(&Known::find(snapshot, name)?, snapshot, form),
    })
}

/// A configured peer with all that the snapshot knows of it.
pub(super) struct Known<'a> {
    pub(super) id: &'a PeerId,
    pub(super) peer: &'a config::Peer,
    pub(super) local_as: u32,
    /// `None`: nothing was heard of its session yet.
    pub(super) session: Option<&'a Session>,
    pub(super) orders: Option<&'a PeerOrders>,
}

impl<'a> Known<'a> {
    pub(super) fn all(snapshot: &'a Snapshot) -> impl Iterator<Item = Known<'a>> {
        let bgp = snapshot.config.bgp.iter();
        bgp.flat_map(|bgp| {
            let peers = bgp.peers.iter();
            peers.map(|(id, peer)| Known::of(snapshot, bgp.local_as, id, peer))
        })
    }

    fn of(
        snapshot: &'a Snapshot,
        local_as: u32,
        id: &'a PeerId,
        peer: &'a Arc<config::Peer>,
    ) -> Known<'a> {
        Known {
            id,
            peer,
            local_as,
            session: snapshot.peers.get(id),
            orders: snapshot.peer_orders.get(id),
        }
    }

    /// By the name it has, or by another way to write its address. `Err`: the names that there are.
    pub(super) fn find(snapshot: &'a Snapshot, name: &str) -> Result<Known<'a>, String> {
        let address = name.parse::<IpAddr>().ok().map(PeerId::Address);
        let named =
            |known: &Known<'_>| Some(known.id) == address.as_ref() || known.id.to_string() == name;
        Known::all(snapshot).find(named).ok_or_else(|| {
            let names: Vec<String> = Known::all(snapshot).map(|k| k.id.to_string()).collect();
            match names.as_slice() {
                [] => "No BGP is configured".to_owned(),
                names => format!("No such peer; there are {}", names.join(", ")),
            }
        })
    }

    /// Whether the session is kept down.
    pub(super) fn disabled(&self) -> bool {
        let said = self.orders.and_then(|orders| orders.enabled);
        !said.unwrap_or(self.peer.enabled)
    }

    pub(super) fn internal(&self) -> bool {
        self.local_as == self.peer.peer_as
    }

    /// How many addresses it has been told, of how many.
    pub(super) fn told(&self, snapshot: &Snapshot) -> (usize, usize) {
        let wanted = snapshot.vips.iter().filter(|(address, vip)| {
            let announce = vip.announce.as_ref();
            announce.is_ok_and(|it| self.peer.is_meant(**address, it.to.as_deref()))
        });
        let told = self.session.map_or(0, |session| session.routes.len());
        (told, wanted.count())
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn a_peer_is_found_by_any_way_to_write_it() {
        let mut snapshot = sample::snapshot([]);
        let found = |snapshot: &Snapshot, name: &str| {
            Known::find(snapshot, name).map(|known| known.id.to_string())
        };
        let none = Err("No BGP is configured".to_owned());
        assert_eq!(found(&snapshot, "10.0.0.1"), none);
        sample::sessions(&mut snapshot);
        for (name, id) in [
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("fe80::1%eth1", "fe80::1%eth1"),
            ("eth2", "eth2"),
        ] {
            assert_eq!(found(&snapshot, name), Ok(id.to_owned()));
        }
        for name in ["", "eth", "10.0.0.9", "fe80::1"] {
            let names = "No such peer; there are 10.0.0.1, 2001:db8::1, fe80::1%eth1, eth2";
            assert_eq!(found(&snapshot, name), Err(names.to_owned()));
        }
    }
}
