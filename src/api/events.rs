//! `/api/v1/events`: what happened lately, as JSON, or as it happens (Server-Sent Events, WHATWG HTML section 9.2).
//!
//! ```text
//!  GET /api/v1/events                            the newest 1,000
//!  GET /api/v1/events?since=ID&service=web       those of web after ID, the oldest first
//!  Accept: text/event-stream                     from now on, or from ?since= or Last-Event-ID
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::time::timeout;
use url::form_urlencoded;

use crate::history::{Filter, History, Id, KEPT, Record, Since};

use super::accept::{Form, Taken};
use super::answer::{error, response, worded};
use super::body::{Answer, Content};
use super::json::json;

const PATH: &str = "/api/v1/events";
/// How many come at once if nothing is said.
const USUAL: usize = 1000;
/// Of a stream, how many are looked at for one frame.
const FRAME: usize = 100;
/// How long a stream is silent before it says that it is there: less than proxies wait, and a client that is gone
/// is found by it.
const SILENCE: Duration = Duration::from_secs(15);
/// Milliseconds until a browser connects again.
const RETRY: u32 = 2000;

/// A request for events.
pub(super) struct Asked {
    taken: Taken,
    query: Result<Query, String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    since: Option<Since>,
    limit: Option<usize>,
    filter: Filter,
}

#[derive(Serialize)]
struct Shown<'a> {
    events: &'a [Arc<Record>],
    /// Some between `since` and the first of these are not kept any more.
    missed: bool,
}

impl Asked {
    /// `None`: it asks for something else, or would change something.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Asked> {
        let looks = matches!(*request.method(), Method::GET | Method::HEAD);
        let path = request.uri().path().trim_end_matches('/');
        (looks && path == PATH).then(|| {
            let mut query = Query::of(request.uri().query().unwrap_or_default());
            // A browser that lost its stream says where it was.
            let last = request.headers().get("last-event-id");
            if let (Ok(query), Some(last)) = (&mut query, last) {
                // What is no id of ours is of someone else: all that is kept may be new to him.
                let last = last.to_str().ok().and_then(|id| id.parse().ok());
                query.since = Some(last.unwrap_or(Since::Beginning));
            }
            Asked {
                taken: Taken::of(request.headers()),
                query,
            }
        })
    }

    pub(super) fn answer(self, history: &History, busy: Arc<AtomicBool>) -> Response<Answer> {
        let failed =
            |status, text: &str, busy| worded(status, Form::Json, error(text, Form::Json), busy);
        let query = match self.query {
            Ok(query) => query,
            Err(text) => return failed(StatusCode::BAD_REQUEST, &text, busy),
        };
        match self.taken {
            Taken::Json => worded(StatusCode::OK, Form::Json, query.list(history), busy),
            Taken::EventStream => {
                let live = Content::Events(Live::new(history.clone(), query));
                let body = Answer::new(live, busy);
                let mut response = response(StatusCode::OK, "text/event-stream", body);
                let never = HeaderValue::from_static("no-store");
                response.headers_mut().insert(CACHE_CONTROL, never);
                response
            }
            Taken::Neither => {
                let text = "Events are to be had as application/json or text/event-stream";
                failed(StatusCode::NOT_ACCEPTABLE, text, busy)
            }
        }
    }
}

impl Query {
    fn of(text: &str) -> Result<Query, String> {
        let mut query = Query::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            let wrong = |right: &dyn std::fmt::Display| format!("{key}={value}: not {right}");
            let given = Some(value.clone().into_owned());
            match &*key {
                "since" => query.since = Some(value.parse().map_err(|right| wrong(&right))?),
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=KEPT).contains(limit));
                    query.limit = Some(limit.ok_or_else(|| wrong(&format!("1 to {KEPT}")))?);
                }
                "service" => query.filter.service = given,
                "host" => query.filter.host = given,
                "vip" => query.filter.vip = given,
                "peer" => query.filter.peer = given,
                _ => {
                    return Err(format!(
                        "{key}: not since, limit, service, host, vip or peer"
                    ));
                }
            }
        }
        Ok(query)
    }

    fn list(&self, history: &History) -> String {
        let limit = self.limit.unwrap_or(USUAL);
        let Some(since) = self.since else {
            return json(&Shown {
                events: &history.last(limit, |record| self.filter.matches(record)),
                missed: false,
            });
        };
        let mut part = history.after(history.place(since), usize::MAX);
        part.records.retain(|record| self.filter.matches(record));
        part.records.truncate(limit);
        json(&Shown {
            events: &part.records,
            missed: part.missed,
        })
    }
}

/// What is still to come of a stream. It holds no records, only the place where it is: a client that does not read
/// costs nothing and is told what it missed.
pub(super) struct Live {
    history: History,
    filter: Filter,
    /// The last record that is dealt with.
    at: Id,
    begun: bool,
    /// For a new record (`true`), or until it has been silent for too long.
    waiting: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl Live {
    fn new(history: History, query: Query) -> Live {
        Live {
            filter: query.filter,
            at: match query.since {
                Some(since) => history.place(since),
                None => history.newest(),
            },
            begun: false,
            waiting: None,
            history,
        }
    }

    /// The next frame; a stream has no end.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if !self.begun {
            self.begun = true;
            // A browser that loses the stream before anything happened knows where it was, too.
            let first = format!("retry: {RETRY}\nid: {}\n\n", self.at);
            return Poll::Ready(Bytes::from(first));
        }
        loop {
            if let Some(waiting) = &mut self.waiting {
                let news = ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
                if !news {
                    return Poll::Ready(Bytes::from_static(b":\n\n"));
                }
            }
            if let Some(frame) = self.news() {
                return Poll::Ready(frame);
            }
            let (mut count, seen) = (self.history.count(), self.at.number);
            self.waiting = Some(Box::pin(async move {
                let news = count.wait_for(|count| *count > seen);
                timeout(SILENCE, news).await.is_ok()
            }));
        }
    }

    /// `None`: nothing has happened since, or nothing that was asked for.
    fn news(&mut self) -> Option<Bytes> {
        loop {
            let part = self.history.after(self.at, FRAME);
            self.at = part.records.last()?.id;
            let mut text = String::new();
            if part.missed {
                text.push_str("event: missed\ndata: {}\n\n");
            }
            for record in part.records.iter().filter(|r| self.filter.matches(r)) {
                text.push_str(&format!("id: {}\ndata: {}\n\n", record.id, json(&**record)));
            }
            if !text.is_empty() {
                return Some(Bytes::from(text));
            }
        }
    }
}
