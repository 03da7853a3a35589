//! One address: what its services allow to be announced of it, by which attributes, and what `up-delay`
//! still holds back. How peers are told is not known here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::{Balancer, Due};
use crate::config::{Announce, Needs, WithdrawWhen};
use crate::pool::Bearing;
use crate::routing::Policy;
use crate::snapshot::{Announcement, Condition, Mode, Refusal, Vip};

impl Balancer {
    /// Decides anew what is announced of an address, and shows it.
    pub(super) fn settle_vip(&mut self, address: IpAddr, now: Instant) {
        let services = self.by_vip.get(&address).cloned().unwrap_or_default();
        let retiring = || {
            self.snapshot
                .retiring
                .values()
                .any(|retiring| *retiring == address)
        };
        if services.is_empty() && !retiring() {
            self.snapshot.vips.remove(&address);
            self.histories.remove(&address);
            return;
        }
        let bearings = services.iter().filter_map(|name| self.bearings.get(name));
        let fitness = Fitness::of(bearings);
        let condition = fitness.as_ref().map(|fitness| fitness.condition);
        let prefix = fitness.as_ref().and_then(|fitness| fitness.announce.prefix);
        let vip = Vip {
            services,
            present: self.present.contains(&address),
            fault: self.faults.get(&address).map(|fault| fault.as_str().into()),
            condition: condition.unwrap_or(Condition::Failed),
            prefix,
            announce: self.may_announce(address, fitness, now),
        };
        let old = self.snapshot.vips.get(&address);
        if old.is_some_and(|old| **old == vip) {
            return;
        }
        if old.map(|old| (old.prefix, &old.announce)) != Some((vip.prefix, &vip.announce)) {
            match &vip.announce {
                Ok(announcement) => {
                    let prefix = vip.prefix_of(address);
                    let med = announcement.attributes(None).med;
                    let demoted = *announcement.condition != Policy::default();
                    info!(vip = %address, %prefix, med, demoted, "announce");
                }
                Err(why) => info!(vip = %address, %why, "do not announce"),
            }
        }
        self.snapshot.vips.insert(address, Arc::new(vip));
    }

    fn may_announce(
        &mut self,
        address: IpAddr,
        fitness: Option<Fitness>,
        now: Instant,
    ) -> Result<Announcement, Refusal> {
        let (base, fitness) = self.wanted(fitness).inspect_err(|_| {
            // Its operator took it out. When it comes back, that is a first announcement.
            self.histories.remove(&address);
        })?;
        let announce = &fitness.announce;
        let allowed = fitness.allowed(self.present.contains(&address));
        if allowed.is_ok() {
            self.histories.entry(address).or_default();
        }
        let (told, better_at) = match self.histories.get_mut(&address) {
            Some(history) => history.told(allowed.into(), announce.up_delay, now),
            None => (allowed.into(), None),
        };
        self.due
            .extend(better_at.map(|at| (at, Due::Better(address))));
        let condition = match (told, allowed) {
            (Standing::Announced(condition), _) => condition,
            (Standing::Withdrawn, Ok(_)) => return Err(Refusal::UpDelay),
            (Standing::Withdrawn, Err(refusal)) => return Err(refusal),
        };
        Ok(Announcement {
            to: announce.to.clone(),
            base,
            own: announce.policy.clone(),
            condition: match condition {
                Condition::Healthy => Arc::default(),
                Condition::Degraded => announce.degraded.clone(),
                Condition::Failed => announce.failed.clone(),
            },
        })
    }

    /// Whether the operator wants the address announced at all; `[bgp]`'s policy if so.
    fn wanted(&self, fitness: Option<Fitness>) -> Result<(Arc<Policy>, Fitness), Refusal> {
        let real = self.snapshot.mode != Mode::DryRun;
        let bgp = self.snapshot.config.bgp.as_ref().filter(|_| real);
        let bgp = bgp.ok_or(Refusal::NoBgp)?;
        let fitness = fitness.ok_or(Refusal::Retiring)?;
        if !fitness.announce.announce {
            return Err(Refusal::NotConfigured);
        }
        if self.snapshot.stopping {
            return Err(Refusal::Stopping);
        }
        Ok((bgp.policy.clone(), fitness))
    }
}

/// How well an address can be served by its services.
struct Fitness {
    condition: Condition,
    /// Why they cannot serve it; the address itself is not asked.
    refusal: Option<Refusal>,
    /// Theirs: all services of an address agree on it, the configuration is refused otherwise.
    announce: Arc<Announce>,
}

impl Fitness {
    /// `None` without any service.
    fn of<'a>(services: impl Iterator<Item = &'a Bearing> + Clone) -> Option<Fitness> {
        let announce = services.clone().next()?.announce.clone();
        // One that came to an announced address never had clients: theirs are not sent away for it.
        let all_new = services.clone().all(|service| service.newcomer);
        let counted = services.filter(|service| all_new || !service.newcomer);
        let conditions = counted.clone().map(|service| service.condition);
        let refusal = counted.clone().find_map(|service| service.refusal);
        let (condition, refusal) = match announce.services {
            Needs::All => (conditions.max(), refusal),
            Needs::Any => {
                // A service that cannot be served makes the address no better, however its servers are.
                let able = counted.filter(|service| service.refusal.is_none());
                match able.map(|service| service.condition).min() {
                    Some(best) => (Some(best), None),
                    None => (conditions.min(), refusal),
                }
            }
        };
        Some(Fitness {
            condition: condition?,
            refusal,
            announce,
        })
    }

    /// `present`: whether the address is on this host.
    fn allowed(&self, present: bool) -> Result<Condition, Refusal> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        if !present {
            return Err(Refusal::AddressMissing);
        }
        let withdraw = self.announce.withdraw_when;
        match self.condition {
            Condition::Failed if withdraw <= WithdrawWhen::Failed => Err(Refusal::Failed),
            Condition::Degraded if withdraw <= WithdrawWhen::Degraded => Err(Refusal::Degraded),
            Condition::Healthy | Condition::Degraded | Condition::Failed => Ok(self.condition),
        }
    }
}

/// What an address's state has peers told, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// With the attributes of this condition.
    Announced(Condition),
    Withdrawn,
}

impl From<Result<Condition, Refusal>> for Standing {
    fn from(allowed: Result<Condition, Refusal>) -> Standing {
        allowed.map_or(Standing::Withdrawn, Standing::Announced)
    }
}

/// How an address has fared since it was first announced.
///
/// Every withdrawal that its operator did not ask for counts, that for a kernel that refuses or an address that
/// somebody removes too: whatever comes and goes by itself can flap, and to routers one flap is like another.
#[derive(Debug)]
pub(super) struct History {
    standing: Standing,
    /// The standings that it left for better ones, and when last; those that `up-delay` has done with are not
    /// there, so that a longer one does not take back what has been told.
    left: BTreeMap<Standing, Instant>,
}

/// An address that is about to be announced for the first time: nothing holds it back.
impl Default for History {
    fn default() -> History {
        History {
            standing: Standing::Announced(Condition::Healthy),
            left: BTreeMap::new(),
        }
    }
}

impl History {
    /// What is told of an address that stands so from now on: the worst since `up_delay` ago. And when that
    /// will be better by itself, if it will.
    fn told(
        &mut self,
        standing: Standing,
        up_delay: Duration,
        now: Instant,
    ) -> (Standing, Option<Instant>) {
        if standing < self.standing {
            self.left.insert(self.standing, now);
        }
        self.standing = standing;
        self.left
            .retain(|_, left| now.saturating_duration_since(*left) < up_delay);
        match self.left.last_key_value() {
            Some((worst, left)) if *worst > standing => (*worst, left.checked_add(up_delay)),
            Some(_) | None => (standing, None),
        }
    }
}
