//! How times and lists are written.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::snapshot::alert::Age;

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// RFC 3339, UTC, to the second.
pub(super) fn time(time: SystemTime) -> String {
    let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// How long ago that was; a clock that was set back makes it now.
pub(super) fn since(time: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// `3h 12m`: as exact as it matters.
fn about(age: Duration) -> String {
    let unit = match age.as_secs() {
        0..3600 => 1,
        3600..86_400 => 60,
        _ => 3600,
    };
    let whole = age.as_secs() / unit * unit;
    Age(Duration::from_secs(whole)).to_string()
}

pub(super) fn ago(seconds: u64) -> String {
    format!("{} ago", about(Duration::from_secs(seconds)))
}

/// The seconds until a timer expires, begun ones as whole; `None`: it does not run.
pub(super) fn left(expires: &AtomicU64, now: SystemTime) -> Option<u64> {
    let expires = Some(expires.load(Ordering::Relaxed)).filter(|at| *at > 0)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_millis(expires).saturating_sub(now);
    u64::try_from(left.as_millis().div_ceil(1000)).ok()
}

pub(super) fn list<T: Display>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(between)
}

/// `-` if there is nothing.
pub(super) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(time(at(1_767_323_045)), "2026-01-02T03:04:05Z");
        assert_eq!(time(at(1 << 60)), "9999-12-31T23:59:59Z");
        assert_eq!(
            time(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(since(at(100), at(160)), Duration::from_secs(60));
        assert_eq!(since(at(160), at(100)), Duration::ZERO);
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (754, "12m 34s"),
            (3600 * 3 + 754, "3h 12m"),
            (86_400 * 2 + 3600 * 3 + 754, "2days 3h"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), expected);
        }
        let left = |expires, now| left(&AtomicU64::new(expires), at(now));
        assert_eq!(left(0, 5), None);
        assert_eq!(left(7_001, 5), Some(3));
        assert_eq!(left(7_000, 5), Some(2));
        assert_eq!(left(7_000, 8), Some(0));
    }
}
