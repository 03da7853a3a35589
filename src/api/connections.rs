//! The open connections: each a task, bounded in number, the oldest idle one closed for a newcomer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::snapshot::Snapshot;

use super::Limits;
use super::answer::answer;
use super::patience::Patient;

pub(super) struct Connections {
    limits: Limits,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Each gives back its number.
    tasks: JoinSet<u64>,
    /// By number, so the oldest first.
    open: BTreeMap<u64, Open>,
    next: u64,
}

struct Open {
    task: AbortHandle,
    busy: Arc<AtomicBool>,
}

impl Connections {
    pub(super) fn new(limits: Limits, snapshots: watch::Receiver<Arc<Snapshot>>) -> Connections {
        let (tasks, open) = (JoinSet::new(), BTreeMap::new());
        Connections {
            limits,
            snapshots,
            tasks,
            open,
            next: 0,
        }
    }

    pub(super) fn admit(&mut self, stream: TcpStream) {
        if self.open.len() >= self.limits.connections {
            self.close_one();
        }
        let number = self.next;
        self.next += 1;
        let busy = Arc::new(AtomicBool::new(false));
        let serving = serve(stream, self.limits, self.snapshots.clone(), busy.clone());
        let task = self.tasks.spawn(async move {
            serving.await;
            number
        });
        self.open.insert(number, Open { task, busy });
    }

    fn close_one(&mut self) {
        let idle = self
            .open
            .iter()
            .find(|(_, open)| !open.busy.load(Ordering::Relaxed));
        let oldest = idle
            .or_else(|| self.open.iter().next())
            .map(|(&number, _)| number);
        if let Some(open) = oldest.and_then(|number| self.open.remove(&number)) {
            open.task.abort();
        }
    }

    /// Waits for a connection to end and takes note of it.
    pub(super) async fn reap(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(number)) => drop(self.open.remove(&number)),
            Some(Err(end)) if end.is_cancelled() => {}
            Some(Err(panic)) => {
                error!(%panic, "a connection of the API panicked");
                self.open.retain(|_, open| !open.task.is_finished());
            }
            None => pending().await,
        }
    }
}

async fn serve(
    stream: TcpStream,
    limits: Limits,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    busy: Arc<AtomicBool>,
) {
    // Small answers shall not wait for an acknowledgement; without it they do, no more.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let snapshot = snapshots.borrow().clone();
        let answer = answer(&request, snapshot, Instant::now().into_std(), busy.clone());
        async { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(Patient::new(stream, limits.stalled));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.buffer)
        .serve_connection(io, service)
        .await;
    if let Err(error) = served {
        // A client's own doing; it is no news.
        debug!(%error, "a connection of the API ended early");
    }
}
