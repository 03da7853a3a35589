//! Runs the very checks that the snapshot lists, no others, and says how they went.
//!
//! Not here: what a verdict means for the pool. A check's first verdict is sent, then only changes,
//! so that steady results cost the core nothing.
//!
//! ```text
//!  snapshots ──► run ── starts, stops ──► a task a check ──► Event::Checked
//!                 ▲                            │
//!                 └── our own fault, if any ◄──┘        ──► Event::Trouble
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::{debug, error, info};

use crate::config::Monitor;
use crate::event::{CheckId, Event, Verdict};
use crate::service::ServiceName;
use crate::snapshot::{Check, Service, Snapshot};

use tls::Tls;
use trouble::Trouble;

mod connect;
mod idle_connection;
mod proxy_fetch;
mod tls;
mod trouble;

/// Between the starts of two checks that appear together, unless that would take longer than [`SPREAD`].
const GAP: Duration = Duration::from_millis(1);
/// The longest over which checks that appear together are spread.
const SPREAD: Duration = Duration::from_secs(1);
/// How long a check rests that ended by a mistake of ours.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// The longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 200;

/// Keeps the newest snapshot's checks running until the snapshots' sender is gone.
///
/// Sends [`Event::Checked`], and [`Event::Trouble`] of part `monitor` while this host lacks what checks need.
pub async fn run(mut snapshots: watch::Receiver<Arc<Snapshot>>, events: mpsc::Sender<Event>) {
    let trouble = Arc::new(Trouble::default());
    let mut checks = Checks {
        followed: OrdMap::new(),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
        tls: Arc::new(Tls::new()),
        trouble: trouble.clone(),
        events: events.clone(),
    };
    let follow = async {
        loop {
            let services = snapshots.borrow_and_update().services.clone();
            checks.follow(services);
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        never = trouble.tell(&events) => match never {},
    }
}

struct Checks {
    /// The services that `running` was made for.
    followed: OrdMap<ServiceName, Arc<Service>>,
    running: BTreeMap<CheckId, AbortHandle>,
    /// Owns every check: dropping it stops them and closes their sockets.
    tasks: JoinSet<()>,
    tls: Arc<Tls>,
    trouble: Arc<Trouble>,
    events: mpsc::Sender<Event>,
}

impl Checks {
    /// Stops what is no longer listed and starts what is new. Ids are all that is compared.
    fn follow(&mut self, services: OrdMap<ServiceName, Arc<Service>>) {
        let mut new = Vec::new();
        let before = std::mem::replace(&mut self.followed, services);
        for change in before.diff(&self.followed) {
            let (old, now) = match change {
                DiffItem::Add(_, now) => (None, Some(now)),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, now),
                } => (Some(old), Some(now)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            let (old, now) = (old.map(|s| &s.checks), now.map(|s| &s.checks));
            if let (Some(old), Some(now)) = (old, now)
                && Arc::ptr_eq(old, now)
            {
                continue;
            }
            for id in old.into_iter().flat_map(|checks| checks.keys()) {
                if !now.is_some_and(|checks| checks.contains_key(id))
                    && let Some(task) = self.running.remove(id)
                {
                    task.abort();
                }
            }
            for (id, check) in now.into_iter().flat_map(|checks| checks.iter()) {
                if !old.is_some_and(|checks| checks.contains_key(id)) {
                    new.push((*id, check.clone()));
                }
            }
        }
        self.start(new);
        // Forget the tasks that were stopped before; those of now are forgotten next time.
        while self.tasks.try_join_next().is_some() {}
    }

    fn start(&mut self, new: Vec<(CheckId, Arc<Check>)>) {
        let gap = gap(&new);
        let mut delay = Duration::ZERO;
        for (id, check) in new {
            let report = Report {
                id,
                check: check.clone(),
                events: self.events.clone(),
                trouble: self.trouble.clone(),
                up: None,
            };
            let task = self
                .tasks
                .spawn(keep_checking(check, delay, self.tls.clone(), report));
            self.running.insert(id, task);
            delay += gap;
        }
    }
}

/// How far apart the starts of these checks shall be.
fn gap(new: &[(CheckId, Arc<Check>)]) -> Duration {
    let first_interval = |check: &Arc<Check>| match &*check.monitor {
        Monitor::IdleConnection(_) => SPREAD,
        Monitor::ProxyFetch(options) => options.interval,
    };
    let spread = new
        .iter()
        .map(|(_, check)| first_interval(check))
        .fold(SPREAD, Duration::min);
    let count = u32::try_from(new.len()).unwrap_or(u32::MAX).max(1);
    GAP.min(spread / count)
}

/// One check, for as long as it is listed.
async fn keep_checking(check: Arc<Check>, delay: Duration, tls: Arc<Tls>, mut report: Report) {
    sleep(delay).await;
    loop {
        let run = async {
            match &*check.monitor {
                Monitor::IdleConnection(options) => {
                    idle_connection::run(check.target, options, &mut report).await
                }
                Monitor::ProxyFetch(options) => {
                    // In place it would make every other kind of check as large as itself, 6 KiB.
                    Box::pin(proxy_fetch::run(check.target, options, &tls, &mut report)).await
                }
            }
        };
        // A mistake of ours must not leave a server for ever as it was last seen.
        let ended: Result<Infallible, _> = AssertUnwindSafe(run).catch_unwind().await;
        match ended {
            Ok(never) => match never {},
            Err(_) => {
                error!(service = %check.service, host = %check.host, "a check panicked, starting it again");
                sleep(AFTER_PANIC).await;
            }
        }
    }
}

/// Where a check says how it went.
struct Report {
    id: CheckId,
    check: Arc<Check>,
    events: mpsc::Sender<Event>,
    trouble: Arc<Trouble>,
    /// What was last sent.
    up: Option<bool>,
}

impl Report {
    async fn up(&mut self) {
        match self.up {
            Some(true) => return,
            Some(false) => info!(
                service = %self.check.service, host = %self.check.host,
                monitor = self.check.monitor.kind(), "check is up"
            ),
            None => debug!(
                service = %self.check.service, host = %self.check.host,
                monitor = self.check.monitor.kind(), "check is up"
            ),
        }
        self.send(true, Verdict::Up).await;
    }

    /// `reason`: as an operator would say it. A new reason alone is no change.
    async fn down(&mut self, reason: &str) {
        if self.up == Some(false) {
            return;
        }
        let reason = printable(reason);
        info!(
            service = %self.check.service, host = %self.check.host,
            monitor = self.check.monitor.kind(), reason, "check is down"
        );
        self.send(false, Verdict::Down(reason)).await;
    }

    /// The check could not be made, for want of something on this host: that says nothing about the server,
    /// so what was known of it stands. If nothing is known yet it is down, as something must be said.
    async fn unable(&mut self, reason: &str) {
        self.trouble.met(&printable(reason));
        if self.up.is_none() {
            self.down(reason).await;
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

/// A server may have had a hand in the text: it stays on one line and short.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(LONGEST_REASON).collect()
}
