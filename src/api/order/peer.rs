//! Orders about a peer's session.

use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;

use crate::api::bgp::Known;
use crate::api::resource::Verb;
use crate::event::{Event, PeerOrder};
use crate::routing::PeerId;
use crate::routing::session::{Session, SessionState};
use crate::snapshot::{PeerOrders, Snapshot};

use super::{Core, Given, LONGEST_TEXT, PATIENCE, Refused};

/// `text`: what the peer is told with it (RFC 9003).
pub(super) async fn give(
    peer: &str,
    verb: Verb,
    text: Option<Arc<str>>,
    mut core: Core<'_>,
) -> Result<Given, Refused> {
    if let Some(text) = text.as_ref().filter(|text| text.len() > LONGEST_TEXT) {
        let (length, most) = (text.len(), LONGEST_TEXT);
        let text = format!("The text has {length} bytes; at most {most} can be told (RFC 9003)");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let order = match verb {
        Verb::Disable => PeerOrder::Disable(text),
        Verb::Clear => PeerOrder::Clear(text),
        Verb::Enable if text.is_none() => PeerOrder::Enable,
        Verb::Enable => {
            let text = "A peer that is enabled is told no text; leave it out".to_owned();
            return Err((StatusCode::BAD_REQUEST, text));
        }
    };
    let snapshot = core.snapshot();
    let known = Known::find(&snapshot, peer);
    let known = known.map_err(|text| (StatusCode::NOT_FOUND, text))?;
    let before = Before::of(&known);
    let peer = known.id.clone();
    let event = Event::PeerOrder {
        peer: peer.clone(),
        order,
    };
    let obeyed = |snapshot: &Snapshot| before.obeyed(verb, &peer, snapshot);
    let done = core.carry_out(event, obeyed).await?;
    let outcome = Outcome::of(peer, verb, done, &core.snapshot());
    Ok(Given {
        status: outcome.status(),
        text: outcome.text.clone(),
        json: crate::api::json::json(&outcome),
    })
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
