//! All peers, a line each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::Serialize;

use crate::api::Now;
use crate::api::accept::Form;
use crate::api::json::json;
use crate::routing::PeerId;
use crate::routing::session::{Session, SessionState};
use crate::snapshot::Snapshot;
use crate::table::Table;

use super::{Known, words};

pub(super) fn overview(snapshot: &Snapshot, form: Form, now: Now) -> String {
    let lines =
        Known::all(snapshot).map(|known| (known.id, Line::of(&known, snapshot, now.calendar)));
    let lines: BTreeMap<&PeerId, Line> = lines.collect();
    match form {
        Form::Json => json(&Overview {
            local_as: snapshot.config.bgp.as_ref().map(|bgp| bgp.local_as),
            router_id: snapshot.config.bgp.as_ref().map(|bgp| bgp.router_id),
            peers: lines,
        }),
        Form::Text => text(snapshot, &lines),
    }
}

#[derive(Serialize)]
struct Overview<'a> {
    /// `None`: no BGP is configured.
    local_as: Option<u32>,
    router_id: Option<Ipv4Addr>,
    peers: BTreeMap<&'a PeerId, Line>,
}

#[derive(Serialize)]
struct Line {
    peer_as: u32,
    state: SessionState,
    disabled: bool,
    since: Option<String>,
    seconds: Option<u64>,
    told: usize,
    wanted: usize,
    heard: u64,
    last_error: Option<String>,
}

impl Line {
    fn of(known: &Known<'_>, snapshot: &Snapshot, now: SystemTime) -> Line {
        let (told, wanted) = known.told(snapshot);
        let session = known.session;
        let since = session.and_then(|session| session.since);
        Line {
            peer_as: known.peer.peer_as,
            state: session.map_or(SessionState::Idle, |session| session.state),
            disabled: known.disabled(),
            since: since.map(words::time),
            seconds: since.map(|at| words::since(at, now).as_secs()),
            told,
            wanted,
            heard: session.map_or(0, heard),
            last_error: last_error(known),
        }
    }
}

pub(in crate::api) fn heard(session: &Session) -> u64 {
    let prefixes = session.figures.prefixes.iter();
    prefixes.map(|count| count.load(Ordering::Relaxed)).sum()
}

/// What keeps it from being as it should.
pub(in crate::api) fn last_error(known: &Known<'_>) -> Option<String> {
    if known.disabled() {
        let said = known.orders.filter(|orders| orders.enabled.is_some());
        let text = said.and_then(|orders| orders.text.as_ref());
        return Some(match (said, text) {
            (None, _) => "enabled = false in the configuration".to_owned(),
            (Some(_), None) => "disabled by an operator".to_owned(),
            (Some(_), Some(text)) => format!("disabled by an operator: {text}"),
        });
    }
    let session = known.session?;
    let over = (!session.over_maximum.is_empty()).then(|| {
        let families = words::list(&session.over_maximum, ", ");
        let most = known.peer.maximum_prefixes;
        format!("it announces more than {most} prefixes of {families}")
    });
    session.fault.clone().or(over)
}

fn text(snapshot: &Snapshot, lines: &BTreeMap<&PeerId, Line>) -> String {
    let Some(bgp) = &snapshot.config.bgp else {
        return "no BGP is configured, nothing is announced\n".to_owned();
    };
    let up = lines
        .values()
        .filter(|line| line.state == SessionState::Established);
    let (peers, up) = (lines.len(), up.count());
    let mut table = Table::new([
        "PEER",
        "AS",
        "STATE",
        "SINCE",
        "TOLD",
        "HEARD",
        "LAST ERROR",
    ]);
    for (id, line) in lines {
        let disabled = if line.disabled { " (disabled)" } else { "" };
        table.row([
            &id.to_string(),
            &line.peer_as.to_string(),
            &format!("{:?}{disabled}", line.state),
            &words::or_dash(line.seconds.map(words::ago)),
            &format!("{}/{}", line.told, line.wanted),
            &line.heard.to_string(),
            line.last_error.as_deref().unwrap_or_default(),
        ]);
    }
    format!(
        "AS {}, router ID {}: {up} of {peers} sessions established\n\n{}",
        bgp.local_as,
        bgp.router_id,
        table.text()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::snapshot::sample;

    use super::*;

    #[test]
    fn a_line_a_peer() {
        let mut snapshot = sample::snapshot([]);
        let now = Now {
            monotonic: sample::now(),
            calendar: sample::at(11_520),
        };
        let none = "no BGP is configured, nothing is announced\n";
        assert_eq!(overview(&snapshot, Form::Text, now), none);
        sample::sessions(&mut snapshot);
        assert_eq!(
            overview(&snapshot, Form::Text, now),
            "\
AS 64600, router ID 10.0.0.99: 1 of 4 sessions established

PEER          AS     STATE            SINCE       TOLD  HEARD  LAST ERROR
10.0.0.1      14907  Established      3h 12m ago  2/3   7      it announces more than 5 prefixes of IPv4
2001:db8::1   14907  Active           3h 12m ago  0/2   0      connect: connection refused
fe80::1%eth1  64600  Idle (disabled)  -           0/2   0      disabled by an operator: new line card
eth2          14907  Idle             -           0/2   0
"
        );
        let answer: Value = serde_json::from_str(&overview(&snapshot, Form::Json, now)).unwrap();
        assert_eq!(answer["local_as"], 64600);
        assert_eq!(
            answer["peers"]["10.0.0.1"],
            json!({
                "peer_as": 14907, "state": "Established", "disabled": false,
                "since": "2026-01-02T03:04:05Z", "seconds": 11_520, "told": 2, "wanted": 3, "heard": 7,
                "last_error": "it announces more than 5 prefixes of IPv4",
            })
        );
        assert_eq!(answer["peers"]["eth2"]["since"], Value::Null);
    }
}
