//! A peer's session as others see it: on the [`Board`](crate::bgp::report::Board) and in the log. It changes
//! nothing of the session.

use std::time::Duration;

use humantime::format_duration;
use imbl::OrdMap;
use tokio::time::Instant;

use super::{Peer, figures};
use crate::bgp::hint::Guards;
use crate::bgp::notification::Notification;
use crate::config::Ttl;
use crate::routing::session::{Hint, Negotiated, SessionState, Told};
use crate::service::Family;

/// How a session that was established ended.
pub(super) struct End {
    pub(super) up: Duration,
    pub(super) why: String,
}

impl Peer {
    pub(super) fn log_established(&mut self, shown: &Negotiated) {
        let families: Vec<String> = shown.families.iter().map(Family::to_string).collect();
        tracing::info!(
            peer = %self.current.peer.id,
            local = %shown.local,
            remote = %shown.remote,
            hold_time = %format_duration(shown.hold_time),
            families = families.join(" "),
            "BGP session established"
        );
        self.logged = None;
    }

    /// Once, not at each try that fails the same way.
    pub(super) fn log_fault(&mut self, fault: String) {
        if self.logged.as_ref() != Some(&fault) {
            tracing::info!(peer = %self.current.peer.id, fault, "BGP session failed");
            self.logged = Some(fault);
        }
    }

    /// In place of the fault, which is its reason.
    pub(super) fn log_end(&mut self, End { up, why }: End) {
        let up = format_duration(Duration::from_secs(up.as_secs()));
        tracing::info!(peer = %self.current.peer.id, reason = why, %up, "BGP session ended");
        self.logged = Some(why);
    }

    pub(super) fn report(&mut self) {
        figures::timers(&self.shown.figures, &self.peering.timers());
        let state = self.peering.furthest();
        if state != self.shown.state {
            tracing::debug!(peer = %self.current.peer.id, ?state, "BGP session changed");
            let was = self.shown.state == SessionState::Established;
            if was != (state == SessionState::Established) {
                self.shown.since = Some(figures::wall_clock());
            }
        }
        let shunned = self.shunned.as_ref().map(|(_, fault)| fault);
        let fault = shunned.or_else(|| self.peering.fault());
        let shown = &mut self.shown;
        shown.state = state;
        if shown.fault.as_ref() != fault {
            shown.fault = fault.cloned();
        }
        match &self.established {
            Some(established) => {
                shown.routes = established.routes().clone();
                shown.untold = established.untold().clone();
                shown.foreign = established.foreign().clone();
                shown.over_maximum = established.over_maximum().clone();
            }
            None => {
                shown.routes = OrdMap::new();
                shown.untold = OrdMap::new();
                shown.foreign = OrdMap::new();
                shown.over_maximum.clear();
            }
        }
        self.shown.hint = self.hint();
        self.board.peer(&self.current.peer.id, &self.shown);
    }

    fn hint(&self) -> Option<Hint> {
        let ours = Guards {
            key: self.current.peer.authentication.is_some(),
            gtsm: matches!(self.current.peer.ttl, Ttl::Security(_)),
        };
        match &self.established {
            Some(established) => established
                .misses_a_family()
                .then_some(Hint::FamilyNotActivated),
            None => self.peering.hint(ours, Instant::now()),
        }
    }
}

pub(super) fn said(notification: &Notification) -> Told {
    Told {
        at: figures::wall_clock(),
        code: notification.code,
        subcode: notification.subcode,
        text: notification.to_string(),
    }
}
