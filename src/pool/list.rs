//! What a server list does to its pool: who is listed, who leaves, and how far the depool guard lets them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::member::Member;
use super::{FIRST_CHECK_GRACE, Pool, floor, share};
use crate::config::DepoolGuard;
use crate::service::{Family, Freshness, Host, Listing, Override, ServerList};
use crate::snapshot::{Guard, Held, Source};

impl Pool {
    /// A good list from the service's source.
    pub(crate) fn set_list(&mut self, listing: &Listing, now: Instant) {
        let list = &listing.servers;
        // Lists that come at once are one change: what counts is what was last shown, or what the pool was
        // when we ended.
        let saved = match self.source {
            Source::Saved { .. } => self.size,
            Source::Waiting | Source::Good | Source::Failed(_) => None,
        };
        let shown = self.view.as_ref().map(|view| view.size);
        let old_size = saved.max(shown).unwrap_or(0);
        self.take_freshness(listing, now);
        self.take_revision(listing);
        self.list_faults = share(listing.faults.clone(), Some(&self.list_faults));
        let start = self.config.comeback.start;
        let note = |host: &Host| listing.notes.get(host).cloned().map(Arc::new);
        for (host, member) in &mut self.members {
            if !list.contains_key(host) {
                member.said.set_list(None, note(host));
            }
        }
        for (host, listed) in list {
            let new = || Member::new(listed.weight, &self.monitors);
            let member = self.members.entry(host.clone()).or_insert_with(new);
            member.said.set_list(Some(*listed), note(host));
            member.said.set_override(self.overrides.get(host));
            member.identify(start);
            if let Some(address) = host.literal() {
                member.answered = true;
                if Family::of(address) == self.config.server_family {
                    self.give_address(host, address);
                } else {
                    let family = self.config.server_family;
                    member.unresolved = Some(format!("{host} is no {family} address").into());
                }
            }
        }
        self.size = Some(list.len());
        self.mark_leaving(old_size);
        let longest = self
            .config
            .monitors
            .iter()
            .map(|monitor| monitor.timeout)
            .max()
            .unwrap_or_default();
        self.judge_by
            .get_or_insert(now + longest + FIRST_CHECK_GRACE);
    }

    /// The source could not read a list; the last good one stays.
    pub(crate) fn source_failed(&mut self, why: &str) {
        let service = &self.config.name;
        match self.size {
            Some(_) => {
                warn!(%service, fault = why, "no usable server list; the last good one stays");
            }
            None => {
                warn!(%service, fault = why, "no usable server list, and there was none before");
            }
        }
        if let Source::Saved { fault, .. } = &mut self.source {
            *fault = Some(why.into());
        } else {
            self.source = Source::Failed(why.into());
        }
    }

    /// What operators say in place of the list. Whether that changes anything.
    pub(crate) fn overrule(&mut self, overrides: BTreeMap<Host, Arc<Override>>) -> bool {
        if self.overrides == overrides {
            return false;
        }
        for (host, member) in &mut self.members {
            member.said.set_override(overrides.get(host));
        }
        self.overrides = overrides;
        self.mark_leaving(0);
        true
    }

    fn take_freshness(&mut self, listing: &Listing, now: Instant) {
        let service = &self.config.name;
        self.source = match listing.freshness {
            Freshness::Current | Freshness::CatchUp => Source::Good,
            Freshness::Saved { age } => {
                info!(%service, ?age, "the last server list that was saved is in force");
                Source::Saved {
                    age,
                    read_at: now,
                    fault: None,
                }
            }
        };
        // What came all at once is looked at as one change until its source says something else: that it
        // says the same again, after a short absence say, confirms nothing.
        let source = &self.config.servers;
        let goes_on = self.catch_up.as_ref() == Some(source) && self.lists(&listing.servers);
        if listing.freshness == Freshness::CatchUp {
            info!(%service, "the first server list after its source was away");
        }
        self.catch_up =
            (listing.freshness == Freshness::CatchUp || goes_on).then(|| source.clone());
    }

    /// Whether this is the list in force.
    fn lists(&self, list: &ServerList) -> bool {
        let listed = self.members.iter();
        listed
            .filter_map(|(host, member)| Some((host, member.said.by_list()?)))
            .eq(list)
    }

    /// A store that was restored from a backup counts again from there: what was applied before says nothing then.
    /// It may come to the very revision that was applied, with another list.
    fn take_revision(&mut self, listing: &Listing) {
        let same = self.lists(&listing.servers);
        let still = |applied: &u64| {
            let applied = Some(*applied);
            applied < listing.revision || (same && applied == listing.revision)
        };
        self.applied_revision = self.applied_revision.filter(still);
        self.revision = listing.revision;
    }

    /// Those that get new connections and, by the list, shall not (any longer) leave under the guard of the
    /// larger pool.
    pub(super) fn mark_leaving(&mut self, old_size: usize) {
        for member in self.members.values_mut() {
            member.leaving = member.is_taken_out();
        }
        if self.members.values().any(|member| member.leaving) {
            let size = self.size.unwrap_or(0).max(old_size);
            self.guarded_size = Some(self.guarded_size.unwrap_or(0).max(size));
        }
    }

    /// The line for those that are leaving, and what it is said to hold them for.
    pub(super) fn guard(&self) -> (Option<Guard>, Held) {
        let (threshold, guard) = (self.config.depool_threshold, self.config.depool_guard);
        let catch_up = self.catch_up.is_some() && guard != DepoolGuard::Off;
        let guard = self.guarded_size.map(|size| {
            let line = floor::guard(size, guard, threshold);
            let careful = if catch_up {
                floor::floor(size, threshold)
            } else {
                0
            };
            let line = line.max(careful);
            Guard { size, line }
        });
        let why = if catch_up {
            Held::StaleCatchUp
        } else {
            Held::DepoolGuard
        };
        (guard, why)
    }
}
