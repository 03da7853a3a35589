//! When the core is told that the fleet's edge cannot do its work, and when that it can again: not of every
//! lost connection, and not at every word that changes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::event::Event;

/// The part's name in [`Event::Trouble`].
const PART: &str = "fleet";

/// A rival that has left our key alone for so long is gone: longer than the longest pause between its tries.
const RIVAL_GONE: Duration = Duration::from_secs(60);

pub(super) struct Complaint {
    events: mpsc::Sender<Event>,
    /// Since when something has been wrong.
    since: Option<Instant>,
    /// How long that is kept to ourselves.
    patience: Duration,
    /// What each endpoint said last, so that the whole stays the same while they take turns.
    faults: BTreeMap<String, String>,
    /// Another process that writes our key, and until when it is believed to be there.
    rival: Option<(String, Instant)>,
    told: Option<String>,
}

impl Complaint {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Complaint {
        Complaint {
            events,
            since: None,
            patience: Duration::ZERO,
            faults: BTreeMap::new(),
            rival: None,
            told: None,
        }
    }

    /// It failed at `what`; worth telling if it is not good again after `patience`.
    pub(super) fn bad(&mut self, what: &str, fault: String, patience: Duration) {
        self.since.get_or_insert_with(Instant::now);
        self.patience = patience;
        self.faults.insert(what.to_owned(), fault);
    }

    /// Another process writes our key. That each of us does so for a while is no sign of health.
    pub(super) fn rival(&mut self, fault: String, patience: Duration) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        self.patience = patience;
        self.rival = Some((fault, now + RIVAL_GONE));
    }

    /// All is written.
    pub(super) fn good(&mut self) {
        self.faults.clear();
        if self.rival.is_none() {
            self.since = None;
        }
    }

    /// There is nothing to complain of any more, whatever was before. That is not to say that all is well.
    pub(super) async fn withdraw(&mut self) {
        self.faults.clear();
        self.rival = None;
        self.since = None;
        if self.told.take().is_some() {
            self.send(None).await;
        }
    }

    /// Returns when there is something to tell.
    pub(super) async fn due(&self) {
        match self.next() {
            Some((at, _)) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tells the core what is due.
    pub(super) async fn tell(&mut self) {
        let Some((_, fault)) = self.next().filter(|(at, _)| *at <= Instant::now()) else {
            return;
        };
        match &fault {
            Some(fault) => warn!(%fault, "this balancer cannot tell the others of itself"),
            None => {
                if self.told.is_some() {
                    info!("this balancer tells the others of itself again");
                }
                self.since = None;
                self.rival = None;
            }
        }
        if self.told != fault {
            self.told.clone_from(&fault);
            self.send(fault).await;
        }
    }

    async fn send(&self, fault: Option<String>) {
        // The core ends only with the daemon.
        let _ = self.events.send(Event::Trouble { part: PART, fault }).await;
    }

    /// What is to be told next, and when.
    fn next(&self) -> Option<(Instant, Option<String>)> {
        let Some(since) = self.since else {
            return self.told.as_ref().map(|_| (Instant::now(), None));
        };
        let (text, over) = match &self.rival {
            Some((fault, gone)) => (fault.clone(), self.faults.is_empty().then_some(*gone)),
            None => (self.said(), None),
        };
        let tell = (self.told.as_ref() != Some(&text)).then(|| (since + self.patience, Some(text)));
        let clear = over.map(|gone| (gone, None));
        [tell, clear]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    fn said(&self) -> String {
        let mut said: Vec<&str> = Vec::new();
        for fault in self.faults.values() {
            if !said.contains(&fault.as_str()) {
                said.push(fault);
            }
        }
        said.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    struct Told {
        complaint: Complaint,
        events: mpsc::Receiver<Event>,
    }

    fn told() -> Told {
        let (send, events) = mpsc::channel(4);
        Told {
            complaint: Complaint::new(send),
            events,
        }
    }

    impl Told {
        /// What the core hears until nothing more is due within this time.
        async fn within(&mut self, time: Duration) -> Vec<Option<String>> {
            let end = Instant::now() + time;
            let mut heard = Vec::new();
            while tokio::time::timeout_at(end, self.complaint.due())
                .await
                .is_ok()
            {
                self.complaint.tell().await;
                while let Ok(event) = self.events.try_recv() {
                    let Event::Trouble { part: PART, fault } = event else {
                        panic!("{event:?}")
                    };
                    heard.push(fault);
                }
            }
            heard
        }
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_soon_over_is_not_told() {
        let mut told = told();
        told.complaint.bad("a", "lost".into(), PATIENCE);
        assert!(told.within(PATIENCE / 2).await.is_empty());
        told.complaint.good();
        assert!(told.within(PATIENCE * 100).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_told_once_however_the_endpoints_take_turns() {
        let mut told = told();
        for _ in 0..10 {
            told.complaint.bad("a", "a is away".into(), PATIENCE);
            told.complaint.bad("b", "b hangs".into(), PATIENCE);
            advance(PATIENCE / 10).await;
        }
        let heard = told.within(PATIENCE * 100).await;
        assert_eq!(heard, [text("a is away; b hangs")]);
        told.complaint.bad("a", "a is away".into(), PATIENCE);
        assert!(told.within(PATIENCE * 100).await.is_empty());
        told.complaint.good();
        assert_eq!(told.within(PATIENCE * 100).await, [None]);
    }

    /// Each of two takes the key over in turn, and is good for a while each time.
    #[tokio::test(start_paused = true)]
    async fn a_rival_is_told_until_it_has_been_quiet_for_long() {
        let mut told = told();
        let mut heard = Vec::new();
        for _ in 0..5 {
            told.complaint.rival("taken".into(), PATIENCE);
            heard.extend(told.within(PATIENCE / 2).await);
            told.complaint.good();
            heard.extend(told.within(RIVAL_GONE / 2).await);
        }
        assert_eq!(heard, [text("taken")]);
        assert_eq!(told.within(RIVAL_GONE).await, [None]);
    }

    /// A deploy that crosses itself, say: taken once, ours ever after.
    #[tokio::test(start_paused = true)]
    async fn a_rival_is_over_even_if_patience_is_longer() {
        let mut told = told();
        told.complaint.rival("taken".into(), RIVAL_GONE * 3);
        told.complaint.good();
        assert!(told.within(RIVAL_GONE * 10).await.is_empty());
    }

    /// A reload without `[etcd]`, say.
    #[tokio::test(start_paused = true)]
    async fn what_is_withdrawn_is_told_once() {
        let mut told = told();
        told.complaint.bad("a", "lost".into(), PATIENCE);
        assert_eq!(told.within(PATIENCE * 2).await, [text("lost")]);
        for _ in 0..2 {
            told.complaint.withdraw().await;
        }
        let heard = told.events.try_recv().unwrap();
        assert!(matches!(heard, Event::Trouble { fault: None, .. }));
        assert!(told.events.try_recv().is_err());
        assert!(told.within(PATIENCE * 100).await.is_empty());
    }
}
