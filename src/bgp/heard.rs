//! What one peer announces to us: counted, not kept. Kept is only what is said of our own prefixes: who else
//! announces them, as the peer sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;

use super::message::{Received, Update};
use crate::routing::MAX_COMMUNITIES;
use crate::routing::session::Foreign;
use crate::service::Family;

/// Prefixes by their fingerprint. Two of a million are taken for one another once in thirty million times.
#[expect(
    clippy::disallowed_types,
    reason = "it is never iterated, and a full table is a million entries"
)]
type Prefixes = std::collections::HashSet<u64>;

/// An AS_PATH is kept up to here, in bytes of its text: some hundred AS numbers.
const LONGEST_PATH: usize = 1000;

/// Of one established session.
#[derive(Debug)]
pub(crate) struct Heard {
    /// So many prefixes of a family may be announced.
    maximum: usize,
    families: BTreeMap<Family, Count>,
    foreign: OrdMap<IpNet, Arc<Foreign>>,
    /// Nobody outside knows it, so nobody can make prefixes that look like one.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Count {
    /// Never more than one beyond the maximum.
    prefixes: Prefixes,
    /// Some found no room, so that a later number may be too small.
    missed: bool,
    /// What has come since the peer began to say all of it again (RFC 7313).
    again: Option<Again>,
}

#[derive(Debug, Default)]
struct Again {
    prefixes: Prefixes,
    missed: bool,
    ours: BTreeSet<IpNet>,
}

impl Heard {
    pub(crate) fn new(families: &BTreeSet<Family>, maximum: u32) -> Heard {
        let empty = |&family| (family, Count::default());
        Heard {
            maximum: as_usize(maximum),
            families: families.iter().map(empty).collect(),
            foreign: OrdMap::new(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn set_maximum(&mut self, maximum: u32) {
        self.maximum = as_usize(maximum);
    }

    /// `told`: whether the prefix is what one of our addresses is announced as, and with which next hop we
    /// announce it to this peer. Families that were not agreed on are left out.
    pub(crate) fn hear(
        &mut self,
        update: &Update,
        told: impl Fn(&IpNet) -> Option<Option<IpAddr>>,
    ) {
        for family in &update.disabled {
            self.families.remove(family);
            self.keep(|prefix| Family::of_prefix(prefix) != *family);
        }
        // A prefix in both lists is announced (RFC 4271 section 4.3).
        for prefix in &update.withdrawn {
            self.withdrawn(prefix);
        }
        let mut made = [None, None];
        for prefix in &update.announced {
            let fingerprint = self.hasher.hash_one(prefix);
            let Some(count) = self.families.get_mut(&Family::of_prefix(prefix)) else {
                continue;
            };
            count.announced(fingerprint, self.maximum);
            if let Some(next_hop) = told(prefix) {
                let attributes = &update.attributes;
                let ours = attributes.next_hop.is_some() && attributes.next_hop == next_hop;
                // One for all prefixes: a message has room for thousands, and for as many communities.
                let foreign = made[usize::from(ours)]
                    .get_or_insert_with(|| Arc::new(foreign(attributes, ours)));
                if self.foreign.get(prefix) != Some(foreign) {
                    self.foreign.insert(*prefix, foreign.clone());
                }
                if let Some(again) = &mut count.again {
                    again.ours.insert(*prefix);
                }
            }
        }
    }

    /// The peer begins to say all of the family again: what it does not say until [`Heard::end_again`] it does
    /// not announce any more (RFC 7313 section 4).
    pub(crate) fn begin_again(&mut self, family: Family) {
        if let Some(count) = self.families.get_mut(&family) {
            count.again = Some(Again::default());
        }
    }

    pub(crate) fn end_again(&mut self, family: Family) {
        let Some(count) = self.families.get_mut(&family) else {
            return;
        };
        // An end without a begin is ignored.
        if let Some(again) = count.again.take() {
            (count.prefixes, count.missed) = (again.prefixes, again.missed);
            self.keep(|prefix| Family::of_prefix(prefix) != family || again.ours.contains(prefix));
        }
    }

    /// A prefix is none of ours any more.
    pub(crate) fn forget(&mut self, prefix: &IpNet) {
        self.foreign.remove(prefix);
    }

    /// Families whose number may be too small, now that there is room for more: each once, until more is missed.
    pub(crate) fn take_short(&mut self) -> BTreeSet<Family> {
        let maximum = self.maximum;
        let short = |(family, count): (&Family, &mut Count)| {
            let short = count.missed && count.prefixes.len() <= maximum;
            count.missed &= !short;
            short.then_some(*family)
        };
        self.families.iter_mut().filter_map(short).collect()
    }

    /// How many prefixes of the family the peer announces; one beyond the maximum stands for any number.
    pub(crate) fn count(&self, family: Family) -> usize {
        let count = self.families.get(&family);
        count.map_or(0, |count| count.prefixes.len())
    }

    /// Families of which the peer announces more than it may.
    pub(crate) fn over_maximum(&self) -> BTreeSet<Family> {
        let over = |(family, count): (&Family, &Count)| {
            (count.prefixes.len() > self.maximum).then_some(*family)
        };
        self.families.iter().filter_map(over).collect()
    }

    /// Our own prefixes, as the peer announces them.
    pub(crate) fn foreign(&self) -> &OrdMap<IpNet, Arc<Foreign>> {
        &self.foreign
    }

    fn keep(&mut self, keep: impl Fn(&IpNet) -> bool) {
        let all = self.foreign.keys().copied();
        let gone: Vec<IpNet> = all.filter(|prefix| !keep(prefix)).collect();
        for prefix in gone {
            self.foreign.remove(&prefix);
        }
    }

    fn withdrawn(&mut self, prefix: &IpNet) {
        let fingerprint = self.hasher.hash_one(prefix);
        let Some(count) = self.families.get_mut(&Family::of_prefix(prefix)) else {
            return;
        };
        count.prefixes.remove(&fingerprint);
        if let Some(again) = &mut count.again {
            again.prefixes.remove(&fingerprint);
        }
        if self.foreign.contains_key(prefix) {
            self.foreign.remove(prefix);
        }
    }
}

impl Count {
    fn announced(&mut self, fingerprint: u64, maximum: usize) {
        let insert = |prefixes: &mut Prefixes, missed: &mut bool| {
            if prefixes.len() <= maximum {
                prefixes.insert(fingerprint);
            } else if !prefixes.contains(&fingerprint) {
                *missed = true;
            }
        };
        insert(&mut self.prefixes, &mut self.missed);
        if let Some(again) = &mut self.again {
            insert(&mut again.prefixes, &mut again.missed);
        }
    }
}

/// As much of it as a peer without bounds may have us keep, for each address of ours.
fn foreign(attributes: &Received, ours: bool) -> Foreign {
    let Received {
        next_hop,
        as_path,
        med,
        local_pref,
        communities,
    } = attributes;
    Foreign {
        ours,
        next_hop: *next_hop,
        as_path: shortened(as_path),
        med: *med,
        local_pref: *local_pref,
        communities: communities.iter().take(MAX_COMMUNITIES).copied().collect(),
    }
}

/// A path up to [`LONGEST_PATH`], or its first AS numbers.
fn shortened(as_path: &str) -> String {
    if as_path.len() <= LONGEST_PATH {
        return as_path.to_owned();
    }
    let start = &as_path[..as_path.floor_char_boundary(LONGEST_PATH)];
    let (whole, _) = start.rsplit_once(' ').unwrap_or((start, ""));
    format!("{whole} …")
}

fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Community;

    const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn update(announced: &[&str], withdrawn: &[&str]) -> Update {
        let attributes = Received {
            next_hop: Some(ip("10.0.0.7")),
            as_path: "65001 64600".into(),
            ..Received::default()
        };
        Update {
            announced: nets(announced),
            withdrawn: nets(withdrawn),
            attributes,
            ..Update::default()
        }
    }

    /// Ours are 192.0.2.1 and, for another address, 198.51.100.0/24, announced with 10.0.0.7, and 2001:db8::1,
    /// announced with nothing.
    fn told(prefix: &IpNet) -> Option<Option<IpAddr>> {
        match prefix.to_string().as_str() {
            "192.0.2.1/32" | "198.51.100.0/24" => Some(Some(ip("10.0.0.7"))),
            "2001:db8::1/128" => Some(None),
            _ => None,
        }
    }

    struct Story(Heard);

    impl Story {
        fn new(families: &[Family], maximum: u32) -> Story {
            Story(Heard::new(&families.iter().copied().collect(), maximum))
        }

        #[track_caller]
        fn check(&mut self, announced: &[&str], withdrawn: &[&str], counts: [usize; 2]) {
            self.0.hear(&update(announced, withdrawn), told);
            assert_eq!(BOTH.map(|family| self.0.count(family)), counts);
        }

        fn foreign(&self) -> Vec<(String, bool)> {
            let foreign = self.0.foreign.iter();
            foreign
                .map(|(prefix, foreign)| (prefix.to_string(), foreign.ours))
                .collect()
        }
    }

    #[test]
    fn prefixes_are_counted_once() {
        let mut story = Story::new(&BOTH, 100);
        story.check(&["10.0.0.0/8", "10.0.0.0/16", "2001:db8::/32"], &[], [2, 1]);
        story.check(&["10.0.0.0/8"], &[], [2, 1]);
        story.check(
            &[],
            &["10.0.0.0/8", "172.16.0.0/12", "2001:db8::/48"],
            [1, 1],
        );
        story.check(&["10.0.0.0/16"], &["10.0.0.0/16", "2001:db8::/32"], [1, 0]);
        let mut ipv6 = Story::new(&[Family::Ipv6], 100);
        ipv6.check(&["10.0.0.0/8", "2001:db8::/32"], &[], [0, 1]);
    }

    #[test]
    fn there_is_never_more_than_one_too_many() {
        let mut story = Story::new(&BOTH, 2);
        story.check(&["10.0.0.0/8", "11.0.0.0/8"], &[], [2, 0]);
        assert_eq!(story.0.over_maximum(), [].into());
        story.check(&["12.0.0.0/8"], &[], [3, 0]);
        assert_eq!(story.0.over_maximum(), [Family::Ipv4].into());
        story.check(&["12.0.0.0/8"], &["12.0.0.0/8"], [3, 0]);
        assert_eq!(story.0.take_short(), [].into());
        story.check(&["13.0.0.0/8", "14.0.0.0/8", "2001:db8::/32"], &[], [3, 1]);
        assert_eq!(story.0.take_short(), [].into(), "there is no room yet");
        story.check(&[], &["12.0.0.0/8"], [2, 1]);
        assert_eq!(story.0.over_maximum(), [].into());
        assert_eq!(story.0.take_short(), [Family::Ipv4].into());
        assert_eq!(story.0.take_short(), [].into(), "once");
        // Said again, all of it is known.
        story.0.set_maximum(10);
        story.0.begin_again(Family::Ipv4);
        story.check(&["10.0.0.0/8", "13.0.0.0/8", "14.0.0.0/8"], &[], [4, 1]);
        story.0.end_again(Family::Ipv4);
        story.check(&[], &[], [3, 1]);
        assert_eq!(story.0.take_short(), [].into());
    }

    #[test]
    fn a_disabled_family_is_forgotten_for_good() {
        let mut story = Story::new(&BOTH, 10);
        story.check(&["192.0.2.1/32", "2001:db8::1/128"], &[], [1, 1]);
        let disabled = Update {
            disabled: [Family::Ipv6].into(),
            ..Update::default()
        };
        story.0.hear(&disabled, told);
        story.check(&["2001:db8::1/128"], &[], [1, 0]);
        assert_eq!(story.foreign(), [("192.0.2.1/32".to_owned(), true)]);
    }

    /// Whatever a message has room for, what is kept of it is little, and one for all of its prefixes.
    #[test]
    fn what_is_kept_of_a_route_is_bounded() {
        let mut heard = Heard::new(&BOTH.into(), 10);
        let mut long = update(&["192.0.2.1/32", "2001:db8::1/128"], &[]);
        long.attributes.as_path = "4200000001 ".repeat(5000);
        long.attributes.communities = (0..10_000).map(Community::Standard).collect();
        heard.hear(&long, |_| Some(None));
        let kept: Vec<&Arc<Foreign>> = heard.foreign().values().collect();
        assert!(Arc::ptr_eq(kept[0], kept[1]));
        assert_eq!(kept[0].communities.len(), MAX_COMMUNITIES);
        let path = &kept[0].as_path;
        assert!(
            path.len() < 1100 && path.ends_with("4200000001 …"),
            "{path}"
        );
        let before = heard.foreign().clone();
        heard.hear(&long, |_| Some(None));
        assert!(before.ptr_eq(heard.foreign()), "that is no change");
    }

    #[test]
    fn our_own_addresses_are_kept() {
        let mut story = Story::new(&BOTH, 0);
        let all = [
            "192.0.2.1/32",
            "192.0.2.2/32",
            "192.0.2.0/24",
            "2001:db8::1/128",
        ];
        story.check(&all, &[], [1, 1]);
        let both = [
            ("192.0.2.1/32".to_owned(), true),
            ("2001:db8::1/128".to_owned(), false),
        ];
        assert_eq!(story.foreign(), both, "even beyond the maximum");
        let before = story.0.foreign().clone();
        story.check(&all, &[], [1, 1]);
        assert!(before.ptr_eq(story.0.foreign()), "that is no change");

        let mut elsewhere = update(&["192.0.2.1/32"], &[]);
        elsewhere.attributes.next_hop = Some(ip("10.0.0.8"));
        story.0.hear(&elsewhere, told);
        assert_eq!(story.foreign()[0], ("192.0.2.1/32".into(), false));
        story.check(&[], &["2001:db8::1/128", "192.0.2.0/24"], [1, 0]);
        assert_eq!(story.foreign().len(), 1);

        story.0.begin_again(Family::Ipv4);
        story.0.end_again(Family::Ipv6);
        assert_eq!(story.foreign().len(), 1, "an end of what was not begun");
        story.0.end_again(Family::Ipv4);
        assert_eq!(story.foreign(), []);
        story.check(&["192.0.2.1/32"], &[], [1, 0]);
        story.0.forget(&"192.0.2.1/32".parse().unwrap());
        assert_eq!(story.foreign(), []);

        story.check(
            &["198.51.100.0/24", "198.51.100.1/32", "198.51.100.0/25"],
            &[],
            [1, 0],
        );
        let wider = [("198.51.100.0/24".to_owned(), true)];
        assert_eq!(story.foreign(), wider, "that very prefix alone");
        story.check(&[], &["198.51.100.0/25", "198.51.100.1/32"], [1, 0]);
        assert_eq!(story.foreign(), wider);
        story.check(&[], &["198.51.100.0/24"], [1, 0]);
        assert_eq!(story.foreign(), []);
    }
}
