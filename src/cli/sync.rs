//! `plimsoll sync DIRECTORY`: conftool-sync for `node` objects. New ones are made inactive with weight 0, those
//! that are there stay byte for byte, those that no file lists any more are removed.
//!
//! It would rather remove too little: nothing while any file is missing, empty or wrong, and not what leaves a
//! pool without a server that is pooled, unless forced. What changes at the same time by other hands is seen
//! (compare and swap), and the changes are reckoned anew.

mod files;
mod object;
mod plan;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use self::object::Object;
use self::plan::{Change, Plan, Removal, plan};
use self::store::{Applied, Store};
use super::etcd::{self, BATCH, EtcdError};
use super::say::Say;
use super::{ConfigFile, exit};
use crate::backoff::Backoff;
use crate::chain::chain;
use crate::config::Etcd;

const NOT_BY_V2: &str = "plimsoll sync writes by etcd's v3 API alone; use conftool-sync";

/// How often the changes are reckoned anew when others change the same objects, or etcd fails.
const TRIES: usize = 10;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit codes:
  0   etcd has what the files list
  65  a file is missing, empty or wrong, or servers were kept that --force removes; the rest was done
  69  no endpoint of etcd answers
  73  others kept changing the same objects
  78  the configuration is wrong")]
pub(super) struct Sync {
    /// Where the folder `node` is, with a file *.yaml for each data centre: `dc: cluster: host: [services]`.
    directory: PathBuf,
    /// Print what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove also the last servers of a pool that are pooled.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Why etcd does not have what it should.
#[derive(Debug)]
enum Failure {
    Etcd(EtcdError),
    /// Others kept changing the same objects.
    Busy,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// By object; a dry run's are only planned.
    changes: BTreeMap<Object, Change>,
    /// The last one.
    plan: Plan,
    /// Objects that were listed and there before.
    unchanged: usize,
    /// Keys that are no node's.
    strangers: Vec<String>,
    failure: Option<Failure>,
}

impl Sync {
    pub(super) fn main(self) -> ExitCode {
        let mut say = Say::new(false);
        let code = match self.run(&mut say) {
            Ok(code) => code,
            Err(error) => {
                say.fault(&chain(&error));
                error.exit_code()
            }
        };
        say.exit(code)
    }

    fn run(&self, say: &mut Say) -> Result<u8, EtcdError> {
        let config = etcd::configured(&self.file.config, NOT_BY_V2)?;
        let lists = files::read(&self.directory);
        for fault in &lists.faults {
            say.fault(&fault.to_string());
        }
        let faulty = !lists.faults.is_empty();
        let removal = match (faulty, self.force) {
            (true, _) => Removal::Never,
            (false, true) => Removal::Forced,
            (false, false) => Removal::Guarded,
        };
        let listed: BTreeSet<Object> = lists.objects.into_keys().collect();
        let outcome = if listed.is_empty() {
            // Nothing to add, nothing that may be removed.
            Outcome::default()
        } else {
            etcd::block_on(sync(config, &listed, removal, self.dry_run))?
        };
        self.tell(&outcome, say);
        for line in outcome.complaints() {
            say.fault(&line);
        }
        Ok(outcome.code(faulty))
    }

    /// A line for each change, by object, and one on all of it.
    fn tell(&self, outcome: &Outcome, say: &mut Say) {
        let done = !self.dry_run;
        for change in outcome.changes.values() {
            say.line(&change.told(done));
        }
        let created = created(&outcome.changes);
        let removed = outcome.changes.len() - created;
        let would = if done { "" } else { "would be " };
        let kept = match outcome.plan.kept.len() + outcome.plan.held.values().flatten().count() {
            0 => String::new(),
            kept => format!("{kept} not listed and kept, "),
        };
        let unchanged = outcome.unchanged;
        say.line(&format!(
            "sync: {created} {would}created, {removed} {would}removed, {kept}{unchanged} unchanged"
        ));
    }
}

async fn sync(
    config: Arc<Etcd>,
    listed: &BTreeSet<Object>,
    removal: Removal,
    dry_run: bool,
) -> Outcome {
    let mut store = Store::new(config);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut outcome = Outcome::default();
    // Sent, and the answer lost.
    let mut unsure: Vec<Change> = Vec::new();
    let mut failure = Failure::Busy;
    for _ in 0..TRIES {
        let there = match store.read().await {
            Ok(there) => there,
            Err(error) => {
                outcome.failure = Some(Failure::Etcd(error));
                return outcome;
            }
        };
        outcome.strangers = there.strangers;
        outcome.plan = plan(listed, &there.objects, removal);
        let open: BTreeSet<&Object> = outcome.plan.changes.iter().map(Change::object).collect();
        unsure.retain(|change| !open.contains(change.object()));
        outcome.changes.extend(by_object(unsure.drain(..)));
        // What an earlier try has made is there by now.
        let made = created(&outcome.changes);
        outcome.unchanged = outcome.plan.unchanged.saturating_sub(made);
        if dry_run {
            outcome.changes = by_object(outcome.plan.changes.iter().cloned()).collect();
            return outcome;
        }
        match apply(&mut store, &outcome.plan.changes, &mut outcome.changes).await {
            Ok(()) => return outcome,
            Err(stopped) => (unsure, failure) = (stopped.unsure, stopped.failure),
        }
        sleep(backoff.next()).await;
    }
    outcome.failure = Some(failure);
    outcome
}

/// Why not all batches were done.
struct Stopped {
    /// Of these nobody knows whether they were.
    unsure: Vec<Change>,
    failure: Failure,
}

/// Batch by batch, up to the first that is refused or fails.
async fn apply(
    store: &mut Store,
    changes: &[Change],
    done: &mut BTreeMap<Object, Change>,
) -> Result<(), Stopped> {
    for batch in changes.chunks(BATCH) {
        let (doubt, failure) = match store.apply(batch).await {
            Ok(Applied::Yes) => {
                done.extend(by_object(batch.iter().cloned()));
                continue;
            }
            Ok(Applied::Conflict { doubt }) => (doubt, Failure::Busy),
            Err(error) => (true, Failure::Etcd(error)),
        };
        let unsure = if doubt { batch.to_vec() } else { Vec::new() };
        return Err(Stopped { unsure, failure });
    }
    Ok(())
}

fn created(changes: &BTreeMap<Object, Change>) -> usize {
    let create = |change: &&Change| matches!(change, Change::Create(_));
    changes.values().filter(create).count()
}

fn by_object(changes: impl Iterator<Item = Change>) -> impl Iterator<Item = (Object, Change)> {
    changes.map(|change| (change.object().clone(), change))
}

impl Outcome {
    /// What is to be said on standard error.
    fn complaints(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for key in &self.strangers {
            lines.push(format!("{key}: no node's key; left alone"));
        }
        for object in &self.plan.kept {
            lines.push(format!(
                "{object}: not listed, and kept until all files are good"
            ));
        }
        for (pool, objects) in &self.plan.held {
            let hosts: Vec<_> = objects.iter().map(Object::host).collect();
            lines.push(format!(
                "{pool}: not listed, and kept, since no pooled server would be left: {}; \
                 --force removes them, or depool them before",
                hosts.join(", ")
            ));
        }
        match &self.failure {
            None => {}
            Some(Failure::Etcd(error)) => lines.push(chain(error)),
            Some(Failure::Busy) => lines.push(format!(
                "others change the same objects at the same time: given up after {TRIES} tries"
            )),
        }
        lines
    }

    fn code(&self, faulty: bool) -> u8 {
        match &self.failure {
            Some(Failure::Etcd(error)) => error.exit_code(),
            Some(Failure::Busy) => exit::CANNOT_CREATE,
            None if faulty || !self.plan.held.is_empty() => exit::DATA,
            None => 0,
        }
    }
}
