//! Who is pooled: the depool threshold and the depool guard.
//!
//! Wanted servers (enabled, ready, up) are pooled. If they are fewer than the line, others are *held*
//! until the line is reached or there is nobody left. The threshold's line counts servers, as PyBal does;
//! the guard's counts those that get new connections, so that a list of weights 0 is no way around it.

use std::collections::BTreeMap;

use super::member::Member;
use crate::config::{DepoolGuard, Threshold};
use crate::service::Host;
use crate::snapshot::{Held, Pooled};

/// The least number of pooled servers among `size`, compared as PyBal does: a server may go while
/// those left are at least `size` × threshold, as floating-point numbers.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "PyBal's own comparison; a pool has far fewer than 2^53 servers and no threshold is negative"
)]
pub(super) fn floor(size: usize, threshold: Threshold) -> usize {
    (size as f64 * threshold.get()).ceil() as usize
}

/// To how many servers of a pool of `size` an administrative change must leave new connections.
pub(super) fn guard(size: usize, guard: DepoolGuard, threshold: Threshold) -> usize {
    match guard {
        DepoolGuard::Off => 0,
        DepoolGuard::Last => 1,
        DepoolGuard::Floor => floor(size, threshold),
    }
}

/// Sets `pooled` and `base` of each member. `guard` is the line for those that are leaving, 0 if nobody is;
/// `why`: what it is said to hold them for.
pub(super) fn decide(members: &mut BTreeMap<Host, Member>, floor: usize, guard: usize, why: Held) {
    let mut next: Vec<(&mut Member, Pooled)> = members
        .values_mut()
        .map(|member| {
            let pooled = if member.wanted() {
                Pooled::Yes
            } else if member.unidentified && member.up() {
                Pooled::Held(Held::NamesUnresolved)
            } else {
                Pooled::No
            };
            (member, pooled)
        })
        .collect();
    let serves =
        |member: &Member, pooled: Pooled| pooled.in_ipvs() && member.weight_when(pooled).get() > 0;
    let leaving = |member: &Member| member.leaving && member.ready();
    // A server that works but was depooled is better than one that does not and was not.
    hold(&mut next, guard, why, serves, |member| {
        leaving(member) && member.up()
    });
    let in_ipvs = |_: &Member, pooled: Pooled| pooled.in_ipvs();
    hold(&mut next, floor, Held::DepoolThreshold, in_ipvs, |member| {
        member.enabled() && member.ready()
    });
    hold(&mut next, guard, why, serves, leaving);
    for (member, pooled) in next {
        member.base = member.weight_when(pooled);
        member.pooled = pooled;
    }
}

/// Holds members that `may` be held, the best first, until `line` members `count` or there is nobody left.
fn hold(
    next: &mut [(&mut Member, Pooled)],
    line: usize,
    why: Held,
    count: impl Fn(&Member, Pooled) -> bool,
    may: impl Fn(&Member) -> bool,
) {
    let so_far = next.iter().filter(|(m, pooled)| count(m, *pooled)).count();
    let Some(missing) = line.checked_sub(so_far).filter(|missing| *missing > 0) else {
        return;
    };
    let mut spare: Vec<usize> = (0..next.len())
        .filter(|i| !count(next[*i].0, next[*i].1) && may(next[*i].0))
        .collect();
    // Stable: among equals the first by name.
    spare.sort_by_key(|i| std::cmp::Reverse(next[*i].0.keep_rank()));
    for i in spare.into_iter().take(missing) {
        next[i].1 = Pooled::Held(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_compares_as_pybal_does() {
        let half = Threshold::new(0.5).expect("in range");
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|n| floor(n, half)),
            [0, 1, 1, 2, 2, 3]
        );
        // PyBal keeps a server while up >= n * threshold is false; the smallest count that makes it true.
        for percent in 0..=100 {
            let fraction = f64::from(percent) / 100.0;
            let threshold = Threshold::new(fraction).expect("in range");
            for n in 0..200u32 {
                let smallest = (0..=n).find(|up| f64::from(*up) >= f64::from(n) * fraction);
                // n * 1.0 is n, so there is always one.
                assert_eq!(
                    floor(n as usize, threshold),
                    smallest.expect("n itself") as usize
                );
            }
        }
    }
}
