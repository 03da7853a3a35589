//! Keeps the kernel's threads of connection synchronisation as `[ipvs.sync]` has them. A task of its own beside the
//! table's, with a socket of its own: what the kernel refuses here holds up no service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::table::Unavailable;
use super::wire::SyncThread;
use super::{Ended, Kernel, Planned};
use crate::chain::chain;
use crate::config::{Sync, SyncRole};
use crate::event::Event;
use crate::snapshot::Snapshot;

/// The part's name in [`Event::Trouble`] and [`Event::RepairedHost`].
pub const SYNC: &str = "connection-sync";

/// The kernel tells nobody when they are stopped: we look this often.
const POLL: Duration = Duration::from_secs(2);

/// Works until the core is gone. Threads that the configuration does not ask for are left alone, unless it did before
/// in this run. When the process stops they go on.
pub async fn keep_sync(mut snapshots: watch::Receiver<Arc<Snapshot>>, events: mpsc::Sender<Event>) {
    let mut keeper = Keeper {
        kernel: None,
        ours: BTreeSet::new(),
        told: None,
        events,
    };
    loop {
        let config = snapshots.borrow_and_update().config.clone();
        let sync = config.ipvs.sync.as_ref();
        if let Err(Ended) = keeper.look(sync).await {
            return;
        }
        let different = |snapshot: &Arc<Snapshot>| snapshot.config.ipvs.sync != config.ipvs.sync;
        tokio::select! {
            changed = snapshots.wait_for(different) => {
                if changed.is_err() {
                    return;
                }
            }
            // Without any there is nothing to look after.
            () = sleep(POLL), if sync.is_some() || keeper.told.is_some() => {}
        }
    }
}

struct Keeper {
    /// `None`: not needed yet, or it failed.
    kernel: Option<Kernel>,
    /// Those that ran as wanted.
    ours: BTreeSet<SyncThread>,
    /// The trouble that the core was last told.
    told: Option<String>,
    events: mpsc::Sender<Event>,
}

impl Keeper {
    async fn look(&mut self, sync: Option<&Sync>) -> Result<(), Ended> {
        let wanted = threads(sync);
        if wanted.is_empty() && self.ours.is_empty() && self.told.is_none() {
            return Ok(());
        }
        let (changes, fault) = match self.settle(&wanted).await {
            Ok(changes) => (changes, None),
            Err((changes, fault)) => {
                self.kernel = None;
                (changes, Some(fault))
            }
        };
        let part = SYNC;
        for change in changes {
            self.say(Event::RepairedHost { part, change }).await?;
        }
        if fault != self.told {
            self.told = fault.clone();
            self.say(Event::Trouble { part, fault }).await?;
        }
        Ok(())
    }

    /// What was put right, and in the end why not all is.
    async fn settle(
        &mut self,
        wanted: &BTreeSet<SyncThread>,
    ) -> Result<Vec<String>, (Vec<String>, String)> {
        let mut repairs = Vec::new();
        match self.replace(wanted, &mut repairs).await {
            Ok(()) => Ok(repairs),
            Err(fault) => Err((repairs, fault)),
        }
    }

    async fn replace(
        &mut self,
        wanted: &BTreeSet<SyncThread>,
        repairs: &mut Vec<String>,
    ) -> Result<(), String> {
        let lost = |why: Unavailable| chain(&why);
        let kernel = match &mut self.kernel {
            Some(kernel) => kernel,
            none => none.insert(Kernel::connect().await.map_err(lost)?),
        };
        let is = kernel.sync_threads().await.map_err(lost)?;
        for thread in &is {
            let same_role = |other: &&SyncThread| other.role == thread.role;
            let replaced = wanted.iter().find(same_role).is_some_and(|to| to != thread);
            let dropped = self.ours.contains(thread) && !wanted.contains(thread);
            if replaced || dropped {
                let stopped = kernel.stop_sync(thread).await.map_err(lost)?;
                stopped.map_err(|errno| format!("cannot stop the {thread}: {}", errno.desc()))?;
                info!(%thread, "stopped connection synchronisation");
            }
        }
        for thread in wanted.difference(&is) {
            let started = kernel.start_sync(thread).await.map_err(lost)?;
            started.map_err(|errno| format!("cannot start the {thread}: {}", errno.desc()))?;
            if self.ours.contains(thread) {
                let change = change(&is, thread);
                warn!(change, "someone else changed connection synchronisation");
                repairs.push(change);
            } else {
                info!(%thread, "started connection synchronisation");
            }
        }
        self.ours = wanted.clone();
        Ok(())
    }

    async fn say(&self, event: Event) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended)
    }
}

/// The threads that would be started, or replaced by others. Those that the configuration does not ask for are not
/// told of: whether the daemon that runs has started them, it alone knows.
pub async fn plan_sync(
    kernel: &mut Kernel,
    sync: Option<&Sync>,
) -> Result<Vec<Planned>, Unavailable> {
    let wanted = threads(sync);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let is = kernel.sync_threads().await?;
    let planned = wanted.difference(&is).map(|thread| Planned {
        object: "connection synchronisation".to_owned(),
        change: change(&is, thread),
    });
    Ok(planned.collect())
}

fn change(is: &BTreeSet<SyncThread>, wanted: &SyncThread) -> String {
    let was = is.iter().find(|other| other.role == wanted.role);
    let was = was.map_or("gone".to_owned(), SyncThread::to_string);
    format!("{was} -> {wanted}")
}

fn threads(sync: Option<&Sync>) -> BTreeSet<SyncThread> {
    let Some(sync) = sync else {
        return BTreeSet::new();
    };
    let roles: &[SyncRole] = match sync.role {
        SyncRole::Both => &[SyncRole::Master, SyncRole::Backup],
        SyncRole::Master => &[SyncRole::Master],
        SyncRole::Backup => &[SyncRole::Backup],
    };
    let thread = |role: &SyncRole| SyncThread {
        role: *role,
        interface: sync.interface.clone(),
        id: sync.id.into(),
        group: sync.group,
        port: sync.port,
        ttl: sync.ttl,
    };
    roles.iter().map(thread).collect()
}
