//! Keeps the settings below `net.ipv4.vs` as the configuration has them. A task of its own beside the table's: it
//! needs neither the table nor its turn, and what the kernel refuses here holds up no service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Ended;
use crate::config::Ipvs;
use crate::event::Event;
use crate::snapshot::Snapshot;
use crate::sysctl::{self, SysctlError};

/// The part's name in [`Event::Trouble`] and [`Event::RepairedHost`].
pub const SYSCTL: &str = "sysctl";

/// The kernel tells nobody when a setting is changed: we look this often.
const POLL: Duration = Duration::from_secs(2);

/// Works until the core is gone. The settings are those of the network namespace of the thread that it is run on.
/// When the process stops, and when one leaves the configuration, they stay as they are.
pub async fn keep_sysctls(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let mut keeper = Keeper {
        set: BTreeMap::new(),
        told: None,
        events,
    };
    loop {
        let config = snapshots.borrow_and_update().config.clone();
        if let Err(Ended) = keeper.look(&config.ipvs).await {
            return;
        }
        let different = |snapshot: &Arc<Snapshot>| snapshot.config.ipvs != config.ipvs;
        tokio::select! {
            changed = snapshots.wait_for(different) => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(POLL) => {}
        }
    }
}

struct Keeper {
    /// What the kernel was last read to have: if that is another value now, someone else wrote it.
    set: BTreeMap<&'static str, String>,
    /// The trouble that the core was last told.
    told: Option<String>,
    events: mpsc::Sender<Event>,
}

impl Keeper {
    async fn look(&mut self, config: &Ipvs) -> Result<(), Ended> {
        self.set
            .retain(|name, value| config.sysctl.get(name) == Some(value));
        let mut faults = Vec::new();
        for (&name, wanted) in &config.sysctl {
            match put(name, wanted) {
                Ok(None) => {}
                Ok(Some(was)) if self.set.contains_key(name) => {
                    let change = format!("{}: {was} -> {wanted}", full(name));
                    warn!(change, "someone else changed a setting of the kernel");
                    self.say(Event::RepairedHost {
                        part: SYSCTL,
                        change,
                    })
                    .await?;
                }
                Ok(Some(was)) => info!(setting = full(name), was, is = wanted, "set"),
                Err(fault) => {
                    faults.push(fault.to_string());
                    continue;
                }
            }
            self.set.insert(name, wanted.clone());
        }
        let fault = match &faults[..] {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] => Some(format!("{first} (and {} more)", rest.len())),
        };
        if fault != self.told {
            self.told = fault.clone();
            self.say(Event::Trouble {
                part: SYSCTL,
                fault,
            })
            .await?;
        }
        Ok(())
    }

    async fn say(&self, event: Event) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended)
    }
}

/// Makes it so, if it is not. `Some`: what it was. Nothing of `/proc/sys` waits for a disk.
fn put(name: &str, wanted: &str) -> Result<Option<String>, SysctlError> {
    let is = value(name)?;
    if same(name, &is, wanted) {
        return Ok(None);
    }
    sysctl::write(&full(name), wanted)?;
    Ok(Some(is))
}

/// Three settings the kernel itself moves between 1 (off until memory is short) and 2 (on since it is).
pub(super) fn same(name: &str, is: &str, wanted: &str) -> bool {
    let moves = matches!(name, "drop_entry" | "drop_packet" | "secure_tcp");
    is == wanted || moves && ["1", "2"].contains(&is) && ["1", "2"].contains(&wanted)
}

/// Several numbers have one blank between them.
pub(super) fn value(name: &str) -> Result<String, SysctlError> {
    let value = sysctl::read(&full(name))?;
    Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

pub(super) fn full(name: &str) -> String {
    format!("net.ipv4.vs.{name}")
}
