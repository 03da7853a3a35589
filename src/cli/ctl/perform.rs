//! Does a command: reads the objects, asks, reckons, writes, waits.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::Options;
use super::action::{Action, Assignment};
use super::answer::get;
use super::confirm::confirm;
use super::edit::edit;
use super::failure::Failure;
use super::guard::{self, Refusal};
use super::object::{Change, Object};
use super::plan::{Planned, Told, blows, writes};
use super::selector::{Names, Selector};
use super::store::{Outcome, Scope, Store, Write};
use super::wait::{self, Awaited, Verdict};
use crate::backoff::Backoff;
use crate::cli::etcd::BATCH;
use crate::cli::say::Say;
use crate::conftool::{PoolPath, Pooled};
use crate::fleet::record::APPLIED;

/// How often a change is tried anew that others keep getting in the way of.
const TRIES: u32 = 50;

/// How long the balancers have to let a server go before a forced `delete` takes the word away that says
/// they shall.
const LET_GO: Duration = Duration::from_secs(10);

/// One action on some objects.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) target: Target,
    pub(super) action: Action,
}

#[derive(Clone, Debug)]
pub(super) enum Target {
    Select {
        /// As it was said.
        text: String,
        selector: Selector,
        /// Whether several objects at once have to be confirmed.
        confirm: bool,
    },
    Tags {
        pool: PoolPath,
        names: Names,
        text: String,
    },
}

impl Target {
    fn is_whole_pool(&self) -> bool {
        match self {
            Target::Select { .. } => false,
            Target::Tags { names, .. } => matches!(names, Names::All),
        }
    }
}

pub(super) struct Performer<'a> {
    pub(super) options: &'a Options,
    pub(super) store: Store,
    pub(super) say: &'a mut Say,
    pub(super) awaited: Awaited,
}

impl Performer<'_> {
    pub(super) async fn perform(&mut self, work: &[Work]) -> Result<(), Failure> {
        for work in work {
            self.one(work).await?;
        }
        if self.options.wait && !self.awaited.pools.is_empty() {
            self.wait().await?;
        }
        Ok(())
    }

    async fn one(&mut self, work: &Work) -> Result<(), Failure> {
        let scope = match &work.target {
            Target::Select { .. } => Scope::All,
            Target::Tags { pool, .. } => Scope::Pool(pool.clone()),
        };
        let all = self.store.read(&scope).await?;
        let meant = |object: &&Object| match &work.target {
            Target::Select { selector, .. } => selector.matches(object),
            Target::Tags { names, .. } => names.matches(&object.name),
        };
        let objects: Vec<Object> = all.iter().filter(meant).cloned().collect();
        if objects.is_empty() {
            return Err(no_match(&work.target));
        }
        match &work.action {
            Action::Get => {
                return get(
                    &objects,
                    work.target.is_whole_pool(),
                    self.options,
                    self.say,
                );
            }
            Action::Set(_) | Action::Delete | Action::Edit => {}
        }
        confirm(work, &objects, all.len(), self.options, self.say)?;
        let planned = self.plan(&work.action, objects)?;
        self.change(planned, &all).await
    }

    fn plan(&mut self, action: &Action, objects: Vec<Object>) -> Result<Vec<Planned>, Failure> {
        let mut planned = Vec::new();
        for object in objects {
            let change = match action {
                Action::Get | Action::Delete => None,
                Action::Set(assignments) => {
                    Some(self.make(assignments.clone(), self.options.reason.clone()))
                }
                Action::Edit => match edit(&object, &object.in_force()?, self.say)? {
                    Some(edited) => {
                        let reason = self.options.reason.clone().or(edited.reason);
                        Some(self.make(edited.assignments, reason))
                    }
                    None => {
                        self.say.line(&format!("Entity {object} unchanged"));
                        continue;
                    }
                },
            };
            let told = match &change {
                None => Told::Line(format!("Deleted ('Node',) {}.", object.name)),
                Some(change) => {
                    // All faults come before the first write.
                    let changed = object.change(change)?;
                    match action {
                        Action::Edit => Told::Line(format!("Entity {object} successfully updated")),
                        Action::Get | Action::Set(_) | Action::Delete => {
                            Told::Members(changed.lines)
                        }
                    }
                }
            };
            planned.push(Planned {
                object,
                change,
                told,
            });
        }
        Ok(planned)
    }

    fn make(&self, assignments: Vec<Assignment>, reason: Option<String>) -> Change {
        Change {
            assignments,
            reason,
            force: self.options.force,
            until: None,
        }
    }

    async fn change(&mut self, mut planned: Vec<Planned>, all: &[Object]) -> Result<(), Failure> {
        let refused = self.guard(&planned, all).await?;
        if !refused.is_empty() && !self.options.force {
            return Err(Failure::Guard(refused));
        }
        if !refused.is_empty() {
            self.let_go(&mut planned).await?;
        }
        let mut lease = None;
        if let Some(ttl) = self.options.lease {
            let granted = self.store.grant(ttl).await?;
            lease = Some(granted);
            let until = from_now(granted.ttl);
            for planned in &mut planned {
                if let Some(change) = &mut planned.change {
                    change.until = Some(until.clone());
                }
            }
        }
        let number = planned.len();
        let mut done = 0;
        for batch in planned.chunks_mut(BATCH) {
            if let Err(failure) = self.commit(batch, lease.map(|lease| lease.id)).await {
                if done > 0 {
                    self.say
                        .fault(&format!("{done} of {number} objects were changed, then:"));
                } else if let Some(granted) = lease {
                    // If it cannot be, it ends by itself, and nothing stands under it.
                    let _ = self.store.revoke(granted).await;
                }
                return Err(failure);
            }
            done += batch.len();
            for planned in batch {
                match &planned.told {
                    // confctl has an empty line for an object that nothing changes.
                    Told::Members(lines) => self.say.line(&lines.join("\n")),
                    Told::Line(line) => self.say.line(line),
                }
            }
        }
        Ok(())
    }

    /// Writes some objects in one transaction, each as it is then: if others came first, their change
    /// stays and ours is made of what they have left.
    async fn commit(&mut self, batch: &mut [Planned], lease: Option<i64>) -> Result<(), Failure> {
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(200));
        let mut doubt = false;
        let mut changed = Vec::new();
        for _ in 0..TRIES {
            let writes = writes(batch, lease, doubt)?;
            let outcome = match writes.is_empty() {
                true => Outcome::Done(0),
                false => self.store.write(&writes).await?,
            };
            match outcome {
                Outcome::Done(revision) => {
                    self.take_note(batch, &writes, revision);
                    return Ok(());
                }
                Outcome::Changed { doubt: more } => {
                    doubt |= more;
                    sleep(backoff.next()).await;
                    changed = self.read_again(batch).await?;
                }
            }
        }
        Err(Failure::Conflict {
            objects: changed.join(", "),
            tries: TRIES,
        })
    }

    /// Reads a batch's objects again; gives the names of those that are no longer what they were.
    async fn read_again(&mut self, batch: &mut [Planned]) -> Result<Vec<String>, Failure> {
        let objects: Vec<Object> = batch.iter().map(|p| p.object.clone()).collect();
        let again = self.store.read_again(&objects).await?;
        let mut changed = Vec::new();
        for (planned, object) in batch.iter_mut().zip(again) {
            if planned.object != object {
                changed.push(object.to_string());
                planned.object = object;
            }
        }
        Ok(changed)
    }

    /// What `--wait` waits for.
    fn take_note(&mut self, batch: &[Planned], writes: &[Write], revision: i64) {
        for planned in batch {
            let object = &planned.object;
            let written = writes.iter().any(|w| w.object == *object);
            let stored = [&object.node, &object.lease].into_iter().flatten();
            let revision = match written {
                true => revision,
                false => stored.map(|stored| stored.revision).max().unwrap_or(0),
            };
            let revision = u64::try_from(revision).unwrap_or(0);
            let awaited = self.awaited.pools.entry(object.pool.clone()).or_default();
            *awaited = revision.max(*awaited);
            let server = (object.pool.clone(), object.name.clone());
            if planned
                .after()
                .is_none_or(|node| node.pooled != Pooled::Yes)
            {
                self.awaited.gone.insert(server);
            } else {
                self.awaited.gone.remove(&server);
            }
        }
    }

    /// What the balancers would hold of it.
    async fn guard(
        &mut self,
        planned: &[Planned],
        all: &[Object],
    ) -> Result<Vec<Refusal>, Failure> {
        let blows = blows(planned, all);
        if !blows.values().any(|blow| blow.takes_away()) {
            return Ok(Vec::new());
        }
        let (found, _) = self.store.below(&[APPLIED]).await?;
        let records = wait::records(found);
        for pool in guard::unreckoned(&blows, &records) {
            let line = format!("{pool}: no balancer serves it, so there is no guard to ask");
            self.say.note(&line);
        }
        Ok(guard::refusals(&blows, &records))
    }

    /// A deleted object cannot say that the guard shall let its server go: it says so before.
    async fn let_go(&mut self, planned: &mut [Planned]) -> Result<(), Failure> {
        let mut first: Vec<Planned> = Vec::new();
        for planned in planned.iter().filter(|planned| planned.change.is_none()) {
            first.push(Planned {
                object: planned.object.clone(),
                change: Some(self.make(
                    vec![Assignment::drain(), Assignment::DECOMMISSION],
                    self.options.reason.clone(),
                )),
                told: Told::Members(Vec::new()),
            });
        }
        if first.is_empty() {
            return Ok(());
        }
        for batch in first.chunks_mut(BATCH) {
            self.commit(batch, None).await?;
        }
        // Those who have not done it by then hold the server, and say so in their status.
        wait::wait(&mut self.store, &self.awaited, LET_GO, |_| ()).await?;
        for batch in planned.chunks_mut(BATCH) {
            self.read_again(batch).await?;
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Failure> {
        let within = self.options.timeout;
        let say = &mut *self.say;
        let verdict = wait::wait(&mut self.store, &self.awaited, within, |line| {
            say.line(line)
        });
        let Verdict { late, held } = verdict.await?;
        if !late.is_empty() {
            Err(Failure::Late { within, late })
        } else if !held.is_empty() {
            Err(Failure::Held(held))
        } else {
            Ok(())
        }
    }
}

fn no_match(target: &Target) -> Failure {
    let what = match target {
        Target::Select { text, .. } => format!("selector {text:?}"),
        Target::Tags { pool, text, .. } => format!("{text:?} in {pool}"),
    };
    Failure::NoMatch { what }
}

/// For people: etcd ends the lease by a clock of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "a time of day to be read by people; nothing is decided by it"
)]
fn from_now(ttl: Duration) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() + ttl).to_string()
}
