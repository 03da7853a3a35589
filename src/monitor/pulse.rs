//! Whether this host or this process has just stood still: a suspended machine, SIGSTOP, processors that are taken.
//! What a check found meanwhile says nothing sure about the server.
//!
//! A beat is due every [`BEAT`]. Whoever asks looks at the last one himself, so it does not matter who is first to
//! run after a standstill. The clock is CLOCK_BOOTTIME, which goes on while the machine is suspended.

use std::convert::Infallible;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::sleep;
use tracing::warn;

const BEAT: Duration = Duration::from_millis(100);
/// A beat that is later than this is a standstill.
const LATE: Duration = Duration::from_millis(250);
/// For so long after a standstill results are doubted: servers have seen us stand still, too.
const AFTER: Duration = Duration::from_secs(1);

pub(super) struct Pulse {
    /// When the last beat was; in milliseconds, as everything here.
    last: AtomicU64,
    doubt_until: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        Pulse {
            last: AtomicU64::new(now()),
            doubt_until: AtomicU64::new(0),
        }
    }

    pub(super) async fn beat(&self) -> Infallible {
        loop {
            self.look(now());
            self.last.store(now(), Relaxed);
            sleep(BEAT).await;
        }
    }

    /// Whether what was found just now is to be doubted.
    pub(super) fn is_doubtful(&self) -> bool {
        self.look(now())
    }

    fn look(&self, now: u64) -> bool {
        let late = now.saturating_sub(self.last.load(Relaxed) + millis(BEAT));
        if late > millis(LATE) {
            let before = self.doubt_until.fetch_max(now + millis(AFTER), Relaxed);
            if before < now {
                let late = Duration::from_millis(late);
                warn!(?late, "this host stood still: what checks find is doubted");
            }
        }
        now < self.doubt_until.load(Relaxed)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Since the machine was started, suspended or not.
fn now() -> u64 {
    // It fails for a clock that is not there, and Linux has this one since 2.6.39.
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    since_boot.map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_beats_are_doubted_for_a_while() {
        let pulse = Pulse::new();
        let start = now();
        pulse.last.store(start, Relaxed);
        for (after, doubtful) in [(0, false), (350, false), (351, true)] {
            assert_eq!(pulse.look(start + after), doubtful, "{after}");
        }
        // The beat goes on.
        pulse.last.store(start + 360, Relaxed);
        for (after, doubtful) in [(400, true), (1350, true), (1351, false)] {
            pulse.last.store(start + after, Relaxed);
            assert_eq!(pulse.look(start + after), doubtful, "{after}");
        }
    }
}
