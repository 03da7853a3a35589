//! The families of BGP: a sample for each configured peer and no more, whatever routers send.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::MetricType::{Counter, Gauge};

use crate::api::bgp::{Known, MESSAGES};
use crate::routing::session::{Figures, Session, SessionState, Told};
use crate::service;
use crate::snapshot::Snapshot;

use super::Samples::Whole;
use super::{Family, Writer};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "bgp_enabled",
        help: "Whether BGP is configured.",
        kind: Gauge,
        samples: Whole(|s, w| w.gauge(&[], i64::from(s.config.bgp.is_some()))),
    },
    Family {
        name: "bgp_session_established",
        help: "Whether the session with the peer is established.",
        kind: Gauge,
        samples: Whole(sessions),
    },
    Family {
        name: "bgp_peer_disabled",
        help: "Whether the peer's session is kept down, by the configuration or an operator.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            let mut peers = Known::all(snapshot);
            peers.try_for_each(|known| {
                let labels = [("peer", &*known.id.to_string())];
                w.gauge(&labels, i64::from(known.disabled()))
            })
        }),
    },
    Family {
        name: "bgp_session_since_timestamp_seconds",
        help: "Since when the session is established; absent while it is not.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            each(snapshot, |peer, session| {
                let up = session.state == SessionState::Established;
                match session.since.filter(|_| up) {
                    Some(since) => w.gauge(&[("peer", peer)], seconds(since)),
                    None => Ok(()),
                }
            })
        }),
    },
    Family {
        name: "bgp_hold_time_seconds",
        help: "The hold time that was agreed on; absent while the session is not established.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            each(snapshot, |peer, session| match &session.negotiated {
                Some(agreed) => w.gauge(&[("peer", peer)], agreed.hold_time.as_secs()),
                None => Ok(()),
            })
        }),
    },
    Family {
        name: "bgp_clears",
        help: "Times an operator had the session cleared.",
        kind: Counter,
        samples: Whole(|snapshot, w| {
            Known::all(snapshot).try_for_each(|known| {
                let clears = known.orders.map_or(0, |orders| orders.clears);
                w.counter(&[("peer", &known.id.to_string())], clears)
            })
        }),
    },
    Family {
        name: "bgp_sessions_established",
        help: "Times the session was established.",
        kind: Counter,
        samples: Whole(|s, w| counter(s, w, |figures| &figures.times_established)),
    },
    Family {
        name: "bgp_sessions_lost",
        help: "Times an established session ended.",
        kind: Counter,
        samples: Whole(|s, w| counter(s, w, |figures| &figures.times_lost)),
    },
    Family {
        name: "bgp_messages_sent",
        help: "Messages sent to the peer, by type.",
        kind: Counter,
        samples: Whole(|s, w| messages(s, w, |figures| &figures.sent)),
    },
    Family {
        name: "bgp_messages_received",
        help: "Messages received from the peer, by type.",
        kind: Counter,
        samples: Whole(|s, w| messages(s, w, |figures| &figures.received)),
    },
    Family {
        name: "bgp_malformed_updates",
        help: "UPDATEs of the peer that were taken as withdrawals or lost attributes (RFC 7606).",
        kind: Counter,
        samples: Whole(|s, w| counter(s, w, |figures| &figures.malformed)),
    },
    Family {
        name: "bgp_prefixes_heard",
        help: "Prefixes that the peer announces now, counted up to maximum-prefixes.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            by_family(snapshot, w, |session, family| {
                let [ipv4, ipv6] = &session.figures.prefixes;
                match family {
                    service::Family::Ipv4 => read(ipv4),
                    service::Family::Ipv6 => read(ipv6),
                }
            })
        }),
    },
    Family {
        name: "bgp_maximum_prefixes",
        help: "How many prefixes of a family the peer may announce.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            Known::all(snapshot).try_for_each(|known| {
                let maximum = u64::from(known.peer.maximum_prefixes);
                w.gauge(&[("peer", &known.id.to_string())], maximum)
            })
        }),
    },
    Family {
        name: "bgp_over_maximum",
        help: "Whether the peer announces more than maximum-prefixes.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            by_family(snapshot, w, |session, family| {
                u64::from(session.over_maximum.contains(&family))
            })
        }),
    },
    Family {
        name: "bgp_routes_told",
        help: "Prefixes of our addresses that the peer has been told of.",
        kind: Gauge,
        samples: Whole(|snapshot, w| {
            by_family(snapshot, w, |session, family| {
                let prefixes = session.routes.keys();
                let of = prefixes.filter(|prefix| service::Family::of_prefix(prefix) == family);
                of.count() as u64
            })
        }),
    },
    Family {
        name: "bgp_last_notification_code",
        help: "The error code of the last NOTIFICATION sent to the peer, or received; absent before the first.",
        kind: Gauge,
        samples: Whole(|s, w| notifications(s, w, |told| told.code.into())),
    },
    Family {
        name: "bgp_last_notification_subcode",
        help: "Its error subcode.",
        kind: Gauge,
        samples: Whole(|s, w| notifications(s, w, |told| told.subcode.into())),
    },
    Family {
        name: "bgp_last_notification_timestamp_seconds",
        help: "When it was sent or received.",
        kind: Gauge,
        samples: Whole(|s, w| notifications(s, w, |told| seconds(told.at))),
    },
];

fn sessions(snapshot: &Snapshot, w: &mut Writer<'_>) -> fmt::Result {
    let Some(bgp) = &snapshot.config.bgp else {
        return Ok(());
    };
    let local = bgp.local_as.to_string();
    bgp.peers.keys().try_for_each(|peer| {
        let state = snapshot.peers.get(peer).map(|session| session.state);
        let labels = [("local_asn", local.as_str()), ("peer", &peer.to_string())];
        w.gauge(&labels, i64::from(state == Some(SessionState::Established)))
    })
}

fn each(snapshot: &Snapshot, mut write: impl FnMut(&str, &Session) -> fmt::Result) -> fmt::Result {
    let mut sessions = Known::all(snapshot).filter_map(|k| Some((k.id, k.session?)));
    sessions.try_for_each(|(peer, session)| write(&peer.to_string(), session))
}

fn counter(
    snapshot: &Snapshot,
    w: &mut Writer<'_>,
    which: fn(&Figures) -> &AtomicU64,
) -> fmt::Result {
    each(snapshot, |peer, session| {
        w.counter(&[("peer", peer)], read(which(&session.figures)))
    })
}

fn messages(
    snapshot: &Snapshot,
    w: &mut Writer<'_>,
    which: fn(&Figures) -> &[AtomicU64; MESSAGES.len()],
) -> fmt::Result {
    each(snapshot, |peer, session| {
        let mut counts = MESSAGES.iter().zip(which(&session.figures));
        counts
            .try_for_each(|(kind, count)| w.counter(&[("peer", peer), ("type", kind)], read(count)))
    })
}

fn by_family(
    snapshot: &Snapshot,
    w: &mut Writer<'_>,
    value: fn(&Session, service::Family) -> u64,
) -> fmt::Result {
    each(snapshot, |peer, session| {
        let families = [
            ("ipv4", service::Family::Ipv4),
            ("ipv6", service::Family::Ipv6),
        ];
        families.into_iter().try_for_each(|(name, family)| {
            let labels = [("peer", peer), ("family", name)];
            w.gauge(&labels, value(session, family))
        })
    })
}

fn notifications(snapshot: &Snapshot, w: &mut Writer<'_>, value: fn(&Told) -> u64) -> fmt::Result {
    each(snapshot, |peer, session| {
        let both: [(&str, &Option<Arc<Told>>); 2] = [
            ("sent", &session.told_last),
            ("received", &session.heard_last),
        ];
        both.into_iter()
            .try_for_each(|(direction, told)| match told {
                Some(told) => {
                    let labels = [("peer", peer), ("direction", direction)];
                    w.gauge(&labels, value(told))
                }
                None => Ok(()),
            })
    })
}

fn read(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
