//! One connection to one endpoint by etcd's v2 API: not written yet.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use url::Url;

use super::news::News;
use crate::config::Etcd;
use crate::conftool::PoolPath;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[error("api = \"v2\" is not written yet")]
pub(super) struct Ended;

/// Follows the wanted pools until something is wrong. Never with good news.
#[expect(clippy::unused_async, reason = "written next")]
pub(super) async fn follow(
    _config: &Etcd,
    _endpoint: &Url,
    _wanted: &BTreeSet<PoolPath>,
    _news: &mpsc::Sender<News>,
) -> Ended {
    Ended
}
