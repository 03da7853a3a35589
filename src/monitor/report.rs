//! What becomes of a check's results: a verdict, if it changes, for the core; figures; lines in the log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info};

use super::Tools;
use super::audience::Audience;
use super::damping::Judge;
use super::outcome::{Failure, Outcome, Passed, printable};
use super::suspicion::Suspect;
use crate::check::Check;
use crate::event::Verdict;

/// Where a probe says how it went.
pub(super) struct Report {
    /// The first of those that it is made for; it names the server.
    check: Arc<Check>,
    audience: Arc<Audience>,
    tools: Arc<Tools>,
    judge: Judge,
    suspect: Suspect,
    /// Whether it is known to pass, so that this need not be said each time.
    passes: bool,
    /// Of all probes of this server, whatever the service: one of them has come up.
    up_again: Arc<Notify>,
}

impl Report {
    pub(super) fn new(
        check: Arc<Check>,
        audience: Arc<Audience>,
        tools: Arc<Tools>,
        up_again: Arc<Notify>,
    ) -> Report {
        Report {
            suspect: tools.suspicion.newcomer(),
            passes: false,
            judge: Judge::new(check.monitor.damping),
            check,
            audience,
            tools,
            up_again,
        }
    }

    /// Whether a failure may rather be this host's: then the check is to be repeated, once, before it is taken.
    pub(super) fn doubts(&mut self, outcome: &Outcome) -> bool {
        match outcome {
            Ok(_) | Err(Failure::Unable(_)) => false,
            Err(Failure::Server(_) | Failure::NoAnswer(_) | Failure::TimedOut { .. }) => {
                self.passes = false;
                let service = &self.check.service;
                let odd = self
                    .tools
                    .suspicion
                    .failed(self.suspect, service, Instant::now());
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
        if why.is_none() && !self.passes {
            self.tools.suspicion.passed(self.suspect);
        }
        self.passes = why.is_none();
        let result = why.as_deref().map_or(Ok(()), Err);
        self.audience.note(wall_clock(), result, took);
        let up = self.judge.judge(why.is_none());
        let was = self.audience.verdict();
        if was.as_ref().is_some_and(|was| (*was == Verdict::Up) == up) {
            return;
        }
        // A verdict changes to the kind that the last result is of.
        match why {
            None => self.say_up(was.is_some()).await,
            Some(why) => self.say_down(why).await,
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

    /// `again`: it was down.
    async fn say_up(&self, again: bool) {
        let Check {
            service,
            host,
            monitor,
            ..
        } = &*self.check;
        let (monitor, checks) = (monitor.probe.kind(), self.audience.len());
        if again {
            info!(%service, %host, monitor, checks, "check is up");
            self.up_again.notify_waiters();
        } else {
            debug!(%service, %host, monitor, checks, "check is up");
        }
        self.audience.say(Verdict::Up).await;
    }

    async fn say_down(&self, reason: String) {
        let Check {
            service,
            host,
            monitor,
            ..
        } = &*self.check;
        let (monitor, checks) = (monitor.probe.kind(), self.audience.len());
        info!(%service, %host, monitor, checks, reason, "check is down");
        self.audience.say(Verdict::Down(reason)).await;
    }

    /// The check could not be made, for want of something on this host: that says nothing about the server,
    /// so what was known of it stands. If nothing is known yet it is down, as something must be said where it counts.
    async fn unable(&self, reason: &str) {
        let reason = printable(reason.into());
        self.tools.trouble.met(&reason);
        if self.audience.verdict().is_none() && self.check.monitor.depool {
            self.say_down(reason).await;
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.tools.suspicion.forget(self.suspect);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "when the last result came is told to people; nothing is decided by it"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
