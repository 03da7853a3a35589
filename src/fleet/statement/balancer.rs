//! A snapshot → the balancer's own record.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fleet::Me;
use crate::fleet::record::{Address, Balancer};
use crate::routing::PeerId;
use crate::routing::session::SessionState;
use crate::snapshot::{Condition, Mode, Snapshot, Vip};

pub(super) fn record(me: &Me, config: &str, snapshot: &Snapshot) -> Balancer {
    let addresses = snapshot.vips.iter();
    Balancer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: me.started.clone(),
        config: config.to_owned(),
        mode: match snapshot.mode {
            Mode::Real => "real",
            Mode::MemoryTable => "memory-table",
            Mode::DryRun => "dry-run",
        }
        .to_owned(),
        stopping: snapshot.stopping,
        addresses: addresses.map(|(ip, vip)| (*ip, address(vip))).collect(),
        peers: peers(snapshot),
    }
}

/// Whether the record of the one snapshot may differ from the other's.
pub(super) fn differs(before: &Snapshot, after: &Snapshot) -> bool {
    before.mode != after.mode
        || before.stopping != after.stopping
        || !Arc::ptr_eq(&before.config, &after.config)
        || !Arc::ptr_eq(&before.peers, &after.peers)
        || before.vips.diff(&after.vips).next().is_some()
}

fn address(vip: &Vip) -> Address {
    let condition = match vip.condition {
        Condition::Healthy => "healthy",
        Condition::Degraded => "degraded",
        Condition::Failed => "failed",
    };
    let announced = vip.announce.as_ref().ok();
    Address {
        condition: condition.to_owned(),
        med: announced.map(|announcement| announcement.attributes(None).med),
        refusal: vip
            .announce
            .as_ref()
            .err()
            .map(|refusal| refusal.to_string()),
    }
}

/// Each configured peer: `established` or `down`. The states in between follow each other for as long as a
/// router is away; they are shown by the balancer itself, and would have us write at each try.
fn peers(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let configured = snapshot.config.bgp.iter().flat_map(|bgp| bgp.peers.keys());
    let state = |peer: &PeerId| {
        let session = snapshot.peers.get(peer);
        match session.map(|session| session.state) {
            Some(SessionState::Established) => "established",
            Some(
                SessionState::Idle
                | SessionState::Connect
                | SessionState::Active
                | SessionState::OpenSent
                | SessionState::OpenConfirm,
            )
            | None => "down",
        }
    };
    configured
        .map(|peer| (peer.to_string(), state(peer).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::session::Session;
    use crate::snapshot::Refusal;
    use crate::snapshot::sample::{self, ip};

    #[test]
    fn says_what_is_announced_and_to_whom() {
        let mut snapshot = sample::snapshot([]);
        snapshot.config = sample::bgp(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let session = |state| Session {
            state,
            ..Session::default()
        };
        snapshot.peers = Arc::new(BTreeMap::from([
            (ip("10.0.0.1").into(), session(SessionState::Established)),
            (ip("10.0.0.2").into(), session(SessionState::OpenSent)),
        ]));
        let (address, vip) = sample::vip("192.0.2.2", true, None);
        let mut refused = (*vip).clone();
        refused.announce = Err(Refusal::NothingPooled);
        refused.condition = Condition::Failed;
        snapshot.vips.insert(ip("192.0.2.1"), Arc::new(refused));
        snapshot.vips.insert(address, vip);
        let me = Me {
            hostname: "lvs1".to_owned(),
            started: "now".to_owned(),
        };
        let said = record(&me, "hash", &snapshot);
        let expected = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": "now",
            "config": "hash",
            "mode": "real",
            "stopping": false,
            "addresses": {
                "192.0.2.1": {"condition": "failed", "med": null, "refusal": "a service has nothing pooled"},
                "192.0.2.2": {"condition": "healthy", "med": 10, "refusal": null},
            },
            "peers": {"10.0.0.1": "established", "10.0.0.2": "down", "10.0.0.3": "down"},
        });
        assert_eq!(serde_json::to_value(said).unwrap(), expected);
    }
}
