//! What the way a session fails tells of the configuration of the two ends. A guess, for the operator: nothing
//! is decided by it. Pure.

use std::time::Duration;

use crate::routing::session::Hint;

/// How a session failed, or how it stands still, as far as that is telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// No answer to our SYN, not even a refusal, for as long as an attempt may take.
    ConnectTimedOut,
    /// Reset at our SYN, or closed before the peer's OPEN.
    Refused,
    /// The connection stands, our OPEN has been sent, and the peer's does not come.
    NoOpen,
    /// The peer's OPEN has come, but not the KEEPALIVE that says that it has ours.
    NoKeepalive,
    /// A HoldTimer has expired: ours, with nothing heard since the session was established, or the peer's.
    HoldTimer {
        /// How long after the OPENs.
        up: Duration,
        hold_time: Duration,
    },
    /// One end's OPEN named an AS that the other does not expect.
    BadPeerAs,
}

/// What our own kernel asks of the peer's segments, and drops them unanswered if it is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// A key: MD5 or TCP-AO.
    pub key: bool,
    /// A TTL (RFC 5082).
    pub gtsm: bool,
}

pub(crate) fn hint(symptom: Symptom, ours: Guards) -> Option<Hint> {
    match symptom {
        // Segments with a wrong signature are dropped unanswered (RFC 2385 section 2.0).
        Symptom::ConnectTimedOut if ours.key => Some(Hint::Md5),
        // Of the connection that we open, the SYN-ACK is dropped already.
        Symptom::ConnectTimedOut => ours.gtsm.then_some(Hint::Gtsm),
        Symptom::Refused => Some(Hint::Refused),
        // Of one that the peer opens, the kernel looks at the TTL only once it is accepted.
        Symptom::NoOpen if ours.gtsm => Some(Hint::Gtsm),
        Symptom::NoOpen => Some(Hint::NoOpen),
        // So the OPENs may pass before.
        Symptom::NoKeepalive => Some(Hint::Gtsm),
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
        let (none, key, gtsm) = ((false, false), (true, false), (false, true));
        let same = |hint| [hint; 4];
        let (md5, ttl) = (Some(Hint::Md5), Some(Hint::Gtsm));
        let no_open = Some(Hint::NoOpen);
        for (symptom, hints) in [
            (Symptom::ConnectTimedOut, [None, md5, ttl, md5]),
            (Symptom::Refused, same(Some(Hint::Refused))),
            (Symptom::NoOpen, [no_open, no_open, ttl, ttl]),
            (Symptom::NoKeepalive, same(ttl)),
            (hold_timer(9), same(ttl)),
            (hold_timer(18), same(ttl)),
            (hold_timer(19), same(None)),
            (Symptom::BadPeerAs, same(Some(Hint::PeerAs))),
        ] {
            let ours = [none, key, gtsm, (true, true)];
            let told = ours.map(|(key, gtsm)| hint(symptom, Guards { key, gtsm }));
            assert_eq!(told, hints, "{symptom:?}");
        }
    }
}
