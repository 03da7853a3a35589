//! An operator's order: a POST on the control socket → an event → the snapshot that shows what came of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::event::{Event, PeerOrder};
use crate::routing::PeerId;
use crate::routing::session::{Session, SessionState};
use crate::snapshot::{PeerOrders, Snapshot};

use super::accept::Form;
use super::answer::{error, worded};
use super::bgp::Known;
use super::body::Answer;
use super::json::json;
use super::resource::{Resource, Verb};

/// What a shutdown communication may have (RFC 9003 section 2).
const LONGEST_TEXT: usize = 255;
/// What is read of one, so that the answer can say how long it is.
const LARGEST_BODY: usize = 4096;
/// How long the answer waits for what was ordered. A router that hangs takes longer to be told of its end.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Order {
    form: Form,
    peer: String,
    verb: Verb,
}

/// Why it is not even given: the answer's status, and in words.
type Refused = (StatusCode, String);

impl Order {
    /// `None`: the request is no order.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Order> {
        let form = Form::wanted(request.headers());
        let resource = Resource::of(request.uri().path());
        if let Resource::Order { peer, verb } = resource
            && request.method() == Method::POST
        {
            return Some(Order { form, peer, verb });
        }
        None
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
        let outcome = match text {
            Ok(text) => self.give(text, events, snapshots).await,
            Err(refused) => Err(refused),
        };
        match outcome {
            Ok(outcome) => {
                let text = match self.form {
                    Form::Text => format!("{}\n", outcome.text),
                    Form::Json => json(&outcome),
                };
                worded(outcome.status(), self.form, text, busy)
            }
            Err((status, text)) => worded(status, self.form, error(&text, self.form), busy),
        }
    }

    async fn give(
        &self,
        text: Option<Arc<str>>,
        events: &mpsc::Sender<Event>,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    ) -> Result<Outcome, Refused> {
        let order = match self.verb {
            Verb::Disable => PeerOrder::Disable(text),
            Verb::Clear => PeerOrder::Clear(text),
            Verb::Enable if text.is_none() => PeerOrder::Enable,
            Verb::Enable => {
                let text = "A peer that is enabled is told no text; leave it out".to_owned();
                return Err((StatusCode::BAD_REQUEST, text));
            }
        };
        let snapshot = snapshots.borrow().clone();
        let known = Known::find(&snapshot, &self.peer);
        let known = known.map_err(|text| (StatusCode::NOT_FOUND, text))?;
        let before = Before::of(&known);
        let peer = known.id.clone();
        let event = Event::PeerOrder {
            peer: peer.clone(),
            order,
        };
        let obeyed = |snapshot: &Arc<Snapshot>| before.obeyed(self.verb, &peer, snapshot);
        let waiting = async {
            // The core ends only with the daemon.
            events.send(event).await.map_err(drop)?;
            snapshots.wait_for(obeyed).await.map(drop).map_err(drop)
        };
        let done = match timeout(PATIENCE, waiting).await {
            Ok(Ok(())) => true,
            Ok(Err(())) => {
                let text = "The daemon is ending".to_owned();
                return Err((StatusCode::SERVICE_UNAVAILABLE, text));
            }
            Err(_) => false,
        };
        let snapshot = snapshots.borrow().clone();
        Ok(Outcome::of(peer, self.verb, done, &snapshot))
    }
}

/// `None`: there is none.
async fn text(body: Incoming) -> Result<Option<Arc<str>>, Refused> {
    let too_long = |length: &str| {
        format!("The text has {length} bytes; at most {LONGEST_TEXT} can be told (RFC 9003)")
    };
    let body = Limited::new(body, LARGEST_BODY).collect().await;
    let bytes: Bytes = match body {
        Ok(body) => body.to_bytes(),
        Err(fault) if fault.is::<http_body_util::LengthLimitError>() => {
            let text = too_long(&format!("more than {LARGEST_BODY}"));
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
    if text.len() > LONGEST_TEXT {
        let text = too_long(&text.len().to_string());
        return Err((StatusCode::BAD_REQUEST, text));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

/// How things were when the order was given.
struct Before {
    clears: u64,
    session: Option<Session>,
}

impl Before {
    fn of(known: &Known<'_>) -> Before {
        Before {
            clears: known.orders.map_or(0, |orders| orders.clears),
            session: known.session.cloned(),
        }
    }

    fn obeyed(&self, verb: Verb, peer: &PeerId, snapshot: &Snapshot) -> bool {
        let said = snapshot.peer_orders.get(peer);
        let session = snapshot.peers.get(peer);
        let enabled = said.and_then(|said: &PeerOrders| said.enabled);
        match verb {
            Verb::Disable => {
                enabled == Some(false)
                    && session.is_none_or(|session| session.state == SessionState::Idle)
            }
            Verb::Enable => enabled == Some(true),
            Verb::Clear => {
                said.is_some_and(|said| said.clears > self.clears) && self.ended(session)
            }
        }
    }

    /// Whether a session that was there then is there no longer; a newer one may be.
    fn ended(&self, now: Option<&Session>) -> bool {
        let was = self.session.as_ref();
        let was = was.filter(|was| was.state == SessionState::Established);
        was.is_none_or(|was| now.is_none_or(|now| now.state != was.state || now.since != was.since))
    }
}

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    peer: PeerId,
    /// `false`: it was given, and has not been carried out yet.
    done: bool,
    state: SessionState,
    text: String,
}

impl Outcome {
    fn of(peer: PeerId, verb: Verb, done: bool, snapshot: &Snapshot) -> Outcome {
        let state = snapshot.peers.get(&peer);
        let state = state.map_or(SessionState::Idle, |session| session.state);
        let disabled = Known::find(snapshot, &peer.to_string()).is_ok_and(|known| known.disabled());
        let what = match verb {
            Verb::Disable => "disabled",
            Verb::Enable => "enabled",
            Verb::Clear if disabled => "cleared, but it stays disabled",
            Verb::Clear => "cleared",
        };
        let text = if done {
            format!("{peer}: {what}; the session is {state:?}")
        } else {
            let seconds = PATIENCE.as_secs();
            format!("{peer}: to be {what}, not done after {seconds} s; the session is {state:?}")
        };
        Outcome {
            peer,
            done,
            state,
            text,
        }
    }

    fn status(&self) -> StatusCode {
        if self.done {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        }
    }
}
