//! A peer's counters and timers, as others read them; and the only clock here that is the world's.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::bgp::message::HEADER;
use crate::bgp::session::Timers;
use crate::routing::session::Figures;
use crate::service::Family;

/// In the order of [`Figures::prefixes`].
pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Where UPDATEs stand in [`Figures::sent`]: their type less one (RFC 4271 section 4.1).
const UPDATE: usize = 1;

/// Adds a whole message, by its type.
pub(super) fn count(by_type: &[AtomicU64; 5], frame: &[u8]) {
    if let Some(figure) = kind(frame).and_then(|kind| by_type.get(kind)) {
        add(figure);
    }
}

pub(super) fn is_update(frame: &[u8]) -> bool {
    kind(frame) == Some(UPDATE)
}

fn kind(frame: &[u8]) -> Option<usize> {
    usize::from(*frame.get(HEADER - 1)?).checked_sub(1)
}

pub(super) fn add(figure: &AtomicU64) {
    figure.fetch_add(1, Relaxed);
}

pub(super) fn set(figure: &AtomicU64, number: usize) {
    figure.store(number as u64, Relaxed);
}

/// When they expire; what is not running is 0.
pub(super) fn timers(figures: &Figures, timers: &Timers) {
    let (now, wall) = (Instant::now(), wall_clock());
    let milliseconds = |at: Option<Instant>| {
        let at = at.map(|at| wall + at.saturating_duration_since(now));
        let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_millis() as u64)
    };
    for (figure, timer) in [
        (&figures.hold_timer, timers.hold),
        (&figures.keepalive_timer, timers.keepalive),
        (&figures.retry_timer, timers.retry()),
    ] {
        figure.store(milliseconds(timer), Relaxed);
    }
}

/// To show, never to decide by.
#[expect(
    clippy::disallowed_methods,
    reason = "operators compare it with their routers' logs; nothing is decided by it"
)]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}
