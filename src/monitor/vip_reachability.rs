//! `vip-reachability`: whether a server takes packets for the VIP. A connection is begun there and, once the server has
//! taken it, reset: nothing behind the server's TCP notices.

use std::sync::Arc;

use tokio::time::timeout_at;

use super::outcome::{Deadline, Outcome, Passed};
use super::vip::{self, Answer, Port, Segment, Vip, Way};
use crate::check::Check;

pub(super) async fn ask(check: &Check, tool: &Arc<Vip>, deadline: Deadline) -> Outcome {
    let outcome = ask_server(check, tool, deadline).await;
    if outcome.is_err() {
        tool.forget(check.target.ip());
    }
    outcome
}

async fn ask_server(check: &Check, tool: &Arc<Vip>, deadline: Deadline) -> Outcome {
    let address = vip::asked(check);
    let mut begun: Option<Begun> = None;
    // A SYN each.
    for third in 1..=3 {
        // A server that did not answer may have another link-layer address by now.
        let fresh = begun.is_some();
        let Way::Over(hop) = tool.way(check.target.ip(), fresh, deadline).await? else {
            // IPVS hands such a server's packets to this host's own TCP, and the VIP is on this host's lo, or an
            // alert says why not.
            return Ok(Passed::default());
        };
        let mut attempt = match begun.take() {
            Some(begun) if begun.port.hop.source == hop.source => begun,
            Some(_) | None => Begun {
                port: tool.port(hop, address)?,
                sequence: fastrand::u32(..),
            },
        };
        attempt.port.hop = hop;
        let syn = attempt.port.flow.syn(attempt.sequence);
        let sent = attempt.port.send(&syn);
        sent.map_err(|error| vip::not_sent(&error))?;
        if let Ok(outcome) = timeout_at(deadline.third(third), attempt.answer()).await {
            return outcome;
        }
        begun = Some(attempt);
    }
    Err(vip::silent(address))
}

/// A connection that is not to be. Its end is a reset, however the check ends: a server whose answer is still to come
/// forgets it then, too.
struct Begun {
    port: Port,
    /// Of the SYN.
    sequence: u32,
}

impl Begun {
    async fn answer(&mut self) -> Outcome {
        loop {
            let packet = self.port.receive().await;
            let Some(segment) = Segment::read(&packet) else {
                continue;
            };
            match segment.answer(self.sequence) {
                Answer::Accepted => return Ok(Passed::default()),
                Answer::Refused => return Err(vip::refused(self.port.flow.vip)),
                // RFC 9293 section 3.10.7.3: what the server still has of an older connection is in our SYN's way.
                Answer::Other => {
                    if let Some(reset) = segment.reset() {
                        let _ = self.port.send(&reset);
                    }
                }
                Answer::Nothing => {}
            }
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let reset = self.port.flow.reset(self.sequence.wrapping_add(1));
        // If it is lost, the server's next SYN+ACK is answered by another.
        let _ = self.port.send(&reset);
    }
}
