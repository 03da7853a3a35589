//! All checks that one probe answers: the same question to the same server, for whatever service.
//!
//! Each is told the verdict once, in the order in which it changes, those too that join when it is long known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use crate::check::Check;
use crate::event::{CheckId, Event, Verdict};
use crate::service::{Host, ServiceName, VirtualService};

/// Who is asked: checks that are equal in this, and in their monitors, are answered by one probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    target: SocketAddr,
    host: Host,
    /// Of commands that are told.
    service: Option<ServiceName>,
    /// Of checks that ask at the VIP.
    vip: Option<VirtualService>,
}

impl Asked {
    pub(super) fn of(check: &Check) -> Asked {
        let is_told = check.monitor.probe.names_service();
        Asked {
            target: check.target,
            host: check.host.clone(),
            service: is_told.then(|| check.service.clone()),
            vip: check.monitor.asks_at_vip().then_some(check.key),
        }
    }
}

pub(super) struct Audience {
    events: mpsc::Sender<Event>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In percent, of a monitor that looks at it.
    load: Option<u32>,
    verdict: Option<Verdict>,
    /// Rise with each of them.
    loads: u64,
    verdicts: u64,
    listeners: BTreeMap<CheckId, Listener>,
    /// Who may not know everything yet.
    waiting: Vec<CheckId>,
}

struct Listener {
    check: Arc<Check>,
    /// How far it was told.
    loads: u64,
    verdicts: u64,
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
        let listener = Listener {
            check,
            loads: 0,
            verdicts: 0,
        };
        state.listeners.insert(id, listener);
        state.waiting.push(id);
    }

    /// Gives whether anybody is left.
    pub(super) fn leave(&self, id: CheckId) -> bool {
        let mut state = self.lock();
        state.listeners.remove(&id);
        !state.listeners.is_empty()
    }

    /// Counts a result. `expires`: the figure `certificate_expires` of the handshake, if there was one.
    pub(super) fn note(
        &self,
        at: SystemTime,
        result: Result<(), &str>,
        took: Option<Duration>,
        expires: i64,
    ) {
        for listener in self.lock().listeners.values() {
            let figures = &listener.check.figures;
            figures.certificate_expires.store(expires, Relaxed);
            figures.note(at, result, took);
        }
    }

    /// Counts a check that began late.
    pub(super) fn note_late(&self) {
        for listener in self.lock().listeners.values() {
            listener.check.figures.late.fetch_add(1, Relaxed);
        }
    }

    /// See [`crate::check::figures::Figures::note_load`].
    pub(super) fn note_load(&self, percent: Option<u32>, fault: Option<Arc<str>>) -> bool {
        let state = self.lock();
        let listeners = state.listeners.values();
        let begins = |begins, listener: &Listener| {
            listener.check.figures.note_load(percent, fault.clone()) || begins
        };
        listeners.fold(false, begins)
    }

    /// As the verdict is; `None`: there is none yet.
    pub(super) fn is_up(&self) -> Option<bool> {
        let state = self.lock();
        state.verdict.as_ref().map(|v| *v == Verdict::Up)
    }

    /// How many checks this is for.
    pub(super) fn len(&self) -> usize {
        self.lock().listeners.len()
    }

    /// A new verdict.
    pub(super) async fn say(&self, verdict: Verdict) {
        {
            let mut state = self.lock();
            state.verdict = Some(verdict);
            state.verdicts += 1;
            state.all_wait();
        }
        self.tell().await;
    }

    /// A new share of the weight, in percent.
    pub(super) async fn say_load(&self, percent: u32) {
        {
            let mut state = self.lock();
            state.load = Some(percent);
            state.loads += 1;
            state.all_wait();
        }
        self.tell().await;
    }

    /// Tells everybody what he does not know yet; the load before the verdict, so that a server comes up with its share.
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
        (state.verdict.is_some() || state.load.is_some()) && !state.waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn all_wait(&mut self) {
        self.waiting.clear();
        self.waiting.extend(self.listeners.keys());
    }

    fn next(&mut self) -> Option<Event> {
        while let Some(id) = self.waiting.last().copied() {
            let Some(listener) = self.listeners.get_mut(&id) else {
                self.waiting.pop();
                continue;
            };
            let service = || listener.check.service.clone();
            if let Some(percent) = self.load
                && listener.loads != self.loads
            {
                listener.loads = self.loads;
                return Some(Event::Load {
                    service: service(),
                    check: id,
                    percent,
                });
            }
            self.waiting.pop();
            if let Some(verdict) = &self.verdict
                && listener.verdicts != self.verdicts
            {
                listener.verdicts = self.verdicts;
                return Some(Event::Checked {
                    service: service(),
                    check: id,
                    verdict: verdict.clone(),
                });
            }
        }
        None
    }
}
