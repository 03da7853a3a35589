//! The open connections: each a task, bounded in number, the oldest idle one closed for a newcomer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, error};

use crate::event::Event;
use crate::history::History;
use crate::snapshot::Snapshot;

use super::answer::answer;
use super::body::Answer;
use super::events::Asked;
use super::order::Order;
use super::patience::Patient;
use super::v1::Desk;
use super::{Limits, Now};

pub(super) struct Connections {
    limits: Limits,
    door: Door,
    /// Each gives back its number.
    tasks: JoinSet<u64>,
    /// By number, so the oldest first.
    open: BTreeMap<u64, Open>,
    next: u64,
}

/// What those who come in get: what the newest snapshot says, and at one door also a hearing for orders.
#[derive(Clone)]
pub(super) struct Door {
    /// What happened before it.
    pub(super) history: History,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Where `/api/v1` is answered.
    pub(super) desk: Desk,
    /// `None`: it takes none.
    pub(super) orders: Option<mpsc::Sender<Event>>,
}

struct Open {
    task: AbortHandle,
    busy: Arc<AtomicBool>,
}

impl Connections {
    pub(super) fn new(limits: Limits, door: Door) -> Connections {
        let (tasks, open) = (JoinSet::new(), BTreeMap::new());
        Connections {
            limits,
            door,
            tasks,
            open,
            next: 0,
        }
    }

    pub(super) fn admit<S: Stream>(&mut self, stream: S) {
        if self.open.len() >= self.limits.connections {
            self.close_one();
        }
        let number = self.next;
        self.next += 1;
        let busy = Arc::new(AtomicBool::new(false));
        let serving = serve(stream, self.limits, self.door.clone(), busy.clone());
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

/// TCP's or a Unix socket's.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

async fn serve<S: Stream>(stream: S, limits: Limits, door: Door, busy: Arc<AtomicBool>) {
    let service = service_fn(|request| {
        let (mut door, busy) = (door.clone(), busy.clone());
        async move { Ok::<_, Infallible>(door.answer(request, limits, busy).await) }
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

impl Door {
    async fn answer(
        &mut self,
        request: Request<Incoming>,
        limits: Limits,
        busy: Arc<AtomicBool>,
    ) -> Response<Answer> {
        // It is at work until the answer's body is gone.
        busy.store(true, Ordering::Relaxed);
        if let Some(asked) = Asked::of(&request) {
            return asked.answer(&self.history, busy);
        }
        let order = self.orders.as_ref().zip(Order::of(&request));
        match order {
            Some((events, order)) => {
                let body = request.into_body();
                order
                    .obeyed(body, limits.head, events, &mut self.snapshots, busy)
                    .await
            }
            None if Desk::is_for(request.uri().path()) => {
                self.desk.answer(&request, &self.snapshots, busy).await
            }
            None => {
                let snapshot = self.snapshots.borrow().clone();
                answer(&request, snapshot, Now::read(), busy)
            }
        }
    }
}
