//! What the way a session fails tells of the configuration of the two ends. A guess, for the operator: nothing
//! is decided by it. Pure.

use std::time::Duration;

use crate::routing::session::Hint;

/// How a session failed, as far as that is telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// No answer to our SYN, not even a refusal, for as long as an attempt may take.
    ConnectTimedOut,
    /// Reset at our SYN, or closed before the peer's OPEN.
    Refused,
    /// A HoldTimer has expired: ours, with nothing heard since the session was established, or the peer's.
    HoldTimer {
        /// How long after the OPENs.
        up: Duration,
        hold_time: Duration,
    },
    /// One end's OPEN named an AS that the other does not expect.
    BadPeerAs,
}

/// `authenticated`: a key is configured for the peer (MD5 or TCP-AO).
pub(crate) fn hint(symptom: Symptom, authenticated: bool) -> Option<Hint> {
    match symptom {
        // Segments with a wrong signature are dropped unanswered (RFC 2385 section 2.0).
        Symptom::ConnectTimedOut => authenticated.then_some(Hint::Md5),
        Symptom::Refused => Some(Hint::Refused),
        // The kernel looks at the TTL only once the connection is accepted, so the OPENs may pass before.
        Symptom::HoldTimer { up, hold_time } => (up <= hold_time * 2).then_some(Hint::Gtsm),
        Symptom::BadPeerAs => Some(Hint::PeerAs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_symptoms_tell() {
        let hold_timer = |seconds| Symptom::HoldTimer {
            up: Duration::from_secs(seconds),
            hold_time: Duration::from_secs(9),
        };
        for (symptom, hints) in [
            (Symptom::ConnectTimedOut, [None, Some(Hint::Md5)]),
            (Symptom::Refused, [Some(Hint::Refused); 2]),
            (hold_timer(9), [Some(Hint::Gtsm); 2]),
            (hold_timer(18), [Some(Hint::Gtsm); 2]),
            (hold_timer(19), [None; 2]),
            (Symptom::BadPeerAs, [Some(Hint::PeerAs); 2]),
        ] {
            assert_eq!([false, true].map(|key| hint(symptom, key)), hints);
        }
    }
}
