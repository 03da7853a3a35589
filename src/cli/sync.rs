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
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use self::object::Object;
use self::plan::{Change, Plan, Removal, plan};
use self::store::{Applied, BATCH, Store, StoreError};
use super::run::chain;
use super::{ConfigFile, exit};
use crate::backoff::Backoff;
use crate::config::{Config, Etcd, EtcdApi};

/// How often the changes are reckoned anew when others change the same objects, or an endpoint fails.
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
    /// By endpoint.
    Read(Vec<StoreError>),
    /// The last try's, if it was not that others kept changing things.
    Busy(Option<StoreError>),
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
    #[expect(
        clippy::print_stderr,
        reason = "what a command says goes to its standard error"
    )]
    pub(super) fn main(self) -> ExitCode {
        let config = match Config::read_etcd(&self.file.config) {
            Ok(config) => config,
            Err(mistakes) => {
                eprintln!("{mistakes}");
                return ExitCode::from(exit::CONFIG);
            }
        };
        if config.api == EtcdApi::V2 {
            eprintln!(
                "{}: [etcd] api = \"v2\": plimsoll sync writes by etcd's v3 API alone; use conftool-sync",
                self.file.config.display()
            );
            return ExitCode::from(exit::CONFIG);
        }
        let lists = files::read(&self.directory);
        for fault in &lists.faults {
            eprintln!("{fault}");
        }
        let faulty = !lists.faults.is_empty();
        let removal = match (faulty, self.force) {
            (true, _) => Removal::Never,
            (false, true) => Removal::Forced,
            (false, false) => Removal::Guarded,
        };
        let listed: BTreeSet<Object> = lists.objects.into_keys().collect();
        let outcome = match self.run(&config, &listed, removal) {
            Ok(outcome) => outcome,
            Err(cause) => {
                eprintln!("cannot start the runtime: {cause}");
                return ExitCode::from(exit::OS_ERROR);
            }
        };
        if let Err(cause) = self.print(&outcome, &mut io::stdout().lock()) {
            eprintln!("cannot write what was done: {cause}");
            return ExitCode::from(exit::OS_ERROR);
        }
        for line in outcome.complaints() {
            eprintln!("{line}");
        }
        ExitCode::from(outcome.code(faulty))
    }

    fn run(
        &self,
        config: &Etcd,
        listed: &BTreeSet<Object>,
        removal: Removal,
    ) -> io::Result<Outcome> {
        // Nothing to add, nothing that may be removed.
        if listed.is_empty() {
            return Ok(Outcome::default());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(sync(config, listed, removal, self.dry_run));
        // File reads that hang on their own threads are not waited for.
        runtime.shutdown_background();
        Ok(outcome)
    }

    /// A line for each change, by object, and one on all of it.
    fn print(&self, outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
        let done = !self.dry_run;
        let changes = outcome.changes.values();
        for change in changes {
            writeln!(out, "{}", change.told(done))?;
        }
        let created = created(&outcome.changes);
        let removed = outcome.changes.len() - created;
        let would = if done { "" } else { "would be " };
        let kept = outcome.plan.kept.len() + outcome.plan.held.values().flatten().count();
        let unchanged = outcome.unchanged;
        write!(
            out,
            "sync: {created} {would}created, {removed} {would}removed, "
        )?;
        if kept > 0 {
            write!(out, "{kept} not listed and kept, ")?;
        }
        writeln!(out, "{unchanged} unchanged")?;
        out.flush()
    }
}

async fn sync(
    config: &Etcd,
    listed: &BTreeSet<Object>,
    removal: Removal,
    dry_run: bool,
) -> Outcome {
    let mut store = Store::new(config);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut outcome = Outcome::default();
    // Sent, and the answer lost.
    let mut unsure: Vec<Change> = Vec::new();
    let mut last = None;
    for _ in 0..TRIES {
        let there = match store.read().await {
            Ok(there) => there,
            Err(failures) => {
                outcome.failure = Some(Failure::Read(failures));
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
            Ok(Applied::Yes) => return outcome,
            Ok(Applied::Conflict) => last = None,
            Err((batch, error)) => (unsure, last) = (batch, Some(error)),
        }
        sleep(backoff.next()).await;
    }
    outcome.failure = Some(Failure::Busy(last));
    outcome
}

/// Batch by batch, up to the first that is refused or fails; an error comes with the batch it happened to.
async fn apply(
    store: &mut Store<'_>,
    changes: &[Change],
    done: &mut BTreeMap<Object, Change>,
) -> Result<Applied, (Vec<Change>, StoreError)> {
    for batch in changes.chunks(BATCH) {
        match store.apply(batch).await {
            Ok(Applied::Yes) => done.extend(by_object(batch.iter().cloned())),
            Ok(Applied::Conflict) => return Ok(Applied::Conflict),
            Err(error) => return Err((batch.to_vec(), error)),
        }
    }
    Ok(Applied::Yes)
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
            Some(Failure::Read(errors)) => {
                lines.push("no endpoint of etcd gives the objects".to_owned());
                lines.extend(errors.iter().map(|error| format!("  {}", chain(error))));
            }
            Some(Failure::Busy(None)) => lines.push(format!(
                "others change the same objects at the same time: given up after {TRIES} tries"
            )),
            Some(Failure::Busy(Some(error))) => {
                lines.push(format!("given up after {TRIES} tries: {}", chain(error)));
            }
        }
        lines
    }

    fn code(&self, faulty: bool) -> u8 {
        match &self.failure {
            Some(Failure::Read(_) | Failure::Busy(Some(_))) => exit::UNAVAILABLE,
            Some(Failure::Busy(None)) => exit::CANNOT_CREATE,
            None if faulty || !self.plan.held.is_empty() => exit::DATA,
            None => 0,
        }
    }
}
