//! What the sink would do with a snapshot, told and not done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::agenda::settings;
use super::diff::{Wanted, changes};
use super::owned::Owned;
use super::sysctl::{full, same, value};
use super::table::{Change, Listed, Table, Unavailable};
use super::{destinations, words};
use crate::config::Ipvs;
use crate::service::{Destinations, VirtualService};
use crate::snapshot::Snapshot;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub object: String,
    /// What it is, and what it would be.
    pub change: String,
}

/// All that would become of a table.
#[derive(Debug, Default)]
pub struct Prospect {
    /// In the order in which they would be made, for each service.
    pub changes: Vec<Planned>,
    /// Other people's services, which would be left alone.
    pub foreign: Vec<String>,
    /// Why it is not known which services are ours to remove.
    pub fault: Option<String>,
}

/// What the table holds for these services, as the core is told at a start.
pub async fn found(
    table: &mut Table,
    keys: impl IntoIterator<Item = VirtualService>,
) -> Result<BTreeMap<VirtualService, Destinations>, Unavailable> {
    let mut found = BTreeMap::new();
    for key in keys {
        let held = table.change(key, &[]).await?.held;
        found.insert(key, destinations(held.as_ref()));
    }
    Ok(found)
}

/// Services whose servers the snapshot does not know are not compared. `state_directory`: where the daemon remembers
/// which services are its own.
pub async fn plan(
    table: &mut Table,
    state_directory: &Path,
    snapshot: &Snapshot,
) -> Result<Prospect, Unavailable> {
    let mut prospect = Prospect::default();
    let mut configured = BTreeSet::new();
    for (name, service) in &snapshot.services {
        let key = service.key();
        configured.insert(key);
        let Some(destinations) = service.destinations.clone() else {
            continue;
        };
        let wanted = Wanted {
            settings: settings(&service.config),
            destinations,
        };
        let held = table.change(key, &[]).await?.held;
        let todo = changes(&wanted, held.as_ref());
        let told = words::each(key.family(), held.as_ref(), &todo);
        prospect.changes.extend(told.map(|change| Planned {
            object: format!("{name} ({key})"),
            change,
        }));
    }
    let ours = Owned::peek(state_directory).unwrap_or_else(|fault| {
        prospect.fault = Some(fault);
        BTreeSet::new()
    });
    for listed in table.list().await? {
        match listed {
            Listed::Service(key) if configured.contains(&key) => {}
            Listed::Service(key) if ours.contains(&key) => {
                let held = table.change(key, &[]).await?.held;
                let todo = [Change::RemoveService];
                let told = words::each(key.family(), held.as_ref(), &todo);
                prospect.changes.extend(told.map(|change| Planned {
                    object: key.to_string(),
                    change,
                }));
            }
            Listed::Service(_) | Listed::Other(_) => prospect.foreign.push(listed.to_string()),
        }
    }
    Ok(prospect)
}

/// The settings that would be set, and what cannot be read of them.
pub fn plan_sysctls(config: &Ipvs) -> (Vec<Planned>, Vec<String>) {
    let (mut planned, mut faults) = (Vec::new(), Vec::new());
    for (name, wanted) in &config.sysctl {
        match value(name) {
            Ok(is) if same(name, &is, wanted) => {}
            Ok(is) => planned.push(Planned {
                object: full(name),
                change: format!("{is} -> {wanted}"),
            }),
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    (planned, faults)
}
