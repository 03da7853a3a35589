//! What a server's weight is: its list's, what its load leaves of that, and how far its slow start is.

use std::time::Instant;

use super::member::Member;
use crate::service::Weight;
use crate::snapshot::{Held, Pooled, Scaled};

/// Shares of several monitors are multiplied in millionths, so that only the weight is rounded.
const WHOLE: u64 = 1_000_000;

impl Member {
    /// Sets `weight` from `base`.
    pub(super) fn weigh(&mut self, now: Instant) {
        self.ramp.take_if(|ramp| ramp.is_over(now));
        if self.all_shares_known() {
            self.known_weight = None;
        }
        self.scaled.clear();
        self.weight = self.laden();
        if let Some(percent) = percent(self.weight, self.base).filter(|_| self.weight != self.base)
        {
            self.scaled.push(Scaled::Load { percent });
        }
        if let Some(ramp) = self.ramp {
            let percent = ramp.percent(now);
            self.scaled.push(Scaled::SlowStart { percent });
            let weight = Weight::new(ramp.weight(self.weight.get(), now));
            self.weight = weight.unwrap_or(self.weight);
        }
    }

    /// When its hold or its drain ends, or its weight changes, by time alone.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let ramp = self.ramp.map(|ramp| ramp.next(self.laden().get(), now));
        let ends = self.held_until().into_iter().chain(self.draining);
        ends.chain(ramp).min()
    }

    /// What its load leaves of its weight: at least 1 of 1 or more. Only of a server that is up and serves: whom the
    /// floor holds is as good as any other there.
    pub(super) fn laden(&self) -> Weight {
        if !self.is_up_and_serves() || self.base.get() == 0 {
            return self.base;
        }
        if let Some(known) = self.known_weight.filter(|_| !self.all_shares_known()) {
            let known = known.get().clamp(1, self.bound());
            return Weight::new(known).unwrap_or(self.base);
        }
        scaled(self.base, self.shares())
    }

    /// It is in the pool because it is up, or kept there by the guard and up: its weight may be scaled.
    pub(super) fn is_up_and_serves(&self) -> bool {
        match self.pooled {
            Pooled::Yes | Pooled::Held(Held::DepoolGuard | Held::StaleCatchUp) => self.up(),
            Pooled::No | Pooled::Held(Held::DepoolThreshold | Held::NamesUnresolved) => false,
        }
    }

    /// The most that its load can make of its weight.
    fn bound(&self) -> u32 {
        let most = self.monitors().filter_map(|monitor| monitor.load.as_ref());
        scaled(self.base, most.map(|load| load.most)).get()
    }
}

/// A weight times all of these shares in percent; 1 at least, as much as the kernel takes at most.
fn scaled(weight: Weight, shares: impl Iterator<Item = u32>) -> Weight {
    let share = shares.fold(WHOLE, |all, share| all.saturating_mul(share.into()) / 100);
    let product = u64::from(weight.get()).saturating_mul(share);
    let rounded = product.saturating_add(WHOLE / 2) / WHOLE;
    let bounded = rounded.clamp(1, Weight::MAX.into());
    u32::try_from(bounded)
        .ok()
        .and_then(Weight::new)
        .unwrap_or(weight)
}

/// `None`: of nothing.
fn percent(part: Weight, of: Weight) -> Option<u32> {
    let percent = (u64::from(part.get()) * 100).checked_div(of.get().into())?;
    u32::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_times_its_shares() {
        let check = |weight, shares: &[u32], expected| {
            let weight = Weight::new(weight).unwrap();
            let seen = scaled(weight, shares.iter().copied()).get();
            assert_eq!(seen, expected, "{weight} {shares:?}");
        };
        check(10, &[], 10);
        check(10, &[70], 7);
        check(10, &[75], 8);
        check(10, &[70, 50], 4);
        check(10, &[1], 1);
        check(1, &[1, 1, 1, 1, 1], 1);
        check(10, &[1000], 100);
        check(Weight::MAX, &[1000], Weight::MAX);
        check(Weight::MAX, &[1000; 100], Weight::MAX);
        check(Weight::MAX, &[100], Weight::MAX);
    }
}
