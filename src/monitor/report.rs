//! What becomes of a check's results: a verdict, if it changes, for the core; figures; lines in the log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::{debug, info};

use super::Tools;
use super::damping::Judge;
use super::outcome::{Failure, Outcome, Passed, printable};
use crate::check::Check;
use crate::event::{CheckId, Event, Verdict};

/// Where a check says how it went.
pub(super) struct Report {
    id: CheckId,
    check: Arc<Check>,
    events: mpsc::Sender<Event>,
    tools: Arc<Tools>,
    judge: Judge,
    /// What was last sent.
    up: Option<bool>,
    /// Of all checks of this server, whatever the service: one of them has come up.
    up_again: Arc<Notify>,
}

impl Report {
    pub(super) fn new(
        id: CheckId,
        check: Arc<Check>,
        events: mpsc::Sender<Event>,
        tools: Arc<Tools>,
        up_again: Arc<Notify>,
    ) -> Report {
        Report {
            id,
            events,
            tools,
            judge: Judge::new(check.monitor.damping),
            up: None,
            up_again,
            check,
        }
    }

    /// Whether a failure may rather be this host's: then the check is to be repeated, once, before it is taken.
    pub(super) fn doubts(&self, outcome: &Outcome) -> bool {
        match outcome {
            Ok(_) | Err(Failure::Unable(_)) => false,
            Err(Failure::Server(_) | Failure::NoAnswer(_) | Failure::TimedOut { .. }) => {
                let service = &self.check.service;
                let odd = self
                    .tools
                    .suspicion
                    .failed(self.id, service, Instant::now());
                if let Some(odd) = &odd {
                    self.tools.trouble.met(odd);
                }
                odd.is_some() || self.tools.pulse.is_doubtful()
            }
        }
    }

    /// The result of a check; `took`: of a probe that makes single ones.
    pub(super) async fn take(&mut self, outcome: Outcome, took: Option<Duration>) {
        let why = match outcome {
            Ok(Passed {}) => None,
            Err(Failure::Unable(reason)) => return self.unable(&reason).await,
            Err(
                failure @ (Failure::Server(_) | Failure::NoAnswer(_) | Failure::TimedOut { .. }),
            ) => Some(failure.into_reason()),
        };
        if why.is_none() {
            self.tools.suspicion.passed(self.id);
        }
        let result = why.as_deref().map_or(Ok(()), Err);
        self.check.figures.note(wall_clock(), result, took);
        let up = self.judge.judge(why.is_none());
        if self.up == Some(up) {
            return;
        }
        // A verdict changes to the kind that the last result is of.
        match why {
            None => self.send_up().await,
            Some(why) => self.send_down(why).await,
        }
    }

    /// Whether more results must come before the last one is believed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.judge.is_in_doubt()
    }

    /// Another check of this server has come up after it was down.
    pub(super) async fn up_again(&self) {
        self.up_again.notified().await;
    }

    async fn send_up(&mut self) {
        let Check {
            service,
            host,
            monitor,
            ..
        } = &*self.check;
        let monitor = monitor.probe.kind();
        if self.up == Some(false) {
            info!(%service, %host, monitor, "check is up");
            self.up_again.notify_waiters();
        } else {
            debug!(%service, %host, monitor, "check is up");
        }
        self.send(true, Verdict::Up).await;
    }

    async fn send_down(&mut self, reason: String) {
        let Check {
            service,
            host,
            monitor,
            ..
        } = &*self.check;
        let monitor = monitor.probe.kind();
        info!(%service, %host, monitor, reason, "check is down");
        self.send(false, Verdict::Down(reason)).await;
    }

    /// The check could not be made, for want of something on this host: that says nothing about the server,
    /// so what was known of it stands. If nothing is known yet it is down, as something must be said.
    async fn unable(&mut self, reason: &str) {
        let reason = printable(reason.into());
        self.tools.trouble.met(&reason);
        if self.up.is_none() {
            self.send_down(reason).await;
        }
    }

    async fn send(&mut self, up: bool, verdict: Verdict) {
        self.up = Some(up);
        let service = self.check.service.clone();
        let checked = Event::Checked {
            service,
            check: self.id,
            verdict,
        };
        // If nobody listens any more, the daemon is stopping and so are we.
        let _ = self.events.send(checked).await;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.tools.suspicion.forget(self.id);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "when the last result came is told to people; nothing is decided by it"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
