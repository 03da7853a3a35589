//! All checks that one probe answers: the same question to the same server, for whatever service.
//!
//! Each is told the verdict once, in the order in which it changes, those too that join when it is long known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use crate::check::{Check, Monitor};
use crate::event::{CheckId, Event, Verdict};
use crate::service::{Host, ServiceName, VirtualService};

/// What a probe asks of whom: checks that are equal in this are answered by one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    target: SocketAddr,
    host: Host,
    /// Of commands that are told.
    service: Option<ServiceName>,
    /// Of checks that ask at the VIP.
    vip: Option<VirtualService>,
    monitor: Arc<Monitor>,
}

impl Question {
    pub(super) fn of(check: &Check) -> Question {
        let is_told = check.monitor.probe.names_service();
        Question {
            target: check.target,
            host: check.host.clone(),
            service: is_told.then(|| check.service.clone()),
            vip: check.monitor.asks_at_vip().then_some(check.key),
            monitor: check.monitor.clone(),
        }
    }
}

pub(super) struct Audience {
    events: mpsc::Sender<Event>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    verdict: Option<Verdict>,
    /// Rises with each verdict.
    turn: u64,
    listeners: BTreeMap<CheckId, Listener>,
    /// Who may not know the verdict yet.
    waiting: Vec<CheckId>,
}

struct Listener {
    check: Arc<Check>,
    /// The turn of the verdict that it was told.
    told: u64,
}

impl Audience {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Audience {
        Audience {
            events,
            state: Mutex::default(),
        }
    }

    /// It is to be told what is known: see [`Audience::tell`].
    pub(super) fn join(&self, id: CheckId, check: Arc<Check>) {
        let mut state = self.lock();
        state.listeners.insert(id, Listener { check, told: 0 });
        state.waiting.push(id);
    }

    /// Gives whether anybody is left.
    pub(super) fn leave(&self, id: CheckId) -> bool {
        let mut state = self.lock();
        state.listeners.remove(&id);
        !state.listeners.is_empty()
    }

    /// Counts a result.
    pub(super) fn note(&self, at: SystemTime, result: Result<(), &str>, took: Option<Duration>) {
        for listener in self.lock().listeners.values() {
            listener.check.figures.note(at, result, took);
        }
    }

    /// `None`: there is none yet.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.lock().verdict.clone()
    }

    /// How many checks this is for.
    pub(super) fn len(&self) -> usize {
        self.lock().listeners.len()
    }

    /// A new verdict.
    pub(super) async fn say(&self, verdict: Verdict) {
        {
            let mut state = self.lock();
            let State {
                listeners, waiting, ..
            } = &mut *state;
            waiting.clear();
            waiting.extend(listeners.keys());
            state.verdict = Some(verdict);
            state.turn += 1;
        }
        self.tell().await;
    }

    /// Tells everybody who does not know the last verdict.
    pub(super) async fn tell(&self) {
        while self.is_owing() {
            // If nobody listens any more, the daemon is stopping and so are we.
            let Ok(place) = self.events.reserve().await else {
                return;
            };
            let mut state = self.lock();
            // Sent while it is locked: no other verdict comes in between.
            if let Some(event) = state.next() {
                place.send(event);
            }
        }
    }

    fn is_owing(&self) -> bool {
        let state = self.lock();
        state.verdict.is_some() && !state.waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Event> {
        let verdict = self.verdict.clone()?;
        while let Some(id) = self.waiting.pop() {
            let Some(listener) = self.listeners.get_mut(&id) else {
                continue;
            };
            if listener.told != self.turn {
                listener.told = self.turn;
                return Some(Event::Checked {
                    service: listener.check.service.clone(),
                    check: id,
                    verdict,
                });
            }
        }
        None
    }
}
