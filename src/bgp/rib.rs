//! What one peer is to be told, what it has been told, and the difference as UPDATEs. Pure.
//!
//! It is state, not a queue: whatever changes while a peer does not read, the difference is never
//! larger than the table, and only what is wanted at last is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::message::{self, Dialect};
use super::session::Negotiated;
use crate::routing::session::Route;
use crate::service::Family;

/// The routes of one established session.
#[derive(Debug)]
pub(crate) struct RibOut {
    dialect: Dialect,
    families: BTreeSet<Family>,
    wanted: BTreeMap<IpAddr, Arc<Route>>,
    /// What the peer has, as soon as all that [`RibOut::next`] gave has reached it.
    sent: BTreeMap<IpAddr, Arc<Route>>,
    /// What the peer may have now: withdrawn only when [`RibOut::written`] says so.
    told: OrdMap<IpAddr, Arc<Route>>,
    /// In `sent`, not in `wanted`.
    withdrawals: BTreeSet<IpAddr>,
    /// In `wanted`, and to be sent; by attributes, since an UPDATE has one set of them.
    announcements: BTreeMap<Arc<Route>, BTreeSet<IpAddr>>,
    /// End-of-RIB markers (RFC 4724 section 2) that follow the first whole table.
    marks: BTreeSet<Family>,
}

/// One UPDATE to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) frame: Vec<u8>,
    /// To hand to [`RibOut::written`] once the frame has been written.
    pub(crate) withdrawn: Vec<IpAddr>,
}

impl RibOut {
    pub(crate) fn new(local_as: u32, internal: bool, negotiated: &Negotiated) -> RibOut {
        RibOut {
            dialect: Dialect {
                local_as,
                internal,
                four_octet_as: negotiated.four_octet_as,
                longest: message::LONGEST,
                only_to_customer: false,
            },
            families: negotiated.families.clone(),
            wanted: BTreeMap::new(),
            sent: BTreeMap::new(),
            told: OrdMap::new(),
            withdrawals: BTreeSet::new(),
            announcements: BTreeMap::new(),
            marks: negotiated.families.clone(),
        }
    }

    /// From now on the peer is to have this of the prefix; `None`: nothing.
    /// Prefixes of a family that was not agreed on are left out.
    pub(crate) fn want(&mut self, prefix: IpAddr, route: Option<Arc<Route>>) {
        let route = route.filter(|_| self.families.contains(&Family::of(prefix)));
        if self.wanted.get(&prefix) == route.as_ref() {
            return;
        }
        self.forget_announcement(prefix);
        self.withdrawals.remove(&prefix);
        match route {
            Some(route) => {
                self.wanted.insert(prefix, route.clone());
                if self.sent.get(&prefix) != Some(&route) {
                    self.announcements.entry(route).or_default().insert(prefix);
                }
            }
            None => {
                self.wanted.remove(&prefix);
                if self.sent.contains_key(&prefix) {
                    self.withdrawals.insert(prefix);
                }
            }
        }
    }

    /// Everything is to go.
    pub(crate) fn want_nothing(&mut self) {
        self.wanted.clear();
        self.announcements.clear();
        self.withdrawals = self.sent.keys().copied().collect();
    }

    /// The peer asked for this family again (RFC 2918 section 4).
    pub(crate) fn refresh(&mut self, family: Family) {
        for (prefix, route) in &self.wanted {
            if Family::of(*prefix) == family {
                self.announcements
                    .entry(route.clone())
                    .or_default()
                    .insert(*prefix);
            }
        }
    }

    /// Whether [`RibOut::next`] has something.
    pub(crate) fn is_pending(&self) -> bool {
        !(self.withdrawals.is_empty() && self.announcements.is_empty() && self.marks.is_empty())
    }

    /// The next UPDATE, to be written for sure: withdrawals first, then announcements, then the markers.
    pub(crate) fn next(&mut self) -> Option<Update> {
        if let Some(first) = self.withdrawals.first() {
            let family = Family::of(*first);
            let room = message::withdrawals_per_update(self.dialect, family);
            let withdrawn = take(&mut self.withdrawals, family, room);
            for prefix in &withdrawn {
                self.sent.remove(prefix);
            }
            return Some(Update {
                frame: message::withdraw(family, &withdrawn),
                withdrawn,
            });
        }
        if let Some(mut group) = self.announcements.first_entry() {
            let route = group.key().clone();
            let family = group
                .get()
                .first()
                .map_or(Family::Ipv4, |&one| Family::of(one));
            let room = message::prefixes_per_update(self.dialect, &route, family);
            let prefixes = take(group.get_mut(), family, room);
            if group.get().is_empty() {
                group.remove();
            }
            for prefix in &prefixes {
                self.sent.insert(*prefix, route.clone());
                self.told.insert(*prefix, route.clone());
            }
            let frame = message::announce(self.dialect, &route, &prefixes);
            return Some(Update {
                frame,
                withdrawn: Vec::new(),
            });
        }
        let family = self.marks.pop_first()?;
        Some(Update {
            frame: message::end_of_rib(family),
            withdrawn: Vec::new(),
        })
    }

    /// The socket has taken the UPDATE that withdrew these.
    pub(crate) fn written(&mut self, withdrawn: &[IpAddr]) {
        for prefix in withdrawn {
            // It may have been announced again behind that.
            if !self.sent.contains_key(prefix) {
                self.told.remove(prefix);
            }
        }
    }

    /// What the peer has been told of and not been told otherwise.
    pub(crate) fn told(&self) -> &OrdMap<IpAddr, Arc<Route>> {
        &self.told
    }

    pub(crate) fn four_octet_as(&self) -> bool {
        self.dialect.four_octet_as
    }

    fn forget_announcement(&mut self, prefix: IpAddr) {
        let Some(route) = self.wanted.get(&prefix) else {
            return;
        };
        if let Some(group) = self.announcements.get_mut(route) {
            group.remove(&prefix);
            if group.is_empty() {
                self.announcements.remove(route);
            }
        }
    }
}

/// The first prefixes, so many as there is room for; all of them of this family, which come together.
fn take(from: &mut BTreeSet<IpAddr>, family: Family, room: usize) -> Vec<IpAddr> {
    let of_family = from
        .iter()
        .take_while(|prefix| Family::of(**prefix) == family);
    let taken: Vec<IpAddr> = of_family.take(room).copied().collect();
    for prefix in &taken {
        from.remove(prefix);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::bgp::message::{Message, Sender};
    use crate::routing::Attributes;

    const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];
    const SENDER: Sender = Sender {
        internal: false,
        four_octet_as: true,
    };

    fn rib(families: &[Family]) -> RibOut {
        let families = families.iter().copied().collect();
        RibOut::new(64600, false, &Negotiated::plain(families))
    }

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    fn v6(n: u32) -> IpAddr {
        Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(n)).into()
    }

    fn by(next_hop: IpAddr, med: u32) -> Option<Arc<Route>> {
        let attributes = Attributes {
            med,
            ..Attributes::default()
        };
        Some(Arc::new(Route {
            next_hop,
            attributes: attributes.into(),
        }))
    }

    /// All that is pending, as (announced, withdrawn) a message; each acknowledged.
    fn drain(rib: &mut RibOut) -> Vec<(usize, usize)> {
        let mut sent = Vec::new();
        while let Some(update) = rib.next() {
            rib.written(&update.withdrawn);
            match message::decode(&update.frame, SENDER) {
                Ok(Message::Update(update)) if update.fault.is_none() => {
                    sent.push((update.announced.len(), update.withdrawn.len()));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(!rib.is_pending());
        sent
    }

    #[test]
    fn withdrawals_first_then_groups_then_marks() {
        let mut rib = rib(&BOTH);
        assert_eq!(
            drain(&mut rib),
            [(0, 0), (0, 0)],
            "End-of-RIB of an empty table"
        );
        for n in 0..3 {
            rib.want(v4(n), by(v4(99), 1));
            rib.want(v6(n), by(v6(99), 1));
        }
        rib.want(v4(3), by(v4(99), 2));
        assert_eq!(drain(&mut rib), [(3, 0), (1, 0), (3, 0)]);
        rib.want(v4(4), by(v4(99), 1));
        rib.want(v4(0), None);
        rib.want(v6(0), None);
        assert_eq!(drain(&mut rib), [(0, 1), (0, 1), (1, 0)]);
    }

    #[test]
    fn a_large_table_goes_in_chunks() {
        let mut rib = rib(&[Family::Ipv4]);
        for n in 0..2000 {
            rib.want(v4(n), by(v4(9999), 1));
        }
        let sent = drain(&mut rib);
        assert_eq!(
            sent.iter().map(|(announced, _)| announced).sum::<usize>(),
            2000
        );
        assert_eq!(sent.len(), 4, "three of routes, one End-of-RIB");
        rib.want_nothing();
        assert_eq!(drain(&mut rib).len(), 3);
        assert!(rib.told().is_empty());
    }

    #[test]
    fn what_changed_back_is_not_sent() {
        let mut rib = rib(&BOTH);
        rib.want(v4(1), by(v4(99), 1));
        drain(&mut rib);
        rib.want(v4(1), by(v4(99), 2));
        rib.want(v4(1), by(v4(99), 1));
        rib.want(v4(2), by(v4(99), 1));
        rib.want(v4(2), None);
        rib.want(v4(1), None);
        rib.want(v4(1), by(v4(99), 1));
        assert_eq!(drain(&mut rib), []);
        rib.want(v4(1), by(v4(99), 2));
        assert_eq!(
            drain(&mut rib),
            [(1, 0)],
            "other attributes replace, without a withdrawal"
        );
    }

    #[test]
    fn a_prefix_counts_as_told_until_its_withdrawal_is_written() {
        let mut rib = rib(&[Family::Ipv4]);
        rib.want(v4(1), by(v4(99), 1));
        drain(&mut rib);
        rib.want(v4(1), None);
        let withdrawal = rib.next().unwrap();
        assert!(rib.told().contains_key(&v4(1)));
        rib.want(v4(1), by(v4(99), 1));
        rib.next().unwrap();
        rib.written(&withdrawal.withdrawn);
        assert!(rib.told().contains_key(&v4(1)), "announced again behind it");
        rib.want(v4(1), None);
        drain(&mut rib);
        assert!(rib.told().is_empty());
    }

    #[test]
    fn refresh_and_families() {
        let mut rib = rib(&[Family::Ipv4]);
        rib.want(v4(1), by(v4(99), 1));
        rib.want(v6(1), by(v6(99), 1));
        assert_eq!(drain(&mut rib), [(1, 0), (0, 0)], "IPv6 was not agreed on");
        rib.refresh(Family::Ipv6);
        assert_eq!(drain(&mut rib), []);
        rib.refresh(Family::Ipv4);
        assert_eq!(drain(&mut rib), [(1, 0)]);
        rib.refresh(Family::Ipv4);
        rib.want(v4(1), None);
        assert_eq!(drain(&mut rib), [(0, 1)]);
    }

    proptest! {
        /// Whatever happens in between, at last the peer has what is wanted.
        #[test]
        fn ends_equal(steps in prop::collection::vec((0u32..6, 0u32..4, 0u8..5), 0..200)) {
            let mut rib = rib(&BOTH);
            let mut wanted = BTreeMap::new();
            let mut unwritten = Vec::new();
            for (n, med, step) in steps {
                let (prefix, next_hop) = if n < 3 { (v4(n), v4(99)) } else { (v6(n), v6(99)) };
                let route = by(next_hop, med).filter(|_| med > 0);
                match step {
                    0 | 1 => {
                        rib.want(prefix, route.clone());
                        match route {
                            Some(route) => drop(wanted.insert(prefix, route)),
                            None => drop(wanted.remove(&prefix)),
                        }
                    }
                    2 => unwritten.extend(rib.next().map(|update| update.withdrawn)),
                    3 if !unwritten.is_empty() => rib.written(&unwritten.remove(0)),
                    _ => rib.refresh(Family::of(prefix)),
                }
                prop_assert!(rib.sent.keys().all(|prefix| rib.told.contains_key(prefix)));
            }
            for withdrawn in unwritten {
                rib.written(&withdrawn);
            }
            drain(&mut rib);
            prop_assert_eq!(&rib.sent, &wanted);
            prop_assert!(rib.told.keys().eq(wanted.keys()));
        }
    }
}
