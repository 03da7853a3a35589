//! One server of a pool: what its list, the resolver and its monitors say of it.
//! Whether it is pooled is decided over all of them, in [`super::floor`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::flaps::Flaps;
use super::ramp::Ramp;
use super::said::Said;
use crate::check::figures::Figures;
use crate::check::{Check, FlapHold, Monitor, Start};
use crate::config;
use crate::event::{CheckId, Verdict};
use crate::service::{Host, Weight};
use crate::snapshot::{Health, Held, KeptDown, MonitorState, Pooled, Scaled, Server};

#[derive(Debug)]
pub(super) struct Member {
    /// By its list and its operator.
    pub(super) said: Said,
    /// Stands for an address that the kernel had when we came, under that address as its name, until a
    /// listed server turns out to have it or all listed servers turn out to have others.
    pub(super) unidentified: bool,
    /// The list's weight that goes with `pooled`: see [`Member::weight_when`].
    pub(super) base: Weight,
    /// What the kernel shall have of that: see [`Member::weigh`].
    pub(super) weight: Weight,
    /// Why that is not the same.
    pub(super) scaled: Vec<Scaled>,
    /// What the kernel, or monitors that are no more, left of `base` for its load: it goes on until the monitors
    /// that look at the load have said something.
    pub(super) known_weight: Option<Weight>,
    pub(super) ramp: Option<Ramp>,
    pub(super) address: Option<IpAddr>,
    /// The resolver has said something of the name, good or bad.
    pub(super) answered: bool,
    pub(super) unresolved: Option<Arc<str>>,
    runs: Vec<Run>,
    /// What a monitor without a result counts as: a server that served when we came is taken as up.
    presumed_up: bool,
    flaps: Flaps,
    last_up: Option<Instant>,
    pub(super) pooled: Pooled,
    /// Depooled or drained by its list while it got new connections: the depool guard may hold it.
    pub(super) leaving: bool,
    /// Depooled by its list, and until when its open connections may go on; it is in IPVS with weight 0.
    pub(super) draining: Option<Instant>,
    /// That what IPVS gives it comes to nothing, in figures.
    pub(super) stuck: Option<Arc<str>>,
}

/// One monitor at work on this server. The check's id is there while there is an address to check.
#[derive(Debug)]
struct Run {
    monitor: Arc<Monitor>,
    check: Option<(CheckId, Arc<Check>)>,
    result: Option<Result<(), Arc<str>>>,
    up_transitions: u64,
    down_transitions: u64,
    /// Of the server's weight, in percent, by its load; `None`: nothing is known, or it is not looked at.
    share: Option<u32>,
    figures: Arc<Figures>,
}

/// Hands out check ids, each once.
#[derive(Debug, Default)]
pub(crate) struct CheckIds(u64);

impl CheckIds {
    fn next(&mut self) -> CheckId {
        self.0 += 1;
        CheckId(self.0)
    }
}

impl Member {
    pub(super) fn new(weight: Weight, monitors: &[Arc<Monitor>]) -> Member {
        Member {
            said: Said::default(),
            unidentified: false,
            base: weight,
            weight,
            scaled: Vec::new(),
            known_weight: None,
            ramp: None,
            address: None,
            answered: false,
            unresolved: None,
            runs: monitors.iter().cloned().map(Run::new).collect(),
            presumed_up: false,
            flaps: Flaps::default(),
            last_up: None,
            pooled: Pooled::No,
            leaving: false,
            draining: None,
            stuck: None,
        }
    }

    /// What the kernel has pooled, though nobody knows yet whose address it is. It serves until that is known,
    /// whatever its service says of starts.
    pub(super) fn unidentified(
        address: IpAddr,
        weight: Weight,
        monitors: &[Arc<Monitor>],
    ) -> Member {
        let mut member = Member::new(weight, monitors);
        member.set_address(address, Start::Last);
        member.unidentified = true;
        member.adopt(weight, Start::Last);
        member
    }

    /// The kernel has it pooled: it serves, and may be taken as up for that until its monitors say otherwise.
    pub(super) fn adopt(&mut self, weight: Weight, start: Start) {
        self.presumed_up = start != Start::Down;
        self.pooled = Pooled::Yes;
        (self.base, self.weight) = (weight, weight);
        self.known_weight = Some(weight);
    }

    /// What the kernel had under its address is this listed server.
    pub(super) fn identify(&mut self, start: Start) {
        if std::mem::take(&mut self.unidentified) {
            self.presumed_up &= start != Start::Down;
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.said.listed().is_some_and(|listed| listed.enabled)
    }

    /// It gets new connections, as last decided.
    fn serves(&self) -> bool {
        self.pooled.in_ipvs() && self.weight.get() > 0
    }

    /// Its list takes new connections from it, and nobody has told the depool guard to let it go.
    pub(super) fn is_taken_out(&self) -> bool {
        let listed = self.said.listed();
        let asked = self.enabled() && listed.is_some_and(|listed| listed.weight.get() > 0);
        let confirmed = self.said.note().is_some_and(|note| note.confirmed);
        self.serves() && !asked && !confirmed
    }

    /// The weight that goes with `pooled`: the list's, or the last one known if it is off the list. Whom the
    /// guard holds goes on getting connections, so a 0 of the list does not count then.
    pub(super) fn weight_when(&self, pooled: Pooled) -> Weight {
        let guarded = matches!(pooled, Pooled::Held(Held::DepoolGuard | Held::StaleCatchUp));
        match self.said.listed() {
            Some(listed) if !guarded || listed.weight.get() > 0 => listed.weight,
            Some(_) | None => self.base,
        }
    }

    /// IPVS shall have it, with new connections or without.
    pub(super) fn in_ipvs(&self) -> bool {
        self.pooled.in_ipvs() || self.draining.is_some()
    }

    pub(super) fn ready(&self) -> bool {
        self.address.is_some()
    }

    /// Where IPVS sends its connections; `None` until there is an address.
    pub(super) fn backend(&self, host: &Host, service: &config::Service) -> Option<SocketAddr> {
        Some(service.backend(host, self.address?))
    }

    pub(super) fn up(&self) -> bool {
        self.health() == Health::Up
    }

    pub(super) fn wanted(&self) -> bool {
        self.enabled() && self.ready() && self.up()
    }

    pub(super) fn health(&self) -> Health {
        match self.flaps.until() {
            Some(_) => Health::Down,
            None => self.checks_say(),
        }
    }

    pub(super) fn held_until(&self) -> Option<Instant> {
        self.flaps.until()
    }

    /// In words, for the log: what of it all is not as it must be.
    pub(super) fn why_not_wanted(&self) -> String {
        let mut why = Vec::new();
        why.extend(self.said.why_not_enabled().map(str::to_owned));
        if !self.ready() {
            let unresolved = self.unresolved.as_deref();
            why.push(unresolved.unwrap_or("it has no address").to_owned());
        }
        why.extend(self.kept_down().map(|kept| kept.to_string()));
        for run in self.runs.iter().filter(|run| run.counts()) {
            let kind = run.monitor.probe.kind();
            match &run.result {
                Some(Err(reason)) => why.push(format!("{kind}: {reason}")),
                None if !self.presumed_up => why.push(format!("{kind}: not checked yet")),
                Some(Ok(())) | None => {}
            }
        }
        why.join(", ")
    }

    pub(super) fn kept_down(&self) -> Option<KeptDown> {
        let until = self.flaps.until()?;
        Some(KeptDown::FlapHold { until })
    }

    /// Ends a flap-hold whose time is over; `true` if there was one.
    pub(super) fn end_hold(&mut self, now: Instant) -> bool {
        self.flaps.expire(now)
    }

    /// Its flaps count from now on, or by another rule.
    pub(super) fn forget_flaps(&mut self) {
        self.flaps = Flaps::default();
    }

    fn checks_say(&self) -> Health {
        let (mut up, mut down, mut checked) = (0, 0, false);
        for run in self.runs.iter().filter(|run| run.counts()) {
            if run.is_up(self.presumed_up) {
                up += 1;
            } else {
                down += 1;
            }
            checked |= run.result.is_some();
        }
        if down == 0 {
            Health::Up
        } else if up > 0 {
            Health::PartiallyUp
        } else if checked {
            Health::Down
        } else {
            Health::Unknown
        }
    }

    /// Nothing more is to be waited for before the pool can be judged by this server.
    pub(super) fn first_checked(&self) -> bool {
        match self.address {
            Some(_) => self
                .runs
                .iter()
                .all(|run| run.result.is_some() || !run.counts()),
            None => self.answered,
        }
    }

    /// Greater: rather kept pooled than another. Those already pooled (no churn), then by how well they
    /// are, then the one seen up most recently.
    pub(super) fn keep_rank(&self) -> (bool, u8, Option<Instant>) {
        // One that is only kept down does serve, but not as surely as one that is up.
        let health = match self.checks_say() {
            Health::Up if self.up() => 4,
            Health::Up => 3,
            Health::PartiallyUp => 2,
            Health::Unknown => 1,
            Health::Down => 0,
        };
        (
            self.pooled.in_ipvs(),
            health,
            self.last_up.filter(|_| health < 4),
        )
    }

    /// The server has another address, or one at last: what was known of its health is of the old one.
    pub(super) fn set_address(&mut self, address: IpAddr, start: Start) {
        self.address = Some(address);
        self.presumed_up = start == Start::Up;
        self.draining = None;
        self.forget_flaps();
        self.known_weight = None;
        self.stuck = None;
        for run in &mut self.runs {
            run.check = None;
            run.result = None;
            run.share = None;
            run.figures = Arc::default();
        }
    }

    /// Other monitors watch it from now on; those that stay the same keep their state and their check.
    pub(super) fn set_monitors(&mut self, monitors: &[Arc<Monitor>]) {
        let was_up = self.checks_say() == Health::Up;
        let laden = self.laden();
        let mut old = std::mem::take(&mut self.runs);
        for monitor in monitors {
            let kept = old.iter().position(|run| run.monitor == *monitor);
            self.runs.push(match kept {
                Some(i) => old.remove(i),
                None => Run::new(monitor.clone()),
            });
        }
        if old.iter().any(|run| run.share.is_some()) {
            self.known_weight = Some(laden);
        }
        self.presumed_up = was_up;
    }

    /// Its checks get other numbers; what they found stays until they say otherwise.
    pub(super) fn restart_checks(&mut self) {
        for run in &mut self.runs {
            run.check = None;
        }
    }

    /// Gives each monitor that has none a check, once there is an address.
    pub(super) fn start_checks(
        &mut self,
        host: &Host,
        service: &config::Service,
        ids: &mut CheckIds,
    ) {
        let Some(backend) = self.backend(host, service) else {
            return;
        };
        for run in &mut self.runs {
            run.check.get_or_insert_with(|| {
                let port = run.monitor.port.unwrap_or(backend.port());
                let check = Check {
                    service: service.name.clone(),
                    key: service.key,
                    vip: service.address,
                    host: host.clone(),
                    target: SocketAddr::new(backend.ip(), port),
                    monitor: run.monitor.clone(),
                    figures: run.figures.clone(),
                };
                (ids.next(), Arc::new(check))
            });
        }
    }

    pub(super) fn checks(&self) -> impl Iterator<Item = &(CheckId, Arc<Check>)> {
        self.runs.iter().filter_map(|run| run.check.as_ref())
    }

    /// A check's verdict; `false` if the check is not one of this server's.
    pub(super) fn checked(
        &mut self,
        check: CheckId,
        verdict: &Verdict,
        flap_hold: Option<&FlapHold>,
        now: Instant,
    ) -> bool {
        let was_up = self.up();
        // What it is taken for is no result: to be found down at first is no flap.
        let passed = self.first_checked() && self.checks_say() == Health::Up;
        let ours = |run: &&mut Run| run.check.as_ref().is_some_and(|(id, _)| *id == check);
        let Some(run) = self.runs.iter_mut().find(ours) else {
            return false;
        };
        let before = run.result.as_ref().map(Result::is_ok);
        run.result = Some(match verdict {
            Verdict::Up => Ok(()),
            Verdict::Down(why) => Err(why.as_str().into()),
        });
        match (before, run.result.as_ref().map(Result::is_ok)) {
            (None | Some(false), Some(true)) => run.up_transitions += 1,
            (None | Some(true), Some(false)) => run.down_transitions += 1,
            (_, Some(_) | None) => {}
        }
        if was_up || self.up() {
            self.last_up = Some(now);
        }
        if let Some(rule) = flap_hold.filter(|_| passed && self.checks_say() != Health::Up) {
            self.flaps.went_down(rule, now);
        }
        true
    }

    /// What a check says of its load; `false` if the check is not one of this server's.
    pub(super) fn loaded(&mut self, check: CheckId, percent: u32) -> bool {
        let ours = |run: &&mut Run| run.check.as_ref().is_some_and(|(id, _)| *id == check);
        let run = self.runs.iter_mut().find(ours);
        run.map(|run| run.share = Some(percent)).is_some()
    }

    pub(super) fn monitors(&self) -> impl Iterator<Item = &Monitor> {
        self.runs.iter().map(|run| &*run.monitor)
    }

    /// What is left of its weight by each monitor that is up and looks at the load, in percent.
    pub(super) fn shares(&self) -> impl Iterator<Item = u32> {
        let up = self.runs.iter().filter(|run| run.is_up(self.presumed_up));
        up.filter_map(|run| run.share)
    }

    /// Whether all monitors that look at its load have said something.
    pub(super) fn all_shares_known(&self) -> bool {
        let mut runs = self.runs.iter();
        runs.all(|run| run.share.is_some() || run.monitor.load.is_none())
    }

    pub(super) fn view(&self) -> Server {
        Server {
            listed: self.said.listed(),
            overridden: self.said.overridden(),
            note: self.said.note().cloned(),
            address: self.address,
            unresolved: self.unresolved.clone(),
            health: self.health(),
            kept_down: self.kept_down(),
            monitors: self.runs.iter().map(Run::view).collect(),
            pooled: self.pooled,
            draining: self.draining,
            scaled: self.scaled.clone(),
            stuck: self.stuck.clone(),
        }
    }
}

impl Run {
    fn new(monitor: Arc<Monitor>) -> Run {
        Run {
            monitor,
            check: None,
            result: None,
            up_transitions: 0,
            down_transitions: 0,
            share: None,
            figures: Arc::default(),
        }
    }

    /// Whether the server's health has to do with it.
    fn counts(&self) -> bool {
        self.monitor.depool
    }

    fn is_up(&self, presumed: bool) -> bool {
        self.result.as_ref().map_or(presumed, Result::is_ok)
    }

    fn view(&self) -> MonitorState {
        MonitorState {
            kind: self.monitor.probe.kind(),
            result: self.result.clone(),
            depool: self.monitor.depool,
            up_transitions: self.up_transitions,
            down_transitions: self.down_transitions,
            figures: self.figures.clone(),
        }
    }
}
