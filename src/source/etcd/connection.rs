//! One connection to one endpoint, by either API, in a task of its own. What it brings is for others to judge.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use super::news::News;
use super::{v2, v3};
use crate::chain::chain;
use crate::config::{Etcd, EtcdApi};
use crate::conftool::PoolPath;

/// News that may wait for us; beyond that the connection waits.
const NEWS: usize = 16;

/// One connection, and the task that keeps it. Dropped with it.
pub(super) struct Connection {
    task: JoinSet<String>,
    news: mpsc::Receiver<News>,
    /// The pools that it has brought news of ever since it began.
    pub(super) serves: BTreeSet<PoolPath>,
    /// When its first read was there.
    pub(super) read: Option<Instant>,
    /// It has lived for a while after that.
    pub(super) proven: bool,
}

pub(super) enum Heard {
    News(News),
    Ended(String),
}

impl Connection {
    pub(super) fn open(
        config: &Arc<Etcd>,
        endpoint: &Url,
        wanted: BTreeSet<PoolPath>,
    ) -> Connection {
        let (sender, news) = mpsc::channel(NEWS);
        let (config, endpoint, pools) = (config.clone(), endpoint.clone(), wanted.clone());
        // In a task of its own, so that a panic in the library ends the connection and no more.
        let mut task = JoinSet::new();
        task.spawn(async move {
            match config.api {
                EtcdApi::V3 => chain(&v3::follow(&config, &endpoint, &pools, &sender).await),
                EtcdApi::V2 => chain(&v2::follow(&config, &endpoint, &pools, &sender).await),
            }
        });
        Connection {
            task,
            news,
            serves: wanted,
            read: None,
            proven: false,
        }
    }

    /// What comes next of it; never, if there is none.
    pub(super) async fn next(connection: &mut Option<Connection>) -> Heard {
        let Some(connection) = connection else {
            return std::future::pending().await;
        };
        if let Some(news) = connection.news.recv().await {
            return Heard::News(news);
        }
        match connection.task.join_next().await {
            Some(Ok(cause)) => Heard::Ended(cause),
            Some(Err(panic)) => Heard::Ended(panic.to_string()),
            None => Heard::Ended("the connection is gone".to_owned()),
        }
    }
}
