//! All that lives as long as one established session: what the peer is told and what it tells us. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use tokio::time::Instant;

use super::export::Export;
use super::heard::Heard;
use super::message::{self, Refresh, RefreshKind};
use super::peer::Orders;
use super::peering::Side;
use super::rib::{RibOut, Update};
use super::session::Negotiated;
use crate::routing::session;
use crate::routing::session::{Foreign, Route, Untold};
use crate::service::Family;
use crate::snapshot::Vip;

/// The least time between two requests for the peer's routes of a family: it may have a million of them.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// A peer that has said that it will, and has not sent its End-of-RIB by then, is taken not to send one.
const FIRST_TABLE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) side: Side,
    pub(crate) since: Instant,
    negotiated: Negotiated,
    /// Our own end of the connection.
    local: IpAddr,
    rib: RibOut,
    export: Export,
    /// Whose the prefixes are that are wider than their address.
    wider: BTreeMap<IpNet, IpAddr>,
    untold: OrdMap<IpAddr, Untold>,
    heard: Heard,
    /// What was over the maximum when somebody last asked.
    over: BTreeSet<Family>,
    ask: Ask,
}

/// Families that the peer is to tell us of again.
#[derive(Debug)]
struct Ask {
    later: BTreeSet<Family>,
    /// Not before these times.
    not_before: BTreeMap<Family, Instant>,
    /// Of which the peer's first table is not over. It would send that, and nothing again.
    first: BTreeSet<Family>,
    now: BTreeSet<Family>,
}

impl Established {
    pub(crate) fn new(
        side: Side,
        local: IpAddr,
        negotiated: Negotiated,
        orders: &Orders,
        now: Instant,
    ) -> Established {
        let peer = &orders.peer;
        let mut established = Established {
            side,
            since: now,
            rib: RibOut::new(&orders.ends, &negotiated, peer.advertisement_interval),
            export: Export::new(peer.clone(), &negotiated, local),
            wider: BTreeMap::new(),
            untold: OrdMap::new(),
            heard: Heard::new(&negotiated.families, peer.maximum_prefixes),
            over: BTreeSet::new(),
            ask: Ask::new(&negotiated, now),
            negotiated,
            local,
        };
        established.want_all(orders);
        established
    }

    /// What is new in the orders goes into the difference that is to be sent; nothing is reset.
    pub(crate) fn obey(&mut self, before: &Orders, orders: &Orders) {
        let peer = &orders.peer;
        if !Arc::ptr_eq(&before.peer, peer) && before.peer != *peer {
            self.rib.set_interval(peer.advertisement_interval);
            self.heard.set_maximum(peer.maximum_prefixes);
            self.export = Export::new(peer.clone(), &self.negotiated, self.local);
            self.want_all(orders);
        }
        for change in before.vips.diff(&orders.vips) {
            match change {
                DiffItem::Add(address, vip) => {
                    self.want(*address, vip);
                    // If somebody else announces it, the peer may have said so when it was nothing to us.
                    self.ask.later.insert(Family::of(*address));
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (address, vip),
                } => {
                    self.want(*address, vip);
                    if old.prefix != vip.prefix {
                        self.leave(*address, old, Some(vip));
                        self.ask.later.insert(Family::of(*address));
                    }
                }
                DiffItem::Remove(address, vip) => {
                    self.leave(*address, vip, None);
                    self.note_untold(*address, None);
                }
            }
        }
        self.ask.later.extend(self.heard.take_short());
    }

    pub(crate) fn want_nothing(&mut self) {
        self.rib.want_nothing();
    }

    pub(crate) fn hear(&mut self, update: &message::Update, vips: &OrdMap<IpAddr, Arc<Vip>>) {
        let (told, wider) = (self.rib.told(), &self.wider);
        self.heard.hear(update, |prefix| {
            let ours = if prefix.prefix_len() < prefix.max_prefix_len() {
                wider.contains_key(prefix)
            } else {
                let vip = vips.get(&prefix.addr());
                vip.is_some_and(|vip| vip.prefix.is_none())
            };
            ours.then(|| told.get(prefix).map(|route| route.next_hop))
        });
        self.ask.later.extend(self.heard.take_short());
        if let Some(family) = update.end_of_rib {
            self.ask.first_is_over(family);
        }
    }

    /// Families that have gone over the maximum since this was last asked.
    pub(crate) fn newly_over_maximum(&mut self) -> BTreeSet<Family> {
        let over = self.heard.over_maximum();
        let new = over.difference(&self.over).copied().collect();
        self.over = over;
        new
    }

    /// The peer wants its routes of this family again.
    pub(crate) fn refresh(&mut self, family: Family) {
        self.rib.refresh(family);
    }

    /// Where a refresh that we asked for begins and ends; a request is the session's affair.
    pub(crate) fn refreshed(&mut self, refresh: Refresh) {
        let Some(family) = refresh.family else { return };
        match refresh.kind {
            RefreshKind::Begin => self.heard.begin_again(family),
            RefreshKind::End => self.heard.end_again(family),
            RefreshKind::Request | RefreshKind::Other(_) => {}
        }
    }

    /// What has waited for its time is pending from now on. To be called at [`Established::next_due`].
    pub(crate) fn release(&mut self, now: Instant) {
        self.rib.release(now);
        self.ask.release(now, self.negotiated.route_refresh);
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        [self.rib.next_due(), self.ask.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether [`Established::next`] has something.
    pub(crate) fn is_pending(&self) -> bool {
        self.rib.is_pending() || !self.ask.now.is_empty()
    }

    /// The next message, to be written for sure.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Update> {
        self.rib.next(now).or_else(|| {
            let family = self.ask.now.pop_first()?;
            Some(Update::of(message::request_refresh(family)))
        })
    }

    pub(crate) fn written(&mut self, withdrawn: &[IpNet]) {
        self.rib.written(withdrawn);
    }

    /// Whether the peer has nothing of ours, and nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.rib.told().is_empty() && !self.rib.is_pending()
    }

    pub(crate) fn routes(&self) -> &OrdMap<IpNet, Arc<Route>> {
        self.rib.told()
    }

    /// Whether there are addresses that the peer shall have, of a family that it did not agree on.
    pub(crate) fn misses_a_family(&self) -> bool {
        self.untold.values().any(|why| *why == Untold::Family)
    }

    pub(crate) fn untold(&self) -> &OrdMap<IpAddr, Untold> {
        &self.untold
    }

    pub(crate) fn foreign(&self) -> &OrdMap<IpNet, Arc<Foreign>> {
        self.heard.foreign()
    }

    /// As of the last [`Established::newly_over_maximum`].
    pub(crate) fn over_maximum(&self) -> &BTreeSet<Family> {
        &self.over
    }

    pub(crate) fn count(&self, family: Family) -> usize {
        self.heard.count(family)
    }

    pub(crate) fn four_octet_as(&self) -> bool {
        self.negotiated.four_octet_as
    }

    fn want_all(&mut self, orders: &Orders) {
        for (address, vip) in &orders.vips {
            self.want(*address, vip);
        }
    }

    fn want(&mut self, address: IpAddr, vip: &Vip) {
        let (route, why) = match self.export.route(address, vip) {
            Some(Ok(route)) => (Some(route), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let prefix = vip.prefix_of(address);
        if vip.prefix.is_some() {
            self.wider.insert(prefix, address);
        }
        self.rib.want(prefix, route);
        self.note_untold(address, why);
    }

    /// The address is not to be announced as it was; `now`: what it is by now. Its prefix may be another
    /// address's already: then nothing happens to it.
    fn leave(&mut self, address: IpAddr, was: &Vip, now: Option<&Vip>) {
        let prefix = was.prefix_of(address);
        if was.prefix.is_some() {
            if self.wider.get(&prefix) != Some(&address) {
                return;
            }
            self.wider.remove(&prefix);
        }
        match now {
            Some(now) => self.rib.replace(prefix, now.prefix_of(address)),
            None => self.rib.want(prefix, None),
        }
        self.heard.forget(&prefix);
    }

    /// What does not change is left as it is in memory, too: so nobody has to look.
    fn note_untold(&mut self, address: IpAddr, why: Option<Untold>) {
        if self.untold.get(&address) == why.as_ref() {
            return;
        }
        match why {
            Some(why) => drop(self.untold.insert(address, why)),
            None => drop(self.untold.remove(&address)),
        }
    }
}

impl Ask {
    fn new(negotiated: &Negotiated, now: Instant) -> Ask {
        let families = negotiated.families.iter();
        let first: BTreeSet<Family> = families
            .copied()
            .filter(|_| negotiated.end_of_rib)
            .collect();
        Ask {
            later: BTreeSet::new(),
            not_before: first.iter().map(|&f| (f, now + FIRST_TABLE)).collect(),
            first,
            now: BTreeSet::new(),
        }
    }

    fn first_is_over(&mut self, family: Family) {
        if self.first.remove(&family) {
            self.not_before.remove(&family);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let times = self.later.iter().filter_map(|f| self.not_before.get(f));
        times.min().copied()
    }

    fn release(&mut self, now: Instant, peer_takes_it: bool) {
        if !peer_takes_it {
            self.later.clear();
        }
        let not_before = &self.not_before;
        let ready = |family: &Family| not_before.get(family).is_none_or(|at| *at <= now);
        let ready: BTreeSet<Family> = self.later.extract_if(.., ready).collect();
        for &family in &ready {
            self.first.remove(&family);
            self.not_before.insert(family, now + ASK_AGAIN);
        }
        self.now.extend(ready);
    }
}

/// As the operator sees it.
pub(crate) fn shown(
    negotiated: &Negotiated,
    local: SocketAddr,
    remote: SocketAddr,
) -> session::Negotiated {
    let Negotiated {
        peer_as: _,
        identifier,
        families,
        four_octet_as,
        hold_time,
        route_refresh,
        enhanced_route_refresh,
        extended_messages,
        extended_next_hop,
        end_of_rib: _,
        restarts: _,
        role,
    } = negotiated.clone();
    session::Negotiated {
        local,
        remote,
        identifier,
        families,
        hold_time,
        four_octet_as,
        route_refresh,
        enhanced_route_refresh,
        extended_messages,
        extended_next_hop,
        role,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::message::{Message, Sender};
    use crate::bgp::session::Ends;
    use crate::config::Peer;
    use crate::routing::Policy;
    use crate::snapshot::Condition;

    /// Once the peer's first table is over, or it is late; then not too often.
    #[test]
    fn routes_are_asked_for_behind_the_first_table() {
        let both = [Family::Ipv4, Family::Ipv6];
        let begun = Instant::now();
        let ask = |end_of_rib| {
            let negotiated = Negotiated {
                end_of_rib,
                ..Negotiated::plain(both.into())
            };
            let mut ask = Ask::new(&negotiated, begun);
            ask.later.extend(both);
            ask
        };
        let ready = |ask: &mut Ask, after: Duration| {
            ask.release(begun + after, true);
            std::mem::take(&mut ask.now).into_iter().collect::<Vec<_>>()
        };
        let mut at_once = ask(false);
        assert_eq!(ready(&mut at_once, Duration::ZERO), both);
        at_once.later.extend(both);
        assert_eq!(ready(&mut at_once, Duration::ZERO), []);
        assert_eq!(at_once.next_due(), Some(begun + ASK_AGAIN));
        // No End-of-RIB shortens that.
        at_once.first_is_over(Family::Ipv4);
        assert_eq!(ready(&mut at_once, Duration::ZERO), []);
        assert_eq!(ready(&mut at_once, ASK_AGAIN), both);
        assert_eq!(at_once.next_due(), None);

        let mut marked = ask(true);
        assert_eq!(ready(&mut marked, Duration::ZERO), []);
        marked.first_is_over(Family::Ipv6);
        assert_eq!(ready(&mut marked, Duration::ZERO), [Family::Ipv6]);
        assert_eq!(marked.next_due(), Some(begun + FIRST_TABLE));
        assert_eq!(ready(&mut marked, FIRST_TABLE), [Family::Ipv4]);

        let mut no_refresh = ask(false);
        no_refresh.release(begun, false);
        assert!(no_refresh.now.is_empty() && no_refresh.later.is_empty());
    }

    /// `ADDRESS`, `ADDRESS as PREFIX`; with `down` behind it, one that is not announced.
    fn orders(vips: &[&str]) -> Orders {
        let vip = |text: &&str| {
            let (text, down) = match text.strip_suffix(" down") {
                Some(text) => (text, true),
                None => (*text, false),
            };
            let (address, prefix) = match text.split_once(" as ") {
                Some((address, prefix)) => (address, prefix.parse().ok()),
                None => (text, None),
            };
            let vip = Vip {
                services: BTreeSet::new(),
                present: true,
                fault: None,
                condition: Condition::Healthy,
                prefix,
                announce: match down {
                    true => Err(crate::snapshot::Refusal::Failed),
                    false => Ok(Policy::of_med(1).into()),
                },
            };
            (address.parse::<IpAddr>().unwrap(), Arc::new(vip))
        };
        let peer = Peer::new(IpAddr::from([10, 0, 0, 2]).into(), 64601);
        Orders {
            ends: Ends::plain(),
            peer: Arc::new(peer),
            vips: vips.iter().map(vip).collect(),
            said: Default::default(),
            end: None,
        }
    }

    struct Story {
        established: Established,
        before: Orders,
        now: Instant,
    }

    impl Story {
        fn new() -> Story {
            let before = orders(&[]);
            let negotiated = Negotiated::plain([Family::Ipv4].into());
            let (local, now) = ([10, 0, 0, 1].into(), Instant::now());
            let mut story = Story {
                established: Established::new(Side::Out, local, negotiated, &before, now),
                before,
                now,
            };
            story.messages();
            story
        }

        fn messages(&mut self) -> String {
            self.established.release(self.now);
            let mut changes = Vec::new();
            let sender = Sender {
                internal: false,
                four_octet_as: true,
            };
            while let Some(update) = self.established.next(self.now) {
                self.established.written(&update.withdrawn);
                let Ok(Message::Update(update)) = message::decode(&update.frame, sender) else {
                    panic!("{update:?}");
                };
                changes.extend(update.announced.iter().map(|prefix| format!("+{prefix}")));
                changes.extend(update.withdrawn.iter().map(|prefix| format!("-{prefix}")));
            }
            changes.join(" ")
        }

        /// Long after the last change: whose prefixes the peer is told.
        fn check(&mut self, vips: &[&str], changes: &str, told: &str) {
            let orders = orders(vips);
            self.now += Duration::from_secs(60);
            self.established.release(self.now);
            self.established.obey(&self.before, &orders);
            self.before = orders;
            assert_eq!(self.messages(), changes);
            let routes = self.established.routes().iter();
            let routes =
                routes.map(|(prefix, route)| format!("{prefix} {}", route.address(prefix)));
            assert_eq!(routes.collect::<Vec<_>>().join(", "), told);
        }
    }

    const WIDE: &str = "192.0.2.0/24";

    #[test]
    fn a_prefix_comes_in_the_place_of_the_address_and_goes() {
        let mut story = Story::new();
        story.check(&["192.0.2.1"], "+192.0.2.1/32", "192.0.2.1/32 192.0.2.1");
        let wide = ["192.0.2.1 as 192.0.2.0/24"];
        let told = "192.0.2.0/24 192.0.2.1";
        story.check(&wide, "+192.0.2.0/24 -192.0.2.1/32", told);
        let down = ["192.0.2.1 as 192.0.2.0/24 down"];
        story.check(&down, "-192.0.2.0/24", "");
        story.check(&wide, "+192.0.2.0/24", told);
        let wider = ["192.0.2.1 as 192.0.0.0/16 down"];
        story.check(&wider, "-192.0.2.0/24", "");
        story.check(&wide, "+192.0.2.0/24", told);
        story.check(&[], "-192.0.2.0/24", "");
        assert!(story.established.wider.is_empty());
    }

    /// Whichever of the two addresses is looked at first.
    #[test]
    fn a_prefix_changes_hands_without_a_withdrawal() {
        for [one, other] in [["192.0.2.1", "192.0.2.2"], ["192.0.2.2", "192.0.2.1"]] {
            let mut story = Story::new();
            let wide = |address| format!("{address} as {WIDE}");
            let (first, second) = (wide(one), wide(other));
            let told = |of| format!("{WIDE} {of}");
            story.check(&[&first], "+192.0.2.0/24", &told(one));
            story.check(&[&second], "+192.0.2.0/24", &told(other));
            assert_eq!(story.established.wider.len(), 1);
            let down = format!("{second} down");
            story.check(&[&down], "-192.0.2.0/24", "");
            story.check(&[&first], "+192.0.2.0/24", &told(one));

            let both = format!("{}, {other}/32 {other}", told(one));
            story.check(&[&first, other], &format!("+{other}/32"), &both);
            let both = format!("{}, {one}/32 {one}", told(other));
            let changes = format!("-{other}/32 +{one}/32 +{WIDE}");
            story.check(&[one, &second], &changes, &both);
        }
    }
}
