//! Jittered exponential delays, for whoever retries. It waits for nothing itself: the caller sleeps.

use std::time::Duration;

/// The delays between tries: about `first`, then twice as long each time, never more than `max`.
///
/// Each is shortened by a random part of up to a quarter, so that what failed together
/// does not try again together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    /// The next delay before its jitter.
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Backoff {
        let first = first.min(max);
        Backoff {
            first,
            max,
            next: first,
        }
    }

    /// How long to wait before the next try.
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends, an Iterator's Option would say that it may"
    )]
    pub fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.max);
        full.mul_f64(1.0 - fastrand::f64() / 4.0)
    }

    /// It worked: the next failure starts from `first` again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_within_the_jitter() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for full in [1.0, 2.0, 4.0, 5.0, 5.0] {
            let delay = backoff.next().as_secs_f64();
            assert!(
                delay > full * 0.7499 && delay <= full,
                "{delay} is not just below {full}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }

    #[test]
    fn two_that_failed_together_do_not_stay_together() {
        let delays = |mut backoff: Backoff| (0..8).map(|_| backoff.next()).collect::<Vec<_>>();
        let one = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        assert_ne!(delays(one.clone()), delays(one));
    }

    #[test]
    fn first_above_max_and_endless_growth() {
        let mut backoff = Backoff::new(Duration::from_secs(9), Duration::from_secs(2));
        assert!(backoff.next() <= Duration::from_secs(2));
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        for _ in 0..200 {
            backoff.next();
        }
    }
}
