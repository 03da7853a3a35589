//! Edge: overrides outlive the process. What the snapshot has of them is in a file of the state directory; at the
//! start those whose time is not over come from there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::chain::chain;
use crate::event::Event;
use crate::service::{Action, Host, Note, Override, Overrides, Overruled, ServiceName, Weight};
use crate::snapshot::Snapshot;
use crate::state;

const FILE: &str = "overrides.json";
/// The part that [`Event::Trouble`] names.
const OVERRIDES: &str = "overrides";
/// How long until the next try to write what could not be written.
const PAUSE: Duration = Duration::from_secs(5);

/// One entry of the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    host: String,
    service: Option<String>,
    /// `depool`, `pool` or `weight`.
    action: String,
    weight: Option<u32>,
    reason: Option<String>,
    /// RFC 3339 in UTC.
    until: String,
    confirmed: bool,
}

/// What the last run left.
#[derive(Debug, Default)]
pub struct Kept {
    /// Those that are still in force, as the events that they were. They belong before anything is decided: a server
    /// that was taken in for a moment would be held by the depool guard.
    pub events: Vec<Event>,
    fault: Option<String>,
}

impl Kept {
    /// A file that makes no sense is moved aside.
    #[expect(
        clippy::disallowed_methods,
        reason = "until when an override is in force is told by the calendar, as its operator told it"
    )]
    pub fn read(state_directory: &Path) -> Kept {
        let (path, now) = (state_directory.join(FILE), SystemTime::now());
        match parsed(&path) {
            Ok(entries) => Kept {
                events: entries
                    .iter()
                    .filter_map(|entry| entry.event(now))
                    .collect(),
                fault: None,
            },
            Err(why) => Kept {
                events: Vec::new(),
                fault: Some(state::set_aside(&path, &why)),
            },
        }
    }
}

/// `kept`: what the snapshot began with.
pub async fn run(
    state_directory: PathBuf,
    kept: Kept,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::Sender<Event>,
) {
    let path = state_directory.join(FILE);
    let mut told = None;
    tell(&events, &mut told, kept.fault).await;
    let mut written = {
        let first = snapshots.borrow();
        first.overrides_kept.then(|| first.overrides.clone())
    };
    loop {
        let overrides = snapshots.borrow_and_update().overrides.clone();
        let is_written = |written: &Arc<Overrides>| Arc::ptr_eq(&overrides, written);
        if !written.as_ref().is_some_and(is_written) {
            let entries: Vec<Saved> = overrides.iter().map(Saved::of).collect();
            match write(path.clone(), entries).await {
                Ok(()) => {
                    written = Some(overrides.clone());
                    // The core ends only with the daemon.
                    let _ = events.send(Event::OverridesKept(overrides)).await;
                    tell(&events, &mut told, None).await;
                }
                Err(fault) => {
                    tell(&events, &mut told, Some(fault)).await;
                    sleep(PAUSE).await;
                    continue;
                }
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

async fn tell(events: &mpsc::Sender<Event>, told: &mut Option<String>, fault: Option<String>) {
    if *told == fault {
        return;
    }
    told.clone_from(&fault);
    let part = OVERRIDES;
    // The core ends only with the daemon.
    let _ = events.send(Event::Trouble { part, fault }).await;
}

async fn write(path: PathBuf, entries: Vec<Saved>) -> Result<(), String> {
    let writing = spawn_blocking(move || {
        let text = serde_json::to_vec(&entries).map_err(io::Error::from)?;
        state::write(&path, &text).map_err(|cause| {
            io::Error::new(
                cause.kind(),
                format!("cannot write {}: {cause}", path.display()),
            )
        })
    });
    match writing.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) => Err(format!(
            "{}; after a restart they would not be in force",
            chain(&fault)
        )),
        Err(panic) => Err(panic.to_string()),
    }
}

fn parsed(path: &Path) -> Result<Vec<Saved>, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause.to_string()),
    };
    let entries: Vec<Saved> = serde_json::from_slice(&text).map_err(|fault| fault.to_string())?;
    for entry in &entries {
        entry.order()?;
    }
    Ok(entries)
}

impl Saved {
    fn of((overruled, by): (&Overruled, &Arc<Override>)) -> Saved {
        Saved {
            host: overruled.host.to_string(),
            service: overruled.service.as_ref().map(ServiceName::to_string),
            action: by.action.name().to_owned(),
            weight: by.action.weight().map(Weight::get),
            reason: by.note.reason.as_deref().map(str::to_owned),
            until: by.note.until.as_deref().unwrap_or_default().to_owned(),
            confirmed: by.note.confirmed,
        }
    }

    fn order(&self) -> Result<(Overruled, Override, SystemTime), String> {
        let host: Host = self
            .host
            .parse()
            .map_err(|_| format!("host {:?}", self.host))?;
        let service = self.service.as_deref().map(str::parse).transpose();
        let service = service.map_err(|_| format!("service {:?}", self.service))?;
        let action = match (self.action.as_str(), self.weight) {
            ("depool", None) => Action::Depool,
            ("pool", None) => Action::Pool,
            ("weight", Some(weight)) => {
                Action::Weight(Weight::new(weight).ok_or(format!("weight {weight}"))?)
            }
            (action, weight) => return Err(format!("action {action:?}, weight {weight:?}")),
        };
        let until =
            humantime::parse_rfc3339(&self.until).map_err(|_| format!("until {:?}", self.until))?;
        let note = Note {
            reason: self.reason.as_deref().map(Arc::from),
            until: Some(self.until.as_str().into()),
            confirmed: self.confirmed,
        };
        let by = Override {
            action,
            note: Arc::new(note),
        };
        Ok((Overruled { host, service }, by, until))
    }

    /// `None`: its time is over.
    fn event(&self, now: SystemTime) -> Option<Event> {
        let (overruled, by, until) = self.order().ok()?;
        let left = until.duration_since(now).ok()?;
        (!left.is_zero()).then_some(Event::Override {
            overruled,
            by,
            left,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn saved() -> Vec<Saved> {
        let text = r#"[
            {"host": "cp1", "service": null, "action": "depool", "weight": null, "reason": "T1: disk",
             "until": "2026-11-22T04:00:00Z", "confirmed": false},
            {"host": "2001:db8::1", "service": "web", "action": "weight", "weight": 5, "reason": null,
             "until": "2026-11-22T05:00:00Z", "confirmed": true}
        ]"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again_as_long_as_its_time_lasts() {
        let at = |text: &str| humantime::parse_rfc3339(text).unwrap();
        let now = at("2026-11-22T04:30:00Z");
        let events: Vec<Event> = saved()
            .iter()
            .filter_map(|entry| entry.event(now))
            .collect();
        let [
            Event::Override {
                overruled,
                by,
                left,
            },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(overruled.to_string(), "2001:db8::1 of web");
        assert_eq!(by.action.to_string(), "weight 5");
        assert_eq!(*left, Duration::from_secs(1800));
        for entry in saved() {
            let (overruled, by, _) = entry.order().unwrap();
            assert_eq!(Saved::of((&overruled, &Arc::new(by))), entry);
        }
        assert!(saved()[0].event(at("2026-11-22T04:00:00Z")).is_none());
        assert!(saved()[0].event(UNIX_EPOCH).is_some());
    }

    #[test]
    fn a_file_that_makes_no_sense_is_kept_for_someone_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let none = Kept::read(folder.path());
        assert!(none.events.is_empty() && none.fault.is_none());
        let good = serde_json::to_string(&saved()).unwrap();
        for (was, is, why) in [
            ("[", "", "expected"),
            ("\"depool\"", "\"sack\"", "sack"),
            ("\"weight\":5", "\"weight\":4294967295", "weight 4294967295"),
            ("2026-11-22T05", "2026-22-11T05", "until"),
            ("\"web\"", "\"w b\"", "service"),
            ("\"host\"", "\"hosts\"", "unknown field"),
        ] {
            assert!(good.contains(was), "{was}");
            std::fs::write(&path, good.replacen(was, is, 1)).unwrap();
            let fault = Kept::read(folder.path()).fault.unwrap();
            assert!(fault.contains(why), "{fault}");
            assert!(!path.exists() && path.with_extension("json.bad").exists());
        }
    }
}
