//! What becomes of a check's results: a verdict, if it changes, for the core; figures; lines in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info};

use super::Tools;
use super::audience::Audience;
use super::damping::Judge;
use super::outcome::{Failure, Outcome, Passed, printable};
use super::suspicion::Suspect;
use crate::check::{Check, Share};
use crate::event::Verdict;
use crate::service::{Host, ServiceName};

/// Where a probe says how it went.
pub(super) struct Report {
    /// The first of those that it is made for; it names the server.
    check: Arc<Check>,
    audience: Arc<Audience>,
    tools: Arc<Tools>,
    judge: Judge,
    /// Of a monitor that looks at the load.
    share: Share,
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
            share: Share::default(),
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
        self.take_load(&outcome).await;
        let why = match outcome {
            Ok(Passed { load: _ }) => None,
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
        // A handshake has noted it in those of the check that it is made for.
        let expires = self.check.figures.certificate_expires.load(Relaxed);
        self.audience.note(wall_clock(), result, took, expires);
        let up = self.judge.judge(why.is_none());
        let was_up = self.audience.is_up();
        if was_up == Some(up) {
            return;
        }
        // A verdict changes to the kind that the last result is of.
        match why {
            None => self.say_up(was_up.is_some()).await,
            Some(why) => self.say_down(why).await,
        }
    }

    /// The next check begins long after it was due.
    pub(super) fn late(&self) {
        self.audience.note_late();
    }

    /// Whether more results must come before the last one is believed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.judge.is_in_doubt()
    }

    /// Another check of this server has come up after it was down.
    pub(super) async fn up_again(&self) {
        self.up_again.notified().await;
    }

    /// What the answer says of the server's load, if that is looked at. Before the verdict, so that a server that
    /// comes up does so with its share.
    async fn take_load(&mut self, outcome: &Outcome) {
        let Some(load) = &self.check.monitor.load else {
            return;
        };
        let (number, fault) = match outcome {
            Ok(passed) => match load.read(passed.load.as_deref()) {
                Ok(number) => (Some(number), None),
                Err(fault) => (None, Some(printable(fault.to_string()))),
            },
            // Why there is no answer is told as such.
            Err(_) => (None, None),
        };
        let news = self.share.take(load, number);
        let told = fault.as_deref().map(Arc::from);
        if self.audience.note_load(self.share.percent(), told) {
            let (service, host, monitor) = self.names();
            info!(%service, %host, monitor, fault, "no load to be had; after a while the list's weight holds");
        }
        if let Some(percent) = news {
            self.audience.say_load(percent).await;
        }
    }

    /// `again`: it was down.
    async fn say_up(&self, again: bool) {
        let (service, host, monitor) = self.names();
        let checks = self.audience.len();
        if again {
            info!(%service, %host, monitor, checks, "check is up");
            self.up_again.notify_waiters();
        } else {
            debug!(%service, %host, monitor, checks, "check is up");
        }
        self.audience.say(Verdict::Up).await;
    }

    async fn say_down(&self, reason: String) {
        let (service, host, monitor) = self.names();
        let checks = self.audience.len();
        info!(%service, %host, monitor, checks, reason, "check is down");
        self.audience.say(Verdict::Down(reason)).await;
    }

    /// As lines of the log name a check.
    fn names(&self) -> (&ServiceName, &Host, &'static str) {
        let check = &*self.check;
        (&check.service, &check.host, check.monitor.probe.kind())
    }

    /// The check could not be made, for want of something on this host: that says nothing about the server,
    /// so what was known of it stands. If nothing is known yet it is down, as something must be said where it counts.
    async fn unable(&self, reason: &str) {
        let reason = printable(reason.into());
        self.tools.trouble.met(&reason);
        if self.audience.is_up().is_none() && self.check.monitor.depool {
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::command::Commands;
    use super::super::pulse::Pulse;
    use super::super::suspicion::Suspicion;
    use super::super::tls::Tls;
    use super::super::trouble::Trouble;
    use super::*;
    use crate::check::{IdleConnection, Load, LoadFrom, LoadKind, Monitor, Probe};
    use crate::event::{CheckId, Event};

    /// A report of a monitor whose answers are shares, and what it tells the core.
    fn report(load: Option<Load>) -> (Report, mpsc::Receiver<Event>) {
        let probe = Probe::IdleConnection(IdleConnection {
            timeout_clean_reconnect: Duration::from_secs(1),
            max_delay: Duration::from_secs(1),
            keepalive: None,
        });
        let second = Duration::from_secs(1);
        let check = Check {
            service: "web".parse().unwrap(),
            key: crate::service::VirtualService::Address {
                protocol: crate::service::Protocol::Tcp,
                address: "192.0.2.1".parse().unwrap(),
                port: 80,
            },
            vip: "192.0.2.1".parse().unwrap(),
            host: "10.0.0.1".parse().unwrap(),
            target: "10.0.0.1:80".parse().unwrap(),
            monitor: Arc::new(Monitor {
                load,
                ..Monitor::new(probe, second, second)
            }),
            figures: Arc::default(),
        };
        let tools = Tools {
            tls: Tls::new(),
            trouble: Trouble::default(),
            pulse: Pulse::new(),
            suspicion: Suspicion::default(),
            vip: Arc::default(),
            commands: Arc::new(Commands::new()),
        };
        let (events, told) = mpsc::channel(16);
        let (check, tools) = (Arc::new(check), Arc::new(tools));
        let audience = Arc::new(Audience::new(events));
        audience.join(CheckId(7), check.clone());
        let report = Report::new(check, audience, tools, Arc::default());
        (report, told)
    }

    fn shares() -> Option<Load> {
        Some(Load {
            from: LoadFrom::Output,
            what: LoadKind::Weight,
            smoothing: 0,
            step: 30,
            least: 10,
            most: 100,
        })
    }

    fn passed(load: Option<&str>) -> Outcome {
        let load = load.map(str::to_owned);
        Ok(Passed { load })
    }

    /// What the core is told of an outcome.
    async fn told(
        report: &mut Report,
        events: &mut mpsc::Receiver<Event>,
        outcome: Outcome,
    ) -> String {
        report.take(outcome, None).await;
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let Event::Load {
                check: CheckId(7),
                percent,
                ..
            } = event
            {
                told.push(percent.to_string());
            } else if let Event::Checked {
                check: CheckId(7),
                verdict,
                ..
            } = event
            {
                told.push(match verdict {
                    Verdict::Up => "up".to_owned(),
                    Verdict::Down(why) => why,
                });
            } else {
                panic!("{event:?}");
            }
        }
        told.join(" ")
    }

    #[tokio::test]
    async fn a_load_is_told_before_its_verdict_and_when_it_changes() {
        let (mut report, mut events) = report(shares());
        for (text, expected) in [
            (Some("70"), "70 up"),
            (Some("70"), ""),
            (Some("72"), ""),
            // A weight is changed by sense alone.
            (Some("no load average"), ""),
            (None, ""),
            (Some("50"), "50"),
            (Some("-1"), ""),
            (Some("NaN"), ""),
            (Some(""), "80"),
            (None, "100"),
            (None, ""),
            (Some("100"), ""),
        ] {
            let told = told(&mut report, &mut events, passed(text)).await;
            assert_eq!(told, expected, "{text:?}");
        }
        let figures = report.check.figures.clone();
        assert_eq!(figures.load_faults.load(Relaxed), 7);
        assert_eq!(figures.load().fault, None);
        told(&mut report, &mut events, passed(Some("much"))).await;
        let load = figures.load();
        let fault = "the load is no number from 0 on: \"much\"";
        assert_eq!(
            (load.percent, load.fault.as_deref()),
            (Some(100), Some(fault))
        );
    }

    #[tokio::test]
    async fn a_failure_is_no_load_and_no_fault_of_it() {
        let (mut report, mut events) = report(shares());
        let failed = || Err(Failure::server("refused"));
        assert_eq!(told(&mut report, &mut events, failed()).await, "refused");
        assert_eq!(
            told(&mut report, &mut events, passed(Some("40"))).await,
            "40 up"
        );
        for expected in ["refused", "", "70", "100", ""] {
            assert_eq!(told(&mut report, &mut events, failed()).await, expected);
        }
        assert_eq!(report.check.figures.load().fault, None);
    }

    #[tokio::test]
    async fn who_does_not_look_is_not_told() {
        let (mut report, mut events) = report(None);
        assert_eq!(
            told(&mut report, &mut events, passed(Some("40"))).await,
            "up"
        );
        assert_eq!(report.check.figures.load().percent, None);
    }
}
