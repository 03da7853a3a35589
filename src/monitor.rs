//! Runs the very checks that the snapshot lists, no others, and says how they went.
//!
//! Not here: what a verdict means for the pool. A check's first verdict is sent, then only changes,
//! so that steady results cost the core nothing.
//!
//! ```text
//!  snapshots ──► run ── starts, stops ──► a task a probe ──► audience ──► Event::Checked
//!                 ▲                            │             its checks
//!                 └── our own fault, if any ◄──┘                     ──► Event::Trouble
//! ```
//!
//! The same question to the same server, for however many services, is one probe.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::error;

use crate::check::{Check, Monitor, Probe};
use crate::event::{CheckId, Event};
use crate::service::ServiceName;
use crate::snapshot::{Service, Snapshot};

use audience::{Asked, Audience};
use command::Commands;
use pulse::Pulse;
use report::Report;
use suspicion::Suspicion;
use tls::Tls;
use trouble::Trouble;
use vip::Vip;

mod audience;
mod command;
mod connect;
mod damping;
mod datagram;
mod dns_query;
mod exchange;
mod grpc;
mod handshake;
mod http;
mod idle_connection;
mod outcome;
mod periodic;
mod ping;
mod proxy_fetch;
mod proxy_protocol;
mod pulse;
mod report;
mod run_command;
mod suspicion;
mod tcp;
mod tls;
mod trouble;
mod udp;
mod vip;
mod vip_reachability;

/// Between the starts of two checks that appear together, unless that would take longer than [`SPREAD`].
const GAP: Duration = Duration::from_millis(1);
/// The longest over which checks that appear together are spread.
const SPREAD: Duration = Duration::from_secs(1);
/// How long a check rests that ended by a mistake of ours.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Keeps the newest snapshot's checks running until the snapshots' sender is gone.
///
/// Sends [`Event::Checked`], and [`Event::Trouble`] of part `monitor` while this host lacks what checks need.
///
/// Probes are spread over these runtimes; if there is none, they run on this one.
pub async fn run(
    threads: Vec<Handle>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let tools = Arc::new(Tools {
        tls: Tls::new(),
        trouble: Trouble::default(),
        pulse: Pulse::new(),
        suspicion: Suspicion::default(),
        vip: Arc::default(),
        commands: Arc::new(Commands::new()),
    });
    let mut checks = Checks {
        followed: OrdMap::new(),
        probes: BTreeMap::new(),
        tasks: JoinSet::new(),
        threads,
        up_again: BTreeMap::new(),
        tools: tools.clone(),
        events: events.clone(),
    };
    let follow = async {
        loop {
            let (services, config) = {
                let snapshot = snapshots.borrow_and_update();
                (snapshot.services.clone(), snapshot.config.clone())
            };
            checks.tools.commands.set(&config.monitor);
            checks.follow(services).await;
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        never = tools.trouble.tell(&events) => match never {},
        never = tools.pulse.beat() => match never {},
        never = tools.vip.receive() => match never {},
    }
}

struct Checks {
    /// The services that `probes` were made for.
    followed: OrdMap<ServiceName, Arc<Service>>,
    probes: BTreeMap<Asked, Vec<Running>>,
    /// Owns every probe: dropping it stops them and closes their sockets.
    tasks: JoinSet<()>,
    threads: Vec<Handle>,
    /// By the servers' addresses: a check of the server has come up.
    up_again: BTreeMap<IpAddr, Weak<Notify>>,
    tools: Arc<Tools>,
    events: mpsc::Sender<Event>,
}

struct Running {
    monitor: Arc<Monitor>,
    audience: Arc<Audience>,
    task: AbortHandle,
}

/// Their tasks end a little later, and the process may not be there any more by then.
impl Drop for Checks {
    fn drop(&mut self) {
        self.tools.commands.stop();
    }
}

/// What checks share.
struct Tools {
    tls: Tls,
    trouble: Trouble,
    pulse: Pulse,
    suspicion: Suspicion,
    vip: Arc<Vip>,
    commands: Arc<Commands>,
}

impl Checks {
    /// Stops what is no longer listed and starts what is new. Ids are all that is compared.
    async fn follow(&mut self, services: OrdMap<ServiceName, Arc<Service>>) {
        let (mut new, mut gone) = (Vec::new(), Vec::new());
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
            let missing = |id: &CheckId, from: Option<&Arc<BTreeMap<_, _>>>| {
                !from.is_some_and(|checks| checks.contains_key(id))
            };
            for (id, check) in old.into_iter().flat_map(|checks| checks.iter()) {
                if missing(id, now) {
                    gone.push((*id, check.clone()));
                }
            }
            for (id, check) in now.into_iter().flat_map(|checks| checks.iter()) {
                if missing(id, old) {
                    new.push((*id, check.clone()));
                }
            }
        }
        // In this order, so that what goes on under another id goes on undisturbed.
        self.start(new).await;
        self.stop(gone);
        // Forget the tasks that were stopped before; those of now are forgotten next time.
        while self.tasks.try_join_next().is_some() {}
    }

    async fn start(&mut self, new: Vec<(CheckId, Arc<Check>)>) {
        let gap = gap(&new);
        let mut delay = Duration::ZERO;
        for (id, check) in new {
            let probes = self.probes.entry(Asked::of(&check)).or_default();
            if let Some(same) = probes.iter().find(|probe| probe.monitor == check.monitor) {
                same.audience.join(id, check);
                same.audience.tell().await;
                continue;
            }
            let audience = Arc::new(Audience::new(self.events.clone()));
            audience.join(id, check.clone());
            let up_again = up_again(&mut self.up_again, check.target.ip());
            let (tools, monitor) = (self.tools.clone(), check.monitor.clone());
            let report = Report::new(check.clone(), audience.clone(), tools.clone(), up_again);
            let probe = keep_asking(check, delay, tools, report);
            // Not in turns: each server's costly check might then fall to the same thread.
            let task = match fastrand::choice(&self.threads) {
                Some(thread) => self.tasks.spawn_on(probe, thread),
                None => self.tasks.spawn(probe),
            };
            probes.push(Running {
                monitor,
                audience,
                task,
            });
            delay += gap;
        }
        self.up_again.retain(|_, notify| notify.strong_count() > 0);
    }

    fn stop(&mut self, gone: Vec<(CheckId, Arc<Check>)>) {
        for (id, check) in gone {
            let Entry::Occupied(mut probes) = self.probes.entry(Asked::of(&check)) else {
                continue;
            };
            probes.get_mut().retain(|probe| {
                let stays = probe.monitor != check.monitor || probe.audience.leave(id);
                if !stays {
                    probe.task.abort();
                }
                stays
            });
            if probes.get().is_empty() {
                probes.remove();
            }
        }
    }
}

fn up_again(all: &mut BTreeMap<IpAddr, Weak<Notify>>, server: IpAddr) -> Arc<Notify> {
    let known = all.get(&server).and_then(Weak::upgrade);
    known.unwrap_or_else(|| {
        let new = Arc::new(Notify::new());
        all.insert(server, Arc::downgrade(&new));
        new
    })
}

/// How far apart the starts of these checks shall be.
fn gap(new: &[(CheckId, Arc<Check>)]) -> Duration {
    let spread = new
        .iter()
        .map(|(_, check)| check.monitor.interval)
        .fold(SPREAD, Duration::min);
    let count = u32::try_from(new.len()).unwrap_or(u32::MAX).max(1);
    GAP.min(spread / count)
}

/// One probe, for as long as anybody wants it.
async fn keep_asking(check: Arc<Check>, delay: Duration, tools: Arc<Tools>, mut report: Report) {
    sleep(delay).await;
    loop {
        let run = async {
            match &check.monitor.probe {
                Probe::IdleConnection(probe) => {
                    idle_connection::run(&check, probe, &mut report).await
                }
                Probe::Udp(probe) => udp::run(&check, probe, &mut report).await,
                Probe::ProxyFetch(_)
                | Probe::Tcp(_)
                | Probe::Tls(_)
                | Probe::Http(_)
                | Probe::Grpc(_)
                | Probe::RunCommand(_)
                | Probe::DnsQuery(_)
                | Probe::Ping
                | Probe::VipReachability => periodic::run(&check, &tools, &mut report).await,
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
