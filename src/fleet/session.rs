//! One connection to one endpoint, with one lease: grants it, keeps it alive, writes the records under it and
//! looks now and then whether they are still there. Ends at the first fault; nothing is retried here, except
//! what etcd refuses while all else is well: then the lease stays alive, and with it what was said before.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, DeleteOptions, GetOptions, KvClient, LeaseClient, PutOptions, Txn, TxnOp,
};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, info};
use url::Url;

use super::statement::{Batch, Statement};
use super::{Me, differs, record, wanted};
use crate::backoff::Backoff;
use crate::chain::chain;
use crate::config::Etcd;
use crate::etcd::{self, ConnectError, words};
use crate::routing::session::SessionState;
use crate::snapshot::Snapshot;

/// After so long without a sign of us our records go: seconds, as etcd counts them.
const TTL: i64 = 10;

/// Between two signs of life, and how long one may take: a member that hangs is left while the lease lives.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);

/// Between two looks whether our records are there.
const LOOK: Duration = Duration::from_secs(3);

/// Between two tries of what etcd refuses: the first wait and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    /// etcd takes what is to be told.
    Good,
    /// Connection and lease are well, but etcd does not take the records.
    Refused(String),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}", chain(.0))]
    Connect(ConnectError),
    #[error("{endpoint}: cannot {operation}: {}", words(.cause))]
    Request {
        endpoint: Url,
        operation: &'static str,
        cause: etcd_client::Error,
    },
    #[error("{endpoint}: {operation}: no answer within {within:?}")]
    Silent {
        endpoint: Url,
        operation: &'static str,
        within: Duration,
    },
    #[error("{endpoint}: our lease is gone")]
    LeaseLost { endpoint: Url },
    #[error("another process, started {started}, writes {key} too: two hosts of one name?")]
    Rival { key: String, started: String },
    /// Of the session's task: a panic.
    #[error("a session with etcd ended by itself: {0}")]
    Ended(String),
}

impl Fault {
    pub(super) fn is_rival(&self) -> bool {
        matches!(self, Fault::Rival { .. })
    }

    /// Whether etcd said no to this request alone: the client may not (gRPC status 7, PERMISSION_DENIED), or
    /// the database is full (8, RESOURCE_EXHAUSTED).
    fn is_refusal(&self) -> bool {
        let Fault::Request {
            cause: etcd_client::Error::GRpcStatus(status),
            ..
        } = self
        else {
            return false;
        };
        matches!(i32::from(status.code()), 7 | 8)
    }
}

/// What a session is made of.
pub(super) struct Session {
    pub(super) me: Arc<Me>,
    pub(super) etcd: Arc<Etcd>,
    pub(super) endpoint: Url,
}

impl Session {
    /// Runs until a fault; without one, until another cluster is to be told, we stop, or nobody publishes
    /// snapshots any more.
    pub(super) async fn run(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        state: watch::Sender<State>,
    ) -> Result<(), Fault> {
        let mut client = etcd::connect(&self.etcd, &self.endpoint)
            .await
            .map_err(Fault::Connect)?;
        let granted = self
            .ask("get a lease", client.lease_client().grant(TTL, None))
            .await?;
        let lease = granted.id();
        debug!(endpoint = %self.endpoint, lease = format_args!("{lease:x}"), "lease granted");
        let writer = Writer {
            kv: client.kv_client(),
            statement: Statement::new(self.me.clone()),
            lease,
            session: &self,
            state,
        };
        let ended = tokio::select! {
            fault = self.keep_alive(client.lease_client(), lease) => fault,
            ended = writer.run(snapshots) => ended,
        };
        if ended.is_ok() {
            self.revoke(&mut client, lease).await;
        }
        ended
    }

    /// Keeps the lease until it cannot.
    async fn keep_alive(&self, mut client: LeaseClient, lease: i64) -> Result<(), Fault> {
        const OPERATION: &str = "keep the lease alive";
        let (mut keeper, mut answers) = self.ask(OPERATION, client.keep_alive(lease)).await?;
        let mut ticks = interval(KEEP_ALIVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let within = KEEP_ALIVE_ANSWER.min(self.etcd.timeout);
        loop {
            ticks.tick().await;
            let asked = async {
                keeper.keep_alive().await?;
                answers.message().await
            };
            let answer = self.ask_within(within, OPERATION, asked).await?;
            // etcd answers for a lease that it does not have, too: it has no time to live.
            if answer.is_none_or(|answer| answer.ttl() <= 0) {
                let endpoint = self.endpoint.clone();
                return Err(Fault::LeaseLost { endpoint });
            }
        }
    }

    /// Our records go at once, not only when the lease ends.
    async fn revoke(&self, client: &mut Client, lease: i64) {
        let mut leases = client.lease_client();
        match self.ask("revoke our lease", leases.revoke(lease)).await {
            Ok(_) => debug!(endpoint = %self.endpoint, "lease revoked"),
            Err(fault) => debug!(%fault, "the lease will end by itself"),
        }
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Fault> {
        self.ask_within(self.etcd.timeout, operation, request).await
    }

    async fn ask_within<T>(
        &self,
        within: Duration,
        operation: &'static str,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Fault> {
        let endpoint = || self.endpoint.clone();
        match timeout(within, request).await {
            Ok(answer) => answer.map_err(|cause| Fault::Request {
                endpoint: endpoint(),
                operation,
                cause,
            }),
            Err(_) => Err(Fault::Silent {
                endpoint: endpoint(),
                operation,
                within,
            }),
        }
    }
}

/// Keeps the records as the newest snapshot has them.
struct Writer<'a> {
    kv: KvClient,
    statement: Statement,
    lease: i64,
    session: &'a Session,
    state: watch::Sender<State>,
}

impl Writer<'_> {
    async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<(), Fault> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let over = self.over(&snapshot);
            self.statement.follow(snapshot);
            if let Over::AtOnce = over {
                return Ok(());
            }
            match self.write().await {
                // What changed meanwhile becomes one write.
                Ok(true) => {
                    self.good();
                    continue;
                }
                Ok(false) => self.good(),
                Err(fault) if fault.is_refusal() => {
                    self.state.send_replace(State::Refused(fault.to_string()));
                    tokio::select! {
                        () = sleep(backoff.next()) => continue,
                        () = differs(&mut snapshots, &self.session.etcd) => return Ok(()),
                    }
                }
                Err(fault) => return Err(fault),
            }
            backoff.reset();
            if let Over::OnceSaid = over {
                return Ok(());
            }
            let due = self.statement.balancer_due(Instant::now());
            let later = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = later => {}
                _ = looks.tick() => self.look().await?,
            }
        }
    }

    fn over(&self, snapshot: &Snapshot) -> Over {
        let (etcd, stopping) = wanted(snapshot);
        let mut peers = snapshot.peers.values();
        if etcd.as_ref() != Some(&self.session.etcd) {
            Over::AtOnce
        } else if stopping && peers.all(|peer| peer.state == SessionState::Idle) {
            Over::OnceSaid
        } else {
            Over::NotYet
        }
    }

    /// One transaction, if there is anything to write: whether there was.
    async fn write(&mut self) -> Result<bool, Fault> {
        let batch = self.statement.batch(Instant::now());
        if batch.is_empty() {
            return Ok(false);
        }
        let transaction = Txn::new().and_then(self.operations(&batch));
        let written = self.kv.txn(transaction);
        self.session.ask("write our records", written).await?;
        self.statement.said(batch, Instant::now());
        Ok(true)
    }

    fn operations(&self, batch: &Batch) -> Vec<TxnOp> {
        let operation = |(key, value): &(String, Option<String>)| match value {
            Some(value) => {
                let under = PutOptions::new().with_lease(self.lease);
                TxnOp::put(key.as_str(), value.as_str(), Some(under))
            }
            None => TxnOp::delete(key.as_str(), None::<DeleteOptions>),
        };
        batch.writes.iter().map(operation).collect()
    }

    /// Whether our records are there and ours. If they were deleted they are written anew; if another process
    /// has our name, that is the session's end.
    async fn look(&mut self) -> Result<(), Fault> {
        match self.found().await {
            Ok(true) => {}
            Ok(false) => {
                info!(hostname = %self.session.me.hostname, "our records in etcd are not ours; writing them anew");
                self.statement.forget();
            }
            // May write, but not read: so be it.
            Err(fault) if fault.is_refusal() => debug!(%fault, "cannot look after our records"),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    async fn found(&mut self) -> Result<bool, Fault> {
        const OPERATION: &str = "look after our records";
        let me = &self.session.me;
        let key = record::balancer_key(&me.hostname);
        let answer = self.kv.get(key.as_str(), None);
        let answer = self.session.ask(OPERATION, answer).await?;
        let Some(ours) = answer.kvs().first() else {
            return Ok(false);
        };
        if ours.lease() != self.lease {
            let read = serde_json::from_slice::<record::Balancer>(ours.value());
            return match read {
                // Written by a session of ours that is over, and late.
                Ok(read) if read.started == me.started => Ok(false),
                Ok(record::Balancer { started, .. }) => Err(Fault::Rival { key, started }),
                Err(_) => Err(Fault::Rival {
                    key,
                    started: "nobody knows when".to_owned(),
                }),
            };
        }
        let pools = format!("{}{}/", record::APPLIED, me.hostname);
        let count = GetOptions::new().with_prefix().with_count_only();
        let count = self.kv.get(pools, Some(count));
        let count = self.session.ask(OPERATION, count).await?.count();
        // More of them: those of a process before us, whose lease is about to end.
        Ok(usize::try_from(count).is_ok_and(|count| count >= self.statement.pools_said()))
    }

    fn good(&self) {
        self.state.send_if_modified(|state| {
            let news = *state != State::Good;
            *state = State::Good;
            news
        });
    }
}

/// Whether this is the session's end.
enum Over {
    NotYet,
    /// We stop, and our peers know.
    OnceSaid,
    AtOnce,
}
