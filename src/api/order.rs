//! An operator's order: a request on the control socket → an event → the snapshot that shows what came of it.

mod overrule;
mod peer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::event::Event;
use crate::snapshot::Snapshot;

use super::accept::Form;
use super::answer::{error, worded};
use super::body::Answer;
use super::resource::{Resource, Verb};

/// What a shutdown communication may have (RFC 9003 section 2).
const LONGEST_TEXT: usize = 255;
/// What is read of an order's body, so that the answer can say how long it is.
const LARGEST_BODY: usize = 4096;
/// How long the answer waits for what was ordered. A router that hangs takes longer to be told of its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where overrides are ordered.
const OVERRIDES: &str = "/api/v1/overrides";

pub(super) struct Order {
    form: Form,
    what: What,
}

enum What {
    Peer {
        peer: String,
        verb: Verb,
    },
    Overrule,
    /// With the query that says whose.
    EndOverride(String),
}

/// Why it is not even given: the answer's status, and in words.
type Refused = (StatusCode, String);

/// What came of it.
struct Given {
    status: StatusCode,
    text: String,
    json: String,
}

impl Order {
    /// `None`: the request is no order.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Order> {
        let form = Form::wanted(request.headers());
        let uri = request.uri();
        let resource = Resource::of(uri.path());
        let overrides = uri.path().trim_end_matches('/') == OVERRIDES;
        let what = match (request.method(), resource) {
            (&Method::POST, Resource::Order { peer, verb }) => What::Peer { peer, verb },
            (&Method::POST, _) if overrides => What::Overrule,
            (&Method::DELETE, _) if overrides => {
                What::EndOverride(uri.query().unwrap_or_default().to_owned())
            }
            _ => return None,
        };
        Some(Order { form, what })
    }

    /// Gives the order and waits until it is obeyed, but not for long. `slowest`: how long the body may take.
    pub(super) async fn obeyed(
        self,
        body: Incoming,
        slowest: Duration,
        events: &mpsc::Sender<Event>,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        busy: Arc<AtomicBool>,
    ) -> Response<Answer> {
        let text = timeout(slowest, text(body)).await.unwrap_or_else(|_| {
            let text = "The order's text did not come in time".to_owned();
            Err((StatusCode::REQUEST_TIMEOUT, text))
        });
        let core = Core { events, snapshots };
        let given = match (text, &self.what) {
            (Ok(text), What::Peer { peer, verb }) => peer::give(peer, *verb, text, core).await,
            (Ok(text), What::Overrule) => overrule::give(text.as_deref(), core).await,
            (Ok(_), What::EndOverride(query)) => overrule::end(query, core).await,
            (Err(refused), _) => Err(refused),
        };
        match given {
            Ok(given) => {
                let text = match self.form {
                    Form::Text => format!("{}\n", given.text),
                    Form::Json => given.json,
                };
                worded(given.status, self.form, text, busy)
            }
            Err((status, text)) => worded(status, self.form, error(&text, self.form), busy),
        }
    }
}

/// Who carries orders out.
struct Core<'a> {
    events: &'a mpsc::Sender<Event>,
    snapshots: &'a mut watch::Receiver<Arc<Snapshot>>,
}

impl Core<'_> {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Whether it was obeyed within [`PATIENCE`].
    async fn carry_out(
        &mut self,
        event: Event,
        mut obeyed: impl FnMut(&Snapshot) -> bool,
    ) -> Result<bool, Refused> {
        let waiting = async {
            // The core ends only with the daemon.
            self.events.send(event).await.map_err(drop)?;
            let obeyed = |snapshot: &Arc<Snapshot>| obeyed(snapshot);
            self.snapshots
                .wait_for(obeyed)
                .await
                .map(drop)
                .map_err(drop)
        };
        match timeout(PATIENCE, waiting).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(())) => {
                let text = "The daemon is ending".to_owned();
                Err((StatusCode::SERVICE_UNAVAILABLE, text))
            }
            Err(_) => Ok(false),
        }
    }
}

/// `None`: there is none.
async fn text(body: Incoming) -> Result<Option<Arc<str>>, Refused> {
    let body = Limited::new(body, LARGEST_BODY).collect().await;
    let bytes: Bytes = match body {
        Ok(body) => body.to_bytes(),
        Err(fault) if fault.is::<http_body_util::LengthLimitError>() => {
            let text = format!("The order's text has more than {LARGEST_BODY} bytes");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Err(fault) => {
            let text = format!("The order's text cannot be read: {fault}");
            return Err((StatusCode::BAD_REQUEST, text));
        }
    };
    let Ok(text) = std::str::from_utf8(&bytes) else {
        let text = "The text is not UTF-8".to_owned();
        return Err((StatusCode::BAD_REQUEST, text));
    };
    // An editor or echo leaves a line feed at the end.
    let text = text.trim_end_matches(['\r', '\n']);
    Ok((!text.is_empty()).then(|| text.into()))
}
