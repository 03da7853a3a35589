//! What one peer is to be told, what it has been told, and the difference as UPDATEs. Pure.
//!
//! It is state, not a queue: whatever changes while a peer does not read, the difference is never
//! larger than the table, and only what is wanted at last is sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use ipnet::IpNet;
use tokio::time::Instant;

use super::message::{self, Dialect};
use super::session::{Ends, Negotiated};
use crate::routing::Role;
use crate::routing::session::Route;
use crate::service::Family;

/// So many void entries of [`Recent`] are not worth looking for.
const CROWDED: usize = 64;

/// The routes of one established session.
#[derive(Debug)]
pub(crate) struct RibOut {
    dialect: Dialect,
    families: BTreeSet<Family>,
    /// Whether a refresh is marked by its begin and end (RFC 7313).
    marks_refreshes: bool,
    wanted: BTreeMap<IpNet, Arc<Route>>,
    /// What the peer has, as soon as all that [`RibOut::next`] gave has reached it.
    sent: BTreeMap<IpNet, Arc<Route>>,
    /// What the peer may have now: withdrawn only when [`RibOut::written`] says so.
    told: OrdMap<IpNet, Arc<Route>>,
    /// In `sent`, not in `wanted`.
    withdrawals: BTreeSet<IpNet>,
    /// By what takes their place, which is in `wanted` and not in `sent`: to be withdrawn behind the announcement
    /// of that, unless they are in `wanted` again by then.
    replaced: BTreeMap<IpNet, BTreeSet<IpNet>>,
    /// In `wanted`, and to be sent now; by attributes, since an UPDATE has one set of them.
    announcements: Announcements,
    /// In `wanted`, and to be sent when their time in `recent` is over.
    held: BTreeSet<IpNet>,
    recent: Recent,
    /// End-of-RIB markers (RFC 4724 section 2) that follow the first whole table.
    marks: BTreeSet<Family>,
    /// Refreshes that were asked for and are not begun; that are begun and not ended.
    asked: BTreeSet<Family>,
    refreshing: BTreeSet<Family>,
}

type Announcements = BTreeMap<(Family, Arc<Route>), BTreeSet<IpNet>>;

/// One message to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) frame: Vec<u8>,
    /// To hand to [`RibOut::written`] once the frame has been written.
    pub(crate) withdrawn: Vec<IpNet>,
}

/// When prefixes were last announced, for as long as that keeps them from being announced again
/// (RFC 4271 section 9.2.1.1).
#[derive(Debug)]
struct Recent {
    /// MinRouteAdvertisementIntervalTimer.
    interval: Duration,
    at: BTreeMap<IpNet, Instant>,
    /// The same in order of time, with entries that a later one has made void.
    order: VecDeque<(Instant, IpNet)>,
}

impl RibOut {
    pub(crate) fn new(ends: &Ends, negotiated: &Negotiated, interval: Duration) -> RibOut {
        RibOut {
            dialect: dialect(ends, negotiated),
            families: negotiated.families.clone(),
            marks_refreshes: negotiated.enhanced_route_refresh,
            wanted: BTreeMap::new(),
            sent: BTreeMap::new(),
            told: OrdMap::new(),
            withdrawals: BTreeSet::new(),
            replaced: BTreeMap::new(),
            announcements: BTreeMap::new(),
            held: BTreeSet::new(),
            recent: Recent {
                interval,
                at: BTreeMap::new(),
                order: VecDeque::new(),
            },
            marks: negotiated.families.clone(),
            asked: BTreeSet::new(),
            refreshing: BTreeSet::new(),
        }
    }

    /// The least time between two announcements of one prefix, from now on.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.recent.interval = interval;
    }

    /// From now on the peer is to have this of the prefix; `None`: nothing.
    /// Prefixes of a family that was not agreed on are left out.
    pub(crate) fn want(&mut self, prefix: IpNet, route: Option<Arc<Route>>) {
        let route = route.filter(|_| self.families.contains(&Family::of_prefix(&prefix)));
        if self.wanted.get(&prefix) == route.as_ref() {
            return;
        }
        self.forget_announcement(prefix);
        self.withdrawals.remove(&prefix);
        match route {
            Some(route) => {
                let news = self.sent.get(&prefix) != Some(&route);
                if news && self.recent.at.contains_key(&prefix) {
                    self.held.insert(prefix);
                } else if news {
                    send(&mut self.announcements, prefix, &route);
                }
                self.wanted.insert(prefix, route);
            }
            None => {
                self.wanted.remove(&prefix);
                if self.sent.contains_key(&prefix) {
                    self.withdrawals.insert(prefix);
                }
                self.withdraw_replaced_by(prefix);
            }
        }
    }

    /// The prefix is to go, and traffic is never to be without a route: if the other one takes its place, then
    /// behind the announcement of that, even if that has to wait for its time.
    pub(crate) fn replace(&mut self, prefix: IpNet, by: IpNet) {
        let mut waiting = self.replaced.remove(&prefix).unwrap_or_default();
        self.want(prefix, None);
        if self.withdrawals.remove(&prefix) {
            waiting.insert(prefix);
        }
        if !waiting.is_empty() {
            self.replaced.entry(by).or_default().append(&mut waiting);
        }
        if self.sent.contains_key(&by) || !self.wanted.contains_key(&by) {
            self.withdraw_replaced_by(by);
        }
    }

    /// Everything is to go.
    pub(crate) fn want_nothing(&mut self) {
        self.wanted.clear();
        self.announcements.clear();
        self.held.clear();
        self.replaced.clear();
        self.withdrawals = self.sent.keys().copied().collect();
    }

    /// The peer asked for this family again (RFC 2918 section 4).
    pub(crate) fn refresh(&mut self, family: Family) {
        if self.families.contains(&family) {
            self.asked.insert(family);
        }
    }

    /// Lets go of what has been held for long enough. To be called at [`RibOut::next_due`].
    pub(crate) fn release(&mut self, now: Instant) {
        while let Some(prefix) = self.recent.expired(now) {
            if self.held.remove(&prefix)
                && let Some(route) = self.wanted.get(&prefix)
            {
                send(&mut self.announcements, prefix, route);
            }
        }
    }

    /// When something that is held may go. It may be nothing yet: then this says a later time.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let (first, _) = self
            .recent
            .order
            .front()
            .filter(|_| !self.held.is_empty())?;
        Some(*first + self.recent.interval)
    }

    /// Whether [`RibOut::next`] has something.
    pub(crate) fn is_pending(&self) -> bool {
        let RibOut {
            withdrawals,
            announcements,
            marks,
            asked,
            refreshing,
            ..
        } = self;
        let families = [marks, asked, refreshing];
        !(withdrawals.is_empty()
            && announcements.is_empty()
            && families.iter().all(|one| one.is_empty()))
    }

    /// The next message, to be written for sure: withdrawals first, then announcements, then the markers.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Update> {
        if let Some(first) = self.withdrawals.first() {
            return Some(self.withdraw(Family::of_prefix(first)));
        }
        // A refresh begins when the first table is through, so that its end and the refresh's are told apart.
        while let Some(family) = self.asked.difference(&self.marks).next().copied() {
            self.begin_refresh(family);
            if self.marks_refreshes && self.refreshing.insert(family) {
                return Some(Update::of(message::begin_refresh(family)));
            }
        }
        if let Some(update) = self.announce(now) {
            return Some(update);
        }
        if let Some(family) = self.marks.pop_first() {
            return Some(Update::of(message::end_of_rib(family)));
        }
        if let Some(family) = self.refreshing.pop_first() {
            return Some(Update::of(message::end_refresh(family)));
        }
        None
    }

    /// The socket has taken the UPDATE that withdrew these.
    pub(crate) fn written(&mut self, withdrawn: &[IpNet]) {
        for prefix in withdrawn {
            // It may have been announced again behind that.
            if !self.sent.contains_key(prefix) {
                self.told.remove(prefix);
            }
        }
    }

    /// What the peer has been told of and not been told otherwise.
    pub(crate) fn told(&self) -> &OrdMap<IpNet, Arc<Route>> {
        &self.told
    }

    fn withdraw(&mut self, family: Family) -> Update {
        let room = message::withdrawals_per_update(self.dialect, family);
        let withdrawn = take(&mut self.withdrawals, family, room);
        for prefix in &withdrawn {
            self.sent.remove(prefix);
        }
        Update {
            frame: message::withdraw(family, &withdrawn),
            withdrawn,
        }
    }

    fn announce(&mut self, now: Instant) -> Option<Update> {
        let mut group = self.announcements.first_entry()?;
        let (family, route) = group.key().clone();
        let room = message::prefixes_per_update(self.dialect, &route, family);
        let prefixes = take(group.get_mut(), family, room);
        if group.get().is_empty() {
            group.remove();
        }
        for prefix in &prefixes {
            self.sent.insert(*prefix, route.clone());
            self.told.insert(*prefix, route.clone());
            self.recent.announced(*prefix, now);
            self.withdraw_replaced_by(*prefix);
        }
        Some(Update::of(message::announce(
            self.dialect,
            &route,
            &prefixes,
        )))
    }

    /// All of the family is to be sent, and what is held goes with it.
    fn begin_refresh(&mut self, family: Family) {
        self.asked.remove(&family);
        self.held
            .retain(|prefix| Family::of_prefix(prefix) != family);
        for (prefix, route) in &self.wanted {
            if Family::of_prefix(prefix) == family {
                send(&mut self.announcements, *prefix, route);
            }
        }
    }

    /// Those that have waited for it are withdrawn now.
    fn withdraw_replaced_by(&mut self, prefix: IpNet) {
        for replaced in self.replaced.remove(&prefix).into_iter().flatten() {
            if self.sent.contains_key(&replaced) && !self.wanted.contains_key(&replaced) {
                self.withdrawals.insert(replaced);
            }
        }
    }

    fn forget_announcement(&mut self, prefix: IpNet) {
        self.held.remove(&prefix);
        let Some(route) = self.wanted.get(&prefix) else {
            return;
        };
        let group = (Family::of_prefix(&prefix), route.clone());
        if let Some(prefixes) = self.announcements.get_mut(&group) {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.announcements.remove(&group);
            }
        }
    }
}

impl Update {
    pub(crate) fn of(frame: Vec<u8>) -> Update {
        Update {
            frame,
            withdrawn: Vec::new(),
        }
    }
}

impl Recent {
    fn announced(&mut self, prefix: IpNet, now: Instant) {
        if !self.interval.is_zero() {
            self.at.insert(prefix, now);
            self.order.push_back((now, prefix));
            // A peer may ask for refreshes as often as it likes.
            if self.order.len() > 2 * self.at.len() + CROWDED {
                let at = &self.at;
                self.order
                    .retain(|(time, prefix)| at.get(prefix) == Some(time));
            }
        }
    }

    /// Forgets the first whose time is over.
    fn expired(&mut self, now: Instant) -> Option<IpNet> {
        loop {
            let (at, prefix) = *self.order.front()?;
            if at + self.interval > now {
                return None;
            }
            self.order.pop_front();
            // It may have been announced once more, by a refresh.
            if self.at.get(&prefix) == Some(&at) {
                self.at.remove(&prefix);
                return Some(prefix);
            }
        }
    }
}

fn dialect(ends: &Ends, negotiated: &Negotiated) -> Dialect {
    let internal = ends.local_as == ends.peer_as;
    // RFC 9234 section 5: to those who are to pass our routes on to their customers alone.
    let only_to_customer = match ends.role {
        Some(Role::Provider | Role::Peer | Role::RouteServer) => !internal,
        Some(Role::Customer | Role::RouteServerClient) | None => false,
    };
    Dialect {
        local_as: ends.local_as,
        internal,
        four_octet_as: negotiated.four_octet_as,
        longest: if negotiated.extended_messages {
            message::LONGEST_EXTENDED
        } else {
            message::LONGEST
        },
        only_to_customer,
    }
}

/// Puts the prefix to the others that have this route and are to be sent.
fn send(announcements: &mut Announcements, prefix: IpNet, route: &Arc<Route>) {
    let group = (Family::of_prefix(&prefix), route.clone());
    announcements.entry(group).or_default().insert(prefix);
}

/// The first prefixes, so many as one UPDATE takes; all of them of this family, which come together.
fn take(from: &mut BTreeSet<IpNet>, family: Family, room: usize) -> Vec<IpNet> {
    let taken: Vec<IpNet> = from
        .iter()
        .take_while(|prefix| Family::of_prefix(prefix) == family)
        // Whatever the attributes, one goes: else nothing ever would.
        .take(room.max(1))
        .copied()
        .collect();
    for prefix in &taken {
        from.remove(prefix);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::bgp::message::{Message, RefreshKind};
    use crate::routing::Attributes;

    const EXTERNAL: message::Sender = message::Sender {
        internal: false,
        four_octet_as: true,
    };
    const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    fn rib(families: &[Family]) -> RibOut {
        rib_of(families, true, Duration::ZERO)
    }

    fn rib_of(families: &[Family], marks_refreshes: bool, interval: Duration) -> RibOut {
        let negotiated = Negotiated {
            enhanced_route_refresh: marks_refreshes,
            ..Negotiated::plain(families.iter().copied().collect())
        };
        RibOut::new(&Ends::plain(), &negotiated, interval)
    }

    fn v4(n: u32) -> IpNet {
        IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)).into()
    }

    fn v6(n: u32) -> IpNet {
        IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(n))).into()
    }

    fn by(next_hop: IpNet, med: u32) -> Option<Arc<Route>> {
        let attributes = Attributes {
            med,
            ..Attributes::default()
        };
        Some(Arc::new(Route {
            next_hop: next_hop.addr(),
            attributes: attributes.into(),
            inside: None,
        }))
    }

    /// All that is pending now, as (announced, withdrawn) a message; each acknowledged. A refresh's begin
    /// and end are left out.
    fn drain(rib: &mut RibOut) -> Vec<(usize, usize)> {
        drain_at(rib, Instant::now())
            .iter()
            .filter_map(|message| {
                let Message::Update(update) = message else {
                    return None;
                };
                Some((update.announced.len(), update.withdrawn.len()))
            })
            .collect()
    }

    fn drain_at(rib: &mut RibOut, now: Instant) -> Vec<Message> {
        rib.release(now);
        let mut sent = Vec::new();
        while let Some(update) = rib.next(now) {
            rib.written(&update.withdrawn);
            let message = message::decode(&update.frame, EXTERNAL).unwrap();
            if let Message::Update(update) = &message {
                assert_eq!(update.fault, None);
            }
            sent.push(message);
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
        let withdrawal = rib.next(Instant::now()).unwrap();
        assert!(rib.told().contains_key(&v4(1)));
        rib.want(v4(1), by(v4(99), 1));
        rib.next(Instant::now()).unwrap();
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

    /// Whatever was asked for is through when nothing more comes.
    #[test]
    fn both_families_may_be_asked_for_at_once() {
        for marks in [false, true] {
            let mut rib = rib_of(&BOTH, marks, Duration::ZERO);
            for family in BOTH {
                rib.refresh(family);
            }
            assert_eq!(drain(&mut rib), [(0, 0), (0, 0)]);
            rib.want(v6(1), by(v6(99), 1));
            drain(&mut rib);
            for family in BOTH {
                rib.refresh(family);
            }
            assert_eq!(drain(&mut rib), [(1, 0)]);
        }
    }

    const INTERVAL: Duration = Duration::from_secs(5);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn announcements_of_one_prefix_keep_their_distance_and_withdrawals_do_not() {
        let start = Instant::now();
        let at = |n| start + seconds(n);
        let mut rib = rib_of(&[Family::Ipv4], false, INTERVAL);
        let mut check = |n: u64, med: Option<u32>, sent: usize, due: Option<u64>| {
            rib.want(v4(1), med.and_then(|med| by(v4(99), med)));
            assert_eq!(drain_at(&mut rib, at(n)).len(), sent, "after {n} s");
            assert_eq!(rib.next_due(), due.map(at), "after {n} s");
        };
        check(0, Some(1), 2, None);
        check(1, Some(2), 0, Some(5));
        check(2, Some(3), 0, Some(5));
        check(4, Some(1), 0, None);
        check(4, Some(4), 0, Some(5));
        check(5, Some(4), 1, None);
        check(6, None, 1, None);
        check(7, Some(4), 0, Some(10));
        check(8, None, 0, None);
        check(9, Some(5), 0, Some(10));
        check(10, Some(5), 1, None);
        check(20, Some(6), 1, None);
        assert_eq!(rib.recent.order.len(), 1, "what is over is forgotten");
        assert_eq!(rib.recent.at.len(), 1);
        rib.want(v4(1), by(v4(99), 7));
        rib.set_interval(seconds(1));
        assert_eq!(drain_at(&mut rib, at(21)).len(), 1, "it is shorter now");
    }

    #[test]
    fn others_are_not_held_up() {
        let now = Instant::now();
        let mut rib = rib_of(&[Family::Ipv4], false, INTERVAL);
        rib.want(v4(1), by(v4(99), 1));
        drain_at(&mut rib, now);
        rib.want(v4(1), by(v4(99), 2));
        rib.want(v4(2), by(v4(99), 2));
        assert_eq!(drain_at(&mut rib, now).len(), 1);
        assert!(rib.told().contains_key(&v4(2)));
        rib.want_nothing();
        assert_eq!(drain_at(&mut rib, now).len(), 1);
        assert_eq!((rib.told().len(), rib.next_due()), (0, None));
    }

    /// What is left of a drain: a `+` or `-` and the prefix.
    fn changes(messages: Vec<Message>) -> Vec<String> {
        let of = |message| match message {
            Message::Update(update) => {
                let announced = update
                    .announced
                    .into_iter()
                    .map(|prefix| format!("+{prefix}"));
                let withdrawn = update.withdrawn.iter().map(|prefix| format!("-{prefix}"));
                announced.chain(withdrawn).collect::<Vec<_>>()
            }
            Message::RouteRefresh(_)
            | Message::Open(_)
            | Message::Notification(_)
            | Message::Keepalive => panic!("{message:?}"),
        };
        messages.into_iter().flat_map(of).collect()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// An address that is announced as another prefix is never without a route.
    #[test]
    fn what_takes_the_place_of_another_is_announced_before_that_is_withdrawn() {
        let now = Instant::now();
        let (host, wide, wider) = (v4(1), net("10.0.0.0/24"), net("10.0.0.0/16"));
        let route = || by(v4(99), 1);
        let start = || {
            let mut rib = rib_of(&[Family::Ipv4], false, INTERVAL);
            rib.want(host, route());
            assert_eq!(changes(drain_at(&mut rib, now)), ["+10.0.0.1/32"]);
            rib.want(wide, route());
            rib.replace(host, wide);
            rib
        };
        let both = ["+10.0.0.0/24", "-10.0.0.1/32"];
        assert_eq!(changes(drain_at(&mut start(), now)), both);

        // Other withdrawals do not wait, nor does this one if nothing takes its place any more.
        let mut rib = start();
        rib.want(wide, None);
        assert_eq!(changes(drain_at(&mut rib, now)), ["-10.0.0.1/32"]);
        let mut rib = start();
        rib.want_nothing();
        assert_eq!(changes(drain_at(&mut rib, now)), ["-10.0.0.1/32"]);

        // Back again, or on to another one, before anything was sent.
        let mut rib = start();
        rib.want(host, route());
        rib.replace(wide, host);
        assert_eq!(changes(drain_at(&mut rib, now)), [""; 0]);
        let mut rib = start();
        rib.want(wider, route());
        rib.replace(wide, wider);
        let both = ["+10.0.0.0/16", "-10.0.0.1/32"];
        assert_eq!(changes(drain_at(&mut rib, now)), both);

        // The one that was withdrawn a moment ago may not come back yet: until then the other one stays.
        let mut rib = start();
        drain_at(&mut rib, now);
        rib.want(host, route());
        rib.replace(wide, host);
        assert_eq!(changes(drain_at(&mut rib, now)), [""; 0]);
        assert_eq!(rib.next_due(), Some(now + INTERVAL));
        let both = ["+10.0.0.1/32", "-10.0.0.0/24"];
        assert_eq!(changes(drain_at(&mut rib, now + INTERVAL)), both);
        assert_eq!(rib.told().keys().copied().collect::<Vec<_>>(), [host]);
    }

    /// RFC 7313 section 4.
    #[test]
    fn a_refresh_has_a_begin_and_an_end_after_the_first_table() {
        let now = Instant::now();
        let mut rib = rib_of(&[Family::Ipv4], true, INTERVAL);
        for n in 0..3 {
            rib.want(v4(n), by(v4(99), n));
        }
        rib.refresh(Family::Ipv4);
        let kinds = |sent: &[Message]| -> Vec<&str> {
            let kind = |message: &Message| match message {
                Message::RouteRefresh(refresh) if refresh.kind == RefreshKind::Begin => "begin",
                Message::RouteRefresh(refresh) if refresh.kind == RefreshKind::End => "end",
                Message::Update(update) if !update.announced.is_empty() => "routes",
                Message::Update(update) if !update.withdrawn.is_empty() => "withdrawal",
                Message::Update(_) => "mark",
                Message::RouteRefresh(_)
                | Message::Open(_)
                | Message::Notification(_)
                | Message::Keepalive => panic!("{message:?}"),
            };
            sent.iter().map(kind).collect()
        };
        let table = ["routes", "routes", "routes"];
        let first = drain_at(&mut rib, now);
        let expected = [&table[..], &["mark", "begin"], &table, &["end"]].concat();
        assert_eq!(kinds(&first), expected);

        rib.want(v4(0), by(v4(99), 7));
        rib.refresh(Family::Ipv4);
        rib.want(v4(1), None);
        let second = drain_at(&mut rib, now);
        let expected = ["withdrawal", "begin", "routes", "routes", "end"];
        assert_eq!(kinds(&second), expected, "what was held is among them");
        assert_eq!(rib.next_due(), None);

        rib.refresh(Family::Ipv4);
        rib.next(now).unwrap();
        rib.refresh(Family::Ipv4);
        let again = drain_at(&mut rib, now);
        assert_eq!(
            kinds(&again),
            ["routes", "routes", "end"],
            "it is begun already"
        );
    }

    #[test]
    fn refreshes_as_often_as_a_peer_likes_cost_no_memory() {
        let mut rib = rib_of(&[Family::Ipv4], true, seconds(600));
        let mut now = Instant::now();
        for n in 0..3 {
            rib.want(v4(n), by(v4(99), 1));
        }
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            rib.refresh(Family::Ipv4);
            drain_at(&mut rib, now);
        }
        let recent = rib.recent.order.len();
        assert!(recent <= 2 * 3 + CROWDED, "{recent}");
        rib.want(v4(1), by(v4(99), 2));
        assert_eq!(drain_at(&mut rib, now), [], "its time is not over");
        let later = drain_at(&mut rib, now + seconds(600));
        assert_eq!(later.len(), 1, "nor is it forgotten");
    }

    #[test]
    fn an_ipv4_prefix_may_have_an_ipv6_next_hop() {
        let mut rib = rib(&BOTH);
        drain(&mut rib);
        rib.want(v4(1), by(v6(99), 1));
        rib.want(v6(1), by(v6(99), 1));
        rib.want(v4(2), by(v4(99), 1));
        assert_eq!(drain(&mut rib).len(), 3, "no family goes with another");
        rib.want(v4(1), None);
        rib.want(v6(1), None);
        assert_eq!(drain(&mut rib), [(0, 1), (0, 1)]);
    }

    /// RFC 9234 section 5, and to external peers alone.
    #[test]
    fn only_to_customer_hangs_on_our_role() {
        let negotiated = Negotiated::plain(BOTH.into());
        for (role, peer_as, marked) in [
            (Some(Role::Provider), 64601, true),
            (Some(Role::Peer), 64601, true),
            (Some(Role::RouteServer), 64601, true),
            (Some(Role::Customer), 64601, false),
            (Some(Role::RouteServerClient), 64601, false),
            (None, 64601, false),
            (Some(Role::Provider), 64600, false),
        ] {
            let ends = Ends {
                role,
                peer_as,
                ..Ends::plain()
            };
            assert_eq!(
                dialect(&ends, &negotiated).only_to_customer,
                marked,
                "{role:?}"
            );
        }
    }

    proptest! {
        /// Whatever happens in between, at last the peer has what is wanted, and no prefix was announced
        /// twice within the interval unless a refresh was asked for.
        #[test]
        fn ends_equal(
            marks in any::<bool>(),
            interval in 0u64..4,
            steps in prop::collection::vec((0u32..6, 0u32..4, 0u8..9), 0..200),
        ) {
            let interval = seconds(interval);
            let mut rib = rib_of(&BOTH, marks, interval);
            let mut wanted = BTreeMap::new();
            let mut unwritten = Vec::new();
            let (mut now, mut announced) = (Instant::now(), BTreeMap::new());
            let mut refreshed = false;
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
                    2 | 3 => {
                        rib.release(now);
                        let Some(update) = rib.next(now) else { continue };
                        let Ok(message) = message::decode(&update.frame, EXTERNAL) else {
                            panic!("{update:?}");
                        };
                        if let Message::Update(update) = message {
                            for prefix in update.announced {
                                let last = announced.insert(prefix, now);
                                let far = last.is_none_or(|last| now - last >= interval);
                                prop_assert!(far || refreshed, "{prefix}");
                            }
                        }
                        unwritten.push(update.withdrawn);
                    }
                    4 if !unwritten.is_empty() => rib.written(&unwritten.remove(0)),
                    5 => now += seconds(1),
                    6 | 7 => {
                        let by = if n < 3 { v4(med % 3) } else { v6(3 + med % 3) };
                        if by != prefix {
                            rib.replace(prefix, by);
                            wanted.remove(&prefix);
                        }
                    }
                    _ => {
                        rib.refresh(Family::of_prefix(&prefix));
                        refreshed = true;
                    }
                }
                prop_assert!(rib.sent.keys().all(|prefix| rib.told.contains_key(prefix)));
                prop_assert!(rib.held.iter().all(|prefix| rib.recent.at.contains_key(prefix)));
                prop_assert!(rib.held.is_empty() || rib.next_due().is_some());
                for by in rib.replaced.keys() {
                    prop_assert!(!rib.sent.contains_key(by) && rib.wanted.contains_key(by));
                }
                for gone in rib.sent.keys().filter(|prefix| !rib.wanted.contains_key(*prefix)) {
                    let waits = rib.replaced.values().any(|all| all.contains(gone));
                    prop_assert!(waits || rib.withdrawals.contains(gone));
                }
            }
            for withdrawn in unwritten {
                rib.written(&withdrawn);
            }
            drain_at(&mut rib, now + interval);
            prop_assert!(rib.replaced.is_empty());
            prop_assert_eq!(&rib.sent, &wanted);
            prop_assert!(rib.told.keys().eq(wanted.keys()));
            prop_assert!(rib.held.is_empty());
        }
    }
}
