//! Points in time, as they are written.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::api::Now;

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// A clock that was set by less than this was not set: it is held to its time.
const STEP: Duration = Duration::from_secs(1);

/// RFC 3339, UTC, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(SystemTime);

impl Time {
    /// `at` by the clock that only goes forward.
    pub(super) fn of(at: Instant, now: Now) -> Time {
        let ahead = at.checked_duration_since(now.monotonic);
        let time = match ahead {
            Some(ahead) => now.calendar.checked_add(ahead),
            None => now.calendar.checked_sub(now.monotonic.duration_since(at)),
        };
        Time(time.unwrap_or(UNIX_EPOCH))
    }

    pub(super) fn before(self, age: Duration) -> Time {
        Time(self.0.checked_sub(age).unwrap_or(UNIX_EPOCH))
    }

    /// `None`: 0, which stands for never.
    pub(super) fn of_millis(millis: u64) -> Option<Time> {
        (millis > 0).then(|| Time(UNIX_EPOCH + Duration::from_millis(millis).min(LAST)))
    }

    /// The same in seconds.
    pub(super) fn of_seconds(seconds: i64) -> Option<Time> {
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
        Some(Time(UNIX_EPOCH + Duration::from_secs(seconds).min(LAST)))
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        Time(time)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = self.0.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST);
        serializer.collect_str(&humantime::format_rfc3339_millis(time))
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// Two readings of the two clocks are never of one moment. Those that the calendar was not set between are made
/// so: the same point in time is then always written alike, and a body that says it stays the same one.
pub(super) fn steady(now: Now, before: &mut Option<Now>) -> Now {
    let expected = before.and_then(|before| {
        let since = now.monotonic.checked_duration_since(before.monotonic)?;
        before.calendar.checked_add(since)
    });
    let near = |expected: &SystemTime| {
        let ahead = now.calendar.duration_since(*expected);
        ahead.unwrap_or_else(|behind| behind.duration()) < STEP
    };
    match expected.filter(near) {
        Some(calendar) => Now { calendar, ..now },
        None => {
            *before = Some(now);
            now
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::sample;

    use super::*;

    fn text(time: impl Into<Option<Time>>) -> String {
        serde_json::to_string(&time.into()).unwrap()
    }

    #[test]
    fn times() {
        let now = Now {
            monotonic: sample::now(),
            calendar: sample::at(0),
        };
        let minute = Duration::from_secs(60);
        let at = |at| text(Time::of(at, now));
        assert_eq!(at(now.monotonic), "\"2026-01-02T03:04:05.000Z\"");
        assert_eq!(at(now.monotonic + minute), "\"2026-01-02T03:05:05.000Z\"");
        assert_eq!(at(now.monotonic - minute), "\"2026-01-02T03:03:05.000Z\"");
        assert_eq!(text(Time::of_millis(0)), "null");
        assert_eq!(text(Time::of_millis(1)), "\"1970-01-01T00:00:00.001Z\"");
        assert_eq!(
            text(Time::of_millis(u64::MAX)),
            "\"9999-12-31T23:59:59.000Z\""
        );
        assert_eq!(text(Time::of_seconds(-1)), "null");
        let early = Time::from(UNIX_EPOCH - minute);
        assert_eq!(text(early), "\"1970-01-01T00:00:00.000Z\"");
    }

    #[test]
    fn a_clock_that_is_read_twice_says_one_time() {
        let (start, second) = (sample::now(), Duration::from_secs(1));
        let read = |after: Duration, calendar| Now {
            monotonic: start + after,
            calendar,
        };
        let mut before = None;
        let first = steady(read(Duration::ZERO, sample::at(0)), &mut before);
        let late = sample::at(1) + Duration::from_millis(3);
        let next = steady(read(second, late), &mut before);
        assert_eq!(next.calendar, sample::at(1));
        assert_eq!(Time::of(start, first), Time::of(start, next));
        // Set by an hour: from then on it goes by that.
        let set = steady(read(2 * second, sample::at(3600)), &mut before);
        assert_eq!(set.calendar, sample::at(3600));
        let next = steady(read(3 * second, sample::at(3601)), &mut before);
        assert_eq!(next.calendar, sample::at(3601));
    }
}
