//! One name and family, followed for as long as a service lists it.

use std::future::pending;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info};

use super::dns::Dns;
use super::system::System;
use crate::backoff::Backoff;
use crate::event::Event;
use crate::service::{Family, Host};

/// Between tries of a name that does not resolve.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

pub(super) struct Following {
    pub(super) host: Host,
    pub(super) family: Family,
    pub(super) system: watch::Receiver<Arc<System>>,
    pub(super) queries: Arc<Semaphore>,
    /// A further service wants to hear what was said last.
    pub(super) say_again: Arc<Notify>,
    pub(super) events: mpsc::Sender<Event>,
    /// What was said last.
    pub(super) said: Option<Answer>,
}

/// Addresses, sorted, at least one; or the fault.
type Answer = Result<Vec<IpAddr>, String>;

/// What an answer rests on, and so what makes it old.
enum Basis {
    /// The hosts file: good until that changes.
    HostsFile,
    /// DNS: until then, or for a fault until DNS is set up otherwise.
    Dns { dns: Arc<Dns>, until: Instant },
}

impl Following {
    pub(super) async fn run(mut self) {
        loop {
            // A mistake of ours must not leave a name for ever as it was last seen.
            if AssertUnwindSafe(self.follow())
                .catch_unwind()
                .await
                .is_err()
            {
                error!(host = %self.host, "resolving a name panicked, starting it again");
                sleep(FIRST_RETRY).await;
            }
        }
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let system = self.system.borrow_and_update().clone();
            let (answer, basis) = match system.hosts.get(&self.host, self.family) {
                Some(addresses) => {
                    backoff.reset();
                    (Ok(addresses), Basis::HostsFile)
                }
                None => {
                    let dns = system.dns.clone();
                    let Some(asked) = self.ask(&dns).await else {
                        continue;
                    };
                    let (answer, wait) = match asked {
                        Ok(answer) => {
                            backoff.reset();
                            // Names that appeared together need not be asked for together for ever.
                            (
                                Ok(answer.addresses),
                                answer.ttl.mul_f64(1.0 + fastrand::f64() / 20.0),
                            )
                        }
                        Err(fault) => (Err(fault), backoff.next()),
                    };
                    (
                        answer,
                        Basis::Dns {
                            dns,
                            until: Instant::now() + wait,
                        },
                    )
                }
            };
            self.say(answer).await;
            self.until_old(&basis).await;
        }
    }

    /// `None`: the files changed meanwhile, look at them first.
    async fn ask(&mut self, dns: &Dns) -> Option<Result<super::dns::Answer, String>> {
        let ask = async {
            // It is closed by nobody.
            let _permit = self.queries.acquire().await;
            dns.ask(&self.host, self.family).await
        };
        tokio::select! {
            answer = ask => Some(answer),
            () = changed(&mut self.system) => None,
        }
    }

    /// Waits until the answer that was said last is to be looked for again.
    async fn until_old(&mut self, basis: &Basis) {
        let over = async {
            match basis {
                Basis::HostsFile => pending().await,
                Basis::Dns { until, .. } => sleep_until(*until).await,
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                () = changed(&mut self.system) => if self.is_old(basis) { return },
                () = self.say_again.notified() => self.send().await,
            }
        }
    }

    fn is_old(&mut self, basis: &Basis) -> bool {
        let system = self.system.borrow_and_update();
        let listed = system.hosts.get(&self.host, self.family);
        match (basis, &self.said) {
            (Basis::HostsFile, Some(Ok(said))) => listed.as_ref() != Some(said),
            (Basis::Dns { dns, .. }, Some(Err(_))) => {
                listed.is_some() || !Arc::ptr_eq(dns, &system.dns)
            }
            (Basis::Dns { .. }, Some(Ok(_))) => listed.is_some(),
            (Basis::HostsFile, Some(Err(_))) | (_, None) => true,
        }
    }

    async fn say(&mut self, answer: Answer) {
        if self.said.as_ref() == Some(&answer) {
            return;
        }
        match &answer {
            Ok(addresses) => debug!(host = %self.host, ?addresses, "resolved"),
            Err(fault) => {
                info!(host = %self.host, family = %self.family, fault, "does not resolve")
            }
        }
        self.said = Some(answer);
        self.send().await;
    }

    async fn send(&self) {
        let (host, family) = (self.host.clone(), self.family);
        let event = match &self.said {
            None => return,
            Some(Ok(addresses)) => Event::Resolved {
                host,
                family,
                addresses: addresses.clone(),
            },
            Some(Err(fault)) => Event::Unresolved {
                host,
                family,
                fault: fault.clone(),
            },
        };
        // If nobody listens any more, the daemon is stopping and so are we.
        let _ = self.events.send(event).await;
    }
}

/// The files changed; never, if nobody reads them any more.
async fn changed(system: &mut watch::Receiver<Arc<System>>) {
    if system.changed().await.is_err() {
        pending().await
    }
}
