//! One connection to one endpoint by etcd's v3 API (gRPC): a read of the wanted pools at one revision, then a
//! watch from the next. It ends at the first thing that is not as it should be; whoever called begins anew,
//! and a fresh read is right whatever has happened meanwhile: a compaction, an older backup, another cluster.

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
use crate::etcd::{ConnectError, connect};
use read::Wanted;

/// How often the server is asked how far the watch is.
const BEAT: Duration = Duration::from_secs(1);
/// How much longer than that an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many responses that are ready together are taken together.
const TOGETHER: usize = 256;
/// A message may be so long. etcd takes requests of up to 1.5 MiB, and a transaction comes in one message.
const LONGEST: usize = 16 * 1024 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot read {what}: {}", say(cause))]
    Read {
        what: String,
        cause: etcd_client::Error,
    },
    #[error("reading {what} took longer than {within:?}")]
    ReadHangs { what: String, within: Duration },
    #[error("{0} was compacted again and again while it was read")]
    Restless(String),
    #[error("cannot watch: {}", say(.0))]
    Watch(etcd_client::Error),
    #[error("the watch ended")]
    Closed,
    #[error("the watch was cancelled: {0}")]
    Cancelled(String),
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
        let (revision, all) = self.wanted.read(&client, self.config.timeout).await?;
        self.tell(all).await?;
        let watch = self.watch(client, revision.saturating_add(1));
        let within = self.config.timeout;
        let stream = timeout(within, watch).await;
        let stream = stream.map_err(|_| Ended::Silent(within))??;
        self.listen(stream).await
    }

    /// One stream, one watch for each tree: their changes come in the order of their revisions.
    async fn watch(&self, client: Client, from: i64) -> Result<WatchStream, Ended> {
        let watch = |tree, id| {
            let (start, end) = self.wanted.range(tree);
            let options = WatchOptions::new()
                .with_range(end)
                .with_start_revision(from)
                .with_watch_id(id);
            (start, Some(options))
        };
        let mut client = client.watch_client().max_decoding_message_size(LONGEST);
        let (pools, options) = watch(Tree::Pools, POOLS);
        let stream = client.watch(pools, options).await;
        let mut stream = stream.map_err(Ended::Watch)?;
        let (leases, options) = watch(Tree::Leases, LEASES);
        let leases = stream.watch(leases, options).await;
        leases.map_err(Ended::Watch)?;
        Ok(stream)
    }

    async fn listen(&self, stream: WatchStream) -> Result<Infallible, Ended> {
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
            let mut next = Some(response);
            while let Some(response) = next {
                let response = response.map_err(Ended::Watch)?.ok_or(Ended::Closed)?;
                batch.add(&response, &self.wanted)?;
                next = (batch.responses < TOGETHER)
                    .then(|| responses.message().now_or_never())
                    .flatten();
            }
            self.tell(batch.news()).await?;
            // What we were kept waiting by others is not the server's silence.
            deadline = Instant::now() + silence;
        }
    }

    async fn tell(&self, news: News) -> Result<(), Ended> {
        self.news.send(news).await.map_err(|_| Ended::Unheard)
    }
}

/// The watches' ids.
const POOLS: i64 = 1;
const LEASES: i64 = 2;

/// Responses that were ready together. Each has whole revisions.
#[derive(Default)]
struct Batch {
    responses: usize,
    revision: u64,
    changes: Vec<Change>,
}

impl Batch {
    fn add(&mut self, response: &WatchResponse, wanted: &Wanted) -> Result<(), Ended> {
        self.responses += 1;
        if response.compact_revision() != 0 {
            return Err(Ended::Compacted);
        }
        if response.canceled() {
            return Err(Ended::Cancelled(response.cancel_reason().to_owned()));
        }
        let tree = match response.watch_id() {
            LEASES => Tree::Leases,
            _ => Tree::Pools,
        };
        for event in response.events() {
            let kv = event.kv().ok_or(Ended::Senseless("key"))?;
            let modified = u64::try_from(kv.mod_revision()).unwrap_or_default();
            // Not the header's: that may be of a revision whose events come with the next response.
            self.revision = self.revision.max(modified);
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

/// The library's own words carry a whole response's metadata with them.
fn say(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return error.to_string();
    };
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
