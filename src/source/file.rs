//! `servers = "file:///PATH"`: watches one file and sends its list when it differs from the last one.
//!
//! All that touches the file system runs off the runtime's workers and may hang there with the disk;
//! the watcher then says so and waits. A good list is sent the moment it is read. A fault is sent only
//! if it outlives a short grace, because a file that is being rewritten is empty for a moment; a writer
//! that has closed the file has said his last word, and there is no grace for that.
//! Beside inotify's notices the file is looked at now and then, for file systems that send none.

mod list;
mod look;
mod notices;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::config::Servers;
use crate::event::Event;
use crate::service::{Listing, ServerList, ServiceName};

use look::{Look, Stamp, look};
use notices::{Inotify, Interest, Notices};

/// How long a fault may be the shadow of a file that is being rewritten.
const GRACE: Duration = Duration::from_millis(250);
/// How often the file is looked at though nothing was heard of it.
const POLL: Duration = Duration::from_secs(5);
/// The same where inotify cannot tell us; PyBal's interval.
const POLL_BLIND: Duration = Duration::from_secs(1);
/// A look at the file that takes longer is reported as a fault.
const HUNG: Duration = Duration::from_secs(10);
/// Looks at once. Each takes a thread of the runtime's 512 for blocking work, and on a hung disk keeps
/// it: beyond this number of hung files other lists wait too, but never the rest of the daemon.
const LOOKS: usize = 64;

/// What all file watchers share.
pub(super) struct Files {
    notices: Arc<Notices>,
    looks: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
}

impl Files {
    /// Also returns the inotify instance, or why there is none, for [`Files::listen`].
    pub(super) fn new(events: mpsc::Sender<Event>) -> (Files, io::Result<Inotify>) {
        let notices = Arc::new(Notices::default());
        let inotify = notices.open();
        (
            Files {
                notices,
                looks: Arc::new(Semaphore::new(LOOKS)),
                events,
            },
            inotify,
        )
    }

    /// Hands inotify's notices to the watchers, for ever.
    pub(super) async fn listen(&self, inotify: io::Result<Inotify>) -> Infallible {
        self.notices.listen(inotify).await
    }

    /// Watches `path` for this service until it is dropped.
    pub(super) fn watch(
        &self,
        service: ServiceName,
        path: &Path,
    ) -> impl Future<Output = ()> + Send + use<> {
        let watcher = Watcher {
            service,
            path: path.to_owned(),
            interest: Arc::new(Interest::new(self.notices.clone())),
            looks: self.looks.clone(),
            events: self.events.clone(),
            sent: None,
            doubt: None,
            stamp: None,
            settled: false,
            blind: None,
        };
        watcher.run()
    }
}

struct Watcher {
    service: ServiceName,
    path: PathBuf,
    interest: Arc<Interest>,
    looks: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
    /// What the core was told last.
    sent: Option<Result<Arc<ServerList>, String>>,
    /// Until when the fault that was seen last is kept to ourselves.
    doubt: Option<Instant>,
    /// The file as it was at the last look.
    stamp: Option<Stamp>,
    /// Whether a second look, a while later, found the same stamp. Before that an equal stamp proves
    /// nothing: a file's times may be as coarse as a second, and two weights have the same length.
    settled: bool,
    /// Why inotify does not tell us of every change.
    blind: Option<String>,
}

/// The core is gone, and so shall we.
struct Gone;

impl Watcher {
    async fn run(mut self) {
        while self.step().await.is_ok() {}
    }

    async fn step(&mut self) -> Result<(), Gone> {
        let poll = Instant::now()
            + if self.blind.is_some() {
                POLL_BLIND
            } else {
                POLL
            };
        let until = self.doubt.map_or(poll, |doubt| doubt.min(poll));
        let first = self.sent.is_none() && self.doubt.is_none();
        let mut polling = false;
        if !first {
            tokio::select! {
                () = self.interest.rung() => {}
                () = sleep_until(until) => polling = self.doubt.is_none(),
            }
        }
        let written = self.interest.take_written();
        let known = self.stamp.filter(|_| polling && self.settled);
        let Look {
            stamp,
            list,
            blind,
            again,
        } = self.look(known).await?;

        self.settled = polling && stamp.is_some() && stamp == self.stamp;
        self.stamp = stamp;
        self.tell_blind(blind);
        if again {
            self.interest.ring(false);
        }
        match list {
            None => Ok(()),
            Some(Ok(list)) => self.good(list).await,
            Some(Err(fault)) => self.bad(fault, written).await,
        }
    }

    /// One look, off the runtime's workers; says so if it does not come back.
    async fn look(&mut self, known: Option<Stamp>) -> Result<Look, Gone> {
        let (looks, interest, path) =
            (self.looks.clone(), self.interest.clone(), self.path.clone());
        let looking = async move {
            // The permit goes with the thread, so that a hung one still counts when we are dropped.
            // The semaphore is never closed, so this is never an error.
            let permit = looks.acquire_owned().await;
            let looking = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                look(&interest, &path, known)
            });
            looking
                .await
                .unwrap_or_else(|panic| Look::failed(panic.to_string()))
        };
        tokio::pin!(looking);
        if let Ok(look) = timeout(HUNG, &mut looking).await {
            return Ok(look);
        }
        let path = self.path.display();
        let fault = format!("{path}: reading takes longer than {} s", HUNG.as_secs());
        self.report(fault).await?;
        Ok(looking.await)
    }

    async fn good(&mut self, list: ServerList) -> Result<(), Gone> {
        self.doubt = None;
        if let Some(Ok(sent)) = &self.sent
            && **sent == list
        {
            return Ok(());
        }
        info!(service = %self.service, path = %self.path.display(), servers = list.len(), "new server list");
        let list = Arc::new(list);
        self.sent = Some(Ok(list.clone()));
        let (service, from) = (self.service.clone(), Servers::File(self.path.clone()));
        let list = Arc::new(Listing::from((*list).clone()));
        self.send(Event::List {
            service,
            from,
            list,
        })
        .await
    }

    async fn bad(&mut self, fault: String, written: bool) -> Result<(), Gone> {
        let now = Instant::now();
        if self
            .sent
            .as_ref()
            .is_some_and(|sent| sent.as_ref().err() == Some(&fault))
        {
            self.doubt = None;
            return Ok(());
        }
        if !written && self.doubt.is_none_or(|doubt| now < doubt) {
            self.doubt.get_or_insert(now + GRACE);
            return Ok(());
        }
        self.report(fault).await
    }

    async fn report(&mut self, fault: String) -> Result<(), Gone> {
        self.doubt = None;
        debug!(service = %self.service, %fault, "no usable server list");
        self.sent = Some(Err(fault.clone()));
        let (service, from) = (self.service.clone(), Servers::File(self.path.clone()));
        self.send(Event::SourceFailed {
            service,
            from,
            fault,
        })
        .await
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }

    fn tell_blind(&mut self, blind: Option<String>) {
        let (service, path) = (&self.service, self.path.display());
        match (&self.blind, &blind) {
            (None, Some(why)) => {
                warn!(%service, %path, %why, "inotify cannot watch the server list; looking at it each second");
            }
            (Some(_), None) => info!(%service, %path, "inotify watches the server list again"),
            (Some(was), Some(why)) if was != why => {
                debug!(%service, %path, %why, "inotify still cannot watch the server list");
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.blind = blind;
    }
}
