//! One connection to one endpoint by etcd's v3 API (gRPC): watches are opened, the wanted pools are read at one
//! revision, and what the watches bring of later ones follows. It ends at the first thing that is not as it
//! should be; whoever called begins anew, and a fresh read is right whatever has happened meanwhile: a
//! compaction, an older backup, another cluster.

mod read;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use url::Url;

use super::news::{Change, Entry, News, Tree};
use crate::config::Etcd;
use crate::conftool::PoolPath;
use crate::etcd::{ConnectError, LONGEST, RequestError, connect, words};
use read::Wanted;

/// How often the server is asked how far the watch is.
const BEAT: Duration = Duration::from_secs(1);
/// How much longer than that an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many responses that are ready together are taken together.
const TOGETHER: usize = 256;
/// How long a lease's change is kept for the change of the same revision to its node, which etcd sends straight
/// before it or after it, as a response of its own.
const OTHER_HALF: Duration = Duration::from_millis(100);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot read {what}: {cause}")]
    Read { what: String, cause: RequestError },
    #[error("{0} was compacted again and again while it was read")]
    Restless(String),
    #[error("cannot watch: {}", words(.0))]
    Watch(etcd_client::Error),
    #[error("the watch ended")]
    Closed,
    #[error("the watch of {what} was cancelled: {reason}")]
    Cancelled { what: String, reason: String },
    #[error("what was to be watched next has been compacted")]
    Compacted,
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    #[error("a response has no {0}")]
    Senseless(&'static str),
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
    let connection = Connection {
        config,
        wanted: Wanted::new(&config.prefix, wanted),
        news,
    };
    match connection.run(endpoint).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

struct Connection<'a> {
    config: &'a Etcd,
    wanted: Wanted,
    news: &'a mpsc::Sender<News>,
}

impl Connection<'_> {
    async fn run(&self, endpoint: &Url) -> Result<Infallible, Ended> {
        let client = connect(self.config, endpoint).await?;
        let within = self.config.timeout;
        let stream = timeout(within, self.watch(&client)).await;
        let stream = stream.map_err(|_| Ended::Silent(within))??;
        let (revision, all) = self.wanted.read(&client, within).await?;
        self.tell(all).await?;
        let read = u64::try_from(revision).unwrap_or_default();
        self.listen(stream, read).await
    }

    /// One stream, one watch for each tree, both of what happens from now on: their changes come in the order
    /// of their revisions. Watches of the past would not: etcd brings each of them up to date by itself, and a
    /// pool would be shown with what one tree has long had and the other has not yet. So the read comes after
    /// them, by the same member; its revision is not before theirs.
    async fn watch(&self, client: &Client) -> Result<WatchStream, Ended> {
        let watch = |tree, id| {
            let (start, end) = self.wanted.range(tree);
            let options = WatchOptions::new().with_range(end).with_watch_id(id);
            (start, Some(options))
        };
        let mut client = client.watch_client().max_decoding_message_size(LONGEST);
        let (pools, options) = watch(Tree::Pools, POOLS);
        let stream = client.watch(pools, options).await;
        let mut stream = stream.map_err(Ended::Watch)?;
        let (leases, options) = watch(Tree::Leases, LEASES);
        let leases = stream.watch(leases, options).await;
        leases.map_err(Ended::Watch)?;
        // Answers come in the order of the requests; one that refuses has no watch's id.
        for tree in [Tree::Pools, Tree::Leases] {
            let mut created = false;
            // Changes that one has before the other is there will be in what is read.
            while !created {
                let response = stream.message().await.map_err(Ended::Watch)?;
                let response = response.ok_or(Ended::Closed)?;
                self.check(&response, tree)?;
                created = response.created();
            }
        }
        Ok(stream)
    }

    /// Tells what comes after the revision that was read.
    async fn listen(&self, stream: WatchStream, read: u64) -> Result<Infallible, Ended> {
        let (mut requests, mut responses) = stream.split();
        let beat = BEAT.min(self.config.timeout / 3);
        let silence = (beat + PATIENCE).min(self.config.timeout);
        let mut beats = interval(beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = Instant::now() + silence;
        loop {
            let response = tokio::select! {
                response = timeout_at(deadline, responses.message()) => response,
                _ = beats.tick() => {
                    // There is room for a hundred, and the deadline comes before that.
                    requests.request_progress().await.map_err(Ended::Watch)?;
                    continue;
                }
            };
            let mut batch = Batch::default();
            let response = response.map_err(|_| Ended::Silent(silence))?;
            if Instant::now() > deadline {
                // We slept ourselves, and what has come meanwhile is better read anew, as one change.
                return Err(Ended::Silent(silence));
            }
            let half_until = Instant::now() + OTHER_HALF;
            let mut next = Some(response);
            while let Some(response) = next {
                let response = response.map_err(Ended::Watch)?.ok_or(Ended::Closed)?;
                self.check(&response, tree(&response))?;
                batch.add(&response, &self.wanted, read)?;
                next = if batch.may_be_half() {
                    timeout_at(half_until, responses.message()).await.ok()
                } else if batch.responses < TOGETHER {
                    responses.message().now_or_never()
                } else {
                    None
                };
            }
            self.tell(batch.news()).await?;
            // What we were kept waiting by others is not the server's silence.
            deadline = Instant::now() + silence;
        }
    }

    /// The watch goes on.
    fn check(&self, response: &WatchResponse, tree: Tree) -> Result<(), Ended> {
        if response.compact_revision() != 0 {
            return Err(Ended::Compacted);
        }
        if response.canceled() {
            let (start, _) = self.wanted.range(tree);
            return Err(Ended::Cancelled {
                what: String::from_utf8_lossy(&start).into_owned(),
                reason: response.cancel_reason().to_owned(),
            });
        }
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Ended> {
        self.news.send(news).await.map_err(|_| Ended::Unheard)
    }
}

fn tree(response: &WatchResponse) -> Tree {
    match response.watch_id() {
        LEASES => Tree::Leases,
        _ => Tree::Pools,
    }
}

/// The watches' ids.
const POOLS: i64 = 1;
const LEASES: i64 = 2;

/// Responses that were ready together. Each has whole revisions of its tree.
#[derive(Default)]
struct Batch {
    responses: usize,
    revision: u64,
    /// The last one of either tree that was heard of here.
    nodes: u64,
    leases: u64,
    changes: Vec<Change>,
}

impl Batch {
    /// Takes what is later than the read.
    fn add(&mut self, response: &WatchResponse, wanted: &Wanted, read: u64) -> Result<(), Ended> {
        self.responses += 1;
        let tree = tree(response);
        for event in response.events() {
            let kv = event.kv().ok_or(Ended::Senseless("key"))?;
            let modified = u64::try_from(kv.mod_revision()).unwrap_or_default();
            if modified <= read {
                continue;
            }
            // Not the header's: that may be of a revision whose events come with the next response.
            self.revision = self.revision.max(modified);
            let last = match tree {
                Tree::Pools => &mut self.nodes,
                Tree::Leases => &mut self.leases,
            };
            *last = modified.max(*last);
            let Some(key) = wanted.key(tree, kv.key()) else {
                continue;
            };
            let entry = match event.event_type() {
                EventType::Put => Some(Entry::new(kv.value(), modified)),
                EventType::Delete => None,
            };
            self.changes.push(Change { tree, key, entry });
        }
        Ok(())
    }

    /// Whether a lease may be gone here for a write of its node that is still to come: without it the server
    /// would for a moment be what it was before the lease. The other way round no harm is done, since the write
    /// voids the lease.
    fn may_be_half(&self) -> bool {
        self.leases > self.nodes && self.responses < 2 * TOGETHER
    }

    fn news(self) -> News {
        if self.changes.is_empty() {
            News::Alive
        } else {
            News::Changed {
                revision: self.revision,
                changes: self.changes,
            }
        }
    }
}
