//! etcd's v2 API, which conftool speaks: HTTP and JSON under `/v2/keys`. One connection's life; whoever calls
//! goes on to the next endpoint.
//!
//! ```text
//!          ┌─► GET all, quorum ──► News::All ──► long-poll from the index after it ──► News::Changed ─┐
//!  watch ──┤                                        ▲                                                 │
//!          │                                        └─────────────── the index after the event ◄──────┘
//!          └── again: index cleared, index went back, poll cut, poll quiet for long
//!  beat  ───── every 1.5 s, on a connection of its own: a quorum GET in time? ──► News::Alive
//! ```
//!
//! An event that comes between two polls is not lost: a poll names the index it wants to go on from, and etcd
//! keeps the last 1,000 events of all keys. What is older is answered with `EcodeEventIndexCleared`.

mod answer;
mod http;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;
use url::Url;

use super::news::News;
use crate::config::Etcd;
use crate::conftool::PoolPath;

use answer::{BadAnswer, EVENT_INDEX_CLEARED, Heard, KEY_NOT_FOUND, Pools, error_code};
use http::{Client, Head, HttpError, Question, Wire};

/// How often the endpoint is asked for a sign of life. Each answer is an entry in the cluster's log.
const BEAT: Duration = Duration::from_millis(1500);
/// How long that answer may take, if `[etcd] timeout` is not less. Together they are well below the 5 s in
/// which a change must be followed whatever a member does; an election of 2 s costs us a new connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// A poll that is quiet for so long is given up and all is read again: whatever ate the event, here it shows.
const QUIET: Duration = Duration::from_secs(60);
/// An answer to a poll that broke off after less than this is a fault; after more, a proxy's habit.
const CUT_EARLY: Duration = Duration::from_secs(1);
/// The least time between two readings of all.
const PACE: Duration = Duration::from_millis(250);
/// What we ask for, in the words of an error.
const READ: &str = "the reading of all pools";
const POLL: &str = "the wait for an event";
const BEATS: &str = "the question for a sign of life";
/// The most that is shown of an answer that refuses.
const SHOWN: usize = 200;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Http(HttpError),
    #[error("{status} to {what}: {text:?}")]
    Refused {
        what: &'static str,
        status: StatusCode,
        text: String,
    },
    #[error("cannot use the answer to {what}")]
    Answer {
        what: &'static str,
        #[source]
        cause: BadAnswer,
    },
    #[error("the index went back from {from} to {to}: another cluster, or an older copy of it")]
    WentBack { from: u64, to: u64 },
    #[error("this is another cluster than before")]
    OtherCluster,
    #[error("nobody listens")]
    Unheard,
}

/// Follows the wanted pools until something is wrong. Never with good news.
pub(super) async fn follow(
    config: &Etcd,
    endpoint: &Url,
    wanted: &BTreeSet<PoolPath>,
    news: &mpsc::Sender<News>,
) -> Ended {
    let client = match Client::new(config, endpoint).await {
        Ok(client) => client,
        Err(error) => return Ended::Http(error),
    };
    let pools = Pools::new(&config.prefix, wanted);
    let connection = Connection {
        endpoint,
        client,
        directory: pools.directory(),
        news,
        beat: BEAT.min(config.timeout / 2),
        patience: PATIENCE.min(config.timeout),
        seen: AtomicU64::default(),
        cluster: OnceLock::default(),
    };
    tokio::select! {
        ended = connection.watch(pools) => ended,
        ended = connection.beat() => ended,
    }
}

struct Connection<'a> {
    endpoint: &'a Url,
    client: Client,
    directory: String,
    news: &'a mpsc::Sender<News>,
    beat: Duration,
    patience: Duration,
    /// The highest index that an answer told, or an event had.
    seen: AtomicU64,
    /// `None`: a proxy keeps it from us.
    cluster: OnceLock<Option<HeaderValue>>,
}

/// What a long-poll brought.
enum Polled {
    Event(Vec<u8>),
    /// All is to be read again, and why.
    StartOver(&'static str),
}

impl Connection<'_> {
    /// Reads all, then polls; again and again.
    async fn watch(&self, mut pools: Pools) -> Ended {
        loop {
            let due = Instant::now() + PACE;
            match self.read_and_poll(&mut pools).await {
                Err(ended) => return ended,
                Ok(why) => debug!(endpoint = %self.endpoint, why, "reads all again"),
            }
            sleep_until(due).await;
        }
    }

    /// `Ok`: why all is to be read again.
    async fn read_and_poll(&self, pools: &mut Pools) -> Result<&'static str, Ended> {
        let mut wire = self.client.connect().await.map_err(Ended::Http)?;
        let mut next = self.read(&mut wire, pools).await? + 1;
        loop {
            if !wire.is_open().await {
                // Closed in good order after an answer, so that no event was in it.
                wire = self.client.connect().await.map_err(Ended::Http)?;
            }
            let began = Instant::now();
            let body = match timeout(QUIET, self.poll(&mut wire, next)).await {
                Err(_) => return Ok("no event for long"),
                Ok(Ok(Polled::Event(body))) => body,
                Ok(Ok(Polled::StartOver(why))) => return Ok(why),
                Ok(Err(ended)) if began.elapsed() < CUT_EARLY => return Err(ended),
                Ok(Err(ended)) => {
                    debug!(endpoint = %self.endpoint, %ended, "a poll was cut");
                    return Ok("poll cut");
                }
            };
            let heard = pools
                .event(&body)
                .map_err(|cause| self.useless(POLL, cause))?;
            let (revision, changes) = match heard {
                Heard::Changes { index, .. } if index < next => return Ok("an old event"),
                Heard::Changes { index, changes } => (index, changes),
                Heard::Unknown(action) => {
                    debug!(endpoint = %self.endpoint, action, "an event of an unknown kind");
                    return Ok("an unknown event");
                }
            };
            self.seen.fetch_max(revision, Ordering::Relaxed);
            next = revision + 1;
            if !changes.is_empty() {
                self.send(News::Changed { revision, changes }).await?;
            }
        }
    }

    /// Reads all there is and sends it; gives the index of it.
    async fn read(&self, wire: &mut Wire<'_>, pools: &mut Pools) -> Result<u64, Ended> {
        let question = Question {
            what: READ,
            key: self.directory.clone(),
            query: "recursive=true&quorum=true".to_owned(),
        };
        let (head, body) = wire.get(&question).await.map_err(Ended::Http)?;
        let (revision, body) = self.found(&question, &head, body)?;
        let entries = match body {
            Some(body) => pools
                .all(&body)
                .map_err(|cause| self.useless(READ, cause))?,
            None => pools.none(),
        };
        self.seen.store(revision, Ordering::Relaxed);
        let all = News::All {
            revision,
            pools: entries,
            leases: BTreeMap::new(),
        };
        self.send(all).await?;
        Ok(revision)
    }

    async fn poll(&self, wire: &mut Wire<'_>, next: u64) -> Result<Polled, Ended> {
        let question = Question {
            what: POLL,
            key: self.directory.clone(),
            query: format!("recursive=true&wait=true&waitIndex={next}"),
        };
        let (head, mut body) = wire.ask(&question).await.map_err(Ended::Http)?;
        self.same_cluster(&head)?;
        // etcd sends the head at once, with its index as of then. What it asks us to wait for, in a cluster
        // that counts from an older copy, would come after changes that we never hear of.
        if head.index.is_some_and(|index| index + 1 < next) {
            return Ok(Polled::StartOver("index went back"));
        }
        let body = body.read(None).await.map_err(Ended::Http)?;
        if error_code(&body) == Some(EVENT_INDEX_CLEARED) {
            return Ok(Polled::StartOver("index cleared"));
        }
        if head.status != StatusCode::OK || body.is_empty() {
            return Err(self.refused(POLL, head.status, &body));
        }
        Ok(Polled::Event(body))
    }

    /// Asks for a sign of life until there is none. The answer goes through the cluster's leader, so that a
    /// member that is alone does not pass; and it is short, whatever the directory has in it.
    async fn beat(&self) -> Ended {
        let question = Question {
            what: BEATS,
            key: format!("{}/_plimsoll", self.directory),
            query: "quorum=true".to_owned(),
        };
        let mut wire = None;
        loop {
            sleep(self.beat).await;
            // Any answer that is asked for from now on has this index at least.
            let from = self.seen.load(Ordering::Relaxed);
            let asked = timeout(self.patience, self.ask(&mut wire, &question)).await;
            let answer = asked.unwrap_or_else(|_| {
                let (what, within) = (BEATS, self.patience);
                Err(Ended::Http(HttpError::Silent { what, within }))
            });
            let found = answer.and_then(|(head, body)| self.found(&question, &head, body));
            let to = match found {
                Ok((index, _)) => index,
                Err(ended) => return ended,
            };
            if to < from {
                return Ended::WentBack { from, to };
            }
            if let Err(ended) = self.send(News::Alive).await {
                return ended;
            }
        }
    }

    /// By the connection that is there, if it still serves.
    async fn ask<'a>(
        &'a self,
        kept: &mut Option<Wire<'a>>,
        question: &Question,
    ) -> Result<(Head, Vec<u8>), Ended> {
        if let Some(wire) = kept
            && wire.is_open().await
        {
            match wire.get(question).await {
                // Who was idle may have been closed just as we asked.
                Err(HttpError::Broken { .. }) => {}
                answer => return answer.map_err(Ended::Http),
            }
        }
        let wire = kept.insert(self.client.connect().await.map_err(Ended::Http)?);
        wire.get(question).await.map_err(Ended::Http)
    }

    /// The index of an answer, and the answer if there is such a key.
    fn found(
        &self,
        question: &Question,
        head: &Head,
        body: Vec<u8>,
    ) -> Result<(u64, Option<Vec<u8>>), Ended> {
        self.same_cluster(head)?;
        let missing = error_code(&body) == Some(KEY_NOT_FOUND);
        match head.index {
            Some(index) if head.status == StatusCode::OK => Ok((index, Some(body))),
            Some(index) if missing => Ok((index, None)),
            Some(_) | None => Err(self.refused(question.what, head.status, &body)),
        }
    }

    fn same_cluster(&self, head: &Head) -> Result<(), Ended> {
        // A refusal may come from a proxy, which is no member of any.
        if head.index.is_none()
            || self.cluster.get_or_init(|| head.cluster.clone()) == &head.cluster
        {
            return Ok(());
        }
        Err(Ended::OtherCluster)
    }

    async fn send(&self, news: News) -> Result<(), Ended> {
        self.news.send(news).await.map_err(|_| Ended::Unheard)
    }

    fn refused(&self, what: &'static str, status: StatusCode, body: &[u8]) -> Ended {
        let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
        Ended::Refused {
            what,
            status,
            text: text.trim_end().to_owned(),
        }
    }

    fn useless(&self, what: &'static str, cause: BadAnswer) -> Ended {
        Ended::Answer { what, cause }
    }
}
