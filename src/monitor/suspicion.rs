//! Whether it is rather this host that is ill than its servers: when most checks of several services fail at about
//! the same time, its own link or resolver or memory is the likelier cause.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::service::ServiceName;

/// What fails within this time fails at the same time: PyBal's interval.
const TOGETHER: Duration = Duration::from_secs(10);
/// So many checks of so many services, at least, must fail together before it looks odd.
const CHECKS: usize = 6;
const SERVICES: usize = 3;

#[derive(Default)]
pub(super) struct Suspicion(Mutex<State>);

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suspect(u64);

#[derive(Default)]
struct State {
    newest: u64,
    up: BTreeSet<Suspect>,
    /// That were up, and when they failed.
    failed: BTreeMap<Suspect, (Instant, ServiceName)>,
    /// The same in order of time, with entries that are void by now.
    order: VecDeque<(Instant, Suspect)>,
    /// How many of each service have failed.
    services: BTreeMap<ServiceName, usize>,
}

impl Suspicion {
    /// One more probe, of which nothing is known.
    pub(super) fn newcomer(&self) -> Suspect {
        let mut state = self.lock();
        state.newest += 1;
        Suspect(state.newest)
    }

    /// A check has passed. Once is enough, until it fails.
    pub(super) fn passed(&self, check: Suspect) {
        let mut state = self.lock();
        state.up.insert(check);
        state.recover(check);
    }

    /// A check has failed. Gives the reason if that is to be doubted: of what was up more has failed by now than
    /// has not.
    pub(super) fn failed(
        &self,
        check: Suspect,
        service: &ServiceName,
        now: Instant,
    ) -> Option<String> {
        let mut state = self.lock();
        state.expire(now);
        if state.up.remove(&check) {
            state.failed.insert(check, (now, service.clone()));
            state.order.push_back((now, check));
            *state.services.entry(service.clone()).or_default() += 1;
        }
        let (failed, services) = (state.failed.len(), state.services.len());
        let odd = failed >= CHECKS && services >= SERVICES && failed > state.up.len();
        odd.then(|| {
            let time = humantime::format_duration(TOGETHER);
            format!("{failed} checks of {services} services failed within {time}: is it this host?")
        })
    }

    /// It is no check any more.
    pub(super) fn forget(&self, check: Suspect) {
        let mut state = self.lock();
        state.up.remove(&check);
        state.recover(check);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn expire(&mut self, now: Instant) {
        while let Some((at, check)) = self.order.front().copied()
            && now.saturating_duration_since(at) > TOGETHER
        {
            self.order.pop_front();
            // It may have come back and failed once more.
            if self.failed.get(&check).is_some_and(|(last, _)| *last == at) {
                self.recover(check);
            }
        }
    }

    fn recover(&mut self, check: Suspect) {
        let Some((_, service)) = self.failed.remove(&check) else {
            return;
        };
        if let Some(count) = self.services.get_mut(&service) {
            *count -= 1;
            if *count == 0 {
                self.services.remove(&service);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspicion(checks: u64) -> Suspicion {
        let suspicion = Suspicion::default();
        (0..checks).for_each(|n| suspicion.passed(Suspect(n)));
        suspicion
    }

    /// Check n is of this service.
    fn service(n: u64, services: u64) -> ServiceName {
        format!("service-{}", n % services)
            .parse()
            .expect("a good name")
    }

    fn fail(
        suspicion: &Suspicion,
        checks: std::ops::Range<u64>,
        services: u64,
        now: Instant,
    ) -> Vec<bool> {
        checks
            .map(|n| {
                suspicion
                    .failed(Suspect(n), &service(n, services), now)
                    .is_some()
            })
            .collect()
    }

    #[test]
    fn most_checks_of_several_services() {
        let now = Instant::now();
        let of_ten = fail(&suspicion(10), 0..10, 3, now);
        assert_eq!(of_ten, [[false; 5], [true; 5]].concat());
        // Of two services, or few checks: no.
        assert_eq!(fail(&suspicion(10), 0..10, 2, now), [false; 10]);
        assert_eq!(fail(&suspicion(5), 0..5, 3, now), [false; 5]);
        // Less than half of them.
        assert_eq!(fail(&suspicion(100), 0..50, 3, now), [false; 50]);
    }

    #[test]
    fn only_what_fails_together() {
        let (all, now) = (suspicion(10), Instant::now());
        assert_eq!(fail(&all, 0..5, 3, now), [false; 5]);
        let later = now + TOGETHER + Duration::from_millis(1);
        assert_eq!(fail(&all, 5..10, 3, later), [false; 5]);
        // A check that is stopped is neither up nor failed, and one that failed before counts once.
        let all = suspicion(12);
        (6..12).for_each(|n| all.forget(Suspect(n)));
        assert_eq!(fail(&all, 0..5, 3, now), [false; 5]);
        assert_eq!(fail(&all, 0..5, 3, now), [false; 5]);
        assert_eq!(fail(&all, 5..6, 3, now), [true]);
    }

    #[test]
    fn the_reason_has_numbers() {
        let (all, now) = (suspicion(6), Instant::now());
        fail(&all, 0..5, 3, now);
        let why = all.failed(Suspect(5), &service(5, 3), now);
        let expected = "6 checks of 3 services failed within 10s: is it this host?";
        assert_eq!(why.as_deref(), Some(expected));
    }
}
