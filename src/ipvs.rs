//! Sink: makes the IPVS table equal the snapshot's services and says what it holds.
//!
//! ```text
//!  snapshot ──► agenda ──task──► read, diff, remember, apply, read back ──► Event
//!                  ▲                            │
//!                  └── every 2 s, on a failure ─┘
//! ```
//!
//! Starting is the same path as running: what the table has is read and edited until it is as wanted, nothing is
//! flushed, and when the process stops the table stays as it is. Services that are neither in the snapshot nor in
//! the file of our own (`ipvs/owned.rs`) are somebody else's and never touched.
//! It decides nothing: which servers are in a pool is the core's business.

mod agenda;
pub mod connections;
mod diff;
pub mod listing;
mod memory;
mod netlink;
mod owned;
mod plan;
mod stuck;
mod sync;
mod sysctl;
mod table;
#[cfg(test)]
mod tests;
mod wire;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use self::agenda::{Agenda, Task};
use self::diff::{Wanted, changes};
use self::owned::Owned;
use self::table::{Change, Held, Listed, Refusal};
use crate::chain::chain;
use crate::event::Event;
use crate::service::{Destinations, VirtualService, Weight};
use crate::snapshot::Snapshot;

pub use self::memory::Memory;
pub use self::netlink::Kernel;
pub use self::plan::{Planned, Prospect, found, plan, plan_sysctls};
pub use self::sync::{SYNC, keep_sync, plan_sync};
pub use self::sysctl::{SYSCTL, keep_sysctls};
pub use self::table::{Table, Unavailable};

/// The part's name in [`Event::Trouble`] when the file of our own services can't be relied on.
pub const STATE_DIRECTORY: &str = "state-directory";

/// Between two attempts to reach a table that is away: the first wait and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Tasks in a row before whoever was told something gets its turn. Reading the table never waits; and to be told of
/// several services together costs the core, and all who follow it, as much as to be told of one.
const IN_A_ROW: usize = 16;

/// Works until the core is gone. `state_directory`: where to remember which services are ours; `None`: nowhere, for
/// a table that does not outlive the process.
///
/// The first snapshot must be one of a loaded configuration: what is ours and not in it is removed.
pub async fn run(
    table: Table,
    state_directory: Option<PathBuf>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let mut sink = Sink {
        table,
        owned: Owned::load(state_directory).await,
        agenda: Agenda::new(Instant::now()),
        events,
        told: None,
        foreign: BTreeSet::new(),
        delay: None,
        in_a_row: 0,
    };
    // Before the next write mends it.
    if let Err(Ended) = sink.tell_fault().await {
        return;
    }
    sink.take(&mut snapshots);
    // Nothing else ends it.
    while let Ok(()) = sink.work(&mut snapshots).await {}
}

/// The core is gone.
struct Ended;

/// Why a task was not done.
enum Undone {
    Ended,
    Unavailable(Unavailable),
}

impl From<Ended> for Undone {
    fn from(_: Ended) -> Undone {
        Undone::Ended
    }
}

impl From<Unavailable> for Undone {
    fn from(e: Unavailable) -> Undone {
        Undone::Unavailable(e)
    }
}

struct Sink {
    table: Table,
    owned: Owned,
    agenda: Agenda,
    events: mpsc::Sender<Event>,
    /// The trouble with the file that the core was last told.
    told: Option<String>,
    /// Other people's services that were logged.
    foreign: BTreeSet<Listed>,
    /// How long to wait before the table is tried again; `None`: the last task went well.
    delay: Option<Duration>,
    /// Tasks done since others last got their turn.
    in_a_row: usize,
}

impl Sink {
    /// One task, or the wait for one.
    async fn work(&mut self, snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Result<(), Ended> {
        if snapshots.has_changed().map_err(|_| Ended)? {
            self.take(snapshots);
        }
        let Some(task) = self.agenda.next(Instant::now()) else {
            tokio::select! {
                changed = snapshots.changed() => {
                    changed.map_err(|_| Ended)?;
                    self.take(snapshots);
                }
                () = sleep_until(self.agenda.wake()) => {}
            }
            return Ok(());
        };
        let done = match task {
            Task::Settle(key) => self.settle(key).await,
            Task::Look(keys) => self.look(keys).await,
            Task::Remove(key) => self.remove(key).await,
            Task::List => self.list().await,
        };
        match done {
            Ok(()) => {
                self.delay = None;
                self.in_a_row += 1;
                if self.in_a_row == IN_A_ROW {
                    self.in_a_row = 0;
                    yield_now().await;
                }
                Ok(())
            }
            Err(Undone::Ended) => Err(Ended),
            Err(Undone::Unavailable(why)) => self.recover(why, snapshots).await,
        }
    }

    fn take(&mut self, snapshots: &mut watch::Receiver<Arc<Snapshot>>) {
        let snapshot = snapshots.borrow_and_update().clone();
        self.agenda.take(snapshot, self.owned.keys());
    }

    /// Makes one service as wanted, if it is not.
    async fn settle(&mut self, key: VirtualService) -> Result<(), Undone> {
        let Some(target) = self.agenda.target(&key) else {
            return Ok(());
        };
        let Some(wanted) = target.wanted() else {
            return Ok(());
        };
        let (settled, failed) = (target.settled(&wanted), target.is_failed());
        let name = target.name().clone();
        self.remember(false).await?;

        let mut held = self.table.change(key, &[]).await?.held;
        let mut todo = changes(&wanted, held.as_ref());
        if settled && !todo.is_empty() {
            // A dump is not a consistent view: what seems to have changed by itself is looked at twice.
            held = self.table.change(key, &[]).await?.held;
            todo = changes(&wanted, held.as_ref());
        }
        if settled && !failed && todo.is_empty() {
            self.measure(key, held.as_ref()).await?;
            return self.look_for_drained(key, held.as_ref()).await;
        }
        let family = key.family();
        let repair =
            (settled && !todo.is_empty()).then(|| words::line(family, held.as_ref(), &todo));
        if let Some(mending) = &repair {
            warn!(service = %name, %key, mending, "someone else changed a service in IPVS");
        }
        match self.apply(key, &wanted, &mut held, todo).await? {
            None => {
                let destinations = wanted.destinations;
                self.report_success(key, destinations, repair).await?;
            }
            Some(fault) => self.report_failure(key, fault, held.as_ref()).await?,
        }
        // A change waits for no figures.
        self.measure(key, held.as_ref()).await?;
        Ok(())
    }

    async fn look_for_drained(
        &mut self,
        service: VirtualService,
        held: Option<&Held>,
    ) -> Result<(), Undone> {
        let Some((target, held)) = self.agenda.target(&service).zip(held) else {
            return Ok(());
        };
        let backends = target.drained(held);
        if !backends.is_empty() {
            self.say(Event::Drained { service, backends }).await?;
        }
        Ok(())
    }

    /// Hands on what the kernel has counted, and says whose connections come to nothing.
    async fn measure(&mut self, key: VirtualService, held: Option<&Held>) -> Result<(), Ended> {
        let Some((target, held)) = self.agenda.target(&key).zip(held) else {
            return Ok(());
        };
        let name = target.name().clone();
        for (backend, why) in target.look(Instant::now(), held) {
            match &why {
                Some(why) => {
                    warn!(service = %name, %key, %backend, why, "connections come to nothing")
                }
                None => info!(service = %name, %key, %backend, "connections are taken up again"),
            }
            self.say(Event::Stuck {
                service: key,
                backend,
                why,
            })
            .await?;
        }
        Ok(())
    }

    /// Applies and reads back. If someone else's changes came between, once more. `Some`: it is not as wanted, and why.
    async fn apply(
        &mut self,
        key: VirtualService,
        wanted: &Wanted,
        held: &mut Option<Held>,
        mut todo: Vec<Change>,
    ) -> Result<Option<String>, Unavailable> {
        for _ in 0..2 {
            if todo.is_empty() {
                return Ok(None);
            }
            // Only put in words if somebody wants to read them.
            debug!(%key, changes = words::line(key.family(), held.as_ref(), &todo), "changing IPVS");
            let outcome = self.table.change(key, &todo).await?;
            *held = outcome.held;
            todo = changes(wanted, held.as_ref());
            if !todo.is_empty() && !outcome.refusals.is_empty() {
                return Ok(Some(fault(&outcome.refusals)));
            }
        }
        Ok((!todo.is_empty()).then(|| {
            format!(
                "someone else keeps changing it; still to do: {}",
                words::line(key.family(), held.as_ref(), &todo)
            )
        }))
    }

    async fn report_success(
        &mut self,
        key: VirtualService,
        destinations: Arc<Destinations>,
        repaired: Option<String>,
    ) -> Result<(), Undone> {
        if let Some(target) = self.agenda.target(&key) {
            if target.is_failed() {
                info!(service = %target.name(), %key, "IPVS holds the service as wanted again");
            }
            target.succeeded(destinations.clone());
        }
        if let Some(change) = repaired {
            let service = key;
            self.say(Event::Repaired { service, change }).await?;
        }
        self.say(Event::Applied {
            service: key,
            destinations,
        })
        .await?;
        Ok(())
    }

    async fn report_failure(
        &mut self,
        key: VirtualService,
        fault: String,
        held: Option<&Held>,
    ) -> Result<(), Undone> {
        let holds = holds(held);
        self.agenda.postpone(key, Instant::now());
        let Some(target) = self.agenda.target(&key) else {
            return Ok(());
        };
        target.unsettle(holds);
        if target.failed(&fault, holds) {
            warn!(service = %target.name(), %key, fault, holds, "IPVS does not hold the service as wanted");
            self.say(Event::NotApplied {
                service: key,
                fault,
                holds,
            })
            .await?;
        }
        Ok(())
    }

    /// Reports what the table has for services that are new to us.
    async fn look(&mut self, keys: Vec<VirtualService>) -> Result<(), Undone> {
        let mut found = BTreeMap::new();
        for &key in &keys {
            match self.table.change(key, &[]).await {
                Ok(outcome) => {
                    let foreign = outcome.held.is_some() && !self.owned.keys().contains(&key);
                    if let Some(target) = self.agenda.target(&key) {
                        if foreign {
                            info!(service = %target.name(), %key, "adopting a service that someone else put into IPVS");
                        }
                        target.holds = holds(outcome.held.as_ref());
                    }
                    found.insert(key, destinations(outcome.held.as_ref()));
                }
                Err(e) => {
                    self.agenda.look_again(keys);
                    return Err(e.into());
                }
            }
        }
        self.say(Event::Found(found)).await?;
        Ok(())
    }

    /// Removes a service of ours that nobody wants any more.
    async fn remove(&mut self, key: VirtualService) -> Result<(), Undone> {
        let outcome = self
            .table
            .change(key, &[Change::RemoveService])
            .await
            .inspect_err(|_| {
                self.agenda.postpone(key, Instant::now());
            })?;
        if outcome.held.is_some() {
            warn!(%key, fault = fault(&outcome.refusals), "cannot remove a service from IPVS");
            self.agenda.postpone(key, Instant::now());
            return Ok(());
        }
        info!(%key, "removed from IPVS");
        self.owned.forget(&key);
        Ok(())
    }

    /// The start of a round: what is there of others', and what is left to write of our own.
    async fn list(&mut self) -> Result<(), Undone> {
        self.remember(true).await?;
        let mut foreign = self.table.list().await?;
        foreign.retain(|listed| match listed {
            Listed::Service(key) => !self.owned.keys().contains(key) && !self.agenda.knows(key),
            Listed::Other(_) => true,
        });
        for listed in foreign.difference(&self.foreign) {
            info!(key = %listed, "IPVS has a service that is not ours; it is left alone");
        }
        self.foreign = foreign;
        Ok(())
    }

    /// Everything wanted is ours, and the file says so before the table does.
    /// `retry`: also what could not be written before.
    async fn remember(&mut self, retry: bool) -> Result<(), Ended> {
        let news = self.owned.add(self.agenda.take_adopted());
        if news || (retry && self.owned.unsaved()) {
            self.owned.save().await;
        }
        self.tell_fault().await
    }

    async fn tell_fault(&mut self) -> Result<(), Ended> {
        let owned = &self.owned;
        if owned.fault() != self.told.as_deref() {
            self.told = owned.fault().map(str::to_owned);
            match &self.told {
                Some(fault) => warn!(fault, "cannot remember which services in IPVS are ours"),
                None => info!("which services in IPVS are ours is remembered again"),
            }
            self.say(Event::Trouble {
                part: STATE_DIRECTORY,
                fault: self.told.clone(),
            })
            .await?;
        }
        Ok(())
    }

    /// Tries until the table can be reached, then goes over all services.
    async fn recover(
        &mut self,
        why: Unavailable,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
    ) -> Result<(), Ended> {
        let mut fault = chain(&why);
        let mut gone = false;
        warn!(fault, "lost touch with IPVS");
        loop {
            snapshots.has_changed().map_err(|_| Ended)?;
            // At once the first time; but if it can be reached and then fails again, not in a tight loop.
            if let Some(delay) = self.delay {
                self.report_outage(&fault, gone).await?;
                sleep(delay).await;
            }
            self.delay = Some(
                self.delay
                    .map_or(FIRST_DELAY, |delay| (delay * 2).min(LONGEST_DELAY)),
            );
            match self.table.reopen().await {
                Ok(()) => break,
                Err(e) => {
                    gone = matches!(e, Unavailable::NoIpvs);
                    fault = chain(&e);
                }
            }
        }
        info!("in touch with IPVS again");
        self.agenda.everything(Instant::now());
        Ok(())
    }

    /// `gone`: there is no table any more, so nothing is held.
    async fn report_outage(&mut self, fault: &str, gone: bool) -> Result<(), Ended> {
        let mut failures = Vec::new();
        for (service, target) in self.agenda.targets() {
            let holds = target.holds && !gone;
            if target.wanted().is_some() && target.failed(fault, holds) {
                failures.push(Event::NotApplied {
                    service,
                    fault: fault.to_owned(),
                    holds,
                });
            }
        }
        for failure in failures {
            self.say(failure).await?;
        }
        Ok(())
    }

    async fn say(&self, event: Event) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended)
    }
}

fn holds(held: Option<&Held>) -> bool {
    held.is_some_and(|held| held.destinations.values().any(|to| to.weight > 0))
}

/// The servers and their weights. How packets got to them tells nothing of them.
fn destinations(held: Option<&Held>) -> Destinations {
    held.into_iter()
        .flat_map(|held| &held.destinations)
        // ipvsadm(8) allows no larger weight, the kernel does.
        .filter_map(|(backend, to)| {
            Some((*backend, Weight::new(to.weight.min(Weight::MAX))?.into()))
        })
        .collect()
}

/// The first is why; the others follow from it or are alike.
fn fault(refusals: &[Refusal]) -> String {
    match refusals {
        [] => "the kernel did not do it, and did not say why".to_owned(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}
