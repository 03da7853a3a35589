//! The timers of RFC 4271 section 8 and 10 as data: each stopped, or with the time at which it expires.

use std::time::Duration;

use tokio::time::Instant;

use super::Event;

/// The moment of an event, and the jitter of timers that it starts.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub now: Instant,
    jitter: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timers {
    pub connect_retry: Option<Instant>,
    pub delay_open: Option<Instant>,
    pub hold: Option<Instant>,
    pub keepalive: Option<Instant>,
    pub idle_hold: Option<Instant>,
}

impl At {
    /// `random`: anything from 0 to 1.
    pub fn new(now: Instant, random: f64) -> At {
        At {
            now,
            jitter: 1.0 - random.clamp(0.0, 1.0) / 4.0,
        }
    }

    /// Section 10: three quarters of the time to all of it.
    pub(super) fn after(self, time: Duration) -> Option<Instant> {
        Some(self.now + time.mul_f64(self.jitter))
    }
}

impl Timers {
    /// When the next one expires.
    pub fn next(&self) -> Option<Instant> {
        let Timers {
            connect_retry,
            delay_open,
            hold,
            keepalive,
            idle_hold,
        } = *self;
        [connect_retry, delay_open, hold, keepalive, idle_hold]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the peer is tried again, or an attempt given up.
    pub fn retry(&self) -> Option<Instant> {
        self.connect_retry.or(self.idle_hold)
    }

    /// Stops one that has expired and gives its event.
    pub(super) fn due(&mut self, now: Instant) -> Option<Event> {
        let expired = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        if expired(&mut self.hold) {
            Some(Event::HoldTimerExpires)
        } else if expired(&mut self.keepalive) {
            Some(Event::KeepaliveTimerExpires)
        } else if expired(&mut self.delay_open) {
            Some(Event::DelayOpenTimerExpires)
        } else if expired(&mut self.connect_retry) {
            Some(Event::ConnectRetryTimerExpires)
        } else if expired(&mut self.idle_hold) {
            Some(Event::IdleHoldTimerExpires)
        } else {
            None
        }
    }
}
