//! Slow start: how a server's weight rises from 1 after it has come into the pool.

use std::time::{Duration, Instant};

/// In so many steps at most, each of which changes the kernel's table.
const STEPS: u32 = 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Ramp {
    began: Instant,
    steps: u32,
    /// From one step to the next, a second at least.
    each: Duration,
}

impl Ramp {
    /// `time`: how long it takes, a second at least.
    pub(super) fn new(time: Duration, now: Instant) -> Ramp {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let steps = seconds.clamp(1, STEPS);
        Ramp {
            began: now,
            steps,
            each: time / steps,
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.step(now) == self.steps
    }

    /// How far it is, 0 to 100.
    pub(super) fn percent(&self, now: Instant) -> u32 {
        100 * self.step(now) / self.steps
    }

    /// What there is now of a weight: 1 at first, all of it in the end. 0 stays 0.
    pub(super) fn weight(&self, whole: u32, now: Instant) -> u32 {
        self.weight_at(self.step(now), whole)
    }

    /// When the next step is that makes a difference for this weight, or else the last one.
    pub(super) fn next(&self, whole: u32, now: Instant) -> Instant {
        let current = self.step(now);
        let weight = self.weight_at(current, whole);
        let differs = |step: &u32| self.weight_at(*step, whole) != weight;
        let next = (current + 1..self.steps).find(differs);
        self.began + self.each * next.unwrap_or(self.steps)
    }

    fn step(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.began).as_nanos();
        // A step takes a second at least.
        let step = elapsed / self.each.as_nanos().max(1);
        u32::try_from(step).map_or(self.steps, |step| step.min(self.steps))
    }

    fn weight_at(&self, step: u32, whole: u32) -> u32 {
        let Some(above) = whole.checked_sub(1) else {
            return 0;
        };
        let risen = u64::from(above) * u64::from(step) / u64::from(self.steps);
        u32::try_from(1 + risen).unwrap_or(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Weight;

    /// The weights of a ramp of so many seconds, each with the second from which on it holds.
    fn check(seconds: f64, whole: u32, expected: &[(f64, u32)]) {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can be had in no other way"
        )]
        let start = Instant::now();
        let ramp = Ramp::new(Duration::from_secs_f64(seconds), start);
        let mut now = start;
        let mut seen = Vec::new();
        while !ramp.is_over(now) {
            seen.push(((now - start).as_secs_f64(), ramp.weight(whole, now)));
            let next = ramp.next(whole, now);
            assert!(next > now);
            let before = next - Duration::from_nanos(1);
            assert_eq!(ramp.weight(whole, before), ramp.weight(whole, now));
            now = next;
        }
        assert_eq!(ramp.percent(now), 100);
        seen.push(((now - start).as_secs_f64(), ramp.weight(whole, now)));
        assert_eq!(seen, expected);
    }

    #[test]
    fn from_one_to_the_whole() {
        let steps = [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
        let steps: Vec<(f64, u32)> = (0..).map(|n| f64::from(n) * 3.0).zip(steps).collect();
        check(30.0, 100, &steps);
        check(3.0, 4, &[(0.0, 1), (1.0, 2), (2.0, 3), (3.0, 4)]);
        check(1.5, 10, &[(0.0, 1), (1.5, 10)]);
    }

    #[test]
    fn what_makes_no_difference_is_no_step() {
        check(30.0, 3, &[(0.0, 1), (15.0, 2), (30.0, 3)]);
        check(30.0, 1, &[(0.0, 1), (30.0, 1)]);
        check(30.0, 0, &[(0.0, 0), (30.0, 0)]);
    }

    #[test]
    fn the_largest_weight() {
        let most = Weight::MAX;
        check(1.0, most, &[(0.0, 1), (1.0, most)]);
    }
}
