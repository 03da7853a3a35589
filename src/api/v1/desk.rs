//! Request → response. Bodies are made on a thread for blocking work, one at a time and each from the snapshot that
//! is the newest when its turn comes; one that is the same for all who ask is made once. So whoever polls, and however
//! many they are, costs one core at most and delays no check and no timer.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, VARY,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tracing::error;

use crate::api::accept;
use crate::api::body::{Answer, Content};
use crate::api::{Now, json};
use crate::history::History;
use crate::snapshot::Snapshot;

use super::{ENDPOINTS, Holds, Route, View, below, encoding, time};

/// See [`Holds::Second`].
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(in crate::api) struct Desk {
    turn: Arc<Semaphore>,
    history: History,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// By their places in [`ENDPOINTS`].
    bodies: BTreeMap<usize, Made>,
    clock: Option<Now>,
}

/// A body that all who ask get.
struct Made {
    from: Weak<Snapshot>,
    at: Instant,
    body: Arc<Body>,
}

struct Body {
    plain: Bytes,
    /// Made when the first one wants it.
    packed: OnceLock<Bytes>,
    tag: String,
}

/// What a request wants of a body.
#[derive(Clone)]
struct Wish {
    endpoint: usize,
    names: Vec<String>,
    packed: bool,
}

/// Why there is none.
enum Lack {
    /// There is no such thing, and what would be right.
    None(String),
    /// We have a bug: it panicked.
    Broken,
}

impl Desk {
    pub(in crate::api) fn new(history: History) -> Desk {
        Desk {
            history,
            turn: Arc::new(Semaphore::new(1)),
            kept: Arc::default(),
        }
    }
}

impl Desk {
    /// Whether it has the answer to this path.
    pub(in crate::api) fn is_for(path: &str) -> bool {
        below(path).is_some()
    }

    /// The body of the request is not looked at.
    pub(in crate::api) async fn answer<B>(
        &self,
        request: &Request<B>,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
        busy: Arc<AtomicBool>,
    ) -> Response<Answer> {
        let headers = request.headers();
        let refuse = |status, text: &str| refusal(status, text, busy.clone());
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = "Only GET and HEAD are allowed";
            let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, text);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let (endpoint, names) = match Route::of(request.uri().path()) {
            Route::To(endpoint, names) => (endpoint, names),
            Route::Nowhere(text) => return refuse(StatusCode::NOT_FOUND, &text),
        };
        if !accept::takes_json(headers) {
            let text = "All answers are application/json; leave Accept out or name it there";
            return refuse(StatusCode::NOT_ACCEPTABLE, text);
        }
        let packed = encoding::takes_gzip(headers);
        let wish = Wish {
            endpoint,
            names,
            packed,
        };
        match self.body(wish, snapshots).await {
            Ok(body) if encoding::has(headers, &body.tag) => {
                let mut response = with(StatusCode::NOT_MODIFIED, Bytes::new(), busy);
                describe(&mut response, &body);
                response
            }
            Ok(body) => found(&body, packed, busy),
            Err(Lack::None(text)) => refuse(StatusCode::NOT_FOUND, &text),
            Err(Lack::Broken) => {
                let text = "This answer cannot be made; the daemon's log says why";
                refuse(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    }

    async fn body(
        &self,
        wish: Wish,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
    ) -> Result<Arc<Body>, Lack> {
        let now = self.now();
        let newest = snapshots.borrow().clone();
        if let Some(body) = self.known(&wish, &newest, now) {
            return Ok(body);
        }
        // Never closed.
        let turn = self.turn.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Lack::Broken)?;
        // There may be another one by now, and whoever had the turn before may have made this very body of it.
        let (now, newest) = (self.now(), snapshots.borrow().clone());
        if let Some(body) = self.known(&wish, &newest, now) {
            return Ok(body);
        }
        let desk = self.clone();
        // The turn goes along: a client that leaves does not make room for another one's work beside this.
        let made = spawn_blocking(move || desk.made(&wish, &newest, now, turn)).await;
        made.unwrap_or_else(|panic| {
            error!(%panic, "an answer of the API could not be made");
            Err(Lack::Broken)
        })
    }

    fn now(&self) -> Now {
        time::steady(Now::read(), &mut self.kept().clock)
    }

    /// As wished, if it has been made.
    fn known(&self, wish: &Wish, newest: &Arc<Snapshot>, now: Now) -> Option<Arc<Body>> {
        let body = self.kept_body(wish.endpoint, newest, now)?;
        body.is_ready(wish.packed).then_some(body)
    }

    fn kept_body(&self, at: usize, newest: &Arc<Snapshot>, now: Now) -> Option<Arc<Body>> {
        let kept = self.kept();
        let made = kept.bodies.get(&at)?;
        let young = now.monotonic.saturating_duration_since(made.at) < SECOND;
        let holds = match ENDPOINTS[at].holds {
            Holds::Snapshot => true,
            Holds::Second => young,
            Holds::Never => false,
        };
        // Its place in memory is no other's as long as this points there, weakly too.
        let same = std::ptr::eq(made.from.as_ptr(), Arc::as_ptr(newest));
        (holds && same).then(|| made.body.clone())
    }

    fn made(
        &self,
        wish: &Wish,
        newest: &Arc<Snapshot>,
        now: Now,
        _turn: OwnedSemaphorePermit,
    ) -> Result<Arc<Body>, Lack> {
        let endpoint = &ENDPOINTS[wish.endpoint];
        // It may be there and want packing only.
        let kept = self.kept_body(wish.endpoint, newest, now);
        let body = match &kept {
            Some(body) => body.clone(),
            None => {
                let snapshot = newest;
                let view = View {
                    snapshot,
                    now,
                    history: &self.history,
                };
                let plain = (endpoint.body)(&view, &wish.names).map_err(Lack::None)?;
                Arc::new(Body::of(plain))
            }
        };
        if wish.packed {
            body.pack();
        }
        if endpoint.holds != Holds::Never && kept.is_none() {
            let made = Made {
                from: Arc::downgrade(newest),
                at: now.monotonic,
                body: body.clone(),
            };
            self.kept().bodies.insert(wish.endpoint, made);
        }
        Ok(body)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body {
    fn of(plain: String) -> Body {
        Body {
            tag: encoding::tag(plain.as_bytes()),
            plain: plain.into(),
            packed: OnceLock::new(),
        }
    }

    fn pack(&self) {
        if self.plain.len() >= encoding::SMALL {
            self.packed.get_or_init(|| encoding::gzip(&self.plain));
        }
    }

    fn is_ready(&self, packed: bool) -> bool {
        !packed || self.plain.len() < encoding::SMALL || self.packed.get().is_some()
    }
}

fn found(body: &Body, packed: bool, busy: Arc<AtomicBool>) -> Response<Answer> {
    let packed = body.packed.get().filter(|_| packed);
    let bytes = packed.unwrap_or(&body.plain).clone();
    let mut response = with(StatusCode::OK, bytes, busy);
    if packed.is_some() {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    describe(&mut response, body);
    response
}

/// What is said of it to those too who have it.
fn describe(response: &mut Response<Answer>, body: &Body) {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&body.tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    // It may be kept, but not be shown without asking whether it is still so.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

fn refusal(status: StatusCode, text: &str, busy: Arc<AtomicBool>) -> Response<Answer> {
    with(status, json::error(text).into(), busy)
}

fn with(status: StatusCode, body: Bytes, busy: Arc<AtomicBool>) -> Response<Answer> {
    let mut response = Response::new(Answer::new(Content::Text(body), busy));
    *response.status_mut() = status;
    if status != StatusCode::NOT_MODIFIED {
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
    }
    response
}
