//! The steps that states have in common: from one to the next, and back to Idle with what that makes of the
//! next try. Which of them an event is answered with is not here but in `session`.

use std::time::Duration;

use super::negotiate::{Negotiated, Refused};
use super::{Action, At, Established, LARGE_HOLD_TIME, Session, Timers};
use crate::bgp::message::{Refresh, RefreshKind};
use crate::bgp::notification::{Cease, Notification};
use crate::routing::session::SessionState;

/// The first wait between two tries, before jitter; the longest is configured.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// So many failures make any wait the longest.
pub(super) const FAILURES_MAX: u32 = 16;
/// Who was established for so long is tried again quickly.
pub(super) const STABLE: Duration = Duration::from_secs(10);

/// What an end makes of the time to the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A failure: twice as long as the last time.
    Slower,
    /// No failure: a collision.
    Same,
    /// The peer's operator or its limits were the reason, and time alone does not mend that.
    Slowest,
}

impl Session {
    /// To Connect; the ConnectRetryTimer bounds the attempt. Who is passive waits in Active.
    pub(super) fn start_connect(&mut self, at: At) -> Vec<Action> {
        if self.ends.passive {
            return self.wait();
        }
        self.timers = Timers {
            connect_retry: at.after(self.back_off()),
            ..Timers::default()
        };
        self.state = SessionState::Connect;
        vec![Action::Connect]
    }

    /// To Active, where the peer is expected to connect.
    pub(super) fn wait(&mut self) -> Vec<Action> {
        self.timers = Timers::default();
        self.state = SessionState::Active;
        Vec::new()
    }

    /// The ConnectRetryTimer has expired.
    pub(super) fn connect_again(&mut self, at: At) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.delays_open() {
            actions.push(Action::Close(None));
        } else if self.state == SessionState::Connect {
            self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
            actions.push(Action::Fault("connect timed out".into()));
        }
        actions.extend(self.start_connect(at));
        actions
    }

    pub(super) fn connected(&mut self, at: At) -> Vec<Action> {
        match self.ends.delay_open_time.filter(|time| !time.is_zero()) {
            Some(_) if self.delays_open() => Vec::new(),
            // No jitter: section 10 does not name this timer.
            Some(time) => {
                self.timers = Timers {
                    delay_open: Some(at.now + time),
                    ..Timers::default()
                };
                Vec::new()
            }
            None => self.send_open(at),
        }
    }

    pub(super) fn send_open(&mut self, at: At) -> Vec<Action> {
        self.timers = Timers {
            hold: Some(at.now + LARGE_HOLD_TIME),
            ..Timers::default()
        };
        self.state = SessionState::OpenSent;
        vec![Action::SendOpen(self.ends.open())]
    }

    pub(super) fn opened(&mut self, negotiated: Negotiated, at: At) -> Vec<Action> {
        self.timers = Timers::default();
        self.negotiated = Some((negotiated, at.now));
        self.restart_hold_timer(at);
        self.restart_keepalive_timer(at);
        self.state = SessionState::OpenConfirm;
        vec![Action::SendKeepalive]
    }

    pub(super) fn establish(&mut self, at: At) -> Vec<Action> {
        self.restart_hold_timer(at);
        self.state = SessionState::Established;
        self.established = Some(Established {
            since: at.now,
            heard: false,
        });
        let agreed = self.negotiated.iter();
        agreed
            .map(|(agreed, _)| Action::Established(agreed.clone()))
            .collect()
    }

    /// Something of the established peer.
    pub(super) fn hear(&mut self, at: At) {
        self.restart_hold_timer(at);
        if let Some(established) = &mut self.established {
            established.heard = true;
        }
    }

    pub(super) fn refresh(&self, refresh: Refresh) -> Vec<Action> {
        let Some((agreed, _)) = &self.negotiated else {
            return Vec::new();
        };
        let request = match refresh.kind {
            RefreshKind::Request => true,
            // The peer's own refresh is not the session's affair, and an unknown subtype is ignored (RFC 7313
            // section 5). To who does not speak it the byte is reserved (RFC 2918 section 3).
            RefreshKind::Begin | RefreshKind::End | RefreshKind::Other(_) => {
                !agreed.enhanced_route_refresh
            }
        };
        // RFC 2918 section 4: ignored for a family that was not agreed on.
        let family = refresh.family.filter(|f| agreed.families.contains(f));
        let wanted = family.filter(|_| request);
        wanted.map(Action::Refresh).into_iter().collect()
    }

    pub(super) fn keepalive(&mut self, at: At) -> Vec<Action> {
        self.restart_keepalive_timer(at);
        vec![Action::SendKeepalive]
    }

    /// No jitter: the peer counts on the whole of it.
    pub(super) fn restart_hold_timer(&mut self, at: At) {
        self.timers.hold = self.hold_time().map(|time| at.now + time);
    }

    /// Section 4.4: a third of the hold time.
    pub(super) fn restart_keepalive_timer(&mut self, at: At) {
        self.timers.keepalive = self.hold_time().and_then(|time| at.after(time / 3));
    }

    pub(super) fn hold_time(&self) -> Option<Duration> {
        self.negotiated.as_ref().map(|(agreed, _)| agreed.hold_time)
    }

    pub(super) fn hold_timer_expired(&mut self, at: At) -> Vec<Action> {
        self.refuse(Notification::new(4, 0, []), at)
    }

    /// RFC 9687 sections 4.3 and 5: said if it can still be written.
    pub(super) fn send_hold_timer_expired(&mut self, at: At) -> Vec<Action> {
        self.refuse(Notification::new(8, 0, []), at)
    }

    /// RFC 6608 sections 3 and 4: the subcode says in which state, `data` which type of message came, if it was
    /// a message.
    pub(super) fn unexpected(&mut self, subcode: u8, data: &[u8], at: At) -> Vec<Action> {
        self.refuse(Notification::new(5, subcode, data), at)
    }

    pub(super) fn refuse(&mut self, notification: Notification, at: At) -> Vec<Action> {
        let fault = notification.to_string();
        self.fail(at, Pace::Slower, Some(notification), Some(fault))
    }

    pub(super) fn refuse_open(&mut self, Refused { tell, why }: Refused, at: At) -> Vec<Action> {
        let fault = format!("{tell}: {why}");
        self.fail(at, Pace::Slower, Some(tell), Some(fault))
    }

    pub(super) fn told(&mut self, notification: &Notification, at: At) -> Vec<Action> {
        let pace = match (notification.code, notification.subcode) {
            // RFC 4486: maximum number of prefixes, administrative shutdown, peer de-configured.
            (6, 1..=3) => Pace::Slowest,
            (6, 7) => Pace::Same,
            _ => Pace::Slower,
        };
        let fault = format!("the peer says: {notification}");
        self.fail(at, pace, None, Some(fault))
    }

    /// The other connection stays (section 6.8). That is no fault.
    pub(super) fn collide(&mut self, at: At) -> Vec<Action> {
        let tell = Notification::cease(Cease::ConnectionCollision);
        let tell = Some(tell).filter(|_| self.is_connected());
        self.fail(at, Pace::Same, tell, None)
    }

    /// Lost before the OPENs were through: to Active, from there by the ConnectRetryTimer to Connect.
    pub(super) fn lose(&mut self, fault: String, at: At) -> Vec<Action> {
        let wait = at.after(self.back_off());
        self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
        self.wait();
        self.timers.connect_retry = wait.filter(|_| !self.ends.passive);
        vec![Action::Close(None), Action::Fault(fault)]
    }

    /// To Idle, and from there by the IdleHoldTimer back to Connect.
    pub(super) fn fail(
        &mut self,
        at: At,
        pace: Pace,
        tell: Option<Notification>,
        fault: Option<String>,
    ) -> Vec<Action> {
        let established = self.established.take();
        if established.is_some_and(|e| at.now - e.since >= STABLE) {
            self.connect_retry_counter = 0;
        }
        if pace == Pace::Slowest {
            self.slow_down();
        }
        self.timers = Timers {
            idle_hold: at.after(self.back_off()),
            ..Timers::default()
        };
        if pace == Pace::Slower {
            self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
        }
        self.negotiated = None;
        self.state = SessionState::Idle;
        [Action::Close(tell)]
            .into_iter()
            .chain(fault.map(Action::Fault))
            .collect()
    }

    /// To Idle, to stay there until a start.
    pub(super) fn stop(&mut self, tell: Option<Notification>) -> Vec<Action> {
        *self = Session::new(self.ends.clone());
        vec![Action::Close(tell)]
    }

    /// What the ConnectRetryCounter makes of the time to the next try.
    pub(super) fn back_off(&self) -> Duration {
        RETRY_FIRST
            .saturating_mul(1 << self.connect_retry_counter.min(FAILURES_MAX))
            .min(self.ends.connect_retry_time.max(RETRY_FIRST))
    }
}
