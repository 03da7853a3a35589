//! Flap-hold: a server that goes down again and again is kept down for a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::check::FlapHold;

/// How often one server went down by its checks of late, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    /// The times down that may still lead to a hold; fewer than it takes for one.
    downs: VecDeque<Instant>,
    /// The end of the hold in force.
    until: Option<Instant>,
    /// How long the last hold was, and its end.
    last: Option<(Duration, Instant)>,
}

impl Flaps {
    /// It went down by its checks. Gives the length of the hold that begins by that, if one does. What happens
    /// during a hold is not counted.
    pub(super) fn went_down(&mut self, rule: &FlapHold, now: Instant) -> Option<Duration> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        let recent = |at: &Instant| now.saturating_duration_since(*at) <= rule.within;
        self.downs.retain(recent);
        self.downs.push_back(now);
        if self.downs.len() < rule.transitions as usize {
            return None;
        }
        self.downs.clear();
        let length = match self.last {
            Some((length, end)) if now.saturating_duration_since(end) < rule.longest => {
                (length * 2).min(rule.longest)
            }
            Some(_) | None => rule.hold,
        };
        let end = now + length;
        (self.until, self.last) = (Some(end), Some((length, end)));
        Some(length)
    }

    /// The end of the hold in force.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ends a hold whose time is over; `true` if there was one.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const RULE: FlapHold = FlapHold {
        transitions: 3,
        within: Duration::from_secs(10),
        hold: Duration::from_secs(20),
        longest: Duration::from_secs(50),
    };

    /// The second of each time down, and for how many seconds it is held then.
    fn check(rule: FlapHold, story: &[(u32, Option<u64>)]) {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can be had in no other way"
        )]
        let start = Instant::now();
        let mut flaps = Flaps::default();
        for (second, hold) in story {
            let now = start + SECOND * *second;
            flaps.expire(now);
            let length = flaps.went_down(&rule, now);
            assert_eq!(length, hold.map(Duration::from_secs), "at {second}");
            if let Some(length) = length {
                assert_eq!(flaps.until(), Some(now + length), "at {second}");
                assert!(!flaps.expire(now + length - Duration::from_nanos(1)));
            }
            assert!(flaps.downs.len() < rule.transitions as usize);
        }
    }

    #[test]
    fn so_many_within_so_long() {
        check(RULE, &[(0, None), (5, None), (10, Some(20))]);
        check(RULE, &[(0, None), (5, None), (11, None), (15, Some(20))]);
        check(RULE, &[(0, None), (11, None), (22, None), (33, None)]);
        let first = FlapHold {
            transitions: 1,
            ..RULE
        };
        check(first, &[(0, Some(20)), (20, Some(40))]);
    }

    #[test]
    fn twice_as_long_each_next_time_up_to_the_longest() {
        let story = [
            (0, None),
            (1, None),
            (2, Some(20)),
            // Held until 22; what comes meanwhile is not counted.
            (3, None),
            (4, None),
            (5, None),
            (22, None),
            (23, None),
            (24, Some(40)),
            // Until 64.
            (70, None),
            (71, None),
            (72, Some(50)),
            // Until 122, and 49 s later it is still remembered.
            (169, None),
            (170, None),
            (171, Some(50)),
            // Until 221, and 50 s later it is forgotten.
            (269, None),
            (270, None),
            (271, Some(20)),
        ];
        check(RULE, &story);
    }
}
