//! What changes with each check, so that no snapshot carries it: counted where the check runs, read where it is
//! shown.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

/// The upper bounds of the histogram's buckets; the last one has none.
pub const BUCKETS: [Duration; 11] = [
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Of one check, for as long as its server has this address.
#[derive(Debug, Default)]
pub struct Figures {
    pub up_results: AtomicU64,
    pub down_results: AtomicU64,
    /// Checks that began long after they were due: this host was too slow.
    pub late: AtomicU64,
    /// Checks by how long they took, not summed up; the last are those longer than all of [`BUCKETS`].
    pub durations: [AtomicU64; BUCKETS.len() + 1],
    /// All together, in microseconds.
    pub duration_sum: AtomicU64,
    /// When the certificate expires that the server showed last, in seconds since 1970; 0: it showed none.
    pub certificate_expires: AtomicI64,
    last: Mutex<Option<Last>>,
    /// Answers without a load in them, of a monitor that wants one.
    pub load_faults: AtomicU64,
    load: Mutex<LastLoad>,
}

/// What the last answers said of the server's load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastLoad {
    /// The share of its weight that the server gets for it; `None`: nothing is known yet.
    pub percent: Option<u32>,
    /// Why the last answer said nothing of it.
    pub fault: Option<Arc<str>>,
}

/// The last result, whatever came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    pub at: SystemTime,
    /// `Err`: why it did not pass.
    pub result: Result<(), Arc<str>>,
    /// `None`: of a probe without single checks.
    pub took: Option<Duration>,
}

impl Figures {
    /// A reason that is the last one again takes no new memory.
    pub fn note(&self, at: SystemTime, result: Result<(), &str>, took: Option<Duration>) {
        let results = match result {
            Ok(()) => &self.up_results,
            Err(_) => &self.down_results,
        };
        results.fetch_add(1, Relaxed);
        if let Some(took) = took {
            let bucket = BUCKETS.partition_point(|bound| *bound < took);
            self.durations[bucket].fetch_add(1, Relaxed);
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.duration_sum.fetch_add(took, Relaxed);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.take().and_then(|last| last.result.err());
        let result = result.map_err(|why| {
            known
                .filter(|known| **known == *why)
                .unwrap_or_else(|| why.into())
        });
        *last = Some(Last { at, result, took });
    }

    /// Gives whether that is a fault after there was none.
    pub fn note_load(&self, percent: Option<u32>, fault: Option<Arc<str>>) -> bool {
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = fault.is_some() && load.fault.is_none();
        self.load_faults.fetch_add(fault.is_some().into(), Relaxed);
        *load = LastLoad { percent, fault };
        begins
    }

    pub fn load(&self) -> LastLoad {
        let load = self.load.lock();
        load.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn last(&self) -> Option<Last> {
        let last = self.last.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_their_kind_and_time() {
        let figures = Figures::default();
        let last = |result: Result<(), &str>, took: Option<u64>| Last {
            at: SystemTime::UNIX_EPOCH,
            result: result.map_err(Arc::from),
            took: took.map(Duration::from_millis),
        };
        for (result, took) in [
            (Ok(()), Some(1)),
            (Ok(()), None),
            (Err("refused"), Some(9000)),
        ] {
            let Last { at, took, .. } = last(Ok(()), took);
            figures.note(at, result, took);
        }
        assert_eq!(figures.last(), Some(last(Err("refused"), Some(9000))));
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let both = [&figures.up_results, &figures.down_results].map(count);
        assert_eq!(both, [2, 1]);
        let durations: Vec<u64> = figures.durations.iter().map(count).collect();
        assert_eq!(durations, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(count(&figures.duration_sum), 9_001_000);
    }
}
